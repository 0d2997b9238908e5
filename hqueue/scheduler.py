"""Assigns runnable jobs to clients: lost clients, rescues, then assignments."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue import lifecycle
from hqueue.clock import Clock, to_ms
from hqueue.errors import StoreUnavailableError
from hqueue.lifecycle.runs import Placement
from hqueue.matching import Candidate, ClientView, Requirement, choose, os_of
from hqueue.schema import client, client_group, client_group_member, job, requirement, resource, run
from hqueue.states import JobEvent, JobStatus
from hqueue.store import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from hqueue.config import ServerConfig
    from hqueue.roster import LiveClient, Roster
    from hqueue.store import Session, Store

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0  # a lost nudge costs this much
_MOST_IN_ONE_TICK: Final = 10_000


@dataclass(slots=True)
class TickCounts:
    """What one tick did."""

    lost: int = 0
    rescued: int = 0
    assigned: int = 0


@dataclass
class Scheduler:
    """The planner of the farm: one pass over everything that can be placed, instead of one per client."""

    store: Store
    roster: Roster
    clock: Clock
    config: ServerConfig
    _requirements: dict[int, Requirement] = field(default_factory=dict)
    _waiting: list[Future[None]] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _supervised_at_s: float | None = None

    def await_tick(self, done: Future[None]) -> None:
        """Resolve a future after the next tick that begins from now on."""
        with self._mutex:
            self._waiting.append(done)

    def tick(self) -> TickCounts:
        """Do everything that is due, and answer those who wait for it.

        Errors: StoreUnavailableError; every other exception is a bug of ours.
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
        if self._supervised_at_s is not None and now_s - self._supervised_at_s < INTERVAL_S:
            return
        self._supervised_at_s = now_s
        for live in self.roster.overdue(self.config.active_timeout_s):
            if self._safely(partial(_lose, live)):
                self.roster.leave(live.id)
                counts.lost += 1
        before_ms = to_ms(self.clock.now()) - int(self.config.rescue_abandoned_minutes * 60_000)
        for job_id in self._to_rescue(before_ms):
            counts.rescued += self._safely(partial(_rescue, job_id, before_ms, self.config.max_rescues))

    def _safely(self, function: Callable[[Session], object]) -> bool:
        """Run one item in a transaction of its own: a bad one is logged and holds up no other."""
        try:
            with self.store.writing() as session:
                function(session)
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("an item of the tick failed and is left for the next one")
            return False
        return True

    def _to_rescue(self, before_ms: int) -> list[int]:
        """Return the jobs whose clients were lost before a moment and have not come back."""
        if not self.config.rescue_abandoned_minutes:
            return []
        with self.store.reading() as connection:
            return list(connection.execute(_ABANDONED_BEFORE, {"moment": before_ms}).scalars())

    def _assign(self) -> int:
        """Place what can be placed: one snapshot, a pure choice, one transaction that checks what it assumed."""
        with self.store.reading() as connection:
            wanted = list(connection.execute(_WAITING_REQUIREMENTS).scalars())
            if not wanted:
                return 0
            self._load_requirements(connection, wanted)
            clients = self._clients(connection)
            # A client that came back with fewer CPUs than it has runs on must not count against the others.
            free = sum(max(0, view.free_cpus) for view in clients if view.takes_work)
            slots = min(free, _MOST_IN_ONE_TICK)
            if slots == 0:
                return 0
            candidates = {key: _first_jobs(connection, key, slots) for key in wanted}
            unlimited = frozenset(connection.execute(_UNLIMITED).scalars())
            placed = choose(candidates, self._requirements, clients, unlimited)
        placements = [
            Placement(
                candidate.job_id,
                view.id,
                candidate.requirement_id,
                self._requirements[candidate.requirement_id].cpus,
            )
            for candidate, view in placed
        ]
        if not placements:
            return 0
        # Whoever hands the runs out waits for the disk; the next tick need not.
        with self.store.writing(durable=False) as session:
            return lifecycle.assign(session, self._still_there(session, placements))

    def _still_there(self, session: Session, placements: Sequence[Placement]) -> list[Placement]:
        """Drop what can no longer be: clients may have changed since the snapshot, and wishes may have come."""
        taking = set(session.connection.execute(_TAKING, {"now": session.now_ms}).scalars())
        blocked = lifecycle.below_unfinished(session.connection, [placement.job_id for placement in placements])
        return [each for each in placements if each.client_id in taking and each.job_id not in blocked]

    def _load_requirements(self, connection: sa.Connection, keys: Sequence[int]) -> None:
        missing = [key for key in keys if key not in self._requirements]
        for part in chunks(missing):
            query = sa.select(requirement.c.id, requirement.c.spec_json).where(requirement.c.id.in_(part))
            for key, text in connection.execute(query):
                self._requirements[key] = Requirement.from_json(text)

    def _clients(self, connection: sa.Connection) -> list[ClientView]:
        """Return all clients that are known, with what is in use on each."""
        now_ms = to_ms(self.clock.now())
        groups: dict[int, set[str]] = {}
        for client_id, name in connection.execute(_MEMBERS):
            groups.setdefault(client_id, set()).add(name)
        views: dict[int, ClientView] = {}
        for row in connection.execute(_CLIENTS):
            views[row.id] = ClientView(
                id=row.id,
                hostname=row.hostname,
                name=row.name,
                os=os_of(row.platform),
                groups=frozenset(groups.get(row.id, ())),
                cpus=row.cpus,
                speed=row.cpu_speed,
                takes_work=bool(row.takes_work) and row.refused_until <= now_ms,
            )
        self._load_requirements(connection, list(connection.execute(_USED_REQUIREMENTS).scalars()))
        for client_id, requirement_id, count in connection.execute(_USE):
            view = views.get(client_id)
            if view is not None:
                for _ in range(count):
                    view.take(self._requirements[requirement_id])
        return list(views.values())


