from __future__ import annotations

import pytest

from hqueue.client.environment import Environment, UnusableEnvironmentError, inherited
from hqueue.client.processes import MARKER

FOLDERS = [
    {"name": "HQROOT", "linux": "/mnt/hq", "windows": "H:/", "macosx": "/Volumes/HQ", "main": True},
    {"name": "TEXTUREN", "linux": "/mnt/texturen", "windows": "T:/", "macosx": "", "main": False},
    {"name": "NUR_WINDOWS", "linux": "", "windows": "X:/", "macosx": "", "main": False},
]
JOB = {"jobId": 12, "token": "t", "hosts": ["farm07", "farm08"], "environment": {}}


def test_the_daemons_python_is_left_out_and_the_rest_is_not() -> None:
    own = {
        "PATH": "/opt/hq/venv/bin:/usr/bin:/opt/hq/venv-other/bin",
        "VIRTUAL_ENV": "/opt/hq/venv",
        "PYTHONHOME": "/opt/python",
        "PYTHONPATH": "/opt/hq/src:/studio/tools",
        "LD_LIBRARY_PATH": "/opt/hq/venv/lib",
        "NOTIFY_SOCKET": "/run/x",
        MARKER: "of a run this daemon is part of",
        "LC_ALL": "de_DE.UTF-8",
        "MÜLL": "ja\nnein",
    }
    assert inherited(own, ["/opt/hq/venv", "/opt/hq/src/"]) == {
        "PATH": "/usr/bin:/opt/hq/venv-other/bin",
        "PYTHONPATH": "/studio/tools",
        "LC_ALL": "de_DE.UTF-8",
        "MÜLL": "ja\nnein",
    }


def test_what_a_bundled_python_put_aside_comes_back() -> None:
    own = {"LD_LIBRARY_PATH": "/opt/bundle/lib", "LD_LIBRARY_PATH_ORIG": "/studio/lib"}
    assert inherited(own, ["/opt/bundle"]) == {"LD_LIBRARY_PATH": "/studio/lib"}


def test_the_later_wins() -> None:
    environment = Environment({"A": "client", "B": "client", "C": "client"}, {"B": "ini", "C": "ini"}, "http://h:5000")
    environment.set_folders(FOLDERS)
    job = {**JOB, "environment": {"C": "job", "JOBID": "0", "HQROOT": "mine", "TMPDIR": "/big"}}
    found = environment.of(job, "/scratch", "mark")
    assert (found["A"], found["B"], found["C"]) == ("client", "ini", "job")
    assert (found["JOBID"], found["HQROOT"], found["TMPDIR"]) == ("12", "/mnt/hq", "/big")
    assert (found["HQSERVER"], found["HQHOSTS"], found[MARKER]) == ("http://h:5000", "farm07,farm08", "mark")
    assert found["TEXTUREN"] == "/mnt/texturen"
    assert "NUR_WINDOWS" not in found


def test_a_mount_of_this_machine_wins_over_the_servers() -> None:
    environment = Environment({}, {}, "http://h:5000", "/net/hq")
    environment.set_folders([{**FOLDERS[0], "name": "PROJEKTE"}, FOLDERS[1]])
    found = environment.of(JOB, "/scratch", "mark")
    assert (found["HQROOT"], found["PROJEKTE"], found["TEXTUREN"]) == ("/net/hq", "/net/hq", "/mnt/texturen")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("A=B", "x", "A=B"), ("", "x", "''"), ("A\0", "x", "A"), ("A", "x\0y", "variable A holds a NUL")],
)
def test_what_no_process_can_be_given(name: str, value: str, sentence: str) -> None:
    environment = Environment({}, {}, "http://h:5000")
    with pytest.raises(UnusableEnvironmentError, match=sentence):
        environment.of({**JOB, "environment": {name: value}}, "/scratch", "mark")
