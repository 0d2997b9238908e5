"""A graph of specifications becomes jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import sqlalchemy as sa

from hqueue import jobspec, maintenance
from hqueue.errors import CyclicGraphError, InvalidSpecError, JobStateError, UnknownJobError
from hqueue.lifecycle import incoming
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.submission import submit
from hqueue.matching import Condition, Requirement
from hqueue.schema import event, job, job_edge, job_spec, requirement, submission
from hqueue.store import WakeScheduler
from tests.farm import PATIENCE_S
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hqueue.store import Instruction, Session, Store
    from tests.fakes import FakeClock

LINUX = {"type": "client", "name": "os", "op": "==", "value": "linux"}
GROUP = {"type": "client", "name": "group", "op": "in", "value": "照明"}


@pytest.fixture(params=["at once", "in steps"])
def farm(request: pytest.FixtureRequest, store: Store, clock: FakeClock, monkeypatch: Any) -> Iterator[StoreFarm]:
    """Return a farm that stores a submission in one transaction, and one that takes a transaction for each job."""
    farm = StoreFarm(store, clock)
    if request.param == "at once":
        yield farm
        return
    monkeypatch.setattr(incoming, "_AT_ONCE", 0)
    monkeypatch.setattr(incoming, "_PIECE", 1)
    monkeypatch.setattr(incoming, "_STEP_S", 0)
    lanes = incoming.Incoming(store, clock, lambda _: None)
    lanes.start()

    def submit(spec: Any, parent_id: int | None = None, child_ids: Sequence[int] = ()) -> list[int]:
        return lanes.put(jobspec.parse(spec, max_depth=1000), parent_id, child_ids).result(PATIENCE_S)

    monkeypatch.setattr(farm, "submit", submit)
    yield farm
    lanes.stop()


def leaf(name: str = "Blatt", **more: Any) -> dict[str, Any]:
    return {"name": name, "command": "x", **more}


def spec_of(farm: StoreFarm, job_id: int) -> Any:
    with farm.store.reading() as connection:
        return connection.execute(sa.select(job_spec).where(job_spec.c.job_id == job_id)).one()


def requirement_of(farm: StoreFarm, job_id: int) -> Requirement:
    with farm.store.reading() as connection:
        query = sa.select(requirement.c.spec_json).where(requirement.c.id == farm.job(job_id).requirement_id)
        return Requirement.from_json(connection.execute(query).scalar_one())


def count(farm: StoreFarm, table: sa.Table) -> int:
    with farm.store.reading() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


class TestIds:
    def test_the_given_ones_first_then_the_nested_depth_first(self, farm: StoreFarm) -> None:
        ids = farm.submit(
            [
                leaf("A", children=[leaf("A1", children=[leaf("A11")]), leaf("A2")]),
                leaf("B", children=[leaf("B1")]),
            ]
        )
        assert ids == list(range(ids[0], ids[0] + 6))
        assert [farm.job(job_id).name for job_id in ids] == ["A", "B", "A1", "A11", "A2", "B1"]
        assert farm.parents(ids[3]) == [ids[2]]

    def test_every_property_is_kept(self, farm: StoreFarm) -> None:
        name = "Größe 影 🎬 \u2028"
        job_id = farm.add(
            name,
            command={"linux": "a", "windows": "b"},
            shell="zsh",
            cpus=3,
            tags=["single:x", "nacht"],
            priority=7,
            resources={"render": 2},
            maxTime=60,
            triesLeft=2,
            environment={"PFAD": "a\nb\"c'"},
            description="Beschreibung — 説明",
            submittedBy="jürgen",
            emailTo="a@b.c",
            emailReasons="failed",
            onError="say no",
            minHosts=2,
            maxHosts=3,
        )
        row, spec = farm.job(job_id), spec_of(farm, job_id)
        assert (row.name, row.priority, row.tries_left, row.has_command) == (name, 7, 2, True)
        assert json.loads(spec.command_json) == {"linux": "a", "windows": "b"}
        assert json.loads(spec.environment_json) == {"PFAD": "a\nb\"c'"}
        assert json.loads(spec.tags_json) == ["single:x", "nacht"]
        assert json.loads(spec.hooks_json) == {"on_error": "say no"}
        assert (spec.shell, spec.max_time_s, spec.tries, spec.submitted_by) == ("zsh", 60, 2, "jürgen")
        assert (spec.email_to, spec.email_reasons, spec.description) == ("a@b.c", "failed", "Beschreibung — 説明")
        assert requirement_of(farm, job_id) == Requirement(
            cpus=3,
            singles=("single:x",),
            platforms=("linux", "windows"),
            resources=(("render", 2),),
            min_hosts=2,
            max_hosts=3,
        )

    def test_big_texts(self, farm: StoreFarm) -> None:
        command = "echo ü\n" * 200_000
        job_id = farm.add(command=command, description="d" * 70_000)
        assert json.loads(spec_of(farm, job_id).command_json) == command

    def test_nothing_is_nothing(self, farm: StoreFarm) -> None:
        assert farm.submit([]) == []
        assert count(farm, job) == 0


class TestStatus:
    def test_by_their_children(self, farm: StoreFarm) -> None:
        ids = farm.submit(
            [
                {"name": "leer"},
                {"name": "leere Kinder", "children": [{"name": "a"}, {"name": "b"}]},
                leaf("läuft", children=[{"name": "leer"}]),
                leaf("wartet", children=[leaf()]),
            ]
        )
        assert farm.statuses(*ids[:4]) == ["succeeded", "succeeded", "runnable", "queued"]
        assert farm.job(ids[0]).ended_at is not None
        assert farm.job(ids[0]).progress == 0.0  # it has no command
        assert farm.job(ids[2]).runnable_at is not None
        assert farm.job(ids[3]).runnable_at is None

    def test_existing_children(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        good, bad, waiting = farm.submit([leaf("gut"), leaf("schlecht"), leaf("wartet")])
        for job_id, code in ((good, 0), (bad, 1)):
            farm.start(job_id, machine)
            machine.end(job_id, code)
        assert farm.status(farm.add("p", None, [good])) == "runnable"
        assert farm.status(farm.add("p", None, [good, bad])) == "failed"
        assert farm.status(farm.add("p", None, [bad, waiting])) == "queued"
        assert farm.status(farm.add("p", None, [good], command=None)) == "succeeded"

    def test_an_existing_child_is_no_root_any_more_but_keeps_its_root(self, farm: StoreFarm) -> None:
        child = farm.add()
        parent = farm.add("p", None, [child])
        row = farm.job(child)
        assert (row.is_root, row.root_id) == (False, child)
        assert farm.parents(child) == [parent]

    def test_the_scheduler_is_woken_when_there_is_something_to_run(self, farm: StoreFarm) -> None:
        nudges: list[Instruction] = []

        def collect(instructions: Sequence[Instruction]) -> None:
            nudges.extend(instructions)

        farm.store.on_commit = collect
        farm.add(command=None)
        assert WakeScheduler() not in nudges
        farm.add()
        assert WakeScheduler() in nudges


@pytest.mark.databases("sqlite")
class TestRoots:
    def test_parent_id_then_parent_ids_then_what_is_around_then_itself(self, farm: StoreFarm) -> None:
        one, two, three = farm.submit([leaf("1"), leaf("2"), leaf("3")])
        ids = farm.submit(
            leaf("a", parentIds=[two], children=[leaf("b"), leaf("c", parentIds=[three], children=[leaf("d")])]), one
        )
        assert [farm.job(job_id).root_id for job_id in ids] == [one, one, three, three]
        ids = farm.submit(leaf("a", parentIds=[two, one], children=[leaf("b")]))
        assert [farm.job(job_id).root_id for job_id in ids] == [two, two]
        ids = farm.submit([leaf("a", children=[leaf("b")]), leaf("c")])
        assert [farm.job(job_id).root_id for job_id in ids] == [ids[0], ids[1], ids[0]]

    def test_it_is_the_root_of_the_parent_not_the_parent(self, farm: StoreFarm) -> None:
        root, middle = farm.submit(leaf(children=[leaf()]))
        assert farm.job(farm.add("c", middle)).root_id == root

    def test_attaching_it_elsewhere_changes_neither_root_nor_conditions(self, farm: StoreFarm) -> None:
        child = farm.add(conditions=[LINUX])
        farm.add("p", None, [child], conditions=[GROUP])
        assert farm.job(child).root_id == child
        assert requirement_of(farm, child).conditions == (Condition("os", "==", "linux"),)


class TestStubEdges:
    """An edge by stub is one like nesting: for the root, and for what is inherited along it."""

    def test_the_root_is_that_of_the_first_that_names_it(self, farm: StoreFarm) -> None:
        outside = farm.add()
        ids = farm.submit(
            [
                leaf("vorn", stubId="v", childStubIds=["tief"]),
                leaf("oben", childStubIds=["v", "w", "innen"]),
                leaf("zweite", childStubIds=["v"], children=[leaf("innen", stubId="innen")]),
                leaf("anderswo", stubId="w", parentIds=[outside]),
                leaf("tief", stubId="tief"),
            ]
        )
        _, top, second, *_ = ids
        assert [farm.job(job_id).root_id for job_id in ids] == [top, top, second, outside, top, second]

    def test_conditions_priority_and_submitter_follow(self, farm: StoreFarm) -> None:
        first, top, middle = farm.submit(
            [
                leaf("Bild", stubId="b"),
                leaf("oben", conditions=[LINUX], priority=7, submittedBy="jürgen", childStubIds=["m"]),
                leaf("Mitte", stubId="m", conditions=[GROUP], childStubIds=["b"]),
            ]
        )
        assert requirement_of(farm, first).conditions == (Condition("os", "==", "linux"),)
        assert [farm.job(job_id).priority for job_id in (first, top, middle)] == [7, 7, 7]
        assert [spec_of(farm, job_id).submitted_by for job_id in (first, top, middle)] == ["jürgen"] * 3
        below = farm.submit([leaf("B", childStubIds=["c"]), leaf("C", stubId="c")], middle)
        assert [farm.job(job_id).root_id for job_id in below] == [top, top]
        assert [farm.job(job_id).priority for job_id in below] == [7, 7]
        assert farm.job(farm.add("eigene", top, priority=0)).priority == 0

    def test_a_long_chain(self, farm: StoreFarm) -> None:
        count = 200
        chain = [leaf(f"{n}", stubId=f"{n}", childStubIds=[f"{n + 1}"]) for n in range(count)]
        ids = farm.submit([*chain[::-1], leaf("Ende", stubId=f"{count}")])
        with farm.store.reading() as connection:
            assert connection.execute(sa.select(job.c.root_id).distinct()).scalars().all() == [ids[count - 1]]


class TestRepeats:
    """A submission with a submissionId is stored once, however often its answer is lost."""

    GRAPH: Final = {"name": "Szene", "submissionId": "k-ü", "submittedBy": "jürgen", "children": [leaf(), leaf()]}

    def test_the_same_again_stores_nothing(self, farm: StoreFarm) -> None:
        parent = farm.add()
        ids = farm.submit(self.GRAPH, parent)
        before = [count(farm, table) for table in (job, job_edge, job_spec, event)]
        assert farm.submit(json.dumps(dict(reversed(self.GRAPH.items()))), parent) == ids
        farm.act(Action.CANCEL, parent)
        assert farm.submit(self.GRAPH, parent) == ids
        assert [count(farm, table) for table in (job, job_edge, job_spec)] == before[:3]
        assert len(farm.submit(leaf(submissionId="k-ü", submittedBy="美咲"))) == 1

    def test_the_key_with_something_else_is_a_fault(self, farm: StoreFarm) -> None:
        parent = farm.add()
        first, *_, last = farm.submit([self.GRAPH, leaf()])
        others: list[tuple[Any, int | None]] = [
            ([self.GRAPH, leaf()], parent),
            (self.GRAPH, None),
            ([self.GRAPH, leaf(cpus=2)], None),
        ]
        for spec, above in others:
            with pytest.raises(InvalidSpecError, match=f"submissionId: .* that of jobs {first} to {last}"):
                farm.submit(spec, above)

    def test_after_a_day_it_is_new(self, farm: StoreFarm, clock: FakeClock) -> None:
        first = farm.submit(leaf(submissionId="k"))
        clock.advance(24 * 3600)
        assert farm.submit(leaf(submissionId="k")) != first
        clock.advance(24 * 3600)
        farm.add(submissionId="j")
        maintenance.expire(farm.store)
        assert count(farm, submission) == 1

    def test_one_that_failed_leaves_its_key_free(self, farm: StoreFarm) -> None:
        with pytest.raises(UnknownJobError):
            farm.submit(leaf(submissionId="k", parentIds=[99]))
        assert farm.submit(leaf(submissionId="k"))

    def test_a_repeat_while_the_first_is_under_way_waits_for_it(self, farm: StoreFarm) -> None:
        graph = jobspec.parse([self.GRAPH, *[leaf()] * 500], max_depth=9)
        calls = [farm.store.write_soon(lambda session: submit(session, graph)) for _ in range(8)]
        assert len({tuple(call.result()) for call in calls}) == 1
        assert count(farm, job) == 503


class TestAdditions:
    """Additions of children that follow each other are one line of the parent's log."""

    @pytest.fixture
    def parent(self, farm: StoreFarm) -> int:
        return farm.submit({"name": "Szene", "children": [leaf()]})[0]

    def test_a_whole_submission(self, farm: StoreFarm, parent: int) -> None:
        ids = farm.submit([leaf() for _ in range(1000)], parent)
        assert farm.log(parent)[1:] == [("child added", "queued", f"1000 jobs, {ids[0]} to {ids[-1]}")]

    def test_one_by_one_within_a_minute(self, farm: StoreFarm, parent: int, clock: FakeClock) -> None:
        other = farm.add("andere", parent)
        *_, last = [farm.add("K", other) for _ in range(3)]
        clock.advance(59)
        more = farm.add("K", parent)
        clock.advance(61)
        late = farm.add("K", parent)
        assert farm.log(parent)[1:] == [
            ("child added", "queued", f"2 jobs, {other} to {more}"),
            ("child added", "queued", f"job {late}"),
        ]
        assert farm.log(other)[-1] == ("child added", "queued", f"2 jobs, {last - 1} to {last}")

    def test_something_in_between_ends_the_line(self, farm: StoreFarm, parent: int) -> None:
        one = farm.add("K", parent)
        farm.act(Action.PAUSE, parent)
        two = farm.add("K", parent)
        assert [text for name, _, text in farm.log(parent) if name == "child added"] == [f"job {one}", f"job {two}"]

    def test_in_one_commit_of_which_a_part_fails(self, farm: StoreFarm, parent: int) -> None:
        graph = jobspec.parse(leaf(), max_depth=9)

        def fail(session: Session) -> None:
            submit(session, graph, parent)
            raise JobStateError

        with farm.store.writing() as session:
            with session.savepoint():
                (one,) = submit(session, graph, parent)
            with pytest.raises(JobStateError), session.savepoint():
                fail(session)
            with session.savepoint():
                (two,) = submit(session, graph, parent)
        assert farm.log(parent)[1:] == [("child added", "queued", f"2 jobs, {one} to {two}")]
        assert farm.events(one) == farm.events(two) == ["submitted"]

    def test_the_feed_tells_of_it_again(self, farm: StoreFarm, parent: int) -> None:
        farm.add("K", parent)
        with farm.store.reading() as connection:
            end = connection.execute(sa.select(sa.func.max(event.c.seq))).scalar_one()
        new = farm.add("K", parent)
        with farm.store.reading() as connection:
            query = sa.select(event.c.job_id).where(event.c.seq > end).order_by(event.c.seq)
            assert list(connection.execute(query).scalars()) == [new, parent]