_TAKES_WORK: Final = sa.and_(
    ~client.c.lost,
    ~client.c.disabled,
    ~client.c.terminating,
    ~client.c.forgotten,
    client.c.condemned == "",
)
_ABANDONED_BEFORE: Final = (
    sa.select(job.c.id)
    .join(run, run.c.id == job.c.run_id)
    .where(job.c.status == JobStatus.ABANDONED, run.c.abandoned_at < sa.bindparam("moment"))
)
# Two queries of one index each: an OR over both would read all runs there ever were.
_ALIVE: Final = sa.union_all(
    sa.select(run.c.client_id, run.c.requirement_id).where(run.c.closed_at.is_(None)),
    sa.select(run.c.client_id, run.c.requirement_id).where(run.c.fenced),
).subquery()
_USE: Final = sa.select(_ALIVE.c.client_id, _ALIVE.c.requirement_id, sa.func.count()).group_by(
    _ALIVE.c.client_id,
    _ALIVE.c.requirement_id,
)
_USED_REQUIREMENTS: Final = sa.select(_ALIVE.c.requirement_id).distinct()


def _skip_scan() -> sa.Select[int]:
    """Return a query for the requirements with runnable jobs: a step of the index each, however many jobs there are."""

    def following(after: sa.ColumnElement[int] | int) -> sa.ScalarSelect[int]:
        inner = job.alias("following")
        return (
            sa.select(sa.func.min(inner.c.requirement_id))
            .where(inner.c.status == JobStatus.RUNNABLE, inner.c.requirement_id > after)
            .scalar_subquery()
        )

    skip = sa.select(following(0).label("id")).cte("skip", recursive=True)
    skip = skip.union_all(sa.select(following(skip.c.id)).where(skip.c.id.is_not(None)))
    return sa.select(skip.c.id).where(skip.c.id.is_not(None))


# Statements that every tick runs are built once: building one costs as much as running it.
_WAITING_REQUIREMENTS: Final = _skip_scan()
_FIRST_JOBS: Final = (
    sa.select(job.c.id, job.c.priority, job.c.root_id)
    .where(
        job.c.status == JobStatus.RUNNABLE,
        job.c.requirement_id == sa.bindparam("wanted"),
        ~sa.select(run.c.id).where(run.c.open_job_id == job.c.id).exists(),
    )
    .order_by(job.c.priority.desc(), job.c.root_id, job.c.id)
    .limit(sa.bindparam("most"))
)
_CLIENTS: Final = sa.select(
    client.c.id,
    client.c.hostname,
    client.c.name,
    client.c.platform,
    client.c.cpus,
    client.c.refused_until,
    client.c.cpu_speed,
    _TAKES_WORK.label("takes_work"),
).where(~client.c.forgotten)
_MEMBERS: Final = sa.select(client_group_member.c.client_id, client_group.c.name).join(
    client_group,
    client_group.c.id == client_group_member.c.group_id,
)
_UNLIMITED: Final = sa.select(resource.c.name).where(resource.c.maximum.is_(None))
_TAKING: Final = sa.select(client.c.id).where(_TAKES_WORK, client.c.refused_until <= sa.bindparam("now"))


def _first_jobs(connection: sa.Connection, requirement_id: int, limit: int) -> list[Candidate]:
    """Return the first jobs of a requirement, in the queue's order."""
    rows = connection.execute(_FIRST_JOBS, {"wanted": requirement_id, "most": limit})
    return [Candidate.of(job_id, requirement_id, priority, root_id) for job_id, priority, root_id in rows]


def _lose(live: LiveClient, session: Session) -> None:
    query = sa.select(client.c.hostname, client.c.name, client.c.lost).where(client.c.id == live.id)
    row = session.connection.execute(query).one_or_none()
    if row is not None and not row.lost:
        lifecycle.lose_client(session, live.id, f"{row.hostname}:{row.name}" if row.name else row.hostname)


def _rescue(job_id: int, before_ms: int, max_rescues: int, session: Session) -> None:
    query = _ABANDONED_BEFORE.where(job.c.id == job_id)
    if session.connection.execute(query, {"moment": before_ms}).first() is None:
        return  # its client came back since the snapshot
    cause = lifecycle.Cause(message="its client did not come back", max_rescues=max_rescues)
    lifecycle.apply(session, JobEvent.RESCUE, [job_id], cause)
