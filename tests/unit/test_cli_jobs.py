from __future__ import annotations

import argparse
import json
import re
import sys
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from hqueue.cli import clients, following, hq, jobs, screen
from hqueue.cli.connection import FaultError, UnreachableError
from hqueue.cli.program import EXIT_INTERRUPTED, ComplaintError
from hqueue.cli.screen import Screen
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATUSES = (
    *("queued", "runnable", "running", "pausing", "paused", "resuming", "ejecting"),
    *("abandoned", "succeeded", "failed", "cancelled"),
)


class Link:
    """Answers calls from lists, in order; the last answer of a method stays, and an exception is raised."""

    url = "http://farm07:5000"

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = {method: deque(values) for method, values in answers.items()}
        self.calls: list[tuple[Any, ...]] = []

    def call(self, method: str, *params: Any) -> Any:
        self.calls.append((method, *params))
        values = self.answers[method]
        value = values.popleft() if len(values) > 1 else values[0]
        if isinstance(value, BaseException):
            raise value
        return value


def run(link: Link, *words: str) -> int:
    """Run a command with its own parser, on a link instead of a server."""
    options = hq.parser().parse_args(words)
    options.literal = None
    command: dict[str, Callable[..., int]] = {
        "jobs.submit": jobs.submit,
        "jobs.jobs": jobs.jobs,
        "jobs.job": jobs.job,
        "jobs.why": jobs.why,
        "jobs.act": jobs.act,
        "following.output": lambda *args: following.output(*args, FakeClock(auto=True)),
        "clients.clients": clients.clients,
    }
    return command[options.runs](options, link, Screen(json_wanted=options.json))


def job(job_id: int, status: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "name": f"Würfel {job_id}",
        "status": status,
        "uiStatus": status,
        "overallProgress": 0.5,
        "clients": [{"id": 1, "hostname": "farm07", "name": "größe"}],
        **more,
    }


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


class TestWhy:
    EXPLAINED: ClassVar = {
        "summary": "waits for a client: 12 in group sim, all busy; 1 disabled",
        "clients": {
            "total": 14,
            "free": 1,
            "reasons": [
                {"reason": "disabled", "count": 1, "examples": ["größe"]},
                {"reason": "busy", "count": 12, "examples": ["farm01", "farm02", "farm03"]},
            ],
        },
        "resources": [],
        "ahead": 2,
    }

    def test_the_sentence_the_counts_and_who_comes_before(self, out: Callable[[], str]) -> None:
        assert run(Link(explainJob=[self.EXPLAINED]), "why", "7") == 0
        assert out().splitlines() == [
            "job 7 waits for a client: 12 in group sim, all busy; 1 disabled",
            "",
            "CLIENTS  BECAUSE   SUCH AS",
            "      1  has room",
            "      1  disabled  größe",
            "     12  busy      farm01, farm02, farm03, …",
            "",
            "2 waiting jobs come before it.",
        ]

    def test_one_that_does_not_wait(self, out: Callable[[], str]) -> None:
        nobody = {"clients": {"total": 0, "free": 0, "reasons": []}, "resources": [], "ahead": 0}
        assert run(Link(explainJob=[{"summary": "does not wait: it is failed", **nobody}]), "why", "7") == 0
        assert out() == "job 7 does not wait: it is failed\n"

    def test_json(self, out: Callable[[], str]) -> None:
        run(Link(explainJob=[self.EXPLAINED]), "why", "7", "--json")
        assert json.loads(out()) == self.EXPLAINED

    def test_one_that_is_not_there(self) -> None:
        with pytest.raises(ComplaintError, match="there is no job 7"):
            run(Link(explainJob=[None]), "why", "7")


