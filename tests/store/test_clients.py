"""Who a client is, what it lists, what it is told; lost clients that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.config import Policy
from hqueue.errors import ClientRefusedError
from hqueue.lifecycle import clients
from hqueue.lifecycle.bulk import Action
from hqueue.protocol import write
from hqueue.schema import client
from tests.storefarm import Held, Machine

if TYPE_CHECKING:
    from tests.storefarm import StoreFarm


@pytest.fixture
def machine(farm: StoreFarm) -> Machine:
    return farm.machine(cpus=8)


def running(farm: StoreFarm, machine: Machine, **more: Any) -> int:
    job_id = farm.add(**more)
    farm.start(job_id, machine)
    return job_id


def twin(machine: Machine, **more: Any) -> Machine:
    values = {"hostname": machine.hostname, "cpus": machine.cpus, "name": machine.name, "key": machine.key, **more}
    return Machine(machine.farm, **values)


@pytest.mark.databases("sqlite")
class TestRegister:
    def test_the_same_again_is_the_same_client(self, farm: StoreFarm, machine: Machine) -> None:
        assert twin(machine).register() == machine.id
        assert twin(machine, incarnation=2, cpus=16).register() == machine.id
        row = farm.client(machine.id)
        assert (row.cpus, row.incarnation, row.hostname) == (16, 2, "farm-ü")

    def test_names_tell_clients_of_one_machine_apart(self, farm: StoreFarm, machine: Machine) -> None:
        others = [twin(machine, name="gpu").register(), twin(machine, name="GPU").register()]
        assert len({machine.id, *others}) == 3

    def test_a_hostname_does_not_depend_on_case(self, farm: StoreFarm, machine: Machine) -> None:
        assert twin(machine, hostname="FARM-Ü").register() == machine.id
        assert farm.client(machine.id).hostname == "FARM-Ü"

    def test_an_older_daemon_is_refused(self, farm: StoreFarm, machine: Machine) -> None:
        twin(machine, incarnation=5).register()
        with pytest.raises(ClientRefusedError, match="a newer daemon of farm-ü"):
            twin(machine, incarnation=4).register()
        assert farm.client(machine.id).incarnation == 5

    def test_another_machine_is_refused_while_the_known_one_is_there(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        with pytest.raises(ClientRefusedError, match=r"registered as farm-ü; give this one a name \(hqclient --name"):
            twin(machine, key="anderer").register()
        assert farm.client(machine.id).key == "schlüssel"
        assert farm.status(job_id) == "running"

    def test_another_machine_takes_over_from_a_lost_one(self, farm: StoreFarm, machine: Machine) -> None:
        job_id, dying = running(farm, machine), running(farm, machine)
        farm.act(Action.CANCEL, dying)
        machine.vanish()
        other = twin(machine, key="anderer")
        assert other.register() == machine.id
        assert (farm.status(job_id), farm.job(job_id).rescues) == ("runnable", 1)
        assert farm.run(job_id).outcome == "lost"
        other.beat()  # it does not hold them: they are gone with the old machine
        assert not farm.run(job_id).fenced
        assert not farm.run(dying).fenced

    def test_the_cap_on_rescues_is_the_configured_one(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.vanish()
        farm.store.policy = Policy(max_rescues=0)
        farm.write(lambda session: clients.register(session, twin(machine, key="b").identity(), "::1"))
        assert farm.status(job_id) == "failed"

    def test_a_forgotten_one_returns_as_itself(self, farm: StoreFarm, machine: Machine) -> None:
        farm.write(lambda session: clients.forget(session, machine.id))
        assert farm.client(machine.id).forgotten
        assert twin(machine, incarnation=0, key="neu").register() == machine.id
        row = farm.client(machine.id)
        assert (row.forgotten, row.key) == (False, "neu")

    def test_a_new_start_clears_what_the_old_one_had(self, farm: StoreFarm, machine: Machine) -> None:
        farm.write(
            lambda session: session.connection.execute(
                sa.update(client).values(condemned="ein Prozess stirbt nicht", terminating=True, lost=True)
            )
        )
        twin(machine, incarnation=2).register()
        row = farm.client(machine.id)
        assert (row.condemned, row.terminating, row.lost) == ("", False, False)


class TestAssignments:
    def test_one_is_repeated_until_it_is_listed(self, farm: StoreFarm, machine: Machine) -> None:
        root_id = farm.add("Szene")
        job_id = farm.add(
            "Bild-é",
            root_id,
            command={"linux": "ls", "windows": "dir"},
            environment={"Ä": "ö"},
            tags=["nacht"],
            maxTime=60,
            cpus=2,
        )
        farm.tick()
        with farm.store.writing() as session:
            first = clients.orders(session.connection, machine.id, []).assignments
            clients.take_listing(session, machine.id, machine.label, [])
            second = clients.orders(session.connection, machine.id, []).assignments
        assert first == second
        assert (
            write(first[0]).items()
            >= {
                "jobId": job_id,
                "rootId": root_id,
                "attempt": 1,
                "name": "Bild-é",
                "command": "ls",
                "shell": "",
                "environment": {"Ä": "ö"},
                "maxTime": 60,
                "hosts": ["farm-ü"],
                "tags": ["nacht"],
                "cpus": 2,
            }.items()
        )
        machine.beat()
        assert machine.jobs == [job_id]
        assert machine.beat().assignments == []
        assert farm.run(job_id).listed_at is not None
        assert (farm.run(job_id).pid, farm.run(job_id).started_at) == (4711, farm.run(job_id).assigned_at)

    def test_one_that_was_never_listed_is_not_lost(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = farm.add()
        farm.tick()
        for _ in range(3):
            farm.write(lambda session: clients.take_listing(session, machine.id, machine.label, []))
        assert farm.status(job_id) == "running"

    def test_one_that_was_listed_and_is_missing_is_lost(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.held.clear()
        machine.beat()
        assert (farm.status(job_id), farm.job(job_id).rescues) == ("runnable", 1)
        assert farm.run(job_id).message == "the client does not have it any more"

    @pytest.mark.parametrize(
        ("action", "expected"),
        [(Action.CANCEL, "cancelled"), (Action.EJECT, "runnable")],
    )
    def test_one_that_is_to_die_before_the_client_has_it_never_starts(
        self, farm: StoreFarm, machine: Machine, action: Action, expected: str
    ) -> None:
        job_id = farm.add()
        farm.tick()
        farm.act(action, job_id)
        assert machine.beat().assignments == []
        assert farm.status(job_id) == expected
        assert (farm.run(job_id).outcome, farm.run(job_id).listed_at) == ("killed", None)

    def test_a_pause_comes_with_the_assignment(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = farm.add()
        farm.tick()
        farm.act(Action.PAUSE, job_id)
        orders = machine.beat()
        assert [each.wish for each in orders.wishes] == ["halt"]
        assert [each.job_id for each in orders.assignments] == [job_id]
        machine.obey()
        assert farm.status(job_id) == "paused"

    def test_what_nobody_knows_is_to_die(self, farm: StoreFarm, machine: Machine) -> None:
        machine.held["nie gehört"] = Held(77, wish=3)
        wishes = machine.beat().wishes
        assert [(each.token, each.wish, each.reason) for each in wishes] == [("nie gehört", "die", "unknown")]
        assert wishes[0].number > 3  # or the client would take it for one it has carried out
        machine.obey()
        assert machine.beat().wishes == []

    def test_anothers_run_is_not_known_either(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        other = farm.machine("fremd")
        other.held[machine.token(job_id)] = Held(job_id)
        assert [each.reason for each in other.beat().wishes] == ["unknown"]
        assert farm.status(job_id) == "running"

    def test_time_limits_are_those_of_open_runs(self, farm: StoreFarm, machine: Machine) -> None:
        with_limit, without = running(farm, machine, maxTime=60), running(farm, machine)
        with farm.store.reading() as connection:
            assert clients.time_limits(connection, machine.id) == {machine.token(with_limit): 60}
        machine.end(with_limit)
        with farm.store.reading() as connection:
            assert clients.time_limits(connection, machine.id) == {}
        assert machine.jobs == [without]

    def test_overtime_ends_cancelled(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine, maxTime=60, triesLeft=1)
        token = machine.token(job_id)
        for _ in range(2):  # said twice, it is one wish
            farm.write(lambda session: clients.end_overtime(session, [token]))
        assert farm.run(job_id).wish_number == 1
        machine.beat()
        machine.obey()
        assert (farm.status(job_id), farm.job(job_id).tries_left) == ("cancelled", 1)
        assert farm.log(job_id)[-1][2] == "killed: took longer than maxTime, client farm-ü"


@pytest.mark.databases("sqlite")
class TestLostAndBack:
    @pytest.mark.parametrize(
        ("actions", "obeyed", "expected"),
        [
            ([], True, "running"),
            ([Action.PAUSE], True, "paused"),
            ([Action.PAUSE], False, "pausing"),
            ([Action.EJECT], False, "ejecting"),
        ],
    )
    def test_it_goes_on_where_it_was(
        self, farm: StoreFarm, machine: Machine, actions: list[Action], obeyed: bool, expected: str
    ) -> None:
        job_id = running(farm, machine)
        for action in actions:
            farm.act(action, job_id)
            machine.beat()
            if obeyed:
                machine.obey()
        assert farm.status(job_id) == expected
        machine.vanish()
        assert farm.status(job_id) == "abandoned"
        machine.come_back()
        assert farm.status(job_id) == expected
        machine.obey()
        machine.obey()
        final = {"pausing": "paused", "ejecting": "runnable"}.get(expected, expected)
        assert farm.status(job_id) == final
        assert farm.run(job_id).abandoned_at is None

    def test_resumed_before_it_was_halted(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.PAUSE, job_id)
        farm.act(Action.RESUME, job_id)
        assert farm.status(job_id) == "resuming"
        machine.vanish()
        machine.come_back()
        assert farm.status(job_id) == "running"  # it had never stopped

    def test_paused_while_it_was_away(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.vanish()
        farm.act(Action.PAUSE, job_id)
        assert farm.status(job_id) == "abandoned"
        machine.come_back()
        assert farm.status(job_id) == "pausing"
        machine.obey()
        assert farm.status(job_id) == "paused"

    def test_resumed_while_it_was_away(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.PAUSE, job_id)
        machine.beat()
        machine.obey()
        machine.vanish()
        farm.act(Action.RESUME, job_id)
        machine.come_back()
        assert farm.status(job_id) == "resuming"
        machine.obey()
        assert farm.status(job_id) == "running"

    def test_halted_before_it_was_started(self, farm: StoreFarm, machine: Machine) -> None:
        """A held run that confirmed its pause is listed as held, not as halted."""
        job_id = running(farm, machine)
        farm.act(Action.PAUSE, job_id)
        machine.beat()
        machine.obey()
        machine.held[machine.token(job_id)].state = "held"
        machine.vanish()
        machine.come_back()
        assert farm.status(job_id) == "paused"

    def test_out_of_time_while_it_was_away(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine, maxTime=60)
        farm.write(lambda session: clients.end_overtime(session, [machine.token(job_id)]))
        machine.vanish()
        farm.act(Action.PAUSE, job_id)
        machine.come_back()
        assert farm.run(job_id).wish == "die"  # still
        machine.obey()
        assert farm.status(job_id) == "cancelled"

    def test_cancelled_while_it_was_away(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.vanish()
        farm.act(Action.CANCEL, job_id)
        assert farm.status(job_id) == "cancelled"
        assert farm.run(job_id).fenced  # nobody waits for it
        machine.come_back()
        assert farm.run(job_id).fenced
        machine.obey()
        assert not farm.run(job_id).fenced
        assert farm.status(job_id) == "cancelled"

    def test_a_dying_run_is_closed_as_lost(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.CANCEL, job_id)
        machine.vanish()
        run = farm.run(job_id)
        assert (run.outcome, run.fenced) == ("lost", True)

    def test_an_assignment_it_never_had_is_sent_again(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = farm.add()
        farm.tick()
        machine.vanish()
        assert farm.status(job_id) == "abandoned"
        machine.come_back()
        assert farm.status(job_id) == "running"
        assert machine.jobs == [job_id]

    def test_it_ended_meanwhile(self, farm: StoreFarm, machine: Machine) -> None:
        well, badly = running(farm, machine), running(farm, machine)
        machine.vanish()
        machine.register()
        machine.end(well)
        machine.end(badly, 1)
        assert farm.statuses(well, badly) == ["succeeded", "failed"]

    def test_it_was_restarted_and_has_nothing(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.vanish()
        machine.reboot()
        assert (farm.status(job_id), farm.job(job_id).rescues) == ("runnable", 1)

    def test_ejected_while_it_was_away(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.vanish()
        farm.act(Action.EJECT, job_id)
        assert farm.status(job_id) == "runnable"
        assert farm.events(job_id)[-1] == "ejected"
        machine.come_back()
        assert farm.run(job_id).fenced

    def test_a_given_up_run_counts_against_its_cpus_until_it_is_dead(self, farm: StoreFarm) -> None:
        machine = farm.machine("klein", cpus=1)
        job_id = running(farm, machine)
        machine.vanish()
        farm.act(Action.EJECT, job_id)
        machine.incarnation += 1
        machine.register()
        assert farm.tick().assigned == 0
        wishes = machine.beat().wishes
        assert [(each.wish, each.reason) for each in wishes] == [("die", "unknown")]
        farm.clock.advance(1)
        assert farm.tick().assigned == 0
        machine.obey()
        farm.clock.advance(1)
        assert farm.tick().assigned == 1
        assert farm.status(job_id) == "running"
        assert len(farm.runs(job_id)) == 2

    def test_what_a_given_up_run_reports_changes_no_job(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.vanish()
        farm.act(Action.EJECT, job_id)
        machine.register()
        machine.end(job_id, 0)
        assert farm.status(job_id) == "runnable"
        assert not farm.run(job_id).fenced
        assert farm.run(job_id).outcome == "lost"

    def test_lost_twice(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        for _ in range(2):
            machine.vanish()
            machine.come_back()
        assert farm.status(job_id) == "running"
        assert farm.events(job_id) == ["submitted", "running", "abandoned", "running", "abandoned", "running"]
