"""Actions on jobs and their relatives: SPEC 4.3, step by step, also with a crash between any two steps."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.errors import JobStateError
from hqueue.lifecycle import bulk
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.turns import below_unfinished
from hqueue.schema import event, job
from hqueue.states import JobEvent
from hqueue.store import DeleteLogs, RunBulk, Store, WakeClient
from tests.invariants import check_invariants
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hqueue.store import Instruction
    from tests.fakes import FakeClock
    from tests.storefarm import Machine


def leaf(name: str = "Blatt", **more: Any) -> dict[str, Any]:
    return {"name": name, "command": "x", **more}


def tree(farm: StoreFarm) -> list[int]:
    """Return the ids of a top, two in the middle, and a leaf below each."""
    top, left, left_leaf, right, right_leaf = farm.submit(
        leaf("oben", children=[leaf("links", children=[leaf()]), leaf("rechts", children=[leaf()])])
    )
    return [top, left, right, left_leaf, right_leaf]


def fail(farm: StoreFarm, machine: Machine, *job_ids: int) -> None:
    for job_id in job_ids:
        farm.start(job_id, machine)
        machine.end(job_id, 1)


@pytest.fixture
def nudges(farm: StoreFarm) -> Iterator[list[Instruction]]:
    """Collect what was asked for after commits."""
    collected: list[Instruction] = []

    def collect(instructions: Sequence[Instruction]) -> None:
        collected.extend(instructions)

    farm.store.on_commit = collect
    return collected


@pytest.mark.databases("sqlite")
class TestDescendants:
    @pytest.mark.parametrize(
        ("action", "expected"),
        [(Action.CANCEL, "cancelled"), (Action.PAUSE, "paused")],
    )
    def test_all_of_them(self, farm: StoreFarm, action: Action, expected: str) -> None:
        ids = tree(farm)
        beside = farm.add("daneben")
        farm.act(action, ids[0])
        assert set(farm.statuses(*ids)) == {expected}
        assert farm.status(beside) == "runnable"

    def test_the_named_ones_at_once_the_others_in_steps(self, farm: StoreFarm, nudges: list[Instruction]) -> None:
        ids = tree(farm)
        nudges.clear()
        farm.act(Action.CANCEL, ids[0], finish=False)
        assert farm.statuses(*ids) == ["cancelled", "queued", "queued", "runnable", "runnable"]
        assert RunBulk() in nudges
        farm.step()
        assert farm.statuses(*ids) == ["cancelled", "cancelled", "cancelled", "runnable", "runnable"]
        farm.finish_bulk()
        assert set(farm.statuses(*ids)) == {"cancelled"}
        assert farm.bulk_actions() == 0

    def test_a_job_without_children_leaves_nothing_to_do(self, farm: StoreFarm, nudges: list[Instruction]) -> None:
        job_id = farm.add()
        nudges.clear()
        farm.act(Action.PAUSE, job_id, finish=False)
        assert farm.bulk_actions() == 0
        assert RunBulk() not in nudges

    def test_resume_undoes_a_pause(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.PAUSE, ids[0])
        farm.act(Action.RESUME, ids[0])
        assert farm.statuses(*ids) == ["queued", "queued", "queued", "runnable", "runnable"]

    def test_eject_takes_what_runs_below(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        ids = tree(farm)
        farm.start(ids[3], machine)
        farm.act(Action.EJECT, ids[0])
        assert farm.statuses(*ids) == ["queued", "queued", "queued", "ejecting", "runnable"]
        machine.beat()
        machine.obey()
        assert farm.status(ids[3]) == "runnable"
        assert farm.job(ids[3]).tries_left == 0

    def test_not_one_with_an_unsettled_parent_outside(self, farm: StoreFarm) -> None:
        inside, outside, shared, below = farm.submit(
            [
                leaf("innen", childStubIds=["s"]),
                leaf("außen", childStubIds=["s"]),
                leaf("geteilt", stubId="s", childStubIds=["b"]),
                leaf("darunter", stubId="b"),
            ]
        )
        farm.act(Action.PAUSE, inside)
        assert farm.statuses(inside, outside, shared, below) == ["paused", "queued", "queued", "runnable"]
        farm.act(Action.CANCEL, outside)
        assert farm.statuses(inside, outside, shared, below) == ["paused", "cancelled", "queued", "runnable"]
        farm.act(Action.CANCEL, inside)
        assert farm.statuses(inside, outside, shared, below) == ["cancelled"] * 4

    def test_both_parents_named_take_it_along(self, farm: StoreFarm) -> None:
        one, two, shared = farm.submit(
            [leaf("1", childStubIds=["s"]), leaf("2", childStubIds=["s"]), leaf("geteilt", stubId="s")]
        )
        farm.act(Action.PAUSE, one, two)
        assert farm.statuses(one, two, shared) == ["paused"] * 3

    def test_a_short_path_and_a_long_one_lead_to_the_same_job(self, farm: StoreFarm) -> None:
        top, middle, low, bottom = farm.submit(
            [
                leaf("oben", childStubIds=["b", "m"]),
                leaf("Mitte", stubId="m", childStubIds=["l"]),
                leaf("tief", stubId="l", childStubIds=["b"]),
                leaf("unten", stubId="b"),
            ]
        )
        farm.act(Action.PAUSE, top)
        assert farm.statuses(top, middle, low, bottom) == ["paused"] * 4

    def test_more_children_than_fit_a_step(self, sqlite_farm: StoreFarm) -> None:
        farm = sqlite_farm
        count = 3 * bulk.STEP + 1
        parent, *children = farm.submit(leaf(children=[leaf() for _ in range(count)]))
        farm.act(Action.CANCEL, parent, finish=False)
        left = count
        while farm.step():
            with farm.store.reading() as connection:
                query = sa.select(sa.func.count()).where(job.c.status == "runnable")
                before, left = left, connection.execute(query).scalar_one()
            assert before - left <= bulk.STEP  # parents before children, and small steps
            check_invariants(farm.store)
        assert left == 0
        assert set(farm.statuses(*children[:3], *children[-3:])) == {"cancelled"}

    def test_unknown_ids_are_skipped(self, farm: StoreFarm) -> None:
        job_id = farm.add()
        for action in Action:
            farm.act(action, 998, 999)
        farm.act(Action.PAUSE, 999, job_id, job_id)
        assert farm.status(job_id) == "paused"


@pytest.mark.databases("sqlite")
class TestReschedule:
    def test_a_leaf_takes_its_settled_ancestors_along_and_no_sibling(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        top, left, right, left_leaf, right_leaf = tree(farm)
        farm.start(left_leaf, machine)
        machine.end(left_leaf)
        fail(farm, machine, right_leaf)
        farm.tick()
        machine.beat()
        machine.end(left)
        assert farm.statuses(top, left, right, left_leaf, right_leaf) == [
            "failed",
            "succeeded",
            "failed",
            "succeeded",
            "failed",
        ]
        farm.act(Action.RESCHEDULE, right_leaf)
        assert farm.statuses(top, left, right, left_leaf, right_leaf) == [
            "queued",
            "succeeded",
            "queued",
            "succeeded",
            "runnable",
        ]
        assert farm.events(left_leaf)[-1] == "succeeded"
        assert "rescheduled" in farm.events(top)

    def test_ancestors_run_again(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, child = farm.submit(leaf(children=[leaf()]))
        for job_id in (child, parent):
            farm.start(job_id, machine)
            machine.end(job_id)
        farm.act(Action.RESCHEDULE, child)
        assert farm.statuses(parent, child) == ["queued", "runnable"]
        for job_id in (child, parent):
            farm.start(job_id, machine)
            machine.end(job_id)
        assert farm.statuses(parent, child) == ["succeeded", "succeeded"]
        assert [len(farm.runs(job_id)) for job_id in (parent, child)] == [2, 2]

    def test_a_job_takes_its_unsuccessful_descendants_along(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        top, left, right, left_leaf, right_leaf = tree(farm)
        fail(farm, machine, left_leaf)
        farm.start(right_leaf, machine)
        machine.end(right_leaf)
        farm.start(right, machine)
        machine.end(right)
        assert farm.status(top) == "failed"
        farm.act(Action.RESCHEDULE, top, finish=False)
        # It waits for its unsuccessful children, which the next steps reach.
        assert farm.statuses(top, left, left_leaf) == ["queued", "failed", "failed"]
        assert farm.job(top).held_by_bulk
        farm.finish_bulk()
        assert farm.statuses(top, left, right, left_leaf, right_leaf) == [
            "queued",
            "queued",
            "succeeded",
            "runnable",
            "succeeded",
        ]
        assert not farm.job(top).held_by_bulk

    def test_an_ancestor_with_another_failed_child_does_not_wait_for_ever(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, bad, worse = farm.submit({"name": "p", "children": [leaf("a"), leaf("b")]})
        fail(farm, machine, bad, worse)
        farm.act(Action.RESCHEDULE, bad)
        assert farm.statuses(parent, bad, worse) == ["queued", "runnable", "failed"]
        farm.start(bad, machine)
        machine.end(bad)
        assert farm.status(parent) == "failed"  # the sibling was not touched

    def test_unsuccessful_ones_below_a_job_that_still_waits(self, farm: StoreFarm) -> None:
        """The top failed at once; below it one still waits for a child, and another child of that one has failed."""
        machine = farm.machine()
        top = farm.add("oben")
        farm.start(top, machine)
        middle, bad, going = farm.submit(leaf("Mitte", children=[leaf("a"), leaf("b")]), top)
        fail(farm, machine, bad)
        machine.end(top, 1)
        assert farm.statuses(top, middle, bad, going) == ["failed", "queued", "failed", "runnable"]
        farm.act(Action.RESCHEDULE, top)
        assert farm.statuses(top, middle, bad, going) == ["queued", "queued", "runnable", "runnable"]

    def test_an_abandoned_job_and_its_abandoned_ancestor_are_fenced(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent = farm.add("p", triesLeft=1)
        farm.start(parent, machine)
        child = farm.add("c", parent)
        farm.start(child, machine)
        machine.vanish()
        assert farm.statuses(parent, child) == ["abandoned", "abandoned"]
        farm.act(Action.RESCHEDULE, child)
        assert farm.statuses(parent, child) == ["queued", "runnable"]
        assert [farm.run(job_id).fenced for job_id in (parent, child)] == [True, True]

    def test_a_runnable_ancestor_waits_again(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, child = farm.submit(leaf(children=[leaf()]))
        farm.start(child, machine)
        machine.end(child)
        assert farm.status(parent) == "runnable"
        farm.act(Action.RESCHEDULE, child)
        assert farm.statuses(parent, child) == ["queued", "runnable"]

    def test_what_is_not_settled_is_left_alone_with_its_ancestors(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        top = farm.add("t")
        farm.start(top, machine)
        child = farm.add("c", top)
        farm.start(child, machine)
        machine.end(top, 1)
        other = farm.add("o")
        fail(farm, machine, other)
        farm.act(Action.RESCHEDULE, other, child)
        assert farm.statuses(top, child, other) == ["failed", "running", "runnable"]

    def test_one_whose_old_run_is_dying_waits_for_its_end(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add()
        farm.start(job_id, machine)
        farm.act(Action.CANCEL, job_id)
        farm.act(Action.RESCHEDULE, job_id)
        assert farm.status(job_id) == "runnable"
        assert farm.tick().assigned == 0
        machine.beat()
        machine.obey()
        assert farm.status(job_id) == "runnable"
        assert farm.tick().assigned == 1
        assert [run.outcome for run in farm.runs(job_id)] == ["killed", ""]

    def test_parent_and_child_named_together(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, child = farm.submit(leaf(children=[leaf()]))
        fail(farm, machine, child)
        farm.act(Action.RESCHEDULE, child, parent)
        assert farm.statuses(parent, child) == ["queued", "runnable"]
        farm.act(Action.CANCEL, parent)
        farm.act(Action.RESCHEDULE, parent, child)
        assert farm.statuses(parent, child) == ["queued", "runnable"]

    def test_a_pause_of_an_abandoned_job_stays_wished(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        job_id = farm.add()
        farm.start(job_id, machine)
        machine.vanish()
        farm.act(Action.PAUSE, job_id)
        farm.act(Action.RESCHEDULE, job_id)
        assert farm.status(job_id) == "paused"


@pytest.mark.databases("sqlite")
class TestLaterWords:
    """A second wish while the first is not done."""

    def test_a_cancel_after_an_unfinished_reschedule(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, child, grandchild = farm.submit(leaf("p", children=[leaf("c", children=[leaf("g")])]))
        fail(farm, machine, grandchild)
        farm.act(Action.RESCHEDULE, parent, finish=False)
        farm.step()
        farm.act(Action.CANCEL, parent, finish=False)
        farm.finish_bulk()
        # As if the first wish had been done before the second was asked for.
        assert farm.statuses(parent, child, grandchild) == ["cancelled"] * 3

    def test_a_reschedule_after_an_unfinished_cancel(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0], finish=False)
        farm.act(Action.RESCHEDULE, ids[0], finish=False)
        farm.finish_bulk()
        assert farm.statuses(*ids) == ["queued", "queued", "queued", "runnable", "runnable"]

    def test_pause_resume_pause(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        for action in (Action.PAUSE, Action.RESUME, Action.PAUSE):
            farm.act(action, ids[0], finish=False)
        farm.finish_bulk()
        assert farm.statuses(*ids) == ["paused"] * 5


class TestBelowAnUnfinishedWish:
    def test_nothing_is_assigned(self, farm: StoreFarm) -> None:
        farm.machine(cpus=8)
        ids = tree(farm)
        beside = farm.add()
        farm.act(Action.PAUSE, ids[0], finish=False)
        assert farm.tick().assigned == 1
        assert farm.status(beside) == "running"
        with farm.store.reading() as connection:
            assert below_unfinished(connection, [*ids, beside]) == set(ids)
        farm.finish_bulk()
        assert farm.tick().assigned == 0
        with farm.store.reading() as connection:
            assert below_unfinished(connection, [*ids, beside]) == set()

    def test_a_job_of_two_parents_is_below_either(self, farm: StoreFarm) -> None:
        one, two, shared = farm.submit(
            [leaf("1", childStubIds=["s"]), leaf("2", childStubIds=["s"]), leaf("geteilt", stubId="s")]
        )
        farm.act(Action.PAUSE, one, finish=False)
        with farm.store.reading() as connection:
            assert below_unfinished(connection, [one, two, shared]) == {one, shared}

    @pytest.mark.parametrize("steps", range(4))
    def test_a_job_submitted_there_falls_under_it(self, farm: StoreFarm, steps: int) -> None:
        ids = tree(farm)
        farm.act(Action.PAUSE, ids[0], finish=False)
        for _ in range(steps):
            farm.step()
        below = [farm.submit(leaf("neu", children=[leaf("darunter")]), job_id) for job_id in ids]
        below.append(farm.submit(leaf("spät"), below[-1][-1]))
        assert farm.bulk_actions() == 1
        farm.finish_bulk()
        assert set(farm.statuses(*ids, *itertools.chain(*below))) == {"paused"}

    def test_one_submitted_when_it_was_done_does_not(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.PAUSE, ids[0])
        farm.apply(JobEvent.RESUME, ids[3])  # below a paused job it would wait for that alone
        late = farm.add("neu", ids[3])
        farm.finish_bulk()
        assert farm.status(late) == "runnable"

    def test_what_was_resumed_meanwhile_is_not_paused_again(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.PAUSE, ids[0], finish=False)
        farm.step()
        farm.apply(JobEvent.RESUME, ids[1])  # one whom the wish has been to
        farm.add("neu", ids[0])
        farm.finish_bulk()
        assert farm.status(ids[1]) == "queued"

    def test_below_a_cancelled_one_it_is_refused(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0], finish=False)
        with pytest.raises(JobStateError):
            farm.add("neu", ids[3])


class TestDelete:
    def test_settled_jobs_go_with_their_descendants(self, farm: StoreFarm, nudges: list[Instruction]) -> None:
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0])
        farm.act(Action.DELETE, ids[0], finish=False)
        assert not farm.exists(ids[0])
        farm.finish_bulk()
        assert not any(farm.exists(job_id) for job_id in ids)
        assert {DeleteLogs(job_id) for job_id in ids} <= set(nudges)
        with farm.store.reading() as connection:
            assert connection.execute(sa.select(sa.func.count()).where(event.c.event == "deleted")).scalar_one() == 5

    def test_others_do_not(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        running, waiting = farm.add(), farm.add()
        farm.start(running, machine)
        farm.act(Action.DELETE, running, waiting)
        assert farm.statuses(running, waiting) == ["running", "runnable"]

    def test_ids_are_never_used_again(self, farm: StoreFarm) -> None:
        highest = farm.submit([leaf(), leaf()])[-1]
        farm.act(Action.CANCEL, highest)
        farm.act(Action.DELETE, highest)
        assert farm.add() == highest + 1

    def test_a_running_descendant_disappears_and_dies(self, farm: StoreFarm, nudges: list[Instruction]) -> None:
        machine = farm.machine(cpus=1)
        parent = farm.add("p")
        farm.start(parent, machine)
        child = farm.add("c", parent)
        machine.end(parent, 1)
        farm.start(child, machine)
        nudges.clear()
        farm.act(Action.DELETE, parent)
        assert not farm.exists(child)
        assert (farm.run(child).closed_at, farm.run(child).wish) == (None, "die")
        assert WakeClient(machine.id) in nudges
        assert DeleteLogs(child) not in nudges  # it still writes
        waiting = farm.add()
        assert farm.tick().assigned == 0  # its CPU is taken until its death is proved
        machine.beat()
        machine.obey()
        assert farm.run(child).outcome == "killed"
        assert DeleteLogs(child) in nudges
        farm.tick()
        assert farm.status(waiting) == "running"

    def test_an_abandoned_job_goes_with_its_run(self, farm: StoreFarm, nudges: list[Instruction]) -> None:
        machine = farm.machine()
        job_id = farm.add()
        farm.start(job_id, machine)
        machine.vanish()
        farm.act(Action.DELETE, job_id)
        assert not farm.exists(job_id)
        assert farm.run(job_id).fenced  # nobody waits for it any more
        assert DeleteLogs(job_id) in nudges
        nudges.clear()
        machine.come_back()
        machine.obey()
        assert not farm.run(job_id).fenced
        assert DeleteLogs(job_id) in nudges  # it may have written more

    def test_the_parent_of_an_abandoned_one_stops_waiting(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, child = farm.submit(leaf(children=[leaf()]))
        farm.start(child, machine)
        machine.vanish()
        assert farm.status(parent) == "queued"
        farm.act(Action.DELETE, child)
        assert farm.status(parent) == "runnable"
        assert farm.job(parent).children_total == 0

    def test_one_with_another_parent_stays_and_gets_its_root(self, farm: StoreFarm) -> None:
        going, staying, shared, below = farm.submit(
            [
                leaf("geht", childStubIds=["s"]),
                leaf("bleibt"),
                leaf("geteilt", stubId="s", children=[leaf("darunter")]),
            ]
        )
        beside = farm.add("beides", going, [], command="x")
        farm.submit({"name": "Klammer", "command": "x", "parentIds": [staying], "childrenIds": [beside]})
        farm.act(Action.CANCEL, going)
        farm.act(Action.DELETE, going)
        assert not farm.exists(going)
        assert farm.exists(beside)
        assert farm.job(beside).root_id == staying
        assert (farm.exists(shared), farm.exists(below)) == (False, False)

    def test_a_job_that_is_no_longer_below_its_deleted_root_gets_another(self, farm: StoreFarm) -> None:
        root, branch = farm.submit({"name": "Wurzel", "children": [leaf("Ast")]})
        other = farm.add("andere Wurzel")
        both, under = farm.submit(leaf("beider Kind", parentIds=[branch, other], children=[leaf("darunter")]))
        assert farm.job(both).root_id == root
        farm.act(Action.CANCEL, branch)
        farm.act(Action.DELETE, branch)
        assert farm.job(both).root_id == root  # fixed, as long as it exists
        farm.act(Action.DELETE, root)
        assert [farm.job(job_id).root_id for job_id in (both, under)] == [other, other]
        assert farm.parents(both) == [other]

    def test_a_diamond_goes_whole(self, farm: StoreFarm) -> None:
        ids = farm.submit(
            [
                leaf("oben", childStubIds=["l", "r", "u"]),
                leaf("links", stubId="l", childStubIds=["u"]),
                leaf("rechts", stubId="r", childStubIds=["u"]),
                leaf("unten", stubId="u"),
            ]
        )
        farm.act(Action.CANCEL, ids[0])
        farm.act(Action.DELETE, ids[0])
        assert not any(farm.exists(job_id) for job_id in ids)

    def test_several_at_once(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0])
        farm.act(Action.DELETE, *reversed(ids), 999)
        assert not any(farm.exists(job_id) for job_id in ids)
        assert farm.bulk_actions() == 0

    def test_a_child_that_failed_no_longer_counts(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        parent, bad, good = farm.submit(leaf(children=[leaf("a"), leaf("b")]))
        fail(farm, machine, bad)
        farm.act(Action.DELETE, bad)
        farm.start(good, machine)
        machine.end(good)
        assert farm.status(parent) == "runnable"

    def test_below_one_that_is_about_to_go(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0])
        farm.act(Action.RESCHEDULE, ids[1])
        farm.act(Action.CANCEL, ids[0])
        farm.act(Action.DELETE, ids[0], finish=False)
        late = farm.add("spät", None, [ids[1]], command=None)
        farm.finish_bulk()
        assert farm.exists(ids[1])  # it has got another parent
        assert farm.job(ids[1]).root_id == late


class TestCrash:
    """The process dies between any two steps; what stands in the store is enough to go on."""

    @pytest.mark.databases("sqlite")
    @pytest.mark.parametrize("action", [Action.CANCEL, Action.PAUSE, Action.RESCHEDULE, Action.DELETE])
    def test_between_any_two_steps(self, store_url: str, clock: FakeClock, action: Action) -> None:
        for steps in range(7):
            with opened(store_url, clock) as farm:
                machine = farm.machine()
                ids = tree(farm)
                if action in {Action.RESCHEDULE, Action.DELETE}:
                    fail(farm, machine, ids[3], ids[4])
                farm.act(action, ids[0], finish=False)
                for _ in range(steps):
                    farm.step()
                    check_invariants(farm.store)
            with opened(store_url, clock) as farm:
                assert farm.repair() == []
                check_invariants(farm.store)
                farm.finish_bulk()
                check_invariants(farm.store)
                if action is Action.DELETE:
                    assert not any(farm.exists(job_id) for job_id in ids)
                    continue
                assert (
                    farm.statuses(*ids)
                    == {
                        Action.CANCEL: ["cancelled"] * 5,
                        Action.PAUSE: ["paused"] * 5,
                        Action.RESCHEDULE: ["queued", "queued", "queued", "runnable", "runnable"],
                    }[action]
                ), steps


@contextlib.contextmanager
def opened(url: str, clock: FakeClock) -> Iterator[StoreFarm]:
    """Open a store as a new process does; at the end of the block that process is gone."""
    store = Store(url, clock=clock)
    store.open()
    try:
        yield StoreFarm(store, clock)
    finally:
        store.close()
