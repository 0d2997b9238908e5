"""What a start mends: damage done by hand, each kind said in a sentence, and nothing where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.lifecycle.bulk import Action
from hqueue.schema import bulk, bulk_job, client, run
from tests.invariants import check_invariants
from tests.storefarm import StoreFarm, settings

if TYPE_CHECKING:
    from hqueue.store import Store
    from tests.fakes import FakeClock
    from tests.storefarm import Machine


@pytest.fixture
def machine(farm: StoreFarm) -> Machine:
    return farm.machine(cpus=8)


def family(farm: StoreFarm) -> list[int]:
    return farm.submit({"name": "p", "command": "x", "children": [{"name": "c", "command": "x"}]})


def change_run(farm: StoreFarm, job_id: int, **values: Any) -> None:
    run_id = farm.run(job_id).id
    farm.write(lambda session: session.connection.execute(sa.update(run).where(run.c.id == run_id).values(**values)))


def test_a_sound_store_is_left_alone(farm: StoreFarm, machine: Machine) -> None:
    parent, child = family(farm)
    farm.start(child, machine)
    farm.act(Action.PAUSE, parent, finish=False)
    assert farm.repair() == []


@pytest.mark.parametrize("counted", [(0, 0, 0), (1, 0, 0), (5, 3, 2), (1, 1, 1)])
def test_counters(farm: StoreFarm, counted: tuple[int, int, int]) -> None:
    parent, child = family(farm)
    total, unsettled, unsuccessful = counted
    farm.change(parent, children_total=total, children_unsettled=unsettled, children_unsuccessful=unsuccessful)
    assert farm.repair() == [f"job {parent}: children counted {counted}, are (1, 1, 0)"]
    assert farm.repair() == []
    assert farm.statuses(parent, child) == ["queued", "runnable"]


def test_a_job_that_nobody_told_of_its_last_child(farm: StoreFarm, machine: Machine) -> None:
    top, parent, child = farm.submit(
        {"name": "t", "children": [{"name": "p", "command": "x", "children": [{"name": "c", "command": "x"}]}]}
    )
    farm.start(child, machine)
    machine.end(child, 1)
    assert farm.statuses(top, parent) == ["failed", "failed"]
    farm.change(top, status="queued", ended_at=None)
    farm.change(parent, status="queued", ended_at=None)
    mended = farm.repair()
    assert f"job {parent}: last child settled, which nobody had told it" in mended
    assert farm.statuses(top, parent, child) == ["failed", "failed", "failed"]


def test_a_job_that_was_let_go_too_early(farm: StoreFarm) -> None:
    parent, _ = family(farm)
    farm.change(parent, status="runnable")
    assert farm.repair() == [f"job {parent}: child added, which nobody had told it"]
    assert farm.status(parent) == "queued"


@pytest.mark.parametrize("other_action", [False, True])
def test_a_job_that_waits_for_an_action_that_is_gone(farm: StoreFarm, machine: Machine, other_action: bool) -> None:
    parent, child = family(farm)
    farm.start(child, machine)
    machine.end(child, 1)
    farm.act(Action.RESCHEDULE, parent, finish=False)
    farm.write(lambda session: [session.connection.execute(sa.delete(table)) for table in (bulk_job, bulk)])
    if other_action:
        farm.act(Action.PAUSE, family(farm)[0], finish=False)
    assert farm.repair() == [
        f"job {parent}: waited for an action that is gone",
        f"job {parent}: last child settled, which nobody had told it",
    ]
    assert farm.statuses(parent, child) == ["failed", "failed"]


def test_an_open_run_that_is_no_jobs_current_one_is_told_to_end(farm: StoreFarm, machine: Machine) -> None:
    job_id = farm.add()
    farm.start(job_id, machine)
    farm.change(job_id, status="failed", run_id=None, ended_at=1)
    assert farm.repair() == [f"run {farm.run(job_id).id}: open, but no job's current one; it is told to end"]
    assert [each.wish for each in machine.beat().wishes] == ["die"]
    machine.obey()
    assert farm.run(job_id).closed_at is not None
    farm.change(job_id, status="failed")
    assert farm.status(job_id) == "failed"
    _forget_hand_made_history(farm, job_id)


def test_one_on_a_lost_client_is_given_up(farm: StoreFarm, machine: Machine) -> None:
    job_id = farm.add()
    farm.start(job_id, machine)
    machine.vanish()
    farm.change(job_id, status="failed", run_id=None, ended_at=1)
    change_run(farm, job_id, abandoned_at=None)
    assert len(farm.repair()) == 1
    assert farm.run(job_id).fenced
    _forget_hand_made_history(farm, job_id)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("status", ["running", "pausing", "resuming", "ejecting", "abandoned"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_job_whose_run_is_closed_or_gone(farm: StoreFarm, machine: Machine, status: str, gone: bool) -> None:
    job_id = farm.add()
    farm.start(job_id, machine)
    farm.change(job_id, status=status, pause_wished=status == "pausing")
    if gone:
        farm.write(lambda session: session.connection.execute(sa.delete(run)))
    else:
        change_run(farm, job_id, closed_at=1, open_job_id=None, outcome="exited")
    assert farm.repair() == [f"job {job_id}: its run was closed without it"]
    assert farm.status(job_id) == ("paused" if status == "pausing" else "runnable")
    assert farm.repair() == []


@pytest.mark.parametrize(("most", "expected"), [("0", "failed"), ("1", "runnable")])
def test_a_run_that_is_gone_counts_as_a_rescue(store: Store, clock: FakeClock, most: str, expected: str) -> None:
    farm = StoreFarm(store, clock, settings(max_rescues=most))
    job_id = farm.add()
    farm.start(job_id, farm.machine())
    change_run(farm, job_id, closed_at=1, open_job_id=None, outcome="exited")
    farm.repair()
    assert farm.status(job_id) == expected


def test_an_abandoned_job_whose_run_does_not_say_since_when(farm: StoreFarm, machine: Machine) -> None:
    """Neither a rescue nor the client's return would ever find it."""
    job_id = farm.add()
    farm.start(job_id, machine)
    machine.vanish()
    change_run(farm, job_id, abandoned_at=None)
    assert farm.repair() == [f"job {job_id}: abandoned, but nobody knew since when"]
    machine.come_back()
    assert farm.status(job_id) == "running"


