"""Transactions: one door for writing, one for reading, and small writes that share a commit.

Writers take turns at a fair lock on every database, so that a transaction never meets another's half-done work and
nobody starves (plain BEGIN failed 41 to 45 % of read-then-write transactions under 8 threads; BEGIN IMMEDIATE alone
let threads wait for 1.4 to 2 s; behind the lock none failed and the longest wait was 0.15 s).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from hqueue import database
from hqueue.clock import Clock, to_ms
from hqueue.config import Policy
from hqueue.durability import Flusher
from hqueue.errors import StoreUnavailableError
from hqueue.groupcommit import GroupCommit
from hqueue.schema import counter, event

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
    from concurrent.futures import Future

    from hqueue.service import OnDeath

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WakeScheduler:
    """Something can be assigned that could not be before."""


@dataclass(frozen=True, slots=True)
class WakeClient:
    """A client has work or wishes to fetch."""

    client_id: int


@dataclass(frozen=True, slots=True)
class RunBulk:
    """An action waits to be carried to a job's relatives."""


@dataclass(frozen=True, slots=True)
class DeleteLogs:
    """A job is gone, and so should its output be."""

    job_id: int


@dataclass(frozen=True, slots=True)
class AwaitTick:
    """Somebody waits for the scheduler's first pass that sees this commit."""

    done: Future[None]


# Nudges for after the commit. The rows alone imply the work: one that is lost costs a tick, never a job.
Instruction = WakeScheduler | WakeClient | RunBulk | DeleteLogs | AwaitTick


class FairLock:
    """A lock that is taken in the order in which it was asked for."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()  # handed over: never free in between
            else:
                self._held = False


class Session:
    """One open write transaction, with what is to follow its commit."""

    def __init__(
        self,
        connection: sa.Connection,
        now_ms: int,
        steady_ms: int,
        counters: _Counters,
        requirement_ids: dict[str, int],
        shells: dict[str, int],
        policy: Policy,
    ) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self.steady_ms = steady_ms  # never jumps: for durations
        self.requirement_ids = requirement_ids  # what is known of the requirement table: ids by digest
        self.shells = shells  # of the shell table: when each was noted last
        self.policy = policy
        self._counters = counters
        self._events: list[dict[str, Any]] = []
        self._written_events = 0
        self._instructions: dict[Instruction, None] = {}
        self._remembered: list[tuple[MutableMapping[Any, Any], Hashable, Any]] = []
        self._depth = 0  # of savepoints

    def allocate(self, name: str, count: int = 1) -> int:
        """Take ids or sequence numbers and return the first; gaps appear where a transaction fails, repeats never."""
        return self._counters.take(self.connection, name, count)

    def record(self, job_id: int, event_name: str, status: str, message: str = "") -> None:
        """Add a line to a job's log and to the change feed."""
        self._events.append(
            {"job_id": job_id, "at": self.now_ms, "event": event_name, "status": status, "message": message},
        )

    def after_commit(self, instruction: Instruction) -> None:
        """Ask for a nudge once the transaction is safely stored; asked for twice, it is given once."""
        self._instructions[instruction] = None

    def remember(self, cache: MutableMapping[Any, Any], key: Hashable, value: Any) -> None:
        """Put a row's id into a cache once the row is safely stored."""
        self._remembered.append((cache, key, value))

    def recall(self, cache: MutableMapping[Any, Any], key: Hashable) -> Any:
        """Return what a cache holds, or what this transaction is about to put there, or None."""
        for staged, staged_key, value in reversed(self._remembered):
            if staged is cache and staged_key == key:
                return value
        return cache.get(key)

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo the block alone, rows and nudges, when it raises."""
        marks = len(self._events), dict(self._instructions), len(self._remembered)
        written_events = self._written_events
        self._depth += 1
        name = f"part{self._depth}"  # one of its own: MariaDB forgets an outer one of the same name
        self.connection.exec_driver_sql(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException as error:
            try:
                self.connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {name}")
            except sa.exc.DBAPIError:
                # A full disk makes SQLite give up the whole transaction, with all that others wrote in it.
                raise StoreUnavailableError from error
            del self._events[marks[0] :]
            self._written_events = written_events
            self._instructions = marks[1]
            del self._remembered[marks[2] :]
            raise
        finally:
            self._depth -= 1
        self.connection.exec_driver_sql(f"RELEASE SAVEPOINT {name}")

    def attempt(self, function: Callable[[], object]) -> Exception | None:
        """Do something that alone is undone when it raises; return the error.

        Errors: what says that nothing can be stored now is raised.
        """
        try:
            with self.savepoint():
                function()
        except Exception as error:
            unavailable = isinstance(error, sa.exc.DBAPIError) and database.is_unavailable(error)
            if unavailable or isinstance(error, StoreUnavailableError):
                raise
            return error
        return None

    def write_events(self) -> None:
        """Write the lines that were only noted so far, for whoever reads logs in this transaction."""
        fresh = self._events[self._written_events :]
        if fresh:
            first = self.allocate("event", len(fresh))
            self.connection.execute(sa.insert(event), [row | {"seq": first + place} for place, row in enumerate(fresh)])
            self._written_events = len(self._events)

    def finish(self) -> None:
        """Write what was only noted so far; called by the store, just before the commit."""
        self.write_events()
        self._counters.save(self.connection)

    def committed(self) -> Sequence[Instruction]:
        """Fill the caches and return the nudges to give; called by the store after the commit."""
        for cache, key, value in self._remembered:
            cache[key] = value
        return list(self._instructions)


class _Counters:
    """The numbers given out so far; only the holder of the write lock uses them."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {}
        self._unsaved: set[str] = set()

    def take(self, connection: sa.Connection, name: str, count: int) -> int:
        value = self._values.get(name)
        if value is None:
            value = connection.execute(sa.select(counter.c.value).where(counter.c.name == name)).scalar_one()
        self._values[name] = value + count
        self._unsaved.add(name)
        return value + 1

    def save(self, connection: sa.Connection) -> None:
        for name in self._unsaved:
            connection.execute(_SAVE_COUNTER, {"counter_name": name, "counter_value": self._values[name]})
        self._unsaved.clear()


