"""Reads from a store with many jobs: a real server on a real store, timed from the call to the last byte."""

from __future__ import annotations

import socket
import sqlite3
import statistics
import tempfile
import time
import xmlrpc.client
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hqueue import jobspec
from hqueue.clock import SystemClock
from hqueue.lifecycle.submission import submit
from hqueue.store import Store
from tests.benchmarks.rows import Row
from tests.farm import Farm

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS = 100_000
ROLL_UPS = ["uiStatus", "overallProgress", "ETA", "startTime"]
_UNFINISHED = "('queued', 'runnable', 'running', 'pausing', 'resuming', 'ejecting', 'paused')"
_SCAN = f"SELECT id FROM job NOT INDEXED WHERE is_root AND status IN {_UNFINISHED}"
_PAGE_BY_OFFSET = "SELECT * FROM job LIMIT ? OFFSET ?"
_THROUGH_THE_TREE = """
    WITH RECURSIVE below(id) AS (
        SELECT 1 UNION SELECT job_edge.child_id FROM below JOIN job_edge ON job_edge.parent_id = below.id
    )
    SELECT count(*), min(started_at), avg(progress) FROM below JOIN job USING (id)
"""


def run(scale: float = 1.0) -> list[Row]:
    """Measure what scripts and pages ask for, with a tree of 90,000 jobs and 10,000 single ones in the store.

    scale: 1.0 takes about 40 s.
    """
    count = max(200, int(JOBS * scale))
    many, page, rounds = max(60, count // 10), max(60, count // 100), 7 if scale >= 1 else 2
    with tempfile.TemporaryDirectory() as name:
        farm = Farm(Path(name))
        try:
            _fill(farm, count)
            farm.server.start()
            bare = sqlite3.connect(Path(name) / "hqserver.db")
            call = _Caller(farm.port, rounds)
            rows = [
                *_large_answers(call, count, many, page),
                _statuses(call, bare, count, many),
                *_lists(call, bare, count, page),
            ]
            bare.close()
            call.close()
        finally:
            farm.close()
    return rows


def _fill(farm: Farm, count: int) -> None:
    store = Store(farm.database_url, clock=SystemClock())
    store.open()
    child = {"name": "Bild-ä", "command": "render", "tags": ["bench"], "description": "x"}
    single = {"name": "einzeln", "command": "render", "priority": 3}
    with store.writing() as session:
        for specs in (
            [{"name": "Film", "command": "encode", "children": [child] * (count * 9 // 10 - 1)}],
            [single] * (count // 10),
        ):
            submit(session, jobspec.parse(specs, max_depth=4))
    store.close()


class _Caller:
    """Makes calls over one connection and reads the answers as bytes, not packed."""

    def __init__(self, port: int, rounds: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._rounds = rounds
        self._pieces: list[bytes] = []

    @property
    def answer(self) -> bytes:
        """The body of the last answer; put together when nobody counts the time."""
        return b"".join(self._pieces)

    def time(self, method: str, *params: Any) -> tuple[float, str]:
        """Return the median of the milliseconds to the last byte, and the slowest as a note."""
        body = xmlrpc.client.dumps(params, method, allow_none=True).encode()
        head = f"POST /RPC2 HTTP/1.1\r\nHost: bench\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        taken = self.repeat(lambda: self._call(head.encode() + body), self._rounds)
        if b"<fault>" in self.answer[:200]:
            raise RuntimeError(self.answer[:1000])
        return statistics.median(taken), f"worst {max(taken):.1f} ms, {len(self.answer) / 1e6:.2f} MB"

    def baseline(self, function: Callable[[], object]) -> float:
        """Return the median of the milliseconds of something to compare with."""
        return statistics.median(self.repeat(function, min(3, self._rounds)))

    def repeat(self, function: Callable[[], object], rounds: int) -> list[float]:
        """Return the milliseconds of each round."""
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            function()
            taken.append((time.perf_counter() - began) * 1000)
        return taken

    def _call(self, request: bytes) -> None:
        self._socket.sendall(request)
        start = b""
        while b"\r\n\r\n" not in start:
            start += self._received(65536)
        head, _, rest = start.partition(b"\r\n\r\n")
        self._pieces, missing = [rest], int(head.lower().split(b"content-length:")[1].split()[0]) - len(rest)
        while missing:
            self._pieces.append(self._received(min(missing, 1 << 20)))
            missing -= len(self._pieces[-1])

    def _received(self, most: int) -> bytes:
        data = self._socket.recv(most)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _large_answers(call: _Caller, count: int, many: int, page: int) -> list[Row]:
    rows = []
    for size in (many, page):
        ids = list(range(count - size + 1, count + 1)) if size == page else list(range(2, size + 2))
        figure, note = call.time("getJobs", ids)
        value: Any = xmlrpc.client.loads(call.answer)[0][0]
        if len(value) != size:
            raise RuntimeError(f"{size} jobs were asked for, {len(value)} came")
        baseline = call.baseline(partial(xmlrpc.client.dumps, (value,), methodresponse=True, allow_none=True))
        note += "; baseline: the standard library only writes the same answer"
        rows.append(Row(f"getJobs of {size:,}, all attributes", figure, "ms", baseline, note))
    return rows


def _statuses(call: _Caller, bare: sqlite3.Connection, count: int, many: int) -> Row:
    figure, note = call.time("getJobs", list(range(count - many + 1, count + 1)), ["status"])
    query = "SELECT id, status FROM job WHERE id > ?"
    baseline = call.baseline(lambda: bare.execute(query, (count - many,)).fetchall())
    note += "; baseline: bare sqlite3 reads the same rows"
    return Row(f"getJobs of {many:,}, status alone", figure, "ms", baseline, note)


def _lists(call: _Caller, bare: sqlite3.Connection, count: int, page: int) -> list[Row]:
    roots, roots_note = call.time("getUnfinishedRootJobIds")
    scan = call.baseline(lambda: bare.execute(_SCAN).fetchall())
    cursor = f"id:{count // 2}:0"
    listed, listed_note = call.time("listJobs", {"limit": page, "cursor": cursor, "attribs": ["id", "name", "status"]})
    offset = call.baseline(lambda: bare.execute(_PAGE_BY_OFFSET, (page, count // 2)).fetchall())
    sums, sums_note = call.time("getJob", 1, ROLL_UPS)
    through = call.baseline(lambda: bare.execute(_THROUGH_THE_TREE).fetchall())
    return [
        Row("getUnfinishedRootJobIds", roots, "ms", scan, f"{roots_note}; baseline: bare sqlite3 scans the table"),
        Row(f"listJobs, a page of {page:,}", listed, "ms", offset, f"{listed_note}; baseline: bare sqlite3, by offset"),
        Row(
            f"roll-ups of a tree of {count * 9 // 10:,}",
            sums,
            "ms",
            through,
            f"{sums_note}; baseline: bare sqlite3 goes through the tree",
        ),
    ]
