"""Many threads and one store: everybody gets a turn, in order, and nobody sees half of anything."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue import jobspec
from hqueue.errors import StoreUnavailableError
from hqueue.lifecycle.bulk import Action, act
from hqueue.lifecycle.submission import submit
from hqueue.schema import client_group, event, job
from hqueue.store import FairLock, Store
from tests.fakes import PATIENCE_S
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hqueue.store import Session
    from tests.fakes import FakeClock


def run_together(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions in threads that begin at the same moment; return their results, or raise what one raised."""
    barrier = threading.Barrier(len(functions))
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(place: int, function: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE_S)
            results[place] = function()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(place, function), daemon=True) for place, function in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S * 3)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def add_group(session: Session, name: str) -> None:
    session.connection.execute(sa.insert(client_group).values(name=name))


class TestFairLock:
    def test_turns_are_taken_in_the_order_in_which_they_were_asked_for(self) -> None:
        lock = FairLock()
        order: list[int] = []
        threads: list[threading.Thread] = []

        def take(number: int) -> None:
            with lock:
                order.append(number)

        with lock:
            for number in range(20):
                thread = threading.Thread(target=take, args=(number,), daemon=True)
                thread.start()
                threads.append(thread)
                _until(lambda number=number: len(lock._waiting) == number + 1)  # type: ignore[misc]
        for thread in threads:
            thread.join(PATIENCE_S)
        assert order == list(range(20))

    def test_nobody_slips_in_before_those_who_wait(self) -> None:
        lock = FairLock()
        taken = threading.Event()
        order: list[str] = []

        def wait_for_it() -> None:
            with lock:
                order.append("waited")
                taken.set()

        with lock:
            thread = threading.Thread(target=wait_for_it, daemon=True)
            thread.start()
            _until(lambda: len(lock._waiting) == 1)
        with lock:
            order.append("came later")
        thread.join(PATIENCE_S)
        assert taken.is_set()
        assert order == ["waited", "came later"]

    def test_never_two_at_a_time(self) -> None:
        lock = FairLock()
        inside = most = 0

        def work() -> None:
            nonlocal inside, most
            for _ in range(300):
                with lock:
                    inside += 1
                    most = max(most, inside)
                    inside -= 1

        run_together(*[work] * 8)
        assert most == 1
        assert not lock._held
        assert not lock._waiting


