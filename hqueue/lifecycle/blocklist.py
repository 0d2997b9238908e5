"""Clients that jobs failed on: tried last for the job, and blocked for its root's jobs after too many (SPEC 6.7).

What rules a client out is part of a job's requirement. So a root's jobs, thousands perhaps, move to requirements that
name its blocked clients: in small steps, and none of them is assigned before it has moved. Nobody else waits for that.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.config import client_label
from hqueue.database import listed
from hqueue.lifecycle import notes
from hqueue.lifecycle.requirements import give, read_requirement
from hqueue.schema import client, client_failure, job, requirement, root_block
from hqueue.states import SETTLED
from hqueue.store import WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hqueue.config import Policy
    from hqueue.matching import Requirement
    from hqueue.store import Session

# Jobs looked at in one step: about 10 ms of write lock.
STEP: Final = 1_000
_MOST_COUNTED: Final = 100

_JOBS: Final = (
    sa.select(job.c.id, job.c.status, job.c.root_id, requirement.c.spec_json, root_block.c.root_id.label("block"))
    .join(requirement, requirement.c.id == job.c.requirement_id)
    .outerjoin(root_block, root_block.c.root_id == job.c.root_id)
    .where(job.c.id.in_(listed("jobs")))
)
_FAILURES: Final = client_failure.c.job_id.in_(listed("jobs"))
_REHOME: Final = (
    sa.update(client_failure)
    .where(client_failure.c.job_id == sa.bindparam("key_id"))
    .values(root_id=sa.bindparam("root"))
)
# For statements on jobs: those that are not to be assigned yet, because their requirements are not right.
unready: Final = sa.exists().where(root_block.c.root_id == job.c.root_id, root_block.c.pending)
_PENDING: Final = sa.select(root_block.c.root_id).where(root_block.c.pending).order_by(root_block.c.root_id)
_COUNTED: Final = (
    sa.select(client_failure.c.root_id, client_failure.c.client_id, sa.func.sum(client_failure.c.failures))
    .group_by(client_failure.c.root_id, client_failure.c.client_id)
    .having(sa.func.sum(client_failure.c.failures) >= sa.bindparam("most"))
)
_COUNTED_OF: Final = _COUNTED.where(client_failure.c.root_id.in_(listed("roots")))
_UNSETTLED_ROOTS: Final = sa.select(job.c.root_id).where(job.c.status.not_in(sorted(SETTLED))).distinct()
_OLD: Final = sa.select(client_failure.c.root_id).where(client_failure.c.failed_at < sa.bindparam("moment")).distinct()


def is_pending(connection: sa.Connection) -> bool:
    """Tell whether there is anything to do for the failures of any root."""
    return connection.execute(_PENDING.limit(1)).first() is not None


def count_failure(session: Session, job_id: int, client_id: int) -> None:
    """Note that a job failed on a client.

    Writes: client_failure; the root's blocked clients are worked out by the next `step`.
    """
    this = (client_failure.c.job_id == job_id, client_failure.c.client_id == client_id)
    known = sa.update(client_failure).where(*this)
    known = known.values(failures=client_failure.c.failures + 1, failed_at=session.steady_ms)
    root_id = session.connection.execute(sa.select(job.c.root_id).where(job.c.id == job_id)).scalar_one()
    if not session.connection.execute(known).rowcount:
        values = {"job_id": job_id, "client_id": client_id, "root_id": root_id, "failures": 1}
        values["failed_at"] = session.steady_ms
        session.connection.execute(sa.insert(client_failure).values(values))
    _mark(session, recount=[root_id])


def try_last(session: Session, client_of: Mapping[int, int]) -> None:
    """Let jobs that go back to the queue run on a client, given for each, only when no other has room."""
    wanted: dict[int, Requirement] = {}
    for row in session.connection.execute(_JOBS, {"jobs": list(client_of)}):
        needs, client_id = read_requirement(row.spec_json), client_of[row.id]
        if row.status not in SETTLED and client_id not in needs.last:
            wanted[row.id] = replace(needs, last=tuple(sorted({*needs.last, client_id})))
    give(session, wanted)


def forget(session: Session, job_ids: Sequence[int]) -> None:
    """Forget where jobs failed: they are rescheduled."""
    if not job_ids:
        return
    connection, these = session.connection, {"jobs": job_ids}
    rows = connection.execute(_JOBS, these).all()
    failed = set(connection.execute(sa.select(client_failure.c.job_id).where(_FAILURES), these).scalars())
    if failed:
        connection.execute(sa.delete(client_failure).where(_FAILURES), these)
    needs = {row.id: read_requirement(row.spec_json) for row in rows}
    harmed = {job_id: replace(each, last=(), refused=()) for job_id, each in needs.items() if each.last or each.refused}
    give(session, harmed)
    _mark(session, recount={row.root_id for row in rows if row.id in failed}, moved_to=_places(rows))


def reconsider(session: Session, root_id: int, after: int) -> None:
    """Look again at a root's jobs with higher ids than this, if it has blocked clients."""
    query = sa.select(root_block.c.root_id).where(root_block.c.root_id == root_id)
    if session.connection.execute(query).first() is not None:
        _mark(session, moved_to={root_id: after})


