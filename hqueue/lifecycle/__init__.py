"""The only writer of a job's status.

status      apply(): an event, through the table of `states`, to rows, upwards until nothing is left to change
submission  submit(): a graph of specifications becomes jobs
runs        what is assigned to clients, and how it ends
clients     what a client says, and what there is to tell it
wishes      actions on jobs and their relatives, in small steps that survive a crash
repair      what a start checks and mends

All take the open `Session` first and never commit.
"""

from hqueue.lifecycle.repair import repair
from hqueue.lifecycle.runs import Report, assign, end_run, lose_client
from hqueue.lifecycle.status import Cause, apply
from hqueue.lifecycle.submission import submit
from hqueue.lifecycle.wishes import Action, act, below_unfinished, step

__all__ = [
    "Action",
    "Cause",
    "Report",
    "act",
    "apply",
    "assign",
    "below_unfinished",
    "end_run",
    "lose_client",
    "repair",
    "step",
    "submit",
]
