"""How many calls a second reach a method that does nothing, and how much later they are answered under load."""

from __future__ import annotations

import contextlib
import multiprocessing
import socketserver
import time
import xmlrpc.client
from typing import TYPE_CHECKING, NamedTuple
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import psutil

from tests.benchmarks.loadgen import Load, measure, same_body
from tests.benchmarks.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

GOAL_PER_S = 20_000
GOAL_RATIO = 3.0


class _Threaded(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when the load ends in the middle of a call."""


class _KeepAlive(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1


def _serve_library(pipe: Connection) -> None:
    server = _Threaded(("127.0.0.1", 0), requestHandler=_KeepAlive, logRequests=False, allow_none=True)
    server.register_function(_ping, "ping")
    pipe.send(server.server_address)
    server.serve_forever()


def _serve_farm(pipe: Connection) -> None:
    # Imported here: the other server's process has no use for them.
    from hqueue.clock import SystemClock  # noqa: PLC0415 - as above
    from hqueue.rpc.dispatch import MethodTable, Where, exposed  # noqa: PLC0415 - as above
    from hqueue.rpc.transport import FarmServer  # noqa: PLC0415 - as above

    class Api:
        @exposed(Where.LOOP)
        def ping(self) -> bool:
            return True

        @exposed(name="workerPing")
        def worker_ping(self) -> bool:
            return True

    table = MethodTable()
    table.add(Api())
    server = FarmServer(("127.0.0.1", 0), table, clock=SystemClock())
    pipe.send(server.server_address)
    server.serve_forever()


def _ping() -> bool:
    return True


class Server(NamedTuple):
    """A server in a process of its own."""

    address: tuple[str, int]
    process: psutil.Process

    def cpu_s(self) -> float:
        """Return the processor time it has used."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def serving(target: Callable[[Connection], None]) -> Iterator[Server]:
    """Run a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs,), daemon=True)
    process.start()
    try:
        yield Server(tuple(ours.recv()), psutil.Process(process.pid))
    finally:
        process.kill()
        process.join()


def run(scale: float = 1.0) -> list[Row]:
    """Measure `ping` on our server and on the standard library's, at 1, 8 and 64 connections and with a stock proxy.

    scale: 1.0 takes about 20 s.
    """
    seconds = max(0.2, 2.0 * scale)
    with serving(_serve_library) as library, serving(_serve_farm) as farm:
        rows = [row for connections in (1, 8, 64) for row in _compare(connections, library, farm, seconds)]
        load, _ = _load(farm, "workerPing", 64, seconds)
        rows.append(Row("ping on a worker, 64 connections", load.per_second, "calls/s", note=_note(load)))
        stock = _stock(farm.address, seconds), _stock(library.address, seconds)
        rows.append(Row("ping, one stock ServerProxy", stock[0], "calls/s", stock[1]))
    return rows


def _compare(connections: int, library: Server, farm: Server, seconds: float) -> list[Row]:
    theirs, their_cpu_us = _load(library, "ping", connections, seconds)
    ours, our_cpu_us = _load(farm, "ping", connections, seconds)
    noun = "connection" if connections == 1 else "connections"
    note = f"{_note(ours)}; the library's {_note(theirs)}"
    return [
        Row(f"ping, {connections} {noun}", ours.per_second, "calls/s", theirs.per_second, note),
        # Calls per second depend on who else uses the machine, and on the load's share of it; this hardly does.
        Row(f"processor time of a ping, {connections} {noun}", our_cpu_us, "µs", their_cpu_us),
    ]


def _load(server: Server, method: str, connections: int, seconds: float) -> tuple[Load, float]:
    """Return what a load came to, and the server's processor time per call in microseconds."""
    bodies = same_body(method)
    measure(server.address, bodies, connections=connections, calls=100)
    before = server.cpu_s()
    load = measure(server.address, bodies, connections=connections, seconds=seconds)
    if load.faults:
        raise RuntimeError(load.first_fault)
    return load, (server.cpu_s() - before) / load.calls * 1e6


def _note(load: Load) -> str:
    return f"p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms, worst {load.worst_ms:.1f} ms"


def _stock(address: tuple[str, int], seconds: float) -> float:
    with xmlrpc.client.ServerProxy(f"http://{address[0]}:{address[1]}") as proxy:
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            proxy.ping()
            calls += 1
        return calls / (time.perf_counter() - began)


if __name__ == "__main__":
    import sys

    from tests.benchmarks.rows import table

    sys.stdout.write(table(run()) + "\n")