def reconsider_jobs(session: Session, job_ids: Sequence[int]) -> None:
    """Look again at jobs that were settled: meanwhile their roots' blocked clients may have changed."""
    if job_ids:
        rows = session.connection.execute(_JOBS, {"jobs": job_ids}).all()
        _mark(session, recount=_failed_roots(session, {row.root_id for row in rows}), moved_to=_places(rows))


def _failed_roots(session: Session, roots: Collection[int]) -> list[int]:
    """Return those of the roots whose jobs failed on clients: nobody counts for them while they are settled."""
    query = sa.select(client_failure.c.root_id).where(client_failure.c.root_id.in_(listed("roots"))).distinct()
    return list(session.connection.execute(query, {"roots": roots}).scalars())


def _places(rows: Sequence[Any]) -> dict[int, int]:
    """Return from where on roots are to be looked at for these jobs: those with blocked clients, or that had some."""
    places: dict[int, int] = {}
    for row in rows:
        if row.block is not None or read_requirement(row.spec_json).blocked:
            places[row.root_id] = min(row.id - 1, places.get(row.root_id, row.id))
    return places


def rehome(session: Session, root_of: Mapping[int, int]) -> None:
    """Let the failures of jobs count for their new roots, and those roots' blocked clients for them."""
    if not root_of:
        return
    session.connection.execute(_REHOME, [{"key_id": job_id, "root": root_id} for job_id, root_id in root_of.items()])
    places: dict[int, int] = {}
    for job_id, root_id in root_of.items():
        places[root_id] = min(job_id - 1, places.get(root_id, job_id))
    _mark(session, recount=places, moved_to=places)


def begin(session: Session) -> None:
    """Look at all failures, as a start does: the limit may be another one, and the clock may have been wrong.

    Only roots that have other blocked clients by now, and that are not done, are looked at again.
    Writes: root_block, client_failure.
    """
    connection, now = session.connection, session.steady_ms
    late = sa.or_(client_failure.c.failed_at.is_(None), client_failure.c.failed_at > now)
    connection.execute(sa.update(client_failure).where(late).values(failed_at=now))
    blocks_nobody = sa.and_(~root_block.c.pending, root_block.c.blocked_json == "[]")
    connection.execute(sa.delete(root_block).where(blocks_nobody))
    known = {row.root_id: tuple(json.loads(row.blocked_json)) for row in connection.execute(sa.select(root_block))}
    right = _over(session)
    different = {root_id for root_id in {*known, *right} if known.get(root_id, ()) != right.get(root_id, ())}
    if different:
        _mark(session, recount=different.intersection(connection.execute(_UNSETTLED_ROOTS).scalars()))


def forgive(session: Session) -> None:
    """Forget failures of long ago, those of some roots at once.

    Writes: client_failure.
    """
    before = _forgiven_before(session.policy, session.steady_ms)
    roots = session.connection.execute(_OLD.limit(_MOST_COUNTED), {"moment": before}).scalars().all()
    _forget_of_roots(session, roots, client_failure.c.failed_at < before)


def is_forgiven(connection: sa.Connection, policy: Policy, steady_ms: int) -> bool:
    """Tell whether there are failures of long ago."""
    return connection.execute(_OLD.limit(1), {"moment": _forgiven_before(policy, steady_ms)}).first() is not None


def _forgiven_before(policy: Policy, steady_ms: int) -> int:
    return steady_ms - int(policy.forgive_failures_hours * 3_600_000)


def clear(session: Session, job_ids: Sequence[int]) -> None:
    """Let the clients that are blocked for the roots of jobs have their jobs again.

    Writes: client_failure.
    """
    roots = sa.select(job.c.root_id).where(job.c.id.in_(listed("jobs"))).distinct()
    _forget_of_roots(session, session.connection.execute(roots, {"jobs": job_ids}).scalars().all())


def _forget_of_roots(session: Session, roots: Sequence[int], *which: sa.ColumnElement[bool]) -> None:
    if roots:
        these = sa.delete(client_failure).where(client_failure.c.root_id.in_(listed("roots")), *which)
        session.connection.execute(these, {"roots": roots})
        _mark(session, recount=roots)


