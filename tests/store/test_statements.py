"""What happens to many jobs at once takes as many statements as what happens to a few.

An `executemany` counts as one: the driver is handed all rows together. Only chunks of thousands may add to it.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.lifecycle import bulk, clients
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.runs import Placement, Report, assign
from hqueue.schema import job
from hqueue.store import Store
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes import FakeClock
    from tests.storefarm import Machine


class Life:
    """Jobs below one root, and all that happens to them in the course of a test."""

    def __init__(self, farm: StoreFarm, count: int) -> None:
        self.farm = farm
        self.statements: dict[str, int] = {}
        frames = [{"name": f"Bild {number}", "command": "x", "tries": 2} for number in range(count)]
        self.root, *self.ids = farm.submit({"name": "Szene", "children": frames})

    @contextlib.contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Count the statements of the block."""
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement != "SELECT 1":  # is the session still there: asked where the machine was slow
                seen.append(statement)

        engine = self.farm.store.engine
        sa.event.listen(engine, "before_cursor_execute", note)
        try:
            yield
        finally:
            sa.event.remove(engine, "before_cursor_execute", note)
        self.statements[name] = len(seen)

    def act(self, action: Action, name: str = "") -> None:
        """Ask something of the jobs themselves, and say what their status is then."""
        with self.counted(f"{action.value}{name}"), self.farm.store.writing() as session:
            bulk.act(session, action, self.ids)

    def assign(self, hostname: str) -> Machine:
        """Give all the jobs to a new machine, which lists them."""
        machine = self.farm.machine(f"{hostname}-{len(self.ids)}", len(self.ids))
        key = self.farm.job(self.ids[0]).requirement_id
        with self.farm.store.reading() as connection:
            keys = {row.id: row.requirement_id for row in connection.execute(sa.select(job.c.id, job.c.requirement_id))}
        places = [Placement(job_id, machine.id, keys.get(job_id, key), 1) for job_id in self.ids]
        with self.counted("assign"), self.farm.store.writing() as session:
            assert assign(session, places) == len(self.ids)
        machine.beat()
        return machine

    def list_as(self, machine: Machine, state: str, name: str) -> None:
        """Let a machine carry out what its runs were asked for, and say so."""
        machine.beat()
        for held in machine.held.values():
            held.state = state
            held.wish = held.asked.number if held.asked else held.wish
        with self.counted(name), self.farm.store.writing() as session:
            clients.take_listing(session, machine.id, machine.label, machine.listing())

    def are(self, status: str) -> bool:
        """Tell whether all the jobs have a status."""
        with self.farm.store.reading() as connection:
            query = sa.select(job.c.status).where(job.c.root_id == self.root, job.c.id != self.root)
            return list(connection.execute(query).scalars()) == [status] * len(self.ids)


def live_through(farm: StoreFarm, count: int) -> dict[str, int]:
    """Let everything happen to so many jobs; return the statements that each thing took."""
    life = Life(farm, count)
    while_they_run(life)
    after_they_ran(life)
    return life.statements


def while_they_run(life: Life) -> None:
    """Pause, resume and eject jobs, and lose their client."""
    farm = life.farm
    first = life.assign("erste")
    life.act(Action.PAUSE)
    assert life.are("pausing")
    life.list_as(first, "halted", "halted")
    assert life.are("paused")
    life.act(Action.RESUME)
    life.list_as(first, "running", "continued")
    assert life.are("running")
    with life.counted("client lost"):
        first.vanish()
    assert life.are("abandoned")
    first.incarnation += 1
    first.register()
    life.list_as(first, "running", "client back")
    assert life.are("running")
    life.act(Action.EJECT)
    assert life.are("ejecting")
    first.vanish()
    farm.clock.advance(1)
    farm.later(14.9)
    farm.clock.advance(9)
    with life.counted("rescue"):
        assert farm.tick().rescued == len(life.ids)
    assert life.are("runnable")


def after_they_ran(life: Life) -> None:
    """End, cancel, reschedule and delete jobs, and remove their client."""
    farm = life.farm
    second = life.assign("zweite")
    with life.counted("ended well"), farm.store.writing() as session:
        reports = [Report(token, "exited") for token in sorted(second.held)]
        clients.take_reports(session, second.id, second.label, reports)
    assert life.are("succeeded")
    life.act(Action.RESCHEDULE, " after success")
    assert life.are("runnable")
    third = life.assign("dritte")
    life.act(Action.CANCEL)
    assert life.are("cancelled")
    with life.counted("client lost with cancelled runs"):
        third.vanish()
    life.act(Action.RESCHEDULE)
    assert life.are("runnable")
    fourth = life.assign("vierte")
    fourth.vanish()
    with life.counted("removed client"), farm.store.writing() as session:
        clients.give_up_runs(session, fourth.id, "weg")
    assert life.are("runnable")
    life.assign("fünfte").vanish()
    life.act(Action.RESCHEDULE, " while abandoned")
    assert life.are("runnable")
    last = life.assign("sechste")
    life.act(Action.CANCEL)
    life.act(Action.DELETE)
    assert not any(farm.exists(job_id) for job_id in life.ids)
    farm.finish_bulk()
    second.vanish()
    last.vanish()


@pytest.mark.databases("sqlite")
def test_statements_do_not_grow_with_the_number_of_jobs(farm: StoreFarm) -> None:
    compare(farm)


@pytest.mark.slow  # a driver may hand over row by row what is one statement for us
@pytest.mark.timeout(600)
@pytest.mark.databases("postgresql", "mysql")
def test_statements_do_not_grow_on_the_other_databases(farm: StoreFarm) -> None:
    compare(farm)


def compare(farm: StoreFarm) -> None:
    live_through(farm, 1)  # fills the caches
    few, many = live_through(farm, 10), live_through(farm, 1_000)
    assert few == many
    assert max(few.values()) < 40, few


def test_no_list_meets_a_limit_of_parameters(migrated_file: Path, tmp_path: Path, clock: FakeClock) -> None:
    shutil.copy(migrated_file, tmp_path / "hqserver.db")
    store = Store(f"sqlite:///{tmp_path}/hqserver.db", clock=clock)
    sa.event.listen(store.engine, "connect", lambda each, _: each.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 100))
    store.open()
    try:
        live_through(StoreFarm(store, clock), 150)
    finally:
        store.close()
