"""The methods that users call, through the dispatcher, on a farm without a network."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue import wire
from hqueue.api import Pages, chapters
from hqueue.context import make_context
from hqueue.live import LiveClient
from hqueue.rpc.dispatch import MethodTable
from tests.fakes import PATIENCE_S
from tests.storefarm import StoreFarm, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hqueue.store import Store
    from tests.fakes import FakeClock
    from tests.storefarm import Machine


class Api:
    """Every method for users: `api.getJob(1)` goes through the dispatcher, and waits for what is parked."""

    def __init__(self, store: Store, clock: FakeClock, folder: Path, overrides: Mapping[str, str]) -> None:
        self.store = store
        self.clock = clock
        self.config = settings(**{"job_logs_dir": str(folder / "job_logs"), **overrides})
        self.context = make_context(store, self.config, clock, lambda _: None)
        self.farm = StoreFarm(store, clock, self.config, self.context.farm)
        self.live_farm = self.context.live_farm
        self.logs = self.context.logs
        self.errors = self.context.errors
        self.pages = Pages(self.context)
        self.context.incoming.start()
        for told in self.context.incoming.tidy():
            told.result(PATIENCE_S)
        self.table = MethodTable()
        for each in chapters(self.context):
            self.table.add(each)

    def close(self) -> None:
        """End its threads, and close its files."""
        self.context.incoming.stop()
        self.logs.close()

    def call(self, name: str, *params: Any) -> Any:
        """Call a method and return its value, however it comes."""
        answer = self.table.dispatch(name, params)
        value = answer.result(PATIENCE_S) if isinstance(answer, Future) else answer
        rows = value.get("jobs") if isinstance(value, dict) else value
        if isinstance(rows, list) and any(isinstance(row, wire.Raw) for row in rows):
            return wire.loads_response(wire.dumps_response(value))  # what was written as XML at once
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *params: self.call(name, *params)

    def run(self, job_id: int, machine: Machine, output: str = "") -> None:
        """Let a job run on a machine, and print something there."""
        self.farm.start(job_id, machine)
        if output:
            self.print(job_id, output)

    def print(self, job_id: int, output: str | bytes) -> None:
        """Let a job's command write to its output."""
        run = self.farm.run(job_id)
        data = output if isinstance(output, bytes) else output.encode()
        self.logs.append(job_id, run.id, self.logs.length(job_id, run.id), data, lambda: "Kopf\n")

    def statements(self, call: Callable[[], object]) -> list[str]:
        """Return the SQL of the queries that a call makes."""
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        sa.event.listen(self.store.engine, "before_cursor_execute", note)
        try:
            call()
        finally:
            sa.event.remove(self.store.engine, "before_cursor_execute", note)
        return [each for each in seen if each.startswith(("SELECT", "WITH"))]

    def beat(self, machine: Machine, **said: Any) -> None:
        """Let the server know what a client says of itself in a heartbeat."""
        live = LiveClient(machine.id, machine.label, machine.key, machine.incarnation, number=1)
        live.last_heartbeat_at = int(self.clock.now().timestamp() * 1000)
        for field, value in said.items():
            setattr(live, field, value)
        self.live_farm.enter(live)


@pytest.fixture
def overrides() -> dict[str, str]:
    """Return settings of the server; a test module overrides this fixture for others."""
    return {}


@pytest.fixture
def api(sqlite_store: Store, clock: FakeClock, tmp_path: Path, overrides: dict[str, str]) -> Iterator[Api]:
    made = Api(sqlite_store, clock, tmp_path, overrides)
    yield made
    made.close()


@pytest.fixture
def api_everywhere(store: Store, clock: FakeClock, tmp_path: Path, overrides: dict[str, str]) -> Iterator[Api]:
    """Return the same on each database that is reachable."""
    made = Api(store, clock, tmp_path, overrides)
    yield made
    made.close()
