"""What the server says of itself, and submission."""

from __future__ import annotations

import json
import logging

import pytest

from hqueue import __version__, errors
from hqueue.states import PUBLISHED_NAMES
from tests.rpc.conftest import Api


def test_version_is_ours_or_what_the_ini_says(sqlite_store, clock, tmp_path):
    assert Api(sqlite_store, clock, tmp_path, {}).getVersion() == __version__
    assert Api(sqlite_store, clock, tmp_path, {"reported_version": "20.5.332"}).getVersion() == "20.5.332"


@pytest.mark.parametrize("method", sorted(PUBLISHED_NAMES))
def test_each_name_list_is_the_published_one(api, method):
    assert api.call(method) == list(PUBLISHED_NAMES[method])


def test_config_knows_both_spellings_and_hides_secrets(sqlite_store, clock, tmp_path):
    api = Api(sqlite_store, clock, tmp_path, {"smtp_password": "geheim", "port": "5055"})
    assert api.getConfig("port") == api.getConfig("hqserver.port") == "5055"
    assert api.getConfig("smtp_password") == "***"
    assert api.getConfig("no such key") is None
    with pytest.raises(errors.InvalidArgumentError, match="key is 3"):
        api.getConfig(3)


@pytest.mark.parametrize(
    ("host", "path", "root"),
    [
        ("filer", "hq", r"\\filer\hq"),
        ("filer", "/projekte/hq/", r"\\filer\projekte\hq"),
        (r"\\filer", r"\hq", r"\\filer\hq"),
        ("filer", "", "H:/"),
        ("", "hq", "H:/"),
    ],
)
def test_windows_clients_see_the_share(sqlite_store, clock, tmp_path, host, path, root):
    api = Api(sqlite_store, clock, tmp_path, {"sharedNetwork.host": host, "sharedNetwork.path.windows": path})
    assert api.getHQRoot("windows") == root
    assert api.getHQRoot("windows", 1) == root
    assert api.getHQRoot("windows", 0) == "H:/"


def test_network_folders_by_platform(api):
    folder = {"name": "HQROOT", "linux": "/mnt/hq", "windows": "H:/", "macosx": "/Volumes/HQShared", "main": True}
    assert api.getNetworkFolders() == [folder]
    assert api.getEnvRoot("HQROOT", "macosx") == "/Volumes/HQShared"
    assert api.getEnvRoot("HQROOT", "amiga") is None
    assert api.getEnvRoot("HQROOT", None) is None
    assert api.getEnvRoot("TEXTUREN", "linux") is None


def test_newjob_takes_dicts_and_json_mixed(api):
    one = {"name": "Eins-ä", "command": "a"}
    assert api.newjob(one) == [1]
    assert api.newjob(json.dumps(one)) == [2]
    assert api.newjob([one, json.dumps(one)]) == [3, 4]
    assert api.newjob([]) == []
    assert [job["name"] for job in api.getJobs([1, 2, 3, 4], ["name"])] == ["Eins-ä"] * 4


def test_given_specs_come_before_what_is_nested_in_them(api):
    given = [{"name": "a", "children": [{"name": "a1", "children": [{"name": "a11"}]}, {"name": "a2"}]}, {"name": "b"}]
    ids = api.newjob(given)
    assert [job["name"] for job in api.getJobs(ids, ["name"])] == ["a", "b", "a1", "a11", "a2"]


@pytest.mark.parametrize("none", [None, "", 0])
def test_no_parent_can_be_said_in_several_ways(api, none):
    assert api.getJob(api.newjob({"name": "x"}, none)[0], ["parents"]) == {"parents": []}


@pytest.mark.parametrize("none", [None, "", []])
def test_no_children_can_be_said_in_several_ways(api, none):
    assert api.getJob(api.newjob({"name": "x"}, None, none)[0], ["children"]) == {"children": []}


def test_parent_and_children_may_be_texts_of_digits(api):
    parent, child = api.newjob([{"name": "p", "command": "x"}, {"name": "c", "command": "x"}])
    ids = api.newjob([{"name": "n1", "command": "x"}, {"name": "n2", "command": "x"}], str(parent), str(child))
    assert api.getJob(parent, ["children"]) == {"children": ids}
    assert [job["children"] for job in api.getJobs(ids, ["children"])] == [[child], [child]]
    assert api.getJob(child, ["parents", "status"]) == {"parents": ids, "status": "runnable"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((3,), errors.InvalidSpecError, "3"),
        (({"name": "x", "cpus": "many"},), errors.InvalidSpecError, "cpus.*many"),
        (({"name": "x", "children": [{"name": "y"}, 7]},), errors.InvalidSpecError, r"children\[1\]"),
        (({"command": "x"},), errors.InvalidSpecError, "name"),
        (("{",), errors.InvalidSpecError, "JSON"),
        (({"name": "a\x00b"},), errors.InvalidSpecError, "name"),
        (({"name": "a\ud800b"},), errors.InvalidSpecError, "name"),
        (({"name": "x"}, 99), errors.UnknownJobError, "parent_id.*99"),
        (({"name": "x"}, 10**30), errors.UnknownJobError, "parent_id is 1000"),
        (({"name": "x"}, -1), errors.UnknownJobError, "parent_id is -1"),
        (({"name": "x"}, "drei"), errors.InvalidArgumentError, "parent_id is 'drei'"),
        (({"name": "x"}, None, [99]), errors.UnknownJobError, "child_ids.*99"),
        (({"name": "x"}, None, {}), errors.InvalidArgumentError, "child_ids"),
        (({"name": "x", "parentIds": [1], "childrenIds": [1]},), errors.CyclicGraphError, "ancestor"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_stored(api, arguments, error, words):
    kept = api.newjob({"name": "da"})
    with pytest.raises(error, match=words):
        api.newjob(*arguments)
    assert api.getFinishedRootJobIds() == kept
    assert api.getUnfinishedRootJobIds() == []


def test_depth_is_limited_by_the_configuration(sqlite_store, clock, tmp_path):
    api = Api(sqlite_store, clock, tmp_path, {"max_spec_depth": "3"})
    spec = {"name": "unten"}
    for _ in range(2):
        spec = {"name": "x", "children": [spec]}
    assert len(api.newjob(spec)) == 3
    with pytest.raises(errors.LimitExceededError, match="3"):
        api.newjob({"name": "x", "children": [spec]})


def test_one_bad_submission_does_not_spoil_one_that_shares_its_commit(api):
    futures = [api.table.dispatch("newjob", [{"name": "x"}, parent]) for parent in (None, 99, None)]
    assert futures[0].result(10) == [1]
    assert futures[2].result(10)
    with pytest.raises(errors.UnknownJobError):
        futures[1].result(10)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("render -f 1", "render -f 1"),
        ("\n  sleep 1\nrender\n", "sleep 1"),
        ("ä" * 500, "ä" * 200),
    ],
)
def test_a_command_is_named_after_its_first_line(api, command, name):
    assert api.getJob(api.runcmd(command), ["name", "command"]) == {"name": name, "command": command}


@pytest.mark.parametrize("command", ["", "  \n ", None, 3, ["ls"]])
def test_runcmd_wants_a_command(api, command):
    with pytest.raises(errors.InvalidArgumentError, match="cmd is"):
        api.runcmd(command)


def test_unknown_properties_stand_in_the_jobs_log(api, caplog):
    caplog.set_level(logging.INFO)
    job = api.getJob(api.newjob({"name": "x", "colour": "blau"})[0], ["logs"])
    assert any("colour" in text for text, _ in job["logs"])
