"""What is assigned, and how it ends: SPEC 4.1 and 4.2 from the client's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.lifecycle import clients
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.runs import Placement, assign, describe, fraction
from hqueue.protocol import Report, Wish
from hqueue.states import ImpossibleTransitionError, JobEvent
from hqueue.store import DeleteLogs, WakeClient, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hqueue.store import Instruction
    from tests.storefarm import Machine, StoreFarm


@pytest.fixture
def machine(farm: StoreFarm) -> Machine:
    return farm.machine(cpus=8)


@pytest.fixture
def nudges(farm: StoreFarm) -> Iterator[list[Instruction]]:
    collected: list[Instruction] = []

    def collect(instructions: Sequence[Instruction]) -> None:
        collected.extend(instructions)

    farm.store.on_commit = collect
    return collected


def running(farm: StoreFarm, machine: Machine, **more: object) -> int:
    job_id = farm.add(**more)  # type: ignore[arg-type]
    farm.start(job_id, machine)
    return job_id


class TestAssign:
    def test_a_run_is_the_jobs_current_one(self, farm: StoreFarm, machine: Machine, nudges: list[Instruction]) -> None:
        job_id = running(farm, machine, cpus=2)
        run, row = farm.run(job_id), farm.job(job_id)
        assert (row.status, row.run_id, row.attempts, row.started_at) == ("running", run.id, 1, run.assigned_at)
        assert (run.attempt, run.closed_at, run.client_id, run.wish) == (1, None, machine.id, "run")
        assert WakeClient(machine.id) in nudges

    def test_only_what_is_still_runnable(self, farm: StoreFarm, machine: Machine) -> None:
        runnable, paused, going = farm.add(), farm.add(), running(farm, machine)
        farm.act(Action.PAUSE, paused)
        wanted = farm.job(runnable).requirement_id
        places = [Placement(job_id, machine.id, wanted, 1) for job_id in (paused, going, 99, runnable)]
        assert farm.write(lambda session: assign(session, places)) == 1
        assert farm.statuses(runnable, paused, going) == ["running", "paused", "running"]
        assert farm.write(lambda session: assign(session, places)) == 0

    def test_not_while_an_older_run_is_open(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.CANCEL, job_id)
        farm.act(Action.RESCHEDULE, job_id)
        place = Placement(job_id, machine.id, farm.job(job_id).requirement_id, 1)
        assert farm.write(lambda session: assign(session, [place])) == 0

    def test_tokens_are_not_to_be_guessed(self, farm: StoreFarm, machine: Machine) -> None:
        tokens = {farm.run(running(farm, machine)).token for _ in range(5)}
        assert len({token.split("-")[1] for token in tokens}) == 5
        assert all(len(token.split("-")[1]) == 16 for token in tokens)


@pytest.mark.databases("sqlite")
class TestEnds:
    def test_well(self, farm: StoreFarm, machine: Machine, nudges: list[Instruction]) -> None:
        job_id = running(farm, machine)
        farm.clock.advance(30)
        nudges.clear()
        machine.end(job_id, 0, seconds=25.5, peak_memory_kb=31_000, output_bytes=12, progress=(48, 48))
        run, row = farm.run(job_id), farm.job(job_id)
        assert (row.status, row.exit_code, row.progress, row.progress_numerator) == ("succeeded", 0, 1.0, 48)
        assert (run.outcome, run.exit_code, run.seconds, run.peak_memory_kb) == ("exited", 0, 25.5, 31_000)
        assert run.closed_at - run.assigned_at == 30_000
        assert WakeScheduler() in nudges

    def test_success_without_progress_lines_is_whole(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        machine.end(job_id)
        assert farm.job(job_id).progress == 1.0

    @pytest.mark.parametrize(
        ("reason", "expected", "rescues"),
        [
            ("cancelled", "cancelled", 0),
            ("terminated", "cancelled", 0),
            ("time", "cancelled", 0),
            ("ejected", "runnable", 0),
            ("unknown", "runnable", 1),
            ("", "runnable", 1),
        ],
    )
    @pytest.mark.parametrize("exit_code", [0, 1])
    def test_killed_whatever_its_exit_status(
        self, farm: StoreFarm, machine: Machine, reason: str, expected: str, rescues: int, exit_code: int
    ) -> None:
        job_id = running(farm, machine, triesLeft=1)
        machine.report(machine.token(job_id), "killed", exit_code=exit_code, kill_reason=reason)
        row = farm.job(job_id)
        assert (row.status, row.tries_left, row.rescues) == (expected, 1, rescues)

    def test_refused_uses_no_try_and_gives_the_client_a_pause(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine, triesLeft=1)
        machine.refuse(job_id)
        row = farm.job(job_id)
        assert (row.status, row.tries_left, row.rescues) == ("runnable", 1, 0)
        assert farm.log(job_id)[-1][2] == "refused: the disk is full, client farm-ü"
        assert farm.tick().assigned == 0

    def test_pauses_after_refusals_double_up_to_five_minutes(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = farm.add()
        pauses = []
        for _ in range(7):
            farm.start(job_id, machine)
            machine.refuse(job_id)
            row = farm.client(machine.id)
            pauses.append((row.refused_until - farm.run(job_id).closed_at) // 1000)
            farm.clock.advance(pauses[-1] + 1)
        assert pauses == [10, 20, 40, 80, 160, 300, 300]
        farm.clock.advance(301)  # well for longer than the longest pause
        farm.start(job_id, machine)
        machine.refuse(job_id)
        assert farm.client(machine.id).refusals == 1

    def test_a_lost_run_counts_as_a_rescue(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = farm.add(triesLeft=1)
        for rescues in (1, 2):
            farm.start(job_id, machine)
            machine.lose(job_id)
            assert (farm.status(job_id), farm.job(job_id).rescues) == ("runnable", rescues)
        farm.start(job_id, machine)
        machine.lose(job_id)
        assert (farm.status(job_id), farm.job(job_id).tries_left) == ("failed", 1)
        assert "lost 2 times" in farm.log(job_id)[-1][2]

    @pytest.mark.parametrize("outcome", ["exited", "killed", "refused", "lost"])
    def test_a_report_that_comes_twice_changes_nothing(self, farm: StoreFarm, machine: Machine, outcome: str) -> None:
        job_id = running(farm, machine, triesLeft=5)
        token = machine.token(job_id)
        machine.report(token, outcome, exit_code=1, kill_reason="ejected")
        before = (farm.job(job_id), farm.runs(job_id), farm.client(machine.id))
        machine.report(token, outcome, exit_code=0)
        assert (farm.job(job_id), farm.runs(job_id), farm.client(machine.id)) == before
        farm.clock.advance(400)
        farm.start(job_id, machine)  # and nothing of the next run
        machine.report(token, outcome, exit_code=0)
        assert farm.status(job_id) == "running"

    def test_two_reports_of_one_run_in_one_heartbeat(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        token = machine.token(job_id)
        reports = [Report(token, "exited", exit_code=0), Report(token, "exited", exit_code=1)]
        taken = farm.write(lambda session: clients.take_reports(session, machine.id, "x", reports))
        assert taken
        assert farm.status(job_id) == "succeeded"
        machine.held.clear()

    def test_a_stale_token_closes_its_own_run_and_changes_no_job(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        old = machine.token(job_id)
        farm.act(Action.CANCEL, job_id)
        farm.act(Action.RESCHEDULE, job_id)
        machine.report(old, "exited", exit_code=0)
        assert farm.status(job_id) == "runnable"
        assert farm.run(job_id).closed_at is not None

    def test_a_report_of_anothers_run_is_dropped(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        other = farm.machine("fremd")
        other.report(machine.token(job_id), "exited", exit_code=0)
        other.report("nie gehört", "exited", exit_code=0)
        assert farm.status(job_id) == "running"

    def test_the_run_of_a_deleted_job(self, farm: StoreFarm, machine: Machine, nudges: list[Instruction]) -> None:
        job_id = running(farm, machine)
        farm.act(Action.CANCEL, job_id)
        farm.act(Action.DELETE, job_id)
        nudges.clear()
        machine.beat()
        machine.obey()
        assert farm.run(job_id).closed_at is not None
        assert DeleteLogs(job_id) in nudges


@pytest.mark.databases("sqlite")
class TestConfirmations:
    def test_pause_and_resume(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        for action, between, after in (
            (Action.PAUSE, "pausing", "paused"),
            (Action.RESUME, "resuming", "running"),
        ):
            farm.act(action, job_id)
            assert farm.status(job_id) == between
            machine.beat()
            assert farm.status(job_id) == between
            machine.obey()
            assert farm.status(job_id) == after
        assert machine.beat().wishes == []

    def test_a_wish_is_repeated_until_it_is_confirmed(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.PAUSE, job_id)
        first, second = machine.beat().wishes, machine.beat().wishes
        assert first == second == [Wish(machine.token(job_id), "halt", 1, "paused")]
        machine.obey()
        assert machine.beat().wishes == []

    def test_a_confirmation_of_an_older_wish_is_ignored(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.PAUSE, job_id)
        machine.beat()
        farm.act(Action.RESUME, job_id)
        farm.act(Action.PAUSE, job_id)
        machine.obey()  # number 1, while 3 is wished
        assert farm.status(job_id) == "pausing"
        machine.obey()
        assert farm.status(job_id) == "paused"

    def test_the_end_comes_before_the_pause(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine, triesLeft=1)
        farm.act(Action.PAUSE, job_id)
        machine.end(job_id, 1)
        assert (farm.status(job_id), farm.job(job_id).run_id) == ("paused", None)
        farm.act(Action.RESUME, job_id)
        assert farm.status(job_id) == "runnable"

    def test_refused_while_a_pause_is_wished(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.PAUSE, job_id)
        machine.refuse(job_id)
        assert (farm.status(job_id), farm.job(job_id).run_id) == ("paused", None)

    @pytest.mark.parametrize("order", [(Action.PAUSE, Action.EJECT), (Action.EJECT, Action.PAUSE)])
    def test_eject_and_pause_end_paused(self, farm: StoreFarm, machine: Machine, order: tuple[Action, Action]) -> None:
        job_id = running(farm, machine, triesLeft=1)
        for action in order:
            farm.act(action, job_id)
        assert farm.status(job_id) == "ejecting"
        machine.beat()
        machine.obey()
        row = farm.job(job_id)
        assert (row.status, row.run_id, row.tries_left) == ("paused", None, 1)
        farm.act(Action.RESUME, job_id)
        assert farm.status(job_id) == "runnable"

    def test_one_that_is_halted_can_be_ejected_and_cancelled(self, farm: StoreFarm, machine: Machine) -> None:
        for action, expected in ((Action.EJECT, "paused"), (Action.CANCEL, "cancelled")):
            job_id = running(farm, machine)
            farm.act(Action.PAUSE, job_id)
            machine.beat()
            machine.obey()
            farm.act(action, job_id)
            machine.beat()
            machine.obey()
            assert farm.status(job_id) == expected
            assert farm.run(job_id).closed_at is not None

    def test_cancel_keeps_the_cpus_until_the_death_is_proved(self, farm: StoreFarm) -> None:
        machine = farm.machine("klein", cpus=1)
        job_id = running(farm, machine)
        waiting = farm.add()
        farm.act(Action.CANCEL, job_id)
        assert farm.status(job_id) == "cancelled"
        assert farm.tick().assigned == 0
        machine.beat()
        assert farm.tick().assigned == 0
        machine.obey()
        farm.clock.advance(1)
        assert farm.tick().assigned == 1
        assert farm.status(waiting) == "running"

    def test_ended_by_itself_while_it_was_to_be_ejected(self, farm: StoreFarm, machine: Machine) -> None:
        well, badly = running(farm, machine), running(farm, machine)
        farm.act(Action.EJECT, well, badly)
        machine.end(well)
        machine.end(badly, 1)
        assert farm.statuses(well, badly) == ["succeeded", "failed"]

    def test_a_lost_run_that_was_to_be_ejected_is_not_counted(self, farm: StoreFarm, machine: Machine) -> None:
        job_id = running(farm, machine)
        farm.act(Action.EJECT, job_id)
        machine.lose(job_id)
        assert (farm.status(job_id), farm.job(job_id).rescues) == ("runnable", 0)


class TestEndsThatCannotBeStored:
    """Each report is taken by itself where the set of them cannot be: on every database."""

    def test_one_holds_up_no_other(
        self, farm: StoreFarm, machine: Machine, nudges: list[Instruction], caplog: pytest.LogCaptureFixture
    ) -> None:
        bad, good, worse, failed = (running(farm, machine) for _ in range(4))
        farm.act(Action.PAUSE, bad)
        machine.beat()
        machine.obey()
        assert farm.status(bad) == "paused"
        nudges.clear()
        # A refusal after a confirmed halt is nothing that the table of statuses has.
        reports = [
            Report(machine.token(bad), "refused", message="nein"),
            Report(machine.token(good), "exited", exit_code=0),
            Report(machine.token(worse), "exited", exit_code=2**70),  # no client's word: those are bounded
            Report(machine.token(failed), "exited", exit_code=3221225477),
        ]
        assert farm.write(lambda session: clients.take_reports(session, machine.id, machine.label, reports))
        assert farm.statuses(bad, good, worse, failed) == ["paused", "succeeded", "runnable", "failed"]
        assert farm.job(failed).exit_code == farm.run(failed).exit_code == 3221225477
        assert farm.run(bad).message == "its client reported its end (refused), which the server could not store"
        told = "lost: its client reported its end (exited), which the server could not store, client farm-ü"
        assert farm.log(worse)[-1][2] == told
        assert [farm.run(each).outcome for each in (bad, good, worse)] == ["lost", "exited", "lost"]
        assert all(farm.run(each).closed_at is not None for each in (bad, good, worse, failed))
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
        assert "the end of run" in caplog.messages[0]
        assert WakeScheduler() in nudges
        for each in list(machine.held):
            del machine.held[each]
        machine.beat()  # nothing of it comes again

    def test_the_usual_ends_are_one_set(self, farm: StoreFarm, machine: Machine) -> None:
        def statements(count: int) -> int:
            jobs = [running(farm, machine) for _ in range(count)]
            reports = [Report(machine.token(each), "exited", exit_code=0) for each in jobs]
            seen: list[str] = []

            def note(*said: Any) -> None:
                seen.append(said[2])

            with farm.store.writing() as session:
                sa.event.listen(farm.store.engine, "before_cursor_execute", note)
                clients.take_reports(session, machine.id, machine.label, reports)
                sa.event.remove(farm.store.engine, "before_cursor_execute", note)
            machine.held.clear()
            return len(seen)

        assert statements(1) == statements(8)


def test_what_cannot_happen_is_a_bug_and_changes_nothing(farm: StoreFarm, machine: Machine) -> None:
    job_id = running(farm, machine)
    with pytest.raises(ImpossibleTransitionError, match=rf"job {job_id}: 'rescue' cannot happen"):
        farm.apply(JobEvent.RESCUE, job_id)
    assert farm.status(job_id) == "running"


def test_a_run_is_found_by_its_token(farm: StoreFarm, machine: Machine) -> None:
    job_id = running(farm, machine)
    token = machine.token(job_id)
    for wrong in (token.upper() + "x", f"\\%s'{token}", "ü", ""):
        farm.write(lambda session, wrong=wrong: clients.end_overtime(session, [wrong]))
    assert farm.run(job_id).wish == "run"
    farm.write(lambda session: clients.end_overtime(session, ["ü", token]))
    assert (farm.run(job_id).wish, farm.run(job_id).wish_reason) == ("die", "time")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (Report("t", "exited", exit_code=3), "exit 3"),
        (Report("t", "exited"), "exit 0"),
        (Report("t", "exited", exit_code=-9, signal=9), "signal 9"),
        (Report("t", "killed", kill_reason="time"), "killed: took longer than maxTime"),
        (Report("t", "killed", kill_reason="cancelled"), "killed: cancelled"),
        (Report("t", "refused", message="the disk is full"), "refused: the disk is full"),
        (Report("t", "lost"), "lost"),
    ],
)
def test_an_end_in_words(report: Report, words: str) -> None:
    assert describe(report) == words


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [(0, 0, 0.0), (1, 4, 0.25), (9, 3, 1.0), (-1, 3, 0.0), (5, 0, 0.0), (2, -4, 0.0)],
)
def test_progress_is_clamped(numerator: float, denominator: float, expected: float) -> None:
    assert fraction(numerator, denominator) == expected
