"""Standard streams that are closed, full or broken: daemons work without, `hq` says that it could not print."""

from __future__ import annotations

import os
import subprocess
import sys
import xmlrpc.client
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.farm import PATIENCE_S, eventually
from tests.faults.calls import status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.farm import Daemon, Farm

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="another system: streams are closed with a shell")

STREAMS = {
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "full": ">/dev/full 2>/dev/full",
    "broken": ">&$BROKEN 2>&$BROKEN",
}


@contextmanager
def with_streams(command: Sequence[str], how: str, folder: os.PathLike[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with its standard streams as STREAMS says, for the length of a block."""
    reading, writing = os.pipe()
    os.close(reading)
    # bash, for other shells know no descriptor beyond 9
    script = f'exec "$@" {STREAMS[how]}'.replace("$BROKEN", str(writing))
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        cwd=folder,
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    os.close(writing)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ends_in_order(process: subprocess.Popen[bytes]) -> bool:
    process.terminate()
    return process.wait(PATIENCE_S) == 0


def command_of(daemon: Daemon) -> list[str]:
    return daemon._command


def answers(farm: Farm) -> bool:
    try:
        with xmlrpc.client.ServerProxy(farm.url) as proxy:
            return bool(proxy.ping())
    except OSError:
        return False


@pytest.mark.parametrize("how", STREAMS)
def test_a_server_works(make_farm: Callable[..., Farm], how: str) -> None:
    farm = make_farm()
    farm.server.stop()
    with with_streams(command_of(farm.server), how, farm.folder) as process:
        eventually(lambda: answers(farm), "the server answers", 20)
        farm.add_client("eins")
        (job_id,) = farm.proxy().newjob({"name": "läuft", "command": "echo gut"})
        eventually(lambda: status(farm, job_id) == "succeeded", "its job ends")
        assert farm.proxy().getJobOutput(job_id) == "gut\n"
        assert ends_in_order(process)


@pytest.mark.parametrize("how", STREAMS)
def test_a_client_works(make_farm: Callable[..., Farm], how: str) -> None:
    farm = make_farm({"eins": 1})
    farm.clients["eins"].stop()
    with with_streams(command_of(farm.clients["eins"]), how, farm.folder) as process:
        (job_id,) = farm.proxy().newjob({"name": "läuft", "command": "echo gut; echo schlecht >&2"})
        eventually(lambda: status(farm, job_id) == "succeeded", "its job ends")
        assert farm.proxy().getJobOutput(job_id) == "gut\nschlecht\n"
        assert ends_in_order(process)


@pytest.mark.parametrize("redirection", [">/dev/full", "| true"])
def test_hq_says_when_it_could_not_print(make_farm: Callable[..., Farm], redirection: str) -> None:
    farm = make_farm()
    farm.proxy().newjob([{"name": f"Bild {number}", "command": "true", "host": "niemand"} for number in range(300)])
    script = f'{{ "$@"; echo "ended with $?" >&2; }} {redirection}'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "hqueue.cli.hq", "--server", farm.url, "jobs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "ended with 0" not in done.stderr