class TestBelowPaused:
    @pytest.mark.parametrize("spec", [leaf(), {"name": "Baum", "children": [leaf()]}])
    def test_what_is_submitted_below_a_paused_job_waits_with_it(self, farm: StoreFarm, spec: dict[str, Any]) -> None:
        root, frame = farm.submit({"name": "Szene", "children": [leaf()]})
        farm.act(Action.PAUSE, root)
        new = [*farm.submit(spec, root), *farm.submit([{**spec, "childStubIds": ["s"]}, leaf(stubId="s")], frame)]
        assert set(farm.statuses(*new)) == {"paused"}
        farm.machine()
        farm.tick()
        assert set(farm.statuses(*new)) == {"paused"}
        farm.act(Action.RESUME, root)
        assert set(farm.statuses(*new)) <= {"queued", "runnable"}

    def test_a_commandless_job_has_nothing_to_wait_for(self, farm: StoreFarm) -> None:
        root = farm.add()
        farm.act(Action.PAUSE, root)
        assert farm.status(farm.add("leer", root, command=None)) == "succeeded"

    def test_a_wish_to_pause_counts(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        root = farm.add()
        farm.start(root, machine)
        farm.act(Action.PAUSE, root)
        assert farm.status(root) == "pausing"
        assert farm.status(farm.add("Kind", root)) == "paused"

    def test_a_parent_that_goes_on_takes_it_along(self, farm: StoreFarm) -> None:
        paused, going = farm.add(), farm.add()
        farm.act(Action.PAUSE, paused)
        assert farm.statuses(*farm.submit([leaf(parentIds=[paused, going]), leaf(parentIds=[paused])])) == [
            "runnable",
            "paused",
        ]

    def test_below_a_settled_job_of_a_paused_tree(self, farm: StoreFarm) -> None:
        root, done, _ = farm.submit({"name": "Szene", "children": [leaf(command=None), leaf()]})
        alone = farm.add("fertig", command=None)
        farm.act(Action.PAUSE, root)
        assert farm.status(farm.add("spät", done)) == "paused"
        assert farm.status(farm.add("frei", alone)) == "runnable"
        farm.act(Action.RESUME, root)
        assert farm.statuses(root, done) == ["queued", "queued"]


@pytest.mark.databases("sqlite")
class TestInheritance:
    def test_without_conditions_the_roots(self, farm: StoreFarm) -> None:
        root, middle, own, below = farm.submit(
            leaf(
                "Wurzel",
                conditions=[LINUX],
                children=[leaf("Mitte", children=[leaf("eigene", conditions=[GROUP], children=[leaf("unten")])])],
            )
        )
        linux, group = (Condition("os", "==", "linux"),), (Condition("group", "in", "照明"),)
        found = [requirement_of(farm, job_id).conditions for job_id in (root, middle, own, below)]
        assert found == [linux, linux, group, linux]  # the root's, not the parent's
        assert [bool(spec_of(farm, job_id).inherits_conditions) for job_id in (root, middle, own, below)] == [
            False,
            True,
            False,
            True,
        ]
        late = farm.add("spät", own)
        assert requirement_of(farm, late).conditions == linux

    def test_equal_requirements_are_one_row(self, farm: StoreFarm) -> None:
        farm.submit([leaf(cpus=2), leaf(cpus=2), leaf(cpus=3)])
        farm.submit(leaf(cpus=3))
        assert count(farm, requirement) == 2

    def test_submitted_by_is_the_parents(self, farm: StoreFarm) -> None:
        parent, child, own, below = farm.submit(
            leaf("p", submittedBy="jürgen", children=[leaf("c"), leaf("o", submittedBy="美咲", children=[leaf("b")])])
        )
        late = farm.add("spät", own)
        other = farm.submit(leaf("andere", parentIds=[child, own]))[0]
        names = [spec_of(farm, job_id).submitted_by for job_id in (parent, child, own, below, late, other)]
        assert names == ["jürgen", "jürgen", "美咲", "美咲", "美咲", "jürgen"]
        assert spec_of(farm, farm.add()).submitted_by == ""


class TestEdges:
    def test_with_a_list_the_parent_and_the_children_hold_for_each(self, farm: StoreFarm) -> None:
        parent, child = farm.submit([leaf("p"), leaf("c")])
        one, two, nested = farm.submit([leaf("1"), leaf("2", children=[leaf("3")])], parent, [child])
        assert farm.parents(one) == farm.parents(two) == [parent]
        assert farm.parents(nested) == [two]
        assert farm.parents(child) == [one, two]

    def test_what_is_named_twice_is_linked_once(self, farm: StoreFarm) -> None:
        parent, child = farm.submit([leaf("p"), leaf("c")])
        job_id = farm.submit(leaf(parentIds=[parent], childrenIds=[child, child]), parent, [child])[0]
        assert farm.job(parent).children_total == 1
        assert farm.job(job_id).children_total == 1

    def test_a_graph_by_stubs_with_forward_references(self, farm: StoreFarm) -> None:
        ids = farm.submit(
            [
                leaf("1", stubId="a", childStubIds=["c", "b"]),
                leaf("2", stubId="b", childStubIds=["c"]),
                leaf("3", stubId="c"),
            ]
        )
        assert farm.parents(ids[2]) == ids[:2]
        assert farm.statuses(*ids) == ["queued", "queued", "runnable"]

    def test_a_nested_child_that_is_a_stub_too_is_linked_once(self, farm: StoreFarm) -> None:
        parent, child = farm.submit(leaf("p", childStubIds=["s"], children=[leaf("c", stubId="s")]))
        assert farm.job(parent).children_total == 1
        assert farm.parents(child) == [parent]

    def test_a_ladder_is_counted_once_per_edge(self, farm: StoreFarm) -> None:
        steps = [
            leaf(f"{level}{side}", stubId=f"{level}{side}", childStubIds=[f"{level + 1}a", f"{level + 1}b"])
            for level in range(40)
            for side in "ab"
        ]
        ids = farm.submit([*steps, leaf("unten", stubId="40a"), leaf("unten", stubId="40b")])
        assert farm.job(ids[0]).children_unsettled == 2
        farm.act(Action.CANCEL, ids[0], ids[1])
        assert set(farm.statuses(*ids)) == {"cancelled"}

    def test_a_job_and_what_is_below_it_may_both_become_children(self, farm: StoreFarm) -> None:
        ids = farm.submit(leaf("p", children=[leaf("c", children=[leaf("e")])]))
        job_id = farm.add("n", None, [ids[0], ids[2]])
        assert farm.job(job_id).children_total == 2
        assert farm.parents(ids[2]) == [ids[1], job_id]

    def test_parents_are_told(self, farm: StoreFarm) -> None:
        parent = farm.add("p")
        child = farm.add("c", parent)
        assert farm.log(parent)[-2:] == [
            ("child added", "runnable", f"job {child}"),
            ("queued", "queued", "a child was added"),
        ]

    def test_lines_for_the_log(self, farm: StoreFarm) -> None:
        job_id = farm.submit(leaf(childStubIds=["nie"], farbe="rot"))[0]
        assert farm.events(job_id) == ["submitted", "note", "note"]


@pytest.mark.databases("sqlite")
class TestFaults:
    """Nothing is stored, whatever is wrong with any part."""

    @pytest.fixture(autouse=True)
    def _nothing_is_stored(self, farm: StoreFarm) -> Any:
        self.ids = farm.submit(leaf("p", children=[leaf("c", children=[leaf("e")])]))
        before = [count(farm, table) for table in (job, job_edge, job_spec, event)]
        yield
        assert [count(farm, table) for table in (job, job_edge, job_spec, event)] == before
        assert farm.job(self.ids[0]).children_total == 1

    @pytest.mark.parametrize(
        ("spec", "parent", "children", "place"),
        [
            (leaf(), 777, [], "parent_id"),
            (leaf(), None, [777], "child_ids"),
            (leaf(childrenIds=[777]), None, [], r"childrenIds\[0\]"),
            ([leaf(), leaf(children=[leaf(parentIds=[1, 777])])], None, [], r"\[1\].children\[0\].parentIds\[1\]"),
        ],
    )
    def test_unknown_ids(self, farm: StoreFarm, spec: Any, parent: int | None, children: list[int], place: str) -> None:
        with pytest.raises(UnknownJobError, match=f"{place}: there is no job 777"):
            farm.submit(spec, parent, children)

    def test_a_parent_as_its_own_child(self, farm: StoreFarm) -> None:
        with pytest.raises(CyclicGraphError, match=f"job {self.ids[0]}"):
            farm.add("n", self.ids[0], [self.ids[0]])

    def test_an_ancestor_as_a_child(self, farm: StoreFarm) -> None:
        with pytest.raises(CyclicGraphError, match="would be their own ancestors"):
            farm.add("n", self.ids[2], [self.ids[0]])
        with pytest.raises(CyclicGraphError):
            farm.submit(leaf(children=[leaf(childrenIds=[self.ids[0]])], parentIds=[self.ids[1]]))

    def test_a_cycle_through_two_new_jobs(self, farm: StoreFarm) -> None:
        with pytest.raises(CyclicGraphError):
            farm.submit(
                [
                    leaf("1", parentIds=[self.ids[2]]),
                    leaf("2", stubId="b", childStubIds=[]),
                    leaf("3", parentIds=[self.ids[1]], childrenIds=[self.ids[0]]),
                ]
            )

    def test_below_a_cancelled_job(self, farm: StoreFarm) -> None:
        cancelled = [self.ids[0], self.ids[2]]
        rows = {job_id: farm.job(job_id) for job_id in cancelled}
        for job_id in cancelled:
            farm.change(job_id, status="cancelled", ended_at=1)
        with pytest.raises(JobStateError, match="takes no new jobs below it"):
            farm.add("n", self.ids[1])
        for job_id, row in rows.items():
            farm.change(job_id, status=row.status, ended_at=None)
