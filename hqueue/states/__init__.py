"""What can happen to a job, and what it does: the one table of statuses and events, and the decision for a row.

table      statuses, events, TRANSITIONS, the named sets and the published names
decision   decide(): the row as it will be, and the effects that lifecycle carries out

Pure: no clock, no store.
"""

from hqueue.states.decision import (
    AT_ONCE,
    Cause,
    DropHooks,
    Effect,
    Facts,
    Fence,
    ForgetFailures,
    JobRow,
    ReconsiderBlocked,
    RunHook,
    SetWish,
    Wish,
    decide,
)
from hqueue.states.table import (
    ALL_NAMES,
    EJECTED,
    FINISHED,
    FINISHED_NAMES,
    HOLDS_RUN,
    PUBLISHED_NAMES,
    SETTLED,
    TRANSITIONS,
    UNSUCCESSFUL,
    WAITING,
    Hook,
    ImpossibleTransitionError,
    JobEvent,
    JobStatus,
    Outcome,
    Situation,
    by_children,
    outcome,
    situation,
)

__all__ = [
    "ALL_NAMES",
    "AT_ONCE",
    "EJECTED",
    "FINISHED",
    "FINISHED_NAMES",
    "HOLDS_RUN",
    "PUBLISHED_NAMES",
    "SETTLED",
    "TRANSITIONS",
    "UNSUCCESSFUL",
    "WAITING",
    "Cause",
    "DropHooks",
    "Effect",
    "Facts",
    "Fence",
    "ForgetFailures",
    "Hook",
    "ImpossibleTransitionError",
    "JobEvent",
    "JobRow",
    "JobStatus",
    "Outcome",
    "ReconsiderBlocked",
    "RunHook",
    "SetWish",
    "Situation",
    "Wish",
    "by_children",
    "decide",
    "outcome",
    "situation",
]
