from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault, ProtocolError

import pytest

from hqueue.cli import hq
from hqueue.cli.connection import (
    DEFAULT_SERVER,
    SERVER_VARIABLES,
    Farm,
    FaultError,
    Place,
    UnreachableError,
    _Transport,
    find_server,
)
from hqueue.cli.program import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USAGE, ComplaintError, run_program
from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that names no server, in a folder without hqnode.ini."""
    monkeypatch.chdir(tmp_path)
    return {"HOME": str(tmp_path / "Zuhause")}


class TestFindServer:
    def test_nothing_names_one(self, nobody: dict[str, str]) -> None:
        assert find_server(None, nobody) == Place(DEFAULT_SERVER, "the default, as nothing names a server")

    def test_first_source_wins(self, nobody: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "hqnode.ini").write_text("[main]\nserver = ini\nport = 5555\n", encoding="utf-8")
        environ = nobody | {name: name.lower().replace("_", "-") for name in SERVER_VARIABLES}
        assert find_server("http://options:1/RPC2", environ) == Place("http://options:1", "from --server")
        for name in SERVER_VARIABLES:
            assert find_server(None, environ) == Place(f"http://{environ.pop(name)}:5000", f"from {name}")
        assert find_server(None, environ) == Place("http://ini:5555", f"from {tmp_path / 'hqnode.ini'}")

    def test_empty_variable_is_none(self, nobody: dict[str, str]) -> None:
        assert find_server(None, nobody | {"HQUEUE_SERVER": "", "HQSERVER": "farm07"}).url == "http://farm07:5000"

    def test_what_concerns_a_client_does_not_matter(self, nobody: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "hqnode.ini").write_text("[main]\nserver = ini\n", encoding="utf-8")
        assert find_server(None, nobody | {"HQUEUE_CPUS": "viele"}).url == "http://ini:5000"

    def test_variable_that_cannot_be_used_is_named(self, nobody: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="HQSERVER: The server is 'ftp://x'"):
            find_server(None, nobody | {"HQSERVER": "ftp://x"})


class TestComplaints:
    """Every way a call can fail is one sentence that names the address and who gave it."""

    @pytest.mark.parametrize(
        ("error", "kind", "words"),
        [
            (ConnectionRefusedError(111, "Connection refused"), UnreachableError, "connection refused. Is hqserver"),
            (OSError(113, "No route to host"), UnreachableError, "no route to host"),
            (socket.gaierror(-2, "Name or service not known"), UnreachableError, "no machine of that name"),
            (TimeoutError("timed out"), UnreachableError, "within 60 s"),
            (http.client.RemoteDisconnected("x"), UnreachableError, "closed the connection"),
            (http.client.BadStatusLine("SSH-2.0"), ComplaintError, "not as a farm's server does"),
            (ProtocolError("x", 404, "Not Found", {}), ComplaintError, "HTTP 404 Not Found"),
        ],
    )
    def test_sentences(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], words: str
    ) -> None:
        farm = Farm(Place("http://farm07:5000", "from HQSERVER"))
        monkeypatch.setattr(_Transport, "single_request", _raising(error))
        with pytest.raises(kind) as raised:
            farm.call("ping")
        sentence = str(raised.value)
        assert "http://farm07:5000 (from HQSERVER)" in sentence
        assert words in sentence
        assert sentence.endswith((".", "?")) or "(" in sentence
        assert "\n" not in sentence

    def test_lost_submission_says_that_it_may_have_arrived(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_Transport, "single_request", _raising(TimeoutError()))
        with pytest.raises(UnreachableError, match="may have been submitted"):
            Farm(Place("http://farm07:5000", "from HQSERVER")).call("newjob", "[]")

    @pytest.mark.parametrize(
        ("error", "arrived"),
        [
            (ConnectionRefusedError(), False),
            (socket.gaierror(-2, "x"), False),
            (TimeoutError(), True),
            (ConnectionResetError(), True),
            (http.client.RemoteDisconnected("x"), True),
            (http.client.IncompleteRead(b""), True),
        ],
    )
    def test_whether_a_call_may_have_arrived(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception, arrived: bool
    ) -> None:
        monkeypatch.setattr(_Transport, "single_request", _raising(error))
        with pytest.raises(UnreachableError) as raised:
            Farm(Place("http://farm07:5000", "x")).call("newjob", "[]")
        assert raised.value.arrived is arrived

    def test_fault_keeps_its_code_and_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_Transport, "single_request", _raising(Fault(30, "There is no job 7.")))
        with pytest.raises(FaultError, match="There is no job 7") as raised:
            Farm(Place("http://farm07:5000", "x")).call("getJob", 7)
        assert raised.value.code == 30

    def test_calls_are_made_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Any] = []

        def drop(*args: Any) -> None:
            calls.append(args)
            raise ConnectionResetError(104, "Connection reset by peer")

        monkeypatch.setattr(_Transport, "single_request", drop)
        with pytest.raises(UnreachableError):
            Farm(Place("http://farm07:5000", "x")).call("newjob", "[]")
        assert len(calls) == 1

    def test_default_server_gets_its_own_advice(self, nobody: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_Transport, "single_request", _raising(ConnectionRefusedError(111, "Connection refused")))
        with pytest.raises(UnreachableError, match="hqserver --with-client"):
            Farm(find_server(None, nobody)).call("ping")


class TestProgram:
    def test_nothing_listens(
        self, capsys: pytest.CaptureFixture[str], nobody: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as taken:  # bound and not listening: nobody else gets the port meanwhile
            taken.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HQUEUE_SERVER", f"127.0.0.1:{taken.getsockname()[1]}")
            assert hq.main(["jobs"]) == 1
        written = capsys.readouterr()
        assert not written.out
        assert written.err.startswith("hq: cannot connect to http://127.0.0.1:")
        assert "from HQUEUE_SERVER" in written.err
        assert written.err.count("\n") == 1

    def test_bad_address_is_bad_usage(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert hq.main(["--server", "https://x", "jobs"]) == EXIT_USAGE
        assert "--server" in capsys.readouterr().err

    def test_interrupt_leaves_no_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_program("hq", _raising(KeyboardInterrupt())) == EXIT_INTERRUPTED
        assert capsys.readouterr().err == "\n"

    def test_reader_that_ended_leaves_no_traceback(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run_program("hq", _raising(BrokenPipeError())) == EXIT_BROKEN_PIPE
        assert not capfd.readouterr().err

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    @pytest.mark.parametrize(
        ("streams", "code", "told"),
        [
            (">&- 2>&-", 0, ""),
            ("<&-", 0, ""),
            (">/dev/full", 1, "hq: cannot write to standard output: No space left on device\n"),
            (">/dev/full 2>/dev/full", 1, ""),
        ],
    )
    def test_standard_streams_that_cannot_be_used(self, streams: str, code: int, told: str) -> None:
        script = "import sys; from hqueue.cli.program import run_program; "
        script += "sys.exit(run_program('hq', lambda: print('höhle') or 0))"
        command = ["/bin/sh", "-c", f'exec "$0" -c "$1" {streams}', sys.executable, script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (code, told)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    @pytest.mark.parametrize("streams", [">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
    def test_a_daemon_goes_on_without_its_standard_output(self, streams: str, tmp_path: Path) -> None:
        script = (
            "import os, sys; from hqueue.cli.program import run_program\n"
            "def body():\n"
            "    taken = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
            "    print('ready', flush=True)\n"
            "    sys.stderr.write('a line of the log')\n"
            "    os.write(taken, b'served')\n"
            "    return 0\n"
            "sys.exit(run_program('hqserver', body, daemon=True))"
        )
        place = tmp_path / "läger"
        command = ["/bin/sh", "-c", f'exec "$0" -c "$1" "$2" {streams}', sys.executable, script, str(place)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert (done.returncode, place.read_text(encoding="utf-8")) == (0, "served")

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["fly"],
            ["job"],
            ["job", "x"],
            ["job", "-1"],
            ["cancel"],
            ["jobs", "--all", "--status", "failed"],
            ["jobs", "--limit", "x"],
            ["jobs", "--lim", "1"],
            ["cancel", "1", "--", "2"],
        ],
    )
    def test_bad_usage(self, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
        with pytest.raises(SystemExit) as end:
            hq.main(words)
        assert end.value.code == EXIT_USAGE
        assert capsys.readouterr().err.startswith("usage: hq")

    def test_common_options_stand_before_and_after_the_command(self) -> None:
        for words in (["--server", "x", "--json", "jobs"], ["jobs", "--server", "x", "--json"]):
            options = hq.parser().parse_args(words)
            assert (options.server, options.json) == ("x", True)
        options = hq.parser().parse_args(["jobs"])
        assert (options.server, options.json) == (None, False)


def _raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call
