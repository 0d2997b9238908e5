"""A tick: lost clients, rescues, assignments."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue import scheduler
from hqueue.lifecycle import clients
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.runs import Placement, assign, lose_client
from hqueue.schema import client, client_group, client_group_member, job, resource
from tests.storefarm import StoreFarm, settings

if TYPE_CHECKING:
    from hqueue.store import Session, Store
    from tests.fakes import FakeClock
    from tests.storefarm import Machine


def leaf(name: str = "Blatt", **more: Any) -> dict[str, Any]:
    return {"name": name, "command": "x", **more}


def tick(farm: StoreFarm, seconds: float = 1) -> None:
    """Let time pass as a server does that ticks every second, its clients silent."""
    for _ in range(round(seconds)):
        farm.clock.advance(1)
        farm.tick()


def started(farm: StoreFarm, *job_ids: int) -> list[int]:
    """Return the running ones, in the order in which they were assigned."""
    running = [job_id for job_id in job_ids if farm.status(job_id) == "running"]
    return sorted(running, key=lambda job_id: int(farm.run(job_id).id))


def where(farm: StoreFarm, job_id: int) -> int:
    return int(farm.run(job_id).client_id)


class TestOrder:
    def test_priority_then_root_then_id(self, farm: StoreFarm) -> None:
        low, old, new = farm.submit([leaf("niedrig"), leaf("alt", priority=1), leaf("neu", priority=1)])
        late_frame = farm.submit(leaf("Bild", priority=1), old)[0]  # late frames go before a newer submission
        high = farm.add("hoch", priority=9)
        farm.act(Action.PAUSE, old)
        farm.act(Action.RESUME, late_frame)
        farm.machine(cpus=4)
        farm.tick()
        assert started(farm, low, new, late_frame, high) == [high, late_frame, new, low]

    def test_only_as_many_as_there_is_room_for(self, farm: StoreFarm) -> None:
        ids = farm.submit([leaf(priority=number % 3) for number in range(9)])
        farm.machine(cpus=4)
        assert farm.tick().assigned == 4
        assert started(farm, *ids) == [ids[2], ids[5], ids[8], ids[1]]
        assert farm.tick().assigned == 0

    def test_the_order_holds_across_requirements(self, farm: StoreFarm) -> None:
        ids = farm.submit([leaf("1"), leaf("2", cpus=2), leaf("3", cpus=64, priority=9), leaf("4")])
        farm.machine(cpus=3)
        farm.tick()
        assert started(farm, *ids) == [ids[0], ids[1]]

    def test_what_waits_for_children_waits(self, farm: StoreFarm) -> None:
        machine = farm.machine(cpus=8)
        parent, child = farm.submit(leaf(children=[leaf()]))
        assert farm.tick().assigned == 1
        machine.beat()
        machine.end(child)
        assert farm.tick().assigned == 1
        assert farm.status(parent) == "running"


class TestWhere:
    def test_conditions(self, farm: StoreFarm) -> None:
        linux, mac = farm.machine("renderlinux"), farm.machine("Werkstatt", platform="macos-arm64")
        named = farm.machine("renderlinux", name="gpu")

        def group(session: Session) -> None:
            session.connection.execute(sa.insert(client_group).values(id=5, name="Licht, 照明"))
            session.connection.execute(sa.insert(client_group_member).values(group_id=5, client_id=mac.id))

        farm.write(group)
        by_os = farm.add(command={"macosx": "ls"})
        by_group = farm.add(hostgroup="Licht, 照明")
        by_name = farm.add(host="renderlinux:gpu")
        by_host = farm.add(host="RENDERLINUX.studio.lan")
        nowhere = farm.add(host="anderswo")
        both = farm.add(conditions=[{"type": "client", "name": "os", "op": "!=", "value": "linux"}], host="renderlinux")
        farm.tick()
        assert [where(farm, job_id) for job_id in (by_os, by_group, by_name)] == [mac.id, mac.id, named.id]
        assert where(farm, by_host) in {linux.id, named.id}
        assert farm.statuses(nowhere, both) == ["runnable", "runnable"]

    @pytest.mark.parametrize(
        "values",
        [
            {"lost": True},
            {"disabled": True},
            {"terminating": True},
            {"forgotten": True},
            {"condemned": "ein Prozess stirbt nicht"},
            {"refused_until": 2**50},
        ],
    )
    def test_who_takes_no_work(self, farm: StoreFarm, values: dict[str, Any]) -> None:
        machine, job_id = farm.machine(), farm.add()

        def change(session: Session, **new: Any) -> None:
            session.connection.execute(sa.update(client).where(client.c.id == machine.id).values(**new))

        before = {name: getattr(farm.client(machine.id), name) for name in values}
        farm.write(lambda session: change(session, **values))
        assert farm.tick().assigned == 0
        farm.write(lambda session: change(session, **before))
        assert farm.tick().assigned == 1
        assert farm.status(job_id) == "running"

    def test_single(self, farm: StoreFarm) -> None:
        slow, fast = farm.machine("langsam", speed=2000), farm.machine("schnell", speed=4000)
        alone, other = farm.add(tags="single"), farm.add()
        farm.tick()
        assert (where(farm, alone), where(farm, other)) == (fast.id, slow.id)
        second = farm.add(tags="single")
        assert farm.tick().assigned == 0
        slow.beat()
        slow.end(other)
        assert farm.tick().assigned == 1
        assert where(farm, second) == slow.id

    def test_a_single_tag_with_a_name_counts_over_ticks(self, farm: StoreFarm) -> None:
        machine = farm.machine(cpus=8)
        ids = farm.submit([leaf(tags="single:x"), leaf(tags=["single:x", "nacht"]), leaf(tags="single:y")])
        assert farm.tick().assigned == 2
        assert farm.tick().assigned == 0
        machine.beat()
        machine.end(ids[0])
        assert farm.tick().assigned == 1

    def test_resources(self, farm: StoreFarm) -> None:
        farm.machine(cpus=8)
        unlimited = farm.add(resources={"sidefx.license.render": 2})
        unknown = farm.add(resources={"niemand": 1})
        assert farm.tick().assigned == 1
        assert farm.statuses(unlimited, unknown) == ["running", "runnable"]
        farm.write(lambda session: session.connection.execute(sa.update(resource).values(maximum=1)))
        limited = farm.add(resources={"sidefx.license.render": 1})
        assert farm.tick().assigned == 0
        assert farm.status(limited) == "runnable"

    def test_a_client_with_fewer_cpus_than_it_has_runs_on_stands_in_nobodys_way(self, farm: StoreFarm) -> None:
        """Four CPUs too few there, and two free ones here."""
        shrunk = farm.machine("geschrumpft", cpus=4)
        ids = farm.submit([leaf() for _ in range(4)])
        farm.tick()
        shrunk.beat()
        shrunk.cpus = 1
        shrunk.register()
        farm.machine("neu", cpus=2)
        farm.submit([leaf(), leaf()])
        farm.clock.advance(1)
        assert farm.tick().assigned == 2
        for job_id in ids:
            shrunk.end(job_id)

    def test_clients_may_change_between_the_snapshot_and_the_assignment(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        machine = farm.machine()
        job_id = farm.add()
        original = farm.scheduler._still_there

        def disable_first(session: Session, placements: Any) -> Any:
            session.connection.execute(sa.update(client).values(disabled=True))
            return original(session, placements)

        farm.scheduler._still_there = disable_first  # type: ignore[method-assign]
        assert farm.tick().assigned == 0
        assert farm.status(job_id) == "runnable"
        assert machine.jobs == []

    def test_a_wish_may_come_between_the_snapshot_and_the_assignment(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        farm.machine()
        parent, child = farm.submit(leaf(children=[leaf()]))
        original = farm.scheduler._farm.read

        def pause_meanwhile(connection: sa.Connection) -> Any:
            farm.act(Action.PAUSE, parent, finish=False)
            return original(connection)

        farm.scheduler._farm.read = pause_meanwhile  # type: ignore[method-assign]
        assert farm.tick().assigned == 0
        assert farm.status(child) == "runnable"
        farm.finish_bulk()
        assert farm.status(child) == "paused"

    def test_what_a_wish_keeps_from_running_holds_up_nobody_behind_it(self, farm: StoreFarm) -> None:
        machine = farm.machine(cpus=2)
        root, *frames = farm.submit(leaf(children=[leaf(priority=9)] * 50))
        behind = farm.submit([leaf(), leaf(), leaf()])
        farm.act(Action.CANCEL, root, finish=False)
        assert farm.tick().assigned == 2
        assert started(farm, *behind) == behind[:2]
        assert started(farm, *frames) == []
        machine.beat()
        farm.finish_bulk()


@pytest.mark.databases("sqlite")
class TestLost:
    def test_after_the_timeout(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add()
        farm.start(job_id, machine)
        tick(farm, 120)
        assert farm.status(job_id) == "running"
        tick(farm, 2)
        assert farm.status(job_id) == "abandoned"
        assert farm.client(machine.id).lost
        assert machine.id not in farm.live_farm.clients
        assert "client farm-ü was lost" in farm.log(job_id)[-1][2]

    def test_a_heartbeat_is_enough(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        for _ in range(3):
            tick(farm, 100)
            machine.beat()
        assert not farm.client(machine.id).lost

    def test_a_stall_of_the_server_loses_nobody(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        tick(farm, 110)
        farm.clock.advance(600)
        farm.tick()
        tick(farm, 119)
        assert not farm.client(machine.id).lost
        tick(farm, 3)
        assert farm.client(machine.id).lost

    def test_one_that_never_reports_after_a_start(self, farm: StoreFarm, store: Store, clock: FakeClock) -> None:
        machine = farm.machine()
        again = StoreFarm(store, clock)
        again.live_farm.watch([machine.id])
        tick(again, 119)
        assert not again.client(machine.id).lost
        tick(again, 3)
        assert again.client(machine.id).lost

    def test_its_jobs_are_not_given_to_others_at_once(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add()
        farm.start(job_id, machine)
        farm.machine("andere")
        machine.vanish()
        tick(farm, 60)
        assert farm.status(job_id) == "abandoned"


@pytest.mark.databases("sqlite")
class TestRescue:
    def lost_job(self, farm: StoreFarm, hostname: str = "farm-ü") -> tuple[int, Machine]:
        machine = farm.machine(hostname)
        job_id = farm.add(triesLeft=1)
        farm.start(job_id, machine)
        machine.vanish()
        return job_id, machine

    def test_after_a_quarter_of_an_hour(self, farm: StoreFarm) -> None:
        job_id, _ = self.lost_job(farm)
        assert farm.later(14.9) == 0
        assert farm.later(0.2) == 1
        row, run = farm.job(job_id), farm.run(job_id)
        assert (row.status, row.rescues, row.tries_left) == ("runnable", 1, 1)
        assert (run.outcome, run.fenced, run.wish) == ("lost", True, "die")
        assert farm.log(job_id)[-1][2] == "its client did not come back"

    def test_two_times_then_it_has_failed(self, farm: StoreFarm) -> None:
        job_id, machine = self.lost_job(farm)
        for rescues in (1, 2):
            assert farm.later(16) == 1
            assert (farm.status(job_id), farm.job(job_id).rescues) == ("runnable", rescues)
            machine.reboot()
            farm.start(job_id, machine)
            machine.vanish()
        assert farm.later(16) == 1
        assert farm.status(job_id) == "failed"
        assert "lost 2 times" in farm.log(job_id)[-1][2]
        farm.act(Action.RESCHEDULE, job_id)
        assert farm.job(job_id).rescues == 0

    def test_a_pause_holds(self, farm: StoreFarm) -> None:
        job_id, _ = self.lost_job(farm)
        farm.act(Action.PAUSE, job_id)
        farm.later(16)
        assert (farm.status(job_id), farm.job(job_id).run_id) == ("paused", None)

    def test_never_when_it_is_switched_off(self, store: Store, clock: FakeClock) -> None:
        farm = StoreFarm(store, clock, settings(rescue_abandoned_minutes="0"))
        job_id, _ = self.lost_job(farm)
        assert farm.later(100) == 0
        assert farm.status(job_id) == "abandoned"

    def test_as_often_as_configured(self, store: Store, clock: FakeClock) -> None:
        farm = StoreFarm(store, clock, settings(max_rescues="0", rescue_abandoned_minutes="1"))
        job_id, _ = self.lost_job(farm)
        assert farm.later(1.1) == 1
        assert farm.status(job_id) == "failed"

    def test_one_who_came_back_just_now_is_left_alone(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        job_id, machine = self.lost_job(farm)
        original = farm.scheduler._abandoned.due

        def come_back_first(*arguments: Any, late: bool) -> list[int]:
            found = original(*arguments, late=late)
            if found:
                machine.come_back()
            return found

        farm.scheduler._abandoned.due = come_back_first  # type: ignore[method-assign]
        farm.later(16)
        assert farm.status(job_id) == "running"
        assert farm.job(job_id).rescues == 0

    def test_the_old_client_is_told_to_kill(self, farm: StoreFarm) -> None:
        job_id, machine = self.lost_job(farm)
        farm.later(16)
        other = farm.machine("andere")
        farm.start(job_id, other)
        machine.come_back()
        machine.obey()
        assert farm.status(job_id) == "running"
        assert [run.fenced for run in farm.runs(job_id)] == [False, False]

    def test_one_bad_job_holds_up_no_other(self, sqlite_farm: StoreFarm, caplog: pytest.LogCaptureFixture) -> None:
        farm = sqlite_farm
        (bad, _), (good, _) = self.lost_job(farm, "farm01"), self.lost_job(farm, "farm02")
        trigger = (
            f"CREATE TRIGGER bad_one BEFORE UPDATE OF status ON job WHEN NEW.id = {bad} "
            "BEGIN SELECT RAISE(ABORT, 'broken'); END"
        )
        farm.write(lambda session: session.connection.exec_driver_sql(trigger))
        assert farm.later(16) == 1
        assert farm.statuses(bad, good) == ["abandoned", "runnable"]
        assert "an item of the tick failed" in caplog.text
        farm.write(lambda session: session.connection.exec_driver_sql("DROP TRIGGER bad_one"))
        farm.clock.advance(1)
        assert farm.tick().rescued == 1

    @pytest.mark.parametrize("days", [-400, 400])
    def test_whatever_the_wall_clock_does(self, farm: StoreFarm, days: int) -> None:
        job_id, _ = self.lost_job(farm)
        farm.tick()
        farm.clock.jump(days * 86_400)
        assert farm.later(14.9) == 0
        assert farm.later(0.2) == 1
        assert farm.status(job_id) == "runnable"

    def test_a_full_period_again_after_a_start_and_after_a_stall(self, farm: StoreFarm) -> None:
        """Nobody could come back while the server did not listen."""
        self.lost_job(farm)
        farm.later(14)
        farm.clock.advance(3600)
        assert farm.later(14) == 0
        restarted = StoreFarm(farm.store, farm.clock, farm.config, farm.reader)
        assert restarted.later(14) == 0
        assert restarted.later(2) == 1


class TestLateHeartbeats:
    """A heartbeat that waits for the write lock while its client is declared lost (lost races)."""

    def test_it_takes_no_job_back(self, farm: StoreFarm) -> None:
        a, _ = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        job_id = farm.add("frame")
        farm.start(job_id, a)
        live = farm.live_farm.clients[a.id]
        farm.write(lambda session: lose_client(session, a.id, a.label))
        assert not farm.write(lambda session: clients.take_listing(session, a.id, a.label, a.listing()))
        farm.live_farm.leave(a.id, live)
        assert farm.status(job_id) == "abandoned"
        assert farm.later(16) == 1

    def test_one_that_was_heard_while_the_tick_waited_is_not_lost(self, farm: StoreFarm) -> None:
        a = farm.machine("farm-a", 1)
        job_id = farm.add("frame")
        farm.start(job_id, a)
        live = farm.live_farm.clients[a.id]
        farm.tick()
        found = farm.live_farm.overdue

        def heard_just_after(timeout_s: float) -> Any:
            overdue = found(timeout_s)
            live.seen_at_s = farm.clock.monotonic()
            return overdue

        farm.live_farm.overdue = heard_just_after  # type: ignore[method-assign]
        live.seen_at_s -= 3600
        farm.clock.advance(2)
        assert farm.tick().lost == 0
        assert (farm.status(job_id), farm.live_farm.clients[a.id]) == ("running", live)

    def test_one_that_has_registered_again_stays(self, farm: StoreFarm) -> None:
        a = farm.machine("farm-a", 1)
        before = farm.live_farm.clients[a.id]
        a.come_back()
        farm.live_farm.leave(a.id, before)
        assert farm.live_farm.clients[a.id] is not before

    def test_what_a_terminating_client_was_given_goes_back(self, farm: StoreFarm) -> None:
        """It is assigned while the client says that it ends and holds nothing."""
        a, b = farm.machine("farm-a", 1), farm.machine("farm-b", 1)
        job_id = farm.add("frame", triesLeft=1)
        place = Placement(job_id, a.id, farm.job(job_id).requirement_id, 1)
        farm.write(lambda session: assign(session, [place]))
        farm.write(lambda session: clients.forget(session, a.id))
        row = farm.job(job_id)
        assert (row.status, row.tries_left, row.rescues) == ("runnable", 1, 0)
        farm.tick()
        assert farm.run(job_id).client_id == b.id


class TestCost:
    def test_a_tick_does_not_know_the_length_of_the_queue(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        farm.machine("farm01", cpus=4)
        farm.machine("farm02", cpus=4)
        specs = [leaf(cpus=1 + number % 3, priority=number % 5) for number in range(10_000)]
        farm.submit({"name": "viele", "children": specs})
        rows = 0

        def count(*arguments: Any) -> None:
            nonlocal rows
            rows += 1

        sa.event.listen(farm.store.engine, "before_cursor_execute", count)
        assert farm.tick().assigned >= 4
        sa.event.remove(farm.store.engine, "before_cursor_execute", count)
        assert rows < 60
        with farm.store.reading() as connection:
            running = connection.execute(sa.select(job.c.priority).where(job.c.status == "running")).scalars().all()
        assert set(running) == {4}

    def test_the_requirements_are_found_by_steps_of_the_index(self, sqlite_farm: StoreFarm) -> None:
        text = str(scheduler._HEADS.compile(compile_kwargs={"literal_binds": True}))
        with sqlite_farm.store.reading() as connection:
            plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
        assert "ix_job_schedule (status=? AND requirement_id>?)" in plan
        assert "SCAN following" not in plan

    def test_requirements_with_and_without_runnable_jobs(self, farm: StoreFarm) -> None:
        farm.submit([leaf(cpus=cpus) for cpus in range(1, 30)])
        farm.act(Action.PAUSE, *range(1, 20))
        farm.machine(cpus=1000)
        assert farm.tick().assigned == 10


class TestWaiting:
    def test_who_waits_for_a_tick_is_told_when_it_is_done(self, farm: StoreFarm) -> None:
        farm.machine()
        job_id = farm.add()
        told: list[str] = []
        done: Future[None] = Future()
        done.add_done_callback(lambda _: told.append(farm.status(job_id)))
        farm.scheduler.await_tick(done)
        farm.tick()
        assert told == ["running"]
        farm.tick()  # once

    def test_also_when_it_fails(self, sqlite_farm: StoreFarm) -> None:
        done: Future[None] = Future()
        sqlite_farm.scheduler.await_tick(done)

        def broken(*_: object) -> None:
            raise RuntimeError("broken")

        sqlite_farm.scheduler._assign = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(RuntimeError, match="broken"):
            sqlite_farm.tick()
        assert done.done()
