"""Jobs that take several clients, and clients held for those that need more than is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.lifecycle.bulk import Action
from hqueue.schema import reservation, run
from tests.store.scheduling import explained, started, tick

if TYPE_CHECKING:
    from tests.storefarm import Machine, StoreFarm


def reserved(farm: StoreFarm) -> dict[int, list[int]]:
    """Return the clients reserved, by open run."""
    found: dict[int, list[int]] = {}
    with farm.store.reading() as connection:
        for row in connection.execute(
            sa.select(reservation)
            .join(run, run.c.id == reservation.c.run_id)
            .where(run.c.closed_at.is_(None))
            .order_by(reservation.c.client_id)
        ):
            found.setdefault(row.run_id, []).append(row.client_id)
    return found


def machines(farm: StoreFarm, count: int, cpus: int = 4) -> list[Machine]:
    return [farm.machine(f"farm-{number}", cpus) for number in range(1, count + 1)]


def fill(farm: StoreFarm, cpus: int) -> list[int]:
    """Let small jobs take so many CPUs."""
    ids = farm.submit([{"name": "klein", "command": "x"}] * cpus)
    farm.tick()
    return ids


class TestSeveralHosts:
    def test_the_command_runs_on_the_first_and_is_told_of_all(self, farm: StoreFarm) -> None:
        first, second, third = machines(farm, 3)
        job_id = farm.add(minHosts=2, maxHosts=2, cpus=4)
        other = farm.add(cpus=4)
        assert farm.tick().assigned == 2
        (run,) = farm.runs(job_id)
        assert (run.client_id, run.hosts) == (first.id, 2)
        assert reserved(farm) == {run.id: [second.id]}
        assert farm.run(other).client_id == third.id
        (order,) = first.beat().assignments
        assert order.hosts == ["farm-1", "farm-2"]
        assert second.beat().assignments == []
        assert ("running", "running", "client farm-1, with farm-2") in farm.log(job_id)

    def test_as_many_as_are_free(self, farm: StoreFarm) -> None:
        machines(farm, 3)
        job_id = farm.add(minHosts=2, maxHosts=9)
        farm.tick()
        assert farm.run(job_id).hosts == 3

    def test_together_or_not_at_all(self, farm: StoreFarm) -> None:
        machines(farm, 2)
        job_id = farm.add(minHosts=3, maxHosts=3)
        assert farm.tick().assigned == 0
        assert reserved(farm) == {}
        farm.machine("farm-3")
        farm.tick()
        assert farm.status(job_id) == "running"

    @pytest.mark.parametrize("end", ["exit", "refuse", "lose", "cancel", "eject", "rescue"])
    def test_they_are_free_when_the_command_ends(self, farm: StoreFarm, end: str) -> None:
        first, _second = machines(farm, 2)
        job_id = farm.add(minHosts=2, maxHosts=2, cpus=4)
        farm.tick()
        first.beat()
        assert fill(farm, 2)
        if end == "exit":
            first.end(job_id)
        elif end == "refuse":
            first.refuse(job_id)
        elif end == "lose":
            first.lose(job_id)
        elif end == "rescue":
            first.vanish()
            farm.act(Action.CANCEL, job_id)
        else:
            farm.act(Action[end.upper()], job_id)
            first.beat()
            first.obey()
        farm.act(Action.CANCEL, job_id)
        tick(farm, 2)
        assert reserved(farm) == {}
        assert farm.statuses(job_id + 1, job_id + 2) == ["running", "running"]

    def test_the_first_is_lost(self, farm: StoreFarm) -> None:
        first, second = machines(farm, 2)
        job_id = farm.add(minHosts=2, maxHosts=2, cpus=4)
        farm.tick()
        first.beat()
        first.vanish()
        assert farm.status(job_id) == "abandoned"
        assert list(reserved(farm).values()) == [[second.id]]  # it may come back
        small = fill(farm, 1)[0]
        assert farm.status(small) == "runnable"
        first.come_back()
        assert farm.status(job_id) == "running"

    def test_another_is_lost(self, farm: StoreFarm) -> None:
        first, second, third = machines(farm, 3)
        job_id = farm.add(minHosts=3, maxHosts=3, cpus=4)
        farm.tick()
        first.beat()
        second.vanish()
        assert farm.status(job_id) == "running"
        assert list(reserved(farm).values()) == [[third.id]]
        assert ("note", "running", "client farm-2 was lost; the job goes on without it") in farm.log(job_id)
        second.come_back()
        small = fill(farm, 1)[0]
        assert farm.run(small).client_id == second.id
        first.end(job_id)
        assert farm.status(job_id) == "succeeded"

    def test_licences_once_per_job_and_per_machine(self, farm: StoreFarm) -> None:
        first, _ = machines(farm, 2)
        farm.resource("nuke", 3)
        farm.resource("render", 3, per_machine=True)
        wide = farm.add(minHosts=2, maxHosts=2, resources={"nuke": 2, "render": 1})
        farm.tick()
        first.beat()
        assert farm.used() == {"nuke": 2, "render": 2}
        job_id = farm.add(resources={"nuke": 2})
        farm.tick()
        assert farm.status(job_id) == "runnable"
        first.end(wide)
        assert farm.used() == {}


class TestHolds:
    def test_several_hosts_at_once(self, farm: StoreFarm) -> None:
        first, second = machines(farm, 2, cpus=2)
        small = fill(farm, 4)
        wide = farm.add(minHosts=2, maxHosts=2, priority=1)
        more = farm.submit([{"name": "klein", "command": "x"}] * 6)
        for machine in (first, second):
            machine.beat()
        farm.tick()
        assert farm.live_farm.holds[wide].clients == (first.id, second.id)
        first.end(small[0])
        farm.tick()
        assert farm.status(more[0]) == "runnable"  # there is room for it, but it is kept
        second.end(small[2])
        farm.tick()
        assert farm.status(wide) == "running"
        assert farm.live_farm.holds == {}
        assert started(farm, *more) == []
        first.end(small[1])
        farm.tick()
        assert started(farm, *more) == [more[0]]

    def test_what_comes_before_the_holder_takes_a_held_client(self, farm: StoreFarm) -> None:
        first, _ = machines(farm, 2, cpus=2)
        small = fill(farm, 4)
        farm.add(minHosts=2, maxHosts=2, cpus=2, priority=1)
        first.beat()
        farm.tick()
        urgent = farm.add(priority=2)
        first.end(small[0])
        farm.tick()
        assert farm.status(urgent) == "running"

    @pytest.mark.parametrize("big", [{"tags": ["single"]}, {"cpus": 4}])
    def test_one_client_after_a_while(self, farm: StoreFarm, big: dict[str, Any]) -> None:
        """An endless stream of small jobs keeps the client full; the big one gets it all the same."""
        (machine,) = machines(farm, 1, cpus=4)
        fill(farm, 4)
        machine.beat()
        job_id = farm.add(priority=1, **big)
        for second in range(200):
            farm.submit([{"name": "klein", "command": "x"}] * 2)
            machine.end(min(machine.jobs))  # one a second: there is never more than one CPU free
            tick(farm, 1)
            if farm.status(job_id) == "running":
                break
            assert not (second < 55 and farm.live_farm.holds), second
            machine.beat()
        assert 60 <= second <= 60 + 2 + 4
        assert explained(farm, job_id).free == 0

    def test_two_of_them_never_lock_each_other_out(self, farm: StoreFarm) -> None:
        every = machines(farm, 4, cpus=2)
        small = fill(farm, 8)
        wide = farm.submit([{"name": "breit", "command": "x", "cpus": 2, "minHosts": 3, "maxHosts": 3}] * 2)
        for machine in every:
            machine.beat()
        done: list[int] = []
        for _ in range(60):
            farm.submit({"name": "klein", "command": "x"})
            for machine in every:
                for job_id in machine.jobs[:1]:
                    if job_id in wide:
                        done.append(job_id)
                    machine.end(job_id)
            tick(farm, 1)
            for machine in every:
                machine.beat()
        assert done == wide
        assert small

    def test_a_hold_ends_with_its_job(self, farm: StoreFarm) -> None:
        (first, second) = machines(farm, 2, cpus=1)
        small = fill(farm, 2)
        wide = farm.add(minHosts=2, maxHosts=2, priority=1)
        farm.tick()
        assert farm.live_farm.holds
        later = farm.add()
        farm.act(Action.CANCEL, wide)
        first.beat()
        first.end(small[0])
        farm.tick()
        assert farm.live_farm.holds == {}
        assert farm.status(later) == "running"
        assert second.beat()

    def test_many_licences_after_a_while(self, farm: StoreFarm) -> None:
        (machine,) = machines(farm, 1, cpus=9)
        farm.resource("nuke", 3)
        small = {"name": "klein", "command": "x", "resources": {"nuke": 1}}
        farm.submit([small] * 3)
        tick(farm, 1)
        machine.beat()
        job_id = farm.add(priority=1, resources={"nuke": 3})
        for _ in range(100):
            farm.submit([small] * 2)
            machine.end(min(machine.jobs))
            tick(farm, 1)
            machine.beat()
            if farm.status(job_id) == "running":
                return
        raise AssertionError("the small ones always took what became free")
