"""Jobs page by page, and the feed of what changes."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hqueue import errors
from hqueue.schema import counter


def ids(page):
    return [job["id"] for job in page["jobs"]]


def pages(api, **query):
    """Return the ids of all pages, a list each."""
    found, cursor = [], None
    while True:
        page = api.listJobs({**query, "attribs": ["id"], "cursor": cursor})
        found.append(ids(page))
        cursor = page["next"]
        if cursor is None:
            return found


class TestPages:
    def test_every_job_once(self, api_everywhere):
        api = api_everywhere
        api.newjob([{"name": "x"}] * 5)
        assert pages(api, limit=2) == [[1, 2], [3, 4], [5]]
        assert pages(api, limit=5) == [[1, 2, 3, 4, 5]]
        assert pages(api, limit=2, order="-id") == [[5, 4], [3, 2], [1]]
        assert api.listJobs()["jobs"] == api.getJobs([1, 2, 3, 4, 5])

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ({"name": "a" * 60_000}, "query.name is 'a"),
            ({"name": "ü" * 1001}, "of 1001 characters, but at most 1000"),
            ({"name": "[" * 3000}, "3000 characters"),
            ({"name": "*a" * 17}, "with 17 stars, but at most 16 are taken"),
            ({"tag": "/" * 60_000}, "query.tag is '/"),
        ],
    )
    def test_patterns_have_limits(self, api, query, said):
        with pytest.raises(errors.InvalidArgumentError) as caught:
            api.listJobs(query)
        assert said in caught.value.message

    @pytest.mark.parametrize(
        "query",
        [
            {"name": "*a" * 15 + "*b"},
            {"name": "%_/" * 333},
            {"name": "[" * 1000},
            {"name": "[!" + "ü" * 998},
            {"name": "?*" * 16},
            {"tag": '%_/"\\' * 200},
            {"submittedBy": "x" * 100_000},
        ],
    )
    def test_patterns_within_their_limits_are_answered(self, api_everywhere, query):
        api_everywhere.newjob([{"name": "a" * 20_000}] * 3)
        assert len(api_everywhere.listJobs(query)["jobs"]) == (3 if query == {"name": "?*" * 16} else 0)

    def test_cursors_stay_right_while_jobs_come_and_go(self, api):
        api.newjob([{"name": "x"}] * 6)
        first = api.listJobs({"limit": 3, "attribs": "id"})
        api.deleteJobs([1, 3, 5])
        api.newjob({"name": "neu"})
        second = api.listJobs({"limit": 9, "attribs": "id", "cursor": first["next"]})
        assert (ids(first), ids(second), second["next"]) == ([1, 2, 3], [4, 6, 7], None)
        assert second["seq"] == first["seq"]

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"status": "succeeded"}, [1, 6]),
            ({"status": ["waiting", "queued"]}, [2, 3, 4, 5]),
            ({"name": "Bild-*"}, [3, 4, 6]),
            ({"name": "bild-*"}, []),
            ({"name": "Bild-?"}, [3, 4]),
            ({"name": "Bild-[12]"}, [3]),
            ({"name": "*%*"}, [6]),
            ({"name": "*_*"}, [5]),
            ({"submittedBy": "jörg"}, [5]),
            ({"submittedBy": "JÖRG"}, []),
            ({"tag": "ü"}, [5]),
            ({"tag": "a"}, [6]),
            ({"root": 2}, [2, 3, 4]),
            ({"parent": 2}, [3, 4]),
            ({"rootsOnly": 1}, [1, 2, 5, 6]),
            ({"rootsOnly": 0}, [1, 2, 3, 4, 5, 6]),
            ({"client": 1}, [4]),
            ({"client": 99}, []),
            ({"rootsOnly": True, "status": "queued", "name": "*"}, [2]),
            ({"status": None, "name": "", "root": None}, [1, 2, 3, 4, 5, 6]),
            ({}, [1, 2, 3, 4, 5, 6]),
            (None, [1, 2, 3, 4, 5, 6]),
        ],
    )
    def test_filters(self, api, query, found):
        machine = api.farm.machine()
        api.newjob({"name": "leer"})
        api.newjob({"name": "r", "children": [{"name": "Bild-1", "command": "c"}, {"name": "Bild-ä", "command": "c"}]})
        api.newjob({"name": "x_y", "command": "c", "submittedBy": "jörg", "tags": ["ü", "aa"]})
        api.newjob({"name": "Bild-50%", "tags": "a"})
        api.run(4, machine)
        machine.refuse(4)
        for limit in (1, 2, 100):
            flat = [each for page in pages(api, **(query or {}), limit=limit) for each in page]
            assert flat == found
        assert ids(api.listJobs(query)) == found

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ([], "query is"),
            ({"farbe": 1}, "no filter 'farbe'; valid ones are status"),
            ({"status": "gone"}, "query.status"),
            ({"order": "name"}, "query.order is 'name'"),
            ({"limit": 0}, "query.limit is 0"),
            ({"limit": "x"}, "query.limit is 'x'"),
            ({"cursor": "12"}, "query.cursor is '12'"),
            ({"cursor": "id:1:1", "order": "-id"}, "query.cursor"),
            ({"attribs": ["farbe"]}, "farbe"),
            ({"root": "x"}, "query.root"),
            ({"rootsOnly": "ja"}, "query.rootsOnly"),
            ({"name": 3}, "query.name"),
        ],
    )
    def test_what_cannot_be_asked(self, api, query, words):
        with pytest.raises(errors.InvalidArgumentError, match=words):
            api.listJobs(query)

    def test_ids_that_nobody_has(self, api):
        api.newjob({"name": "x"})
        for key in ("root", "parent", "client"):
            assert ids(api.listJobs({key: 10**30})) == []


class TestChanges:
    def test_the_feed_in_the_order_in_which_it_was_stored(self, api_everywhere):
        api = api_everywhere
        start = api.listJobs()["seq"]
        parent = api.newjob({"name": "p", "command": "c"})[0]
        child = api.newjob({"name": "c", "command": "c"}, parent)[0]
        api.setJobPriority([child], 5)
        api.cancelJobs([parent])
        api.farm.finish_bulk()
        api.deleteJobs([child])
        found = api.getChanges(start)
        assert [(each["jobId"], each["event"], each["status"]) for each in found["changes"]] == [
            (parent, "submitted", "runnable"),
            (child, "submitted", "runnable"),
            (parent, "child added", "runnable"),
            (parent, "queued", "queued"),
            (child, "priority changed", "runnable"),
            (parent, "cancelled", "cancelled"),
            (child, "cancelled", "cancelled"),
            (child, "deleted", "cancelled"),
        ]
        seqs = [each["seq"] for each in found["changes"]]
        assert seqs == list(range(seqs[0], seqs[0] + 8))
        assert (found["next"], found["reset"]) == (seqs[-1], False)
        assert api.getChanges(found["next"]) == {"changes": [], "next": seqs[-1], "reset": False}
        assert set(found["changes"][0]) == {"seq", "date", "jobId", "count", "event", "status"}

    def test_a_submission_is_one_change(self, api_everywhere):
        api = api_everywhere
        for count in (3, 300):
            start = api.listJobs()["seq"]
            first = api.newjob({"name": "p", "children": [{"name": "x", "komand": "c"}] * (count - 1)})[0]
            (change,) = api.getChanges(start)["changes"]
            assert (change["jobId"], change["event"], change["count"]) == (first, "submitted", count)
            history = [entry["event"] for entry in api.getJob(first + count - 1, ["history"])["history"]]
            assert history == ["submitted", "note"]

    def test_in_pieces(self, api):
        for _ in range(5):
            api.newjob({"name": "x"})
        seen, since = [], 0
        while len(seen) < 5:
            piece = api.getChanges(since, 2)
            assert len(piece["changes"]) <= 2
            seen += [each["jobId"] for each in piece["changes"]]
            since = piece["next"]
        assert seen == [1, 2, 3, 4, 5]

    def test_what_is_too_old_or_from_the_future_is_said(self, api):
        for _ in range(5):
            api.newjob({"name": "x"})
        for since in (6, 10**30, -1):
            assert api.getChanges(since) == {"changes": [], "next": 5, "reset": True}
        with api.store.writing() as session:
            session.connection.execute(sa.insert(counter).values(name="event_forgotten", value=3))
        assert api.getChanges(2) == {"changes": [], "next": 5, "reset": True}
        assert [each["seq"] for each in api.getChanges(3)["changes"]] == [4, 5]
        assert api.getChanges(5) == {"changes": [], "next": 5, "reset": False}

    def test_an_empty_store(self, api):
        assert api.getChanges(0) == {"changes": [], "next": 0, "reset": False}
        assert api.listJobs() == {"jobs": [], "next": None, "seq": 0}

    @pytest.mark.parametrize(
        ("params", "words"), [((0, 0), "limit is 0"), (("x",), "since is 'x'"), ((None,), "since")]
    )
    def test_what_cannot_be_asked(self, api, params, words):
        with pytest.raises(errors.InvalidArgumentError, match=words):
            api.getChanges(*params)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("name", "params", "big"),
    [
        ("getJobs", [[1], ["status"]], False),
        ("getJobs", [1], False),
        ("getJobs", [list(range(200))], False),
        ("getJobs", [list(range(201)), ["status"]], True),
        ("cancelJobs", [[1, 2]], False),
        ("cancelJobs", [list(range(10_000))], True),
        ("listJobs", [], True),
        ("listJobs", [{"limit": 20, "parent": 7}], False),
        ("listJobs", [{"limit": 20, "name": "*x*"}], True),
        ("listJobs", [{"limit": "20"}], True),
        ("getChanges", [17], False),
        ("getChanges", [17, 10_000], True),
        ("getJobOutput", [1], True),
        ("getJobOutput", [1, 4_000], False),
        ("getUnfinishedRootJobIds", [], True),
        ("getNoteThreads", [], True),
        ("getNoteThreads", [[3]], False),
        ("system.multicall", [[{"methodName": "getJob", "params": [1]}]], False),
        ("system.multicall", [[{"methodName": "listJobs", "params": []}]], True),
        ("system.multicall", [["nonsense"]], False),
        ("system.multicall", [7], False),
        ("nosuch", [[1] * 1000], False),
    ],
)
def test_which_calls_small_ones_must_not_wait_for(api, name, params, big):
    assert api.table.is_big(name, params) is big
