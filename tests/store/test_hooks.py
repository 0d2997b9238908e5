"""Hooks: which run after what, where, and that each is started once (SPEC 12)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.lifecycle import clients
from hqueue.lifecycle.bulk import Action
from hqueue.schema import client, hook, run
from hqueue.states import JobEvent

if TYPE_CHECKING:
    from tests.storefarm import Machine, StoreFarm

ALL = {"onSuccess": "ü gut", "onError": "schlecht", "onCancel": "aus", "onChildError": "kind"}


@pytest.fixture
def machine(farm: StoreFarm) -> Machine:
    return farm.machine(cpus=8)


def waiting(farm: StoreFarm) -> list[tuple[int, str]]:
    """Return the hooks that are to run."""
    with farm.store.reading() as connection:
        query = sa.select(hook.c.job_id, hook.c.name).where(hook.c.run_id.is_(None)).order_by(hook.c.id)
        return [tuple(row) for row in connection.execute(query)]


def running(farm: StoreFarm, machine: Machine, **more: Any) -> int:
    job_id = farm.add(**(ALL | more))
    farm.start(job_id, machine)
    return job_id


def hook_token(farm: StoreFarm, machine: Machine, job_id: int) -> str:
    """Return the token of a job's hook that a machine has been given."""
    farm.tick()
    machine.beat()
    (token,) = [row.token for row in farm.runs(job_id) if row.hook and row.closed_at is None]
    assert token in machine.held
    return str(token)


