"""What small calls wait for while others do big things: one large submission, a large deletion, four who list."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
import xmlrpc.client
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.loadgen import drive, same_body
from tests.benchmarks.rows import Row
from tests.farm import running_farm

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from tests.farm import Farm

JOBS = 50_000
LISTED = 10_000
LISTERS = 4
PING_GOAL_MS = 50.0
WRITE_GOAL_MS = 250.0
# So seldom that the small calls are no load of their own.
_EVERY_S = 0.05


def run(scale: float = 1.0) -> list[Row]:
    """Measure the p99 of `ping` and of small writes on an idle server, and again while all of it goes on.

    scale: 1.0 takes about 2 minutes.
    """
    count, listed = max(50, int(JOBS * scale)), max(20, int(LISTED * scale))
    idle_s = max(0.5, 10.0 * scale)
    with tempfile.TemporaryDirectory() as name, running_farm(Path(name), {}) as farm:
        (small,) = farm.proxy().newjob({"name": "klein", "command": "true", "host": "niemand"})
        kinds = {
            "ping": ("ping", (), PING_GOAL_MS),
            "setJobPriority": ("setJobPriority", (small, 5), WRITE_GOAL_MS),
            "newjob of one": ("newjob", ({"name": "noch eins", "command": "true", "host": "niemand"},), WRITE_GOAL_MS),
        }
        calls = {kind: (method, params) for kind, (method, params, _) in kinds.items()}
        idle = _time_calls(farm, calls, partial(threading.Event().wait, idle_s))
        doomed, stays = _submit(farm, count, "alt"), _submit(farm, listed, "bleibt")
        took: dict[str, float] = {}
        busy = _time_calls(farm, calls, partial(_do_big_things, farm, count, doomed, stays, took))
    note = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in took.items())
    return [
        Row(
            f"{kind} during big calls, p99",
            _part(busy[kind], 0.99),
            "ms",
            _part(idle[kind], 0.99),
            f"goal {goal:g} ms; p50 {_part(busy[kind], 0.5):.1f}, worst {max(busy[kind]):.0f} of {len(busy[kind])}; "
            f"baseline: idle; {note}",
        )
        for kind, (_, _, goal) in kinds.items()
    ]


def _part(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def _time_calls(
    farm: Farm, calls: dict[str, tuple[str, tuple[Any, ...]]], meanwhile: Callable[[], object]
) -> dict[str, list[float]]:
    """Return the milliseconds of each kind of call, made one after the other from a process of its own."""
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    asked = {}
    for kind, (method, params) in calls.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_ask, args=(farm.port, method, params, over, theirs), daemon=True)
        process.start()
        theirs.close()
        asked[kind] = process, ours
    try:
        for _, pipe in asked.values():
            pipe.recv()
        meanwhile()
        over.set()
        return {kind: pipe.recv() for kind, (_, pipe) in asked.items()}
    finally:
        for process, pipe in asked.values():
            process.kill()
            process.join()
            pipe.close()


def _ask(port: int, method: str, params: tuple[Any, ...], over: Event, pipe: Connection) -> None:
    # A call that takes long stands for those that could have been made meanwhile: a server that stands still for a
    # second delays twenty of them, not the one that happens to be under way.
    times = []
    with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}", allow_none=True) as proxy:
        call = getattr(proxy, method)
        call(*params)
        pipe.send(None)
        while not over.wait(_EVERY_S) or not times:
            began = time.perf_counter()
            call(*params)
            took = time.perf_counter() - began
            times += [(took - late * _EVERY_S) * 1000 for late in range(1 + int(took / _EVERY_S))]
    pipe.send(times)


def _do_big_things(farm: Farm, count: int, doomed: list[int], stays: list[int], took: dict[str, float]) -> None:
    """Submit and delete at the same time, while some list, until all is done."""
    context = multiprocessing.get_context("spawn")
    address = ("127.0.0.1", farm.port)
    body = same_body("getJobs", (stays,))
    many = partial(_list_jobs, address, body)
    over = context.Event()
    listers = [context.Process(target=many, args=(over,), daemon=True) for _ in range(LISTERS)]
    for lister in listers:
        lister.start()
    try:
        deeds = {
            f"{count:,} submitted in": partial(_submit, farm, count, "neu"),
            f"{count:,} deleted in": partial(_delete, farm, doomed),
        }
        threads = [threading.Thread(target=_timed, args=(what, deed, took)) for what, deed in deeds.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        over.set()
        for lister in listers:
            lister.join(30)
            lister.kill()


def _list_jobs(address: tuple[str, int], body: Any, over: Event) -> None:
    while not over.is_set():
        drive(address, body, connections=1, calls=1)


def _timed(what: str, deed: Callable[[], object], took: dict[str, float]) -> None:
    began = time.perf_counter()
    deed()
    took[what] = time.perf_counter() - began


def _submit(farm: Farm, count: int, name: str) -> list[int]:
    """Submit a tree in a process of its own, so that writing the call is nobody else's time."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_submit_here, (farm.url, count, name))


def _submit_here(url: str, count: int, name: str) -> list[int]:
    children = [{"name": f"{name} {number}", "command": "render", "host": "niemand"} for number in range(count)]
    with xmlrpc.client.ServerProxy(url) as proxy:
        answer: Any = proxy.newjob({"name": name, "children": children})
    return list(answer)


def _delete(farm: Farm, ids: list[int]) -> None:
    """Cancel and delete a tree, and wait until nothing is left of it."""
    with xmlrpc.client.ServerProxy(farm.url, allow_none=True) as proxy:
        proxy.cancelJobs([ids[0]])
        _until(lambda: proxy.getJob(ids[-1], ["status"])["status"] == "cancelled")  # type: ignore[index]
        proxy.deleteJobs([ids[0]])
        _until(lambda: proxy.getJob(ids[-1], ["status"]) is None and proxy.getJob(ids[0], ["status"]) is None)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)  # noqa: TID251 - a measurement, not a test: polls as a script does
