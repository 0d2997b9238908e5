"""Every cell of the table of SPEC 4.2 through real rows, and what follows from a change in the graph."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.errors import JobStateError
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.status import apply
from hqueue.schema import event as lifecycle_event
from hqueue.schema import run
from hqueue.states import HOLDS_RUN, Cause, ImpossibleTransitionError, JobEvent, JobStatus
from tests.spectable import COLUMNS, TABLE
from tests.storefarm import put

if TYPE_CHECKING:
    from hqueue.store import Session
    from tests.storefarm import Machine, StoreFarm

SITUATIONS = (*COLUMNS[:-1], "succeeded", "failed", "cancelled")
# How a cell of the document reads for a job with a command, no children, no tries, and no rescue so far.
RESULTS = {
    "B": "runnable",
    "B, or failed": "runnable",
    "B, or failed (6.7)": "runnable",
    "paused, no run, or failed (6.7)": "paused",
    "wish: ends `paused`": "ejecting",
    "wish noted": "abandoned",
    "wish cleared": "abandoned",
    "B, fenced": "runnable",
    "B, afresh": "runnable",
    "paused, no run": "paused",
    "B, command done": "succeeded",
    "tries left: B, one used, *rescheduled*; none: failed": "failed",
    "by the reason of the kill": "cancelled",  # killed for "cancelled", below
    "B (or paused), no try used": "runnable",
    "closes the run, B": "runnable",
    "as wished and reported": "running",
    "B, counted as a rescue": "runnable",
    "B, counted": "runnable",
    "B, not counted": "runnable",
    "B (or paused), counted": "runnable",
}
UNCHANGED = {"·", "stale", "closes the run", "run closed as *lost*", "kill it", "only `onChildError`, if it applies"}
PAUSED_IF_WISHED = {"runnable", "queued"}


# The run has ended when these happen, and is closed in the same transaction.
ENDINGS = {"exited well", "exited badly", "killed", "time exceeded", "refused", "run lost"}


def cell_for(event: str, situation: str) -> str:
    return TABLE[event][COLUMNS.index(situation if situation in COLUMNS else "settled")]


def expected_status(before: Any, event: str, situation: str) -> str:
    """Return the status that the document wants, or "error"."""
    cell = cell_for(event, situation)
    if cell in UNCHANGED:
        return str(before.status)
    if cell == "`cancelled`: fault; else queued":
        # No unsettled child is there in truth: by its children it ends where it was, or runs what it has not run.
        return {"cancelled": "error", "failed": "runnable"}.get(situation, situation)
    if cell == "B" and situation == "queued":
        return "queued"  # its child is not settled in truth
    status = RESULTS.get(cell, cell)
    return "paused" if before.pause_wished and status in PAUSED_IF_WISHED and event != "resume" else status


def happen(farm: StoreFarm, event: str, job_id: int) -> None:
    """Let an event happen, with what those do to the run who let it happen."""
    run_id = farm.job(job_id).run_id
    cause = Cause(kill_reason="cancelled", run_ids={job_id: 10**6})

    def change(session: Session) -> None:
        its_run = sa.update(run).where(run.c.id == run_id)
        if event in ENDINGS:
            session.connection.execute(its_run.values(closed_at=session.now_ms, open_job_id=None, outcome="exited"))
        elif event == "client lost":
            session.connection.execute(its_run.values(abandoned_at=session.now_ms))
        elif event == "client back":
            session.connection.execute(its_run.values(abandoned_at=None))
        elif event in {"halted", "continued"}:
            session.connection.execute(its_run.values(wish_confirmed=run.c.wish_number))
        apply(session, JobEvent(event), [job_id], cause)

    farm.write(change)


@pytest.mark.parametrize("event", TABLE)
def test_every_situation(sqlite_farm: StoreFarm, event: str) -> None:
    farm = sqlite_farm
    machine = farm.machine(cpus=50)
    for situation in SITUATIONS:
        job_id = put(farm, situation, machine)
        before = farm.job(job_id)
        assert before.status == situation.split(",", maxsplit=1)[0]
        if (event, situation) == ("assigned", "runnable"):
            farm.start(job_id, machine)
            assert farm.status(job_id) == "running"
        elif "error" in {expected_status(before, event, situation), cell_for(event, situation)}:
            _refused(farm, event, job_id)
        elif cell_for(event, situation) == "-":
            _not_to_happen(farm, event, job_id)
        else:
            expected = expected_status(before, event, situation)
            happen(farm, event, job_id)
            after = farm.job(job_id)
            assert after.status == expected, situation
            if after.status != before.status:
                keeps_run = event == "halted" if expected == "paused" else JobStatus(expected) in HOLDS_RUN
                assert (after.run_id is not None) == keeps_run, situation
        _clear(farm, machine, job_id)


def _refused(farm: StoreFarm, event: str, job_id: int) -> None:
    """A bug of ours is refused, with the job's history in the words; a child below a cancelled job is a fault."""
    before = farm.job(job_id)
    with pytest.raises((ImpossibleTransitionError, JobStateError)) as caught:
        happen(farm, event, job_id)
    assert f"job {job_id}" in str(caught.value)
    if isinstance(caught.value, ImpossibleTransitionError):
        assert "submitted" in str(caught.value)
    else:
        assert (event, before.status) == ("child added", "cancelled")
    assert farm.job(job_id) == before


