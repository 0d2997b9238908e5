"""How many calls a second reach a method that does nothing, and how much later they are answered under load."""

from __future__ import annotations

import contextlib
import multiprocessing
import socketserver
import time
import xmlrpc.client
from typing import TYPE_CHECKING
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

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


@contextlib.contextmanager
def serving(target: Callable[[Connection], None]) -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own and yield its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs,), daemon=True)
    process.start()
    try:
        yield tuple(ours.recv())
    finally:
        process.kill()
        process.join()


def run(scale: float = 1.0) -> list[Row]:
    """Measure `ping` on our server and on the standard library's, at 1, 8 and 64 connections and with a stock proxy.

    scale: 1.0 takes about 20 s.
    """
    seconds = max(0.2, 2.0 * scale)
    with serving(_serve_library) as library, serving(_serve_farm) as farm:
        rows = [_row(connections, library, farm, seconds) for connections in (1, 8, 64)]
        load = _load(farm, "workerPing", 64, seconds)
        rows.append(Row("ping on a worker, 64 connections", load.per_second, "calls/s", note=_note(load)))
        rows.append(Row("ping, one stock ServerProxy", _stock(farm, seconds), "calls/s", _stock(library, seconds)))
    return rows


def _row(connections: int, library: tuple[str, int], farm: tuple[str, int], seconds: float) -> Row:
    theirs = _load(library, "ping", connections, seconds)
    ours = _load(farm, "ping", connections, seconds)
    noun = "connection" if connections == 1 else "connections"
    note = f"{_note(ours)}; the library's {_note(theirs)}"
    return Row(f"ping, {connections} {noun}", ours.per_second, "calls/s", theirs.per_second, note)


def _load(address: tuple[str, int], method: str, connections: int, seconds: float) -> Load:
    load = measure(address, same_body(method), connections=connections, seconds=seconds, warm_up_s=seconds / 10)
    if load.faults:
        raise RuntimeError(load.first_fault)
    return load


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
