"""Jobs that go for good, and what they leave behind: parents, runs, logs, and jobs whose root they were."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle import blocklist, trees
from hqueue.lifecycle.rows import load, statuses
from hqueue.lifecycle.runrows import fence, set_wish
from hqueue.lifecycle.status import count_children
from hqueue.schema import bulk_job, client, job, job_edge, job_row, note_thread, root_block, run
from hqueue.states import SETTLED, UNSUCCESSFUL, JobStatus
from hqueue.store import DeleteLogs, Session

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

GONE_ROOT: Final = "gone root"  # a deleted job that others still have as their root
_THESE: Final = listed("jobs")
_EDGES: Final = sa.or_(job_edge.c.child_id.in_(_THESE), job_edge.c.parent_id.in_(_THESE))
_OPEN_RUNS: Final = (
    sa.select(run.c.id, run.c.job_id, run.c.wish, client.c.lost)
    .join(client, client.c.id == run.c.client_id)
    .where(run.c.job_id.in_(_THESE), run.c.closed_at.is_(None))
)
_DELETE: Final = (
    sa.delete(note_thread).where(note_thread.c.job_id.in_(_THESE)),
    sa.delete(job_edge).where(_EDGES),
    sa.delete(root_block).where(root_block.c.root_id.in_(_THESE)),
    sa.delete(job_row).where(job_row.c.id.in_(_THESE)),
)
_FEWER_CHILDREN: Final = (
    sa.update(job_row)
    .where(job_row.c.id == sa.bindparam("key_id"))
    .values(children_total=job_row.c.children_total - sa.bindparam("lost"))
)
_GONE: Final = sa.select(bulk_job.c.job_id).where(
    bulk_job.c.bulk_id == sa.bindparam("action"), bulk_job.c.state == GONE_ROOT
)
_REHOME: Final = sa.update(job_row).where(job_row.c.id == sa.bindparam("key_id")).values(root_id=sa.bindparam("root"))


_HAS_PARENTS: Final = sa.select(job_edge.c.parent_id).where(job_edge.c.child_id == job.c.id).exists()
_REHOME_BULK: Final = (
    sa.update(bulk_job)
    .where(bulk_job.c.job_id == sa.bindparam("key_id"), bulk_job.c.state != GONE_ROOT)
    .values(root_id=sa.bindparam("root"))
)


def delete(session: Session, job_ids: Sequence[int]) -> list[int]:
    """Delete jobs for good; return the children that they leave behind.

    An open run stays, told to die, until its death is proved; the output goes with it.
    """
    if not job_ids:
        return []
    connection, these = session.connection, {"jobs": job_ids}
    going = statuses(connection, job_ids)
    edges = connection.execute(sa.select(job_edge.c.parent_id, job_edge.c.child_id).where(_EDGES), these).all()
    _leave_trees(session, edges, going)
    _let_runs_die(session, job_ids)
    for job_id, status in going.items():
        session.record(job_id, "deleted", status)
    for delete_what in _DELETE:
        connection.execute(delete_what, these)
    _leave_parents(session, edges, going)
    return list(dict.fromkeys(child for parent, child in edges if parent in going and child not in going))


def _leave_parents(session: Session, edges: Sequence[Any], going: Mapping[int, JobStatus]) -> None:
    """Let the parents that stay count jobs no more that are no longer below them."""
    deltas: dict[int, tuple[int, int]] = {}
    lost: dict[int, int] = {}
    for parent, child in edges:
        if child in going and parent not in going:
            du, ds = deltas.get(parent, (0, 0))
            status = going[child]
            deltas[parent] = (du - (status not in SETTLED), ds - (status in UNSUCCESSFUL))
            lost[parent] = lost.get(parent, 0) + 1
    if lost:
        rows = [{"key_id": parent, "lost": count} for parent, count in lost.items()]
        session.connection.execute(_FEWER_CHILDREN, rows)
        count_children(session, deltas)


def detach(session: Session, job_ids: Sequence[int]) -> None:
    """Take jobs that will be deleted in steps out of every tree and list of roots at once."""
    if not job_ids:
        return
    connection, these = session.connection, {"jobs": job_ids}
    going = statuses(connection, job_ids)
    above = job_edge.c.child_id.in_(_THESE)
    edges = connection.execute(sa.select(job_edge.c.parent_id, job_edge.c.child_id).where(above), these).all()
    _leave_trees(session, edges, going)
    connection.execute(sa.delete(job_edge).where(above), these)
    connection.execute(sa.update(job_row).where(job_row.c.id.in_(_THESE)).values(is_root=False), these)
    _leave_parents(session, edges, going)


def wide(connection: sa.Connection, job_ids: Sequence[int], limit: int) -> list[int]:
    """Return those of the jobs that have more children than a limit."""
    query = sa.select(job.c.id).where(job.c.id.in_(_THESE), job.c.children_total > limit)
    return list(connection.execute(query, {"jobs": job_ids}).scalars()) if job_ids else []


def fitting(connection: sa.Connection, job_ids: Sequence[int], limit: int) -> tuple[list[int], bool]:
    """Return the first jobs that together have no more children than a limit; or the first one, which has more."""
    query = sa.select(job.c.id, job.c.children_total).where(job.c.id.in_(_THESE))
    children = dict(connection.execute(query, {"jobs": job_ids}).all()) if job_ids else {}
    total, fit = 0, []
    for job_id in job_ids:
        total += children.get(job_id, 0)
        if total > limit:
            break
        fit.append(job_id)
    return (fit, False) if fit or not job_ids else (list(job_ids[:1]), True)


def cut(session: Session, parent_id: int, limit: int) -> list[int]:
    """Take some of its children from a job that is about to be deleted; return them."""
    connection, edges = session.connection, job_edge.c.parent_id == parent_id
    query = sa.select(job_edge.c.child_id).where(edges).order_by(job_edge.c.child_id).limit(limit)
    children = statuses(connection, connection.execute(query).scalars().all())
    connection.execute(sa.delete(job_edge).where(edges, job_edge.c.child_id.in_(_THESE)), {"jobs": list(children)})
    connection.execute(_FEWER_CHILDREN, [{"key_id": parent_id, "lost": len(children)}])
    unsettled = sum(status not in SETTLED for status in children.values())
    unsuccessful = sum(status in UNSUCCESSFUL for status in children.values())
    count_children(session, {parent_id: (-unsettled, -unsuccessful)})
    trees.mark(connection, [parent_id])
    return list(children)


def _leave_trees(session: Session, edges: Sequence[Any], going: Mapping[int, JobStatus]) -> None:
    """Take jobs out of the sums of those above that stay."""
    above: dict[int, list[int]] = defaultdict(list)
    for parent, child in edges:
        if child in going:
            above[child].append(parent)
    left = [child for child, parents in above.items() if not all(parent in going for parent in parents)]
    shares: dict[int, trees.Share] = {}
    inexact: set[int] = set()
    rows = load(session.connection, sorted(left))
    ran_ms = trees.ran_ms(session.connection, rows)
    for row in rows:
        if row.children_total:
            inexact.update(above[row.id])  # what hangs below it may hang elsewhere too
        else:
            shares[row.id] = trees.NOTHING - trees.share(row, ran_ms) - trees.Share(jobs=1, counted=int(row.counted))
    trees.mark(session.connection, sorted(inexact))
    trees.add(session.connection, shares)


def _let_runs_die(session: Session, job_ids: Sequence[int]) -> None:
    """Tell the runs of jobs that go to end; those of lost clients are given up, for nobody waits for them."""
    rows = session.connection.execute(_OPEN_RUNS, {"jobs": job_ids}).all()
    fence(session, [row.id for row in rows if row.lost])
    set_wish(session, [row.id for row in rows if not row.lost and row.wish != "die"], "die", "deleted")
    kept = {row.job_id for row in rows if not row.lost}
    for job_id in job_ids:
        if job_id not in kept:
            session.after_commit(DeleteLogs(job_id))


def missed_roots(session: Session, gone: Collection[int]) -> list[int]:
    """Return those of the deleted jobs that are still the root of others."""
    query = sa.select(job.c.root_id).where(job.c.root_id.in_(listed("jobs"))).distinct()
    return list(session.connection.execute(query, {"jobs": gone}).scalars()) if gone else []


def make_roots(session: Session, job_ids: Sequence[int]) -> None:
    """Note of jobs that they have no parents, if that is so."""
    if job_ids:
        query = sa.select(job.c.id).where(job.c.id.in_(_THESE), ~job.c.is_root, ~_HAS_PARENTS)
        orphans = session.connection.execute(query, {"jobs": job_ids}).scalars().all()
        session.connection.execute(
            sa.update(job_row).where(job_row.c.id.in_(_THESE)).values(is_root=True), {"jobs": orphans}
        )


def rehome(session: Session, bulk_id: int, limit: int) -> bool:
    """Give some of the jobs whose root an action deleted another one; tell whether there were any.

    That is the root of another parent. What has no parent left is a root itself: a deletion that will come to it may
    still find that it has got a new parent.
    """
    parent, root = job.alias("parent"), job.alias("root")
    query = (
        sa.select(job.c.id, sa.func.min(parent.c.root_id))
        .join(job_edge, job_edge.c.child_id == job.c.id)
        .join(parent, parent.c.id == job_edge.c.parent_id)
        .join(root, root.c.id == parent.c.root_id)
        .where(job.c.root_id.in_(_GONE))
        .group_by(job.c.id)
        .limit(limit)
    )
    found = dict(session.connection.execute(query, {"action": bulk_id}).all())
    if not found:
        query = sa.select(job.c.id, job.c.id).where(job.c.root_id.in_(_GONE), ~_HAS_PARENTS).limit(limit)
        found = dict(session.connection.execute(query, {"action": bulk_id}).all())
        make_roots(session, list(found))
    if found:
        rows = [{"key_id": job_id, "root": root_id} for job_id, root_id in found.items()]
        session.connection.execute(_REHOME, rows)
        session.connection.execute(_REHOME_BULK, rows)
    blocklist.rehome(session, found)
    return bool(found)
