"""Whichever service dies, the process ends in order: exit code 1, the traceback in the log, nobody left waiting."""

from __future__ import annotations

import gc
import http.client
import resource
import signal
import sys
import threading
import xmlrpc.client
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from hqueue import database, local_client, maintenance, server
from hqueue.client import daemon as client_daemon
from hqueue.client.daemon import EXIT_DIED, Daemon
from hqueue.clock import SystemClock
from hqueue.config import load_client_config, load_server_config
from hqueue.farm.heartbeats import Heartbeat
from hqueue.live import LiveClient
from hqueue.rpc.dispatch import Method, Where
from hqueue.server import Server
from hqueue.store import Store
from tests.fakes import PATIENCE_S
from tests.storefarm import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Patch = pytest.MonkeyPatch

ERROR = SystemExit("krank")


def boom(*_: Any) -> Any:
    """Be what kills the thread in which it is called."""
    raise ERROR


class SickHeartbeat(Heartbeat):
    def __init__(self) -> None:
        self.reply = Future()
        self._live = LiveClient(1, "schmiede-ß", "k", 1)
        self._number, self._config = 1, settings()
        self._next_step = boom


def call(url: str, name: str, *params: Any) -> Any:
    """Call a method once, and return its value or fault, or the error of the connection."""
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=PATIENCE_S)
    try:
        body = xmlrpc.client.dumps(params, name).encode()
        connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
        return xmlrpc.client.loads(connection.getresponse().read())[0][0]
    except (OSError, http.client.HTTPException, xmlrpc.client.Fault) as error:
        return error
    finally:
        connection.close()


# How each service is made to die: by what runs in its thread.
# ----------------------------------------------------------------------------------------------------------------------


def scheduler(sick: Server, _patch: Patch) -> None:
    sick.scheduler.tick = boom  # type: ignore[method-assign]
    sick._ticker.wake()


def bulk(sick: Server, patch: Patch) -> None:
    patch.setattr(maintenance, "carry_bulk_on", boom)
    sick._bulk.wake()


def saving(sick: Server, patch: Patch) -> None:
    patch.setattr(maintenance, "save_live", boom)
    sick._maintenance.wake()


def checkpoints(sick: Server, patch: Patch) -> None:
    patch.setattr(database, "checkpoint", lambda *_, **__: boom())
    sick._checkpoints.wake()


def group_commit(sick: Server, _patch: Patch) -> None:
    sick.store.write_soon(boom)


def flusher(sick: Server, _patch: Patch) -> None:
    sick.store.when_durable(boom)


def _method(sick: Server, where: Where, *, big: bool = False) -> None:
    sick.table.add_method(Method("boom", boom, where, big=big))
    assert isinstance(call(sick.url, "boom"), Exception)


def workers(sick: Server, _patch: Patch) -> None:
    _method(sick, Where.WORKER)


def farm_workers(sick: Server, _patch: Patch) -> None:
    _method(sick, Where.FARM)


def big_workers(sick: Server, _patch: Patch) -> None:
    _method(sick, Where.WORKER, big=True)


def transport(sick: Server, _patch: Patch) -> None:
    _method(sick, Where.LOOP)


def heartbeats(sick: Server, _patch: Patch) -> None:
    beat = SickHeartbeat()
    sick._farm._pool.put(beat)
    assert beat.reply.result(PATIENCE_S)["number"] == 1  # it counts all the same, and what it brought comes again


def wakeups(sick: Server, patch: Patch) -> None:
    sick.live_farm.enter(LiveClient(1, "schmiede-ß", "k", 1, ip="127.0.0.1", port=1))
    patch.setattr(sick._wakeups, "_call", boom)
    sick._wakeups.wake(1)


def mail(sick: Server, patch: Patch) -> None:
    patch.setattr(sick._mail._letters, "make", boom)
    sick._mail.wake()


def webhooks(sick: Server, patch: Patch) -> None:
    patch.setattr(sick._webhooks._sender, "close", boom)
    sick._webhooks.wake()


def watcher(_sick: Server, _patch: Patch) -> None:
    """Do nothing: the local client's process is one that nobody can wait for."""


class Process:
    """A client's process whose end cannot be waited for."""

    pid = 0  # the test's own
    wait = staticmethod(boom)
    ended = False

    def terminate(self) -> None:
        self.ended = True


