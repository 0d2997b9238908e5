"""Many seeds on all cores: a process for each, with a folder of its own for stores."""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hqueue.clock import SystemClock
from tests.simulator.simulation import Folder, run_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Outcome(NamedTuple):
    """What became of a seed."""

    seed: int
    jobs: int
    runs: int
    complaint: str  # "" when all was well


def try_seed(ticks: int, folder: Folder, seed: int) -> Outcome:
    """Run a seed; what does not hold comes back as text."""
    try:
        world = run_seed(seed, folder.url(), ticks)
    except Exception:  # noqa: BLE001 - it is printed, and the next seed has its turn
        return Outcome(seed, 0, 0, traceback.format_exc(limit=-3))
    return Outcome(seed, len(world.jobs), sum(kind.starts for kind in world.jobs.values()), "")


_folder: Folder


def _begin() -> None:
    """Prepare a process."""
    global _folder  # noqa: PLW0603 - a process has one
    logging.disable(logging.CRITICAL)
    _folder = Folder()
    multiprocessing.util.Finalize(None, _folder.close, exitpriority=0)


def _call(function: Callable[[Folder, _Item], _Result], item: _Item) -> _Result:
    return function(_folder, item)


def in_processes(
    function: Callable[[Folder, _Item], _Result], items: Iterable[_Item], seconds: float = float("inf")
) -> Iterator[_Result]:
    """Yield what a function returns for each of some items, in the order in which they are done.

    Shapes: the function is called with a folder and an item; both it and what it returns can be pickled.
    Units: no item is begun after so many seconds; those under way are finished.
    """
    cores = os.cpu_count() or 1
    clock = SystemClock()
    until = clock.monotonic() + seconds
    waiting = iter(items)
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), initializer=_begin) as pool:
        under_way: set[Future[_Result]] = set()
        while True:
            while len(under_way) < cores and clock.monotonic() < until:
                try:
                    item = next(waiting)
                except StopIteration:
                    until = 0.0
                    break
                under_way.add(pool.submit(_call, function, item))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for each in done:
                yield each.result()
