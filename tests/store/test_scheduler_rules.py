"""Availability rules, and queues that nobody can serve, as ticks meet them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from hqueue.live import LiveFarm
from hqueue.schema import client
from hqueue.views.farmview import FarmReader
from tests.fakes import FakeClock
from tests.store.scheduling import explained, started, tick
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from hqueue.store import Store
    from tests.storefarm import Machine

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def clock() -> FakeClock:
    """Begin in Berlin at 01:29:30 in the night in which the clock goes forward."""
    return FakeClock(datetime(2026, 3, 29, 0, 29, 30, tzinfo=UTC), auto=True)


@pytest.fixture
def farm(sqlite_store: Store, clock: FakeClock) -> StoreFarm:
    return StoreFarm(sqlite_store, clock, reader=FarmReader(LiveFarm(clock), clock, BERLIN))


def give(farm: StoreFarm, machine: Machine, *rules: dict[str, Any]) -> None:
    """Give a client availability rules."""
    query = sa.update(client).where(client.c.id == machine.id).values(rules_json=json.dumps(rules))
    farm.write(lambda session: session.connection.execute(query))


NIGHT = {"type": "time", "start": "01:30", "end": "02:30", "enabled": True}


def test_a_window_opens_and_closes_while_jobs_go_on(farm: StoreFarm) -> None:
    machine = farm.machine(cpus=2)
    give(farm, machine, NIGHT)
    first, second, third = farm.add(cpus=2), farm.add(cpus=2), farm.add(cpus=2)
    tick(farm, 20)
    assert started(farm, first) == []
    tick(farm, 15)
    assert started(farm, first) == [first]  # 01:30
    machine.beat()
    machine.end(first)
    tick(farm)
    machine.beat()
    assert machine.jobs == [second]
    farm.clock.advance(30 * 60)  # 03:00: the rest of the window is not there tonight
    tick(farm)
    assert farm.status(second) == "running"
    machine.end(second)
    tick(farm, 2)
    assert farm.status(third) == "runnable"
    assert explained(farm, third).summary == "waits for a client: 1 outside its hours"


def test_idle_machines(farm: StoreFarm) -> None:
    machine = farm.machine()
    give(farm, machine, {"type": "idle", "minutes": 10, "enabled": True})
    job_id = farm.add()
    tick(farm)
    assert started(farm, job_id) == []
    farm.live_farm.clients[machine.id].idle_minutes = 10
    tick(farm)
    assert started(farm, job_id) == [job_id]


def test_ten_thousand_jobs_whose_client_is_off_delay_nobody(farm: StoreFarm) -> None:
    off = farm.machine("farm-aus")
    farm.machine("farm-an", cpus=1)
    farm.write(
        lambda session: session.connection.execute(sa.update(client).where(client.c.id == off.id).values(disabled=True))
    )
    hindered = {"name": "x", "command": "x", "host": "farm-aus", "priority": 9}
    farm.submit({"name": "Szene", "children": [hindered] * 10_000})
    behind = farm.add()
    farm.tick()
    assert started(farm, behind) == [behind]
