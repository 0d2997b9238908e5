"""What happens to many running jobs at once: milliseconds of CPU under the write lock, and statements, on SQLite."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue import database
from hqueue.lifecycle.bulk import Action, act
from hqueue.lifecycle.runs import Placement, assign, lose_client
from hqueue.schema import job
from hqueue.store import Store
from tests.benchmarks.rows import Row
from tests.fakes import FakeClock
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Callable


class _Jobs:
    """Running jobs below one root, and what is measured of what happens to them."""

    def __init__(self, folder: Path, count: int) -> None:
        url = f"sqlite:///{folder}/bulk.db"
        engine = database.create_engine(url, pool_size=1, max_overflow=0)
        database.upgrade(engine)
        engine.dispose()
        self.clock = FakeClock()
        self.store = Store(url, clock=self.clock)
        self.store.open()
        self.farm = StoreFarm(self.store, self.clock)
        frames = [{"name": f"Bild {number}", "command": "x", "tries": 2} for number in range(count)]
        self.root, *self.ids = self.farm.submit({"name": "Szene", "children": frames})
        self.rows: list[Row] = []
        self._machines = 0

    def start(self) -> int:
        """Give all the jobs to a new client; return its id."""
        self._machines += 1
        machine = self.farm.machine(f"farm{self._machines}", len(self.ids))
        with self.store.reading() as connection:
            keys = connection.execute(sa.select(job.c.id, job.c.requirement_id)).all()
        places = [Placement(row.id, machine.id, row.requirement_id, 1) for row in keys if row.id != self.root]
        self.measure("assign", lambda session: assign(session, places))
        self.farm.live_farm.leave(machine.id)
        return machine.id

    def act(self, action: Action) -> None:
        """Ask something of the jobs."""
        self.measure(action.value, lambda session: act(session, action, self.ids))

    def measure(self, name: str, change: Callable[[Any], Any]) -> None:
        """Do something in a transaction of its own, and measure that."""
        began, seen = thread_time(), 0

        def note(*_: Any) -> None:
            nonlocal seen
            seen += 1

        sa.event.listen(self.store.engine, "before_cursor_execute", note)
        with self.store.writing(durable=False) as session:
            began = thread_time()
            change(session)
            session.finish()
            took_s = thread_time() - began
            session._events.clear()
        sa.event.remove(self.store.engine, "before_cursor_execute", note)
        self.rows.append(Row(f"bulk: {name} {len(self.ids):,} jobs", 1000 * took_s, "ms", note=f"{seen} statements"))


def run(scale: float) -> list[Row]:
    """Measure each thing once; the jobs run before each of them."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = _Jobs(Path(folder), max(10, round(1000 * scale)))
        jobs.start()
        jobs.act(Action.PAUSE)
        jobs.act(Action.RESUME)
        jobs.act(Action.EJECT)
        jobs.act(Action.CANCEL)
        jobs.measure("lose the client of cancelled", lambda session: lose_client(session, 1, "farm1"))
        jobs.act(Action.RESCHEDULE)
        lost = jobs.start()
        jobs.measure("lose the client of", lambda session: lose_client(session, lost, "farm2"))
        jobs.clock.advance(1)
        jobs.farm.later(14.9)
        jobs.clock.advance(9)
        began = thread_time()
        assert jobs.farm.tick().rescued == len(jobs.ids)
        took_ms = 1000 * (thread_time() - began)
        jobs.rows.append(Row(f"bulk: rescue {len(jobs.ids):,} jobs, the whole tick", took_ms, "ms"))
        jobs.start()
        jobs.act(Action.CANCEL)
        jobs.act(Action.DELETE)
        jobs.store.close()
        return jobs.rows