class TestJobs:
    def test_newest_first_in_aligned_columns(self, out: Callable[[], str]) -> None:
        rows = [
            job(104, "queued", uiStatus="running (12 clients assigned)", name="日本\nzwei"),
            job(9, "runnable", uiStatus="waiting for machine", clients=[], overallProgress=0.0),
        ]
        link = Link(getUnfinishedRootJobIds=[[9, 104]], getJobs=[rows])
        assert run(link, "jobs") == 0
        assert out().splitlines() == [
            " ID  STATUS               DONE  NAME       CLIENTS",
            "104  running               50%  日本 zwei  12 clients",
            "  9  waiting for machine    0%  Würfel 9",
        ]
        assert link.calls[1] == ("getJobs", [104, 9], jobs.LISTED)

    def test_names_are_not_markup(self, out: Callable[[], str]) -> None:
        run(Link(getUnfinishedRootJobIds=[[1]], getJobs=[[job(1, name="[red]x[/red] :smile: \x1b[31m")]]), "jobs")
        assert "[red]x[/red] :smile: [31m" in out()

    def test_all_and_limit(self, capsys: pytest.CaptureFixture[str]) -> None:
        link = Link(getUnfinishedRootJobIds=[[3, 5]], getFinishedRootJobIds=[[1, 4]], getJobs=[[job(5), job(4)]])
        assert run(link, "jobs", "--all", "--limit", "2") == 0
        assert link.calls[2][1] == [5, 4]
        assert "the newest 2 of 4" in capsys.readouterr().err

    def test_no_limit(self) -> None:
        link = Link(getUnfinishedRootJobIds=[list(range(1, 100))], getJobs=[[job(1)]])
        run(link, "jobs", "--limit", "0")
        assert len(link.calls[1][1]) == 99

    def test_statuses(self) -> None:
        link = Link(getJobIdsByStatus=[[]])
        assert run(link, "jobs", "--status", "failed,cancelled", "--status", "abandoned") == 0
        assert link.calls == [("getJobIdsByStatus", ["failed", "cancelled", "abandoned"])]

    def test_json(self, out: Callable[[], str]) -> None:
        run(Link(getUnfinishedRootJobIds=[[1]], getJobs=[[job(1)]]), "jobs", "--json")
        assert json.loads(out()) == [job(1)]
        run(Link(getUnfinishedRootJobIds=[[]]), "jobs", "--json")
        assert json.loads(out()) == []


class TestJob:
    full = job(
        12,
        "failed",
        uiStatus="failed",
        waitingFor="",
        exitCode=3,
        command="render\n  --all",
        environment={"B": "2", "A": "x y"},
        queueTime=datetime(2026, 3, 28, 12, 0, 0),  # noqa: DTZ001 - as on the wire
        startTime=datetime(2026, 3, 28, 12, 0, 5),  # noqa: DTZ001 - as on the wire
        endTime=datetime(2026, 3, 28, 13, 2, 5),  # noqa: DTZ001 - as on the wire
        submittedBy="jürgen",
        conditions=[{"type": "client", "name": "group", "op": "==", "value": "gpu"}],
        children=[13, 14, 15, 20],
        childCounts={"total": 4, "finished": 4, "failed": 1},
        history=[
            {
                "date": datetime(2026, 3, 28, 12, 0, 0),  # noqa: DTZ001 - as on the wire
                "event": "submitted",
                "status": "queued",
                "message": "hallo",
                "by": "",
            }
        ],
    )

    def test_says_all_there_is(self, out: Callable[[], str]) -> None:
        assert run(Link(getJob=[dict(self.full)]), "job", "12") == 0
        text = out()
        for words in (
            "Würfel 12",
            "failed",
            "exit code    3",
            "render\n",
            "--all",
            "A=x y",
            "by jürgen",
            "after 1h02m",
            "group == gpu",
            "4, 4 finished, 1 failed (13-15, 20)",
            "farm07:größe",
            "submitted",
            "hallo",
        ):
            assert words in text

    def test_json_has_dates_with_their_zone(self, out: Callable[[], str]) -> None:
        run(Link(getJob=[dict(self.full)]), "job", "12", "--json")
        assert json.loads(out())["queueTime"] == "2026-03-28T12:00:00Z"

    def test_unknown(self) -> None:
        with pytest.raises(ComplaintError, match="there is no job 12"):
            run(Link(getJob=[None]), "job", "12")