class TestWriters:
    def test_read_then_write_loses_no_update(self, store: Store) -> None:
        """What fails with "database is locked", or counts too little, without the lock and BEGIN IMMEDIATE."""
        with store.writing() as session:
            add_group(session, "0")

        def add_one() -> None:
            for _ in range(15):
                with store.writing() as session:
                    value = int(session.connection.execute(sa.select(client_group.c.name)).scalar_one())
                    session.connection.execute(sa.update(client_group).values(name=str(value + 1)))

        run_together(*[add_one] * 6)
        with store.reading() as connection:
            assert connection.execute(sa.select(client_group.c.name)).scalar_one() == "90"

    def test_shared_commits_from_many_threads(self, store: Store) -> None:
        def submit_many(worker: int) -> None:
            futures = [
                store.write_soon(lambda session, name=f"{worker}-{n}": add_group(session, name))  # type: ignore[misc]
                for n in range(40)
            ]
            for future in futures:
                future.result(PATIENCE_S)

        run_together(*[lambda worker=worker: submit_many(worker) for worker in range(6)])  # type: ignore[misc]
        with store.reading() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(client_group)).scalar_one() == 240

    def test_numbers_are_given_once(self, store: Store) -> None:
        taken: list[int] = []

        def take() -> None:
            taken.extend(
                store.write_soon(lambda session: session.allocate("job", 3)).result(PATIENCE_S) for _ in range(20)
            )

        run_together(*[take] * 5)
        assert sorted(taken) == list(range(1, 301, 3))

    def test_readers_see_whole_transactions_only(self, store: Store) -> None:
        """Two rows are always written together; a reader that sees one sees the other."""
        stop = threading.Event()
        seen: list[int] = []

        def write() -> None:
            for n in range(40):
                with store.writing() as session:
                    add_group(session, f"a{n}")
                    add_group(session, f"b{n}")
            stop.set()

        def read() -> None:
            while not stop.is_set():
                with store.reading() as connection:
                    seen.append(connection.execute(sa.select(sa.func.count()).select_from(client_group)).scalar_one())

        run_together(write, read, read)
        assert seen
        assert all(count % 2 == 0 for count in seen)

    def test_closing_while_others_write(self, store: Store) -> None:
        """Each is told the truth: what was acknowledged is there, what was refused is not."""
        acknowledged: list[str] = []

        def write(worker: int) -> None:
            for n in range(1000):
                name = f"{worker}-{n}"
                try:
                    store.write_soon(lambda session, name=name: add_group(session, name)).result(PATIENCE_S)  # type: ignore[misc]
                except StoreUnavailableError:
                    return
                acknowledged.append(name)

        def close() -> None:
            _until(lambda: len(acknowledged) > 20)
            store.close()

        run_together(close, *[lambda worker=worker: write(worker) for worker in range(3)])  # type: ignore[misc]
        store.open()
        with store.reading() as connection:
            assert set(connection.execute(sa.select(client_group.c.name)).scalars()) == set(acknowledged)

    def test_starting_and_stopping_again_and_again(self, sqlite_store: Store) -> None:
        before = [thread.name for thread in threading.enumerate()].count("group-commit")
        for n in range(20):
            sqlite_store.close()
            sqlite_store.open()
            sqlite_store.write_soon(lambda session, n=n: add_group(session, f"{n}")).result(PATIENCE_S)  # type: ignore[misc]
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("group-commit") == before


class Commotion:
    """What happens to a farm, each kind to be done by a thread of its own."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.farm = StoreFarm(store, clock)
        self.machines = [self.farm.machine(f"farm{n:02}", cpus=4) for n in range(2)]
        self.submitted: list[int] = []
        self._store = store
        self._clock = clock

    def submit(self) -> None:
        children = [{"name": "c", "command": "x"} for _ in range(3)]
        graph = jobspec.parse({"name": "影", "command": "x", "children": children}, max_depth=9)
        for _ in range(15):
            future = self._store.write_soon(lambda session: submit(session, graph))
            self.submitted.append(future.result(PATIENCE_S)[0])

    def act(self) -> None:
        for action in (Action.PAUSE, Action.CANCEL, Action.RESUME, Action.EJECT, Action.RESCHEDULE, Action.PAUSE) * 3:
            write = partial(act, action=action, job_ids=self.submitted[-3:])
            self._store.write_soon(write).result(PATIENCE_S)

    def carry_on(self) -> None:
        for _ in range(40):
            self.farm.step()

    def tick(self) -> None:
        for _ in range(15):
            self._clock.advance(1)
            self.farm.tick()

    def work(self) -> None:
        for machine in self.machines * 10:
            machine.beat()
            machine.obey()
            going = [job_id for job_id in machine.jobs if machine.held[machine.token(job_id)].state == "running"]
            for job_id in going[:2]:
                machine.end(job_id)


def test_everything_at_once(store: Store, clock: FakeClock) -> None:
    """Submissions, actions, wishes, ticks and clients together; the invariants are checked at the end."""
    all_of_it = Commotion(store, clock)
    run_together(all_of_it.submit, all_of_it.submit, all_of_it.act, all_of_it.carry_on, all_of_it.tick, all_of_it.work)
    all_of_it.farm.finish_bulk()
    with store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(job)).scalar_one() == 30 * 4
        numbers: Sequence[int] = connection.execute(sa.select(event.c.seq).order_by(event.c.seq)).scalars().all()
    assert list(numbers) == list(range(1, len(numbers) + 1))
    assert all_of_it.farm.repair() == []


def _until(condition: Callable[[], bool]) -> None:
    """Return once a condition holds that other threads bring about; fail after a while."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("the condition never came true")
