"""The messages of server and client: their spelling, what is passed over, what is refused and how that is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from hqueue import wire
from hqueue.errors import InvalidArgumentError
from hqueue.protocol import (
    Acknowledgement,
    Answer,
    Assignment,
    Beat,
    Identity,
    Listed,
    Message,
    NetworkFolder,
    Piece,
    Report,
    Resend,
    Welcome,
    Wish,
    read,
    read_beat,
    read_reports,
    write,
)

# Version 0.1.0 speaks so, and is to be understood and to understand for ever.
SPELLED: list[tuple[Message, dict[str, Any]]] = [
    (
        Identity(
            hostname="größe",
            name="zwei",
            key="k1",
            incarnation=3,
            port=5001,
            cpus=4,
            platform="linux-x86_64",
            version="0.1.0",
            cpu_speed_mhz=3000.0,
            memory_kb=2**40,
            disk_kb=5,
            install_location="/opt/Häuser",
            gpus=[{"name": "RTX", "memory": 24}],
        ),
        {
            "hostname": "größe",
            "name": "zwei",
            "key": "k1",
            "incarnation": 3,
            "port": 5001,
            "cpus": 4,
            "platform": "linux-x86_64",
            "version": "0.1.0",
            "cpuSpeed": 3000.0,
            "memory": 2**40,
            "diskCapacity": 5,
            "installLocation": "/opt/Häuser",
            "gpus": [{"name": "RTX", "memory": 24}],
        },
    ),
    (
        Welcome(
            client_id=7,
            heartbeat_s=5.0,
            kill_grace_s=10.0,
            network_folders=[NetworkFolder("HQROOT", "/mnt/hq", "H:/", "/Volumes/HQ", main=True)],
            server_time=datetime(2026, 1, 2, tzinfo=UTC),
            max_output_bytes=2**40,
        ),
        {
            "clientId": 7,
            "heartbeatSeconds": 5.0,
            "killGraceSeconds": 10.0,
            "networkFolders": [
                {"name": "HQROOT", "linux": "/mnt/hq", "windows": "H:/", "macosx": "/Volumes/HQ", "main": True}
            ],
            "serverTime": datetime(2026, 1, 2, tzinfo=UTC),
            "maxOutputBytes": 2**40,
        },
    ),
    (
        Beat(
            load=0.5,
            idle_minutes=3,
            free_memory_kb=1,
            free_disk_kb=2,
            condemned="",
            terminating=False,
            runs=[Listed("t1", "running", 2, 1.5, 4711, (3, 10))],
            reports=[Report("t2", "exited", 3, 0, "", 2.5, 9, 12, "ende", (1, 2))],
        ),
        {
            "load": 0.5,
            "idleTime": 3,
            "freeMemory": 1,
            "freeDisk": 2,
            "condemned": "",
            "terminating": False,
            "runs": [
                {"token": "t1", "state": "running", "wish": 2, "seconds": 1.5, "pid": 4711, "progress": [3, 10]},
            ],
            "reports": [
                {
                    "token": "t2",
                    "outcome": "exited",
                    "exitCode": 3,
                    "signal": 0,
                    "seconds": 2.5,
                    "peakMemory": 9,
                    "outputBytes": 12,
                    "message": "ende",
                    "progress": [1, 2],
                },
            ],
        },
    ),
    (Report("t", "killed", kill_reason="time"), {"token": "t", "outcome": "killed", "reason": "time"}),
    (Report("t", "exited", lost_output="weg"), {"token": "t", "outcome": "exited", "lostOutput": "weg"}),
    (
        Piece(token="t", offset=0, data=b"\x00\xff", pid=7, shell="bash", folder="/tmp/ü", remark="cmd"),
        {
            "token": "t",
            "data": b"\x00\xff",
            "pid": 7,
            "shell": "bash",
            "folder": "/tmp/ü",
            "remark": "cmd",
        },
    ),
    (Piece(token="t", offset=5, data=b"x"), {"token": "t", "offset": 5, "data": b"x"}),
    (Piece(token="t", data=b"x", progress=(1, 4)), {"token": "t", "data": b"x", "progress": [1, 4]}),
    (
        Answer(
            number=4,
            interval_s=5.0,
            assignments=[
                Assignment("t", 12, "render", 3, 2, "Bild", "bash", {"Ä": "ö"}, 60, ["farm07"], ["nacht"], 2, 7)
            ],
            wishes=[Wish("t1", "die", 2, "cancelled")],
            acknowledged=["t2"],
            resend=[Resend("t3", 9)],
        ),
        {
            "number": 4,
            "stale": False,
            "interval": 5.0,
            "assignments": [
                {
                    "token": "t",
                    "runId": 3,
                    "jobId": 12,
                    "attempt": 2,
                    "name": "Bild",
                    "command": "render",
                    "shell": "bash",
                    "environment": {"Ä": "ö"},
                    "maxTime": 60,
                    "hosts": ["farm07"],
                    "tags": ["nacht"],
                    "cpus": 2,
                    "rootId": 7,
                    "hook": "",
                },
            ],
            "wishes": [{"token": "t1", "wish": "die", "number": 2, "reason": "cancelled"}],
            "acknowledged": ["t2"],
            "resend": [{"token": "t3", "length": 9}],
        },
    ),
    # What 0.1.0 reads from an answer without asking whether it is there.
    (
        Answer(number=1, interval_s=5.0, stale=True),
        {
            "number": 1,
            "stale": True,
            "interval": 5.0,
            "assignments": [],
            "wishes": [],
            "acknowledged": [],
            "resend": [],
        },
    ),
    (Acknowledgement(), {"acknowledged": [], "resend": []}),
]


@pytest.mark.parametrize(("message", "spelled"), SPELLED, ids=lambda each: type(each).__name__)
def test_the_spelling(message: Message, spelled: dict[str, Any]) -> None:
    document = wire.dumps_response(write(message))
    assert wire.loads_response(document) == spelled
    assert read({**spelled, "notYetInvented": [1]}, type(message), "it") == message
    assert read(wire.loads_response(document), type(message), "it") == message


def test_what_the_machine_has_is_stored_as_it_is_sent() -> None:
    identity, spelled = SPELLED[0]
    assert isinstance(identity, Identity)
    names = ("memory", "diskCapacity", "installLocation", "gpus")
    assert json.loads(identity.machine_json) == {name: spelled[name] for name in names}


def test_labels() -> None:
    identity = Identity(hostname=" Größe ", name="Zwei", incarnation=0, port=0, cpus=1)
    assert (identity.label, identity.label_key) == ("Größe:Zwei", "größe:Zwei")


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        (Beat, 3, "it is 3, but a struct was expected"),
        (Beat, {"runs": 3}, "it.runs is 3, but a list was expected"),
        (Beat, {"runs": [{"state": "held"}]}, "it.runs[0] has no token, which every one must have"),
        (
            Beat,
            {"runs": [{"token": "t", "state": "asleep"}]},
            "it.runs[0].state is 'asleep', but one of held, running, halted, dying, ended was expected",
        ),
        (Beat, {"load": float("nan")}, "it.load is nan, but a number >= -1e+300 was expected"),
        (Beat, {"terminating": "perhaps"}, "it.terminating is 'perhaps', but True or False was expected"),
        (
            Beat,
            {"reports": [{"token": "t", "outcome": "lost", "progress": [1]}]},
            "it.reports[0].progress is [1], but a list of length 2 was expected",
        ),
        (Wish, {"token": "t", "wish": "x", "number": 1}, "it.wish is 'x', but one of run, halt, die was expected"),
        (list[Piece], [{"token": "t", "data": "ä"}], "it[0].data is 'ä', but base64 data was expected"),
        (list[Piece], [{"token": "t"}], "it[0] has no data, which every one must have"),
        (
            Assignment,
            {"token": "t", "jobId": 1, "command": "x", "environment": {"A": 1}},
            "it.environment[...] is {'A': 1}, but a text was expected",
        ),
    ],
)
def test_complaints_name_the_path(kind: type[Any], value: Any, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read(value, kind, "it")
    assert caught.value.message == sentence


@pytest.mark.parametrize(("hostname", "name"), [("", ""), ("  ", ""), ("a:b", ""), ("a", "b:c")])
def test_names_that_make_no_label(hostname: str, name: str) -> None:
    fields = {"hostname": hostname, "name": name, "incarnation": 1, "port": 1, "cpus": 1}
    with pytest.raises(InvalidArgumentError, match=r"identity\.hostname is .*, but a hostname of at least one"):
        read(fields, Identity, "identity")


def test_numbers_come_as_texts_too() -> None:
    assert read({"token": "t", "outcome": "exited", "exitCode": "3221225477"}, Report, "it").exit_code == 3221225477


def test_a_number_out_of_bounds_counts_as_not_given() -> None:
    run = {"token": "t", "state": "running", "wish": 2**31, "pid": 5, "seconds": 2.0}
    beat, complaints = read_beat({"load": 1.0, "idleTime": "9" * 20, "freeDisk": 2**63, "runs": [run]})
    assert beat == Beat(load=1.0, runs=[Listed("t", "running", 0, 2.0, 5)])
    assert [each.split(" is ")[0] for each in complaints] == ["body.runs[0].wish", "body.idleTime", "body.freeDisk"]


def test_one_bad_report_is_lost_alone() -> None:
    good, bad = {"token": "g", "outcome": "exited"}, {"token": "b", "outcome": "exited", "peakMemory": 2**63}
    reports, complaints = read_reports([good, bad, {"token": 3}, "x"])
    assert reports[0] == Report("g", "exited")
    assert (reports[1].token, reports[1].outcome) == ("b", "lost")
    assert reports[1].message == f"its end cannot be understood: {complaints[0]}"
    assert len(reports) == 2
    assert [each.split(" ")[0] for each in complaints] == ["reports[1].peakMemory", "reports[2].token", "reports[3]"]
