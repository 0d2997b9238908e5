"""One seed: a farm that lives for a while, and must have done all that could be done at the end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hqueue import database
from hqueue.lifecycle import blocklist
from hqueue.store import Store
from tests.fakes import FakeClock
from tests.invariants import check_invariants
from tests.simulator.oracle import Oracle
from tests.simulator.world import HOLD_AFTER_S, TICK_S, Kind, World
from tests.store.scheduling import explained

if TYPE_CHECKING:
    from collections.abc import Callable

TICKS = 200
_AFTER = 1000  # ticks that the work left over may take
_LONGEST_TICK_S = 60.0  # then: where nothing ends sooner
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
    "condemnation": 2,
    "termination": 2,
    "resource": 1,
    "priority": 3,
    "action": 4,
}
_TROUBLES: dict[str, int] = {"troubled_scene": 4}  # besides, in some seeds


def run_seed(seed: int, url: str, ticks: int = TICKS) -> World:
    """Run a seed on a migrated, empty store; an AssertionError says what does not hold."""
    clock = FakeClock(auto=True)
    store = Store(url, clock=clock)
    store.open()
    try:
        world = World(store, clock, seed)
        if seed % 4 == 0:
            _stream(world, Oracle(world), ticks)
        else:
            _random(world, Oracle(world), ticks, _HAPPENINGS | (_TROUBLES if world.is_troubled else {}))
        check_invariants(store)
        return world
    finally:
        store.close()


def _tick(world: World, oracle: Oracle, seconds: float = TICK_S) -> None:
    world.clock.advance(seconds)
    world.beat()
    _until_quiet(world)
    oracle.judge()


def _until_quiet(world: World) -> None:
    """Tick once, and again while jobs are on their way to other requirements."""
    for _ in range(20):
        world.farm.tick()
        with world.farm.store.reading() as connection:
            if not blocklist.is_pending(connection):
                return


def _random(world: World, oracle: Oracle, ticks: int, happenings: dict[str, int]) -> None:
    """Let anything happen, then nothing more."""
    names, weights = list(happenings), list(happenings.values())
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
        _tick(world, oracle, min(max(TICK_S, world.until_next_end_s()), _LONGEST_TICK_S))
        if any(node.held for node in world.nodes.values()):
            continue
        left = {job_id: status for job_id, status in world.statuses().items() if status not in _DONE}
        able = [job_id for job_id, status in left.items() if _could_run(world, oracle, job_id, status)]
        if not able:
            return
    raise AssertionError(
        "; ".join(
            f"job {job_id} {world.jobs[job_id].spec} is {left[job_id]} at the end, but could run: "
            f"{explained(world.farm, job_id).summary}"
            for job_id in able[:3]
        )
    )


def _could_run(world: World, oracle: Oracle, job_id: int, status: str) -> bool:
    """Tell whether a job that is not done could run on an idle farm."""
    kind = world.jobs[job_id]
    if status == "queued":
        return False  # its children are asked
    if status != "runnable":
        return True
    able = oracle.able(oracle.working(), kind)
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
        assert found.free + sum(each.count for each in found.reasons) == found.total
        assert found.total == sum(not node.forgotten for node in world.nodes.values())
        assert found.summary.startswith("waits for ")


def _stream(world: World, oracle: Oracle, ticks: int) -> None:
    """An endless stream of small jobs fills the farm; those that need more, and come before them, start all the same.

    The first of them waits only for what runs: after `hold_after_s` it has clients and licences kept, and those are
    free once what has them has ended. Two at a time: neither may lock the other out.
    """
    world.calm = True
    for node in world.nodes.values():
        node.cpus = max(2, node.cpus)
        node.platform = "linux-x86_64"
        world.come_back(node)
    world.longest_s = 40
    bound_s = HOLD_AFTER_S + 4 * world.longest_s + 6 * TICK_S
    waiting: list[int] = []  # that need more than a gap
    since_s = 0.0  # the first of them has been the first
    for _ in range(ticks):
        small = sum(status == "runnable" for status in world.statuses().values())
        if small < 2 * sum(node.cpus for node in world.nodes.values()):
            world.submit(*[_small(world) for _ in range(12)])
        if len(waiting) < 2 and world.chance.random() < 0.2:
            since_s = since_s if waiting else world.now_s
            waiting += world.submit(_big(world))
        _tick(world, oracle)
        first = waiting[:1]
        waiting = [job_id for job_id in waiting if not world.jobs[job_id].starts]
        if waiting[:1] != first:
            since_s = world.now_s
        assert not waiting or world.now_s - since_s <= bound_s, (
            f"job {waiting[0]} {world.jobs[waiting[0]].spec} waits for {world.now_s - since_s} s: "
            f"{explained(world.farm, waiting[0]).summary}"
        )
    world.settle_down()
    _finish(world, oracle)


def _small(world: World) -> Kind:
    """Return a job that takes the least there is of everything."""
    wants = {"resources": {world.chance.choice(list(world.maxima)): 1}} if world.chance.random() < 0.5 else {}
    return Kind({"name": "klein", "command": "x"} | wants, lambda _: True)


def _big(world: World) -> Kind:
    """Return a job that a stream of small ones could keep from ever starting."""
    widest = max(node.cpus for node in world.nodes.values())
    whole, each = world.maxima["nuke"][0], world.maxima["render"][0] // 2
    spec: dict[str, Any] = world.chance.choice(
        [
            {"tags": ["single"]},
            {"cpus": widest},
            {"minHosts": len(world.nodes), "maxHosts": len(world.nodes)},
            {"minHosts": 2, "maxHosts": 2, "cpus": 2},
            {"tags": ["single"], "minHosts": 2, "maxHosts": 3},
            {"resources": {"nuke": whole}},
            {"cpus": widest, "resources": {"nuke": whole}},
            {"minHosts": 2, "maxHosts": 2, "resources": {"nuke": whole} | ({"render": each} if each else {})},
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
