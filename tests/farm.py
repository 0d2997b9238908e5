"""A real farm for end-to-end tests: a server and clients as processes of their own, on loopback, in a folder."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import xmlrpc.client
from typing import TYPE_CHECKING, Any, Self

from hqueue.clock import SystemClock
from hqueue.store import Store
from tests.invariants import check_invariants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# How long a test waits for something that should come at once, before it gives up.
PATIENCE_S = 60.0

_INI = """\
[main]
host = 127.0.0.1
port = {port}
heartbeat_s = 0.5
kill_grace_s = 1
active_timeout = {active_timeout}
database_url = {database_url}
{settings}
"""


def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Return the first true value of a condition, asked again and again; fail when it does not come in time."""
    pause = threading.Event()
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if clock.monotonic() > deadline:
            raise AssertionError(f"{what}: did not happen within {seconds:g} s")
        pause.wait(0.05)


def throughout(condition: Callable[[], Any], what: str, seconds: float) -> None:
    """Fail as soon as something does not hold that has to for so long."""
    pause = threading.Event()
    clock = SystemClock()
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        assert condition(), f"{what}: no longer so"
        pause.wait(0.2)


def free_port() -> int:
    """Return a port of loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """One process that prints a line when it is ready; what it logs goes to a file."""

    def __init__(self, folder: Path, name: str, command: list[str]) -> None:
        self.name = name
        self.log = folder / f"{name}.stderr"
        self._command = command
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.ready_line = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, says_ready: bool = True) -> Self:
        """Start it and wait for its line, if that is not left to `wait_ready`."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "HOME": str(self._folder), "PYTHONUNBUFFERED": "1"},
            )
        if says_ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait for its line."""
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE_S):
                raise AssertionError(f"{self.name} said nothing: {self.log.read_text()}")
        self.ready_line = self._process.stdout.readline()
        if not self.ready_line:
            self._reap()
            raise AssertionError(f"{self.name} did not start: {self.log.read_text()}")

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in order and return its exit code."""
        self.signal(number)
        return self._reap()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return its exit code once it has ended by itself."""
        return self._reap()

    def is_running(self) -> bool:
        """Tell whether it is there."""
        return self._process is not None and self._process.poll() is None

    def _reap(self) -> int:
        assert self._process is not None
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self.name} did not end: {self.log.read_text()[-4000:]}") from None
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
        return code


class Farm:
    """A server and its clients in one folder.

    settings: further lines of the server's ini; prefix: what the server is started with, such as `env` and variables.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active_timeout_minutes: float = 0.5,
        database_url: str = "",
        settings: str = "",
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database_url = database_url or f"sqlite:///{folder}/hqserver.db"
        ini = folder / "hqserver.ini"
        ini.write_text(
            _INI.format(
                port=self.port,
                active_timeout=active_timeout_minutes,
                database_url=self.database_url,
                settings=settings,
            )
        )
        command = [*prefix, sys.executable, "-m", "hqueue.cli.hqserver", "--config", str(ini)]
        self.server = Daemon(folder, "hqserver", command)
        self.clients: dict[str, Daemon] = {}
        self._proxies: list[xmlrpc.client.ServerProxy] = []

    def add_client(self, name: str, *, cpus: int = 2, server: str = "") -> Daemon:
        """Start a client on this machine; `server` is where it finds the server, if that is not its own address."""
        command = [sys.executable, "-m", "hqueue.cli.hqclient", "--server", server or self.url, "--name", name]
        command += ["--cpus", str(cpus), "--listen-port", "0", "--state-dir", str(self.state_dir(name))]
        self.clients[name] = Daemon(self.folder, f"hqclient-{name}", command).start()
        return self.clients[name]

    def state_dir(self, name: str) -> Path:
        """Return a client's state folder."""
        return self.folder / "clients" / name

    def proxy(self) -> xmlrpc.client.ServerProxy:
        """Return a new connection, as a script would have it; it is closed with the farm."""
        proxy = xmlrpc.client.ServerProxy(self.url, allow_none=True)
        self._proxies.append(proxy)
        return proxy

    def check(self) -> None:
        """Fail unless the store makes sense; the server may be running."""
        store = Store(self.database_url, clock=SystemClock())
        try:
            check_invariants(store)
        finally:
            store.close()

    def close(self) -> None:
        """End everything that still runs, the runners and their commands too."""
        for proxy in self._proxies:
            proxy("close")()
        for daemon in [*self.clients.values(), self.server]:
            if daemon.is_running():
                daemon.kill()
        end_all_below(self.folder)


def end_all_below(folder: Path) -> None:
    """Kill every process that was started in a folder of this test, and wait until they are gone."""
    import psutil  # noqa: PLC0415 - tests without processes need not have it

    def started_here() -> list[Any]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and str(folder) in " ".join([*process.cmdline(), process.cwd()]):
                    found.append(process)
        return found

    left = started_here()
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=PATIENCE_S)


@contextlib.contextmanager
def running_farm(folder: Path, clients: dict[str, int], **options: Any) -> Iterator[Farm]:
    """Run a farm with these clients (name: CPUs) for the length of a block; all of them are registered at its start."""
    farm = Farm(folder, **options)
    try:
        farm.server.start()
        for name, cpus in clients.items():
            farm.add_client(name, cpus=cpus)
        proxy: Any = farm.proxy()
        eventually(lambda: len(proxy.getClients(None, ["id"])) == len(clients), "the clients to register")
        yield farm
    finally:
        farm.close()
