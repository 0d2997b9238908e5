"""Unfinished actions take turns, wait for older ones in their trees, and are set aside where they cannot go on."""

from __future__ import annotations

import contextlib
import itertools
import logging
from typing import TYPE_CHECKING, Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from hqueue.lifecycle import bulk as actions
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.spreading import Change
from hqueue.schema import bulk, event, job
from tests.fakes import FakeClock
from tests.invariants import check_invariants
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Databases, SharedFile

WIDE: Final = actions.STEP * 2 + 50


def leaf(name: str = "Blatt", **more: Any) -> dict[str, Any]:
    return {"name": name, "command": "x", **more}


def tree(farm: StoreFarm, width: int = 2) -> list[int]:
    """Submit a root, a branch and leaves below it."""
    branch = leaf("Ast", children=[leaf() for _ in range(width)])
    return farm.submit(leaf("Wurzel", children=[branch]))


def steps_until(farm: StoreFarm, job_ids: list[int], status: str) -> int:
    """Carry actions on until jobs have a status; return how many steps that took."""
    for steps in range(1000):
        if set(farm.statuses(*job_ids)) == {status}:
            return steps
        assert farm.step(), f"{farm.statuses(*job_ids)}, and nothing left to do"
    raise AssertionError("no end")


def spread_priority(farm: StoreFarm, job_id: int, priority: int) -> None:
    farm.write(lambda session: actions.spread(session, Change.PRIORITY, [job_id], priority))


class TestTurns:
    @pytest.mark.parametrize(("action", "status"), [(Action.CANCEL, "cancelled"), (Action.PAUSE, "paused")])
    def test_cancel_and_pause_come_before_a_deletion(self, farm: StoreFarm, action: Action, status: str) -> None:
        large, small = tree(farm, WIDE), tree(farm)
        farm.act(Action.CANCEL, large[0])
        farm.act(Action.DELETE, large[0], finish=False)
        farm.step()
        farm.act(action, small[0], finish=False)
        assert steps_until(farm, small, status) <= 3
        assert any(farm.exists(job_id) for job_id in large)
        farm.finish_bulk()
        assert not any(farm.exists(job_id) for job_id in large)

    def test_small_ones_are_done_before_large_ones(self, farm: StoreFarm) -> None:
        large, small = tree(farm, 2 * WIDE), tree(farm)
        for ids in (large, small):
            farm.act(Action.PAUSE, ids[0])
        for ids in (large, small):
            farm.act(Action.RESUME, ids[0], finish=False)
        assert steps_until(farm, small[2:], "runnable") <= 6
        assert "paused" in farm.statuses(*large)
        farm.finish_bulk()
        assert set(farm.statuses(*large[2:])) == {"runnable"}

    def test_in_one_tree_the_younger_waits_for_the_older(self, farm: StoreFarm) -> None:
        one, other = tree(farm), tree(farm)
        farm.act(Action.PAUSE, one[0])
        farm.act(Action.RESUME, one[0], finish=False)
        farm.act(Action.PAUSE, one[1], finish=False)
        farm.act(Action.CANCEL, other[0], finish=False)
        farm.finish_bulk()
        assert farm.statuses(*one) == ["queued", "paused", "paused", "paused"]
        assert set(farm.statuses(*other)) == {"cancelled"}

    def test_what_was_named_has_the_last_word(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.PAUSE, ids[0], finish=False)
        farm.act(Action.RESUME, ids[2], finish=False)  # before the pause comes to it
        farm.finish_bulk()
        assert farm.statuses(*ids) == ["paused", "paused", "runnable", "paused"]

    def test_a_named_job_changes_once_after_the_older_ones(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0])
        for action in (Action.CANCEL, Action.PAUSE, Action.RESCHEDULE):
            farm.act(action, ids[0], finish=False)
        assert farm.status(ids[0]) == "cancelled"
        farm.finish_bulk()
        assert farm.statuses(*ids) == ["queued", "queued", "runnable", "runnable"]

    def test_a_named_job_changes_at_once_where_nothing_older_is_at_work(self, farm: StoreFarm) -> None:
        busy, free, alone = tree(farm), tree(farm), farm.add()
        farm.act(Action.RESUME, busy[0], finish=False)
        farm.act(Action.CANCEL, busy[1], free[0], alone, finish=False)
        assert farm.statuses(busy[1], free[0], alone) == ["queued", "cancelled", "cancelled"]
        farm.finish_bulk()
        assert set(farm.statuses(*busy[1:], *free, alone)) == {"cancelled"}

    def test_many_named_jobs_change_together_when_it_is_their_turn(self, farm: StoreFarm) -> None:
        """More than fit into a step: a branch that is cancelled after its leaves would have failed."""
        ids = tree(farm, actions.STEP + 1)
        farm.act(Action.RESUME, ids[0], finish=False)
        farm.act(Action.CANCEL, *ids[2:], ids[1], finish=False)
        farm.finish_bulk()
        assert set(farm.statuses(*ids[1:])) == {"cancelled"}

    def test_what_an_older_action_settles_is_deleted(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0], finish=False)
        farm.act(Action.DELETE, ids[1], finish=False)  # not settled yet
        farm.finish_bulk()
        assert [farm.exists(job_id) for job_id in ids] == [True, False, False, False]

    def test_a_job_of_two_trees_waits_for_the_older_of_both(self, farm: StoreFarm) -> None:
        first, second, shared = farm.submit(
            [
                leaf("eins", childStubIds=["s"]),
                leaf("zwei", childStubIds=["z"]),
                leaf("geteilt", stubId="s"),
                leaf("Zwischenstück", stubId="z", childStubIds=["s"]),
            ]
        )[:3]
        farm.act(Action.PAUSE, first, second)
        assert farm.status(shared) == "paused"
        farm.act(Action.RESUME, first, second, finish=False)
        farm.act(Action.PAUSE, shared, finish=False)
        farm.finish_bulk()
        assert farm.status(shared) == "paused"

    def test_a_tree_to_which_an_older_action_will_come_from_below(self, farm: StoreFarm) -> None:
        """A reschedule of the first reopens the second, by a job that both have below them: it is not to be deleted."""
        specs = [leaf("eins", childStubIds=["s"]), leaf("zwei", childStubIds=["s"]), leaf("geteilt", stubId="s")]
        first, second, shared = farm.submit(specs)
        farm.act(Action.CANCEL, first, second)
        farm.act(Action.RESCHEDULE, first, finish=False)
        farm.act(Action.DELETE, second, finish=False)
        farm.finish_bulk()
        assert farm.statuses(first, second, shared) == ["queued", "queued", "runnable"]

    def test_a_priority_waits_for_an_older_one(self, farm: StoreFarm) -> None:
        ids = tree(farm)
        for job_id, priority in ((ids[0], 5), (ids[1], 7)):
            spread_priority(farm, job_id, priority)
        farm.finish_bulk()
        assert [farm.job(job_id).priority for job_id in ids[2:]] == [7, 7]

    def test_those_that_wait_cost_nothing(self, farm: StoreFarm) -> None:
        ids = tree(farm, WIDE)
        farm.act(Action.PAUSE, ids[0])
        farm.act(Action.RESUME, ids[0], finish=False)
        for _ in range(10):
            farm.act(Action.PAUSE, ids[1], finish=False)
        assert farm.finish_bulk() <= 80
        assert farm.statuses(*ids[:4]) == ["queued", "paused", "paused", "paused"]


