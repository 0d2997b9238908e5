"""The table of SPEC 4.2, copied from its text and held against the one in the code."""

from __future__ import annotations

import itertools

import pytest

from hqueue.states import (
    ALL_NAMES,
    FINISHED,
    HOLDS_RUN,
    PUBLISHED_NAMES,
    SETTLED,
    UNSUCCESSFUL,
    ImpossibleTransitionError,
    JobEvent,
    JobStatus,
    Outcome,
    Situation,
    by_children,
    outcome,
    situation,
)
from tests.spectable import COLUMNS, TABLE

# What the words of the document are called in the code.
NOTHING = {Outcome.IGNORED}
WORDS: dict[str, set[object]] = {
    "·": NOTHING,
    "-": {Outcome.IGNORED, "error"},
    "error": {"error"},
    "stale": {Outcome.STALE},
    "B": {Outcome.BY_CHILDREN},
    "wish: ends `paused`": {Outcome.PAUSE_LATER},
    "wish noted": {Outcome.PAUSE_LATER},
    "wish cleared": {Outcome.RESUME_LATER},
    "B, fenced": {Outcome.FENCED, Outcome.FENCED_AFRESH},
    "B, afresh": {Outcome.AFRESH},
    "only `onChildError`, if it applies": NOTHING,
    "`cancelled`: fault; else queued": {Outcome.REOPENED},
    "paused, no run": {Outcome.BY_CHILDREN},  # a pause is wished there
    "closes the run": NOTHING,
    "run closed as *lost*": NOTHING,
    "kill it": NOTHING,
    "B, command done": {Outcome.COMMAND_DONE},
    "tries left: B, one used, *rescheduled*; none: failed": {Outcome.RETRIED_OR_FAILED},
    "by the reason of the kill": {Outcome.BY_KILL_REASON},
    "B (or paused), no try used": {Outcome.BY_CHILDREN},
    "closes the run, B": {Outcome.BY_CHILDREN},
    "as wished and reported": {Outcome.AS_WISHED},
    "B, counted as a rescue": {Outcome.RESCUED_OR_FAILED},
    "B, counted": {Outcome.RESCUED_OR_FAILED},
    "B, not counted": {Outcome.BY_CHILDREN},
    "B (or paused), counted": {Outcome.RESCUED_OR_FAILED},
}
# Where the code says more than the document: the same status, and what becomes of the run.
MORE: dict[tuple[str, str], set[object]] = {
    ("cancel", "abandoned"): {Outcome.FENCED_CANCELLED},
    ("eject", "abandoned"): {Outcome.FENCED},
    ("reschedule", "abandoned"): {Outcome.FENCED_AFRESH},
}
IN_COLUMN: dict[str, list[tuple[JobStatus, bool]]] = {
    "paused, no run": [(JobStatus.PAUSED, False)],
    "paused, run": [(JobStatus.PAUSED, True)],
    "settled": [(JobStatus.SUCCEEDED, False), (JobStatus.FAILED, False), (JobStatus.CANCELLED, False)],
}


def found(status: JobStatus, event: JobEvent, *, has_run: bool) -> object:
    try:
        return outcome(status, event, has_run=has_run)
    except ImpossibleTransitionError:
        return "error"


@pytest.mark.parametrize(("event", "column"), list(itertools.product(TABLE, COLUMNS)))
def test_every_pair_is_as_the_document_says(event: str, column: str) -> None:
    cell = TABLE[event][COLUMNS.index(column)]
    allowed = MORE.get((event, column)) or WORDS.get(cell) or {JobStatus(cell)}
    default = [(JobStatus(column), JobStatus(column) in HOLDS_RUN)] if column not in IN_COLUMN else []
    for status, has_run in IN_COLUMN.get(column, default):
        assert found(status, JobEvent(event), has_run=has_run) in allowed, (event, status, cell)


def test_the_document_has_every_event_and_every_situation() -> None:
    assert set(TABLE) == {event.value for event in JobEvent}
    assert len(COLUMNS) == len(Situation)
    assert {situation(status, has_run=has_run) for status in JobStatus for has_run in (True, False)} == set(Situation)


def test_an_impossible_pair_is_said_in_words() -> None:
    with pytest.raises(ImpossibleTransitionError, match="'refused' cannot happen to a job that is queued"):
        outcome(JobStatus.QUEUED, JobEvent.REFUSED, has_run=False)


@pytest.mark.parametrize(
    ("unsettled", "unsuccessful", "has_command", "done", "expected"),
    [
        (1, 0, True, False, "queued"),
        (1, 1, True, False, "queued"),  # first all of them settle
        (1, 0, False, False, "queued"),
        (0, 1, True, False, "failed"),  # the command is not run
        (0, 1, True, True, "failed"),
        (0, 2, False, False, "failed"),
        (0, 0, False, False, "succeeded"),
        (0, 0, True, True, "succeeded"),
        (0, 0, True, False, "runnable"),
    ],
)
@pytest.mark.parametrize("pause_wished", [False, True])
def test_by_its_children(
    unsettled: int,
    unsuccessful: int,
    has_command: bool,
    done: bool,
    expected: str,
    pause_wished: bool,
) -> None:
    if pause_wished and expected in {"queued", "runnable"}:
        expected = "paused"
    status = by_children(
        unsettled=unsettled,
        unsuccessful=unsuccessful,
        has_command=has_command,
        command_done=done,
        pause_wished=pause_wished,
    )
    assert status == expected


def test_the_sets() -> None:
    assert {"succeeded", "failed", "cancelled"} == SETTLED
    assert {"failed", "cancelled"} == UNSUCCESSFUL
    assert {"succeeded", "failed", "cancelled", "abandoned"} == FINISHED
    assert {"running", "pausing", "resuming", "ejecting", "abandoned"} == HOLDS_RUN


def test_the_published_names() -> None:
    """SPEC 4.6."""
    assert (
        " ".join(ALL_NAMES)
        == "abandoned cancelled ejecting failed paused pausing queued resuming runnable running succeeded waiting"
    )
    assert {name: set(names) for name, names in PUBLISHED_NAMES.items()} == {
        "getAllJobStatusNames": set(ALL_NAMES),
        "getRunningJobStatusNames": {"running", "pausing", "resuming", "ejecting"},
        "getPausedJobStatusNames": {"paused"},
        "getFinishedJobStatusNames": {"succeeded", "failed", "cancelled", "abandoned"},
        "getSucceededStatusNames": {"succeeded"},
        "getFailedJobStatusNames": {"failed", "cancelled", "abandoned"},
        "getUnfinishedJobStatusNames": set(ALL_NAMES) - FINISHED,
        "getWaitingJobStatusNames": {"queued", "runnable", "waiting"},
        "getStartedJobEventNames": {"running"},
        "getResumedEventNames": {"resumed"},
        "getRescheduledEventNames": {"rescheduled"},
        "getPriorityChangedEventNames": {"priority changed"},
    }
    for names in PUBLISHED_NAMES.values():
        assert len(names) == len(set(names))
