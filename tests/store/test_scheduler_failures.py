"""Clients on which jobs fail: tried last, blocked for a root, resting after a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.lifecycle import blocklist
from hqueue.lifecycle.bulk import Action
from hqueue.schema import client_failure, root_block
from hqueue.schema import note as notes
from hqueue.schema import note_thread as threads
from tests.store.scheduling import explained, started, tick
from tests.storefarm import StoreFarm, settings

if TYPE_CHECKING:
    from hqueue.store import Store
    from tests.fakes import FakeClock
    from tests.storefarm import Machine


def tree(farm: StoreFarm, count: int, **more: Any) -> tuple[int, list[int]]:
    """Return a root and its frames."""
    frame = {"name": "Bild", "command": "x", **more}
    root, *frames = farm.submit({"name": "Szene", "children": [frame] * count})
    return root, frames


def off(farm: StoreFarm, name: str = "farm-z") -> None:
    """Let there be a client that could run everything, but is off: blocks count while one is not blocked."""
    farm.machine(name, 8).vanish()


def fail(farm: StoreFarm, machine: Machine, times: int) -> list[int]:
    """Let so many jobs fail on a machine, the oldest first."""
    failed = []
    for _ in range(times):
        tick(farm)
        machine.beat()
        failed.append(min(machine.jobs))
        machine.end(failed[-1], 1)
    return failed


class TestTriedLast:
    @pytest.mark.parametrize("how", ["fail", "refuse", "lose"])
    def test_where_a_job_failed_it_goes_only_when_nothing_else_has_room(self, farm: StoreFarm, how: str) -> None:
        bad, good = farm.machine("farm-a", 2), farm.machine("farm-b", 8)
        job_id = farm.add(triesLeft=3)
        other = farm.add()
        farm.tick()
        bad.beat()
        assert bad.jobs == [job_id, other]  # the one it leaves least idle on
        {"fail": lambda: bad.end(job_id, 1), "refuse": lambda: bad.refuse(job_id), "lose": lambda: bad.lose(job_id)}[
            how
        ]()
        tick(farm)
        assert farm.run(job_id).client_id == good.id
        good.beat()
        good.end(job_id, 1)
        tick(farm, 12)
        if how != "refuse":  # that one rests for a while
            assert farm.run(job_id).client_id == bad.id  # it failed on both, and there it leaves least idle

    def test_a_rescued_job_too(self, farm: StoreFarm) -> None:
        bad, good = farm.machine("farm-a", 1), farm.machine("farm-b", 8)
        job_id = farm.add()
        farm.tick()
        bad.beat()
        bad.vanish()
        bad.reboot()
        tick(farm)
        assert farm.run(job_id).client_id == good.id

    def test_a_reschedule_forgets_it(self, farm: StoreFarm) -> None:
        bad, good = farm.machine("farm-a", 1), farm.machine("farm-b", 8)
        job_id = farm.add(triesLeft=1)
        fail(farm, bad, 1)
        tick(farm)
        good.beat()
        good.end(job_id, 1)
        farm.act(Action.RESCHEDULE, job_id)
        tick(farm)
        assert farm.run(job_id).client_id == bad.id


class TestBlocked:
    def test_frames_linked_by_stubs_are_of_one_root(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        names = [f"Bild {number}" for number in range(5)]
        frames = [{"name": name, "stubId": name, "command": "x"} for name in names]
        _, *ids = farm.submit([{"name": "Szene", "childStubIds": names}, *frames])
        assert fail(farm, bad, 3) == ids[:3]
        tick(farm)
        assert started(farm, *ids) == []

    def test_after_three_failures_of_a_root(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        root, frames = tree(farm, 6)
        other_root, (other,) = tree(farm, 1, priority=0)
        assert fail(farm, bad, 3) == frames[:3]
        tick(farm)
        assert started(farm, *frames) == []
        assert started(farm, other) == [other]  # it is blocked for that root only
        bad.beat()
        bad.end(other)
        tick(farm, 3)
        assert started(farm, *frames) == []
        found = explained(farm, frames[3])
        assert [each.reason for each in found.reasons] == ["lost", "blocked: too many jobs of this tree failed there"]
        assert found.summary == "waits for a client: 1 lost; 1 blocked after failures"
        assert (
            "note",
            "queued",
            "client farm-a is blocked for this job and those below it: they failed there 3 times",
        ) in farm.log(root)
        with farm.store.reading() as connection:
            (note,) = connection.execute(
                sa.select(notes.c.text).join(threads, threads.c.id == notes.c.thread_id).where(threads.c.job_id == root)
            ).scalars()
        assert note.startswith("client farm-a is blocked for this job")
        good = farm.machine("farm-b", 1)
        tick(farm)
        assert farm.run(frames[3]).client_id == good.id
        assert other_root

    def test_failures_that_block_nothing_cost_no_tick(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 3)
        first, second, third = farm.submit([{"name": "x", "command": "x", "triesLeft": 1, "priority": 1}] * 3)
        farm.tick()
        bad.beat()
        later = farm.add()
        for each in (first, second, third):
            bad.end(each, 1)
        assert farm.tick().assigned == 3
        assert started(farm, first, second, third, later) == [first, second, third]

    def test_tries_count_as_failures(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        job_id = farm.add(triesLeft=5)
        fail(farm, bad, 3)
        tick(farm, 3)
        assert farm.status(job_id) == "runnable"
        assert explained(farm, job_id).free == 0

    def test_frames_that_come_later(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        root, _ = tree(farm, 4)
        fail(farm, bad, 3)
        tick(farm)
        late = farm.submit({"name": "spät", "command": "x"}, root)[0]
        tick(farm, 2)
        assert farm.status(late) == "runnable"

    def test_a_reschedule_forgets_the_jobs_own_failures(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 5)
        fail(farm, bad, 3)
        tick(farm)
        assert started(farm, *frames) == []
        farm.act(Action.RESCHEDULE, frames[1])
        tick(farm)
        assert started(farm, *frames) == [frames[1]]

    def test_one_that_was_settled_meanwhile(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 5)
        farm.tick()
        bad.beat()
        bad.end(frames[0])
        fail(farm, bad, 3)
        tick(farm)
        farm.act(Action.RESCHEDULE, frames[0])  # it succeeded before the client was blocked
        tick(farm, 2)
        assert farm.status(frames[0]) == "runnable"

    @pytest.mark.parametrize(("limit", "runs"), [("0", 8), ("1", 1), ("5", 5)])
    def test_as_often_as_configured(self, store: Store, clock: FakeClock, limit: str, runs: int) -> None:
        farm = StoreFarm(store, clock, settings(max_client_failures=limit))
        off(farm)
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 8)
        fail(farm, bad, runs)
        tick(farm, 2)
        assert [farm.status(each) for each in frames].count("failed") == runs
        assert started(farm, *frames) == []

    def test_another_limit_holds_from_the_next_start_on(self, store: Store, clock: FakeClock) -> None:
        farm = StoreFarm(store, clock)
        off(farm)
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 8)
        fail(farm, bad, 3)
        tick(farm)
        assert started(farm, *frames) == []
        farm = StoreFarm(store, clock, settings(max_client_failures="4"), farm.reader)
        tick(farm)
        assert started(farm, *frames) == [frames[3]]

    def test_one_that_a_new_child_reopens(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        frames = [{"name": "Bild", "command": "x"}] * 4
        root, scene, *_ = farm.submit(
            {"name": "Szene", "children": [{"name": "Akt", "command": "x", "priority": 9}, *frames]}
        )
        farm.tick()
        bad.beat()
        bad.end(scene, 1)  # settled before the client is blocked
        fail(farm, bad, 2)
        tick(farm)
        good = farm.machine("farm-b", 1)
        child = farm.submit({"name": "spät", "command": "x", "priority": 9}, scene)[0]
        tick(farm)
        good.beat()
        good.end(child)
        good.vanish()
        tick(farm, 2)
        assert farm.status(scene) == "runnable"  # the client that is left is blocked for it
        assert explained(farm, scene).free == 0
        assert root

    def test_one_whose_root_is_deleted(self, farm: StoreFarm) -> None:
        """Its own failures go with it to the new root; those of the others are forgotten."""
        off(farm)
        bad = farm.machine("farm-a", 1)
        first, shared, *_ = farm.submit(
            {
                "name": "Erste",
                "children": [
                    {"name": "beide", "command": "x", "triesLeft": 9},
                    *[{"name": "k", "command": "x", "priority": 9}] * 3,
                ],
            }
        )
        farm.add("Zweite", children=[shared], command=None)
        fail(farm, bad, 3)
        tick(farm, 2)
        assert farm.status(shared) == "runnable"  # blocked
        farm.act(Action.CANCEL, first)
        farm.act(Action.DELETE, first)
        tick(farm, 2)
        assert farm.status(shared) == "running"
        bad.beat()
        bad.end(shared, 1)
        fail(farm, bad, 2)
        tick(farm, 3)
        assert farm.status(shared) == "runnable"
        assert explained(farm, shared).free == 0

    def test_thousands_move_in_small_steps_and_hide_nobody(
        self, sqlite_farm: StoreFarm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blocklist, "STEP", 20)
        farm = sqlite_farm
        off(farm)
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 200)
        behind = farm.add()
        fail(farm, bad, 3)
        farm.tick()  # the root's jobs are on the move; this one is behind them in order, and is not theirs
        assert started(farm, *frames) == []
        assert farm.status(behind) == "running"
        with farm.store.reading() as connection:
            assert blocklist.is_pending(connection)
        good = farm.machine("farm-b", 4)
        steps = 0
        while not started(farm, *frames):
            farm.tick()
            steps += 1
            assert steps < 15
        assert {farm.run(each).client_id for each in started(farm, *frames)} == {good.id}

    def test_a_failure_between_the_snapshot_and_the_assignment(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        off(farm)
        bad = farm.machine("farm-a", 2)
        _, frames = tree(farm, 6)
        tick(farm)
        bad.beat()
        original = farm.scheduler._still_there

        def fail_first(session: Any, placements: Any) -> Any:
            for _ in range(3):
                blocklist.count_failure(session, frames[0], bad.id)
            return original(session, placements)

        bad.end(frames[0])
        farm.scheduler._still_there = fail_first  # type: ignore[method-assign]
        assert farm.tick().assigned == 0
        farm.scheduler._still_there = original  # type: ignore[method-assign]
        tick(farm)
        assert started(farm, *frames) == [frames[1]]


class TestRefusals:
    def test_the_pauses_grow(self, farm: StoreFarm) -> None:
        """A client that refuses everything gets a job after 10 s, 20 s, … at most 300 s: it does not spin a tick."""
        machine = farm.machine("farm-a", 1)
        job_id = farm.add()
        pauses, last = [], farm.clock.monotonic()
        while len(pauses) < 7:
            tick(farm)
            if machine.beat().assignments:
                pauses.append(round(farm.clock.monotonic() - last))
                last = farm.clock.monotonic()
                machine.refuse(job_id)
        assert pauses[1:] == [10, 20, 40, 80, 160, 300]
        assert "resting after a refusal" in explained(farm, job_id).summary

    def test_what_is_refused_together_counts_once(self, farm: StoreFarm) -> None:
        machine = farm.machine("farm-a", 4)
        ids = farm.submit([{"name": "x", "command": "x"}] * 4)
        farm.tick()
        machine.beat()
        for job_id in ids:
            machine.refuse(job_id)
        assert farm.client(machine.id).refusals == 1
        tick(farm, 11)
        assert len(started(farm, *ids)) == 4

    def test_others_get_its_jobs_meanwhile(self, farm: StoreFarm) -> None:
        bad, good = farm.machine("farm-a", 1), farm.machine("farm-b", 4)
        job_id, other = farm.add(), farm.add()
        farm.tick()
        bad.beat()
        good.beat()
        bad.refuse(job_id)
        tick(farm)
        assert farm.run(job_id).client_id == farm.run(other).client_id == good.id


class TestNoLimbo:
    def test_a_job_that_always_fails_on_the_only_client_ends(self, farm: StoreFarm) -> None:
        bad = farm.machine("farm-a", 1)
        job_id = farm.add(triesLeft=8)
        assert fail(farm, bad, 9) == [job_id] * 9
        assert farm.status(job_id) == "failed"

    def test_bad_frames_do_not_end_the_others(self, farm: StoreFarm) -> None:
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 6)
        fail(farm, bad, 3)
        for frame in frames[3:]:
            tick(farm, 3)
            bad.beat()
            bad.end(frame)
        assert farm.statuses(*frames) == ["failed"] * 3 + ["succeeded"] * 3

    def test_where_they_failed_least_comes_first(self, farm: StoreFarm) -> None:
        often, seldom = farm.machine("farm-a", 1), farm.machine("farm-b", 2)
        root, frames = tree(farm, 20)
        for machine, times in ((often, 6), (seldom, 3)):
            for frame in [each for each in frames if farm.status(each) == "runnable"][:times]:
                farm.start(frame, machine)
                machine.end(frame, 1)
        farm.tick()
        tick(farm, 2)
        runs = [farm.run(each) for each in started(farm, *frames)]
        assert [row.client_id for row in runs] == [seldom.id, seldom.id, often.id]
        assert root

    def test_a_client_that_joins_makes_blocks_count_again(self, farm: StoreFarm) -> None:
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 6)
        fail(farm, bad, 3)
        good = farm.machine("farm-b", 1)
        tick(farm, 3)
        assert [farm.run(each).client_id for each in started(farm, *frames)] == [good.id]


class TestForgiven:
    def test_after_a_day_without_failures(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 6)
        fail(farm, bad, 3)
        tick(farm, 2)
        farm.clock.jump(-90 * 86_400)
        farm.clock.advance(86_000)
        tick(farm, 2)
        assert started(farm, *frames) == []
        farm.clock.advance(500)
        tick(farm, 3)
        assert started(farm, *frames) == [frames[3]]
        bad.beat()
        bad.end(frames[3], 1)  # counted from the beginning
        tick(farm, 2)
        assert started(farm, *frames) == [frames[4]]

    def test_as_long_as_configured(self, store: Store, clock: FakeClock) -> None:
        farm = StoreFarm(store, clock, settings(forgive_failures_hours="0.5"))
        off(farm)
        bad = farm.machine("farm-a", 1)
        _, frames = tree(farm, 4)
        fail(farm, bad, 3)
        farm.clock.advance(1700)
        tick(farm, 2)
        assert started(farm, *frames) == []
        farm.clock.advance(200)
        tick(farm, 3)
        assert started(farm, *frames) == [frames[3]]


class TestManyFailedRoots:
    """A root with failures that block nobody leaves no row, and a start looks at none of them."""

    def test_they_leave_no_row(self, farm: StoreFarm) -> None:
        bad = farm.machine("farm-a", 1)
        for _ in range(3):
            farm.add()
        fail(farm, bad, 3)
        tick(farm)
        assert rows(farm) == []

    def test_a_block_that_is_cleared_leaves_none(self, farm: StoreFarm) -> None:
        off(farm)
        bad = farm.machine("farm-a", 1)
        root, frames = tree(farm, 5)
        fail(farm, bad, 3)
        tick(farm)
        assert [row.root_id for row in rows(farm)] == [root]
        farm.write(lambda session: blocklist.clear(session, [frames[4]]))
        tick(farm, 2)
        assert rows(farm) == []
        assert started(farm, *frames) == [frames[3]]

    def test_a_start_with_very_many(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        old = farm.submit([{"name": "alt"}] * 40_000)
        values = [{"root_id": each, "blocked_json": "[]", "pending": False, "recount": False} for each in old]
        farm.write(lambda session: session.connection.execute(sa.insert(root_block), values))
        bad = farm.machine("farm-a", 2)
        failures = [{"job_id": each, "client_id": bad.id, "root_id": each, "failures": 1} for each in old]
        farm.write(lambda session: session.connection.execute(sa.insert(client_failure), failures))
        late, fresh = farm.submit({"name": "spät", "command": "x"}, old[-1])[0], farm.add()
        restarted = StoreFarm(farm.store, farm.clock, farm.config, farm.reader)
        assert restarted.tick().assigned == 2
        assert farm.statuses(late, fresh) == ["running", "running"]
        assert rows(farm) == []

    def test_very_many_that_are_pending_hold_up_no_tick(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        farm.machine("farm-a", 2)
        old = farm.submit([{"name": "alt"}] * 40_000)
        fresh = farm.add()
        values = [{"root_id": each, "blocked_json": "[]", "pending": True, "recount": True} for each in old]
        farm.write(lambda session: session.connection.execute(sa.insert(root_block), values))
        assert farm.tick().assigned == 1
        assert farm.status(fresh) == "running"


def rows(farm: StoreFarm) -> list[Any]:
    """Return what is stored of roots with blocked clients."""
    with farm.store.reading() as connection:
        return list(connection.execute(sa.select(root_block)))
