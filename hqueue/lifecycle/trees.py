"""Sums over a job and everything below it, kept upwards with every change, so that reading them costs one row.

Each job has a share in the sums of every job above it. They are kept where every job below has one parent: a change
then goes up one way and is counted once. A job with another kind of graph below it is marked (`tree_exact` is unset),
and so are all above it: their sums are read by one recursive query instead.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.protocol import EXITED
from hqueue.schema import job, job_edge, job_row, run
from hqueue.states import SETTLED, JobStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from hqueue.states import JobRow


@dataclass(frozen=True, slots=True)
class Share:
    """What one job adds to the sums of those above it, and to its own."""

    jobs: int = 0
    settled: int = 0
    counted: int = 0
    progress: float = 0.0
    waiting: int = 0
    finished: int = 0
    finished_ms: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(*(a + b for a, b in zip(numbers(self), numbers(other), strict=True)))

    def __sub__(self, other: Share) -> Share:
        return Share(*(a - b for a, b in zip(numbers(self), numbers(other), strict=True)))

    def __bool__(self) -> bool:
        return any(numbers(self))


NOTHING: Final = Share()
EXCLUDED_TAG: Final = "excludeProgress"
NAMES: Final = tuple(field.name for field in fields(Share))
numbers: Final = attrgetter(*NAMES)  # dataclasses.astuple copies deeply, and takes twenty times as long
_ADD: Final = (
    sa.update(job_row)
    .where(job_row.c.id == sa.bindparam("key_id"))
    .values({f"tree_{name}": job_row.c[f"tree_{name}"] + sa.bindparam(f"more_{name}") for name in NAMES})
)
_BEGIN: Final = (
    sa.update(job_row)
    .where(job_row.c.id == sa.bindparam("key_id"))
    .values(
        tree_exact=True,
        tree_started_at=sa.bindparam("at"),
        **{f"tree_{name}": sa.bindparam(f"more_{name}") for name in NAMES},
    )
)
_START: Final = (
    sa.update(job_row)
    .where(
        job_row.c.id == sa.bindparam("key_id"),
        sa.or_(job_row.c.tree_started_at.is_(None), job_row.c.tree_started_at > sa.bindparam("at")),
    )
    .values(tree_started_at=sa.bindparam("at"))
)


def _edges_above(*, exact: bool) -> sa.Select[int, int]:
    """Return a query: every edge (child, parent) on the way up from jobs; with `exact` as far as sums are kept."""

    def edges(*conditions: sa.ColumnElement[bool]) -> sa.Select[int, int]:
        query = sa.select(job_edge.c.child_id, job_edge.c.parent_id).where(*conditions)
        if exact:
            query = query.join(job, sa.and_(job.c.id == job_edge.c.parent_id, job.c.tree_exact))
        return query

    above = edges(job_edge.c.child_id.in_(listed("jobs"))).cte("above", recursive=True)
    above = above.union(edges(job_edge.c.child_id == above.c.parent_id))
    return sa.select(above.c.child_id, above.c.parent_id)


_KEPT_EDGES: Final = _edges_above(exact=True)
_EDGES: Final = _edges_above(exact=False)
_latest: Final = (
    sa.select(sa.func.max(run.c.id).label("id"))
    .where(run.c.job_id.in_(listed("jobs")), run.c.outcome == EXITED)
    .group_by(run.c.job_id)
    .subquery()
)
_RAN: Final = sa.select(run.c.job_id, run.c.seconds).join(_latest, _latest.c.id == run.c.id)
_MARK: Final = sa.update(job_row).where(job_row.c.id.in_(listed("jobs"))).values(tree_exact=False)


def is_counted(tags: Iterable[str]) -> bool:
    """Tell whether a command's progress is part of its ancestors' overall progress."""
    return EXCLUDED_TAG not in tags


def total(shares: Iterable[Share]) -> Share:
    """Return the sum of shares, in one pass."""
    return Share(*(sum(column) for column in zip(*map(numbers, shares), strict=True)))


def ran_ms(connection: sa.Connection, rows: Iterable[JobRow]) -> dict[int, int]:
    """Return how long the commands of jobs took that have succeeded with one: by their clients, not by the clock."""
    finished = {row.id for row in rows if _is_finished(row)}
    ran = connection.execute(_RAN, {"jobs": finished}).all() if finished else ()
    return {job_id: int((seconds or 0) * 1000) for job_id, seconds in ran}


def _is_finished(row: JobRow) -> bool:
    return row.status is JobStatus.SUCCEEDED and row.has_command and row.started_at is not None


def share(row: JobRow, ran_ms: Mapping[int, int]) -> Share:
    """Return what a job adds as it is: all but `jobs` and `counted`, which its status does not change."""
    settled = row.status in SETTLED
    succeeded = row.status is JobStatus.SUCCEEDED
    finished = _is_finished(row)
    return Share(
        settled=int(settled),
        progress=(1.0 if succeeded else row.progress) if settled and row.counted else 0.0,
        waiting=int(row.has_command and not settled and not row.command_done and row.run_id is None),
        finished=int(finished),
        finished_ms=ran_ms.get(row.id, 0) if finished else 0,
    )


def add(
    connection: sa.Connection,
    changes: Mapping[int, Share],
    *,
    containers: Iterable[int] = (),
    started: Mapping[int, int] | None = None,
) -> None:
    """Add changed shares to the sums of all ancestors, and to those of `containers`: changed jobs with children.

    started: jobs that were started, and when.
    """
    started = started or {}
    # Where sums are kept, every job has one parent at the most.
    origins = {*changes, *started}
    parent_of: dict[int, int] = {}
    if origins:
        parent_of.update((child, parent) for child, parent in connection.execute(_KEPT_EDGES, {"jobs": origins}))
    keepers = {*containers, *parent_of.values()}
    sums: dict[int, Share] = defaultdict(lambda: NOTHING, changes)
    starts = dict(started)
    for target in _upwards(parent_of, origins):
        parent = parent_of.get(target)
        if parent is not None:
            sums[parent] += sums[target]
            if target in starts:
                starts[parent] = min(starts[target], starts.get(parent, starts[target]))
    rows = [_parameters(target, sums[target]) for target in keepers if sums[target]]
    if rows:
        connection.execute(_ADD, rows)
    moments = [{"key_id": target, "at": starts[target]} for target in keepers if target in starts]
    if moments:
        connection.execute(_START, moments)


def _upwards(parent_of: Mapping[int, int], origins: Iterable[int]) -> Iterator[int]:
    """Yield jobs, each after all that are below it."""
    waiting = Counter(parent_of.values())
    ready = [target for target in {*parent_of, *origins} if not waiting[target]]
    while ready:
        target = ready.pop()
        yield target
        parent = parent_of.get(target)
        if parent is not None:
            waiting[parent] -= 1
            if not waiting[parent]:
                ready.append(parent)


def begin(connection: sa.Connection, rows: Collection[JobRow]) -> None:
    """Set the sums of jobs that are about to get their first child: until then nobody kept them."""
    values, ran = [], ran_ms(connection, rows)
    for row in rows:
        own = share(row, ran) + Share(jobs=1, counted=int(row.counted))
        values.append({**_parameters(row.id, own), "at": row.started_at})
    if values:
        connection.execute(_BEGIN, values)


def mark(connection: sa.Connection, job_ids: Sequence[int]) -> None:
    """Note that the sums of jobs, and of all above them, are to be read by a query from now on."""
    if job_ids:
        above = (parent for _, parent in connection.execute(_EDGES, {"jobs": job_ids}))
        connection.execute(_MARK, {"jobs": {*job_ids, *above}})


def _parameters(target: int, more: Share) -> dict[str, float]:
    return {"key_id": target, **{f"more_{name}": getattr(more, name) for name in NAMES}}