class TestSteps:
    def test_no_step_of_a_deletion_is_long(self, farm: StoreFarm) -> None:
        """Neither where one job below has many children, nor where many have some."""
        wide = leaf("breit", children=[leaf() for _ in range(WIDE)])
        many = [leaf("einer von vielen", children=[leaf() for _ in range(20)]) for _ in range(30)]
        ids = farm.submit(leaf("Wurzel", children=[wide, *many]))
        farm.act(Action.CANCEL, ids[0])
        farm.act(Action.DELETE, ids[0], finish=False)
        left = [len(ids)]
        while farm.step():
            check_invariants(farm.store)
            with farm.store.reading() as connection:
                edges = connection.execute(sa.text("SELECT count(*) FROM job_edge")).scalar_one()
                jobs = connection.execute(sa.select(sa.func.count()).select_from(job)).scalar_one()
            left.append(jobs + edges)
        assert left[-1] == 0
        assert max(before - after for before, after in itertools.pairwise(left[1:])) <= 2 * actions.STEP

    def test_a_job_with_very_many_children_leaves_its_tree_at_once(self, farm: StoreFarm) -> None:
        (top,) = farm.submit(leaf("oben"))
        ids = farm.submit(leaf("breit", children=[{"name": "Blatt"} for _ in range(actions.AT_ONCE + 1)]), top)
        farm.act(Action.CANCEL, top)
        farm.act(Action.DELETE, ids[0], finish=False)
        assert farm.job(top).children_total == 0
        assert not farm.job(ids[0]).is_root
        check_invariants(farm.store)
        farm.step()
        farm.act(Action.RESCHEDULE, ids[0], finish=False)  # too late
        check_invariants(farm.store)
        farm.finish_bulk()
        assert [job_id for job_id in [top, *ids] if farm.exists(job_id)] == [top]

    def test_a_tree_that_loses_its_root_keeps_none_that_is_gone(self, farm: StoreFarm) -> None:
        """A job that a deletion would come to is saved by a new parent after its root has gone in a later deletion."""
        ids = tree(farm)
        farm.act(Action.CANCEL, ids[0])
        farm.act(Action.DELETE, ids[1], finish=False)
        farm.act(Action.DELETE, ids[0], finish=False)
        for _ in range(2):
            farm.step()
            check_invariants(farm.store)
        late = farm.submit(leaf("spät", childrenIds=[job_id for job_id in ids[2:] if farm.exists(job_id)]))
        while farm.step():
            check_invariants(farm.store)
        assert farm.exists(late[0])

    def test_a_root_below_another_job_leaves_none_behind(self, farm: StoreFarm) -> None:
        root, child = farm.submit(leaf("Wurzel", children=[leaf("Kind")]))
        (above,) = farm.submit(leaf("darüber", childrenIds=[root]))
        (beside,) = farm.submit(leaf("daneben", childrenIds=[child]))
        assert farm.job(child).root_id == root
        farm.act(Action.CANCEL, above)
        farm.act(Action.DELETE, above)
        assert [farm.exists(job_id) for job_id in (above, root, child)] == [False, False, True]
        assert farm.job(child).root_id == beside


