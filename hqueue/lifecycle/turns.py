"""Whose turn it is: unfinished actions take turns, and a younger one waits where an older one is at work (SPEC 4.3).

The trees in which an action is at work are those of the jobs that it was asked of or has reached. Waiting is always for
an older action, so the oldest one waits for none.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle.spreading import Change
from hqueue.schema import bulk, bulk_job, job, job_edge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from hqueue.store import Session

EXPAND: Final = "expand"
_URGENT: Final = ("cancel", "pause")
_NEXT: Final = (
    sa.select(bulk)
    .where(bulk.c.waits_for.is_(None))
    # Who took fewer steps comes first: so small ones are done before large ones, whose size nobody knows before.
    .order_by(sa.case((bulk.c.action.in_(_URGENT), 0), else_=1), bulk.c.steps, bulk.c.id)
    .limit(1)
)
_older: Final = bulk_job.alias("older")
_AT_WORK_THERE: Final = sa.and_(_older.c.root_id == bulk_job.c.root_id, _older.c.bulk_id < bulk_job.c.bulk_id)
_FREE: Final = ~sa.select(_older.c.position).where(_AT_WORK_THERE).exists()


_NOTED: Final = bulk_job.c.job_id.in_(listed("jobs"))
EDGES_UP: Final = sa.select(job_edge.c.child_id, job_edge.c.parent_id).where(job_edge.c.child_id.in_(listed("jobs")))


def _roots() -> sa.CompoundSelect[int]:
    """Return a query: the roots of jobs, and of all above them."""
    above = sa.select(job_edge.c.parent_id).where(job_edge.c.child_id.in_(listed("jobs"))).cte("above", recursive=True)
    above = above.union(sa.select(job_edge.c.parent_id).where(job_edge.c.child_id == above.c.parent_id))
    own = sa.select(job.c.root_id).where(job.c.id.in_(listed("jobs")))
    return own.union(sa.select(job.c.root_id).join(above, above.c.parent_id == job.c.id))


_ROOTS: Final = _roots()
_AT_WORK: Final = sa.select(sa.func.max(bulk_job.c.bulk_id)).where(bulk_job.c.root_id.in_(listed("roots")))


def next_action(connection: sa.Connection) -> Any:
    """Return the unfinished action whose turn it is; None when there is none."""
    return connection.execute(_NEXT).one_or_none()


def next_jobs(connection: sa.Connection, bulk_id: int, limit: int) -> list[Any]:
    """Return the next jobs of an action (position, job_id, child_cursor) in whose trees no older one is at work."""
    query = (
        sa.select(bulk_job.c.position, bulk_job.c.job_id, bulk_job.c.child_cursor)
        .where(bulk_job.c.bulk_id == bulk_id, bulk_job.c.state == EXPAND, _FREE)
        .order_by(bulk_job.c.position)
        .limit(limit)
    )
    return list(connection.execute(query))


def holder_of_next(connection: sa.Connection, bulk_id: int) -> int | None:
    """Return the youngest of the older actions that are at work in trees where this one has jobs left."""
    query = sa.select(sa.func.max(_older.c.bulk_id)).join_from(bulk_job, _older, _AT_WORK_THERE)
    query = query.where(bulk_job.c.bulk_id == bulk_id, bulk_job.c.state == EXPAND)
    return connection.execute(query).scalar()


def holder(connection: sa.Connection, job_ids: Collection[int], bulk_id: int | None = None) -> int | None:
    """Return the youngest action that may still come to one of the jobs: of those older than `bulk_id`, if given."""
    older = sa.true() if bulk_id is None else bulk.c.id < bulk_id
    if not job_ids or connection.execute(sa.select(bulk.c.id).where(older).limit(1)).first() is None:
        return None
    roots = connection.execute(_ROOTS, {"jobs": job_ids}).scalars().all()
    at_work = _AT_WORK if bulk_id is None else _AT_WORK.where(bulk_job.c.bulk_id < bulk_id)
    return connection.execute(at_work, {"roots": roots}).scalar()


def wait(session: Session, bulk_id: int, holder_id: int) -> None:
    """Let an action wait until another is done."""
    session.connection.execute(sa.update(bulk).where(bulk.c.id == bulk_id).values(waits_for=holder_id))


def finish(session: Session, bulk_id: int) -> None:
    """Forget an action, and let those go on that waited for it."""
    session.connection.execute(sa.delete(bulk_job).where(bulk_job.c.bulk_id == bulk_id))
    session.connection.execute(sa.delete(bulk).where(bulk.c.id == bulk_id))
    session.connection.execute(sa.update(bulk).where(bulk.c.waits_for == bulk_id).values(waits_for=None))


def below_unfinished(connection: sa.Connection, job_ids: Iterable[int]) -> set[int]:
    """Return those of the jobs that an unfinished action has reached or may still reach; they are not to be assigned.

    One about priorities does not matter here.
    """
    matters = bulk.c.action != Change.PRIORITY.value
    if connection.execute(sa.select(bulk.c.id).where(matters).limit(1)).first() is None:
        return set()
    asked = set(job_ids)
    seen, level = set(asked), set(asked)
    children: dict[int, list[int]] = defaultdict(list)
    while level:
        above: set[int] = set()
        for child_id, parent_id in connection.execute(EDGES_UP, {"jobs": level}):
            children[parent_id].append(child_id)
            above.add(parent_id)
        level = above - seen
        seen |= level
    reached = sa.select(bulk_job.c.job_id).join(bulk, bulk.c.id == bulk_job.c.bulk_id)
    blocked = set(connection.execute(reached.where(matters, _NOTED), {"jobs": seen}).scalars()) if seen else set()
    pending = list(blocked)
    while pending:
        fresh = [child for child in children[pending.pop()] if child not in blocked]
        blocked.update(fresh)
        pending.extend(fresh)
    return blocked & asked
