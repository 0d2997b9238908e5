"""Assigns runnable jobs to clients: lost clients, rescues, failures, then assignments."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.clock import Clock, to_ms
from hqueue.config import client_label
from hqueue.database import listed
from hqueue.errors import PASSING
from hqueue.lifecycle import blocklist
from hqueue.lifecycle.runs import Placement, assign, lose_client
from hqueue.lifecycle.status import apply
from hqueue.lifecycle.turns import below_unfinished
from hqueue.matching import Candidate, FitTable, HeldFor, Plan, needs_more_than_a_gap, plan
from hqueue.schema import client, job, run
from hqueue.states import Cause, JobEvent, JobStatus
from hqueue.store import chunks
from hqueue.views.farmview import run_times

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from hqueue.config import ServerConfig
    from hqueue.live import LiveClient
    from hqueue.matching import Placement as Placed
    from hqueue.matching import Requirement
    from hqueue.store import Session, Store
    from hqueue.views.farmview import FarmReader, FarmView

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0  # a lost nudge costs this much
_MOST_RESCUED: Final = 1_000  # in one transaction
# A job that waits for an emptier client looks again for the best one after this long, then after twice as long, …
_LOOK_AGAIN_MS: Final = 60_000


@dataclass(slots=True)
class TickCounts:
    """What one tick did."""

    lost: int = 0
    rescued: int = 0
    assigned: int = 0


class Scheduler:
    """The planner of the farm: one pass over everything that can be placed, instead of one per client."""

    def __init__(self, store: Store, farm: FarmReader, clock: Clock, config: ServerConfig) -> None:
        self.store = store
        self.live_farm = farm.live_farm
        self.clock = clock
        self.config = config
        self._farm = farm
        self._wanted: Mapping[int, Requirement] = {}  # of the latest look
        self._fits = FitTable()
        self._firsts = _Firsts(int(config.hold_after_s * 1000))
        self._waiting: list[Future[None]] = []
        self._released = False
        self._mutex = threading.Lock()
        self._supervised_at_s: float | None = None

    def await_tick(self, done: Future[None]) -> None:
        """Resolve a future after the next tick that begins from now on."""
        with self._mutex:
            if not self._released:
                self._waiting.append(done)
                return
        done.set_result(None)

    def release(self) -> None:
        """Let nobody wait for a tick any more, now and from now on: there may be none."""
        with self._mutex:
            self._released = True
            waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.set_result(None)

    def tick(self) -> TickCounts:
        """Do everything that is due, and answer those who wait for it.

        Errors: what passes; every other exception is a bug of ours.
        """
        with self._mutex:
            waiting, self._waiting = self._waiting, []
        counts = TickCounts()
        try:
            self._supervise(counts)
            counts.assigned = self._assign()
        finally:
            for future in waiting:
                future.set_result(None)
        if counts != TickCounts():
            log.debug("tick: %s", counts)
        return counts

    def _supervise(self, counts: TickCounts) -> None:
        """Look after clients and runs, once per interval however often the scheduler is woken."""
        now_s = self.clock.monotonic()
        if self._supervised_at_s is None:
            self._safely(blocklist.recount_all)  # the limit may be another one since the last start
        elif now_s - self._supervised_at_s < INTERVAL_S:
            return
        self._supervised_at_s = now_s
        for live in self.live_farm.overdue(self.config.active_timeout_s):
            if self._safely(partial(_lose, live)):
                self.live_farm.leave(live.id)
                counts.lost += 1
        before_ms = to_ms(self.clock.now()) - int(self.store.policy.rescue_abandoned_minutes * 60_000)
        for job_ids in chunks(self._to_rescue(before_ms), _MOST_RESCUED):
            counts.rescued += self._rescue(job_ids, before_ms)

    def _to_rescue(self, before_ms: int) -> list[int]:
        """Return the jobs whose clients were lost before a moment and have not come back."""
        if not self.store.policy.rescue_abandoned_minutes:
            return []
        with self.store.reading() as connection:
            return list(connection.execute(_ABANDONED_BEFORE, {"moment": before_ms}).scalars())

    def _rescue(self, job_ids: Sequence[int], before_ms: int) -> int:
        """Rescue jobs, all at once; where one of them cannot be rescued, one by one. Return how many were."""
        if self._safely(partial(_rescue, job_ids, before_ms)):
            return len(job_ids)
        if len(job_ids) == 1:
            return 0
        return sum(self._safely(partial(_rescue, [job_id], before_ms)) for job_id in job_ids)

    def _safely(self, function: Callable[[Session], object]) -> bool:
        """Run one item in a transaction of its own: a bad one is logged and holds up no other."""
        try:
            with self.store.writing() as session:
                function(session)
        except PASSING:
            raise
        except Exception:
            log.exception("an item of the tick failed and is left for the next one")
            return False
        return True

    def _assign(self) -> int:
        """Place what can be placed: one snapshot, a pure plan, one transaction that checks what it assumed."""
        made = self._look(wait_for_roots=True)
        if made is None:
            with self.store.writing(durable=False) as session:
                blocklist.step(session)
            made = self._look(wait_for_roots=False) or Plan()
        assigned, withheld = self._give(made)
        if withheld:
            # What jobs below an unfinished action would have taken goes to whom comes behind their trees.
            made = self._look(wait_for_roots=False, besides=withheld) or Plan()
            assigned += self._give(made)[0]
        self.live_farm.holds = made.holds
        return assigned

    def _give(self, made: Plan) -> tuple[int, frozenset[int]]:
        """Assign what a plan has placed; return how many jobs, and the roots of those that an action keeps from it."""
        if not made.placements:
            return 0, frozenset()
        placements = [self._as_assigned(each) for each in made.placements]
        # Whoever hands the runs out waits for the disk; the next tick need not.
        with self.store.writing(durable=False) as session:
            possible, withheld = self._still_there(session, placements)
            assigned = assign(session, possible)
        roots = (each.candidate.root_id for each in made.placements if each.candidate.job_id in withheld)
        return assigned, frozenset(roots)

    def _look(self, *, wait_for_roots: bool, besides: frozenset[int] = frozenset()) -> Plan | None:
        """Return what could be placed in a snapshot, None where failures are to be looked at first.

        besides: roots whose jobs are left out.
        """
        with self.store.reading() as connection:
            unready = blocklist.pending_roots(connection)
            if unready and wait_for_roots:
                return None
            queue = _Queue(connection, unready | besides)
            heads = queue.heads()
            if not heads:
                self._firsts.forget()
                return Plan()
            return self._plan(connection, self._farm.read(connection), queue, heads)

    def _plan(self, connection: sa.Connection, farm: FarmView, queue: _Queue, heads: dict[int, Candidate]) -> Plan:
        requirements = self._wanted = self._farm.requirements(connection, heads)
        self._fits.renew([view.facts for view in farm.clients])
        self._fits.keep(heads)
        return plan(
            heads,
            requirements,
            farm.clients,
            farm.units,
            fits=self._fits,
            waiting=queue,
            holders=self._firsts.entitled(heads, requirements, to_ms(self.clock.now())),
            times=queue,
        )

    def _still_there(self, session: Session, placements: Sequence[Placement]) -> tuple[list[Placement], set[int]]:
        """Return what can still be, and the jobs that are below an unfinished action.

        Clients, actions and failures may have changed since the snapshot.
        """
        connection = session.connection
        taking = set(connection.execute(_TAKING, {"now": session.now_ms}).scalars())
        withheld = below_unfinished(connection, [placement.job_id for placement in placements])
        left_out = set(withheld)
        unready = blocklist.pending_roots(connection)
        if unready:
            wanted = {"jobs": [placement.job_id for placement in placements], "roots": unready}
            left_out.update(connection.execute(_BELOW_ROOTS, wanted).scalars())
        possible = [
            each
            for each in placements
            if each.job_id not in left_out and taking.issuperset((each.client_id, *each.others))
        ]
        return possible, withheld

    def _as_assigned(self, placed: Placed) -> Placement:
        first, *others = placed.clients
        key = placed.candidate.requirement_id
        return Placement(
            placed.candidate.job_id,
            first.id,
            key,
            self._wanted[key].cpus,
            tuple(view.id for view in others),
        )


class _Firsts:
    """Since when the first job of each requirement has been that: after a while it may have clients held for it."""

    def __init__(self, patience_ms: int) -> None:
        self._patience_ms = patience_ms
        self._since: dict[int, tuple[int, int]] = {}  # job id and moment, by requirement

    def forget(self) -> None:
        """Start anew: nothing waits."""
        self._since.clear()

    def entitled(
        self,
        heads: Mapping[int, Candidate],
        requirements: Mapping[int, Requirement],
        now_ms: int,
    ) -> dict[int, HeldFor]:
        """Return the jobs that may have clients held, by requirement; those for one client only after a while."""
        found: dict[int, HeldFor] = {}
        since: dict[int, tuple[int, int]] = {}
        for key, head in heads.items():
            wanted = requirements[key]
            if not needs_more_than_a_gap(wanted):
                continue
            known = self._since.get(key)
            began_ms = known[1] if known is not None and known[0] == head.job_id else now_ms
            since[key] = (head.job_id, began_ms)
            held_from_ms = began_ms if wanted.min_hosts > 1 else began_ms + self._patience_ms
            if now_ms >= held_from_ms:
                found[key] = HeldFor(head.job_id, _looked_at(held_from_ms, now_ms))
        self._since = since
        return found


def _looked_at(held_from_ms: int, now_ms: int) -> int:
    """Return the moment at which the clients to hold were last chosen: the beginning, then each twice as far from it.

    In between the choice stays, so that a client can become empty; a bad one is not kept for ever.
    """
    later = _LOOK_AGAIN_MS
    if now_ms - held_from_ms < later:
        return held_from_ms
    while now_ms - held_from_ms >= 2 * later:
        later *= 2
    return held_from_ms + later


class _Queue:
    """The runnable jobs in a snapshot, without those whose requirement is not right yet."""

    def __init__(self, connection: sa.Connection, unready: frozenset[int]) -> None:
        self._connection = connection
        self._unready = unready
        self._times: dict[int, list[int]] | None = None

    def heads(self) -> dict[int, Candidate]:
        """Return the first job of each requirement that has any."""
        rows = self._connection.execute(_HEADS).all()
        if self._unready:
            firsts = [first for row in rows for first in self.after(row.requirement_id, 0, 1)]
            return {first.requirement_id: first for first in firsts}
        return {key: Candidate((-priority, root_id, job_id), key) for key, job_id, priority, root_id in rows}

    def after(self, requirement_id: int, seen: int, most: int) -> list[Candidate]:
        """Return the next jobs of a requirement, in the queue's order."""
        query = _NEXT_READY_JOBS if self._unready else _NEXT_JOBS
        given = {"wanted": requirement_id, "seen": seen, "most": most, "unready": self._unready}
        rows = self._connection.execute(query, given)
        return [Candidate((-priority, root_id, job_id), requirement_id) for job_id, priority, root_id in rows]

    def since(self) -> dict[int, list[int]]:
        """Return when the open runs of each client were assigned."""
        if self._times is None:
            self._times = run_times(self._connection)
        return self._times


