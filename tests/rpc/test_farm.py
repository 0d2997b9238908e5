"""What clients call, through the dispatcher, with a real store and a scheduler that is ticked by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from hqueue.config import load_server_config
from hqueue.context import make_context
from hqueue.errors import (
    ClientRefusedError,
    InvalidArgumentError,
    StoreFullError,
    StoreUnavailableError,
    UnknownClientError,
)
from hqueue.farm import FarmMethods
from hqueue.joblogs import RunLog
from hqueue.jobspec import parse
from hqueue.lifecycle import troubles
from hqueue.lifecycle.bulk import Action, act
from hqueue.lifecycle.rows import load
from hqueue.lifecycle.submission import submit
from hqueue.rpc.dispatch import MethodTable
from hqueue.scheduler import Scheduler
from hqueue.schema import event, note, note_thread, run
from hqueue.store import AwaitTick, WakeClient
from tests.fakes import PATIENCE_S, FakeClock

IDENTITY = {
    "hostname": "schmiede-ß",
    "name": "",
    "key": "k1",
    "incarnation": 1,
    "port": 5001,
    "cpus": 4,
    "platform": "linux-x86_64",
    "version": "0.1.0",
    "cpuSpeed": 3000,
    "memory": 1024,
    "diskCapacity": 1024,
    "installLocation": "/opt/hq",
    "gpus": [],
}


class Farm:
    """The farm's calls on a real store; the test is the scheduler's thread."""

    def __init__(self, store, folder):
        self.store = store
        self.clock = FakeClock()
        self.config = load_server_config(
            overrides={"max_rescues": "1", "job_logs_dir": str(folder / "logs")}, environ={"HOME": str(folder)}
        )
        context = make_context(store, self.config, self.clock, lambda _: None)
        self.live_farm, self.logs = context.live_farm, context.logs
        self.scheduler = Scheduler(store, context.farm, self.clock, self.config)
        store.on_commit = self._nudge
        self.deaths = []
        self.methods = FarmMethods(context, self.deaths.append)
        self.methods.start()
        self.table = MethodTable()
        self.table.add(self.methods, prefix="farm.")
        self.number = 0
        self.client_id = 1

    def _nudge(self, instructions):
        for each in instructions:
            if isinstance(each, WakeClient):
                self.live_farm.tell(each.client_id)
            elif isinstance(each, AwaitTick):
                self.scheduler.await_tick(each.done)

    def call(self, method, *arguments):
        answer = self.table.dispatch(f"farm.{method}", arguments, peer="127.0.0.9")
        return answer.result(PATIENCE_S) if hasattr(answer, "result") else answer

    def register(self, **changes):
        return self.call("register", {**IDENTITY, **changes})["clientId"]

    def send(self, client_id=None, **body):
        """Send a heartbeat and return what its answer will be in: a value or a future."""
        self.number += 1
        beat = {"load": 0.5, "idleTime": 3, "freeMemory": 1, "freeDisk": 1, "condemned": "", "terminating": False}
        return self.table.dispatch(
            "farm.heartbeat",
            [client_id or self.client_id, "k1", 1, self.number, {**beat, "runs": [], "reports": [], **body}],
        )

    def beat(self, client_id=None, **body):
        answer = self.send(client_id, **body)
        if not hasattr(answer, "result"):
            return answer
        if body.get("reports"):
            # Parked until the scheduler has been through the farm: here, by the test's own hand.
            while not answer.done():
                self.scheduler.tick()
        return answer.result(PATIENCE_S)

    def submit(self, *specs):
        with self.store.writing() as session:
            return submit(session, parse(list(specs), max_depth=1000))

    def status(self, job_id):
        with self.store.reading() as connection:
            return load(connection, [job_id])[0].status.value

    def log(self, job_id):
        """Return what a job's log says."""
        with self.store.reading() as connection:
            query = sa.select(event.c.message).where(event.c.job_id == job_id).order_by(event.c.seq)
            return "\n".join(connection.execute(query).scalars())

    def assigned(self):
        """Tick, and return the assignments that the client hears of."""
        self.scheduler.tick()
        return self.beat()["assignments"]


