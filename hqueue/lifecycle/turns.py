"""Whose turn it is: unfinished actions take turns, and a younger one waits where an older one is at work (SPEC 4.3).

An action is at work in the trees of the jobs that it was asked of or has reached, and of all above them, for what it
does there settles or reopens those. Where jobs have several parents, only a look at all of them would tell which trees
hang together: actions on such graphs wait for each other. Waiting is always for an older action, so the oldest one
waits for none.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import insert_rows, listed
from hqueue.lifecycle.spreading import Change
from hqueue.schema import bulk, bulk_job, job, job_edge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from hqueue.store import Session

EXPAND: Final = "expand"
_ABOVE: Final = "above"  # a root where the action is at work; in the place of the job its negative id
_GRAPH: Final = 0  # a root that stands for all graphs in which jobs have several parents
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


_OWN_ROOTS: Final = sa.select(job.c.id, job.c.root_id).where(job.c.id.in_(listed("jobs")))
_IS_GRAPH: Final = sa.and_(job.c.children_total > 0, ~job.c.tree_exact)


def _roots() -> sa.CompoundSelect[int]:
    """Return a query: the roots of jobs, and of all above them."""
    asked = sa.select(job.c.id).where(job.c.id.in_(listed("jobs"))).cte("above", recursive=True)
    above = asked.union(sa.select(job_edge.c.parent_id).where(job_edge.c.child_id == asked.c.id))
    found = sa.select(job.c.root_id).join(above, above.c.id == job.c.id)
    return found.union(sa.select(sa.literal(_GRAPH)).join_from(job, above, above.c.id == job.c.id).where(_IS_GRAPH))


_ROOTS: Final = _roots()
_AT_WORK: Final = sa.select(sa.func.max(bulk_job.c.bulk_id)).where(bulk_job.c.root_id.in_(listed("roots")))


def roots_of(connection: sa.Connection, job_ids: Collection[int]) -> list[int]:
    """Return the roots of the trees in which an action is at work that was asked of jobs."""
    return list(connection.execute(_ROOTS, {"jobs": job_ids}).scalars()) if job_ids else []


def note_jobs(
    connection: sa.Connection, bulk_id: int, job_ids: Sequence[int], *, state: str = EXPAND, cursor: int = 0
) -> None:
    """Note jobs for an action that does not have them yet."""
    if not job_ids:
        return
    query = sa.select(bulk_job.c.job_id).where(bulk_job.c.bulk_id == bulk_id, _NOTED)
    known = set(connection.execute(query, {"jobs": job_ids}).scalars())
    roots = dict(connection.execute(_OWN_ROOTS, {"jobs": job_ids}).all())
    same = {"bulk_id": bulk_id, "state": state, "child_cursor": cursor}
    fresh = [job_id for job_id in job_ids if job_id not in known]
    rows = [{"job_id": job_id, "root_id": roots.get(job_id, job_id), **same} for job_id in fresh]
    if rows:
        insert_rows(connection, bulk_job, rows)


def note_roots(connection: sa.Connection, bulk_id: int, roots: Iterable[int]) -> None:
    """Note in which trees an action is at work until it is done."""
    same = {"bulk_id": bulk_id, "state": _ABOVE, "child_cursor": 0}
    rows = [{"job_id": -root_id, "root_id": root_id, **same} for root_id in roots]
    if rows:
        insert_rows(connection, bulk_job, rows)


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
    at_work = _AT_WORK if bulk_id is None else _AT_WORK.where(bulk_job.c.bulk_id < bulk_id)
    return connection.execute(at_work, {"roots": roots_of(connection, job_ids)}).scalar()


def wait(session: Session, bulk_id: int, holder_id: int) -> None:
    """Let an action wait until another is done."""
    session.connection.execute(sa.update(bulk).where(bulk.c.id == bulk_id).values(waits_for=holder_id))


def finish(session: Session, bulk_id: int) -> None:
    """Forget an action, and let those go on that waited for it."""
    session.connection.execute(sa.delete(bulk_job).where(bulk_job.c.bulk_id == bulk_id))
    session.connection.execute(sa.delete(bulk).where(bulk.c.id == bulk_id))
    session.connection.execute(sa.update(bulk).where(bulk.c.waits_for == bulk_id).values(waits_for=None))


def held(connection: sa.Connection, job_ids: Collection[int], bulk_id: int | None = None) -> set[int]:
    """Return those of the jobs that an action may still come to: one older than `bulk_id`, if given.

    What is below such a job is one too, so of two jobs that were named, a child never changes before its parent.
    """
    if holder(connection, job_ids, bulk_id) is None:
        return set()
    older = sa.true() if bulk_id is None else bulk_job.c.bulk_id < bulk_id
    same = sa.or_(bulk_job.c.root_id == job.c.root_id, sa.and_(bulk_job.c.root_id == _GRAPH, _IS_GRAPH))
    at_work = sa.select(bulk_job.c.position).where(same, older).exists()
    return _at_or_below(connection, job_ids, sa.select(job.c.id).where(job.c.id.in_(listed("jobs")), at_work))


def below_unfinished(connection: sa.Connection, job_ids: Iterable[int]) -> set[int]:
    """Return those of the jobs that an unfinished action has reached or may still reach; they are not to be assigned.

    One about priorities does not matter here.
    """
    matters = bulk.c.action != Change.PRIORITY.value
    if connection.execute(sa.select(bulk.c.id).where(matters).limit(1)).first() is None:
        return set()
    reached = sa.select(bulk_job.c.job_id).join(bulk, bulk.c.id == bulk_job.c.bulk_id)
    return _at_or_below(connection, job_ids, reached.where(matters, _NOTED))


def _at_or_below(connection: sa.Connection, job_ids: Iterable[int], found: sa.Select[Any]) -> set[int]:
    """Return those of the jobs that a query finds, and those that are below one that it finds."""
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
    marked = set(connection.execute(found, {"jobs": seen}).scalars()) if seen else set()
    pending = list(marked)
    while pending:
        fresh = [child for child in children[pending.pop()] if child not in marked]
        marked.update(fresh)
        pending.extend(fresh)
    return marked & asked