def step(session: Session) -> bool:
    """Do what is next for roots with pending failures; tell whether there was anything to do.

    Many are counted, and some jobs are moved: most failures block nothing, and then nobody waits for anything.
    Writes: root_block, the requirements of a root's unsettled jobs, the root's log.
    """
    query = sa.select(root_block).where(root_block.c.pending).order_by(root_block.c.root_id).limit(_MOST_COUNTED)
    rows = session.connection.execute(query).all()
    counted = _over(session, [row.root_id for row in rows if row.recount])
    room = STEP
    done: list[int] = []
    for row in rows:
        blocked, moved_to = tuple(json.loads(row.blocked_json)), row.moved_to
        if row.recount:
            before, blocked = blocked, counted.get(row.root_id, ())
            if before != blocked:
                _tell(session, row.root_id, sorted(set(blocked) - set(before)))
                moved_to = 0
        if moved_to is not None and room:
            moved_to, looked_at = _move(session, row.root_id, blocked, moved_to, room)
            room -= looked_at
        if moved_to is None and not blocked:
            done.append(row.root_id)
            continue
        values = {"blocked_json": json.dumps(blocked), "recount": False, "moved_to": moved_to}
        this = sa.update(root_block).where(root_block.c.root_id == row.root_id)
        session.connection.execute(this.values(pending=moved_to is not None, **values))
    if done:
        session.connection.execute(_DONE, {"roots": done})
    return bool(rows)


_DONE: Final = sa.delete(root_block).where(root_block.c.root_id.in_(listed("roots")))


def _mark(session: Session, *, recount: Collection[int] = (), moved_to: Mapping[int, int] | None = None) -> None:
    """Have roots' failures counted again, and their jobs with higher ids than a given one looked at again."""
    moved_to = moved_to or {}
    roots = {*recount, *moved_to}
    if not roots:
        return
    session.after_commit(WakeScheduler())
    query = sa.select(root_block).where(root_block.c.root_id.in_(listed("roots")))
    known = {row.root_id: row for row in session.connection.execute(query, {"roots": sorted(roots)})}
    fresh: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for root_id in sorted(roots):
        before = known.get(root_id)
        places = [moved_to[root_id]] if root_id in moved_to else []
        if before is not None and before.moved_to is not None:
            places.append(before.moved_to)
        values = {
            "key_id": root_id,
            "again": root_id in recount or (before is not None and before.recount),
            "place": min(places, default=None),
        }
        (fresh if before is None else changed).append(values)
    if fresh:
        session.connection.execute(_MARK_NEW, fresh)
    if changed:
        session.connection.execute(_MARK_KNOWN, changed)


_MARKS: Final = {"pending": True, "recount": sa.bindparam("again"), "moved_to": sa.bindparam("place")}
_MARK_NEW: Final = sa.insert(root_block).values(root_id=sa.bindparam("key_id"), blocked_json="[]", **_MARKS)
_MARK_KNOWN: Final = sa.update(root_block).where(root_block.c.root_id == sa.bindparam("key_id")).values(**_MARKS)


def _over(session: Session, roots: Sequence[int] | None = None) -> dict[int, tuple[int, ...]]:
    """Return the clients with too many failures of a root's jobs, by root: of some, or of all; none with no limit.

    Where they failed least comes first; twice as many count as more, or the jobs of a root would move too often.
    """
    most = session.policy.max_client_failures
    if not most or (roots is not None and not roots):
        return {}
    query, values = (_COUNTED, {"most": most}) if roots is None else (_COUNTED_OF, {"most": most, "roots": roots})
    found: dict[int, list[tuple[int, int]]] = {}
    for root_id, client_id, failures in session.connection.execute(query, values):
        found.setdefault(root_id, []).append(((int(failures) // most).bit_length(), client_id))
    return {root_id: tuple(client_id for _, client_id in sorted(each)) for root_id, each in found.items()}


def _tell(session: Session, root_id: int, client_ids: list[int]) -> None:
    """Say in a root's log which clients were blocked for it."""
    status = session.connection.execute(sa.select(job.c.status).where(job.c.id == root_id)).scalar()
    if status is None:
        return
    these = client.c.id.in_(listed("clients"))
    query = sa.select(client.c.hostname, client.c.name).where(these).order_by(client.c.id)
    most = session.policy.max_client_failures
    for hostname, name in session.connection.execute(query, {"clients": client_ids}).all():
        label = client_label(hostname, name)
        text = f"client {label} is blocked for this job and those below it: they failed there {most} times"
        session.record(root_id, "note", status, text)
        notes.add(session, text, job_id=root_id)


def _move(session: Session, root_id: int, blocked: tuple[int, ...], after: int, most: int) -> tuple[int | None, int]:
    """Give some of a root's jobs requirements that name its blocked clients.

    Returns how far that got, None at the end, and how many jobs were looked at.
    Settled ones are left alone: they are looked at again when they are rescheduled.
    """
    connection = session.connection
    query = (
        sa.select(job.c.id, job.c.status, requirement.c.spec_json)
        .join(requirement, requirement.c.id == job.c.requirement_id)
        .where(job.c.root_id == root_id, job.c.id > after)
        .order_by(job.c.id)
        .limit(most)
    )
    rows = connection.execute(query).all()
    needs = {row.id: read_requirement(row.spec_json) for row in rows if row.status not in SETTLED}
    give(session, {key: replace(each, blocked=blocked) for key, each in needs.items() if each.blocked != blocked})
    session.after_commit(WakeScheduler())
    return rows[-1].id if len(rows) == most else None, len(rows)
