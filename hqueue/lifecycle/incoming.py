"""Large submissions: stored a step a transaction, and there for everybody with the last one, whole.

A lane carries one submission at a time. Its row in `incoming` names the ids that nobody sees yet: all read jobs through
a view that leaves them out. What a fault or a crash has left is removed, in steps too.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.errors import PASSING, HQueueError, StoreUnavailableError
from hqueue.lifecycle import repeats
from hqueue.lifecycle.bulk import STEP
from hqueue.lifecycle.submission import Submission, submit
from hqueue.schema import event, incoming, job_edge, job_row, job_spec
from hqueue.service import Consumer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hqueue.clock import Clock
    from hqueue.jobspec import SpecGraph
    from hqueue.service import OnDeath
    from hqueue.store import Session, Store

_AT_ONCE: Final = STEP  # so many jobs fit into one step
_SHORT: Final = 2_000  # what has no more jobs than that never waits behind what has
_STEP_S: Final = 0.01
_PIECE: Final = 50
_LANES: Final = (1, 2)
# What a submission hangs on may change while it is stored. Then it is stored anew, and in the end at once.
_TRIES: Final = 3

_RANGE: Final = sa.select(incoming.c.first_id, incoming.c.last_id).where(incoming.c.lane == sa.bindparam("key_lane"))
_SET_RANGE: Final = (
    sa.update(incoming)
    .where(incoming.c.lane == sa.bindparam("key_lane"))
    .values(first_id=sa.bindparam("first"), last_id=sa.bindparam("last"))
)


def _between(column: sa.Column[int]) -> sa.ColumnElement[bool]:
    return column.between(sa.bindparam("low"), sa.bindparam("high"))


_REMOVE: Final = (
    sa.delete(event).where(_between(event.c.job_id)),
    sa.delete(job_edge).where(_between(job_edge.c.child_id)),
    sa.delete(job_edge).where(_between(job_edge.c.parent_id)),
    sa.delete(job_spec).where(_between(job_spec.c.job_id)),
    sa.delete(job_row).where(_between(job_row.c.id)),
)


@dataclass(slots=True, eq=False)
class _Call:
    """A submission whose caller waits; without a graph: a look at what was left."""

    graph: SpecGraph | None = None
    parent_id: int | None = None
    child_ids: Sequence[int] = ()
    future: Future[list[int]] = field(default_factory=Future)

    def fail(self, error: HQueueError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Incoming:
    """Takes submissions of any size; the large ones have two lanes, each a thread of its own."""

    def __init__(self, store: Store, clock: Clock, on_death: OnDeath) -> None:
        self._store = store
        self._clock = clock
        self._stopping = threading.Event()
        self._lanes = [
            Consumer(f"submissions-{lane}", on_death, each=partial(self._take, lane), fail=_Call.fail)
            for lane in _LANES
        ]

    def start(self) -> None:
        """Begin with what the last end has left."""
        self._stopping.clear()
        for lane in self._lanes:
            lane.start()
        self.tidy()

    def stop(self) -> None:
        """End between two steps: the submissions under way come to nothing, and their callers are told."""
        self._stopping.set()
        for lane in self._lanes:
            lane.stop()

    def tidy(self) -> list[Future[list[int]]]:
        """Remove soon what faults have left; to be called now and then. The futures resolve when that is done."""
        calls = [_Call() for _ in self._lanes]
        for lane, call in zip(self._lanes, calls, strict=True):
            lane.put(call)
        return [call.future for call in calls]

    def put(self, graph: SpecGraph, parent_id: int | None = None, child_ids: Sequence[int] = ()) -> Future[list[int]]:
        """Store the jobs of a graph soon; the future resolves with their ids once they survive a power cut.

        Errors: in the future: those of `submit`, and of the store.
        """
        count = len(graph.jobs)
        if count <= _AT_ONCE:
            return self._store.write_soon(lambda session: submit(session, graph, parent_id, child_ids))
        call = _Call(graph, parent_id, child_ids)
        self._lanes[count > _SHORT].put(call)
        return call.future

    def _take(self, lane: int, call: _Call) -> None:
        try:
            self._remove(lane)
            call.future.set_result([] if call.graph is None else self._submit(lane, call, call.graph))
        except HQueueError as error:
            call.fail(error)
            # What cannot be removed now is removed by the next that comes here, or at the next start.
            with suppress(*PASSING):
                self._remove(lane)

    def _submit(self, lane: int, call: _Call, graph: SpecGraph) -> list[int]:
        parent_id, child_ids = call.parent_id, call.child_ids
        key = repeats.key_of(graph, parent_id, child_ids)
        for _ in range(_TRIES):
            with self._store.writing(durable=False) as session:
                known = repeats.find(session, key)
                if known is None:
                    found = Submission(session, graph, parent_id, child_ids)
                    _set_range(session, lane, found.ids[0], found.ids[-1])
            if known is not None:
                self._store.flush()
                return known
            found.plan()
            self._store_in_steps(lane, found)
            with self._store.writing() as session:
                _check_range(session, lane, found)
                if repeats.find(session, key) is None and found.still_holds(session):
                    found.join(session)
                    repeats.keep(session, key, found.ids)
                    _set_range(session, lane, 0, 0)
                    return found.ids
            self._remove(lane)
        with self._store.writing() as session:
            return submit(session, graph, parent_id, child_ids)

    def _store_in_steps(self, lane: int, found: Submission) -> None:
        pieces = deque(range(at, min(at + _PIECE, len(found.ids))) for at in range(0, len(found.ids), _PIECE))
        while pieces:
            if self._stopping.is_set():
                raise StoreUnavailableError("the server is stopping and nothing was changed; try again shortly")
            with self._store.writing(durable=False) as session:
                _check_range(session, lane, found)
                end = self._clock.monotonic() + _STEP_S
                found.store(session, pieces.popleft())
                while pieces and self._clock.monotonic() < end:
                    found.store(session, pieces.popleft())

    def _remove(self, lane: int) -> None:
        """Remove what was stored of a submission that has come to nothing."""
        with self._store.reading() as connection:
            last = connection.execute(_RANGE, {"key_lane": lane}).one().last_id
        while last:
            with self._store.writing(durable=False, urgent=True) as session:
                first, last = session.connection.execute(_RANGE, {"key_lane": lane}).one()
                low = max(first, last - STEP + 1)
                for remove in _REMOVE:
                    session.connection.execute(remove, {"low": low, "high": last})
                last = low - 1 if low > first else 0
                _set_range(session, lane, first if last else 0, last)


def _check_range(session: Session, lane: int, found: Submission) -> None:
    """Refuse to go on where another server has had the store meanwhile: it has removed what was there.

    Errors: StoreUnavailableError.
    """
    if session.connection.execute(_RANGE, {"key_lane": lane}).one() != (found.ids[0], found.ids[-1]):
        raise StoreUnavailableError("another server had the store meanwhile and nothing was changed; try again shortly")


def _set_range(session: Session, lane: int, first: int, last: int) -> None:
    session.connection.execute(_SET_RANGE, {"key_lane": lane, "first": first, "last": last})
