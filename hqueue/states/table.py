"""Job statuses, the events that change them, and the one table that says how.

`decision` works out what an outcome means for a row.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final


class JobStatus(StrEnum):
    """A job's status, spelled as on the wire."""

    QUEUED = "queued"  # waits for its children
    RUNNABLE = "runnable"  # waits for a client, a condition, a resource
    RUNNING = "running"  # assigned; a run is on a client
    PAUSING = "pausing"  # to be halted, not yet confirmed
    PAUSED = "paused"  # halted on its client, or not to be scheduled
    RESUMING = "resuming"  # to be continued, not yet confirmed
    EJECTING = "ejecting"  # to be taken from its client, not yet confirmed
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"  # its client stopped reporting; it may come back


class JobEvent(StrEnum):
    """What can happen to a job."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    EJECT = "eject"
    RESCHEDULE = "reschedule"
    LAST_CHILD_SETTLED = "last child settled"
    CHILD_ADDED = "child added"  # an unsettled one
    ASSIGNED = "assigned"
    REFUSED = "refused"  # by the client
    EXITED_WELL = "exited well"  # by itself, with status 0
    EXITED_BADLY = "exited badly"  # by itself, with another status or a signal
    KILLED = "killed"  # ended after we began to kill it, whatever its exit status
    TIME_EXCEEDED = "time exceeded"  # and the run is dead
    HALTED = "halted"  # a pause is confirmed
    CONTINUED = "continued"  # a resume is confirmed
    CLIENT_LOST = "client lost"
    CLIENT_BACK = "client back"  # with that run
    RUN_LOST = "run lost"  # the client is there, the run is not
    RESCUE = "rescue"  # abandoned for too long


class Hook(StrEnum):
    """A command that follows what happens to a job, spelled as on the wire."""

    SUCCESS = "onSuccess"
    ERROR = "onError"
    CANCEL = "onCancel"
    CHILD_ERROR = "onChildError"


class Outcome(Enum):
    """What an event does to a job, where that is more than a status to go to."""

    IGNORED = "nothing changes"
    STALE = "the job is no longer what the caller took it for; nothing changes"
    BY_CHILDREN = "the children decide"
    PAUSE_LATER = "a pause is noted, to hold once the job is off its client"
    RESUME_LATER = "a noted pause is forgotten"
    FENCED = "the run is given up and fenced; the children decide"
    FENCED_AFRESH = "the run is given up and fenced; the job starts afresh, the children decide"
    AFRESH = "the job starts afresh, the children decide"
    FENCED_CANCELLED = "the run is given up and fenced; the job is cancelled"
    REOPENED = "queued again, unless cancelled: a cancelled job takes no new children"
    COMMAND_DONE = "the command is done; the children decide"
    RETRIED_OR_FAILED = "a try is used and the children decide; without a try left: failed"
    BY_KILL_REASON = "why we killed it decides"
    RESCUED_OR_FAILED = "counted as a rescue, the children decide; too many: failed"
    REFUSED = "the children decide; failed where no client is left that could run it"
    AS_WISHED = "what was wished of the run, and what the client says of it, decide"


class Situation(Enum):
    """The columns of the table: a status, but for the two kinds of `paused` and the three settled statuses."""

    QUEUED = "queued"
    RUNNABLE = "runnable"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED_IDLE = "paused, without a run"
    PAUSED_HELD = "paused, with a run"
    RESUMING = "resuming"
    EJECTING = "ejecting"
    ABANDONED = "abandoned"
    SETTLED = "settled"


SETTLED: Final = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
UNSUCCESSFUL: Final = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
# A job in one of these has an open run; `paused` may have one.
HOLDS_RUN: Final = frozenset(
    {JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.RESUMING, JobStatus.EJECTING, JobStatus.ABANDONED},
)

_I, _S, _B, _X = Outcome.IGNORED, Outcome.STALE, Outcome.BY_CHILDREN, None  # _X: a bug of ours, and raises
_PAUSED, _PAUSING, _RESUMING = JobStatus.PAUSED, JobStatus.PAUSING, JobStatus.RESUMING
_CANCELLED, _EJECTING, _ABANDONED = JobStatus.CANCELLED, JobStatus.EJECTING, JobStatus.ABANDONED
_QUEUED, _RUNNING = JobStatus.QUEUED, JobStatus.RUNNING
_REFUSED, _DONE, _RETRY, _REASON, _RESCUE = (
    Outcome.REFUSED,
    Outcome.COMMAND_DONE,
    Outcome.RETRIED_OR_FAILED,
    Outcome.BY_KILL_REASON,
    Outcome.RESCUED_OR_FAILED,
)

# fmt: off
# One row per event, one column per situation, in the order of Situation:
#  queued      runnable    running     pausing     paused      paused+run  resuming    ejecting    abandoned   settled
_ROWS: dict[JobEvent, tuple[JobStatus | Outcome | None, ...]] = {
    JobEvent.PAUSE: (
        _PAUSED,    _PAUSED,    _PAUSING,   _I,         _I,         _I,         _PAUSING,
        Outcome.PAUSE_LATER,    Outcome.PAUSE_LATER,    _I),
    JobEvent.RESUME: (
        _I,         _I,         _I,         _RESUMING,  _B,         _RESUMING,  _I,         _I,
        Outcome.RESUME_LATER,   _I),
    JobEvent.CANCEL: (
        _CANCELLED, _CANCELLED, _CANCELLED, _CANCELLED, _CANCELLED, _CANCELLED, _CANCELLED, _CANCELLED,
        Outcome.FENCED_CANCELLED, _I),
    JobEvent.EJECT: (
        _I,         _I,         _EJECTING,  _EJECTING,  _I,         _EJECTING,  _EJECTING,  _I,
        Outcome.FENCED,         _I),
    JobEvent.RESCHEDULE: (
        _I,         _I,         _I,         _I,         _I,         _I,         _I,         _I,
        Outcome.FENCED_AFRESH,  Outcome.AFRESH),
    JobEvent.LAST_CHILD_SETTLED: (
        _B,         _X,         _I,         _I,         _I,         _I,         _I,         _I,         _I,         _I),
    JobEvent.CHILD_ADDED: (
        _I,         _QUEUED,    _I,         _I,         _I,         _I,         _I,         _I,         _I,
        Outcome.REOPENED),
    JobEvent.ASSIGNED: (
        _S,         _RUNNING,   _S,         _S,         _S,         _S,         _S,         _S,         _S,         _S),
    JobEvent.REFUSED: (
        _X,         _X,         _REFUSED,   _REFUSED,   _X,         _X,         _REFUSED,   _REFUSED,   _REFUSED,   _I),
    JobEvent.EXITED_WELL: (
        _X,         _X,         _DONE,      _DONE,      _X,         _DONE,      _DONE,      _DONE,      _DONE,      _I),
    JobEvent.EXITED_BADLY: (
        _X,         _X,         _RETRY,     _RETRY,     _X,         _RETRY,     _RETRY,     _RETRY,     _RETRY,     _I),
    JobEvent.KILLED: (
        _X,         _X,         _REASON,    _REASON,    _X,         _REASON,    _REASON,    _B,         _B,         _I),
    JobEvent.TIME_EXCEEDED: (
        _X,         _X,         _CANCELLED, _CANCELLED, _X,         _CANCELLED, _CANCELLED, _CANCELLED, _CANCELLED, _I),
    JobEvent.HALTED: (
        _X,         _X,         _I,         _PAUSED,    _X,         _I,         _I,         _I,         _I,         _I),
    JobEvent.CONTINUED: (
        _X,         _X,         _I,         _I,         _X,         _I,         _RUNNING,   _I,         _I,         _I),
    JobEvent.CLIENT_LOST: (
        _I,         _I,         _ABANDONED, _ABANDONED, _I,         _ABANDONED, _ABANDONED, _ABANDONED, _I,         _I),
    JobEvent.CLIENT_BACK: (
        _I,         _I,         _I,         _I,         _I,         _I,         _I,         _I,
        Outcome.AS_WISHED,      _I),
    JobEvent.RUN_LOST: (
        _X,         _X,         _RESCUE,    _RESCUE,    _X,         _RESCUE,    _RESCUE,    _B,         _RESCUE,    _I),
    JobEvent.RESCUE: (
        _X,         _X,         _X,         _X,         _X,         _X,         _X,         _X,
        _RESCUE,    _X),
}
# fmt: on

TRANSITIONS: Final[dict[tuple[Situation, JobEvent], JobStatus | Outcome]] = {
    (situation, event): cell
    for event, row in _ROWS.items()
    for situation, cell in zip(Situation, row, strict=True)
    if cell is not None
}


class ImpossibleTransitionError(Exception):
    """An event met a job in a situation in which it cannot happen: a bug of ours."""


def situation(status: JobStatus, *, has_run: bool) -> Situation:
    """Return the column of the table that holds for a job."""
    if status in SETTLED:
        return Situation.SETTLED
    if status is JobStatus.PAUSED:
        return Situation.PAUSED_HELD if has_run else Situation.PAUSED_IDLE
    return Situation[status.name]


def outcome(status: JobStatus, event: JobEvent, *, has_run: bool) -> JobStatus | Outcome:
    """Return the status to go to, or the rule that decides.

    Errors: ImpossibleTransitionError for a pair that the table does not have.
    """
    column = situation(status, has_run=has_run)
    try:
        return TRANSITIONS[column, event]
    except KeyError:
        raise ImpossibleTransitionError(f"{event.value!r} cannot happen to a job that is {column.value}") from None


def by_children(
    *,
    unsettled: int,
    unsuccessful: int,
    has_command: bool,
    command_done: bool,
    pause_wished: bool,
) -> JobStatus:
    """Return the status that a job without a run has by its children (SPEC 4.1)."""
    if unsettled:
        status = JobStatus.QUEUED
    elif unsuccessful:
        return JobStatus.FAILED
    elif command_done or not has_command:
        return JobStatus.SUCCEEDED
    else:
        status = JobStatus.RUNNABLE
    return JobStatus.PAUSED if pause_wished else status


# The published name lists (SPEC 4.6). `waiting` is another name of `runnable` wherever a status is given.
WAITING: Final = "waiting"
EJECTED: Final = "ejected"
ALL_NAMES: Final = tuple(sorted([status.value for status in JobStatus] + [WAITING]))
FINISHED_NAMES: Final = ("succeeded", "failed", "cancelled", "abandoned")
PUBLISHED_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "getAllJobStatusNames": ALL_NAMES,
    "getRunningJobStatusNames": ("running", "pausing", "resuming", "ejecting"),
    "getPausedJobStatusNames": ("paused",),
    "getFinishedJobStatusNames": FINISHED_NAMES,
    "getSucceededStatusNames": ("succeeded",),
    "getFailedJobStatusNames": ("failed", "cancelled", "abandoned"),
    "getUnfinishedJobStatusNames": tuple(name for name in ALL_NAMES if name not in FINISHED_NAMES),
    "getWaitingJobStatusNames": ("queued", "runnable", "waiting"),
    "getStartedJobEventNames": ("running",),
    "getResumedEventNames": ("resumed",),
    "getRescheduledEventNames": ("rescheduled",),
    "getPriorityChangedEventNames": ("priority changed",),
}
FINISHED: Final = frozenset(JobStatus(name) for name in FINISHED_NAMES)
