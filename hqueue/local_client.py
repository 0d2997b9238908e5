"""The client that `hqserver --with-client` runs beside the server, as a process of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from hqueue.service import Loop

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path

    from hqueue.service import OnDeath

log = logging.getLogger(__name__)

_STOP_S: Final = 15.0
_USUAL_PORT: Final = 5001


class LocalClient:
    """A client on the server's own machine.

    It outlives a server that is killed, as every client does, and a later one finds it at work.
    files: the limits of open files that it, and so every command, is to have; the server has raised its own.
    """

    def __init__(self, server_url: str, state_dir: Path, files: tuple[int, int], on_death: OnDeath) -> None:
        command = [sys.executable, "-m", "hqueue.cli.hqclient", "--server", server_url, "--state-dir", str(state_dir)]
        self._process = _start(command + _port_options())
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # ended already
                resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, files)
        self._watcher = Loop("local_client", self._watch, on_death, interrupt=self._process.terminate)
        self._watcher.start()

    def stop(self) -> None:
        """End it in order; the commands that it watches over go on."""
        if not self._watcher.stop(_STOP_S):
            log.warning("the client on this machine does not stop; it is killed, what it runs goes on")
            self._process.kill()
            self._watcher.stop()

    def _watch(self, stopping: threading.Event) -> None:
        code = self._process.wait()
        if code and not stopping.is_set():
            log.error(
                "the client on this machine has ended (exit code %d, it said why); the farm has to do without", code
            )


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C at the terminal reaches the server alone, which stops the client in order.
    quiet = subprocess.DEVNULL  # its ready line is in the log, which goes to the same terminal as ours
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, start_new_session=True)  # noqa: S603 - our own program


def _port_options() -> list[str]:
    """Leave the usual port to another client on this machine, if there is one; the server learns which it became."""
    if "HQUEUE_LISTEN_PORT" in os.environ:
        return []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", _USUAL_PORT))
        except OSError:
            return ["--listen-port", "0"]
    return []
