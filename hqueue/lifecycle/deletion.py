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
from hqueue.schema import bulk_job, client, job, job_edge, note_thread, root_block, run
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
    .where(run.c.open_job_id.in_(_THESE))
)
_DELETE: Final = (
    sa.delete(note_thread).where(note_thread.c.job_id.in_(_THESE)),
    sa.delete(job_edge).where(_EDGES),
    sa.delete(root_block).where(root_block.c.root_id.in_(_THESE)),
    sa.delete(job).where(job.c.id.in_(_THESE)),
)
_FEWER_CHILDREN: Final = (
    sa.update(job)
    .where(job.c.id == sa.bindparam("key_id"))
    .values(children_total=job.c.children_total - sa.bindparam("lost"))
)
_REHOME: Final = sa.update(job).where(job.c.id == sa.bindparam("key_id")).values(root_id=sa.bindparam("root"))


def delete(session: Session, job_ids: Sequence[int]) -> list[int]:
    """Delete jobs for good; return the children that they leave behind.

    An open run stays, told to die, until its death is proved; the output goes with it.
    """
    if not job_ids:
        return []
    connection, these = session.connection, {"jobs": job_ids}
    going = statuses(connection, job_ids)
    edges = connection.execute(sa.select(job_edge.c.parent_id, job_edge.c.child_id).where(_EDGES), these).all()
    deltas: dict[int, tuple[int, int]] = {}
    lost: dict[int, int] = {}
    for parent, child in edges:
        if child in going and parent not in going:
            du, ds = deltas.get(parent, (0, 0))
            status = going[child]
            deltas[parent] = (du - (status not in SETTLED), ds - (status in UNSUCCESSFUL))
            lost[parent] = lost.get(parent, 0) + 1
    _leave_trees(session, edges, going)
    _let_runs_die(session, job_ids)
    for job_id, status in going.items():
        session.record(job_id, "deleted", status)
    for delete_what in _DELETE:
        connection.execute(delete_what, these)
    if lost:
        connection.execute(_FEWER_CHILDREN, [{"key_id": parent, "lost": count} for parent, count in lost.items()])
        count_children(session, deltas)
    return list(dict.fromkeys(child for parent, child in edges if parent in going and child not in going))


def _leave_trees(session: Session, edges: Sequence[Any], going: Mapping[int, JobStatus]) -> None:
    """Take jobs out of the sums of those above that stay."""
    above: dict[int, list[int]] = defaultdict(list)
    for parent, child in edges:
        if child in going:
            above[child].append(parent)
    left = [child for child, parents in above.items() if not all(parent in going for parent in parents)]
    shares: dict[int, trees.Share] = {}
    inexact: set[int] = set()
    for row in load(session.connection, sorted(left)):
        if row.children_total:
            inexact.update(above[row.id])  # what hangs below it may hang elsewhere too
        else:
            shares[row.id] = trees.NOTHING - trees.share(row) - trees.Share(jobs=1, counted=int(row.counted))
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


def rehome(session: Session, bulk_id: int, limit: int) -> bool:
    """Give some of the jobs whose root an action deleted the root of another parent; tell whether there were any."""
    parent, root = job.alias("parent"), job.alias("root")
    query = (
        sa.select(job.c.id, sa.func.min(parent.c.root_id))
        .join(job_edge, job_edge.c.child_id == job.c.id)
        .join(parent, parent.c.id == job_edge.c.parent_id)
        .join(root, root.c.id == parent.c.root_id)
        .join(bulk_job, bulk_job.c.job_id == job.c.root_id)
        .where(bulk_job.c.bulk_id == bulk_id, bulk_job.c.state == GONE_ROOT)
        .group_by(job.c.id)
        .limit(limit)
    )
    found = session.connection.execute(query).all()
    if found:
        session.connection.execute(_REHOME, [{"key_id": job_id, "root": root_id} for job_id, root_id in found])
    blocklist.rehome(session, dict(found))
    return bool(found)
