from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from hqueue.client.environment import Environment
from hqueue.client.journal import Journal
from hqueue.client.processes import mark
from hqueue.client.runs import Runs
from hqueue.client.workspace import Workspaces
from hqueue.protocol import Assignment, Listed, NetworkFolder, Piece, Report, Resend, Wish
from tests.clientfakes import FakeStarter, FakeSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INT, KILL = signal.SIGINT, signal.SIGKILL


class Client:
    """Runs on a state folder of their own, with a runner and processes that do as the test says."""

    def __init__(self, folder: Path, *, boot: str = "boot-1") -> None:
        self.folder = folder
        self.system = FakeSystem()
        self.starter = FakeStarter()
        self.journal = Journal(folder / "runs.jsonl")
        self.environment = Environment({"PATH": "/usr/bin:/bin"}, {}, "http://farm:5000")
        self.swept: list[str] = []
        self.runs = Runs(
            journal=self.journal,
            workspaces=Workspaces(folder / "runs", self.swept.append),
            environment=self.environment,
            starter=self.starter,
            system=self.system,
            key="schlüssel",
            boot=boot,
            umask=0o022,
        )
        self.runs.load()

    def again(self, *, boot: str = "boot-1") -> Client:
        """Return the client after a kill -9: what was not flushed is gone."""
        self.journal.close()
        return Client(self.folder, boot=boot)

    def assign(self, token: str = "t1", **more: Any) -> None:
        self.runs.take([Assignment(token, 12, **{"command": "true", **more})])

    def run(self, token: str = "t1", pid: int = 100, at: float = 1000.0, **more: Any) -> None:
        """Assign a run and have it started."""
        self.assign(token, **more)
        self.system.add(pid)
        self.runs.runner_said({"event": "started", "token": token, "pid": pid, "started": 10.0, "at": at}, at)

    def end(self, token: str = "t1", pid: int = 100, at: float = 1005.0, exit_code: int = 0, number: int = 0) -> None:
        self.system.remove(pid)
        event = {
            "event": "ended",
            "token": token,
            "exit_code": exit_code,
            "signal": number,
            "peak": 900,
            "ended_at": at,
        }
        self.runs.runner_said(event, at)
        self.runs.tick(at)

    def listed(self, now: float = 1001.0) -> dict[str, Listed]:
        return {entry.token: entry for entry in self.runs.account.listing(now)}

    def report(self, now: float = 2000.0) -> Report:
        (report,) = self.runs.account.reports(now, 10)
        return report


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    yield client
    client.runs.settle()