def test_damage_of_many_kinds_at_once(farm: StoreFarm, machine: Machine) -> None:
    parent, child = family(farm)
    farm.start(child, machine)
    farm.change(parent, status="runnable", children_total=0, children_unsettled=0)
    change_run(farm, child, closed_at=1, open_job_id=None, outcome="exited")
    assert len(farm.repair()) == 3
    check_invariants(farm.store)
    assert farm.statuses(parent, child) == ["queued", "runnable"]


def _forget_hand_made_history(farm: StoreFarm, job_id: int) -> None:
    """A status set by hand has no line in the log; the invariants would miss it."""
    farm.write(lambda session: session.record(job_id, "note", farm.job(job_id).status))


@pytest.mark.parametrize("gone", ["lost", "forgotten"])
def test_a_job_that_runs_on_a_client_that_is_gone(farm: StoreFarm, machine: Machine, gone: str) -> None:
    """Nobody watches such a client any more: the job would run there for ever."""
    job_id = farm.add()
    farm.start(job_id, machine)
    gone_now = sa.update(client).where(client.c.id == machine.id).values({gone: True})
    farm.write(lambda session: session.connection.execute(gone_now))
    assert farm.repair() == [f"job {job_id}: its client was lost without it"]
    assert farm.status(job_id) == "abandoned"
    assert farm.repair() == []
    farm.live_farm.leave(machine.id)
    assert farm.later(16) == 1
