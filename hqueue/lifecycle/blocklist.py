"""Clients that jobs failed on: tried last for the job, and blocked for its root's jobs after too many (SPEC 6.7).

What rules a client out is part of a job's requirement. So a root's jobs, thousands perhaps, move to requirements that
name its blocked clients: in small steps, and none of them is assigned before it has moved. Nobody else waits for that.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.config import client_label
from hqueue.lifecycle import notes
from hqueue.lifecycle.requirements import give, read_requirement, requirement_id
from hqueue.schema import client, client_failure, job, requirement, root_block
from hqueue.states import SETTLED
from hqueue.store import WakeScheduler, chunks

if TYPE_CHECKING:
    from hqueue.store import Session

# Jobs looked at in one step: about 10 ms of write lock.
STEP: Final = 1_000
_MOST_COUNTED: Final = 100

_JOB: Final = (
    sa.select(job.c.status, job.c.root_id, requirement.c.spec_json, root_block.c.root_id.label("block"))
    .join(requirement, requirement.c.id == job.c.requirement_id)
    .outerjoin(root_block, root_block.c.root_id == job.c.root_id)
    .where(job.c.id == sa.bindparam("wanted"))
)
_FORGET: Final = sa.delete(client_failure).where(client_failure.c.job_id == sa.bindparam("wanted"))
_PENDING: Final = sa.select(root_block.c.root_id).where(root_block.c.pending)


def pending_roots(connection: sa.Connection) -> frozenset[int]:
    """Return the roots whose jobs are not to be assigned yet, because their requirements are not right."""
    return frozenset(connection.execute(_PENDING).scalars())


def count_failure(session: Session, job_id: int, client_id: int) -> None:
    """Note that a job failed on a client.

    Writes: client_failure; the root's blocked clients are worked out by the next `step`.
    """
    this = (client_failure.c.job_id == job_id, client_failure.c.client_id == client_id)
    known = sa.update(client_failure).where(*this).values(failures=client_failure.c.failures + 1)
    root_id = session.connection.execute(sa.select(job.c.root_id).where(job.c.id == job_id)).scalar_one()
    if not session.connection.execute(known).rowcount:
        values = {"job_id": job_id, "client_id": client_id, "root_id": root_id, "failures": 1}
        session.connection.execute(sa.insert(client_failure).values(values))
    _mark(session, root_id, recount=True)


def try_last(session: Session, job_id: int, client_id: int) -> None:
    """Let a job that goes back to the queue run on a client only when no other has room."""
    row = session.connection.execute(_JOB, {"wanted": job_id}).one_or_none()
    if row is None or row.status in SETTLED:
        return
    wanted = read_requirement(row.spec_json)
    if client_id not in wanted.last:
        give(session, job_id, replace(wanted, last=tuple(sorted({*wanted.last, client_id}))))


def forget(session: Session, job_id: int) -> None:
    """Forget where a job failed: it is rescheduled."""
    counted = session.connection.execute(_FORGET, {"wanted": job_id}).rowcount
    row = session.connection.execute(_JOB, {"wanted": job_id}).one()
    wanted = read_requirement(row.spec_json)
    if wanted.last:
        give(session, job_id, replace(wanted, last=()))
    if counted:
        _mark(session, row.root_id, recount=True)
    if row.block is not None:
        reconsider(session, row.root_id, job_id - 1)


def reconsider(session: Session, root_id: int, after: int) -> None:
    """Look again at a root's jobs with higher ids than this, if it has blocked clients."""
    query = sa.select(root_block.c.root_id).where(root_block.c.root_id == root_id)
    if session.connection.execute(query).first() is not None:
        _mark(session, root_id, moved_to=after)


def reconsider_job(session: Session, job_id: int) -> None:
    """Look again at a job that was settled: meanwhile its root's blocked clients may have changed."""
    row = session.connection.execute(_JOB, {"wanted": job_id}).one()
    if row.block is not None:
        reconsider(session, row.root_id, job_id - 1)


def rehome(session: Session, job_id: int, root_id: int) -> None:
    """Let a job's failures count for its new root, and that root's blocked clients for it."""
    moved = sa.update(client_failure).where(client_failure.c.job_id == job_id).values(root_id=root_id)
    session.connection.execute(moved)
    _mark(session, root_id, recount=True, moved_to=job_id - 1)


def recount_all(session: Session) -> None:
    """Count all failures again: the limit may have changed."""
    session.connection.execute(sa.update(root_block).values(pending=True, recount=True))


