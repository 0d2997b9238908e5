"""Assigns runnable jobs to clients: lost clients, rescues, failures, then assignments."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.config import client_label
from hqueue.database import chunks, listed
from hqueue.errors import PASSING
from hqueue.lifecycle import blocklist, hooks
from hqueue.lifecycle.refusals import cap_rests
from hqueue.lifecycle.runs import Placement, assign, lose_client
from hqueue.lifecycle.status import apply
from hqueue.lifecycle.turns import below_unfinished
from hqueue.live import STALL_S
from hqueue.matching import Candidate, FitTable, Plan, plan
from hqueue.schema import client, job, run
from hqueue.states import Cause, JobEvent, JobStatus
from hqueue.views.farmview import run_times
from hqueue.waiting import ABANDONED, Abandoned, Firsts, WaitingHooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from hqueue.clock import Clock
    from hqueue.config import ServerConfig
    from hqueue.lifecycle.hooks import Start
    from hqueue.live import LiveClient
    from hqueue.matching import Placement as Placed
    from hqueue.matching import Requirement
    from hqueue.store import Session, Store
    from hqueue.views.farmview import FarmReader, FarmView

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0  # a lost nudge costs this much
_MOST_RESCUED: Final = 1_000  # in one transaction


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
        self._firsts = Firsts(int(config.hold_after_s * 1000))
        self._abandoned = Abandoned(config.rescue_abandoned_minutes * 60)
        self._hooks = WaitingHooks(farm)
        self._due_hooks: tuple[Sequence[Start], Sequence[int]] = ([], [])  # by the latest look
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
            self._safely(blocklist.begin)
            self._safely(cap_rests)
        elif now_s - self._supervised_at_s < INTERVAL_S:
            return
        late = self._supervised_at_s is None or now_s - self._supervised_at_s > STALL_S
        self._supervised_at_s = now_s
        for live in self.live_farm.overdue(self.config.active_timeout_s):
            if self._lose(live):
                counts.lost += 1
        with self.store.reading() as connection:
            due = self._abandoned.due(connection, now_s, late=late)
            forgiven = blocklist.is_forgiven(connection, self.store.policy, self.clock.steady_ms())
        for runs in chunks(due, _MOST_RESCUED):
            counts.rescued += self._rescue(runs)
        if forgiven:
            self._safely(blocklist.forgive)

    def _lose(self, live: LiveClient) -> bool:
        """Lose a client, unless it was heard while others were writing; tell whether it was lost."""
        lost: list[bool] = []

        def lose(session: Session) -> None:
            lost[:] = [self.live_farm.is_overdue(live, self.config.active_timeout_s)]
            if lost[0]:
                _lose(live, session)

        if not (self._safely(lose) and lost[0]):
            return False
        self.live_farm.leave(live.id, live)
        return True

    def _rescue(self, runs: Sequence[int]) -> int:
        """Rescue the jobs of runs, all at once; where one of them cannot be rescued, one by one. Return how many."""
        if self._safely(partial(_rescue, runs)):
            return len(runs)
        if len(runs) == 1:
            return 0
        return sum(self._safely(partial(_rescue, [run_id])) for run_id in runs)

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

    def _start_hooks(self) -> None:
        """Give hooks to clients, and give up those that no client could take for too long."""
        starts, given_up = self._due_hooks
        if starts:
            self._safely(partial(hooks.start, starts=starts))
        if given_up:
            self._safely(partial(hooks.give_up, hook_ids=given_up))

    def _assign(self) -> int:
        """Place what can be placed: one snapshot, a pure plan, one transaction that checks what it assumed."""
        made = self._look(wait_for_roots=True)
        self._start_hooks()
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
            if wait_for_roots:
                self._due_hooks = self._hooks.look(connection, self.clock.monotonic())
            pending = blocklist.is_pending(connection)
            if pending and wait_for_roots:
                return None
            queue = _Queue(connection, besides, all_ready=not pending)
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
            holders=self._firsts.entitled(heads, requirements, self.clock),
            times=queue,
        )

    def _still_there(self, session: Session, placements: Sequence[Placement]) -> tuple[list[Placement], set[int]]:
        """Return what can still be, and the jobs that are below an unfinished action.

        Clients, actions and failures may have changed since the snapshot.
        """
        connection = session.connection
        taking = set(connection.execute(_TAKING, {"now": session.steady_ms}).scalars())
        withheld = below_unfinished(connection, [placement.job_id for placement in placements])
        left_out = set(withheld)
        wanted = {"jobs": [placement.job_id for placement in placements]}
        left_out.update(connection.execute(_UNREADY_JOBS, wanted).scalars())
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


class _Queue:
    """The runnable jobs in a snapshot, without those whose requirement is not right yet, and those of some roots."""

    def __init__(self, connection: sa.Connection, besides: frozenset[int], *, all_ready: bool) -> None:
        self._connection = connection
        self._besides = besides
        self._plain = all_ready and not besides
        self._times: dict[int, list[int]] | None = None

    def heads(self) -> dict[int, Candidate]:
        """Return the first job of each requirement that has any."""
        rows = self._connection.execute(_HEADS).all()
        if not self._plain:
            firsts = [first for row in rows for first in self.after(row.requirement_id, 0, 1)]
            return {first.requirement_id: first for first in firsts}
        return {key: Candidate((-priority, root_id, job_id), key) for key, job_id, priority, root_id in rows}

    def after(self, requirement_id: int, seen: int, most: int) -> list[Candidate]:
        """Return the next jobs of a requirement, in the queue's order."""
        query = _NEXT_JOBS if self._plain else _NEXT_READY_JOBS
        given = {"wanted": requirement_id, "seen": seen, "most": most, "besides": self._besides}
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
_UNREADY_JOBS: Final = sa.select(job.c.id).where(job.c.id.in_(listed("jobs")), blocklist.unready)
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


_NEXT_READY_JOBS: Final = _NEXT_JOBS.where(~blocklist.unready, job.c.root_id.not_in(listed("besides")))


def _lose(live: LiveClient, session: Session) -> None:
    query = sa.select(client.c.hostname, client.c.name, client.c.lost).where(client.c.id == live.id)
    row = session.connection.execute(query).one_or_none()
    if row is not None and not row.lost:
        lose_client(session, live.id, client_label(row.hostname, row.name))


def _rescue(runs: Sequence[int], session: Session) -> None:
    rows = session.connection.execute(ABANDONED.where(run.c.id.in_(listed("runs"))), {"runs": runs})
    clients = {row.job_id: row.client_id for row in rows}  # without those whose client came back since the snapshot
    apply(session, JobEvent.RESCUE, list(clients), Cause(message="its client did not come back"))
    blocklist.try_last(session, clients)
