from __future__ import annotations

import pytest
from msgspec.structs import replace

from hqueue.client.environment import Environment, UnusableEnvironmentError, inherited
from hqueue.client.processes import MARKER
from hqueue.protocol import Assignment, NetworkFolder

FOLDERS = [
    NetworkFolder("HQROOT", "/mnt/hq", "H:/", "/Volumes/HQ", main=True),
    NetworkFolder("TEXTUREN", "/mnt/texturen", "T:/"),
    NetworkFolder("NUR_WINDOWS", windows="X:/"),
]


def job(**environment: str) -> Assignment:
    return Assignment("t", 12, "true", hosts=["farm07", "farm08"], environment=environment)


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
    found = environment.of(job(C="job", JOBID="0", HQROOT="mine", TMPDIR="/big"), "/scratch", "mark")
    assert (found["A"], found["B"], found["C"]) == ("client", "ini", "job")
    assert (found["JOBID"], found["HQROOT"], found["TMPDIR"]) == ("12", "/mnt/hq", "/big")
    assert (found["HQSERVER"], found["HQHOSTS"], found[MARKER]) == ("http://h:5000", "farm07,farm08", "mark")
    assert found["TEXTUREN"] == "/mnt/texturen"
    assert "NUR_WINDOWS" not in found


def test_the_root_of_the_job_as_far_as_the_server_says_it() -> None:
    environment = Environment({}, {}, "http://h:5000")
    assert environment.of(replace(job(ROOTJOBID="0"), root_id=7), "/scratch", "mark")["ROOTJOBID"] == "7"
    assert "ROOTJOBID" not in environment.of(job(), "/scratch", "mark")


def test_a_mount_of_this_machine_wins_over_the_servers() -> None:
    environment = Environment({}, {}, "http://h:5000", "/net/hq")
    environment.set_folders([replace(FOLDERS[0], name="PROJEKTE"), FOLDERS[1]])
    found = environment.of(job(), "/scratch", "mark")
    assert (found["HQROOT"], found["PROJEKTE"], found["TEXTUREN"]) == ("/net/hq", "/net/hq", "/mnt/texturen")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("A=B", "x", "A=B"), ("", "x", "''"), ("A\0", "x", "A"), ("A", "x\0y", "variable A holds a NUL")],
)
def test_what_no_process_can_be_given(name: str, value: str, sentence: str) -> None:
    environment = Environment({}, {}, "http://h:5000")
    with pytest.raises(UnusableEnvironmentError, match=sentence):
        environment.of(job(**{name: value}), "/scratch", "mark")