class TestActions:
    @pytest.mark.parametrize("name", list(jobs.ACTIONS))
    def test_each_calls_its_method(self, name: str) -> None:
        link = Link(**{jobs.ACTIONS[name].method: [True]}, getJobs=[[job(1, "abandoned")]])
        run(link, name, "1")
        assert link.calls[1] == (f"{name}Jobs", [1])

    def test_says_what_became_of_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        link = Link(
            cancelJobs=[True],
            getJobs=[[job(1, "running"), job(2, "succeeded")], [job(1, "cancelled"), job(2, "succeeded")]],
        )
        assert run(link, "cancel", "1", "2", "3", "1") == 1
        assert link.calls[1] == ("cancelJobs", [1, 2, 3])
        written = capsys.readouterr()
        assert written.out == "job 1 (Würfel 1) was running, is cancelled\n"
        assert written.err.splitlines() == [
            "hq: cannot cancel job 2 (Würfel 2), which is succeeded: it is over.",
            "hq: there is no job 3.",
        ]

    def test_delete(self, out: Callable[[], str]) -> None:
        assert run(Link(deleteJobs=[True], getJobs=[[job(1, "failed")], []]), "delete", "1") == 0
        assert out() == "job 1 (Würfel 1) is deleted\n"
        assert run(Link(deleteJobs=[True], getJobs=[[job(1, "running")]]), "delete", "1") == 1

    @pytest.mark.parametrize("name", list(jobs.ACTIONS))
    def test_what_is_said_to_be_useless_fits_the_table_of_statuses(self, name: str) -> None:
        useless = set(jobs.ACTIONS[name].useless)
        settled = {"succeeded", "failed", "cancelled"}
        assert useless == (set(STATUSES) - settled - {"abandoned"} if name in {"reschedule", "delete"} else settled)

    def test_many_need_a_yes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        many = [str(number) for number in range(11)]
        answers = {"cancelJobs": [True], "getJobs": [[job(number) for number in range(11)]]}
        link = Link(**answers)
        with pytest.raises(ComplaintError, match="11 jobs are many; give --yes"):
            run(link, "cancel", *many)
        assert not link.calls
        assert run(Link(**answers), "cancel", "--yes", *many) == 0
        monkeypatch.setattr(Screen, "interactive", property(lambda _: True))
        for answer, code in (("y\n", 0), ("n\n", None), ("", None), ("\n", None)):
            monkeypatch.setattr(sys.stdin, "readline", lambda answer=answer: answer, raising=False)
            link = Link(**answers)
            if code is None:
                with pytest.raises(ComplaintError, match="nothing was done"):
                    run(link, "cancel", *many)
                assert not link.calls
            else:
                assert run(link, "cancel", *many) == code

    def test_ten_do_not(self) -> None:
        link = Link(cancelJobs=[True], getJobs=[[job(number) for number in range(10)]])
        assert run(link, "cancel", *map(str, range(10))) == 0

    def test_json(self, out: Callable[[], str]) -> None:
        link = Link(cancelJobs=[True], getJobs=[[job(1)], [job(1, "cancelled")]])
        assert run(link, "cancel", "--json", "1", "2") == 1
        assert json.loads(out()) == [
            {"id": 1, "status": "cancelled", "done": True},
            {"id": 2, "status": None, "done": False},
        ]


class TestSubmit:
    def test_prints_the_ids_of_what_was_given(self, out: Callable[[], str]) -> None:
        link = Link(newjob=[[12, 13, 14]])
        assert run(link, "submit", "--frames", "1-2", "--parent", "7", "--name", "n", "r {start}") == 0
        assert out() == "12\n"
        method, text, parent = link.calls[0]
        assert (method, parent) == ("newjob", 7)
        assert [child["command"] for child in json.loads(text)[0]["children"]] == ["r 1", "r 2"]

    def test_json(self, out: Callable[[], str]) -> None:
        run(Link(newjob=[[12, 13]]), "submit", "--json", "echo")
        assert json.loads(out()) == {"ids": [12], "all": [12, 13]}

    def test_dry_run_calls_nothing(self, out: Callable[[], str]) -> None:
        link = Link()
        assert run(link, "submit", "--dry-run", "echo würfel") == 0
        assert json.loads(out())[0]["command"] == "echo würfel"
        assert not link.calls

    @pytest.mark.parametrize(
        "lost",
        [UnreachableError("weg", arrived=True), FaultError(52, "nobody knows"), FaultError(50, "the store is busy")],
    )
    def test_a_lost_answer_is_asked_for_again_with_the_same_key(
        self, out: Callable[[], str], lost: Exception, capsys: pytest.CaptureFixture[str]
    ) -> None:
        link = Link(newjob=[lost, UnreachableError("noch weg"), [12]])
        options = hq.parser().parse_args(["submit", "echo"])
        options.literal = None
        assert jobs.submit(options, link, Screen(json_wanted=False), FakeClock(auto=True)) == 0
        captured = capsys.readouterr()
        assert captured.out == "12\n"
        assert captured.err.count("submits nothing twice") == 1
        assert len(set(link.calls)) == 1
        assert len(link.calls) == 3
        assert re.fullmatch(r"[0-9a-f]{32}", json.loads(link.calls[0][1])[0]["submissionId"])

    def test_not_for_ever(self) -> None:
        link = Link(newjob=[UnreachableError("weg", arrived=True)])
        options = hq.parser().parse_args(["submit", "echo"])
        options.literal = None
        clock = FakeClock(auto=True)
        with pytest.raises(UnreachableError, match="weg"):
            jobs.submit(options, link, Screen(json_wanted=False), clock)
        assert clock.monotonic() >= following.LONGEST_DOUBT_S
        assert len(link.calls) > 10

    def test_a_call_that_never_arrived_is_not_repeated(self) -> None:
        link = Link(newjob=[UnreachableError("nie da"), [12]])
        with pytest.raises(UnreachableError, match="nie da"):
            run(link, "submit", "echo")

    def test_a_key_of_a_file_stays(self, tmp_path: Path) -> None:
        (tmp_path / "job.json").write_text('{"name": "x", "submissionId": "meins"}')
        link = Link(newjob=[[1]])
        assert run(link, "submit", str(tmp_path / "job.json")) == 0
        assert json.loads(link.calls[0][1])[0]["submissionId"] == "meins"

    def test_fault_is_passed_on(self) -> None:
        with pytest.raises(FaultError, match="name: expected"):
            run(Link(newjob=[FaultError(20, "name: expected text")]), "submit", "echo")

    def test_on_a_terminal_it_says_so(self, out: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Screen, "terminal", property(lambda _: True))
        run(Link(newjob=[[12, 13, 14]]), "submit", "--name", "Würfel", "--frames", "1-2", "r {start}")
        assert out() == "submitted job 12: Würfel\nwith 2 children\n"


