"""Jobs that go for good, and what they leave behind: parents, runs, logs, and jobs whose root they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue.lifecycle import blocklist, trees
from hqueue.lifecycle.rows import load, statuses
from hqueue.lifecycle.runs import RUN_COLUMNS, RunRow, fence
from hqueue.lifecycle.status import count_children
from hqueue.schema import client, job, job_edge, note_thread, root_block, run
from hqueue.states import SETTLED, UNSUCCESSFUL
from hqueue.store import DeleteLogs, Session, WakeClient, chunks

if TYPE_CHECKING:
    from collections.abc import Sequence


def delete(session: Session, job_ids: Sequence[int]) -> list[int]:
    """Delete jobs for good; return the children that they leave behind.

    An open run stays, told to die, until its death is proved; the output goes with it.
    """
    below: list[int] = []
    for part in chunks(job_ids):
        going = statuses(session.connection, part)
        edges = session.connection.execute(
            sa.select(job_edge.c.parent_id, job_edge.c.child_id).where(
                sa.or_(job_edge.c.child_id.in_(part), job_edge.c.parent_id.in_(part)),
            ),
        ).all()
        below.extend(child for parent, child in edges if parent in going and child not in going)
        deltas: dict[int, tuple[int, int]] = {}
        lost: dict[int, int] = {}
        for parent, child in edges:
            if child in going and parent not in going:
                du, ds = deltas.get(parent, (0, 0))
                status = going[child]
                deltas[parent] = (du - (status not in SETTLED), ds - (status in UNSUCCESSFUL))
                lost[parent] = lost.get(parent, 0) + 1
        _leave_trees(session, part, edges)
        _let_runs_die(session, part)
        for job_id, status in going.items():
            session.record(job_id, "deleted", status)
        session.connection.execute(sa.delete(note_thread).where(note_thread.c.job_id.in_(part)))
        session.connection.execute(
            sa.delete(job_edge).where(sa.or_(job_edge.c.child_id.in_(part), job_edge.c.parent_id.in_(part))),
        )
        session.connection.execute(sa.delete(root_block).where(root_block.c.root_id.in_(part)))
        session.connection.execute(sa.delete(job).where(job.c.id.in_(part)))
        for parent, count in lost.items():
            query = sa.update(job).where(job.c.id == parent)
            session.connection.execute(query.values(children_total=job.c.children_total - count))
        if deltas:
            count_children(session, deltas)
    gone = set(job_ids)
    return [child for child in dict.fromkeys(below) if child not in gone]


def _leave_trees(session: Session, going: Sequence[int], edges: Sequence[Any]) -> None:
    """Take jobs out of the sums of those above that stay."""
    gone = set(going)
    left = {child for parent, child in edges if child in gone and parent not in gone}
    shares: dict[int, trees.Share] = {}
    for row in load(session.connection, sorted(left)):
        if row.children_total:
            # What hangs below it may hang elsewhere too.
            trees.mark(session.connection, [parent for parent, child in edges if child == row.id])
        else:
            shares[row.id] = trees.NOTHING - trees.share(row) - trees.Share(jobs=1, counted=int(row.counted))
    trees.add(session.connection, shares)


def _let_runs_die(session: Session, job_ids: Sequence[int]) -> None:
    """Tell the runs of jobs that go to end; those of lost clients are given up, for nobody waits for them."""
    query = sa.select(*RUN_COLUMNS, client.c.lost).join(client, client.c.id == run.c.client_id)
    kept: set[int] = set()
    for *columns, lost in session.connection.execute(query.where(run.c.open_job_id.in_(job_ids))).all():
        row = RunRow(*columns)
        if lost:
            fence(session, row)
        else:
            kept.add(row.job_id)
            session.after_commit(WakeClient(row.client_id))
    session.connection.execute(
        sa.update(run)
        .where(run.c.open_job_id.in_(kept), run.c.wish != "die")
        .values(wish="die", wish_reason="deleted", wish_number=run.c.wish_number + 1),
    )
    for job_id in job_ids:
        if job_id not in kept:
            session.after_commit(DeleteLogs(job_id))


def missed_roots(session: Session, gone: Sequence[int]) -> list[int]:
    """Return those of the deleted jobs that are still the root of others."""
    found: list[int] = []
    for part in chunks(gone):
        query = sa.select(job.c.root_id).where(job.c.root_id.in_(part)).distinct()
        found.extend(session.connection.execute(query).scalars())
    return found


def rehome(session: Session, gone: sa.Select[tuple[int]], limit: int) -> bool:
    """Give some of the jobs whose root was deleted the root of a parent that is left; tell whether there were any."""
    parent, root = job.alias("parent"), job.alias("root")
    query = (
        sa.select(job.c.id, sa.func.min(parent.c.root_id))
        .join(job_edge, job_edge.c.child_id == job.c.id)
        .join(parent, parent.c.id == job_edge.c.parent_id)
        .join(root, root.c.id == parent.c.root_id)
        .where(job.c.root_id.in_(gone))
        .group_by(job.c.id)
        .limit(limit)
    )
    found = session.connection.execute(query).all()
    for job_id, root_id in found:
        session.connection.execute(sa.update(job).where(job.c.id == job_id).values(root_id=root_id))
        blocklist.rehome(session, job_id, root_id)
    return bool(found)