def step(session: Session, max_failures: int) -> bool:
    """Do what is next for roots with pending failures; tell whether there was anything to do.

    All are counted, and some jobs of one are moved: most failures block nothing, and then nobody waits for anything.
    Shapes: max_failures 0 blocks nothing.
    Writes: root_block, the requirements of a root's unsettled jobs, the root's log.
    """
    query = sa.select(root_block).where(root_block.c.pending).order_by(root_block.c.root_id).limit(_MOST_COUNTED)
    rows = session.connection.execute(query).all()
    moved = False
    for row in rows:
        blocked, moved_to = tuple(json.loads(row.blocked_json)), row.moved_to
        if row.recount:
            counted = _over(session, row.root_id, max_failures)
            if counted != blocked:
                _tell(session, row.root_id, sorted(set(counted) - set(blocked)), max_failures)
                blocked, moved_to = counted, 0
        if moved_to is not None and not moved:
            moved_to = _move(session, row.root_id, blocked, moved_to)
            moved = True
        values = {"blocked_json": json.dumps(blocked), "recount": False, "moved_to": moved_to}
        this = sa.update(root_block).where(root_block.c.root_id == row.root_id)
        session.connection.execute(this.values(pending=moved_to is not None, **values))
    return bool(rows)


def _mark(session: Session, root_id: int, *, recount: bool = False, moved_to: int | None = None) -> None:
    query = sa.select(root_block).where(root_block.c.root_id == root_id)
    known = session.connection.execute(query).one_or_none()
    session.after_commit(WakeScheduler())
    if known is None:
        values = {"root_id": root_id, "blocked_json": "[]", "pending": True, "recount": recount, "moved_to": moved_to}
        session.connection.execute(sa.insert(root_block).values(values))
        return
    places = [place for place in (known.moved_to, moved_to) if place is not None]
    changed = {"pending": True, "recount": recount or known.recount, "moved_to": min(places, default=None)}
    session.connection.execute(sa.update(root_block).where(root_block.c.root_id == root_id).values(changed))


def _over(session: Session, root_id: int, max_failures: int) -> tuple[int, ...]:
    """Return the clients with too many failures of a root's jobs."""
    if not max_failures:
        return ()
    query = (
        sa.select(client_failure.c.client_id)
        .where(client_failure.c.root_id == root_id)
        .group_by(client_failure.c.client_id)
        .having(sa.func.sum(client_failure.c.failures) >= max_failures)
        .order_by(client_failure.c.client_id)
    )
    return tuple(session.connection.execute(query).scalars())


def _tell(session: Session, root_id: int, client_ids: list[int], max_failures: int) -> None:
    """Say in a root's log which clients were blocked for it."""
    status = session.connection.execute(sa.select(job.c.status).where(job.c.id == root_id)).scalar()
    if status is None:
        return
    query = sa.select(client.c.hostname, client.c.name).where(client.c.id.in_(client_ids)).order_by(client.c.id)
    for hostname, name in session.connection.execute(query).all():
        label = client_label(hostname, name)
        text = f"client {label} is blocked for this job and those below it: they failed there {max_failures} times"
        session.record(root_id, "note", status, text)
        notes.add(session, text, job_id=root_id)


def _move(session: Session, root_id: int, blocked: tuple[int, ...], after: int) -> int | None:
    """Give some of a root's jobs requirements that name its blocked clients; return how far that got, None at the end.

    Settled ones are left alone: they are looked at again when they are rescheduled.
    """
    connection = session.connection
    query = (
        sa.select(job.c.id, job.c.requirement_id, job.c.status)
        .where(job.c.root_id == root_id, job.c.id > after)
        .order_by(job.c.id)
        .limit(STEP)
    )
    rows = connection.execute(query).all()
    members: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if row.status not in SETTLED:
            members[row.requirement_id].append(row.id)
    texts: dict[int, str] = {}
    for part in chunks(list(members)):
        found = connection.execute(
            sa.select(requirement.c.id, requirement.c.spec_json).where(requirement.c.id.in_(part))
        )
        texts.update((key, text) for key, text in found)
    for key, job_ids in members.items():
        wanted = read_requirement(texts[key])
        if wanted.blocked != blocked:
            right = requirement_id(session, replace(wanted, blocked=blocked))
            for some in chunks(job_ids):
                connection.execute(sa.update(job).where(job.c.id.in_(some)).values(requirement_id=right))
    session.after_commit(WakeScheduler())
    return rows[-1].id if len(rows) == STEP else None
