"""What a change is called in a job's log, and the words that go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hqueue.states import JobEvent, JobStatus

if TYPE_CHECKING:
    from hqueue.lifecycle.rows import JobRow

_LOSSES: Final = frozenset({JobEvent.RESCUE, JobEvent.RUN_LOST})


def message(event: JobEvent, before: JobRow, after: JobRow, told: str) -> str:
    """Return the words for a change; `told` is what the event's cause says of it."""
    if _fails(before, after) and after.children_unsuccessful and not after.children_unsettled and not told:
        return failed_children(before, after)
    if event in _LOSSES and _fails(before, after):
        return f"its client was lost {after.rescues} times, and now again"
    if after.tries_left < before.tries_left:
        return f"{told}; tries left: {after.tries_left}"
    return told


def rescue(event: JobEvent, before: JobRow, after: JobRow, told: str, most: int) -> str:
    """Return the note for a job that was taken from a lost client, or given up; "" for another change."""
    if event in _LOSSES and _fails(before, after):
        return told
    return f"{told}: rescue {after.rescues} of {most}" if after.rescues > before.rescues else ""


def failed_children(before: JobRow, after: JobRow) -> str:
    """Return the words for what happens to a job because of its children."""
    return f"{after.children_unsuccessful} of its children did not succeed" if _fails(before, after) else ""


def event_name(event: JobEvent, before: JobRow, after: JobRow) -> str:
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
