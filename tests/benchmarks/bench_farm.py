"""What a whole farm does: a real server on a real store, a real client with its runner, driven from outside."""

from __future__ import annotations

import json
import socketserver
import sqlite3
import statistics
import subprocess
import tempfile
import time
import xmlrpc.client
from pathlib import Path
from typing import TYPE_CHECKING
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from tests.benchmarks.bench_ping import serving
from tests.benchmarks.loadgen import measure, same_body
from tests.benchmarks.rows import Row
from tests.farm import Farm, running_farm

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CALLERS = 16
POLLERS = 64
POLLED = ["progress", "status"]


class _Threaded(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when the load ends in the middle of a call."""


class _KeepAlive(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1


def _serve_constant(pipe: Connection) -> None:
    server = _Threaded(("127.0.0.1", 0), requestHandler=_KeepAlive, logRequests=False, allow_none=True)
    server.register_function(lambda _id, _attribs: {"progress": 0.0, "status": "queued"}, "getJob")
    pipe.send(server.server_address)
    server.serve_forever()


def run(scale: float = 1.0) -> list[Row]:
    """Measure submissions, polling and jobs from end to end.

    scale: 1.0 takes about 40 s.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name, running_farm(Path(name), {}) as farm:
        seconds = max(0.3, 3.0 * scale)
        rows.append(_single_submissions(farm, seconds))
        rows.append(_one_large_submission(farm, max(50, int(10_000 * scale))))
        rows.append(_polling(farm, seconds))
    with tempfile.TemporaryDirectory() as name, running_farm(Path(name), {"bench": 8}) as farm:
        rows.append(_start_latency(farm, max(3, int(50 * scale))))
        rows.append(_jobs_end_to_end(farm, max(20, int(2_000 * scale))))
    return rows


def _single_submissions(farm: Farm, seconds: float) -> Row:
    """One `newjob` after the other from each caller, each on disk before its answer."""
    body = same_body("newjob", ({"name": "Bild", "command": "true", "priority": 5, "tags": ["bench"]},))
    address = ("127.0.0.1", farm.port)
    load = measure(address, body, connections=CALLERS, seconds=seconds, warm_up_s=seconds / 10)
    if load.faults:
        raise RuntimeError(load.first_fault)
    note = f"p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms; baseline: bare sqlite3, a durable commit per row"
    return Row(f"durable newjob, {CALLERS} callers", load.per_second, "jobs/s", _bare_commits(farm, seconds / 3), note)


def _bare_commits(farm: Farm, seconds: float) -> float:
    connection = sqlite3.connect(farm.folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, name TEXT, command TEXT)")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        connection.execute("INSERT INTO job (name, command) VALUES (?, ?)", ("Bild", "true"))
        count += 1
    elapsed = time.perf_counter() - began
    connection.close()
    return count / elapsed


def _one_large_submission(farm: Farm, count: int) -> Row:
    """One `newjob` with many children, from the last byte sent to the answer; the caller's own work is left out."""
    spec = {"name": "viele", "children": [{"name": f"Bild {i}", "command": "render"} for i in range(count)]}
    began = time.perf_counter()
    json.loads(json.dumps(spec))
    body = xmlrpc.client.dumps((spec,), "newjob").encode()
    baseline_began = time.perf_counter()
    xmlrpc.client.loads(body)
    parsing = time.perf_counter() - baseline_began
    proxy = farm.proxy()
    proxy.ping()
    began = time.perf_counter()
    import http.client  # noqa: PLC0415 - only here

    connection = http.client.HTTPConnection("127.0.0.1", farm.port, timeout=120)
    connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
    answer = connection.getresponse().read()
    elapsed = time.perf_counter() - began
    connection.close()
    ids = xmlrpc.client.loads(answer)[0][0]
    if len(ids) != count + 1:
        raise RuntimeError(f"{count + 1} jobs were expected, {len(ids)} were made")
    note = f"{elapsed * 1000:.0f} ms for {count}; baseline: the standard library only parses the same request"
    return Row("one newjob with many children", count / elapsed, "jobs/s", count / parsing, note)


def _polling(farm: Farm, seconds: float) -> Row:
    (job_id,) = farm.proxy().newjob({"name": "ausgefragt", "command": "true"})
    body = same_body("getJob", (job_id, POLLED))
    load = measure(("127.0.0.1", farm.port), body, connections=POLLERS, seconds=seconds, warm_up_s=seconds / 10)
    if load.faults:
        raise RuntimeError(load.first_fault)
    with serving(_serve_constant) as library:
        theirs = measure(library.address, body, connections=POLLERS, seconds=seconds / 2, warm_up_s=seconds / 10)
    note = (
        f"p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms; baseline: the library's threaded server answers a "
        f"constant, p50 {theirs.p50_ms:.1f} ms, p99 {theirs.p99_ms:.1f} ms"
    )
    return Row(f"getJob polled, {POLLERS} connections", load.per_second, "calls/s", theirs.per_second, note)


def _start_latency(farm: Farm, count: int) -> Row:
    """From the call of `newjob` on an idle farm to the first instruction of the command."""
    proxy = farm.proxy()
    delays = []
    for number in range(count):
        mark = farm.folder / f"mark-{number}"
        began = time.time()  # noqa: TID251 - compared with what the command reads from the same clock
        (job_id,) = proxy.newjob({"name": "gleich", "shell": "bash", "command": f"echo $EPOCHREALTIME > {mark}"})
        _wait_finished(proxy, [job_id])
        delays.append((float(mark.read_text().replace(",", ".")) - began) * 1000)
    note = f"worst {max(delays):.1f} ms of {count}"
    return Row("submit to start on an idle farm, median", statistics.median(delays), "ms", note=note)


def _jobs_end_to_end(farm: Farm, count: int) -> Row:
    """No-op jobs, from the submission of all of them until the last one has succeeded, against bare Popen."""
    proxy = farm.proxy()
    began = time.perf_counter()
    ids = proxy.newjob([{"name": f"leer {i}", "shell": "sh", "command": "true"} for i in range(count)])
    _wait_finished(proxy, ids)
    elapsed = time.perf_counter() - began
    if any(job["status"] != "succeeded" for job in proxy.getJobs(ids, ["status"])):
        raise RuntimeError("not every no-op job succeeded")
    baseline_count = max(20, count // 4)
    began = time.perf_counter()
    for _ in range(baseline_count):
        subprocess.Popen(["/bin/sh", "-c", "true"], stdin=subprocess.DEVNULL, start_new_session=True).wait()
    baseline = baseline_count / (time.perf_counter() - began)
    return Row(
        "no-op jobs end to end", count / elapsed, "jobs/s", baseline, "baseline: bare Popen, one after the other"
    )


def _wait_finished(proxy: xmlrpc.client.ServerProxy, ids: list[int]) -> None:
    last = ids[-1]
    while proxy.getJob(last, ["status"])["status"] != "succeeded":
        time.sleep(0.002)  # noqa: TID251 - a measurement, not a test: polls as a script does
    while any(job["status"] != "succeeded" for job in proxy.getJobs(ids, ["status"])):
        time.sleep(0.02)  # noqa: TID251 - as above