@contextlib.contextmanager
def refused(farm: StoreFarm, job_id: int) -> Iterator[None]:
    """Let the database refuse every change of a job's status, and that it goes."""
    dialect = farm.store.engine.dialect.name
    undo = ["DROP TABLE keeper", "DROP TRIGGER refusal"]
    if dialect == "sqlite":
        trigger = (
            f"BEFORE UPDATE OF status ON job WHEN OLD.id = {job_id} BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
        do = [f"CREATE TRIGGER refusal {trigger}", "CREATE TABLE keeper (id INTEGER PRIMARY KEY REFERENCES job (id))"]
    else:
        do = ["CREATE TABLE keeper (id BIGINT PRIMARY KEY, CONSTRAINT fk_keeper FOREIGN KEY (id) REFERENCES job (id))"]
        if dialect == "postgresql":
            body = "BEGIN RAISE EXCEPTION 'not this one'; END"
            do.append(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
            trigger = f"BEFORE UPDATE OF status ON job FOR EACH ROW WHEN (OLD.id = {job_id}) EXECUTE FUNCTION refuse()"
            undo = ["DROP TABLE keeper", "DROP TRIGGER refusal ON job", "DROP FUNCTION refuse"]
        else:
            case = f"IF OLD.id = {job_id} AND OLD.status <> NEW.status"
            signal = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'"
            trigger = f"BEFORE UPDATE ON job FOR EACH ROW {case} THEN {signal}; END IF"
        do.append(f"CREATE TRIGGER refusal {trigger}")

    def run(statements: list[str]) -> None:
        farm.write(lambda session: [session.connection.exec_driver_sql(each) for each in statements])

    run([*do, f"INSERT INTO keeper VALUES ({job_id})"])
    try:
        yield
    finally:
        run(undo)


class TestSetAside:
    """A step that raises sets its action aside, and nothing else."""

    def test_the_others_go_on_and_the_call_may_be_repeated(
        self, farm: StoreFarm, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad, good = tree(farm), tree(farm)
        with refused(farm, bad[2]):
            farm.act(Action.CANCEL, bad[0], finish=False)
            farm.act(Action.CANCEL, good[0], finish=False)
            farm.finish_bulk()
        assert farm.statuses(*bad) == ["cancelled", "cancelled", "runnable", "runnable"]
        assert set(farm.statuses(*good)) == {"cancelled"}
        (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "not this one" in error.getMessage()
        query = sa.select(event.c.message).where(event.c.job_id == bad[0], event.c.event == "note")
        with farm.store.reading() as connection:
            (said,) = connection.execute(query).scalars()
        assert said.startswith("cancel was given up before it was done with everything below: ")
        assert "not this one" in said
        farm.act(Action.CANCEL, bad[0])
        assert set(farm.statuses(*bad)) == {"cancelled"}

    def test_what_a_reschedule_held_is_let_go(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        root, branch, one, other = tree(farm)
        for job_id in (one, other):
            farm.start(job_id, machine)
            machine.end(job_id, 1)
        with refused(farm, other):
            farm.act(Action.RESCHEDULE, branch, finish=False)
            assert farm.job(branch).held_by_bulk
            farm.finish_bulk()
        check_invariants(farm.store)
        assert not farm.job(branch).held_by_bulk
        assert farm.repair() == []
        farm.act(Action.RESCHEDULE, branch)
        assert farm.statuses(root, branch, one, other) == ["queued", "queued", "runnable", "runnable"]

    def test_a_child_and_its_parent_that_are_named_change_together(self, farm: StoreFarm) -> None:
        """Also when it is their turn: the child's end must not fail a parent that is to be cancelled with it."""
        parent, child = farm.submit(leaf("Wurzel", children=[leaf("Blatt")]))
        farm.act(Action.CANCEL, parent)
        farm.act(Action.RESCHEDULE, parent, finish=False)
        farm.act(Action.CANCEL, child, parent, finish=False)
        farm.finish_bulk()
        assert farm.statuses(parent, child) == ["cancelled", "cancelled"]

    @pytest.mark.parametrize("named", [0, 1])
    def test_what_a_deletion_left_is_a_tree(self, farm: StoreFarm, named: int) -> None:
        """With the root that it has if that exists, else its own."""
        (top,) = farm.submit(leaf("oben"))
        ids = [top, *farm.submit(leaf("Wurzel", children=[leaf("Ast", children=[leaf(), leaf()])]), top)]
        farm.act(Action.CANCEL, top)
        branch = ids[named + 1]
        with refused(farm, branch):
            farm.act(Action.DELETE, ids[named], finish=False)
            farm.finish_bulk()
        check_invariants(farm.store)
        assert not farm.exists(ids[named])
        root = top if named else branch
        assert [farm.job(job_id).root_id for job_id in ids[named + 1 :]] == [root] * (4 - named)
        assert farm.job(branch).is_root
        farm.act(Action.DELETE, branch)
        assert not any(farm.exists(job_id) for job_id in ids[named:])

    def test_an_action_that_nobody_knows(self, farm: StoreFarm) -> None:
        """As a newer server may have left one."""
        ids = tree(farm)
        farm.act(Action.PAUSE, ids[0], finish=False)
        farm.write(lambda session: session.connection.execute(sa.update(bulk).values(action="dance")))
        farm.act(Action.CANCEL, ids[0], finish=False)
        farm.finish_bulk()
        assert set(farm.statuses(*ids)) == {"cancelled"}


_trees = st.recursive(
    st.just(leaf()),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda below: leaf(children=below)),
    max_leaves=6,
)
_calls = st.lists(
    st.tuples(st.sampled_from(list(Action)), st.lists(st.integers(0, 11), min_size=1, max_size=2), st.integers(0, 3)),
    min_size=2,
    max_size=6,
)


def _graph(below: list[list[int]]) -> list[dict[str, Any]]:
    """Return jobs, each with children among those after it; several may have the same."""
    return [
        leaf(stubId=str(number), childStubIds=[str(child) for child in children if number < child < len(below)])
        for number, children in enumerate(below)
    ]


_graphs = st.lists(st.lists(st.integers(1, 5), max_size=3, unique=True), min_size=3, max_size=6).map(_graph)


def _end(farm: StoreFarm, specs: list[dict[str, Any]], before: Any, calls: Any, *, in_order: bool) -> list[str | None]:
    """Return the statuses of jobs after calls, each followed by some steps; in order: by all there are."""
    ids = farm.submit(specs)
    for action, chosen, _ in before:
        farm.act(action, *(ids[each % len(ids)] for each in chosen))
    for action, chosen, steps in calls:
        farm.act(action, *(ids[each % len(ids)] for each in chosen), finish=in_order)
        for _ in range(steps):
            farm.step()
        check_invariants(farm.store)
    farm.finish_bulk()
    check_invariants(farm.store)
    assert farm.repair() == []
    return [farm.status(job_id) if farm.exists(job_id) else None for job_id in ids]


@pytest.mark.timeout(600)
def test_overlapping_actions_end_as_if_they_were_done_in_order(
    backend: str, databases: Databases, shared_file: SharedFile
) -> None:
    def farm() -> StoreFarm:
        clock = FakeClock(auto=True)
        return StoreFarm((shared_file if backend == "sqlite" else databases.get(backend)).open_store(clock), clock)

    examples = settings().max_examples
    calls = {"before": _calls, "calls": _calls}

    @settings(max_examples=examples if backend == "sqlite" else examples // 8)
    @given(specs=st.lists(_trees, min_size=1, max_size=2) | _graphs, **calls)
    def check(specs: list[dict[str, Any]], before: Any, calls: Any) -> None:
        assert _end(farm(), specs, before, calls, in_order=False) == _end(farm(), specs, before, calls, in_order=True)

    check()
