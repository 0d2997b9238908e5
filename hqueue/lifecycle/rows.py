"""Jobs as the lifecycle sees them: the rows that decide, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.schema import job, job_edge
from hqueue.states import JobEvent, JobRow, JobStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


_COLUMNS: Final = tuple(job.c[name] for name in JobRow.__slots__)
_UNTOUCHED: Final = (
    "id",
    "has_command",
    "children_unsettled",
    "children_unsuccessful",
    "is_root",
    "children_total",
    "counted",
    "watched",
)
CHANGED: Final = tuple(name for name in JobRow.__slots__ if name not in _UNTOUCHED)
_THESE: Final = job.c.id.in_(listed("jobs"))
_SELECT: Final = sa.select(*_COLUMNS).where(_THESE)
_STATUSES: Final = sa.select(job.c.id, job.c.status).where(_THESE)
_PARENTS: Final = sa.select(job_edge.c.parent_id).where(job_edge.c.child_id.in_(listed("jobs"))).distinct()


def load(connection: sa.Connection, job_ids: Collection[int]) -> list[JobRow]:
    """Return the rows of the jobs that exist, in no order."""
    if not job_ids:
        return []
    rows = [JobRow(*row) for row in connection.execute(_SELECT, {"jobs": job_ids})]
    for row in rows:
        row.status = JobStatus(row.status)
    return rows


def statuses(connection: sa.Connection, job_ids: Collection[int]) -> dict[int, JobStatus]:
    """Return the statuses of the jobs that exist."""
    if not job_ids:
        return {}
    return {job_id: JobStatus(status) for job_id, status in connection.execute(_STATUSES, {"jobs": job_ids})}


def ancestors(connection: sa.Connection, job_ids: Iterable[int]) -> set[int]:
    """Return the ids of all ancestors of the jobs, without the jobs themselves (unless one is above another)."""
    found: set[int] = set()
    level = list(job_ids)
    while level:
        above = set(connection.execute(_PARENTS, {"jobs": level}).scalars())
        level = list(above - found)
        found |= above
    return found


_LOSSES: Final = frozenset({JobEvent.RESCUE, JobEvent.RUN_LOST})


def change_message(event: JobEvent, before: JobRow, after: JobRow, told: str) -> str:
    """Return the words for a change; `told` is what the event's cause says of it."""
    if _fails(before, after) and after.children_unsuccessful and not after.children_unsettled and not told:
        return failed_children(before, after)
    if event in _LOSSES and _fails(before, after):
        return f"its client was lost {after.rescues} times, and now again"
    if after.tries_left < before.tries_left:
        return f"{told}; tries left: {after.tries_left}"
    return told


def rescue_note(event: JobEvent, before: JobRow, after: JobRow, told: str, most: int) -> str:
    """Return the note for a job that was taken from a lost client, or given up; "" for another change."""
    if event in _LOSSES and _fails(before, after):
        return told
    return f"{told}: rescue {after.rescues} of {most}" if after.rescues > before.rescues else ""


def failed_children(before: JobRow, after: JobRow) -> str:
    """Return the words for what happens to a job because of its children."""
    return f"{after.children_unsuccessful} of its children did not succeed" if _fails(before, after) else ""


def change_name(event: JobEvent, before: JobRow, after: JobRow) -> str:
    """Return the name under which a change stands in a job's log: the new status, or what HQueue calls the event."""
    if event is JobEvent.RESCHEDULE or after.tries_left < before.tries_left:
        return "rescheduled"
    if event is JobEvent.CONTINUED or (
        event is JobEvent.RESUME and before.status is JobStatus.PAUSED and after.status is not JobStatus.RESUMING
    ):
        return "resumed"
    if event is JobEvent.EJECT and before.status is JobStatus.ABANDONED:
        return "ejected"
    if event is JobEvent.KILLED and before.status is JobStatus.EJECTING:
        return "ejected"
    if before.status is after.status:
        return "pausing" if after.pause_wished else "resuming"
    return after.status.value


def _fails(before: JobRow, after: JobRow) -> bool:
    return after.status is JobStatus.FAILED and before.status is not JobStatus.FAILED