class TestTaking:
    def test_a_folder_that_was_removed_is_made_again(self, client: Client) -> None:
        (client.folder / "runs").rmdir()
        client.assign()
        assert client.listed()["t1"].state == "held"
        assert (client.folder / "runs" / "t1").is_dir()
        assert (client.folder / "runs").stat().st_mode & 0o777 == 0o700

    def test_it_is_on_the_disk_before_it_is_started(self, client: Client) -> None:
        on_disk: list[str] = []
        start = client.starter.start

        def watch(order: dict[str, Any]) -> bool:
            on_disk.append((client.folder / "runs.jsonl").read_text())
            return start(order)

        client.starter.start = watch  # type: ignore[method-assign]
        client.assign()
        assert '"t1"' in on_disk[0]
        assert client.listed()["t1"].state == "held"

    def test_a_repeated_assignment_is_only_listed(self, client: Client) -> None:
        client.run()
        client.assign()
        assert len(client.starter.started) == 1
        client = client.again()
        client.runs.runner_there([{"token": "t1", "pid": 100, "started": 10.0, "at": 1000.0}], 1001.0)
        client.assign()
        assert client.starter.started == []
        assert client.listed()["t1"].state == "running"

    def test_one_that_no_runner_heard_of_is_started_after_a_restart(self, client: Client) -> None:
        client.assign(command="echo Grüße", environment={"A": "1"})
        client = client.again()
        client.runs.runner_there([], 1001.0)
        (order,) = client.starter.started
        assert order["environment"]["A"] == "1"
        assert (client.folder / "runs" / "t1.script").read_text() == "echo Grüße\n"

    def test_one_that_came_while_there_was_no_runner_is_started_by_the_next(self, client: Client) -> None:
        client.starter.there = False
        client.assign()
        client.starter.there = True
        client.runs.runner_died({}, 1001.0)
        client.runs.runner_there([], 1001.0)
        assert len(client.starter.started) == 1
        assert client.listed()["t1"].state == "held"

    def test_a_token_that_is_no_file_name(self, client: Client) -> None:
        client.assign("../../etc/passwd\n" + "x" * 300)
        (order,) = client.starter.started
        assert order["cwd"].startswith(str(client.folder / "runs"))
        assert ".." not in order["cwd"]

    def test_a_full_disk_refuses(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def full() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(client.journal, "flush", full)
            client.assign()
        report = client.report()
        assert (report.outcome, report.message) == ("refused", f"the disk of {client.folder} is full")
        assert client.starter.started == []
        assert client.again().listed() == {}

    def test_without_a_runner_it_refuses(self, client: Client) -> None:
        client.starter.problem = "the client cannot start the process that runs commands: no memory"
        client.assign()
        assert client.report().message == client.starter.problem

    def test_about_to_stop_it_refuses(self, client: Client) -> None:
        client.runs.terminate(1000.0)
        client.assign()
        assert client.report().outcome == "refused"


class TestWhoseFault:
    """A client says of what it refuses whose fault that is."""

    def fault(self, client: Client, **more: Any) -> str:
        client.assign(**more)
        return client.report().fault

    def test_the_jobs(self, client: Client) -> None:
        assert self.fault(client, environment={"A=B": "c"}) == "job"

    @pytest.mark.parametrize("shell", ["fisch", "cmd", "/etc", "/etc/passwd", "/nowhere/bash"])
    def test_a_shell_that_is_not_there(self, client: Client, shell: str) -> None:
        assert self.fault(client, shell=shell) == "shell"

    def test_a_shell_on_a_network_folder_that_is_not_mounted(self, client: Client) -> None:
        client.environment.set_folders([NetworkFolder("HQROOT", linux="/mnt/nowhere", main=True)])
        assert self.fault(client, shell="/mnt/nowhere/bin/zsh") == "machine"

    def test_beside_a_network_folder_it_is_no_fault_of_the_machine(self, client: Client) -> None:
        client.environment.set_folders([NetworkFolder("HQROOT", linux="/mnt/nowhere", main=True)])
        assert self.fault(client, shell="/mnt/nowhere-else/zsh") == "shell"

    @pytest.mark.parametrize(("said", "fault"), [({"fault": "job"}, "job"), ({}, "machine")])
    def test_the_runner_knows(self, client: Client, said: dict[str, str], fault: str) -> None:
        client.assign()
        client.runs.runner_said({"event": "failed", "token": "t1", "message": "nein", **said}, 1001.0)
        assert client.report().fault == fault

    def test_a_full_disk_is_the_machines(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            client.assign()
        assert client.report().fault == "machine"

    def test_bash_is_found_whatever_path_a_job_brings(self, client: Client) -> None:
        client.assign(shell="bash", environment={"PATH": "/Applications/bin"})
        assert client.starter.started[0]["argv"][0].endswith("/bash")


class TestEnding:
    def test_a_result_is_listed_until_acknowledged_also_after_a_restart(self, client: Client) -> None:
        client.run()
        client.end(exit_code=3)
        client.runs.settle()
        assert client.starter.forgotten == ["t1"]
        expected = client.report()
        assert (expected.outcome, expected.exit_code, expected.seconds) == ("exited", 3, 5.0)
        client = client.again()
        client.runs.runner_there([], 1010.0)
        assert client.listed()["t1"].state == "ended"
        assert client.runs.account.reports(1010.0, 10) == []  # what the server has of its output is asked first
        client.runs.account.lengths([Piece(token="t1", data=b"")], [0])
        assert client.report() == expected
        client.runs.acknowledge(["t1"])
        client.runs.settle()
        assert client.listed() == {}
        assert client.again().listed() == {}

    def test_the_runner_keeps_a_result_that_could_not_be_written(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        client.run()
        with monkeypatch.context() as patch:
            patch.setattr(client.journal, "flush", full)
            client.end()
            client.runs.settle()
            assert client.starter.forgotten == []
        client.runs.settle()
        assert client.starter.forgotten == ["t1"]

    def test_a_signal_is_told_as_a_shell_would(self, client: Client) -> None:
        client.run()
        client.end(number=11)
        report = client.report()
        assert (report.outcome, report.exit_code, report.signal) == ("exited", 139, 11)

    def test_a_restarted_machine(self, client: Client) -> None:
        client.run("mine")
        client.run("done", pid=101)
        client.end("done", pid=101)
        client.run("ended", pid=102)
        client.runs.settle()
        client = client.again(boot="boot-2")
        client.system.add(100)  # the number is somebody else's, who was even started at the same tick
        entries = {
            "ended": {"pid": 102, "started": 10.0, "at": 1.0, "exit_code": 4, "signal": 0, "peak": 1, "ended_at": 2.0}
        }
        client.runs.runner_died(entries, 5.0)
        for run in client.runs:
            run.output.server_has(0)
        outcomes = {report.token: report.outcome for report in client.runs.account.reports(6.0, 10)}
        assert outcomes == {"mine": "lost", "done": "exited", "ended": "exited"}
        assert client.system.sent == []

    def test_a_dead_runners_run_is_lost_once_it_is_proved_dead(self, client: Client) -> None:
        client.run()
        client.runs.runner_died({}, 1002.0)
        assert client.system.sent[0] == (-100, KILL)
        assert client.listed()["t1"].state == "dying"
        assert client.runs.account.reports(1002.0, 10) == []
        client.system.remove(100)
        client.runs.tick(1003.0)
        assert client.report().outcome == "lost"

    def test_a_run_whose_start_nobody_saw_is_found_by_its_mark(self, client: Client) -> None:
        client.assign()
        client.system.add(100, mark=mark("schlüssel", "t1"))
        client.runs.runner_died({}, 1002.0)
        assert (100, KILL) in client.system.sent
        client.system.remove(100)
        client.runs.tick(1003.0)
        assert client.report().outcome == "lost"


class TestWishing:
    def wish(self, client: Client, wish: str, number: int, now: float = 1001.0, reason: str = "cancelled") -> None:
        client.runs.wish([Wish("t1", wish, number, reason)], now)

    def test_halted_time_does_not_count(self, client: Client) -> None:
        client.run(at=1000.0)
        client.runs.news = False
        self.wish(client, "halt", 1, now=1003.0)
        assert client.runs.news
        entry = client.listed(1100.0)["t1"]
        assert (entry.state, entry.wish, entry.seconds) == ("halted", 1, 3.0)
        client.runs.settle()
        client = client.again()
        client.system.add(100)
        client.runs.runner_there([{"token": "t1", "pid": 100, "started": 10.0, "at": 1000.0}], 1150.0)
        self.wish(client, "run", 2, now=1200.0)
        assert client.listed(1202.0)["t1"].seconds == pytest.approx(5.0)
        assert client.listed(1202.0)["t1"].state == "running"

    def test_an_old_wish_is_passed_over(self, client: Client) -> None:
        client.run()
        self.wish(client, "halt", 2)
        self.wish(client, "run", 1)
        assert client.listed()["t1"].state == "halted"
        assert client.listed()["t1"].wish == 2

    def test_a_wish_for_one_that_is_just_starting_waits_for_it(self, client: Client) -> None:
        client.assign()
        self.wish(client, "halt", 1)
        assert client.listed()["t1"].wish == 0
        client.system.add(100)
        client.runs.runner_said({"event": "started", "token": "t1", "pid": 100, "started": 10.0, "at": 1002.0}, 1002.0)
        assert (client.listed()["t1"].state, client.listed()["t1"].wish) == ("halted", 1)

    def test_a_kill_is_on_the_disk_before_the_first_signal(self, client: Client) -> None:
        client.run()
        self.wish(client, "die", 1, reason="ejected")
        assert client.system.sent[0] == (-100, INT)
        assert client.starter.spared == ["t1"]
        client = client.again()
        ended = {"token": "t1", "pid": 100, "started": 10.0, "at": 1000.0, "exit_code": 0, "signal": 0, "peak": 1}
        client.runs.runner_there([{**ended, "ended_at": 1002.0}], 1003.0)
        client.runs.account.lengths([Piece(token="t1", data=b"")], [0])
        report = client.report()
        assert (report.outcome, report.kill_reason, report.exit_code) == ("killed", "ejected", 0)
        assert client.listed()["t1"].wish == 1

    def test_an_end_after_we_began_to_kill_is_a_kill(self, client: Client) -> None:
        client.run()
        self.wish(client, "die", 1)
        assert client.listed()["t1"].state == "dying"
        self.wish(client, "run", 2)
        assert client.listed()["t1"].state == "dying"
        client.end(exit_code=0)
        assert client.report().outcome == "killed"

    def test_an_end_before_is_not(self, client: Client) -> None:
        client.run()
        client.end(exit_code=3)
        self.wish(client, "die", 1)
        assert client.report().outcome == "exited"
        assert client.system.sent == []

    def test_it_is_not_over_while_a_descendant_lives_and_that_condemns_the_machine(self, client: Client) -> None:
        client.run()
        client.system.add(101, parent=100, group=101, session=101)
        self.wish(client, "die", 1, now=1001.0)
        client.end(at=1002.0)
        assert client.listed()["t1"].state == "dying"
        client.runs.news = False
        for now in range(1003, 1040):
            client.runs.tick(float(now))
        assert client.runs.account.condemned == "process 101 of job 12 would not die"
        assert client.runs.news
        client.system.remove(101)
        client.runs.tick(1045.0)
        assert client.runs.account.condemned == ""
        assert client.report().outcome == "killed"

    def test_what_took_too_long(self, client: Client) -> None:
        client.run(at=1000.0, max_time_s=60)
        assert client.runs.next_due(1001.0) <= 1060.0
        client.runs.tick(1059.9)
        assert client.system.sent == []
        client.runs.tick(1060.0)
        assert client.system.sent[0] == (-100, INT)
        client.end(at=1060.5, number=2)
        report = client.report()
        assert (report.outcome, report.kill_reason, report.seconds) == ("killed", "time", 60.5)

    def test_terminating_cancels_what_is_halted_and_what_would_be(self, client: Client) -> None:
        client.run()
        client.run("t2", pid=101)
        self.wish(client, "halt", 1)
        client.runs.terminate(1002.0)
        assert {token: entry.state for token, entry in client.listed().items()} == {"t1": "dying", "t2": "running"}
        client.runs.wish([Wish("t2", "halt", 1, "")], 1003.0)
        assert client.listed()["t2"].state == "dying"

    def test_a_run_unknown_to_this_disk_is_shown_to_the_server(self, client: Client) -> None:
        client.system.add(100)
        client.runs.runner_there([{"token": "fremd", "pid": 100, "started": 10.0, "at": 1000.0}], 1001.0)
        assert client.listed()["fremd"].state == "running"
        client.runs.wish([Wish("fremd", "die", 1, "unknown")], 1002.0)
        client.end("fremd")
        assert client.report().kill_reason == "unknown"


class TestVersion010:
    """What 0.1.0 left on the disk, and a runner of it that is still at work."""

    JOURNAL = (
        '{"token":"new","job":12,"boot":"boot-1","max_s":7.0,"assignment":{"token":"new","runId":3,"jobId":12,"attempt":1,'
        '"name":"B\\u00e4r","command":"echo hallo","shell":"","environment":{"A":"1"},"maxTime":7,"hosts":["farm07"],'
        '"tags":[],"cpus":1}}\n'
        '{"token":"done","job":13,"boot":"boot-1","pid":99,"started":10.0,"at":1000.0,"ended":[3,0,900,1005.0],'
        '"report":{"token":"done","outcome":"exited","exitCode":3,"signal":0,"reason":"","seconds":5.0,"peakMemory":900,'
        '"message":""},"output_bytes":0,"wish_done":0}\n'
    )

    def test_its_journal_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "runs.jsonl").write_text(self.JOURNAL)
        client = Client(tmp_path)
        client.runs.runner_there([], 1010.0)
        (order,) = client.starter.started
        assert (order["token"], order["environment"]["A"], order["environment"]["JOBID"]) == ("new", "1", "12")
        assert (tmp_path / "runs" / "new.script").read_text() == "echo hallo\n"
        client.runs.account.lengths([Piece(token="done", data=b"")], [0])
        report = Report("done", "exited", exit_code=3, signal=0, seconds=5.0, peak_memory_kb=900)
        assert client.report() == report
        client.runs.settle()

    def test_its_runner_is_understood(self, client: Client) -> None:
        client.run()
        client.system.remove(100)
        event = {"event": "ended", "token": "t1", "status": 4, "signal": 0, "peak": 1, "ended_at": 1002.0}
        client.runs.runner_said(event, 1002.0)
        assert client.report().exit_code == 4


class TestResending:
    def test_output_that_was_removed_is_told_also_by_the_next_daemon(self, client: Client) -> None:
        client.run()
        file = client.folder / "runs" / "t1.output"
        file.write_bytes(b"0123456789")
        client.runs.tick(1001.0)
        file.unlink()
        client.runs.tick(1002.0)
        client.runs.settle()
        client = client.again()
        client.runs.runner_there([{"token": "t1", "pid": 100, "started": 10.0, "at": 1000.0}], 1003.0)
        client.system.add(100)
        client.end()
        client.runs.account.lengths([Piece(token="t1", data=b"")], [0])
        assert client.report().lost_output == "its file was removed, with 10 bytes or more"

    def test_an_end_that_waits_tells_of_output_that_is_gone(self, client: Client) -> None:
        client.run()
        (client.folder / "runs" / "t1.output").write_bytes(b"0123456789")
        client.end()
        client.runs.settle()
        (client.folder / "runs" / "t1.output").unlink()
        client = client.again()
        account = client.runs.account
        account.lengths(account.pieces(100), [4])
        account.lengths(account.pieces(100), [4])
        report = client.report()
        assert report.lost_output == "6 bytes of its file cannot be read any more"
        assert report.output_bytes == 4

    def test_output_written_to_a_full_disk(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        client.run()
        client.run("t2", 200)
        (client.folder / "runs" / "t1.output").write_bytes(b"")
        (client.folder / "runs" / "t2.output").write_bytes(b"")
        room = os.statvfs(client.folder)
        full = os.statvfs_result((room.f_bsize, room.f_frsize, room.f_blocks, *[0] * 7))
        client.end("t1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda _path: full)
            client.runs.tick(1010.0)
        client.end("t2", 200)
        told = {report.token: report.lost_output for report in client.runs.account.reports(2000.0, 10)}
        assert told == {"t1": "", "t2": f"the disk of {client.folder / 'runs'} was full while it ran"}

    def test_progress_goes_with_the_output_it_was_read_from(self, client: Client) -> None:
        client.run()
        (client.folder / "runs" / "t1.output").write_bytes(b"PROGRESS: 1/4\nPROGRESS: 2/4\n")
        client.runs.tick(1001.0)
        pieces = client.runs.account.pieces(14)
        assert [piece.progress for piece in pieces] == [(1, 4)]
        client.runs.account.lengths(pieces, [14])
        assert [piece.progress for piece in client.runs.account.pieces(14)] == [(2, 4)]

    def test_a_report_waits_for_output_and_for_a_while(self, client: Client) -> None:
        client.run()
        (client.folder / "runs" / "t1.output").write_bytes(b"0123456789")
        client.end(at=1005.0)
        account = client.runs.account
        assert account.reports(1005.0, 10) == []
        assert account.ended_output
        pieces = account.pieces(1 << 18)
        assert [(piece.token, piece.offset, piece.data) for piece in pieces] == [("t1", 0, b"0123456789")]
        assert account.lengths(pieces, [10])
        assert account.reports(1005.0, 10)[0].output_bytes == 10
        account.resend([Resend("t1", 4)], 1006.0)
        pieces = account.pieces(1 << 18)
        assert [(piece.token, piece.offset, piece.data) for piece in pieces] == [("t1", 4, b"456789")]
        account.lengths(pieces, [10])
        assert account.reports(1006.5, 10) == []
        client.runs.news = False
        client.runs.tick(client.runs.next_due(1006.5))
        assert client.runs.news
        assert account.reports(1007.0, 10)[0].output_bytes == 10

    def test_several_runs_share_a_call_and_ended_ones_go_first(self, client: Client) -> None:
        for number in range(3):
            client.run(f"t{number}", pid=100 + number)
            (client.folder / "runs" / f"t{number}.output").write_bytes(b"x" * 200_000)
        client.runs.tick(1001.0)
        client.end("t2", pid=102)
        pieces = client.runs.account.pieces(256 * 1024)
        assert [piece.token for piece in pieces] == ["t2", "t0"]
        assert sum(len(piece.data) for piece in pieces) == 256 * 1024
