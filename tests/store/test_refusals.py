"""Whose fault a refusal is: the job's, and the next client is tried; the machine's, and the machine rests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.refusals import LONGEST_REST_MS
from hqueue.protocol import Listed
from hqueue.schema import client
from tests.store.scheduling import explained, started, tick
from tests.storefarm import StoreFarm, settings

if TYPE_CHECKING:
    from hqueue.store import Store
    from tests.fakes import FakeClock
    from tests.storefarm import Machine

DAY_S = 86_400
NO_SHELL = {"fault": "shell", "message": "there is no shell named 'zsh' on this machine"}
TOO_LONG = {"fault": "job", "message": "the command could not be started: Argument list too long"}


def refuse(machine: Machine, job_id: int, **why: Any) -> None:
    """Have a job that runs on a machine refused there."""
    machine.beat()
    machine.report(machine.token(job_id), "refused", **why)


def refuse_everywhere(farm: StoreFarm, job_id: int, **why: Any) -> int:
    """Have a job refused wherever it goes; return by how many."""
    for count in range(50):
        tick(farm)
        if farm.status(job_id) != "running":
            return count
        where = farm.run(job_id).client_id
        refuse(next(each for each in farm.machines if each.id == where), job_id, **why)
    raise AssertionError("it goes on for ever")


class TestTheJobs:
    def test_a_shell_that_nobody_has_fails_the_job_and_rests_nobody(self, farm: StoreFarm) -> None:
        machines = [farm.machine(f"farm-{letter}", 1) for letter in "abc"]
        bad = farm.add(shell="zsh", priority=9, triesLeft=5)
        assert refuse_everywhere(farm, bad, **NO_SHELL) == 3
        good = farm.submit([{"name": "gut", "command": "x"}] * 3)
        assert farm.status(bad) == "failed"
        assert farm.log(bad)[-1][2] == "no client has the shell zsh (asked 3 clients)"
        assert farm.job(bad).tries_left == 5
        tick(farm)
        assert started(farm, *good) == good
        assert [farm.client(each.id).refused_until for each in machines] == [0, 0, 0]

    def test_one_client_is_enough_where_there_is_one(self, farm: StoreFarm) -> None:
        farm.machine("farm-a", 1)
        job_id = farm.add(shell="zsh")
        assert refuse_everywhere(farm, job_id, **NO_SHELL) == 1
        assert farm.log(job_id)[-1][2] == "no client has the shell zsh"

    def test_another_reason(self, farm: StoreFarm) -> None:
        farm.machine("farm-a", 1)
        job_id = farm.add()
        refuse_everywhere(farm, job_id, **TOO_LONG)
        assert (
            farm.log(job_id)[-1][2] == "no client can run it: the command could not be started: Argument list too long"
        )

    def test_clients_that_could_not_run_it_anyway_are_not_waited_for(self, farm: StoreFarm) -> None:
        farm.machine("farm-a", 4)
        farm.machine("farm-b", 1)
        farm.machine("farm-c", 4, platform="windows-x86_64")
        job_id = farm.add(shell="zsh", cpus=2, command={"linux": "x"})
        assert refuse_everywhere(farm, job_id, **NO_SHELL) == 1
        assert farm.status(job_id) == "failed"

    def test_one_that_is_off_is_waited_for(self, farm: StoreFarm) -> None:
        off = farm.machine("farm-z", 4)
        off.vanish()
        farm.machine("farm-a", 4)
        job_id = farm.add(shell="zsh")
        assert refuse_everywhere(farm, job_id, **NO_SHELL) == 1
        assert farm.status(job_id) == "runnable"
        found = explained(farm, job_id)
        assert [each.reason for each in found.reasons] == ["refused: it cannot run this job, and said so", "lost"]
        assert found.summary == "waits for a client: 1 refused this job; 1 lost"
        off.come_back()
        tick(farm)
        assert farm.run(job_id).client_id == off.id

    def test_no_more_than_so_many_are_asked(self, store: Store, clock: FakeClock) -> None:
        farm = StoreFarm(store, clock, settings(max_refusals="3"))
        for number in range(6):
            farm.machine(f"farm-{number}", 1)
        job_id = farm.add(shell="zsh")
        assert refuse_everywhere(farm, job_id, **NO_SHELL) == 3
        assert farm.status(job_id) == "failed"

    @pytest.mark.parametrize("action", [Action.PAUSE, Action.EJECT])
    def test_whatever_else_is_wished(self, farm: StoreFarm, action: Action) -> None:
        machine = farm.machine("farm-a", 1)
        job_id = farm.add()
        tick(farm)
        machine.beat()
        farm.act(action, job_id)
        refuse(machine, job_id, **TOO_LONG)
        assert farm.status(job_id) == "failed"

    def test_one_that_was_cancelled_meanwhile_stays_so(self, farm: StoreFarm) -> None:
        machine = farm.machine("farm-a", 1)
        job_id = farm.add()
        tick(farm)
        machine.beat()
        farm.act(Action.CANCEL, job_id)
        refuse(machine, job_id, **TOO_LONG)
        assert farm.status(job_id) == "cancelled"

    def test_a_reschedule_forgets_it(self, farm: StoreFarm) -> None:
        machine = farm.machine("farm-a", 1)
        job_id = farm.add()
        refuse_everywhere(farm, job_id, **TOO_LONG)
        farm.act(Action.RESCHEDULE, job_id)
        tick(farm)
        machine.beat()
        machine.end(job_id)
        assert farm.status(job_id) == "succeeded"


class TestTheMachines:
    def test_an_old_client_does_not_say_whose_fault_it_is(self, farm: StoreFarm) -> None:
        machine = farm.machine("farm-a", 1)
        job_id = farm.add()
        tick(farm)
        refuse(machine, job_id, message="the disk is full")
        assert farm.status(job_id) == "runnable"
        assert farm.client(machine.id).rest_reason == f"it refused job {job_id}: the disk is full"
        tick(farm, 5)
        assert explained(farm, job_id).summary == "waits for a client: 1 client, resting after a refusal or failures"
        tick(farm, 6)
        assert farm.status(job_id) == "running"

    @pytest.mark.parametrize(("later_s", "whose"), [(DAY_S - 100, "machine"), (DAY_S + 100, "job")])
    def test_a_shell_that_some_client_ran_in_the_last_day(self, farm: StoreFarm, later_s: int, whose: str) -> None:
        good, bad = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        before, job_id = farm.add(shell="zsh"), farm.add(shell="zsh")
        farm.start(before, good)
        good.end(before)
        farm.clock.advance(later_s)
        farm.start(job_id, bad)
        refuse(bad, job_id, **NO_SHELL)
        assert (farm.client(bad.id).refused_until > 0) is (whose == "machine")
        assert farm.status(job_id) == "runnable"

    def test_a_shell_of_a_job_that_is_killed_before_its_command_begins(self, farm: StoreFarm) -> None:
        """Nobody has run it, so no machine is at fault for the next one."""
        machine = farm.machine()
        machine.listing = lambda: [Listed(token, "running", 0, 0.0, None, None) for token in machine.held]
        killed, job_id = farm.add(shell="zsh"), farm.add(shell="zsh")
        farm.tick()
        machine.beat()
        machine.report(machine.token(killed), "killed", seconds=0.0, kill_reason="cancelled")
        refuse(machine, job_id, **NO_SHELL)
        assert farm.status(job_id) == "failed"
        assert farm.client(machine.id).refusals == 0

    def test_a_shell_that_runs_at_this_moment(self, farm: StoreFarm) -> None:
        good, bad = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        running, job_id = farm.add(shell="zsh"), farm.add(shell="zsh")
        farm.start(running, good)
        farm.start(job_id, bad)
        refuse(bad, job_id, **NO_SHELL)
        assert farm.client(bad.id).refused_until > 0

    def test_an_environment_is_the_jobs_fault_whatever_its_shell(self, farm: StoreFarm) -> None:
        machine = farm.machine("farm-a", 1)
        before = farm.add(shell="zsh")
        farm.start(before, machine)
        machine.end(before)
        job_id = farm.add(shell="zsh")
        refuse_everywhere(farm, job_id, **TOO_LONG)
        assert farm.status(job_id) == "failed"

    def test_it_rests_as_long_whatever_the_wall_clock_does(self, farm: StoreFarm) -> None:
        machine = farm.machine("farm-a", 1)
        farm.clock.jump(400 * DAY_S)  # its clock was wrong at boot
        job_id = farm.add()
        tick(farm)
        refuse(machine, job_id, message="the disk is full")
        farm.clock.jump(-400 * DAY_S)
        tick(farm, 5)
        assert farm.status(job_id) == "runnable"
        tick(farm, 6)
        assert farm.status(job_id) == "running"

    def test_a_start_caps_what_a_wrong_clock_has_stored(self, farm: StoreFarm) -> None:
        machine = farm.machine("farm-a", 1)
        farm.write(lambda session: _rest_until(session, machine.id, session.steady_ms + 2**40))
        restarted = StoreFarm(farm.store, farm.clock, farm.config, farm.reader)
        restarted.tick()
        assert farm.client(machine.id).refused_until == farm.clock.steady_ms() + LONGEST_REST_MS


def _rest_until(session: Any, client_id: int, moment: int) -> None:
    session.connection.execute(sa.update(client).where(client.c.id == client_id).values(refused_until=moment))


class TestFailsEverything:
    def rests(self, farm: StoreFarm, machine: Machine) -> bool:
        return bool(farm.client(machine.id).refused_until > farm.clock.steady_ms())

    def fail_anywhere(self, farm: StoreFarm, machine: Machine, count: int, seconds: float = 0.2) -> None:
        """Let jobs fail on a machine that others could run."""
        for _ in range(count):
            job_id = farm.add()
            farm.start(job_id, machine)
            machine.end(job_id, 1, seconds=seconds)

    def test_after_three_roots_it_rests_and_says_so(self, farm: StoreFarm) -> None:
        hole, _ = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        self.fail_anywhere(farm, hole, 2)
        assert not self.rests(farm, hole)
        self.fail_anywhere(farm, hole, 1)
        assert self.rests(farm, hole)
        assert farm.client(hole.id).rest_reason == "it fails everything"

    def test_again_and_longer_until_one_succeeds(self, farm: StoreFarm) -> None:
        hole, _ = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        self.fail_anywhere(farm, hole, 3)
        farm.clock.advance(11)
        self.fail_anywhere(farm, hole, 1)
        assert farm.client(hole.id).refused_until == farm.clock.steady_ms() + 20_000
        farm.clock.advance(21)
        job_id = farm.add()
        farm.start(job_id, hole)
        hole.end(job_id)
        self.fail_anywhere(farm, hole, 2)
        assert not self.rests(farm, hole)

    def test_frames_of_one_root_are_one(self, store: Store, clock: FakeClock) -> None:
        farm = StoreFarm(store, clock, settings(max_client_failures="0"))
        hole, _ = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        frames = farm.submit({"name": "Szene", "children": [{"name": "Bild", "command": "x"}] * 5})[1:]
        for frame in frames:
            farm.start(frame, hole)
            hole.end(frame, 1, seconds=0.1)
        assert not self.rests(farm, hole)

    def test_not_where_commands_take_their_time_to_fail(self, farm: StoreFarm) -> None:
        hole, _ = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        self.fail_anywhere(farm, hole, 5, seconds=1.5)
        assert not self.rests(farm, hole)

    @pytest.mark.parametrize("other", ["none", "lost", "resting", "unfit"])
    def test_not_where_no_other_could_replace_it(self, farm: StoreFarm, other: str) -> None:
        hole = farm.machine("farm-a", 1)
        if other != "none":
            second = farm.machine("farm-b", 1, platform="windows-x86_64" if other == "unfit" else "linux-x86_64")
            if other == "lost":
                second.vanish()
            elif other == "resting":
                farm.write(lambda session: _rest_until(session, second.id, session.steady_ms + 60_000))
        for _ in range(4):
            job_id = farm.add(command={"linux": "x"})
            farm.start(job_id, hole)
            hole.end(job_id, 1, seconds=0.1)
        assert not self.rests(farm, hole)
