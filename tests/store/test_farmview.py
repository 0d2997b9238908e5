"""The farm as a plan sees it, read by several threads through one reader."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hqueue.live import LiveFarm
from hqueue.schema import requirement
from hqueue.views.farmview import FarmReader
from tests.fakes import PATIENCE_S

if TYPE_CHECKING:
    from hqueue.store import Store
    from tests.fakes import FakeClock
    from tests.storefarm import StoreFarm


def keys_of(farm: StoreFarm, count: int) -> list[int]:
    """Submit jobs that need different things, and return the ids of what they need."""
    farm.submit([{"name": "影", "command": "x", "cpus": cpus} for cpus in range(1, count + 1)])
    with farm.store.reading() as connection:
        return list(connection.execute(sa.select(requirement.c.id).order_by(requirement.c.id)).scalars())


def test_what_a_reader_was_given_stays_when_the_next_one_makes_room(farm: StoreFarm) -> None:
    keys = keys_of(farm, 9)
    reader = FarmReader(farm.live_farm, farm.clock, most_kept=2)
    with farm.store.reading() as connection:
        first = reader.requirements(connection, keys[:4])
        second = reader.requirements(connection, keys[4:])
        assert {first[key].cpus for key in keys[:4]} == {1, 2, 3, 4}
        assert {second[key].cpus for key in keys[4:]} == {5, 6, 7, 8, 9}
        assert second.keys().isdisjoint(keys[:4])


def test_threads_share_a_reader(farm: StoreFarm, clock: FakeClock, store: Store) -> None:
    keys = keys_of(farm, 24)
    for number in range(5):
        farm.machine(f"farm{number}", cpus=4)
    reader = FarmReader(LiveFarm(clock), clock, most_kept=3)
    threads, rounds = 4, 25
    start = threading.Barrier(threads)

    def read(own: list[int]) -> None:
        start.wait(PATIENCE_S)
        for _ in range(rounds):
            with store.reading() as connection:
                found = reader.requirements(connection, own)
                assert [found[key].cpus for key in own] == [key - keys[0] + 1 for key in own]
                assert len(reader.read(connection).clients) == 5

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(read, keys[number::threads]) for number in range(threads)]:
            done.result(PATIENCE_S)
