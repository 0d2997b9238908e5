"""The real daemon and the real runner, as processes, against a farm server written for these tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import xmlrpc.client
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.farm import eventually
from tests.farmserver import PATIENCE_S, Farm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the signals and /proc of Linux")

ROOT = Path(__file__).resolve().parent.parent.parent
MAIN = """
import sys
from hqueue.client.daemon import main
from hqueue.config import load_client_config
sys.exit(main(load_client_config(None, dict(argument.split("=", 1) for argument in sys.argv[1:]), {"HOME": "/"})))
"""


def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Wait for something that only looking at can tell: a process, a file."""
    never = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if found := condition():
            return found
        never.wait(0.01)
    raise AssertionError("it did not happen")


def hold(folder: Path) -> str:
    """Return a command that lasts until there is a file `go`."""
    return f"until [ -e {folder}/go ]; do sleep 0.05; done"


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Client:
    """A daemon's process and its state folder."""

    def __init__(self, farm: Farm, folder: Path, **settings: str) -> None:
        self.farm = farm
        self.folder = folder
        self.settings = {"server": f"127.0.0.1:{farm.port}", "listen_port": "0", "state_dir": str(folder), **settings}
        self.process: subprocess.Popen[str] | None = None
        self.ready = ""
        self.errors = ""

    def start(self, *, registers: bool = True, **popen: Any) -> Client:
        """Start the daemon and wait until the farm knows it, if it ever will."""
        before = len(self.farm.clients)
        arguments = [f"{key}={value}" for key, value in self.settings.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", MAIN, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )
        self.ready = self.process.stdout.readline()
        if registers:
            self.farm.until(lambda: len(self.farm.clients) > before)
        return self

    def wait(self) -> int:
        """Wait for its end; what it complained of is in `errors`."""
        _, self.errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    @property
    def runner(self) -> int:
        return int((self.folder / "runner.lock").read_text().split()[0])

    def log(self) -> str:
        return (self.folder / "hqnode.log").read_text()

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        with contextlib.suppress(OSError, ValueError, IndexError):
            if not gone(self.runner):
                for child in psutil.Process(self.runner).children(recursive=True):
                    child.kill()
                os.kill(self.runner, signal.SIGKILL)


@pytest.fixture
def farm() -> Iterator[Farm]:
    farm = Farm(interval_s=0.2, grace_s=0.3)
    farm.start()
    yield farm
    farm.stop()


@pytest.fixture
def make_client(farm: Farm, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(name: str = "Zürich", **settings: str) -> Client:
        clients.append(Client(farm, tmp_path / f"state-{name}", name=name, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.clean_up()


@pytest.fixture
def client(farm: Farm, make_client: Callable[..., Client]) -> Client:
    return make_client().start()


def pid_in(path: Path) -> int:
    """Wait for a command to write its process number somewhere."""
    return int(until(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text()))


class TestCommands:
    def test_a_command_runs_and_its_output_result_and_facts_arrive(self, farm: Farm, client: Client) -> None:
        token = farm.submit("echo Grüße; echo fehler >&2\nread line || echo no input\nexit 3")
        report = farm.result(token)
        assert (report.outcome, report.exit_code, report.signal, report.kill_reason) == ("exited", 3, 0, "")
        assert farm.text(token) == "Grüße\nfehler\nno input\n"
        assert report.output_bytes == len(farm.output[token])
        assert report.peak_memory_kb > 1000
        assert 0 < report.seconds < 10
        assert client.ready.startswith("hqclient ")
        assert f":{farm.clients[0].port}," in client.ready
        assert (client.folder / "hqnode.port").read_text().strip() == str(farm.clients[0].port)
        assert (client.folder / "hqnode.pid").read_text().strip() == str(client.process.pid)
        assert "INFO Running job 1\n" in client.log()
        assert "INFO Finished job 1\n" in client.log()

    def test_nothing_is_left_of_an_acknowledged_run(self, farm: Farm, client: Client) -> None:
        farm.result(farm.submit("mkdir -p a/b && echo x > a/b/c && chmod 500 a/b"))
        until(lambda: not any((client.folder / "runs").iterdir()))
        assert client.stop() == 0
        assert (client.errors, (client.folder / "runner.log").read_text()) == ("", "")
        assert not (client.folder / "hqnode.pid").exists()

    def test_the_environment_of_a_command(self, farm: Farm, make_client: Callable[..., Client], tmp_path: Path) -> None:
        ini = {"VIRTUAL_ENV": "/venv", "PYTHONHOME": "", "FROM_DAEMON": "yes", "PATH": os.environ["PATH"]}
        client = make_client(umask="027").start(env={**ini, "PYTHONPATH": str(ROOT)})
        token = farm.submit(
            "env -0; umask; pwd; touch made-here",
            environment={"MEHRZEILIG": 'eins\nzwei "drei" {"vier": 5}', "Groß": "klein", "HQCLIENT": "mine"},
        )
        farm.result(token)
        *variables, rest = farm.text(token).split("\0")
        environment = dict(variable.split("=", 1) for variable in variables)
        umask, folder = rest.split()
        assert umask == "0027"
        assert folder == environment["TMPDIR"] == str(client.folder / "runs" / token)
        assert environment["MEHRZEILIG"] == 'eins\nzwei "drei" {"vier": 5}'
        assert environment["Groß"] == "klein"
        assert environment["FROM_DAEMON"] == "yes"
        assert environment["JOBID"] == "1"
        assert environment["HQSERVER"] == f"http://127.0.0.1:{farm.port}"
        assert environment["HQROOT"] == "/mnt/hq"
        assert environment["TEXTURES"] == "/mnt/texturen"
        assert environment["HQCLIENT"] == str(ROOT / "hqueue" / "client")
        assert environment["HQHOSTS"] == "farm07,farm08"
        assert environment["HQCLIENTARCH"] == f"linux-{os.uname().machine}"
        assert not {"VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH"} & environment.keys()

    def test_a_command_of_any_length_and_another_shell(self, farm: Farm, client: Client) -> None:
        long = farm.submit("\n".join(f"x={number}" for number in range(60_000)) + "\necho $x")
        other = farm.submit("echo $0 ${BASH_VERSION:-none}", shell="sh")
        assert farm.result(long).exit_code == farm.result(other).exit_code == 0
        assert farm.text(long) == "59999\n"
        assert farm.text(other).endswith("none\n")

    def test_a_command_killed_by_a_signal(self, farm: Farm, client: Client) -> None:
        report = farm.result(farm.submit("kill -SEGV $$"))
        assert (report.outcome, report.exit_code, report.signal) == ("exited", 139, 11)

    def test_what_a_machine_cannot_do_is_refused_with_a_sentence(self, farm: Farm, client: Client) -> None:
        shell = farm.result(farm.submit("true", shell="fisch"))
        nul = farm.result(farm.submit("true", environment={"A=B": "c"}))
        big = farm.result(farm.submit("true", environment={"BIG": "x" * 200_000}))
        (client.folder / "runs").rename(client.folder / "elsewhere")
        (client.folder / "runs").write_text("in the way")
        disk = farm.result(farm.submit("true"))
        assert {report.outcome for report in (shell, nul, big, disk)} == {"refused"}
        assert [report.fault for report in (shell, nul, big, disk)] == ["shell", "job", "job", "machine"]
        assert shell.message == "there is no shell named 'fisch' on this machine"
        assert "A=B" in nul.message
        assert "Argument list too long" in big.message
        assert str(client.folder / "runs") in disk.message
        (client.folder / "runs").unlink()
        assert farm.result(farm.submit("true")).outcome == "exited"

    def test_a_folder_that_is_removed_while_a_command_runs(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo vorher; {hold(tmp_path)}; echo nachher")
        farm.until(lambda: farm.text(token) == "vorher\n")
        shutil.rmtree(client.folder / "runs")
        (tmp_path / "go").touch()
        report = farm.result(token)
        assert (report.outcome, report.exit_code) == ("exited", 0)
        assert report.lost_output == "its file was removed, with 0 bytes or more"
        assert farm.result(farm.submit("true")).outcome == "exited"

    def test_what_is_news_does_not_wait_for_the_next_heartbeat(
        self, farm: Farm, make_client: Callable[..., Client], tmp_path: Path
    ) -> None:
        farm.interval_s = 3600.0
        make_client().start()
        first = farm.submit("true")
        farm.result(first)
        refused = farm.submit("true", shell="fisch")
        farm.result(refused)
        token = farm.submit(f"echo $$ > {tmp_path}/pid; sleep 1000")
        pid_in(tmp_path / "pid")
        farm.wish(token, "halt")
        farm.until(lambda: farm.state(token) == "halted")
        farm.wish(token, "die")
        farm.result(token)

    def test_many_at_once(self, farm: Farm, client: Client) -> None:
        tokens = [farm.submit(f"echo {number}; exit {number % 7}", ring=False) for number in range(120)]
        farm.ring()
        results = [farm.result(token) for token in tokens]
        assert [report.exit_code for report in results] == [number % 7 for number in range(120)]
        assert [farm.text(token) for token in tokens] == [f"{number}\n" for number in range(120)]
        assert set(farm.times_reported.values()) == {1}


class TestOutput:
    def test_output_is_seen_while_the_command_runs(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo erste; {hold(tmp_path)}; echo zweite")
        farm.until(lambda: farm.text(token) == "erste\n", 2.0)
        assert token not in farm.reports
        (tmp_path / "go").touch()
        farm.result(token)
        assert farm.text(token) == "erste\nzweite\n"

    def test_much_output_goes_in_pieces_and_arrives_whole(self, farm: Farm, client: Client) -> None:
        token = farm.submit("seq 1 300000")
        assert farm.result(token).output_bytes == len(farm.output[token]) > 1_900_000
        assert farm.text(token) == "".join(f"{number}\n" for number in range(1, 300_001))

    def test_what_the_server_lost_is_sent_again(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo 0123456789; {hold(tmp_path)}; echo end")
        farm.until(lambda: farm.text(token) == "0123456789\n")
        with farm.changed:
            farm.next_length = 4
        (tmp_path / "go").touch()
        assert farm.result(token).output_bytes == 15
        assert farm.text(token) == "0123456789\nend\n"

    def test_an_end_report_that_comes_too_early_waits_for_its_output(self, farm: Farm, client: Client) -> None:
        farm.keep_reports = True
        token = farm.submit("echo 0123456789")
        farm.result(token)
        with farm.changed:
            farm.keep_reports = False
            del farm.reports[token]
            del farm.output[token][3:]
        farm.ring()
        farm.result(token)
        assert farm.text(token) == "0123456789\n"

    def test_a_script_that_cuts_its_output_short_holds_nothing_up(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        token = farm.submit(f"echo eins; {hold(tmp_path)}; echo zwei > /dev/stderr")
        farm.until(lambda: farm.text(token) == "eins\n")
        (tmp_path / "go").touch()
        farm.result(token)
        assert farm.text(token) == "eins\nzwei\n"

    def test_progress(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(
            f"printf 'Bild PROGRESS: 3/9 x\\r'; {hold(tmp_path)}; printf 'PROGRESS: 5/0\\nALF_PROGRESS 120%%'"
        )
        farm.until(lambda: farm.text(token))
        farm.ring()
        farm.until(lambda: farm.listed[token].progress == (3, 9))
        (tmp_path / "go").touch()
        assert farm.result(token).progress == (100, 100)


class TestCrashes:
    def test_a_daemon_killed_and_restarted_adopts_its_runs(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo vorher >> {tmp_path}/starts; echo vorher; {hold(tmp_path)}; echo nachher")
        farm.until(lambda: farm.text(token) == "vorher\n")
        client.kill()
        client.start()
        assert farm.clients[1].incarnation == farm.clients[0].incarnation + 1
        assert farm.clients[1].key == farm.clients[0].key
        (tmp_path / "go").touch()
        assert farm.result(token).exit_code == 0
        assert farm.text(token) == "vorher\nnachher\n"
        assert (tmp_path / "starts").read_text() == "vorher\n"

    def test_whatever_the_moment_of_the_crash_every_command_runs_once(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        farm.slots = 16
        tokens = [farm.submit(f"echo {number} >> {tmp_path}/starts; echo {number}") for number in range(150)]
        for reported in range(15, 150, 27):
            farm.until(lambda enough=reported: len(farm.reports) >= enough)
            client.kill()
            client.start()
        results = [farm.result(token) for token in tokens]
        assert {report.outcome for report in results} == {"exited"}
        assert sorted(map(int, (tmp_path / "starts").read_text().split())) == list(range(150))
        assert [farm.text(token) for token in tokens] == [f"{number}\n" for number in range(150)]

    def test_a_run_that_ends_without_a_daemon_is_reported_by_the_next(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        token = farm.submit(f"echo $$ > {tmp_path}/pid; {hold(tmp_path)}; echo fertig; exit 5")
        pid = pid_in(tmp_path / "pid")
        client.kill()
        (tmp_path / "go").touch()
        until(lambda: gone(pid))
        client.start()
        assert farm.result(token).exit_code == 5
        assert farm.text(token) == "fertig\n"

    def test_a_killed_runner_loses_its_runs_after_proof_of_their_death(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        token = farm.submit(
            f"trap '' INT TERM; setsid sleep 1000 & echo $! > {tmp_path}/far; echo $$ > {tmp_path}/pid; wait"
        )
        pid, far = pid_in(tmp_path / "pid"), pid_in(tmp_path / "far")
        runner = client.runner
        os.kill(runner, signal.SIGKILL)
        report = farm.result(token)
        assert report.outcome == "lost"
        assert "killed" in report.message
        assert gone(pid)
        assert gone(far)
        assert farm.result(farm.submit("true")).exit_code == 0
        assert client.runner != runner

    def test_daemon_and_runner_killed(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo teil; echo $$ > {tmp_path}/pid; sleep 1000")
        pid = pid_in(tmp_path / "pid")
        client.kill()
        os.kill(client.runner, signal.SIGKILL)
        client.start()
        assert farm.result(token).outcome == "lost"
        assert gone(pid)
        assert farm.text(token) == "teil\n"

    def test_a_restarted_machine_lost_its_runs_and_nobody_else_is_killed(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        token = farm.submit(f"echo $$ > {tmp_path}/pid; sleep 1000")
        pid = pid_in(tmp_path / "pid")
        client.kill()
        os.kill(client.runner, signal.SIGKILL)
        # As after a restart: another boot, and the number belongs to somebody else (who still is our own, here).
        journal = client.folder / "runs.jsonl"
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        journal.write_text("".join(json.dumps({**line, "boot": "an earlier one"}) + "\n" for line in lines))
        client.start()
        report = farm.result(token)
        assert (report.outcome, report.message) == (
            "lost",
            "the machine was restarted while the command was running on it",
        )
        assert not gone(pid)
        os.killpg(pid, signal.SIGKILL)

    def test_a_stopped_daemon_leaves_its_runs_alone(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo $$ > {tmp_path}/pid; {hold(tmp_path)}")
        pid = pid_in(tmp_path / "pid")
        assert client.stop() == 0
        assert client.errors == ""
        assert not gone(pid)
        client.start()
        (tmp_path / "go").touch()
        assert farm.result(token).exit_code == 0

    def test_a_runner_that_does_not_answer_is_replaced(self, farm: Farm, client: Client) -> None:
        runner = client.runner
        client.kill()
        # The socket is there, and nobody at it: as after a kill -9, but with the folder's lock still taken.
        (client.folder / "runner.sock").unlink()
        client.start()
        assert farm.result(farm.submit("true")).exit_code == 0
        until(lambda: gone(runner))


class TestOutages:
    def test_reports_and_output_wait_for_the_server(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo vorher; {hold(tmp_path)}; echo nachher; exit 4")
        farm.until(lambda: farm.text(token) == "vorher\n")
        with farm.away():
            (tmp_path / "go").touch()
            until(lambda: "Finished job 1" in client.log())
        assert farm.result(token).exit_code == 4
        assert farm.text(token) == "vorher\nnachher\n"

    def test_also_over_a_restart_of_the_daemon(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"{hold(tmp_path)}; echo PROGRESS: 2/4; exit 4")
        farm.until(lambda: token in farm.listed)
        with farm.away():
            (tmp_path / "go").touch()
            until(lambda: "Finished job 1" in client.log())
            client.kill()
            client.start(registers=False)
        report = farm.result(token)
        assert (report.outcome, report.exit_code, report.progress) == ("exited", 4, (2, 4))
        assert farm.text(token) == "PROGRESS: 2/4\n"

    def test_a_server_that_forgot_the_client_is_told_again(self, farm: Farm, client: Client) -> None:
        token = farm.submit("sleep 1000")
        farm.until(lambda: token in farm.listed)
        with farm.changed:
            farm.forget.add("farm.heartbeat")
        farm.ring()
        farm.until(lambda: len(farm.clients) == 2)
        beats = len(farm.heartbeats)
        farm.until(lambda: len(farm.heartbeats) > beats)
        assert [run.token for run in farm.heartbeats[-1].runs] == [token]

    def test_a_refused_client_says_why_and_ends(self, farm: Farm, make_client: Callable[..., Client]) -> None:
        farm.refuse = "another machine is registered as farm07; give this one a name"
        client = make_client().start(registers=False)
        assert client.wait() == 3
        assert farm.refuse in client.errors
        assert len(client.errors.splitlines()) == 1

    def test_a_client_replaced_by_another_ends_its_commands(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        farm.submit(f"echo $$ > {tmp_path}/pid; sleep 1000")
        pid = pid_in(tmp_path / "pid")
        farm.until(lambda: farm.listed)
        with farm.changed:
            farm.refuse = "a newer daemon runs"
        farm.ring()
        assert client.wait() == 3
        assert gone(pid)

    def test_a_run_the_server_does_not_know_is_killed(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo $$ > {tmp_path}/pid; sleep 1000")
        pid = pid_in(tmp_path / "pid")
        farm.until(lambda: token in farm.listed)
        with farm.changed:
            del farm.assigned[token]
        farm.ring()
        farm.until(lambda: token in farm.times_reported)
        until(lambda: not any((client.folder / "runs").iterdir()))
        assert gone(pid)


class TestWishes:
    def test_halt_and_continue(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(
            f"(setsid sleep 1000 & echo $! > {tmp_path}/far); echo $$ > {tmp_path}/pid; {hold(tmp_path)}"
        )
        pid, far = pid_in(tmp_path / "pid"), pid_in(tmp_path / "far")
        farm.until(lambda: token in farm.listed)
        farm.wish(token, "halt")
        farm.until(lambda: farm.listed[token].wish == 1)
        assert farm.listed[token].state == "halted"
        # A signal that was sent takes effect when its process runs the next time.
        both = [psutil.Process(each) for each in (pid, far)]
        eventually(lambda: all(each.status() == psutil.STATUS_STOPPED for each in both), "both to stop")
        client.kill()
        client.start()
        beats = len(farm.heartbeats)
        farm.until(lambda: len(farm.heartbeats) > beats)
        assert (farm.listed[token].state, farm.listed[token].wish) == ("halted", 1)
        farm.wish(token, "run")
        farm.until(lambda: farm.listed[token].wish == 2)
        assert farm.listed[token].state == "running"
        assert psutil.Process(far).status() == psutil.STATUS_SLEEPING
        (tmp_path / "go").touch()
        assert farm.result(token).outcome == "exited"
        psutil.Process(far).kill()

    def test_a_command_may_trap_the_interrupt_and_is_killed_all_the_same(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        token = farm.submit(f"trap 'echo geräumt; exit 0' INT; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done")
        pid_in(tmp_path / "pid")
        farm.wish(token, "die", "ejected")
        report = farm.result(token)
        assert (report.outcome, report.kill_reason, report.exit_code, report.signal) == (
            "killed",
            "ejected",
            0,
            0,
        )
        assert farm.text(token) == "geräumt\n"
        assert "INFO Cancelling job 1" in client.log()

    def test_what_ignores_signals_is_killed_in_the_end(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        stubborn = f"(trap '' INT TERM; exec setsid sleep 1000) & echo $! > {tmp_path}/far"
        token = farm.submit(
            f"trap 'echo INT' INT; trap 'echo TERM' TERM; {stubborn}; echo $$ > {tmp_path}/pid;"
            "while :; do sleep 0.02; done"
        )
        far = pid_in(tmp_path / "far")
        pid_in(tmp_path / "pid")
        farm.wish(token, "die")
        report = farm.result(token)
        assert (report.outcome, report.kill_reason, report.signal) == ("killed", "cancelled", 9)
        assert [line for line in farm.text(token).splitlines() if line != "Terminated"] == ["INT", "TERM"]
        assert gone(far)

    def test_descendants_get_time_to_clean_up_after_their_shell_has_died(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        command = f"""
import os, pathlib, signal, time
if os.fork() == 0:
    def clean_up(*_):
        while os.getppid() == parent:
            time.sleep(0.01)
        time.sleep(0.1)
        pathlib.Path("{tmp_path}/cleaned").touch()
        os._exit(0)
    parent = os.getppid()
    signal.signal(signal.SIGINT, clean_up)
    pathlib.Path("{tmp_path}/pid").write_text(f"{{os.getpid()}}\\n")
time.sleep(1000)
"""
        token = farm.submit(command, shell=f"{sys.executable} -S")
        pid_in(tmp_path / "pid")
        farm.wish(token, "die")
        assert farm.result(token).outcome == "killed"
        assert (tmp_path / "cleaned").exists()

    def test_a_halted_command_can_be_killed(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        token = farm.submit(f"echo $$ > {tmp_path}/pid; sleep 1000")
        pid = pid_in(tmp_path / "pid")
        farm.wish(token, "halt")
        farm.until(lambda: farm.state(token) == "halted")
        farm.wish(token, "die")
        assert farm.result(token).outcome == "killed"
        assert gone(pid)

    def test_interrupts_work_although_the_daemon_was_started_without_them(
        self, farm: Farm, make_client: Callable[..., Client], tmp_path: Path
    ) -> None:
        # As by nohup, or with & in a script.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            client = make_client().start()
        finally:
            signal.signal(signal.SIGINT, before)
        token = farm.submit(f"echo $$ > {tmp_path}/pid; sleep 1000")
        pid_in(tmp_path / "pid")
        farm.wish(token, "die")
        assert farm.result(token).signal == signal.SIGINT
        assert client.stop() == 0

    def test_time_counts_only_while_the_command_is_not_halted(self, farm: Farm, client: Client) -> None:
        token = farm.submit("sleep 1000", max_time_s=1)
        farm.until(lambda: token in farm.listed)
        farm.wish(token, "halt")
        farm.until(lambda: farm.state(token) == "halted")
        seconds = farm.listed[token].seconds
        other = farm.submit("sleep 1000", max_time_s=1)
        assert farm.result(other).kill_reason == "time"
        farm.ring()
        beats = len(farm.heartbeats)
        farm.until(lambda: len(farm.heartbeats) > beats)
        assert farm.listed[token].state == "halted"
        assert farm.listed[token].seconds == pytest.approx(seconds, abs=0.001)
        farm.wish(token, "run")
        report = farm.result(token)
        assert (report.outcome, report.kill_reason) == ("killed", "time")
        assert 1.0 <= report.seconds < 1.9

    def test_what_a_command_leaves_in_its_group_goes_and_what_left_it_stays(
        self, farm: Farm, client: Client, tmp_path: Path
    ) -> None:
        near = f"sleep 1000 & echo $! > {tmp_path}/near"
        far = f"setsid sh -c 'echo $$ > {tmp_path}/far; exec sleep 1000' & until [ -s {tmp_path}/far ]; do :; done"
        token = farm.submit(f"{near}; {far}")
        assert farm.result(token).outcome == "exited"
        until(lambda: gone(pid_in(tmp_path / "near")))
        far = pid_in(tmp_path / "far")
        assert not gone(far)
        os.kill(far, signal.SIGKILL)


class TestLife:
    def test_a_second_daemon_on_a_folder_is_refused(self, farm: Farm, client: Client) -> None:
        second = Client(farm, client.folder).start(registers=False)
        assert second.wait() == 2
        assert str(client.folder) in second.errors
        assert (client.folder / "hqnode.pid").read_text().strip() == str(client.process.pid)

    def test_two_clients_with_names_share_a_machine(
        self, farm: Farm, client: Client, make_client: Callable[..., Client]
    ) -> None:
        settings = {**make_client("zwei").settings}
        # Without a listen_port of its own, a client with a name takes the next free one.
        settings.pop("listen_port")
        second = make_client("zwei")
        second.settings = settings
        second.start(env={**os.environ, "HQUEUE_LISTEN_PORT": ""})
        farm.until(lambda: len(farm.clients) == 2)
        assert {entry.name for entry in farm.clients} == {"Zürich", "zwei"}
        assert len({entry.key for entry in farm.clients}) == len({entry.port for entry in farm.clients}) == 2

    def test_a_port_that_is_taken_is_said_in_one_sentence(
        self, farm: Farm, client: Client, make_client: Callable[..., Client]
    ) -> None:
        other = make_client("zwei", listen_port=str(farm.clients[0].port)).start(registers=False)
        assert other.wait() == 2
        assert str(farm.clients[0].port) in other.errors
        assert len(other.errors.splitlines()) == 1

    def test_terminate(self, farm: Farm, client: Client, tmp_path: Path) -> None:
        running = farm.submit(f"{hold(tmp_path)}")
        halted = farm.submit("sleep 1000")
        farm.until(lambda: {running, halted} <= farm.listed.keys())
        farm.wish(halted, "halt")
        farm.until(lambda: farm.state(halted) == "halted")
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{farm.clients[0].port}") as proxy:
            assert proxy.ping() is True
            assert proxy.terminate() is True
        report = farm.result(halted)
        assert (report.outcome, report.kill_reason) == ("killed", "cancelled")
        assert farm.until(lambda: farm.heartbeats[-1].terminating)
        (tmp_path / "go").touch()
        assert farm.result(running).outcome == "exited"
        assert client.wait() == 0
        assert farm.heartbeats[-1].runs == []

    def test_the_clients_own_methods_are_three(self, farm: Farm, client: Client) -> None:
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{farm.clients[0].port}/") as proxy:
            beats = len(farm.heartbeats)
            assert proxy.wakeup() is True
            farm.until(lambda: len(farm.heartbeats) > beats)
            with pytest.raises(xmlrpc.client.Fault, match="ping"):
                proxy.stop()

    def test_a_caller_that_says_nothing_holds_nobody_up(self, farm: Farm, client: Client) -> None:
        address = ("127.0.0.1", farm.clients[0].port)
        with socket.create_connection(address) as silent, socket.create_connection(address) as endless:
            silent.sendall(b"POST / HTTP/1.1\r\nContent-Le")
            endless.sendall(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
            assert farm.result(farm.submit("true")).exit_code == 0
            endless.settimeout(PATIENCE_S)
            assert b" 413 " in endless.recv(100)

    def test_the_runner_ends_with_nothing_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("geheim\n")
        code = "import sys; sys.path.append(sys.argv[1]); from hqueue.client.runner import main; main(*sys.argv[2:])"
        runner = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(ROOT), str(tmp_path), str(tmp_path / "key"), "0.2"],
            capture_output=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert (runner.stdout, runner.stderr) == (b"ready\n", b"")

    def test_the_runner_needs_little(self) -> None:
        code = "import sys; sys.path.append(sys.argv[1]); import hqueue.client.runner; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not {"psutil", "logging", "xmlrpc", "http", "sqlalchemy", "dataclasses", "asyncio", "ssl"} & set(loaded)

    def test_a_state_folder_with_a_long_path(self, farm: Farm, tmp_path: Path) -> None:
        folder = tmp_path / ("ü" * 60) / ("lang" * 20)
        client = Client(farm, folder).start()
        try:
            assert farm.result(farm.submit("true")).exit_code == 0
            client.kill()
            client.start()
            assert farm.result(farm.submit("true")).exit_code == 0
        finally:
            client.clean_up()
