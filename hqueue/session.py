"""One open write transaction: what is done in it, and the nudges that are to follow its commit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import insert_rows, send
from hqueue.errors import Kind, StoreFullError, StoreUnavailableError
from hqueue.failures import kind_of
from hqueue.schema import counter, event

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
    from concurrent.futures import Future

    from hqueue.config import Policy


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
class SendLetters:
    """There is something to tell people."""


@dataclass(frozen=True, slots=True)
class AwaitTick:
    """Somebody waits for the scheduler's first pass that sees this commit."""

    done: Future[None]


# Nudges for after the commit. The rows alone imply the work: one that is lost costs a tick, never a job.
Instruction = WakeScheduler | WakeClient | RunBulk | DeleteLogs | SendLetters | AwaitTick


class Session:
    """One open write transaction, with what is to follow its commit."""

    def __init__(
        self,
        connection: sa.Connection,
        now_ms: int,
        steady_ms: int,
        counters: Counters,
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

    def record(self, job_id: int, event_name: str, status: str, message: str = "", *, jobs: int = 1) -> None:
        """Add a line to a job's log and to the change feed.

        jobs: of how many jobs it tells there, this one and those after it; 0: it is for the log alone.
        """
        row = {"job_id": job_id, "at": self.now_ms, "event": event_name, "status": status, "message": message}
        self._events.append({**row, "jobs": jobs})

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
        send(self.connection, f"SAVEPOINT {name}")
        try:
            yield
        except BaseException as error:
            try:
                send(self.connection, f"ROLLBACK TO SAVEPOINT {name}")
            except sa.exc.DBAPIError:
                # A full disk makes SQLite give up the whole transaction, with all that others wrote in it.
                raise (StoreFullError if kind_of(error) is Kind.FULL else StoreUnavailableError) from error
            del self._events[marks[0] :]
            self._written_events = written_events
            self._instructions = marks[1]
            del self._remembered[marks[2] :]
            raise
        finally:
            self._depth -= 1
        send(self.connection, f"RELEASE SAVEPOINT {name}")

    def attempt(self, function: Callable[[], object]) -> Exception | None:
        """Do something that alone is undone when it raises; return the error.

        Errors: what is not about this one thing alone is raised.
        """
        try:
            with self.savepoint():
                function()
        except Exception as error:
            if kind_of(error) is not Kind.BAD_ITEM:
                raise
            return error
        return None

    def write_events(self) -> None:
        """Write the lines that were only noted so far, for whoever reads logs in this transaction."""
        fresh = self._events[self._written_events :]
        if fresh:
            first = self.allocate("event", len(fresh))
            for seq, row in enumerate(fresh, first):
                row["seq"] = seq
            insert_rows(self.connection, event, fresh)
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


class Counters:
    """The numbers given out so far; only the holder of the write lock uses them."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {}
        self._unsaved: set[str] = set()

    def take(self, connection: sa.Connection, name: str, count: int) -> int:
        """Take so many numbers and return the first."""
        value = self._values.get(name)
        if value is None:
            value = connection.execute(sa.select(counter.c.value).where(counter.c.name == name)).scalar_one()
        self._values[name] = value + count
        self._unsaved.add(name)
        return value + 1

    def save(self, connection: sa.Connection) -> None:
        """Write what was taken."""
        if self._unsaved:
            rows = [{"counter_name": name, "counter_value": self._values[name]} for name in self._unsaved]
            connection.execute(SAVE_COUNTER, rows)
        self._unsaved.clear()


SAVE_COUNTER: Final = (
    sa.update(counter).where(counter.c.name == sa.bindparam("counter_name")).values(value=sa.bindparam("counter_value"))
)
