"""The daemon on a farm machine: puts the client together and runs its loop."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import random
import selectors
import signal
import socket
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from hqueue import __version__
from hqueue.client import machine, platforms
from hqueue.client.conversation import Call, Conversation
from hqueue.client.environment import Environment, inherited, own_prefixes
from hqueue.client.journal import Journal
from hqueue.client.link import ServerLink
from hqueue.client.listener import Listener
from hqueue.client.processes import LocalProcesses
from hqueue.client.runner import IDLE_S
from hqueue.client.runnerlink import RunnerLink
from hqueue.client.runs import Runs
from hqueue.client.statefolder import StateFolder
from hqueue.client.workspace import Workspaces, remove_tree, sentence
from hqueue.clock import Clock, SystemClock
from hqueue.errors import ConfigError
from hqueue.service import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.config import ClientConfig

log = logging.getLogger(__name__)

EXIT_STOPPED = 0
EXIT_DIED = 1  # a service died of a bug; the log has its traceback
EXIT_UNUSABLE = 2  # the configuration, the state folder or the port cannot be used
EXIT_REFUSED = 3  # the server will not have this client
LAST_WORDS_S = 5.0  # for delivering what has ended, when told to stop
FIRST_RUNNER_RETRY_S = 1.0
LONGEST_RUNNER_RETRY_S = 30.0
LOG_BYTES = 20 << 20
LOGS_KEPT = 3


class Daemon:
    """One client: `start()` claims the state folder and the port, `serve()` works until `stop()` or the end.

    Everything is decided in one thread, the one that calls `serve`. Others carry out what blocks: one talks to the
    server, one answers on the client's own port, one removes scratch folders.
    """

    def __init__(self, config: ClientConfig, *, clock: Clock | None = None, runner_idle_s: float = IDLE_S) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._runner_idle_s = runner_idle_s
        self._inbox: deque[Callable[[float], None]] = deque()
        self._stopping = False
        self._runner_retry_at = 0.0
        self._runner_retry_s = FIRST_RUNNER_RETRY_S
        self._failure: BaseException | None = None
        # A frame's temporary files can take minutes. What is left at the end is removed after the next start.
        self._sweeper: Consumer[str] = Consumer("sweeper", self._died, each=_sweep, fail=lambda _path, _error: None)

    def start(self) -> None:
        """Claim what only one client can have.

        Errors: ConfigError, one sentence.
        """
        config = self._config
        self._folder = StateFolder(config.state_dir)
        try:
            self._listener = Listener(
                config.listen_port,
                config.server.host,
                next_free=config.next_free_port,
                on_wakeup=partial(self._post, self._woken),
                on_terminate=partial(self._post, self._terminate),
                on_death=self._died,
            )
        except ConfigError:
            self._folder.close()
            raise
        self._folder.note_port(self._listener.port)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0)
        self._wake_writer.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._sweeper.start()  # what the last daemon left may be swept at once
        self._build()
        # Ringing is possible from here on; whoever rings early is heard when the loop starts.
        self._listener.start()

    def _build(self) -> None:
        config, path = self._config, self._config.state_dir
        self._journal = Journal(path / "runs.jsonl")
        self._runner = RunnerLink(path, self._folder.key_file, self._clock, idle_s=self._runner_idle_s)
        environment = Environment(
            inherited(os.environ, own_prefixes()), config.job_environment, config.server_url, config.network_mount
        )
        self._system = LocalProcesses()
        self._runs = Runs(
            journal=self._journal,
            workspaces=Workspaces(path / "runs", self._sweeper.put),
            environment=environment,
            starter=self._runner,
            system=self._system,
            key=self._folder.key,
            boot=platforms.boot_id(),
            umask=_umask() if config.umask is None else config.umask,
        )
        self._runs.load()
        cpus = config.cpus or machine.cpu_count()
        self._identity = machine.identity(
            path,
            name=config.name,
            key=self._folder.key,
            incarnation=self._folder.incarnation,
            cpus=cpus,
            port=self._listener.port,
        )
        self._conversation = Conversation(
            self._runs,
            self._identity,
            machine.Load(path, cpus, self._clock),
            lambda answer: environment.set_folders(answer.network_folders),
            random.Random(),  # noqa: S311 - spreads retries, guards nothing
        )
        self._link = ServerLink(
            config.server_url,
            before=self._journal.sync,
            on_answer=lambda call, value: self._post(partial(self._answered, call, value)),
            on_failure=lambda call, error: self._post(partial(self._failed, call, error)),
            on_death=self._died,
            authorization=config.server.authorization,
        )

    @property
    def address(self) -> str:
        """Return where this client answers."""
        return f"http://{self._identity.hostname}:{self._listener.port}"

    @property
    def label(self) -> str:
        """Return what the server calls this client."""
        return self._identity.label

    def stop(self) -> None:
        """Ask `serve` to come to its end; what runs goes on under the runner. For other threads and signal handlers."""
        self._stopping = True
        self._wake()

    def _died(self, error: BaseException) -> None:
        """Come to the end: the init system starts the client again, and what runs goes on meanwhile."""
        self._failure = error
        self._wake()

    def serve(self) -> int:
        """Work until stopped, refused or terminated; return the exit code."""
        self._link.start()
        try:
            self._open_runner(self._clock.monotonic())
            while not self._stopping and self._failure is None:
                busy = self._work(self._conversation.next_call)
                if self._conversation.refused is not None:
                    return self._leave_refused(self._conversation.refused.sentence)
                if self._conversation.farewell_said and not len(self._runs):
                    log.info("nothing left to do; good-bye")
                    return EXIT_STOPPED
                self._sleep(float("inf") if busy else self._conversation.next_due())
            if self._failure is not None:
                log.critical("the client stops: a service died of %r", self._failure)
                return EXIT_DIED
            self._say_last_words()
            return EXIT_STOPPED
        finally:
            self._close()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _work(self, pick: Callable[[float], Call | None]) -> bool:
        """Do all there is to do now; `pick` finds the next call to the server. Tell whether one is under way."""
        now = self._clock.monotonic()
        self._system.refresh()
        self._hear_runner(now)
        while self._inbox:
            self._inbox.popleft()(now)
        self._runs.tick(now)
        self._runs.settle()
        self._runner.flush()
        if not self._link.busy and (call := pick(now)) is not None:
            self._link.make(call)
        return self._link.busy

    def _sleep(self, until: float) -> None:
        """Wait until something happens or is due."""
        now = self._clock.monotonic()
        due = min(until, self._runs.next_due(now), self._runner_retry_at if self._runner.lost else until)
        self._watch_runner()
        # Never for long: after the machine has slept, or a word was missed, the loop looks again by itself.
        timeout = 0.0 if self._inbox else max(0.0, min(due - now, 60.0))
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._wake_reader:
                with contextlib.suppress(BlockingIOError):
                    while self._wake_reader.recv(4096):
                        pass

    def _post(self, act: Callable[[float], None]) -> None:
        self._inbox.append(act)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of earlier wake-ups: one is enough
            self._wake_writer.send(b"\0")

    # -- the server ----------------------------------------------------------------------------------------------------

    def _answered(self, call: Call, value: Any, now: float) -> None:
        self._link.busy = False
        known = self._conversation.registered
        self._conversation.answered(call, value, now)
        if self._conversation.registered and not known:
            log.info(
                "registered at %s as client %d (%s)", self._config.server_url, self._conversation.client_id, self.label
            )

    def _failed(self, call: Call, error: Exception, now: float) -> None:
        self._link.busy = False
        self._conversation.failed(call, error, now)

    def _woken(self, _now: float) -> None:
        self._runs.news = True

    def _terminate(self, now: float) -> None:
        log.info("told to terminate: no new jobs, and the end when the running ones are done")
        self._runs.terminate(now)

    # -- the runner ----------------------------------------------------------------------------------------------------

    def _open_runner(self, now: float) -> None:
        """Find the runner, or bury the one that was and start another."""
        held = self._runner.find()
        if held is None:
            self._runs.runner_died(self._runner.remains(), now)
            # The new runner starts with an empty journal: what the old one's said must be in ours.
            self._runs.settle()
            with contextlib.suppress(OSError):
                self._journal.sync()
            if not self._runner.start_new():
                log.error("%s; trying again in %d s", self._runner.problem, self._runner_retry_s)
                self._runner_retry_at = now + self._runner_retry_s
                self._runner_retry_s = min(LONGEST_RUNNER_RETRY_S, 2 * self._runner_retry_s)
                return
            held = []
        elif held:
            log.info("found the runner at work, with %d runs", len(held))
        self._runner_retry_s = FIRST_RUNNER_RETRY_S
        if self._runner.channel is not None:
            self._selector.register(self._runner.channel, selectors.EVENT_READ)
        self._runs.runner_there(held, now)

    def _hear_runner(self, now: float) -> None:
        if self._runner.channel is not None:
            try:
                for message in self._runner.receive():
                    self._runs.runner_said(message, now)
            except ValueError:
                log.exception("the runner said something that cannot be understood")
                self._runner.channel.closed = True
            if self._runner.channel.closed:
                log.warning("the connection to the runner broke")
                self._selector.unregister(self._runner.channel)
                self._runner.hang_up()
                self._runner_retry_at = now
        if self._runner.lost and now >= self._runner_retry_at:
            self._open_runner(now)

    def _watch_runner(self) -> None:
        channel = self._runner.channel
        if channel is not None and not channel.closed:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.wants_to_write else 0)
            if self._selector.get_key(channel).events != wanted:
                self._selector.modify(channel, wanted)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _say_last_words(self) -> None:
        log.info("stopping; %d runs go on without this daemon", sum(run.report is None for run in self._runs))
        until = self._clock.monotonic() + LAST_WORDS_S
        while self._work(self._conversation.last_call) and self._clock.monotonic() < until:
            self._sleep(until)

    def _leave_refused(self, sentence: str) -> int:
        held = sum(run.report is None for run in self._runs)
        if held:
            # The server has given them up, and somebody else may get them: they must not go on here as well.
            log.warning("ending %d commands that the server no longer counts as this client's", held)
            self._runs.kill_all("unknown", self._clock.monotonic())
            until = self._clock.monotonic() + 4 * self._runs.kill_grace_s
            while self._clock.monotonic() < until:
                self._work(lambda _now: None)
                if all(run.report is not None for run in self._runs):
                    break
                self._sleep(until)
        log.error("the server refuses this client: %s", sentence)
        sys.stderr.write(f"hqclient: {self._config.server_url} refuses this client: {sentence}\n")
        return EXIT_REFUSED

    def _close(self) -> None:
        self._listener.stop()
        self._runs.settle()
        self._runner.flush()
        self._runner.leave()
        self._link.stop(1.0)
        self._sweeper.stop(1.0)
        self._journal.close()
        self._folder.close()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()


def _sweep(path: str) -> None:
    try:
        remove_tree(path)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _open_log(config: ClientConfig) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(
        config.state_dir / "hqnode.log", maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("hqueue")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler


def main(config: ClientConfig) -> int:
    """Be a client until stopped; return the exit code.

    Prints one line when ready. 0: stopped or terminated; 1: a service died; 2: folder or port cannot be used; 3: the
    server refuses this client.
    """
    daemon = Daemon(config)
    try:
        daemon.start()
        handler = _open_log(config)
    except ConfigError as error:
        sys.stderr.write(f"hqclient: {error.message}\n")
        return EXIT_UNUSABLE
    except OSError as error:
        sys.stderr.write(f"hqclient: {sentence(error, str(config.state_dir))}\n")
        return EXIT_UNUSABLE
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, lambda *_: daemon.stop())
    for warning in config.warnings:
        log.warning("%s", warning)
    ready = f"hqclient {__version__} {daemon.label} ready at {daemon.address}, server {config.server_url}"
    log.info("%s", ready)
    sys.stdout.write(ready + "\n")
    sys.stdout.flush()
    try:
        return daemon.serve()
    finally:
        logging.getLogger("hqueue").removeHandler(handler)
        handler.close()