_TAKING: Final = sa.select(client.c.id).where(
    ~client.c.lost,
    ~client.c.disabled,
    ~client.c.terminating,
    ~client.c.forgotten,
    client.c.condemned == "",
    client.c.refused_until <= sa.bindparam("now"),
)
_BELOW_ROOTS: Final = sa.select(job.c.id).where(job.c.id.in_(listed("jobs")), job.c.root_id.in_(listed("roots")))
_ABANDONED_BEFORE: Final = (
    sa.select(job.c.id, run.c.client_id)
    .join(run, run.c.id == job.c.run_id)
    .where(job.c.status == JobStatus.ABANDONED, run.c.abandoned_at < sa.bindparam("moment"))
)
# A rescheduled job waits for the end of its old run.
_READY: Final = sa.and_(
    job.c.status == JobStatus.RUNNABLE,
    ~sa.select(run.c.id).where(run.c.open_job_id == job.c.id).exists(),
)
_ORDER: Final = (job.c.priority.desc(), job.c.root_id, job.c.id)


def _skip_scan() -> sa.Select[Any]:
    """Return a query for the first job of each requirement that has any: requirement, job, priority, root.

    A step of the index each, however many jobs there are.
    """

    def following(after: sa.ColumnElement[int] | int) -> sa.ScalarSelect[int]:
        inner = job.alias("following")
        return (
            sa.select(sa.func.min(inner.c.requirement_id))
            .where(inner.c.status == JobStatus.RUNNABLE, inner.c.requirement_id > after)
            .scalar_subquery()
        )

    skip = sa.select(following(0).label("id")).cte("skip", recursive=True)
    skip = skip.union_all(sa.select(following(skip.c.id)).where(skip.c.id.is_not(None)))
    first = sa.select(job.c.id).where(_READY, job.c.requirement_id == skip.c.id).order_by(*_ORDER).limit(1)
    head = job.alias("head")
    return (
        sa.select(skip.c.id.label("requirement_id"), head.c.id, head.c.priority, head.c.root_id)
        .select_from(skip)
        .join(head, head.c.id == first.correlate(skip).scalar_subquery())
        .where(skip.c.id.is_not(None))
    )


