"""A program as the first process of a container, which nobody else reaps orphans for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from tests.farm import PATIENCE_S

_PROGRAM = """
import os, pathlib, signal, subprocess, sys, threading
from hqueue.cli.program import run_program

def body():
    never, told = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    orphan = subprocess.run(["sh", "-c", "sleep 0.01 & echo $!"], stdout=subprocess.PIPE, check=True).stdout
    for _ in range(3000):
        if not pathlib.Path("/proc", orphan.decode().strip()).exists():
            break
        never.wait(0.01)
    else:
        return 1
    print("reaped", flush=True)
    return 7 if told.wait(60) else 1

sys.exit(run_program("ü", body, daemon=True))
"""


@pytest.fixture
def container() -> list[str]:
    """Return the words before a command that make it process 1 of a container."""
    words = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    words += ["--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a container")
    return words


def test_it_reaps_orphans_and_passes_signals_and_exit_code_on(container: list[str]) -> None:
    with subprocess.Popen([*container, sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reaped\n"
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 7