def listed(token, state="running", **more):
    return {"token": token, "state": state, "wish": 0, "seconds": 1.0, "pid": 4242, **more}


def ended(token, **more):
    return {"token": token, "outcome": "exited", "exitCode": 0, "seconds": 2.5, "outputBytes": 0, **more}


@pytest.fixture
def farm(sqlite_store, tmp_path):
    farm = Farm(sqlite_store, tmp_path)
    yield farm
    farm.methods.stop()
    assert farm.deaths == []
    farm.logs.close()


@pytest.fixture
def client_everywhere(store, tmp_path):
    """Return the same on each database that is reachable, with a client that has registered."""
    farm = Farm(store, tmp_path)
    farm.client_id = farm.register()
    yield farm
    farm.methods.stop()
    farm.logs.close()


@pytest.fixture
def client(farm):
    assert farm.register() == 1
    return farm


def test_registering_twice_changes_nothing(farm):
    first = farm.call("register", IDENTITY)
    assert farm.call("register", IDENTITY)["clientId"] == first["clientId"]
    assert first["heartbeatSeconds"] == 5.0
    assert first["networkFolders"][0]["name"] == "HQROOT"


def test_another_machine_under_the_same_name_is_refused_until_the_first_is_lost(client):
    with pytest.raises(ClientRefusedError, match=r"another machine is registered as schmiede-ß"):
        client.register(key="k2")
    client.clock.advance(1)
    client.scheduler.tick()
    for _ in range(30):
        client.clock.advance(5)
        client.scheduler.tick()
    assert client.register(key="k2") == 1
    with pytest.raises(ClientRefusedError):
        client.beat()


def test_the_newer_incarnation_wins(client):
    assert client.register(incarnation=2) == 1
    with pytest.raises(ClientRefusedError, match="newer daemon"):
        client.register(incarnation=1)
    with pytest.raises(ClientRefusedError, match="newer daemon"):
        client.beat()


def test_a_client_that_the_server_does_not_know_is_told_to_register(farm):
    with pytest.raises(UnknownClientError, match="register first"):
        farm.beat(client_id=7)


def test_an_assignment_is_repeated_until_it_is_listed(client):
    (job_id,) = client.submit({"name": "Bär", "command": "echo hi", "environment": {"A": "ü"}, "maxTime": 7})
    (assignment,) = client.assigned()
    assert assignment["jobId"] == job_id
    assert (assignment["command"], assignment["environment"], assignment["maxTime"]) == ("echo hi", {"A": "ü"}, 7)
    assert client.beat()["assignments"] == [assignment]
    assert client.beat(runs=[listed(assignment["token"], "held")])["assignments"] == []
    assert client.status(job_id) == "running"