# Statements that every tick runs are built once: building one costs as much as running it.
_HEADS: Final = _skip_scan()
_NEXT_JOBS: Final = (
    sa.select(job.c.id, job.c.priority, job.c.root_id)
    .where(_READY, job.c.requirement_id == sa.bindparam("wanted"))
    .order_by(*_ORDER)
    .limit(sa.bindparam("most"))
    .offset(sa.bindparam("seen"))
)


_NEXT_READY_JOBS: Final = _NEXT_JOBS.where(job.c.root_id.not_in(listed("unready")))


def _lose(live: LiveClient, session: Session) -> None:
    query = sa.select(client.c.hostname, client.c.name, client.c.lost).where(client.c.id == live.id)
    row = session.connection.execute(query).one_or_none()
    if row is not None and not row.lost:
        lose_client(session, live.id, client_label(row.hostname, row.name))


def _rescue(job_ids: Sequence[int], before_ms: int, session: Session) -> None:
    wanted = {"moment": before_ms, "jobs": job_ids}
    rows = session.connection.execute(_ABANDONED_BEFORE.where(job.c.id.in_(listed("jobs"))), wanted)
    clients = {row.id: row.client_id for row in rows}  # without those whose client came back since the snapshot
    apply(session, JobEvent.RESCUE, list(clients), Cause(message="its client did not come back"))
    blocklist.try_last(session, clients)