@pytest.mark.databases("sqlite")
class TestWhich:
    def test_success(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.end(job_id)
        assert waiting(farm) == [(job_id, "onSuccess")]

    def test_only_the_final_failure(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine, triesLeft=1)
        machine.end(job_id, 3)
        assert waiting(farm) == []
        farm.start(job_id, machine)
        machine.end(job_id, 3)
        assert waiting(farm) == [(job_id, "onError")]

    def test_lost_too_often_and_refused_by_all(self, farm: StoreFarm, machine: Machine) -> None:
        lost, refused = farm.add(**ALL), farm.add(**ALL)
        for _ in range(3):
            assert waiting(farm) == []
            farm.start(lost, machine)
            machine.lose(lost)
        farm.start(refused, machine)
        machine.report(machine.token(refused), "refused", message="no such shell", fault="job")
        assert farm.statuses(lost, refused) == ["failed", "failed"]
        assert waiting(farm) == [(lost, "onError"), (refused, "onError")]

    def test_a_retry_that_a_child_forbids_is_both(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine, triesLeft=1)
        child = farm.add(parent=job_id)
        farm.start(child, machine)
        machine.end(child, 1)
        machine.end(job_id, 1)
        assert (farm.status(job_id), waiting(farm)) == ("failed", [(job_id, "onError"), (job_id, "onChildError")])

    def test_cancelled_on_a_client_only(self, farm: StoreFarm, machine: Machine) -> None:
        idle, job_id = farm.add(**ALL), running(farm, machine)
        farm.act(Action.CANCEL, idle, job_id)
        assert waiting(farm) == [(job_id, "onCancel")]

    def test_cancelled_by_time(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.report(machine.token(job_id), "killed", kill_reason="time")
        assert (farm.status(job_id), waiting(farm)) == ("cancelled", [(job_id, "onCancel")])

    def test_cancelled_while_abandoned(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.apply(JobEvent.CLIENT_LOST, job_id)
        farm.act(Action.CANCEL, job_id)
        assert waiting(farm) == [(job_id, "onCancel")]

    @pytest.mark.parametrize("ends", list(itertools.permutations("abc")))
    @pytest.mark.parametrize("failing", ["a", "ab", "abc"])
    def test_children_in_all_orders(
        self, farm: StoreFarm, machine: Machine, ends: tuple[str, ...], failing: str
    ) -> None:
        """The hook of the children's failure comes once, with the last of them, and no other does."""
        names = {name: farm.add(name) for name in "abc"}
        parent = farm.add(children=list(names.values()), **ALL)
        for child in names.values():
            farm.start(child, machine)
        for place, name in enumerate(ends):
            assert waiting(farm) == [], place
            machine.end(names[name], 1 if name in failing else 0)
        assert (farm.status(parent), waiting(farm)) == ("failed", [(parent, "onChildError")])

    @pytest.mark.parametrize("command_first", [True, False])
    @pytest.mark.parametrize("exit_code", [0, 1])
    def test_a_child_added_while_the_command_ran(
        self, farm: StoreFarm, machine: Machine, command_first: bool, exit_code: int
    ) -> None:
        job_id = running(farm, machine)
        child = farm.add(parent=job_id)
        farm.start(child, machine)
        own = [(job_id, "onError")] if exit_code else []
        if command_first:
            machine.end(job_id, exit_code)
            assert waiting(farm) == own
            machine.end(child, 1)
        else:
            machine.end(child, 1)
            assert waiting(farm) == []
            machine.end(job_id, exit_code)
        assert (farm.status(job_id), waiting(farm)) == ("failed", [*own, (job_id, "onChildError")])

    def test_a_cancelled_tree_tells_of_no_failed_child(self, farm: StoreFarm, machine: Machine) -> None:
        parent = running(farm, machine)
        child = farm.add(parent=parent)
        farm.start(child, machine)
        farm.act(Action.CANCEL, parent)
        machine.beat()
        machine.obey()
        assert farm.statuses(parent, child) == ["cancelled", "cancelled"]
        assert waiting(farm) == [(parent, "onCancel")]

    def test_ejected_rescued_and_lost_run_none(self, farm: StoreFarm, machine: Machine) -> None:
        ejected, lost, rescued = (running(farm, machine) for _ in range(3))
        farm.act(Action.EJECT, ejected)
        machine.beat()
        machine.obey()
        machine.lose(lost)
        farm.apply(JobEvent.CLIENT_LOST, rescued)
        farm.apply(JobEvent.RESCUE, rescued)
        assert farm.statuses(ejected, lost, rescued) == ["runnable"] * 3
        assert waiting(farm) == []

    def test_settled_as_it_comes(self, farm: StoreFarm, machine: Machine) -> None:
        failed = running(farm, machine, onError="")
        machine.end(failed, 1)
        good = farm.add(command=None, **ALL)
        bad = farm.add(command=None, children=[failed], **ALL)
        assert waiting(farm) == [(good, "onSuccess"), (bad, "onChildError")]

    def test_a_reschedule_drops_what_has_not_begun(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.end(job_id, 1)
        farm.act(Action.RESCHEDULE, job_id)
        assert waiting(farm) == []
        farm.start(job_id, machine)
        machine.end(job_id)
        assert waiting(farm) == [(job_id, "onSuccess")]


class TestWhere:
    def test_on_the_last_client_without_taking_anything(self, farm: StoreFarm, machine: Machine) -> None:
        farm.machine("andere", cpus=1)
        farm.resource("lizenz", 1)
        job_id = running(farm, machine, cpus=8, tags=["single"], resources={"lizenz": 1})
        machine.end(job_id)
        assert farm.tick().assigned == 0
        (order,) = machine.beat().assignments
        assert (order.job_id, order.command, order.hook, order.cpus, order.tags) == (
            job_id,
            "ü gut",
            "onSuccess",
            0,
            [],
        )
        assert (order.max_time_s, order.root_id) == (3600, job_id)
        assert farm.used() == {}
        full = farm.add(cpus=8, tags=["single"], resources={"lizenz": 1})
        assert farm.tick().assigned == 1
        machine.beat()
        assert farm.status(full) == "running"
        machine.report(next(token for token, held in machine.held.items() if held.job_id == job_id), "exited")
        assert farm.log(job_id)[-1] == ("note", "succeeded", "onSuccess: exit 0, client farm-ü")

    def test_elsewhere_when_that_is_gone_as_the_conditions_say(self, farm: StoreFarm, machine: Machine) -> None:
        farm.machine("aaa-fremd")
        other = farm.machine("farm-andere")
        job_id = running(farm, machine, host=["farm-ü", "farm-andere"], onSuccess={"linux": "l", "windows": "w"})
        machine.end(job_id)
        farm.write(
            lambda session: session.connection.execute(
                sa.update(client).where(client.c.id == machine.id).values(lost=True)
            )
        )
        farm.tick()
        (order,) = other.beat().assignments
        assert (order.job_id, order.command) == (job_id, "l")

    def test_not_before_the_command_is_dead(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.CANCEL, job_id)
        machine.beat()
        farm.tick()
        assert not machine.beat().assignments
        machine.obey()
        assert hook_token(farm, machine, job_id)

    def test_no_more_at_a_time_than_cpus(self, farm: StoreFarm, machine: Machine) -> None:
        small = farm.machine("klein", cpus=1)
        jobs = [farm.add(command=None, host="klein", onSuccess="x") for _ in range(3)]
        for job_id in jobs:
            token = hook_token(farm, small, job_id)
            assert len(waiting(farm)) == len(jobs) - 1 - jobs.index(job_id)
            small.report(token, "exited")
        assert machine.held == {}

    def test_without_a_client_it_is_given_up(self, farm: StoreFarm) -> None:
        job_id = farm.add(command=None, **ALL)
        farm.later(9.9)
        assert waiting(farm) == [(job_id, "onSuccess")]
        farm.later(0.2)
        assert waiting(farm) == []
        assert farm.log(job_id)[-1][2] == "onSuccess: not run: there was no client that could run it"

    def test_refused_it_goes_to_another(self, farm: StoreFarm, machine: Machine) -> None:
        other = farm.machine("andere")
        job_id = running(farm, machine)
        machine.end(job_id)
        machine.report(hook_token(farm, machine, job_id), "refused", message="no shell", fault="job")
        assert waiting(farm) == [(job_id, "onSuccess")]
        token = hook_token(farm, other, job_id)
        other.report(token, "exited", exit_code=4)
        assert farm.log(job_id)[-1][2] == "onSuccess: exit 4, client andere"
        assert farm.status(job_id) == "succeeded"


class TestOnce:
    def test_neither_a_loss_nor_a_restart_starts_it_again(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.end(job_id)
        token = hook_token(farm, machine, job_id)
        assert farm.repair() == []
        assert farm.scheduler.tick().assigned == 0
        machine.report(token, "lost", message="the machine was restarted")
        assert farm.log(job_id)[-1][2] == "onSuccess: lost: the machine was restarted, client farm-ü"
        farm.tick()
        assert not machine.beat().assignments
        assert waiting(farm) == []

    def test_a_lost_client_takes_it_along(self, farm: StoreFarm, machine: Machine) -> None:
        other = farm.machine("andere")
        job_id = running(farm, machine)
        machine.end(job_id)
        token = hook_token(farm, machine, job_id)
        farm.write(lambda session: clients.give_up_runs(session, machine.id, "weg"))
        assert farm.log(job_id)[-1][2] == "onSuccess: lost: weg"
        machine.beat()
        assert machine.held[token].asked is not None  # it is told to kill it
        machine.obey()
        farm.tick()
        assert not other.beat().assignments

    def test_deleted_with_its_job(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.end(job_id)
        hook_token(farm, machine, job_id)
        farm.act(Action.DELETE, job_id)
        machine.beat()
        machine.obey()
        with farm.store.reading() as connection:
            assert connection.execute(sa.select(run.c.id).where(run.c.closed_at.is_(None))).all() == []

    def test_repair_forgets_a_hook_whose_run_is_closed(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.end(job_id)
        token = hook_token(farm, machine, job_id)
        closed = {"closed_at": 5, "open_job_id": None, "outcome": "lost"}
        farm.write(
            lambda session: session.connection.execute(sa.update(run).where(run.c.token == token).values(**closed))
        )
        assert farm.repair() == [f"job {job_id}: the run of onSuccess was closed without it"]
        assert farm.repair() == []

    def test_another_result_of_the_job_is_not_the_hooks(self, farm: StoreFarm, machine: Machine) -> None:
        """A hook that fails at once, again and again, is held against nobody."""
        for _ in range(4):
            job_id = running(farm, machine)
            machine.end(job_id, seconds=60.0)
            machine.report(hook_token(farm, machine, job_id), "exited", exit_code=1, seconds=0.1)
        assert farm.client(machine.id).refused_until == 0
        assert waiting(farm) == []
