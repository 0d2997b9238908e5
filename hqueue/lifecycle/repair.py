"""What a start checks and mends. Having to mend something is a bug of ours, and is said in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.lifecycle import hooks, trees
from hqueue.lifecycle.bulk import release
from hqueue.lifecycle.runrows import abandon, fence, set_wish
from hqueue.lifecycle.status import apply
from hqueue.schema import bulk_job, client, hook, job, job_edge, job_row, run
from hqueue.states import SETTLED, UNSUCCESSFUL, Cause, JobEvent, JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hqueue.store import Session

_child: Final = job.alias("child")
_UNSETTLED: Final = tuple(sorted(set(JobStatus) - SETTLED))
_CORRECT: Final = (
    sa.update(job_row)
    .where(job_row.c.id == sa.bindparam("key_id"))
    .values(
        children_total=sa.bindparam("total"),
        children_unsettled=sa.bindparam("unsettled"),
        children_unsuccessful=sa.bindparam("unsuccessful"),
    )
)


def repair(session: Session) -> list[str]:
    """Mend what no crash should have left behind; return a sentence for each thing that was mended.

    Looks at unsettled jobs and open runs alone, so that a start does not read the whole history.
    Writes: children counters, jobs, runs.
    """
    return [
        *_recount(session),
        *_release_held(session),
        *_settle_waiting(session),
        *_end_orphaned_runs(session),
        *_take_back_jobs(session),
        *_end_hooks(session),
        *_date_abandoned(session),
        *_abandon_lost(session),
    ]


def _recount(session: Session) -> list[str]:
    edge = job_edge.alias()
    has_children = sa.select(edge.c.child_id).where(edge.c.parent_id == job.c.id).exists()
    stored = (job.c.id, job.c.children_total, job.c.children_unsettled, job.c.children_unsuccessful)
    unsettled, unsuccessful = _child.c.status.in_(_UNSETTLED), _child.c.status.in_(sorted(UNSUCCESSFUL))
    query = (
        sa.select(*stored, sa.func.count(_child.c.id), _number(unsettled), _number(unsuccessful))
        .select_from(job)
        .outerjoin(job_edge, job_edge.c.parent_id == job.c.id)
        .outerjoin(_child, _child.c.id == job_edge.c.child_id)
        .where(job.c.status.in_(_UNSETTLED), sa.or_(job.c.children_total > 0, has_children))
        .group_by(*stored)
    )
    # Plain numbers: a sum is a Decimal on MySQL.
    found = [(row.id, tuple(row[1:4]), tuple(int(number) for number in row[4:7])) for row in _rows(session, query)]
    wrong = [(job_id, counted, real) for job_id, counted, real in found if counted != real]
    if wrong:
        names = ("total", "unsettled", "unsuccessful")
        rows = [{"key_id": job_id, **dict(zip(names, real, strict=True))} for job_id, _, real in wrong]
        session.connection.execute(_CORRECT, rows)
    trees.mark(session.connection, [job_id for job_id, _, _ in wrong])
    return [f"job {job_id}: children counted {counted}, are {real}" for job_id, counted, real in wrong]


def _number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _rows(session: Session, query: sa.Select[Any]) -> Sequence[Any]:
    return session.connection.execute(query).all()


def _release_held(session: Session) -> list[str]:
    """A job waits for an action to reach its children; without that action nobody would ever let it go."""
    waited_for = sa.select(bulk_job.c.job_id).where(bulk_job.c.job_id == job.c.id).exists()
    query = sa.select(job.c.id).where(job.c.status.in_(_UNSETTLED), job.c.held_by_bulk, ~waited_for)
    held = list(session.connection.execute(query).scalars())
    release(session, held)
    return [f"job {job_id}: waited for an action that is gone" for job_id in held]


def _settle_waiting(session: Session) -> list[str]:
    waiting = sa.select(job.c.id).where(
        job.c.status == JobStatus.QUEUED,
        job.c.children_unsettled == 0,
        ~job.c.held_by_bulk,
    )
    early = sa.select(job.c.id).where(job.c.status == JobStatus.RUNNABLE, job.c.children_unsettled > 0)
    mended = []
    for query, event in ((waiting, JobEvent.LAST_CHILD_SETTLED), (early, JobEvent.CHILD_ADDED)):
        ids = list(session.connection.execute(query).scalars())
        trees.mark(session.connection, ids)
        apply(session, event, ids, Cause(message="mended at start"))
        mended += [f"job {job_id}: {event.value}, which nobody had told it" for job_id in ids]
    return mended


def _end_orphaned_runs(session: Session) -> list[str]:
    """An open run that its job does not know, and that nobody has told to die, would hold its client for ever."""
    query = (
        sa.select(run.c.id)
        .outerjoin(job, job.c.run_id == run.c.id)
        .outerjoin(hook, hook.c.run_id == run.c.id)
        .where(run.c.closed_at.is_(None), run.c.wish != "die", job.c.id.is_(None), hook.c.id.is_(None))
    )
    orphans = session.connection.execute(query).scalars().all()
    set_wish(session, orphans, "die", "unknown")
    lost = sa.select(run.c.id).join(client, client.c.id == run.c.client_id)
    lost = lost.outerjoin(job, job.c.run_id == run.c.id)
    lost = lost.where(run.c.closed_at.is_(None), client.c.lost, job.c.id.is_(None))
    fence(session, session.connection.execute(lost).scalars().all())
    return [f"run {run_id}: open, but no job's current one; it is told to end" for run_id in orphans]


def _take_back_jobs(session: Session) -> list[str]:
    """A job whose current run is closed would wait for its end for ever."""
    open_run = sa.select(run.c.id).where(run.c.id == job.c.run_id, run.c.closed_at.is_(None)).exists()
    query = sa.select(job.c.id).where(job.c.status.in_(_UNSETTLED), job.c.run_id.is_not(None), ~open_run)
    ids = list(session.connection.execute(query).scalars())
    trees.mark(session.connection, ids)
    apply(session, JobEvent.RUN_LOST, ids, Cause(message="its run is gone"))
    return [f"job {job_id}: its run was closed without it" for job_id in ids]


def _end_hooks(session: Session) -> list[str]:
    """A hook whose run is closed would be said to run for ever."""
    open_run = sa.select(run.c.id).where(run.c.id == hook.c.run_id, run.c.closed_at.is_(None)).exists()
    query = sa.select(hook.c.run_id, hook.c.job_id, hook.c.name).where(hook.c.run_id.is_not(None), ~open_run)
    found = _rows(session, query)
    hooks.close(session, {row.run_id: "its run is gone" for row in found})
    return [f"job {row.job_id}: the run of {row.name} was closed without it" for row in found]


def _date_abandoned(session: Session) -> list[str]:
    """Neither a rescue nor its client's return would find an abandoned job whose run does not say since when."""
    query = (
        sa.select(job.c.id, run.c.id)
        .join(run, run.c.id == job.c.run_id)
        .where(job.c.status == JobStatus.ABANDONED, run.c.abandoned_at.is_(None))
    )
    found = _rows(session, query)
    abandon(session, [run_id for _, run_id in found])
    return [f"job {job_id}: abandoned, but nobody knew since when" for job_id, _ in found]


def _abandon_lost(session: Session) -> list[str]:
    """Nobody watches a client that is lost or forgotten: what is said to run there would do so for ever."""
    query = (
        sa.select(job.c.id, run.c.id)
        .join(run, run.c.id == job.c.run_id)
        .join(client, client.c.id == run.c.client_id)
        .where(run.c.closed_at.is_(None), job.c.status != JobStatus.ABANDONED)
        .where(sa.or_(client.c.lost, client.c.forgotten))
    )
    found = _rows(session, query)
    abandon(session, [run_id for _, run_id in found])
    apply(session, JobEvent.CLIENT_LOST, [job_id for job_id, _ in found], Cause(message="its client is gone"))
    return [f"job {job_id}: its client was lost without it" for job_id, _ in found]
