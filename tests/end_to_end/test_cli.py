"""The three programs as people and scripts meet them: processes, exit codes, stdout, stderr, signals, terminals."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xmlrpc.client import ServerProxy

import pytest

from hqueue.cli.connection import Farm as Connection
from hqueue.cli.connection import Place, UnreachableError
from tests.farm import PATIENCE_S, Daemon, Farm, end_all_below, eventually, free_port, running_farm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COLOUR = "\x1b["


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with running_farm(tmp_path_factory.mktemp("Höhle"), {"größe": 4}) as farm:
        yield farm


def program(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"hqueue.cli.{name}", *words]


def environment(farm: Farm | None, **more: str) -> dict[str, str]:
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("HQ", "HOUDINI", "COLUMNS"))}
    return {**kept, "PYTHONIOENCODING": "utf-8", **({"HQUEUE_SERVER": farm.url} if farm else {}), **more}


def run(farm: Farm | None, *words: str, stdin: str = "", **more: str) -> tuple[int, str, str]:
    """Run hq to its end, in a pipe; return exit code, stdout and stderr."""
    done = subprocess.run(
        program("hq", *words),
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(farm, **more),
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def answer(farm: Farm, *words: str, **more: Any) -> str:
    """Return what hq prints when all goes well."""
    code, out, err = run(farm, *words, **more)
    assert code == 0, (words, out, err)
    return out


def submit(farm: Farm, *words: str) -> int:
    return int(answer(farm, "submit", *words))


@contextmanager
def started(farm: Farm, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run hq beside the test."""
    process = subprocess.Popen(
        program("hq", *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(farm),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def in_terminal(farm: Farm, *words: str, typed: str = "", columns: int = 80) -> tuple[int, str]:
    """Run hq in a terminal of its own; return exit code and what is to be seen."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        program("hq", *words),
        stdin=other,
        stdout=other,
        stderr=other,
        env=environment(farm, TERM="xterm-256color", COLUMNS=str(columns)),
        start_new_session=True,
    )
    os.close(other)
    os.write(main, typed.encode())
    seen = b""
    try:
        while select.select([main], [], [], PATIENCE_S)[0]:
            try:
                piece = os.read(main, 65536)
            except OSError:  # Linux tells like this that the other side is closed
                break
            if not piece:
                break
            seen += piece
        return process.wait(PATIENCE_S), seen.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(main)


class TestSubmit:
    def test_wait_exits_as_the_job_did(self, farm: Farm) -> None:
        code, out, err = run(farm, "submit", "--wait", "--name", "Würfel_日本", "--", "exit 3")
        assert code == 3
        assert err.endswith(f"job {int(out)} failed\n")
        assert run(farm, "submit", "--wait", "--", "kill -KILL $$")[0] == 137
        assert run(farm, "submit", "--wait", "--", "true")[0] == 0

    def test_words_reach_the_command_exactly(self, farm: Farm) -> None:
        words = ["printf", "%s|", "a  b", "$HOME", "it's", "*", "--wait", "größe", "a\nb"]
        code, out, _ = run(farm, "submit", "--wait", "--", *words)
        assert code == 0
        assert answer(farm, "output", out.strip()) == "a  b|$HOME|it's|*|--wait|größe|a\nb|"

    def test_options_reach_the_job(self, farm: Farm) -> None:
        job_id = submit(farm, "--env", "A=ä=1", "--priority", "3", "--cpus", "2", "--description", "für Kim", "--", "x")
        job = json.loads(answer(farm, "job", str(job_id), "--json"))
        assert (job["environment"], job["priority"], job["cpus"]) == ({"A": "ä=1"}, 3, 2)
        assert job["description"] == "für Kim"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", job["queueTime"])

    def test_frames(self, farm: Farm) -> None:
        code, out, _ = run(farm, "submit", "--wait", "--frames", "1-7:3", "--name", "film", "echo {start}-{end}")
        assert code == 0
        parent = int(out)
        assert [answer(farm, "output", str(parent + n)) for n in (1, 2, 3)] == ["1-3\n", "4-6\n", "7-7\n"]

    def test_parent(self, farm: Farm) -> None:
        parent = submit(farm, "--host", "nirgendwo", "--", "x")
        child = submit(farm, "--parent", str(parent), "--", "x")
        assert json.loads(answer(farm, "job", str(parent), "--json"))["children"] == [child]

    def test_specification_on_standard_input(self, farm: Farm) -> None:
        spec = {"name": "Würfel", "children": [{"name": "a", "command": "true"}]}
        out = answer(farm, "submit", "--json", "-", stdin=json.dumps(spec))
        ids = json.loads(out)
        assert len(ids["ids"]) == 1
        assert len(ids["all"]) == 2

    def test_fault_is_one_sentence_with_its_path(self, farm: Farm) -> None:
        code, out, err = run(farm, "submit", "-", stdin='{"name": "x", "children": [{"name": "y", "cpus": "viele"}]}')
        assert (code, out) == (1, "")
        assert err.startswith("hq: ")
        assert "children[0].cpus" in err
        assert err.count("\n") == 1

    def test_bytes_that_are_no_text_are_a_fault(self, farm: Farm) -> None:
        done = subprocess.run(
            [*program("hq", "submit", "--name"), b"W\xfcrfel", "--", "true"],
            capture_output=True,
            env=environment(farm),
            check=False,
        )
        assert done.returncode == 1
        assert b"name" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_interrupt_leaves_the_job_and_prints_its_id(self, farm: Farm) -> None:
        with started(farm, "submit", "--wait", "--", "sleep 600") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            job_id = int(process.stdout.readline())
            eventually(lambda: "running" in process.stderr.readline(), "hq sees the job running")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 130
            said = process.stderr.read()
        assert f"job {job_id} goes on" in said
        assert f"hq cancel {job_id}" in said
        assert "Traceback" not in said
        assert farm.proxy().getJob(job_id, ["status"]) == {"status": "running"}
        answer(farm, "cancel", str(job_id))


class TestLooking:
    def test_list_is_plain_in_a_pipe_and_whole(self, farm: Farm) -> None:
        name = "ein Name, " * 20 + "日本"
        job_id = submit(farm, "--host", "nirgendwo", "--name", name, "--", "x")
        lines = answer(farm, "jobs", "--limit", "0").splitlines()
        assert lines[0].split() == ["ID", "STATUS", "DONE", "NAME", "CLIENTS"]
        (row,) = (line for line in lines if line.split()[0] == str(job_id))
        assert name in row
        assert COLOUR not in "\n".join(lines)

    def test_list_fits_a_terminal_of_80_columns(self, farm: Farm) -> None:
        submit(farm, "--host", "nirgendwo", "--name", "ein langer Name, " * 20, "--", "x")
        run(farm, "submit", "--wait", "--name", "rot", "--", "false")
        code, seen = in_terminal(farm, "jobs", "--all", "--limit", "0")
        assert code == 0
        assert COLOUR in seen
        plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
        assert all(len(line) <= 80 for line in plain.splitlines())
        assert "ein langer Name, " in plain
        assert "…" in plain

    def test_job_in_a_terminal(self, farm: Farm) -> None:
        _, out, _ = run(farm, "submit", "--wait", "--", "echo", "[bold]x[/bold] :smile:")
        code, seen = in_terminal(farm, "job", out.strip())
        assert code == 0
        assert "[bold]x[/bold] :smile:" in seen
        assert "succeeded" in seen

    def test_statuses(self, farm: Farm) -> None:
        _, out, _ = run(farm, "submit", "--wait", "--name", "gescheitert", "--", "false")
        found = json.loads(answer(farm, "jobs", "--status", "failed", "--limit", "0", "--json"))
        assert int(out) in [job["id"] for job in found]
        assert {job["status"] for job in found} == {"failed"}
        code, _, err = run(farm, "jobs", "--status", "kaputt")
        assert code == 1
        assert "'kaputt'" in err
        assert "succeeded" in err

    def test_clients(self, farm: Farm) -> None:
        code, out, err = run(farm, "clients")
        assert code == 0
        assert ":größe" in out
        assert "only this machine can connect; set host = 0.0.0.0" in err
        (client,) = json.loads(answer(farm, "clients", "--json"))
        assert (client["cpus"], client["name"]) == (4, "größe")

    def test_unknown_job(self, farm: Farm) -> None:
        for words in (["job"], ["output"], ["output", "-f"], ["cancel"], ["delete"]):
            code, out, err = run(farm, *words, "999999")
            assert (code, out, err) == (1, "", "hq: there is no job 999999.\n")

    def test_reader_that_ends_early(self, farm: Farm) -> None:
        _, out, _ = run(farm, "submit", "--wait", "--", "seq 200000")
        done = subprocess.run(
            ["sh", "-c", f'"$0" -m hqueue.cli.hq output {int(out)} | head -n 1', sys.executable],
            capture_output=True,
            text=True,
            env=environment(farm),
            check=False,
        )
        assert (done.stdout, done.stderr) == ("1\n", "")


class TestOutput:
    def test_whole_in_pieces(self, farm: Farm) -> None:
        _, out, _ = run(farm, "submit", "--wait", "--", "seq 1 200000; printf ü日本")
        text = answer(farm, "output", out.strip())
        assert text == "".join(f"{number}\n" for number in range(1, 200001)) + "ü日本"

    def test_follow(self, farm: Farm, tmp_path: Path) -> None:
        gate = tmp_path / "Tor"
        job_id = submit(farm, "--", f"echo eins; while [ ! -e '{gate}' ]; do sleep 0.05; done; echo zwei; exit 3")
        with started(farm, "output", "-f", str(job_id)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "eins\n"
            gate.touch()
            assert process.stdout.read() == "zwei\n"
            assert process.wait(PATIENCE_S) == 0


class TestActions:
    def test_one_after_the_other(self, farm: Farm) -> None:
        proxy = farm.proxy()
        job_id = submit(farm, "--name", "Würfel", "--", "sleep 600")

        def reaches(status: str) -> None:
            eventually(lambda: proxy.getJob(job_id, ["status"])["status"] == status, f"the job is {status}")

        reaches("running")
        for action, status in (
            ("pause", "paused"),
            ("resume", "running"),
            ("eject", "running"),
            ("cancel", "cancelled"),
            ("reschedule", "running"),
            ("cancel", "cancelled"),
        ):
            assert f"job {job_id} (Würfel)" in answer(farm, action, str(job_id))
            reaches(status)
        assert answer(farm, "delete", str(job_id)) == f"job {job_id} (Würfel) is deleted\n"
        assert proxy.getJob(job_id) is None

    def test_what_cannot_be_done_is_said(self, farm: Farm) -> None:
        _, out, _ = run(farm, "submit", "--wait", "--name", "aus", "--", "true")
        code, _, err = run(farm, "cancel", out.strip())
        assert code == 1
        assert f"cannot cancel job {int(out)} (aus), which is succeeded" in err

    def test_more_than_ten_are_asked_about(self, farm: Farm) -> None:
        ids = [str(submit(farm, "--host", "nirgendwo", "--", "x")) for _ in range(11)]

        def statuses() -> set[str]:
            return {job["status"] for job in farm.proxy().getJobs(list(map(int, ids)), ["status"])}

        code, _, err = run(farm, "cancel", *ids)
        assert code == 1
        assert "--yes" in err
        code, seen = in_terminal(farm, "cancel", *ids, typed="n\n")
        assert code == 1
        assert "cancel 11 jobs? [y/N]" in seen
        assert statuses() == {"runnable"}
        assert in_terminal(farm, "cancel", *ids, typed="y\n")[0] == 0
        assert statuses() == {"cancelled"}
        answer(farm, "delete", "--yes", *ids)
        assert statuses() == set()


class TestConnection:
    def test_refused(self) -> None:
        port = free_port()
        for words, variables, origin in (
            (["--server", f"127.0.0.1:{port}"], {}, "--server"),
            ([], {"HQSERVER": f"http://127.0.0.1:{port}"}, "HQSERVER"),
            ([], {"HOUDINI_HQUEUE_SERVER": f"127.0.0.1:{port}"}, "HOUDINI_HQUEUE_SERVER"),
        ):
            code, out, err = run(None, "jobs", *words, **variables)
            assert (code, out) == (1, "")
            assert err.startswith(f"hq: cannot connect to http://127.0.0.1:{port} (from {origin}): connection refused")

    def test_time_out(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            place = Place(f"http://127.0.0.1:{silent.getsockname()[1]}", "from --server")
            with pytest.raises(UnreachableError, match=r"did not answer within 0\.2 s"), Connection(place, 0.2) as peer:
                peer.call("ping")

    def test_another_web_server(self) -> None:
        with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
            threading.Thread(target=other.handle_request).start()
            code, _, err = run(None, "--server", f"127.0.0.1:{other.server_address[1]}", "jobs")
        assert code == 1
        assert "not as a farm's server does (HTTP 501" in err

    def test_server_that_restarts_is_waited_for(self, tmp_path: Path) -> None:
        with running_farm(tmp_path, {"eins": 1}) as farm:
            gate = tmp_path / "Tor"
            script = f"echo eins; while [ ! -e '{gate}' ]; do sleep 0.05; done; exit 4"
            with started(farm, "submit", "--wait", "--", script) as waiting:
                assert waiting.stdout is not None
                assert waiting.stderr is not None
                job_id = int(waiting.stdout.readline())
                eventually(lambda: "running" in waiting.stderr.readline(), "hq sees the job running")
                with started(farm, "output", "-f", str(job_id)) as following:
                    assert following.stdout is not None
                    assert following.stdout.readline() == "eins\n"
                    farm.server.kill()
                    eventually(lambda: "still trying" in waiting.stderr.readline(), "hq notices")
                    farm.server.start()
                    gate.touch()
                    assert waiting.wait(PATIENCE_S) == 4
                    assert following.wait(PATIENCE_S) == 0


class TestDaemons:
    """What hqserver and hqclient print, and how they end."""

    def start(self, *command: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment(None, HOME=str(folder), **more),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def test_few_descriptors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HQUEUE_LISTEN_PORT", "0")
        (tmp_path / "hqserver.ini").write_text("[main]\nheartbeat_s = 0.5\n", encoding="utf-8")
        command = shlex.join(program("hqserver", "--port", "0", "--with-client"))
        daemon = Daemon(tmp_path, "hqserver", ["bash", "-c", f"ulimit -Sn 250; ulimit -Hn 400; exec {command}"])
        try:
            daemon.start()
            url = daemon.ready_line.split()[4]
            with contextlib.ExitStack() as stack, ServerProxy(url) as proxy:
                assert proxy.ping() is True
                address = ("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))
                for _ in range(450):
                    stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
                ids = [proxy.newjob({"name": f"Käfer {number}"})[0] for number in range(20)]
                assert [job["id"] for job in proxy.getJobs(ids, ["id"])] == ids
            code, limits, err = run(None, "--server", url, "submit", "--wait", "--name", "files", "--", "ulimit -n")
            assert code == 0, err
            assert run(None, "--server", url, "output", limits.split()[0])[1] == "250\n"
            assert daemon.stop(signal.SIGTERM) == 0
            log = daemon.log.read_text(encoding="utf-8")
            assert "may open 400 files, so there are at most 120 connections, not max_connections = 4096" in log
            assert " ERROR " not in log
        finally:
            if daemon.is_running():
                daemon.kill()
            end_all_below(tmp_path)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_farm_of_one_machine(self, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        ini = tmp_path / "hqserver.ini"
        ini.write_text("[main]\nheartbeat_s = 0.5\n", encoding="utf-8")
        monkeypatch.setenv("HQUEUE_LISTEN_PORT", "0")
        daemon = Daemon(tmp_path, "hqserver", program("hqserver", "--port", "0", "--with-client"))
        try:
            daemon.start()
            match = re.fullmatch(
                r"hqserver \S+ ready on (http://127\.0\.0\.1:\d+)/ \(.*hqserver\.db.*\n", daemon.ready_line
            )
            assert match is not None, daemon.ready_line
            code, _, err = run(None, "--server", match[1], "submit", "--wait", "--", "true")
            assert code == 0, err
            assert daemon.stop(number) == 0
            log = daemon.log.read_text(encoding="utf-8")
            assert " INFO " in log
            assert "Traceback" not in log
        finally:
            if daemon.is_running():
                daemon.kill()
            end_all_below(tmp_path)

    def test_port_that_is_taken(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = self.start(*program("hqserver", "--port", str(port)), folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"hqserver: cannot listen on 127.0.0.1 port {port}" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (["--port", "viele"], "option --port: port is 'viele'"),
            (["--config", "nirgends.ini"], "nirgends.ini cannot be read"),
            (["--prot", "1"], "unrecognized arguments: --prot"),
        ],
    )
    def test_bad_settings(self, tmp_path: Path, words: list[str], complaint: str) -> None:
        done = self.start(*program("hqserver", *words), folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (["--cpus", "viele"], "option --cpus: cpus is 'viele'"),
            (["--server", "ftp://x"], "option --server: server is 'ftp://x'"),
            (["--state-dir", "/proc/nirgends"], "cannot use its state folder"),
        ],
    )
    def test_bad_settings_of_a_client(self, tmp_path: Path, words: list[str], complaint: str) -> None:
        done = self.start(*program("hqclient", *words), folder=tmp_path, HQUEUE_LISTEN_PORT="0")
        assert (done.returncode, done.stdout) == (2, "")
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr

    def test_version(self, tmp_path: Path) -> None:
        for name in ("hqserver", "hqclient", "hq"):
            done = self.start(*program(name, "--version"), folder=tmp_path)
            assert re.fullmatch(rf"{name} \d+\.\d+\.\d+\n", done.stdout)
