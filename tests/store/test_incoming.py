"""Large submissions: nobody sees a part of one, whatever comes in between."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue import jobspec
from hqueue.errors import InvalidSpecError, StoreUnavailableError, UnknownJobError
from hqueue.lifecycle import incoming
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.incoming import Incoming
from hqueue.lifecycle.submission import Submission
from hqueue.schema import event, job, job_edge, job_row, job_spec
from hqueue.schema import incoming as ranges
from hqueue.store import WakeScheduler
from tests.farm import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hqueue.store import Session, Store
    from tests.fakes import FakeClock
    from tests.storefarm import StoreFarm

MANY = 450  # more than fit into one step


class Steps:
    """Runs the lanes, and calls `between` after every piece: outside of transactions, as others would."""

    def __init__(self, farm: StoreFarm, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.between: Callable[[int], None] = lambda _: None
        self.store, self.number = farm.store, 0
        monkeypatch.setattr(incoming, "_STEP_S", 0)
        self.lanes = Incoming(farm.store, clock, lambda _: None)
        self.lanes._store_in_steps = self._stored(self.lanes._store_in_steps)
        self.lanes.start()

    def _stored(self, whole: Any) -> Any:
        """Let the last step of each submission, which makes it visible, find what `between` has done."""

        def store(lane: int, found: Any) -> None:
            whole(lane, found)
            self.number += 1
            self.between(self.number)

        return store

    def put(self, spec: Any, parent_id: int | None = None, child_ids: Any = ()) -> Any:
        return self.lanes.put(jobspec.parse(spec, max_depth=10), parent_id, child_ids)

    def submit(self, spec: Any, parent_id: int | None = None, child_ids: Any = ()) -> list[int]:
        return self.put(spec, parent_id, child_ids).result(PATIENCE_S)

    def tidy(self) -> None:
        for told in self.lanes.tidy():
            told.result(PATIENCE_S)


@pytest.fixture
def steps(farm: StoreFarm, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps(farm, clock, monkeypatch)
    yield steps
    steps.lanes.stop()


def tree(count: int = MANY, **more: Any) -> dict[str, Any]:
    children = [{"name": f"Bild {number}", "command": "render"} for number in range(count - 1)]
    return {"name": "Größe", "children": children, **more}


def rows(store: Store, table: sa.Table) -> int:
    with store.reading() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def hidden(store: Store) -> list[tuple[int, int]]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(sa.select(ranges.c.first_id, ranges.c.last_id)) if row.last_id]


def feed(store: Store) -> list[tuple[int, str, int]]:
    query = sa.select(event.c.job_id, event.c.event, event.c.jobs).where(event.c.jobs > 0).order_by(event.c.seq)
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(query)]


def assert_nothing_is_left(store: Store, jobs: int = 0) -> None:
    assert hidden(store) == []
    assert rows(store, job_row) == rows(store, job_spec) == jobs
    assert rows(store, event) == jobs


def test_all_at_once_for_everybody(farm: StoreFarm, steps: Steps) -> None:
    farm.machine()
    seen: list[Any] = []

    def look(_: int) -> None:
        other = farm.add("Zwischendurch", priority=9)
        farm.act(Action.CANCEL, *range(1, MANY + 1))
        mended, assigned = farm.repair(), farm.tick().assigned
        seen.append((rows(farm.store, job_row), rows(farm.store, job), mended, farm.status(other), assigned))

    steps.between = look
    ids = steps.submit(tree())
    assert seen == [(MANY + 1, 1, [], "running", 1)]
    assert ids == list(range(1, MANY + 1))
    assert rows(farm.store, job) == MANY + 1
    assert {farm.job(job_id).status for job_id in ids[1:]} == {"runnable"}
    assert hidden(farm.store) == []
    assert feed(farm.store)[-1] == (1, "submitted", MANY)


def test_what_stands_above_changes_meanwhile(farm: StoreFarm, steps: Steps) -> None:
    parent = farm.add("Oben", priority=1)

    def change(number: int) -> None:
        if number == 1:
            farm.act(Action.PAUSE, parent)

    steps.between = change
    ids = steps.submit(tree(), parent)
    assert steps.number == 2  # what had been stored was not right any more
    assert {farm.job(job_id).status for job_id in ids} == {"paused"}
    assert farm.job(parent).children_total == 1
    assert rows(farm.store, job_row) == MANY + 1


def test_what_stands_above_changes_all_the_time(farm: StoreFarm, steps: Steps) -> None:
    parent = farm.add("Oben")
    steps.between = lambda number: farm.act(Action.PAUSE if number % 2 else Action.RESUME, parent)
    ids = steps.submit(tree(), parent)
    assert {farm.job(job_id).status for job_id in ids} == {"paused"}
    assert hidden(farm.store) == []
    assert rows(farm.store, job_row) == MANY + 1


def test_what_stands_below_settles_meanwhile(farm: StoreFarm, steps: Steps) -> None:
    child = farm.add("Unten")
    steps.between = lambda number: farm.act(Action.CANCEL, child) if number == 1 else None
    ids = steps.submit([{"name": "Oben", "childrenIds": [child]}, *tree()["children"]])
    assert farm.job(ids[0]).children_unsettled == 0
    assert farm.job(ids[0]).status == "failed"


def test_the_parent_is_deleted_meanwhile(farm: StoreFarm, steps: Steps) -> None:
    parent = farm.add("Oben")
    farm.act(Action.CANCEL, parent)
    farm.act(Action.RESCHEDULE, parent)

    def delete(_: int) -> None:
        farm.act(Action.CANCEL, parent)
        farm.act(Action.DELETE, parent)

    steps.between = delete
    with pytest.raises(UnknownJobError):
        steps.submit(tree(), parent)
    steps.tidy()
    assert hidden(farm.store) == []
    assert rows(farm.store, job_row) == rows(farm.store, job_spec) == rows(farm.store, job_edge) == 0


@pytest.mark.parametrize("error", [StoreUnavailableError("weg"), RuntimeError("ein Fehler von uns")])
def test_a_step_that_fails_leaves_nothing(farm: StoreFarm, steps: Steps, error: Exception) -> None:
    def fail(number: int) -> None:
        if number == 1:
            raise error

    steps.between = fail
    with pytest.raises(Exception, match=r"weg|error of its own"):
        steps.submit(tree())
    steps.tidy()
    assert_nothing_is_left(farm.store)
    assert steps.submit(tree())[0] == MANY + 1


def test_the_next_start_removes_what_a_crash_left(farm: StoreFarm, steps: Steps, clock: FakeClock) -> None:
    held, goes_on = threading.Event(), threading.Event()

    def crash(_: int) -> None:
        held.set()
        goes_on.wait(PATIENCE_S)
        raise SystemExit  # of the thread alone: nothing is removed

    steps.between = crash
    steps.put(tree())
    assert held.wait(PATIENCE_S)
    goes_on.set()
    steps.lanes.stop()
    assert rows(farm.store, job_row) == MANY
    assert rows(farm.store, job) == 0
    assert farm.repair() == []
    again = Incoming(farm.store, clock, lambda _: None)
    again.start()
    for told in again.tidy():
        told.result(PATIENCE_S)
    again.stop()
    assert_nothing_is_left(farm.store)


@pytest.mark.parametrize("count", [MANY, 2 * MANY], ids=["at its last step", "between two steps"])
def test_another_server_that_stands_in_removes_it(
    farm: StoreFarm, steps: Steps, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def stand_in(_: object = None) -> None:
        other = Incoming(farm.store, clock, lambda _: None)
        other.start()
        for told in other.tidy():
            told.result(PATIENCE_S)
        other.stop()

    if count == MANY:
        steps.between = stand_in
    else:
        whole, stored = Submission.store, []

        def store(found: Submission, session: Session, indexes: range) -> None:
            whole(found, session, indexes)
            stored.append(indexes)
            if len(stored) == 3:  # the next step begins after that
                session.after_commit(WakeScheduler())

        monkeypatch.setattr(Submission, "store", store)
        monkeypatch.setattr(farm.store, "on_commit", lambda _: stand_in() if len(stored) == 3 else None)
    with pytest.raises(StoreUnavailableError, match="another server"):
        steps.submit(tree(count))
    assert_nothing_is_left(farm.store)


def test_a_stop_ends_it_between_two_steps(farm: StoreFarm, steps: Steps) -> None:
    steps.lanes._stopping.set()
    with pytest.raises(StoreUnavailableError, match="stopping"):
        steps.submit(tree())
    steps.tidy()
    assert_nothing_is_left(farm.store)


def test_short_ones_do_not_wait_for_long_ones(farm: StoreFarm, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_SHORT", MANY)
    short: list[list[int]] = []

    def between(number: int) -> None:
        if number == 1:
            short.append(steps.submit(tree()))

    steps.between = between
    long = steps.submit(tree(MANY + 1))
    assert short == [list(range(MANY + 2, 2 * MANY + 2))]
    assert long == list(range(1, MANY + 2))


def test_a_repeat_waits_for_the_first(farm: StoreFarm, steps: Steps) -> None:
    spec = tree(submissionId="bild-7")
    first, second = steps.put(spec), steps.put(spec)
    assert first.result(PATIENCE_S) == second.result(PATIENCE_S)
    assert rows(farm.store, job_row) == MANY


def test_a_key_that_another_one_takes_meanwhile(farm: StoreFarm, steps: Steps) -> None:
    steps.between = lambda number: farm.add("Andere", submissionId="bild-7") if number == 1 else None
    with pytest.raises(InvalidSpecError, match="submissionId"):
        steps.submit(tree(submissionId="bild-7"))
    steps.tidy()
    assert rows(farm.store, job_row) == 1
