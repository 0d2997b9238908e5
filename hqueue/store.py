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
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import sqlalchemy as sa

from hqueue import database, remote
from hqueue.clock import Clock, SystemClock, to_ms
from hqueue.config import Policy
from hqueue.durability import Flusher, Reserve
from hqueue.errors import (
    PASSING,
    BrokenPromiseError,
    HQueueError,
    Kind,
    OutcomeUnknownError,
    StoreFullError,
    StoreUnavailableError,
)
from hqueue.failures import kind_of
from hqueue.groupcommit import GroupCommit
from hqueue.schema import counter
from hqueue.session import (
    AwaitTick,
    Counters,
    DeleteLogs,
    Instruction,
    RunBulk,
    SendLetters,
    Session,
    WakeClient,
    WakeScheduler,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hqueue.service import OnDeath

__all__ = [
    "AwaitTick",
    "DeleteLogs",
    "FairLock",
    "Instruction",
    "RunBulk",
    "SendLetters",
    "Session",
    "Store",
    "WakeClient",
    "WakeScheduler",
]

T = TypeVar("T")
log = logging.getLogger(__name__)


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


_FRESH_S: Final = 3.0
_DATABASES_CLOCK: Final = SystemClock()  # what the database goes by when it ends a session
_PROVEN_S: Final = 5.0
_LOOK_UP_S: Final = 8.0  # for a transaction of which nobody knows whether it was stored
_PROOF: Final = "event"  # any row that is always there
_TOUCH: Final = sa.update(counter).where(counter.c.name == sa.bindparam("counter_name")).values(value=counter.c.value)
_DEFAULTS: Final = Policy()


def _only_logged(_error: BaseException) -> None:
    """Leave a death at what is in the log."""


class Store:
    """A farm's database.

    `on_commit` is called after each commit with the nudges that were asked for, on the thread that committed;
    `on_forget` when another server has had the store in between, and all that is remembered of it may be wrong;
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
        self.on_forget: Callable[[], None] = lambda: None
        self.is_open = False
        self._clock = clock
        self._lock = FairLock()
        self._server_lock = database.ServerLock(self.engine)
        self._counters = Counters()
        self._requirement_ids: dict[str, int] = {}
        self._shells: dict[str, int] = {}
        self._writer: sa.Connection | None = None
        self._used_at_s = 0.0
        self._epoch = remote.Epoch()
        self._on_death = on_death
        self._broken = False  # a promise: nothing more is written, and the process ends
        self._latest: tuple[float, str] = (0.0, "")  # when a write was tried, and what came of it: "" is well
        self._reserve = Reserve(database.sqlite_path(self.engine))
        self._flusher = Flusher(database.sqlite_path(self.engine), self._break)
        writing = partial(self.writing, durable=False, urgent=True)
        self._groups = GroupCommit(writing, self._flusher.when_durable, clock, on_death)

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
            with self._lock, database.translated_errors():
                self._begin_epoch(self._writing_connection())
        except BaseException:
            self.close()
            raise
        self.is_open = True
        self._latest = self._clock.monotonic(), ""
        self._reserve.renew()
        self._flusher.start()
        self._groups.start()

    def close(self) -> None:
        """Finish the writes that were handed in, then let go of the database; may be called twice."""
        self._groups.stop()
        self._flusher.stop()
        with self._lock:
            self.is_open = False
            if self._broken:
                # The last connection to close would carry a log over of which the disk has lost a part. It dies with
                # the process instead.
                return
            self._drop_writer()
        self.engine.dispose()
        self._reserve.renew()  # what is freed with the log is kept for the next start
        self._server_lock.release()

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True, urgent: bool = False) -> Iterator[Session]:
        """Open the one write transaction; commit at the end of the block, roll back when it raises.

        The block's end returns when the commit survives a power cut; with `durable` False as soon as others see it,
        and whoever is told of it has to be told through `when_durable`.
        What is `urgent` may take of the disk's reserve.
        Errors: StoreUnavailableError and StoreFullError: nothing was changed; OutcomeUnknownError: it may be stored.
        """
        with self._lock:
            self._check_open()
            if not urgent:
                self._check_room()
            try:
                with database.translated_errors():
                    connection = self._writing_connection()
                    try:
                        with connection.begin() as transaction:
                            session = Session(
                                connection,
                                to_ms(self._clock.now()),
                                self._clock.steady_ms(),
                                self._counters,
                                self._requirement_ids,
                                self._shells,
                                self.policy,
                            )
                            yield session
                            session.finish()
                            self._commit(connection, transaction)
                    except (sa.exc.DBAPIError, *PASSING):
                        self._drop_writer()  # it may be half broken; the next transaction gets a new one
                        raise
            except BrokenPromiseError as error:
                self._break(error)
                raise OutcomeUnknownError from error
            except PASSING as error:
                if not (isinstance(error, OutcomeUnknownError) and self._was_stored()):
                    self._latest = self._clock.monotonic(), error.message
                    if isinstance(error, StoreFullError):
                        self._reserve.give_up()
                    raise
            self._latest = self._clock.monotonic(), ""
            instructions = session.committed()
        if instructions:
            self._nudge(instructions)
        if durable:
            self.flush()

    def trouble(self) -> str:
        """Return why the store cannot be relied on at the moment: "" when a write of the last seconds succeeded."""
        at_s, trouble = self._latest
        if self._reserve.is_given_up:
            return StoreFullError().message
        if trouble or self._clock.monotonic() - at_s <= _PROVEN_S:
            return trouble
        return f"no write has come to its end in the last {_PROVEN_S:g} s"

    def prove(self) -> None:
        """Try a write where the latest is not quite new, and make the disk's reserve again; to be called each second.

        On a database over the network it also keeps our session: one that says nothing is ended.
        """
        if not self._broken:
            self._reserve.renew()
        at_s, trouble = self._latest
        if trouble or self._clock.monotonic() - at_s >= _PROVEN_S / 2:
            with self.writing(durable=False) as session:
                session.connection.execute(_TOUCH, {"counter_name": _PROOF})

    def _check_room(self) -> None:
        if self._reserve.is_given_up:
            raise StoreFullError

    def _check_open(self) -> None:
        if self._broken:
            raise OutcomeUnknownError
        if not self.is_open:
            # Another server may have it by now.
            raise StoreUnavailableError("the store is closed: the server is stopping")

    def _commit(self, connection: sa.Connection, transaction: sa.RootTransaction) -> None:
        if self.is_local:
            transaction.commit()
            return
        self._epoch.count(connection)
        try:
            transaction.commit()
        except sa.exc.DBAPIError as error:
            if kind_of(error) not in {Kind.AWAY, Kind.UNKNOWN}:
                raise
            # The database may have done it, and its answer was lost.
            log.warning("it is not known whether a transaction was stored: %s", error.orig)
            self._epoch.doubt()
            raise OutcomeUnknownError from error
        self._epoch.counted()

    def _was_stored(self) -> bool:
        """Look up whether the transaction in doubt was stored; False when that cannot be told in time.

        Errors: StoreUnavailableError: it was not.
        """
        until_s = _DATABASES_CLOCK.monotonic() + _LOOK_UP_S
        while _DATABASES_CLOCK.monotonic() < until_s:
            with contextlib.suppress(sa.exc.SQLAlchemyError, HQueueError):
                self._writing_connection()
                break
            _DATABASES_CLOCK.wait(threading.Event(), 0.2)
        if self._epoch.was_stored is False:
            raise StoreUnavailableError
        return bool(self._epoch.was_stored)

    def _break(self, error: BaseException) -> None:
        """Write nothing any more, and have the process ended: what was promised cannot be kept."""
        if not self._broken:
            self._broken = True
            self._on_death(error)

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

        Errors: OutcomeUnknownError.
        """
        self._flusher.wait()

    def when_durable(self, told: Callable[[BaseException | None], None]) -> None:
        """Call back, on another thread, once all that is committed now survives a power cut."""
        self._flusher.when_durable(told)

    def write_soon(self, function: Callable[[Session], T], *, durable: bool = True, urgent: bool = False) -> Future[T]:
        """Run a small write in a commit shared with others; the future resolves once it survives a power cut.

        With `durable` False it resolves as soon as others see it. What is `urgent` may take of the disk's reserve.
        Errors: in the future: what the function raised (it alone is undone), or an error of `writing`.
        """
        if self._reserve.is_given_up and not urgent:
            refused: Future[T] = Future()
            refused.set_exception(StoreFullError())
            return refused
        return self._groups.put(function, durable=durable)

    def checkpoint(self) -> None:
        """Keep SQLite's write-ahead log small; to be called every few seconds."""
        if not self._broken:
            database.checkpoint(self.engine, if_it_fits=not self._reserve.is_there)

    def _writing_connection(self) -> sa.Connection:
        if self._writer is not None and not self._still_there(self._writer):
            self._drop_writer()
        if self._writer is None:
            connection = self.engine.connect().execution_options(**{database.WRITING: True})
            try:
                self._server_lock.acquire_on(connection)
                if self.is_open:
                    self._begin_epoch(connection)
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
            self._writer = connection
        self._used_at_s = _DATABASES_CLOCK.monotonic()
        return self._writer

    def _still_there(self, writer: sa.Connection) -> bool:
        """Ask a session that was not used for a while: the database may have ended it, and nobody need be told."""
        if self.is_local or _DATABASES_CLOCK.monotonic() - self._used_at_s < _FRESH_S:
            return True
        try:
            writer.exec_driver_sql("SELECT 1")
            writer.rollback()
        except sa.exc.DBAPIError:
            return False
        return True

    def _begin_epoch(self, connection: sa.Connection) -> None:
        """Begin with a new session: what was remembered may be wrong."""
        if self.is_local:
            return  # the lock's file is held for as long as the process lives
        remote.keep_short(connection)
        was_other = self._epoch.begin(connection)
        self._counters = Counters()
        self._requirement_ids.clear()
        self._shells.clear()
        if was_other:
            log.warning("another server has written to the store since; all that was remembered is read anew")
            self.on_forget()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.invalidate()
            writer.close()