def _not_to_happen(farm: StoreFarm, event: str, job_id: int) -> None:
    before = farm.job(job_id)
    with contextlib.suppress(ImpossibleTransitionError):
        farm.apply(JobEvent(event), job_id)
    assert farm.job(job_id) == before


def _clear(farm: StoreFarm, machine: Machine, job_id: int) -> None:
    """Leave nothing behind that the next situation would meet."""
    farm.act(Action.CANCEL, job_id)
    machine.beat()
    machine.obey()


class TestUpwards:
    """What a change does to the jobs above."""

    def test_the_parent_runs_after_its_last_child(self, farm: StoreFarm) -> None:
        machine = farm.machine(cpus=2)
        parent, first, second = farm.submit(
            {
                "name": "Film",
                "command": "encode",
                "children": [{"name": "1", "command": "x"}, {"name": "2", "command": "x"}],
            }
        )
        farm.tick()
        machine.beat()
        machine.end(first)
        assert farm.status(parent) == "queued"
        machine.end(second)
        assert farm.status(parent) == "runnable"
        farm.tick()
        machine.beat()
        machine.end(parent)
        assert farm.status(parent) == "succeeded"

    def test_a_failed_child_fails_it_without_running_its_command(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        top, parent, child, _ = farm.submit(
            {
                "name": "oben",
                "children": [
                    {"name": "Mitte", "command": "x", "children": [{"name": "unten", "command": "x"}]},
                    {"name": "daneben", "command": "x"},
                ],
            }
        )
        farm.tick()
        machine.beat()
        machine.end(child, 7)
        assert farm.statuses(top, parent, child) == ["queued", "failed", "failed"]
        assert farm.runs(parent) == []
        assert farm.log(parent)[-1] == ("failed", "failed", "1 of its children did not succeed")
        assert farm.log(child)[-1] == ("failed", "failed", "exit 7, client farm-ü")

    def test_it_waits_for_all_children_before_it_fails(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, bad, good = farm.submit(
            {"name": "p", "command": "x", "children": [{"name": "a", "command": "x"}, {"name": "b", "command": "x"}]}
        )
        farm.tick()
        machine.beat()
        machine.end(bad, 1)
        assert farm.status(parent) == "queued"
        machine.end(good)
        assert farm.status(parent) == "failed"

    def test_a_job_with_two_parents_settles_both(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        one, two, shared = farm.submit(
            [
                {"name": "一", "command": "x", "childStubIds": ["s"]},
                {"name": "二", "command": "x", "childStubIds": ["s"]},
                {"name": "geteilt", "command": "x", "stubId": "s"},
            ]
        )
        assert farm.statuses(one, two, shared) == ["queued", "queued", "runnable"]
        farm.tick()
        machine.beat()
        machine.end(shared)
        assert farm.statuses(one, two) == ["runnable", "runnable"]

    def test_one_child_settles_through_two_paths(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        top, left, right, bottom = farm.submit(
            [
                {"name": "oben", "command": "x", "childStubIds": ["l", "r"]},
                {"name": "links", "stubId": "l", "childStubIds": ["b"]},
                {"name": "rechts", "stubId": "r", "childStubIds": ["b"]},
                {"name": "unten", "command": "x", "stubId": "b"},
            ]
        )
        farm.tick()
        machine.beat()
        machine.end(bottom)
        assert farm.statuses(top, left, right) == ["runnable", "succeeded", "succeeded"]
        assert farm.job(top).children_total == 2

    def test_a_chain_of_a_thousand_settles_in_one_transaction(self, sqlite_farm: StoreFarm) -> None:
        spec: dict[str, Any] = {"name": "unten", "command": "x"}
        for level in range(900):
            spec = {"name": f"{level}", "children": [spec]}
        ids = sqlite_farm.submit(spec)
        machine = sqlite_farm.machine()
        sqlite_farm.tick()
        machine.beat()
        machine.end(ids[-1])
        assert set(sqlite_farm.statuses(ids[0], ids[450], ids[-1])) == {"succeeded"}

    def test_ten_thousand_siblings_make_one_finish_no_dearer(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        machine = farm.machine()
        ids = farm.submit({"name": "p", "children": [{"name": "c", "command": "x"} for _ in range(10_000)]})
        farm.tick()
        machine.beat()
        statements = 0

        def count(*_: object) -> None:
            nonlocal statements
            statements += 1

        sa.event.listen(farm.store.engine, "before_cursor_execute", count)
        machine.end(ids[1])
        sa.event.remove(farm.store.engine, "before_cursor_execute", count)
        assert statements < 40
        assert farm.job(ids[0]).children_unsettled == 9_999


@pytest.mark.databases("sqlite")
class TestAddingChildren:
    def test_a_runnable_parent_waits_again(self, farm: StoreFarm) -> None:
        parent = farm.add()
        child = farm.add("Kind", parent)
        assert farm.statuses(parent, child) == ["queued", "runnable"]

    def test_a_settled_parent_and_its_settled_ancestors_open_again(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        top, parent, _ = farm.submit(
            {"name": "t", "children": [{"name": "p", "command": "x", "children": [{"name": "c"}]}]}
        )
        farm.tick()
        machine.beat()
        machine.end(parent)
        assert farm.statuses(top, parent) == ["succeeded", "succeeded"]
        late = farm.add("spät", parent)
        assert farm.statuses(top, parent, late) == ["queued", "queued", "runnable"]
        farm.tick()
        machine.beat()
        machine.end(late)
        # The command of the parent that had succeeded is not run again.
        assert farm.statuses(top, parent, late) == ["succeeded", "succeeded", "succeeded"]
        assert len(farm.runs(parent)) == 1

    def test_a_settled_child_opens_nothing(self, farm: StoreFarm) -> None:
        top = farm.add("t", command=None)
        ended_at = farm.job(top).ended_at
        farm.clock.advance(5)
        farm.add("sofort fertig", top, command=None)
        assert farm.status(top) == "succeeded"
        assert farm.job(top).ended_at == ended_at

    def test_a_running_parent_goes_on_and_then_waits(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent = farm.add()
        farm.start(parent, machine)
        child = farm.add("Kind", parent)
        assert farm.status(parent) == "running"
        machine.end(parent)
        assert farm.status(parent) == "queued"
        farm.tick()
        machine.beat()
        machine.end(child)
        assert farm.status(parent) == "succeeded"
        assert len(farm.runs(parent)) == 1

    def test_a_final_failure_settles_at_once_while_added_children_go_on(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent = farm.add()
        farm.start(parent, machine)
        child = farm.add("Kind", parent)
        machine.end(parent, 1)
        assert farm.statuses(parent, child) == ["failed", "runnable"]

    def test_settled_ancestors_above_an_unsettled_one_open_again_too(self, farm: StoreFarm) -> None:
        """The top failed at once while what is below it goes on; there the new child is."""
        machine = farm.machine()
        top = farm.add("t")
        farm.start(top, machine)
        middle, leaf = farm.submit({"name": "m", "command": "x", "children": [{"name": "l"}]}, top)
        waiting = farm.add("w", middle)
        machine.end(top, 1)
        assert farm.statuses(top, middle, leaf, waiting) == ["failed", "queued", "succeeded", "runnable"]
        late = farm.add("spät", leaf)
        assert farm.statuses(top, middle, leaf, late) == ["queued", "queued", "queued", "runnable"]

    def test_below_a_cancelled_job_is_a_fault_and_nothing_is_stored(self, farm: StoreFarm) -> None:
        parent, child = farm.submit({"name": "p", "children": [{"name": "c", "command": "x"}]})
        farm.apply(JobEvent.CANCEL, parent)
        with pytest.raises(JobStateError, match=f"job {parent} is cancelled"):
            farm.add("Enkel", child)  # an ancestor anywhere
        assert farm.job(child).children_total == 0

    def test_a_failed_job_brought_along_fails_a_runnable_parent(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        bad = farm.add("misslungen")
        farm.start(bad, machine)
        machine.end(bad, 1)
        runnable, done = farm.add("r"), farm.add("d", command=None)
        farm.add("bringt es mit", runnable, children=[bad])
        farm.add("bringt es auch mit", done, children=[bad])
        assert farm.statuses(runnable, done) == ["failed", "failed"]


@pytest.mark.databases("sqlite")
class TestTries:
    def test_a_try_is_used_for_each_failure(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add(triesLeft=2)
        for left in (1, 0):
            farm.tick()
            machine.beat()
            machine.end(job_id, 3, progress=(4, 10))
            assert (farm.status(job_id), farm.job(job_id).tries_left) == ("runnable", left)
            assert farm.log(job_id)[-1] == ("rescheduled", "runnable", f"exit 3, client farm-ü; tries left: {left}")
            # The next attempt begins from nothing.
            row = farm.job(job_id)
            assert (row.progress, row.progress_numerator, row.progress_denominator) == (0.0, None, None)
        farm.tick()
        machine.beat()
        machine.end(job_id, 3, progress=(4, 10))
        assert farm.status(job_id) == "failed"
        assert farm.job(job_id).progress == 0.4  # kept on failure
        assert [run.attempt for run in farm.runs(job_id)] == [1, 2, 3]

    def test_a_reschedule_gives_all_of_them_back(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add(triesLeft=1)
        for _ in range(2):
            farm.tick()
            machine.beat()
            machine.end(job_id, 3, progress=(4, 10))
        farm.act(Action.RESCHEDULE, job_id)
        row = farm.job(job_id)
        assert (row.status, row.tries_left, row.progress, row.exit_code) == ("runnable", 1, 0.0, None)
        assert (row.progress_numerator, row.rescues, row.started_at, row.ended_at) == (None, 0, None, None)

    def test_a_signal_is_a_failure(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add()
        farm.start(job_id, machine)
        machine.report(machine.token(job_id), "exited", signal=9)
        assert farm.status(job_id) == "failed"
        assert farm.log(job_id)[-1][2] == "signal 9, client farm-ü"


class TestLog:
    def test_the_life_of_a_job(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add()
        farm.start(job_id, machine)
        for action in (Action.PAUSE, Action.RESUME, Action.EJECT):
            farm.act(action, job_id)
            machine.beat()
            machine.obey()
        assert farm.events(job_id) == [
            "submitted",
            "running",
            "pausing",
            "paused",
            "resuming",
            "resumed",
            "ejecting",
            "ejected",
        ]

    def test_numbers_are_given_in_commit_order_without_repeats(self, farm: StoreFarm) -> None:
        for _ in range(3):
            farm.act(Action.PAUSE, farm.add())
        with farm.store.reading() as connection:
            numbers = list(
                connection.execute(sa.select(lifecycle_event.c.seq).order_by(lifecycle_event.c.seq)).scalars()
            )
        assert numbers == list(range(1, 7))

    def test_unknown_ids_are_skipped(self, farm: StoreFarm) -> None:
        job_id = farm.add()
        assert farm.apply(JobEvent.PAUSE, 999, job_id, 1000) == 1
        assert farm.apply(JobEvent.PAUSE) == 0