def test_an_old_heartbeat_is_dropped(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    client.number -= 1
    answer = client.beat(reports=[ended(assignment["token"])])
    assert answer["stale"] is True
    assert answer["acknowledged"] == []
    assert client.status(1) == "running"


def test_the_end_of_a_run_is_answered_with_new_work(client):
    client.submit(*({"name": f"n{i}", "command": "true", "cpus": 4} for i in range(2)))
    (first,) = client.assigned()
    answer = client.beat(runs=[listed(first["token"], "ended")], reports=[ended(first["token"])])
    assert answer["acknowledged"] == [first["token"]]
    assert [each["jobId"] for each in answer["assignments"]] == [2]
    assert client.status(1) == "succeeded"
    # The answer was lost: the report comes again and changes nothing.
    again = client.beat(runs=[listed(first["token"], "ended")], reports=[ended(first["token"], exitCode=3)])
    assert again["acknowledged"] == [first["token"]]
    assert client.status(1) == "succeeded"


def test_nobody_waits_for_a_scheduler_that_has_died(client):
    client.submit({"name": "a", "command": "true"})
    (first,) = client.assigned()
    parked = client.send(runs=[listed(first["token"], "ended")], reports=[ended(first["token"])])
    client.scheduler.release()
    assert parked.result(PATIENCE_S)["acknowledged"] == [first["token"]]
    # Nor does who comes later.
    client.submit({"name": "b", "command": "true"})
    (second,) = client.assigned()
    late = client.send(runs=[listed(second["token"], "ended")], reports=[ended(second["token"])])
    assert late.result(PATIENCE_S)["acknowledged"] == [second["token"]]


def test_an_end_counts_only_when_the_whole_output_is_there(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    token = assignment["token"]
    text = "Zeile ü\n".encode()
    report = ended(token, outputBytes=len(text))
    assert client.call("output", 1, "k1", [{"token": token, "offset": 0, "data": text[:3]}]) == [3]
    answer = client.beat(runs=[listed(token, "ended")], reports=[report])
    assert answer["acknowledged"] == []
    assert answer["resend"] == [{"token": token, "length": 3}]
    assert client.status(1) == "running"
    # A gap is told, an overlap is skipped.
    assert client.call("output", 1, "k1", [{"token": token, "offset": 5, "data": text[5:]}]) == [3]
    assert client.call("output", 1, "k1", [{"token": token, "offset": 0, "data": text}]) == [len(text)]
    assert client.call("report", 1, "k1", 1, [report]) == {"acknowledged": [token], "resend": []}
    assert client.status(1) == "succeeded"
    assert client.logs.tail_chars(1, [RunLog(1, "attempt 1")], None, 1 << 20) == "Zeile ü\n"
    raw = client.logs.path(1, 1).read_text()
    assert "attempt 1 on schmiede-ß" in raw
    assert raw.splitlines()[-1] == "exit 0 after 2.5s"


def test_the_telling_line_of_a_run_is_stored_with_it(client_everywhere):
    client = client_everywhere
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    token, text = assignment["token"], b"\x1b[31mNo \x00license\xff: K\xc3\xb6ln\x1b[0m\nbye\n" + b"x" * 5000
    client.call("output", client.client_id, "k1", [{"token": token, "offset": 0, "data": text}])
    report = ended(token, exitCode=3, outputBytes=len(text), line="what a client says")
    client.beat(runs=[listed(token, "ended")], reports=[report])
    with client.store.reading() as connection:
        assert connection.execute(sa.select(run.c.line)).scalar_one() == "No license\ufffd: Köln"


def test_output_that_was_lost_is_told_everywhere(client_everywhere):
    client = client_everywhere
    client.submit(*({"name": f"n{i}", "command": "true"} for i in range(2)))
    good, bad = (each["token"] for each in client.assigned())
    runs = [listed(good, "ended"), listed(bad, "ended")]
    client.beat(runs=runs, reports=[ended(good, lostOutput="die Platte war voll"), ended(bad, exitCode=3)])
    assert client.logs.path(1, 1).read_text().splitlines()[-1] == (
        "exit 0 after 2.5s; output is missing: die Platte war voll"
    )
    assert client.logs.path(2, 2).read_text().splitlines()[-1] == "exit 3 after 2.5s"
    with client.store.reading() as connection:
        told = troubles.recent(connection, client.clock.now().timestamp() * 1000, client_id=client.client_id)
        written = connection.execute(sa.select(note.c.text, note_thread.c.job_id).join(note_thread)).all()
    assert [each.message for each in told] == ["lost output of a job: die Platte war voll"]
    assert written == [("output of job 1 is missing, from schmiede-ß: die Platte war voll", 1)]


def test_progress_comes_with_output(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    token = assignment["token"]
    client.beat(runs=[listed(token)])
    piece = {"token": token, "offset": 0, "data": b"PROGRESS: 1/4\n", "progress": [1, 4]}
    client.call("output", 1, "k1", [piece])
    assert client.live_farm.progress[1].numerator == 1
    # A gap: what it says of the progress comes again with what is missing.
    client.call("output", 1, "k1", [{**piece, "offset": 99, "progress": [2, 4]}])
    assert client.live_farm.progress[1].numerator == 1


def test_more_output_than_fits_in_a_call(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    pieces = [{"token": assignment["token"], "offset": at, "data": b"x" * size} for at, size in ((0, 1 << 18), (0, 1))]
    with pytest.raises(InvalidArgumentError, match="pieces hold 262145 bytes in all, but at most 262144 are taken"):
        client.call("output", 1, "k1", pieces)
    assert client.logs.length(1, 1) == 0
    assert client.call("output", 1, "k1", pieces[:1]) == [1 << 18]


def test_runs_are_forgotten_however_they_ended(client):
    client.submit(*({"name": f"n{i}", "command": "x" * 9999} for i in range(3)))
    first, second, third = (each["token"] for each in client.assigned())
    runs = [listed(each, progress=[1, 2]) for each in (first, second, third)]
    client.beat(runs=runs)
    live = client.live_farm.clients[1]
    client.beat(runs=runs)
    assert live.runs.keys() == {first, second, third}
    assert set(client.live_farm.progress) == {1, 2, 3}
    client.call("output", 1, "k1", [{"token": first, "offset": 0, "data": b"x"}])
    assert live.runs[first].assignment is None  # it is in the head of the log
    client.beat(runs=[listed(first), listed(third)])  # the second is lost
    assert live.runs.keys() == {first, third}
    client.call("report", 1, "k1", 1, [ended(third)])
    assert live.runs.keys() == {first}
    client.live_farm.leave(1)
    for _ in range(2):
        client.live_farm.sweep_progress()
    assert not client.live_farm.progress
    assert not live.runs


def test_tokens_that_nobody_knows(client):
    answer = client.beat(runs=[listed("no-such-token")], reports=[ended("nor-this")])
    assert answer["acknowledged"] == ["nor-this"]
    assert [(wish["token"], wish["wish"], wish["reason"]) for wish in answer["wishes"]] == [
        ("no-such-token", "die", "unknown")
    ]
    assert client.call("output", 1, "k1", [{"token": "no-such-token", "offset": 0, "data": b"x"}]) == [-1]


def test_a_wish_is_repeated_until_it_is_confirmed(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    token = assignment["token"]
    client.beat(runs=[listed(token)])
    with client.store.writing() as session:
        act(session, Action.PAUSE, [1])
    for _ in range(2):
        (wish,) = client.beat(runs=[listed(token)])["wishes"]
        assert (wish["wish"], wish["number"]) == ("halt", 1)
    assert client.status(1) == "pausing"
    assert client.beat(runs=[listed(token, "halted", wish=1)])["wishes"] == []
    assert client.status(1) == "paused"


def test_a_run_that_was_listed_and_is_missing_is_lost(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    client.beat(runs=[listed(assignment["token"])])
    client.beat()
    assert client.status(1) == "runnable"


def test_a_heartbeat_without_news_touches_no_table(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    for _ in range(3):
        client.beat(runs=[listed(assignment["token"])])

    def unavailable(*_):
        raise StoreUnavailableError

    client.store.write_soon = unavailable
    client.store.reading = unavailable
    answer = client.send(runs=[listed(assignment["token"], progress=[3, 10])])
    assert answer["stale"] is False
    assert client.live_farm.progress[1].numerator == 3
    del client.store.write_soon, client.store.reading


def test_heartbeats_count_while_the_store_is_away(client):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    original = client.store.write_soon

    def unavailable(function, **_):
        future = original(lambda _: None)
        future.result(PATIENCE_S)
        failed = type(future)()
        failed.set_exception(StoreUnavailableError())
        return failed

    client.store.write_soon = unavailable
    answer = client.send(runs=[listed(assignment["token"], "ended")], reports=[ended(assignment["token"])])
    assert answer.result(PATIENCE_S)["acknowledged"] == []
    client.store.write_soon = original
    assert client.beat(runs=[listed(assignment["token"], "ended")], reports=[ended(assignment["token"])])[
        "acknowledged"
    ] == [assignment["token"]]


def test_overtime_of_a_run_that_the_client_does_not_end(client):
    client.submit({"name": "a", "command": "true", "maxTime": 10})
    (assignment,) = client.assigned()
    token = assignment["token"]
    client.beat(runs=[listed(token)])
    assert client.beat(runs=[listed(token, seconds=99.0)])["wishes"] == []
    (wish,) = client.beat(runs=[listed(token, seconds=101.0)])["wishes"]
    assert (wish["wish"], wish["reason"]) == ("die", "time")
    client.beat(runs=[listed(token, "ended")], reports=[ended(token, outcome="killed", reason="time")])
    assert client.status(1) == "cancelled"


def test_a_terminating_client_is_forgotten_once_it_holds_nothing(client):
    client.beat(terminating=True)
    with pytest.raises(UnknownClientError):
        client.beat(terminating=True)
    assert client.register() == 1


@pytest.mark.parametrize(
    ("method", "arguments", "complaint"),
    [
        ("register", ["x"], "identity is 'x'"),
        ("register", [{**IDENTITY, "cpus": 0}], "identity.cpus is 0"),
        ("register", [{**IDENTITY, "hostname": ""}], "identity.hostname"),
        ("register", [{**IDENTITY, "key": "k" * 65}], "identity.key"),
        ("heartbeat", ["x", "k1", 1, 1, {}], "client_id is 'x'"),
        ("heartbeat", [1, "k1", 1, "one", {}], "number is 'one'"),
        ("heartbeat", [1, "k1", 1, 9, {"runs": [{"token": "t", "state": "asleep"}]}], "state is 'asleep'"),
        ("heartbeat", [1, "k1", 1, 9, {"load": float("nan")}], "body.load"),
        ("report", [1, "k1", 1, {"token": "t"}], "reports is {'token': 't'}, but a list was expected"),
        ("register", [{**IDENTITY, "memory": datetime(2025, 1, 1, tzinfo=UTC)}], "identity.memory is datetime"),
        ("register", [{**IDENTITY, "gpus": [[[]]]}], r"identity.gpus\[0\] is \[\[\]\]"),
        ("output", [1, "k1", [{"token": "t", "offset": -1, "data": b""}]], "pieces\\[0\\]"),
    ],
)
def test_malformed_calls(client, method, arguments, complaint):
    with pytest.raises(InvalidArgumentError, match=complaint):
        client.call(method, *arguments)


def test_a_report_that_cannot_be_read_loses_its_run_and_nothing_else(client_everywhere, caplog):
    client = client_everywhere
    client.submit(*({"name": f"n{i}", "command": "true"} for i in range(3)))
    bad, good, late = (each["token"] for each in client.assigned())
    client.beat(runs=[listed(bad), listed(good), listed(late)])
    answer = client.beat(
        runs=[listed(bad, "ended"), listed(good, "ended"), listed(late)],
        reports=[ended(bad, exitCode="nine"), ended(good), {"outcome": "lost"}],
    )
    assert answer["acknowledged"] == [bad, good]
    assert (client.status(1), client.status(2), client.status(3)) == ("running", "succeeded", "running")
    assert [each["jobId"] for each in answer["assignments"]] == [1]  # a rescue, at once
    words = "body.reports[0].exitCode is 'nine', but a whole number or nothing was expected"
    assert words in client.log(1)
    assert f"client schmiede-ß: {words}" in caplog.messages
    assert "client schmiede-ß: body.reports[2] has no token, which every one must have" in caplog.messages
    told = client.call("report", client.client_id, "k1", 1, [{"token": late, "outcome": "vanished"}])
    assert told == {"acknowledged": [late], "resend": []}
    assert "outcome is 'vanished', but one of exited, killed, refused, lost was expected" in client.log(3)


def test_exit_codes_of_windows(client_everywhere):
    client = client_everywhere
    client.submit({"name": "stürzt ab", "command": "true"})
    (assignment,) = client.assigned()
    client.beat(
        runs=[listed(assignment["token"], "ended")], reports=[ended(assignment["token"], exitCode="3221225477")]
    )
    assert client.status(1) == "failed"
    assert "exit 3221225477" in client.log(1)


def test_a_heartbeat_with_a_report_that_cannot_be_stored(client_everywhere):
    client = client_everywhere
    client.submit(*({"name": f"n{i}", "command": "true"} for i in range(2)))
    halted, good = (each["token"] for each in client.assigned())
    client.beat(runs=[listed(halted), listed(good)])
    with client.store.writing() as session:
        act(session, Action.PAUSE, [1])
    client.beat(runs=[listed(halted), listed(good)])
    client.beat(runs=[listed(halted, "halted", wish=1), listed(good)])
    assert client.status(1) == "paused"
    refusal = ended(halted, outcome="refused", message="nein")  # nothing that can follow a confirmed halt
    answer = client.beat(
        runs=[listed(halted, "ended", wish=1), listed(good, "ended")], reports=[refusal, ended(good, exitCode=3)]
    )
    assert answer["acknowledged"] == [halted, good]
    assert (client.status(1), client.status(2)) == ("paused", "failed")
    assert client.live_farm.clients[client.client_id].unheard == ""
    with client.store.reading() as connection:
        told = troubles.recent(connection, client.clock.now().timestamp() * 1000, client_id=client.client_id)
    assert "its client reported its end (refused), which the server could not store" in told[0].message


def test_a_number_that_cannot_be_counts_as_not_given(client, caplog):
    client.submit({"name": "a", "command": "true"})
    (assignment,) = client.assigned()
    run = listed(assignment["token"], pid=2**40)
    for _ in range(2):
        client.beat(idleTime="99999999999999999999", freeMemory=-1, freeDisk=7, runs=[run])
    live = client.live_farm.clients[1]
    assert (live.idle_minutes, live.free_memory_kb, live.free_disk_kb) == (-1, 0, 7)
    assert client.status(1) == "running"
    assert [message for message in caplog.messages if "body." in message] == [  # said once
        "client schmiede-ß: body.runs[0].pid is 1099511627776, but a whole number <= 2147483647 was expected",
        "client schmiede-ß: body.idleTime is '99999999999999999999', but a whole number <= 2147483647 was expected",
        "client schmiede-ß: body.freeMemory is -1, but a whole number >= 0 was expected",
    ]


def test_a_client_whose_heartbeats_cannot_be_taken_gets_no_work(client):
    client.submit({"name": "a", "command": "true"})
    with pytest.raises(InvalidArgumentError):
        client.send(load="heavy")
    client.scheduler.tick()
    assert client.status(1) == "runnable"
    assert client.live_farm.clients[1].unheard.startswith("its heartbeats cannot be understood: body.load is 'heavy'")
    client.beat()
    client.scheduler.tick()
    assert client.status(1) == "running"


def test_a_client_whose_heartbeats_cannot_be_stored_gets_no_work(client):
    with pytest.raises(UnicodeEncodeError):
        client.beat(condemned="halb \ud800")
    client.submit({"name": "a", "command": "true"})
    client.scheduler.tick()
    assert client.status(1) == "runnable"
    reason = client.live_farm.clients[1].unheard
    assert reason == "its heartbeats cannot be stored (UnicodeEncodeError; see the server's log)"
    client.beat(condemned="ganz")
    client.beat()
    client.scheduler.tick()
    assert client.status(1) == "running"


def test_replaced_configuration_is_what_a_client_is_told(farm):
    farm.methods._config = replace(farm.config, heartbeat_s=0.25)
    assert farm.call("register", IDENTITY)["heartbeatSeconds"] == 0.25


def test_a_run_that_ended_while_its_output_cannot_be_taken_keeps_no_cpu(client, caplog, monkeypatch):
    client.submit({"name": "laut", "command": "x", "cpus": 4}, {"name": "leise", "command": "x", "cpus": 4})
    (assignment,) = client.assigned()
    token = assignment["token"]
    piece = {"token": token, "offset": 0, "data": b"viel"}

    def full(*_arguments):
        raise StoreFullError("The disk of the logs is full.")

    with monkeypatch.context() as disk:
        disk.setattr(client.logs, "append", full)
        with pytest.raises(StoreFullError):
            client.call("output", 1, "k1", [piece])
        client.beat(runs=[listed(token)])
        assert client.live_farm.undelivered() == {}  # it still runs
        client.beat(runs=[listed(token, state="ended")])
        client.beat(runs=[listed(token, state="ended")])
    assert list(client.live_farm.undelivered().values()) == ["The disk of the logs is full."]
    assert caplog.text.count("The disk of the logs is full.") == 1  # said once, not with each heartbeat
    client.scheduler.tick()
    (other,) = client.beat(runs=[listed(token, state="ended")])["assignments"]
    assert other["jobId"] != assignment["jobId"]
    assert client.call("output", 1, "k1", [piece]) == [4]
    runs = [listed(token, state="ended"), listed(other["token"])]
    answer = client.beat(runs=runs, reports=[ended(token, outputBytes=4)])
    assert answer["acknowledged"] == [token]
    assert client.live_farm.undelivered() == {}
