"""The scheduler: the pure plan, decisions persisted, and what a tick costs with a long queue."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue import database
from hqueue.clock import SystemClock
from hqueue.lifecycle.requirements import requirement_id
from hqueue.matching import Candidate, ClientFacts, ClientView, Condition, FitTable, Requirement, Units, plan
from hqueue.schema import client, counter, job_row, job_spec
from hqueue.schema import run as run_table
from hqueue.store import Store
from tests.benchmarks.rows import Row
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROUPS = 20
FREED = 100


def requirements(count: int) -> list[Requirement]:
    """Return different requirements; every client meets a tenth of them or so."""
    return [
        Requirement(
            conditions=(Condition("group", "==", f"group{number // 2 % GROUPS}"),), cpus=1 + number // GROUPS % 3 // 2
        )
        if number % 2
        else Requirement(conditions=(Condition("hostname", "!=", f"host{number}"),))
        for number in range(count)
    ]


def mixed(count: int) -> list[Requirement]:
    """Return different requirements, every tenth of which no client meets."""
    nowhere = Requirement(conditions=(Condition("hostname", "==", "nowhere"),))
    return [
        replace(nowhere, cpus=1 + number) if number % 10 == 9 else each
        for number, each in enumerate(requirements(count))
    ]


class _Waiting:
    def __init__(self, queues: Mapping[int, Sequence[Candidate]]) -> None:
        self.queues = queues

    def after(self, requirement_id: int, seen: int, most: int) -> Sequence[Candidate]:
        return self.queues[requirement_id][seen : seen + most]

    def since(self) -> dict[int, list[int]]:
        return {}


def run_plan(jobs: int, clients: int) -> float:
    """Return the milliseconds of a pass that places all of so many jobs on clients of 10 CPUs."""
    wanted = dict(enumerate(requirements(200)))
    queues: dict[int, list[Candidate]] = {key: [] for key in wanted}
    for number in range(jobs):
        key = number // max(1, jobs // 400) % 200  # a submission has some frames alike
        queues[key].append(Candidate.of(number, key, 0, number // max(1, jobs // 400)))
    heads = {key: queue[0] for key, queue in queues.items() if queue}
    facts = [
        ClientFacts(number, f"host{number}", "", "linux", frozenset({f"group{number % GROUPS}"}), 24)
        for number in range(clients)
    ]
    fits, waiting, figures = FitTable(), _Waiting(queues), []
    fits.renew(facts)
    for _ in range(5):
        views = [ClientView(each) for each in facts]
        began = perf_counter()
        made = plan(heads, wanted, views, Units({}), fits=fits, waiting=waiting, holders={}, times=waiting)
        figures.append(perf_counter() - began)
        assert len(made.placements) > 0.9 * jobs, len(made.placements)
    return 1000 * min(figures)


def run_first_look(wanted: Sequence[Requirement], clients: int) -> float:
    """Return the milliseconds of the first pass over as many jobs as requirements, on a farm that has room for none."""
    facts = [ClientFacts(number, f"host{number}", "", "linux", frozenset(), 1) for number in range(clients)]
    figures = []
    for _ in range(3):
        fits, views = FitTable(), [ClientView(each) for each in facts]
        for view in views[1:]:
            view.occupy(Requirement())
        views[0].held = True  # it has room, and each requirement is asked about it
        queues = {key: [Candidate.of(key, key, 0, key)] for key in range(len(wanted))}
        waiting, heads = _Waiting(queues), {key: queue[0] for key, queue in queues.items()}
        requirements = dict(enumerate(wanted))
        began = perf_counter()
        fits.renew(facts)
        made = plan(heads, requirements, views, Units({}), fits=fits, waiting=waiting, holders={}, times=waiting)
        figures.append(perf_counter() - began)
        assert not made.placements
    return 1000 * min(figures)


class Farm:
    """A store with a long queue and a full farm."""

    def __init__(self, folder: Path, clients: int, jobs: int, kinds: int, cpus: int = 4) -> None:
        url = f"sqlite:///{folder}/{jobs}.db"
        engine = database.create_engine(url, pool_size=1, max_overflow=0)
        database.upgrade(engine)
        engine.dispose()
        self.store = Store(url, clock=SystemClock())
        self.store.open()
        self.farm = StoreFarm(self.store, SystemClock())  # type: ignore[arg-type]
        self.machines = [self.farm.machine(f"host{number}", cpus, silent=True) for number in range(clients)]
        with self.store.writing() as session:
            self._insert(session, jobs, kinds)

    def _insert(self, session: Any, jobs: int, kinds: int) -> None:
        rows = [_client(number, machine.cpus) for number, machine in enumerate(self.machines, 1)]
        session.connection.execute(sa.insert(client), rows)
        keys = [requirement_id(session, each) for each in mixed(kinds)]
        columns = _columns(job_row)
        for start in range(0, jobs, 10_000):
            numbers = range(start + 1, min(start + 10_000, jobs) + 1)
            roots = [number - (number - 1) % 5 for number in numbers]
            session.connection.execute(
                sa.insert(job_row),
                [
                    columns
                    | {
                        "id": number,
                        "root_id": root,
                        "is_root": number == root,
                        "status": "runnable",
                        "requirement_id": keys[root // 5 % kinds],
                        "priority": 9 if root // 5 % kinds % 10 == 9 else 0,  # those that fit nowhere stand in front
                        "has_command": True,
                        "name": "frame",
                    }
                    for number, root in zip(numbers, roots, strict=True)
                ],
            )
            spec = _columns(job_spec) | {"command_json": '"true"', "environment_json": "{}", "tags_json": "[]"}
            session.connection.execute(sa.insert(job_spec), [spec | {"job_id": number} for number in numbers])
        session.connection.execute(sa.update(counter).where(counter.c.name == "job").values(value=jobs))

    def free(self, slots: int) -> None:
        """Let the oldest runs end, as if their clients had said so."""
        with self.store.writing(durable=False) as session:
            query = (
                sa.select(run_table.c.id, run_table.c.job_id)
                .where(run_table.c.open_job_id > 0)
                .order_by(run_table.c.id)
                .limit(slots)
            )
            rows = session.connection.execute(query).all()
            ended = [row.job_id for row in rows]
            closed = {"closed_at": session.now_ms, "open_job_id": None, "outcome": "exited"}
            session.connection.execute(sa.update(run_table).where(run_table.c.job_id.in_(ended)).values(closed))
            done = {"status": "succeeded", "ended_at": session.now_ms, "run_id": None, "command_done": True}
            session.connection.execute(sa.update(job_row).where(job_row.c.id.in_(ended)).values(done))

    def tick(self) -> tuple[float, int]:
        """Return the seconds of a tick, and how many jobs it assigned."""
        told: Future[None] = Future()
        self.farm.scheduler.await_tick(told)
        began = perf_counter()
        counts = self.farm.scheduler.tick()
        return perf_counter() - began, counts.assigned


def _columns(table: sa.Table) -> dict[str, Any]:
    """Return a row of zeros."""
    plain: dict[type, Any] = {int: 0, float: 0.0, str: "", bool: False}
    return {
        column.name: None if column.nullable else plain[column.type.python_type]
        for column in table.columns
        if not column.primary_key
    }


def _client(number: int, cpus: int) -> dict[str, Any]:
    return _columns(client) | {
        "id": number,
        "label_key": f"host{number}:",
        "hostname": f"host{number}",
        "cpus": cpus,
        "platform": "linux-x86_64",
        "machine_json": "{}",
        "rules_json": "[]",
    }


def run_fill(folder: Path, clients: int) -> float:
    """Return the decisions per second of a tick that fills an empty farm, from the snapshot to the commit."""
    bench = Farm(folder, clients, 20 * clients, 200)
    try:
        _, slots = bench.tick()  # the first one learns which clients meet which requirements
        bench.free(slots)
        seconds, assigned = bench.tick()
        return assigned / seconds
    finally:
        bench.store.close()


def run_ticks(folder: Path, jobs: int, clients: int, kinds: int, freed: int) -> float:
    """Return the milliseconds of a tick after some runs of a full farm have ended."""
    bench = Farm(folder, clients, jobs, kinds)
    try:
        bench.tick()
        figures = []
        for _ in range(9):
            bench.free(freed)
            took, filled = bench.tick()
            if filled:
                figures.append(took)
        assert figures, "nothing was ever assigned"
        return 1000 * min(figures)  # what else the machine does meanwhile is no part of it
    finally:
        bench.store.close()


def run_small(folder: Path) -> float:
    """Return the milliseconds of a tick that assigns a job on a farm with one client."""
    bench = Farm(folder, 1, 500, 1, cpus=1)
    try:
        bench.tick()
        figures = []
        for _ in range(200):
            bench.free(1)
            figures.append(bench.tick()[0])
        return 1000 * statistics.median(figures)
    finally:
        bench.store.close()


def run(scale: float) -> list[Row]:
    """Measure."""
    folder = Path(tempfile.mkdtemp(prefix="hqueue-bench-"))
    try:
        clients = max(GROUPS, int(1000 * scale))  # or some groups would have none
        placed = run_plan(10 * clients, clients)
        tagged = run_first_look([Requirement(singles=(f"single:{n}",)) for n in range(2 * clients)], clients)
        pinned = [Requirement(conditions=(Condition("hostname", "==", f"host{n}"),)) for n in range(2 * clients)]
        hosts = run_first_look(pinned, clients)
        freed = max(5, int(FREED * scale))
        decisions = run_fill(folder, clients)
        few = run_ticks(folder, 10 * clients, clients, 200, freed)
        many = run_ticks(folder, 1_000 * clients, clients, 200, freed)
        small = run_small(folder)
    finally:
        shutil.rmtree(folder)
    whole = "" if clients == 1000 else f"; goals are for {1000:,} clients"
    return [
        Row(f"plan of {10 * clients:,} jobs on {clients:,} clients", placed, "ms", note=f"goal 25{whole}"),
        Row(
            f"first look at {2 * clients:,} requirements that differ in a tag",
            tagged,
            "ms",
            hosts,
            "baseline: that differ in their host, so that nothing is shared",
        ),
        Row("decisions persisted", decisions, "/s", note=f"one tick that fills {4 * clients:,} slots; goal 50,000"),
        Row(
            f"tick that fills {freed} slots, {1_000 * clients:,} jobs queued",
            many,
            "ms",
            few,
            f"baseline {10 * clients:,} queued; goal 2; a tenth fits nowhere and stands in front",
        ),
        Row("tick that fills a slot, one client", small, "ms"),
    ]
