"""One seed: a farm that lives for a while, and must have done all that could be done at the end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hqueue import database
from hqueue.lifecycle import failures
from hqueue.store import Store
from tests.fakes import FakeClock
from tests.invariants import check_invariants
from tests.simulator.oracle import Oracle
from tests.simulator.world import HOLD_AFTER_S, TICK_S, Kind, World
from tests.store.scheduling import explained

if TYPE_CHECKING:
    from collections.abc import Callable

TICKS = 200
_AFTER = 3000  # ticks that the work left over may take
_DONE = {"succeeded", "failed", "cancelled"}
# How often what happens; submissions and clients that come back keep the farm busy.
_HAPPENINGS: dict[str, int] = {
    "submission": 12,
    "late_frame": 3,
    "switch": 3,
    "group": 2,
    "rules": 2,
    "somebody_sits_down": 2,
    "loss": 3,
    "resource": 1,
    "priority": 3,
    "action": 4,
}


def run_seed(seed: int, url: str, ticks: int = TICKS) -> World:
    """Run a seed on a migrated, empty store; an AssertionError says what does not hold."""
    clock = FakeClock(auto=True)
    store = Store(url, clock=clock)
    store.open()
    try:
        world = World(store, clock, seed)
        live = _stream if seed % 4 == 0 else _random
        live(world, Oracle(world), ticks)
        check_invariants(store)
        return world
    finally:
        store.close()


def _tick(world: World, oracle: Oracle) -> None:
    world.clock.advance(TICK_S)
    world.beat()
    _until_quiet(world)
    oracle.judge()


def _until_quiet(world: World) -> None:
    """Tick once, and again while jobs are on their way to other requirements."""
    for _ in range(20):
        world.farm.tick()
        with world.farm.store.reading() as connection:
            if not failures.pending_roots(connection):
                return


def _random(world: World, oracle: Oracle, ticks: int) -> None:
    """Let anything happen, then nothing more."""
    names, weights = list(_HAPPENINGS), list(_HAPPENINGS.values())
    for number in range(ticks):
        if world.chance.random() < 0.6:
            happening: Callable[[], None] = getattr(world, f"happen_{world.chance.choices(names, weights)[0]}")
            happening()
        _tick(world, oracle)
        if number % 25 == 0:
            check_invariants(world.farm.store)
            _explain_some(world)
    world.settle_down()
    _finish(world, oracle)


def _finish(world: World, oracle: Oracle) -> None:
    """Let the farm do what is left; what never runs must be unable to."""
    for _ in range(_AFTER):
        _tick(world, oracle)
        left = {job_id: status for job_id, status in world.statuses().items() if status not in _DONE}
        able = [job_id for job_id, status in left.items() if _could_run(world, oracle, job_id, status)]
        if not able:
            return
    job_id = able[0]
    raise AssertionError(
        f"job {job_id} {world.jobs[job_id].spec} is {left[job_id]} at the end, but could run: "
        f"{explained(world.farm, job_id).summary}",
    )


def _could_run(world: World, oracle: Oracle, job_id: int, status: str) -> bool:
    """Tell whether a job that is not done could run on an idle farm."""
    kind = world.jobs[job_id]
    if status == "queued":
        return False  # its children are asked
    if status != "runnable":
        return True
    able = [node for node in world.nodes.values() if oracle.takes(node, job_id, kind)]
    resting = [node for node in world.nodes.values() if node.rests_until_s > world.now_s]
    least = kind.get("minHosts", 1)
    for name, amount in kind.get("resources", {}).items():
        maximum, per_machine = world.maxima[name]
        if amount * (least if per_machine else 1) > maximum:
            return False
    return len(able) >= least or bool(resting)


def _explain_some(world: World) -> None:
    """Ask why some jobs wait: every client counts once, and there is a sentence."""
    waiting = [job_id for job_id, status in world.statuses().items() if status == "runnable"]
    for job_id in waiting[-3:]:
        found = explained(world.farm, job_id)
        assert found.free + sum(each.count for each in found.reasons) == found.total == len(world.nodes)
        assert found.summary.startswith("waits for ")


def _stream(world: World, oracle: Oracle, ticks: int) -> None:
    """An endless stream of small jobs fills the farm; one that needs more, and comes before them, starts all the same.

    One at a time, so that it waits only for what runs: after `hold_after_s` it has clients held, and those are empty
    once what runs there has ended.
    """
    world.calm = True
    for node in world.nodes.values():
        node.cpus = max(2, node.cpus)
        node.platform = "linux-x86_64"
        node.incarnation += 1
        world.register(node)
    world.longest_s = 40
    bound_s = HOLD_AFTER_S + 3 * world.longest_s + 6 * TICK_S
    big, since = None, 0.0
    for _ in range(ticks):
        small = Kind({"name": "klein", "command": "x"}, lambda _: True)
        waiting = sum(status == "runnable" for status in world.statuses().values())
        if waiting < 2 * sum(node.cpus for node in world.nodes.values()):
            world.submit(*[Kind(small.spec, small.allows) for _ in range(12)])
        if big is None and world.chance.random() < 0.2:
            big, since = world.submit(_big(world))[0], world.now_s
        _tick(world, oracle)
        if big is not None and world.jobs[big].starts:
            big = None
        assert big is None or world.now_s - since <= bound_s, (
            f"job {big} {world.jobs[big].spec} waits for {world.now_s - since} s: {explained(world.farm, big).summary}"
        )
    world.settle_down()
    _finish(world, oracle)


def _big(world: World) -> Kind:
    """Return a job that a stream of small ones could keep from ever starting."""
    widest = max(node.cpus for node in world.nodes.values())
    spec = world.chance.choice(
        [
            {"tags": ["single"]},
            {"cpus": widest},
            {"minHosts": len(world.nodes), "maxHosts": len(world.nodes)},
            {"minHosts": 2, "maxHosts": 2, "cpus": 2},
            {"tags": ["single"], "minHosts": 2, "maxHosts": 3},
        ]
    )
    return Kind({"name": "groß", "command": "x", "priority": 9} | spec, lambda _: True)


class Folder:
    """A folder for stores, each a copy of one that is migrated and empty."""

    def __init__(self) -> None:
        where = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="hqueue-simulator-", dir=where)
        self._empty = Path(self._folder.name) / "empty.db"
        engine = database.create_engine(f"sqlite:///{self._empty}", pool_size=1, max_overflow=0)
        database.upgrade(engine)
        database.checkpoint(engine)
        engine.dispose()

    def url(self) -> str:
        """Return the URL of an empty store; the one before is gone."""
        for old in Path(self._folder.name).glob("hqserver.db*"):
            old.unlink()
        path = Path(self._folder.name) / "hqserver.db"
        shutil.copy(self._empty, path)
        return f"sqlite:///{path}"

    def close(self) -> None:
        """Remove it."""
        self._folder.cleanup()
