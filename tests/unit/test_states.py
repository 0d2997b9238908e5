"""The table of SPEC 4.2, copied from its text and held against the one in the code."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from hqueue.errors import JobStateError
from hqueue.states import (
    ALL_NAMES,
    FINISHED,
    HOLDS_RUN,
    PUBLISHED_NAMES,
    SETTLED,
    UNSUCCESSFUL,
    Cause,
    Effect,
    Facts,
    Fence,
    ForgetFailures,
    ImpossibleTransitionError,
    JobEvent,
    JobRow,
    JobStatus,
    Outcome,
    ReconsiderBlocked,
    SetWish,
    Situation,
    Wish,
    by_children,
    decide,
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
    "B, or failed": {Outcome.REFUSED},
    "B, or failed (6.7)": {Outcome.REFUSED},
    "paused, no run, or failed (6.7)": {Outcome.REFUSED},  # a pause is wished there
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


JOB, RUN, NOW = 5, 7, 1_000
FACTS = Facts(now_ms=NOW, max_rescues=2, tries={JOB: 3}, wishes={RUN: Wish("run", "", confirmed=True)})
CAUSE = Cause("darum", kill_reason="ejected", exit_code=3, run_ids={JOB: 8})
HALT, GO_ON = SetWish(RUN, "halt", "paused"), SetWish(RUN, "run", "resumed")
DIE, LEAVE = SetWish(RUN, "die", "cancelled"), SetWish(RUN, "die", "ejected")
# What is to be done besides the row, by event and situation; nothing where the pair is not named.
EFFECTS: dict[str, dict[str, tuple[Effect, ...]]] = {
    "pause": {"running": (HALT,), "resuming": (HALT,)},
    "resume": {"pausing": (GO_ON,), "paused, run": (GO_ON,)},
    "cancel": {
        **dict.fromkeys(("running", "pausing", "paused, run", "resuming", "ejecting"), (DIE,)),
        "abandoned": (Fence(RUN),),
    },
    "eject": {
        **dict.fromkeys(("running", "pausing", "paused, run", "resuming"), (LEAVE,)),
        "abandoned": (Fence(RUN),),
    },
    "reschedule": {"abandoned": (Fence(RUN), ForgetFailures(JOB)), "settled": (ForgetFailures(JOB),)},
    "time exceeded": dict.fromkeys(("running", "pausing", "paused, run", "resuming", "ejecting", "abandoned"), (DIE,)),
    "child added": {"settled": (ReconsiderBlocked(JOB),)},
    "run lost": dict.fromkeys(("running", "pausing", "paused, run", "resuming", "abandoned"), (Fence(RUN),)),
    "rescue": {"abandoned": (Fence(RUN),)},
}
# The status that the words of the document come to for a job with a command and without children.
COMES_TO: dict[object, str] = {
    Outcome.IGNORED: "same",
    Outcome.STALE: "same",
    Outcome.PAUSE_LATER: "same",
    Outcome.RESUME_LATER: "same",
    Outcome.FENCED_CANCELLED: "cancelled",
    Outcome.COMMAND_DONE: "succeeded",
    Outcome.AS_WISHED: "running",
}


def a_job(status: JobStatus, *, has_run: bool, **changes: Any) -> JobRow:
    row = JobRow(
        id=JOB,
        status=status,
        run_id=RUN if has_run else None,
        has_command=True,
        command_done=status is JobStatus.SUCCEEDED,
        pause_wished=status in {JobStatus.PAUSED, JobStatus.PAUSING},
        held_by_bulk=False,
        children_unsettled=0,
        children_unsuccessful=0,
        attempts=4,
        tries_left=1,
        rescues=0,
        progress=0.5,
        progress_numerator=1.0,
        progress_denominator=2.0,
        runnable_at=10,
        started_at=20,
        ended_at=30 if status in SETTLED else None,
        exit_code=None,
        is_root=True,
        children_total=0,
        counted=True,
    )
    return replace(row, **changes)


def in_column(column: str) -> list[tuple[JobStatus, bool]]:
    return IN_COLUMN.get(column) or [(JobStatus(column), JobStatus(column) in HOLDS_RUN)]


@pytest.mark.parametrize(("event", "column"), list(itertools.product(TABLE, COLUMNS)))
def test_every_pair_is_decided(event: str, column: str) -> None:
    """The row as it will be makes sense, the one given stays as it is, and the effects are those of the pair."""
    for status, has_run in in_column(column):
        before = a_job(status, has_run=has_run)
        given = replace(before)
        try:
            result = outcome(status, JobEvent(event), has_run=has_run)
        except ImpossibleTransitionError:
            with pytest.raises(ImpossibleTransitionError):
                decide(before, JobEvent(event), CAUSE, FACTS)
            continue
        if result is Outcome.REOPENED and status is JobStatus.CANCELLED:
            with pytest.raises(JobStateError, match="job 5 is cancelled and takes no new children"):
                decide(before, JobEvent(event), CAUSE, FACTS)
            continue
        after, effects = decide(before, JobEvent(event), CAUSE, FACTS)
        assert before == given
        assert effects == EFFECTS.get(event, {}).get(column, ())
        waits = "paused" if after.pause_wished else "succeeded" if after.command_done else "runnable"
        expected = result.value if isinstance(result, JobStatus) else COMES_TO.get(result, waits)
        assert after.status == (status if expected == "same" else expected)
        if result in {Outcome.IGNORED, Outcome.STALE}:
            assert after is before
        # What the tables' constraints demand.
        assert (after.ended_at is not None) == (after.status in SETTLED)
        assert (after.run_id is not None) == (after.status in HOLDS_RUN) or after.status is JobStatus.PAUSED


def decided(status: str, event: JobEvent, cause: Cause = CAUSE, facts: Facts = FACTS, **changes: Any) -> JobRow:
    known = JobStatus(status)
    return decide(a_job(known, has_run=known in HOLDS_RUN, **changes), event, cause, facts)[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"children_unsettled": 1}, "queued"),
        ({"children_unsuccessful": 1}, "failed"),
        ({"children_unsettled": 1, "pause_wished": True}, "paused"),
        ({"pause_wished": True}, "paused"),
        ({"has_command": False}, "succeeded"),
        ({"command_done": True}, "succeeded"),
        ({}, "runnable"),
        ({"children_unsuccessful": 1, "held_by_bulk": True}, "queued"),
        ({"children_unsuccessful": 1, "held_by_bulk": True, "pause_wished": True}, "paused"),
    ],
)
def test_the_children_decide_and_the_next_attempt_begins_from_nothing(changes: dict[str, Any], expected: str) -> None:
    after = decided("running", JobEvent.REFUSED, **changes)
    assert (after.status, after.run_id) == (expected, None)
    assert after.runnable_at == (NOW if expected == "runnable" else 10)
    begins_anew = after.status not in SETTLED and not after.command_done
    assert (after.progress, after.progress_numerator) == ((0.0, None) if begins_anew else (0.5, 1.0))


def test_an_assignment_is_an_attempt() -> None:
    after = decided("runnable", JobEvent.ASSIGNED, started_at=None)
    assert (after.run_id, after.attempts, after.started_at) == (8, 5, NOW)
    assert decided("runnable", JobEvent.ASSIGNED).started_at == 20  # since the last reschedule


@pytest.mark.parametrize(("tries", "expected"), [(0, ("failed", 0)), (1, ("runnable", 0)), (2, ("runnable", 1))])
def test_a_failure_uses_a_try(tries: int, expected: tuple[str, int]) -> None:
    after = decided("running", JobEvent.EXITED_BADLY, tries_left=tries)
    assert (after.status, after.tries_left) == expected
    assert after.exit_code == 3


@pytest.mark.parametrize("event", [JobEvent.RESCUE, JobEvent.RUN_LOST])
@pytest.mark.parametrize(
    ("most", "so_far", "expected"),
    [(0, 0, ("failed", 0)), (1, 0, ("runnable", 1)), (2, 1, ("runnable", 2)), (2, 2, ("failed", 2))],
)
def test_as_many_rescues_as_configured(event: JobEvent, most: int, so_far: int, expected: tuple[str, int]) -> None:
    after = decided("abandoned", event, facts=replace(FACTS, max_rescues=most), rescues=so_far)
    assert (after.status, after.rescues) == expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("cancelled", ("cancelled", 0)),
        ("terminated", ("cancelled", 0)),
        ("ejected", ("runnable", 0)),
        ("unknown", ("runnable", 1)),
        ("", ("runnable", 1)),
    ],
)
def test_the_reason_of_the_kill_decides(reason: str, expected: tuple[str, int]) -> None:
    after = decided("running", JobEvent.KILLED, Cause(kill_reason=reason))
    assert (after.status, after.rescues) == expected


def test_a_job_starts_afresh() -> None:
    after = decided("failed", JobEvent.RESCHEDULE, tries_left=0, rescues=2, exit_code=3, command_done=True)
    assert (after.status, after.tries_left, after.rescues, after.exit_code) == ("runnable", 3, 0, None)
    assert (after.command_done, after.progress, after.started_at) == (False, 0.0, None)


@pytest.mark.parametrize(("hold", "expected"), [(True, ("queued", True)), (False, ("failed", False))])
def test_a_rescheduled_job_waits_for_its_unsuccessful_children(hold: bool, expected: tuple[str, bool]) -> None:
    after = decided("failed", JobEvent.RESCHEDULE, Cause(hold=hold), children_unsuccessful=1)
    assert (after.status, after.held_by_bulk) == expected


@pytest.mark.parametrize(("event", "wished"), [(JobEvent.PAUSE, True), (JobEvent.RESUME, False)])
def test_a_pause_of_an_abandoned_job_is_noted(event: JobEvent, wished: bool) -> None:
    after = decided("abandoned", event, pause_wished=not wished)
    assert (after.status, after.pause_wished, after.run_id) == ("abandoned", wished, RUN)


@pytest.mark.parametrize(
    ("wish", "says_halted", "pause_wished", "expected", "effects"),
    [
        (Wish("run", "", confirmed=True), False, False, "running", ()),
        (Wish("run", "", confirmed=True), True, False, "resuming", (GO_ON,)),
        (Wish("run", "resumed", confirmed=False), True, False, "resuming", ()),  # it is repeated anyway
        (Wish("run", "", confirmed=True), False, True, "pausing", (HALT,)),
        (Wish("run", "", confirmed=True), True, True, "pausing", (HALT,)),
        (Wish("halt", "paused", confirmed=False), False, True, "pausing", ()),
        (Wish("halt", "paused", confirmed=False), True, True, "paused", ()),
        (Wish("halt", "paused", confirmed=True), False, True, "paused", ()),
        (Wish("halt", "paused", confirmed=True), False, False, "resuming", (GO_ON,)),
        (Wish("halt", "paused", confirmed=False), False, False, "resuming", (GO_ON,)),
        (Wish("die", "ejected", confirmed=False), True, True, "ejecting", ()),
        (Wish("die", "unknown", confirmed=False), False, False, "running", ()),
    ],
)
def test_a_client_is_back(
    wish: Wish, says_halted: bool, pause_wished: bool, expected: str, effects: tuple[Effect, ...]
) -> None:
    row = a_job(JobStatus.ABANDONED, has_run=True, pause_wished=pause_wished)
    cause = Cause(halted=frozenset({JOB} if says_halted else ()))
    after, found = decide(row, JobEvent.CLIENT_BACK, cause, replace(FACTS, wishes={RUN: wish}))
    assert (after.status, after.run_id, found) == (expected, RUN, effects)


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
