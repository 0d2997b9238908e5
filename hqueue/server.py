"""Puts the server together, starts it in order, stops it in reverse; nothing else constructs a service."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
from collections import deque
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import __version__, maintenance
from hqueue.api import Pages, chapters
from hqueue.clock import SystemClock
from hqueue.context import make_context
from hqueue.errors import BrokenPromiseError, ConfigError, HQueueError
from hqueue.farm import FarmMethods
from hqueue.lifecycle.repair import repair
from hqueue.local_client import LocalClient
from hqueue.outbox.delivery import Post
from hqueue.outbox.letters import Letters
from hqueue.outbox.mail import Mailer
from hqueue.outbox.news import MAIL, WEBHOOK
from hqueue.outbox.webhooks import Caller
from hqueue.rpc import room
from hqueue.rpc.dispatch import MethodTable
from hqueue.rpc.http import Limits
from hqueue.rpc.transport import FarmServer
from hqueue.scheduler import INTERVAL_S, Scheduler
from hqueue.schema import client
from hqueue.service import Loop, PeriodicService
from hqueue.store import AwaitTick, DeleteLogs, RunBulk, SendLetters, Store, WakeClient, WakeScheduler
from hqueue.views.failures import digest
from hqueue.wakeups import Wakeups
from hqueue.wire.guard import Door, names_of_this_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hqueue.clock import Clock
    from hqueue.config import ServerConfig
    from hqueue.store import Instruction

log = logging.getLogger(__name__)

# The interpreter lets a busy thread run this long before another gets its turn; the loop answers everybody.
_SWITCH_INTERVAL_S: Final = 0.001
_HEARD_S: Final = 0.5  # the longest that a signal waits to be heard
# Ten thousand rows are no garbage: with the usual 700 the collector looks at them a hundred times while they become an
# answer, which takes a third of its time.
_GC_THRESHOLDS: Final = (100_000, 50, 100)


class Server:
    """One farm's server: store, scheduler, services and the port.

    Errors: ConfigError from the constructor or `start` when the configuration cannot be used, the store belongs to
    another server or the port is taken.
    """

    def __init__(self, config: ServerConfig, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._config = config
        self._ends: SimpleQueue[None] = SimpleQueue()  # why to end; a signal handler may put at any moment
        self._failure: BaseException | None = None
        self._opened = ExitStack()
        self.store = Store(
            config.database_url,
            clock=clock,
            on_death=self._died,
            policy=config.policy,
            pool_size=config.pool_size,
            max_overflow=config.max_overflow,
        )
        self._context = make_context(self.store, config, clock, self._died)
        self.live_farm, self.logs, self.errors = self._context.live_farm, self._context.logs, self._context.errors
        self.scheduler = Scheduler(self.store, self._context.farm, clock, config)
        self._wakeups = Wakeups(self.live_farm, clock, self._died)
        self._ticker = self._service("scheduler", self._tick, clock, INTERVAL_S)
        self._bulk = self._service("bulk", self._carry_bulk_on, clock, None)
        self._maintenance = self._service("maintenance", self._save_live, clock, maintenance.SAVE_INTERVAL_S)
        self._proof = self._service("proof", self._prove, clock, 1.0)
        self._expiry = self._service("expiry", self._expire, clock, maintenance.EXPIRY_INTERVAL_S)
        self._checkpoints = self._service(
            "checkpoints", self.store.checkpoint, clock, maintenance.CHECKPOINT_INTERVAL_S
        )
        self._mail = Post(
            MAIL, Letters(MAIL, self.store, config, digest), Mailer(config), self.store, clock, self._died
        )
        self._webhooks = Post(
            WEBHOOK, Letters(WEBHOOK, self.store, config, digest), Caller(config, clock), self.store, clock, self._died
        )
        self._farm = FarmMethods(self._context, self._died)
        self.table = MethodTable(clock, local=self.store.is_local, multicall_bytes=config.max_output_answer_bytes)
        for chapter in chapters(self._context):
            self.table.add(chapter)
        self.table.add(self._farm, prefix="farm.")
        self._transport: FarmServer | None = None
        self._clock = clock
        self._gone: deque[int] = deque()  # jobs whose logs go with the next pass of maintenance

    @property
    def url(self) -> str:
        """Return the address under which this machine reaches the server."""
        assert self._transport is not None  # noqa: S101 - asked for after start
        host, port = str(self._transport.server_address[0]), self._transport.server_address[1]
        shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not listened on
        return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"

    def start(self) -> None:
        """Open the store, mend what a crash left, then serve."""
        with ExitStack() as opened:
            logging.getLogger("hqueue").addHandler(self.errors)
            opened.callback(logging.getLogger("hqueue").removeHandler, self.errors)
            self.store.open()
            opened.callback(self.store.close)
            opened.callback(self.logs.close)
            self._farm.start()
            opened.callback(self._farm.stop)
            with self.store.writing() as session:
                for sentence in repair(session):
                    log.error("mended: %s", sentence)
            self._watch_clients()
            self._transport = self._listen()
            opened.callback(self._transport.server_close)
            self.store.on_commit = self._carry_out
            self.store.on_forget = self._forget
            serve, shutdown = self._transport.serve_forever, self._transport.shutdown
            loop = Loop("transport", lambda _: serve(), self._died, interrupt=shutdown)
            ticking = (self._ticker, self._bulk, self._maintenance, self._expiry, self._checkpoints, self._proof)
            self._context.incoming.start()
            for post in self._outbox():
                post.start()
                opened.callback(post.stop)
            for service in (*ticking, self._wakeups, loop):
                service.start()
                opened.callback(service.stop)
            # First of all: a large submission comes to nothing now, and its caller is told while there is a port.
            opened.callback(self._context.incoming.stop)
            self._opened = opened.pop_all()

    def start_client(self, files: tuple[int, int]) -> None:
        """Start a client on this machine, with these limits of open files; it stops with the server."""
        self._opened.callback(LocalClient(self.url, self._config.folder / "client", files, self._died).stop)

    def stop(self) -> None:
        """Stop in the reverse order of the start; may be called twice."""
        self.request_stop()
        self._opened.close()

    def request_stop(self) -> None:
        """Ask `wait` to return; safe in a signal handler."""
        self._ends.put(None)

    def wait(self) -> BaseException | None:
        """Wait until somebody asks for the end, or a service dies; return what it died of."""
        # No event: a handler that sets one on the thread that waits for it may wait for ever itself.
        # And not without an end: a signal that comes just before the wait begins does not interrupt it, so that its
        # handler would run only after the wait.
        while True:
            with contextlib.suppress(Empty):
                self._ends.get(timeout=_HEARD_S)
                self._ends.put(None)
                return self._failure

    def _service(self, name: str, tick: Any, clock: Clock, interval_s: float | None) -> PeriodicService:
        return PeriodicService(name, tick, clock, self._died, interval_s=interval_s)

    def _outbox(self) -> list[Post]:
        """Return the channels of the outbox that the settings ask for."""
        calls = self._config.webhook_url or self._config.webhook_hosts
        return [self._mail] * bool(self._config.smtp_server) + [self._webhooks] * bool(calls)

    def _listen(self) -> FarmServer:
        config = self._config
        limits = Limits(
            max_request_bytes=config.max_request_bytes,
            # A level of specification is a struct in an array; the rest is for what stands around and inside.
            max_depth=2 * config.max_spec_depth + 16,
            max_connections=self._connections(),
            request_timeout_s=config.request_timeout_s,
            # One request of the largest size always finds room.
            max_received_bytes=max(config.max_received_bytes, 2 * config.max_request_bytes),
            max_unsent_bytes=config.max_unsent_bytes,
        )
        door = Door(
            names=names_of_this_machine(),
            allowed_hosts=config.allowed_hosts,
            public_url=config.public_url,
            ini="hqserver.ini",
        )
        try:
            return FarmServer(
                (config.host, config.port),
                self.table,
                clock=self._clock,
                limits=limits,
                get_page=Pages(self._context).get,
                door=door,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.host} port {config.port}: {error.strerror or error}; "
                "stop what uses it, or give another one (hqserver --port N)",
            ) from None

    def _connections(self) -> int:
        wanted, sessions = self._config.max_connections, self._config.pool_size + max(self._config.max_overflow, 0)
        most, files = room.connections_within(wanted, sessions)
        if most < wanted:
            log.warning(
                "this process may open %d files, so there are at most %d connections, not max_connections = %d; "
                "LimitNOFILE of systemd and `ulimit -Hn` say how many",
                files,
                most,
                wanted,
            )
        return most

    def _watch_clients(self) -> None:
        """Expect the clients that the store knows: one that never reports again is lost like any other."""
        with self.store.reading() as connection:
            query = sa.select(client.c.id).where(~client.c.lost, ~client.c.forgotten)
            self.live_farm.watch(connection.execute(query).scalars())

    def _forget(self) -> None:
        """Know of clients what the store does; they register again, for another server may have heard of them."""
        for client_id in list(self.live_farm.clients):
            self.live_farm.leave(client_id)
        self._watch_clients()

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        """Give the nudges that a commit asked for."""
        for instruction in instructions:
            if isinstance(instruction, WakeScheduler):
                self._ticker.wake()
            elif isinstance(instruction, WakeClient):
                self.live_farm.tell(instruction.client_id)
                self._wakeups.wake(instruction.client_id)
            elif isinstance(instruction, AwaitTick):
                self.scheduler.await_tick(instruction.done)
            elif isinstance(instruction, RunBulk):
                self._bulk.wake()
            elif isinstance(instruction, SendLetters):
                self._mail.wake()
                self._webhooks.wake()
            elif isinstance(instruction, DeleteLogs):
                self._gone.append(instruction.job_id)

    def _tick(self) -> float | None:
        self.scheduler.tick()
        return None

    def _prove(self) -> float | None:
        self.store.prove()
        return None

    def _carry_bulk_on(self) -> float | None:
        maintenance.carry_bulk_on(self.store)
        return None

    def _expire(self) -> float | None:
        maintenance.expire(self.store)
        self._context.incoming.tidy()
        return None

    def _save_live(self) -> float | None:
        maintenance.save_live(self.store, self.live_farm)
        maintenance.save_errors(self.store, self.errors)
        gone = len(self._gone)
        if gone:
            self.store.flush()  # a log is deleted only when its job is so for good
        for _ in range(gone):
            self.logs.delete(self._gone.popleft())
        return None

    def _died(self, error: BaseException) -> None:
        """End the process in order: the init system restarts it, and `repair` heals."""
        if self._failure is None:  # what died first may be why others do
            self._failure = error
        self.request_stop()
        self.scheduler.release()


def run(config: ServerConfig, *, with_client: bool) -> int:
    """Run a server until SIGTERM or SIGINT, with a client on this machine if asked; return the exit code.

    Prints one line when it is ready. 0: stopped in order; 1: a service died; 2: it could not start.
    """
    for warning in config.warnings:
        log.warning("%s", warning)
    files = room.raise_descriptor_limit()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        server = Server(config)
        server.start()
        gc.freeze()  # what a start has made stays
    except HQueueError as error:
        sys.stderr.write(f"hqserver: {error.message}\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.request_stop())
    sys.stdout.write(_ready_line(server, config))
    sys.stdout.flush()
    try:
        if with_client:
            server.start_client(files)
        failure = server.wait()
        if failure is not None:
            log.critical("the server stops: a service died of %r", failure)
    finally:
        server.stop()
    if isinstance(failure, BrokenPromiseError):
        # At once: Python's own end would close the store, which carries over a log that the disk may have lost.
        logging.shutdown()
        sys.stderr.write(f"hqserver: {failure}; start it again, and look at the disk\n")
        os._exit(1)
    return 0 if failure is None else 1


def _ready_line(server: Server, config: ServerConfig) -> str:
    store = server.store.engine.url.render_as_string(hide_password=True)
    line = f"hqserver {__version__} ready on {server.url} (store {store}, logs {config.job_logs_dir})"
    if config.host in {"127.0.0.1", "localhost", "::1"}:
        line += "; only this machine can connect; set host = 0.0.0.0 to open it"
    else:
        line += "; WARNING: everybody who reaches this port can run commands on the farm, there is no authentication"
    return line + "\n"