ENDS = [
    scheduler, bulk, saving, checkpoints, group_commit, flusher, workers, farm_workers, big_workers, transport,
    heartbeats, wakeups, mail, webhooks, watcher,
]  # fmt: skip


@pytest.fixture
def settings_of_the_process() -> Iterator[None]:
    """Put back what a server sets for its whole process."""
    switch, thresholds = sys.getswitchinterval(), gc.get_threshold()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    sys.setswitchinterval(switch)
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("settings_of_the_process")
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_the_server_ends_in_order(
    end: Callable[[Server, Patch], None],
    tmp_path: Path,
    monkeypatch: Patch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = load_server_config(
        None,
        {
            "port": "0",
            "host": "127.0.0.1",
            "database_url": f"sqlite:///{tmp_path}/größe.db",
            "job_logs_dir": str(tmp_path / "logs"),
            "smtp_server": "127.0.0.1",
            "webhook_hosts": "127.0.0.1",
        },
        environ={"HOME": str(tmp_path)},
    )
    told: list[Future[Any]] = []
    process = Process()
    monkeypatch.setattr(local_client, "_start", lambda _command: process)
    submitted = threading.Barrier(4)

    def submit(url: str) -> Any:
        """Submit job after job until there is no answer, and return what came instead."""
        answer = call(url, "newjob", {"name": "影", "command": "true"})
        submitted.wait(PATIENCE_S)
        while not isinstance(answer, Exception):
            answer = call(url, "newjob", {"name": "影", "command": "true"})
        return answer

    class Sick(Server):
        def start(self) -> None:
            super().start()
            told.extend(pool.submit(submit, self.url) for _ in range(3))
            told.append(pool.submit(self.fall_ill))
            backstop.start()

        def fall_ill(self) -> None:
            submitted.wait(PATIENCE_S)
            end(self, monkeypatch)

    sick = Sick(config)
    monkeypatch.setattr(server, "Server", lambda _config: sick)
    backstop = threading.Timer(3 * PATIENCE_S, sick.request_stop)
    with ThreadPoolExecutor(4) as pool:
        code = server.run(config, with_client=end is watcher)
        backstop.cancel()
        for each in told:
            each.result(PATIENCE_S)
    assert code == 1
    deaths = [record for record in caplog.records if record.getMessage().endswith(" died") and record.exc_info]
    assert ERROR in {record.exc_info[1] for record in deaths if record.exc_info}
    assert process.ended is (end is watcher)
    heartbeat: Future[None] = Future()
    sick.scheduler.await_tick(heartbeat)
    assert heartbeat.done()  # there are no ticks to wait for
    # The port was let go of, and the store, unless nothing can be flushed any more: then the store ends as it stands.
    assert isinstance(call(sick.url, "ping"), ConnectionRefusedError)
    if end is flusher:
        sick.store.engine.dispose()
        sick.store._server_lock.release()
    after = Store(config.database_url, clock=SystemClock())
    after.open()
    after.close()


def link(sick: Daemon) -> None:
    sick._link._before = boom
    sick._woken(0.0)


def listener(sick: Daemon) -> None:
    sick._listener.process_request = boom  # type: ignore[method-assign]
    call(f"http://127.0.0.1:{sick._listener.port}", "ping")


def sweeper(sick: Daemon) -> None:
    sick._sweeper.put("krank")


@pytest.mark.skipif(sys.platform != "linux", reason="the client's runner is tested on Linux")
@pytest.mark.parametrize("end", [link, listener, sweeper])
def test_the_client_ends_in_order(
    end: Callable[[Daemon], None], tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_client_config(
        None,
        {"server": "127.0.0.1:1", "state_dir": str(tmp_path / "state"), "listen_port": "0"},
        {"HOME": str(tmp_path)},
    )
    monkeypatch.setattr(client_daemon, "remove_tree", boom)
    sick = Daemon(config, runner_idle_s=0.0)
    sick.start()
    backstop = threading.Timer(3 * PATIENCE_S, sick.stop)
    backstop.start()
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(end, sick)
        assert sick.serve() == EXIT_DIED
        killing.result(PATIENCE_S)
    backstop.cancel()
    assert ERROR in {record.exc_info[1] for record in caplog.records if record.exc_info}