_SAVE_COUNTER: Final = (
    sa.update(counter).where(counter.c.name == sa.bindparam("counter_name")).values(value=sa.bindparam("counter_value"))
)


_DEFAULTS: Final = Policy()


def _only_logged(_error: BaseException) -> None:
    """Leave a death at what is in the log."""


class Store:
    """A farm's database.

    `on_commit` is called after each commit with the nudges that were asked for, on the thread that committed;
    `on_death` when the thread of the group commit or of the flusher has died.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        policy: Policy = _DEFAULTS,
        on_death: OnDeath = _only_logged,
        pool_size: int = 5,
        max_overflow: int = 10,
    ) -> None:
        self.policy = policy
        self.engine = database.create_engine(url, pool_size=pool_size, max_overflow=max_overflow)
        self.on_commit: Callable[[Sequence[Instruction]], None] = lambda _: None
        self.is_open = False
        self._clock = clock
        self._lock = FairLock()
        self._server_lock = database.ServerLock(self.engine)
        self._counters = _Counters()
        self._requirement_ids: dict[str, int] = {}
        self._shells: dict[str, int] = {}
        self._writer: sa.Connection | None = None
        self._flusher = Flusher(database.sqlite_path(self.engine), on_death)
        self._groups = GroupCommit(partial(self.writing, durable=False), self._flusher.when_durable, clock, on_death)

    @property
    def is_local(self) -> bool:
        """Tell whether reading a row by its key is a matter of microseconds: no network in between."""
        return self.engine.dialect.name == "sqlite"

    def open(self) -> None:
        """Take the store for this process, bring its tables up to date and start to accept writes.

        Errors: ConfigError when another server has it or it holds foreign tables; StoreUnavailableError.
        """
        try:
            self._server_lock.acquire()
            with self._lock, database.translated_errors():
                self._writing_connection()
            database.upgrade(self.engine)
        except BaseException:
            self.close()
            raise
        self.is_open = True
        self._flusher.start()
        self._groups.start()

    def close(self) -> None:
        """Finish the writes that were handed in, then let go of the database; may be called twice."""
        self._groups.stop()
        self._flusher.stop()
        with self._lock:
            self.is_open = False
            self._drop_writer()
        self.engine.dispose()
        self._server_lock.release()

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Session]:
        """Open the one write transaction; commit at the end of the block, roll back when it raises.

        The block's end returns when the commit survives a power cut; with `durable` False as soon as others see it,
        and whoever is told of it has to be told through `when_durable`.
        """
        with self._lock:
            if not self.is_open:
                # Another server may have it by now.
                raise StoreUnavailableError("the store is closed: the server is stopping")
            with database.translated_errors():
                connection = self._writing_connection()
                try:
                    with connection.begin():
                        now_ms, steady_ms = to_ms(self._clock.now()), self._clock.steady_ms()
                        session = Session(
                            connection,
                            now_ms,
                            steady_ms,
                            self._counters,
                            self._requirement_ids,
                            self._shells,
                            self.policy,
                        )
                        yield session
                        session.finish()
                except (sa.exc.DBAPIError, StoreUnavailableError):
                    self._drop_writer()  # it may be half broken; the next transaction gets a new one
                    raise
            instructions = session.committed()
        if instructions:
            self._nudge(instructions)
        if durable:
            self.flush()

    def _nudge(self, instructions: Sequence[Instruction]) -> None:
        try:
            self.on_commit(instructions)
        except Exception:
            # What is committed must not look as if it had failed: the caller would do it again.
            log.exception("a nudge after a commit failed")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a snapshot for reading; what is written in it is rolled back."""
        with database.translated_errors(), self.engine.connect() as connection:
            yield connection
            connection.rollback()

    def flush(self) -> None:
        """Return once all that is committed now survives a power cut.

        Errors: StoreUnavailableError.
        """
        self._flusher.wait()

    def when_durable(self, told: Callable[[BaseException | None], None]) -> None:
        """Call back, on another thread, once all that is committed now survives a power cut."""
        self._flusher.when_durable(told)

    def write_soon(self, function: Callable[[Session], T], *, durable: bool = True) -> Future[T]:
        """Run a small write in a commit shared with others; the future resolves once it survives a power cut.

        With `durable` False it resolves as soon as others see it.
        Errors: in the future: what the function raised (it alone is undone), or StoreUnavailableError.
        """
        return self._groups.put(function, durable=durable)

    def checkpoint(self) -> None:
        """Keep SQLite's write-ahead log small; to be called every few seconds."""
        database.checkpoint(self.engine)

    def _writing_connection(self) -> sa.Connection:
        if self._writer is None:
            connection = self.engine.connect().execution_options(**{database.WRITING: True})
            try:
                self._server_lock.acquire_on(connection)
            except BaseException:
                connection.close()
                raise
            self._writer = connection
        return self._writer

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.invalidate()
            writer.close()


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of a size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