class TestWait:
    def wait(self, *answers: Any, ids: tuple[int, ...] = (1,)) -> tuple[int, FakeClock]:
        clock = FakeClock(auto=True)
        return following.wait_for(ids, Link(getJobs=list(answers)), Screen(), clock), clock  # type: ignore[arg-type]

    def test_exits_as_the_job_did(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, clock = self.wait(
            [job(1, "runnable", uiStatus="waiting for machine", clients=[])],
            [job(1)],
            [job(1)],
            [job(1, "failed", exitCode=3)],
        )
        assert code == 3
        assert capsys.readouterr().err.splitlines() == [
            "job 1 waiting for machine",
            "job 1 running on farm07:größe",
            "job 1 failed",
        ]
        assert len(clock.waits) == 3

    @pytest.mark.parametrize(
        ("status", "exit_code", "expected"),
        [
            ("succeeded", 0, 0),
            ("succeeded", None, 0),
            ("failed", 3, 3),
            ("failed", -9, 137),
            ("failed", None, 1),
            ("failed", 0, 1),
            ("failed", 3221225786, 1),
            ("cancelled", 0, 1),
            ("cancelled", None, 1),
        ],
    )
    def test_exit_codes(self, status: str, exit_code: int | None, expected: int) -> None:
        assert self.wait([job(1, status, exitCode=exit_code)])[0] == expected

    def test_abandoned_job_may_come_back(self) -> None:
        assert self.wait([job(1, "abandoned")], [job(1)], [job(1, "succeeded")])[0] == 0

    def test_deleted_job(self) -> None:
        assert self.wait([job(1)], [])[0] == 1

    def test_first_failure_of_several(self) -> None:
        first = [job(1, "succeeded"), job(2), job(3, "failed", exitCode=7)]
        assert self.wait(first, [job(2, "failed", exitCode=5)], ids=(1, 2, 3))[0] == 5

    def test_server_that_restarts_is_waited_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        away, busy = UnreachableError("weg"), FaultError(50, "the database is away")
        full = FaultError(53, "no room")
        code, clock = self.wait([job(1)], away, away, busy, full, [job(1, "succeeded")])
        assert code == 0
        assert len(clock.waits) == 5
        written = capsys.readouterr().err
        assert written.count("weg") == 1
        assert "the server answers again" in written

    def test_other_faults_end_it(self) -> None:
        with pytest.raises(FaultError):
            self.wait([job(1)], FaultError(11, "x"))

    def test_interrupt_leaves_the_job_and_says_which(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.wait([job(1)], KeyboardInterrupt())[0] == EXIT_INTERRUPTED
        assert "job 1 goes on" in capsys.readouterr().err


class TestOutput:
    @staticmethod
    def piece(text: str, at: int, end: int, *, finished: bool) -> dict[str, Any]:
        return {"text": text, "next": at, "end": end, "finished": finished}

    def test_pieces_are_put_together(self, out: Callable[[], str]) -> None:
        link = Link(
            readJobOutput=[self.piece("Wür", 4, 6, finished=True), self.piece("fel", 7, 7, finished=True)],
        )
        assert run(link, "output", "12") == 0
        assert out() == "Würfel"
        assert [call[2] for call in link.calls] == [0, 4]

    def test_without_follow_it_stops_at_the_end(self, out: Callable[[], str]) -> None:
        assert run(Link(readJobOutput=[self.piece("a\n", 2, 2, finished=False)]), "output", "12") == 0
        assert out() == "a\n"

    def test_follow_ends_with_the_job(self, out: Callable[[], str]) -> None:
        link = Link(
            readJobOutput=[
                self.piece("", 0, 0, finished=False),
                self.piece("a\n", 2, 2, finished=False),
                UnreachableError("weg"),
                self.piece("", 2, 2, finished=False),
                self.piece("b\n", 4, 4, finished=True),
            ]
        )
        assert run(link, "output", "-f", "12") == 0
        assert out() == "a\nb\n"

    def test_unknown_and_deleted(self) -> None:
        with pytest.raises(ComplaintError, match="there is no job 12"):
            run(Link(readJobOutput=[None]), "output", "12")
        with pytest.raises(ComplaintError, match="was deleted"):
            run(Link(readJobOutput=[self.piece("a", 1, 1, finished=False), None]), "output", "-f", "12")

    def test_server_that_is_not_there_is_not_waited_for(self) -> None:
        with pytest.raises(UnreachableError):
            run(Link(readJobOutput=[UnreachableError("weg")]), "output", "-f", "12")

    def test_json(self, out: Callable[[], str]) -> None:
        run(Link(readJobOutput=[self.piece("ü", 2, 2, finished=True)]), "output", "--json", "12")
        assert json.loads(out()) == {"id": 12, "output": "ü", "finished": True}


class TestClients:
    client = {  # noqa: RUF012 - read only
        "id": 3,
        "hostname": "farm07",
        "name": "größe",
        "state": "lost",
        "available": False,
        "stateReason": "no heartbeat for 3 minutes",
        "runningJobs": [7, 8],
        "cpus": 64,
        "load": 12.345,
        "memory": 131_900_000,
        "platform": "linux-x86_64",
        "groups": [1, 2],
    }

    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        link = Link(
            getClients=[[self.client]],
            getClientGroups=[[{"id": 1, "name": "gpu"}]],
            getConfig=["0.0.0.0"],
        )
        assert run(link, "clients") == 0
        written = capsys.readouterr()
        assert written.out.splitlines() == [
            "ID  CLIENT        STATE  JOBS  CPUS  LOAD     MEMORY  PLATFORM      GROUPS",
            " 3  farm07:größe  lost      2    64  12.3  125.8 GiB  linux-x86_64  gpu, 2",
            "farm07:größe: no heartbeat for 3 minutes",
        ]
        assert not written.err

    def test_none_yet_on_a_server_that_others_cannot_reach(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(Link(getClients=[[]], getConfig=["127.0.0.1"]), "clients") == 0
        said = capsys.readouterr().err
        assert 'run "hqclient --server http://farm07:5000"' in said
        assert "only this machine can connect; set host = 0.0.0.0" in said


class TestScreen:
    columns = (screen.Column("ID", right=True), screen.Column("NAME", flexible=True), screen.Column("CLIENTS"))

    def rows(self) -> list[tuple[screen.Cell, ...]]:
        return [
            (screen.Cell("123456"), screen.Cell("ein sehr langer Name " * 10, "red"), screen.Cell("farm07.studio.lan"))
        ]

    def test_terminal_of_80_columns_cuts_the_name_alone(self, out: Callable[[], str]) -> None:
        Screen(width=80).table(self.columns, self.rows())
        titles, row = out().splitlines()
        assert len(row) <= 80
        assert row.startswith("123456  ein sehr langer Name")
        assert row.endswith("…  farm07.studio.lan")
        assert titles.index("CLIENTS") == row.index("farm07")

    def test_pipe_gets_everything_without_colours(
        self, out: Callable[[], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        Screen().table(self.columns, self.rows())
        text = out()
        assert ("ein sehr langer Name " * 10).strip() in text
        assert "\x1b" not in text
        assert all(line == line.rstrip() for line in text.splitlines())

    def test_unknown_things_are_no_json(self) -> None:
        with pytest.raises(TypeError, match="set has no place"):
            Screen().json({1})

    def test_dates_are_those_of_the_wire(self, out: Callable[[], str]) -> None:
        Screen().json(datetime(2026, 3, 28, 12, tzinfo=UTC).replace(tzinfo=None))
        assert out() == '"2026-03-28T12:00:00Z"\n'


def test_every_command_can_be_run() -> None:
    """What the parser names is there, and takes what it is given."""
    (commands,) = (action for action in hq.parser()._actions if isinstance(action, argparse._SubParsersAction))
    functions = {"jobs": jobs, "following": following, "clients": clients}
    for one in commands.choices.values():
        module, _, function = one.get_default("runs").partition(".")
        assert callable(getattr(functions[module], function))
