"""Load for an XML-RPC server: many keep-alive connections on one selector, in a process of its own.

Each connection has one call under way at a time; the next is sent as soon as the answer to the last is whole. The
client does as little as it can, so that on a small machine the server's share of the CPU is what is measured: bodies
are bytes prepared beforehand, and of an answer only its length is read, and whether it is a fault.

    python tests/benchmarks/loadgen.py --port 5000 --connections 64 --seconds 2 --method ping
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import selectors
import socket
import sys
import time
import xmlrpc.client
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Bodies = Callable[[int, int], bytes]
"""(number of the connection, number of its call, both from 0) to the body of the request."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it. Times in milliseconds, over all calls answered within the measured time."""

    calls: int
    faults: int
    seconds: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    bytes_read: int
    first_fault: str

    @property
    def per_second(self) -> float:
        """Calls answered per second."""
        return self.calls / self.seconds if self.seconds else 0.0


def same_body(method: str, params: tuple[Any, ...] = ()) -> Bodies:
    """Return bodies that all make the same call."""
    return functools.partial(_constant, xmlrpc.client.dumps(params, method, allow_none=True).encode())


def _constant(body: bytes, _connection: int, _call: int) -> bytes:
    return body


class _Caller:
    """One connection and the call under way on it."""

    __slots__ = ("calls", "missing", "number", "sent_at", "socket", "start", "unsent", "writing")

    def __init__(self, number: int, address: tuple[str, int]) -> None:
        self.number = number
        self.calls = 0
        self.start = b""
        self.missing = 0
        self.sent_at = 0.0
        self.unsent = b""
        self.writing = False
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)


def drive(
    address: tuple[str, int],
    bodies: Bodies,
    *,
    connections: int,
    seconds: float = 0.0,
    calls: int = 0,
    warm_up_s: float = 0.0,
    path: str = "/RPC2",
) -> Load:
    """Load the server from this process, for so many seconds or until so many calls were answered.

    Errors: ConnectionError when the server closes a connection or answers with another status than 200.
    """
    head = f"POST {path} HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: text/xml\r\nContent-Length: ".encode()
    selector = selectors.DefaultSelector()
    callers = [_Caller(number, address) for number in range(connections)]
    run = _Run(head, bodies, selector)
    for caller in callers:
        selector.register(caller.socket, selectors.EVENT_READ, caller)
        run.send(caller)
    try:
        if warm_up_s:
            run.until(time.perf_counter() + warm_up_s, sys.maxsize)
            run.reset()
        began = time.perf_counter()
        run.until(began + seconds if seconds else float("inf"), calls or sys.maxsize)
        return run.result(time.perf_counter() - began)
    finally:
        for caller in callers:
            caller.socket.close()
        selector.close()


class _Run:
    def __init__(self, head: bytes, bodies: Bodies, selector: selectors.BaseSelector) -> None:
        self.head = head
        self.bodies = bodies
        self.selector = selector
        self.last_body: bytes | None = None
        self.last_request = b""
        self.last_head = b"never"
        self.last_size = 0
        self.reset()

    def reset(self) -> None:
        self.times = array("d")
        self.faults = 0
        self.bytes_read = 0
        self.first_fault = ""

    def until(self, end: float, calls: int) -> None:
        clock = time.perf_counter
        while len(self.times) < calls and clock() < end:
            events = self.selector.select(1.0)
            for key, ready in events:
                if ready & selectors.EVENT_WRITE:
                    self.push(key.data, key.data.unsent)
                if ready & selectors.EVENT_READ:
                    self.receive(key.data, clock())

    def send(self, caller: _Caller) -> None:
        body = self.bodies(caller.number, caller.calls)
        if body is not self.last_body:  # most loads send the same body again and again
            self.last_body = body
            self.last_request = b"%b%d\r\n\r\n%b" % (self.head, len(body), body)
        caller.calls += 1
        caller.sent_at = time.perf_counter()
        self.push(caller, self.last_request)

    def push(self, caller: _Caller, data: bytes) -> None:
        try:
            sent = caller.socket.send(data)
        except BlockingIOError:
            sent = 0
        caller.unsent = data[sent:]
        if bool(caller.unsent) != caller.writing:
            caller.writing = not caller.writing
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if caller.writing else 0)
            self.selector.modify(caller.socket, events, caller)

    def receive(self, caller: _Caller, now: float) -> None:
        try:
            data = caller.socket.recv(65536)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError(f"the server closed connection {caller.number}: {caller.start[:200]!r}")
        self.bytes_read += len(data)
        if caller.missing:
            caller.missing -= len(data)
        else:  # the answer's start
            caller.start = data = caller.start + data
            if data.startswith(self.last_head):
                caller.missing = self.last_size - len(data)
            else:
                end = data.find(b"\r\n\r\n") + 4
                if end < 4:
                    return
                self.last_head = data[:end]
                self.last_size = end + self.length_of(data[:end])
                caller.missing = self.last_size - len(data)
        if caller.missing:
            return
        self.times.append(now - caller.sent_at)
        if b"<fault>" in caller.start[:400]:
            self.faults += 1
            self.first_fault = self.first_fault or caller.start.decode("utf-8", "replace")[-400:]
        caller.start = b""
        self.send(caller)

    @staticmethod
    def length_of(head: bytes) -> int:
        if b" 200 " not in head[:16]:
            raise ConnectionError(f"the server answered {head[:200]!r}")
        return int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])

    def result(self, seconds: float) -> Load:
        times = sorted(self.times) or [0.0]
        p50, p99, worst = (times[min(len(times) - 1, int(len(times) * part))] * 1000 for part in (0.5, 0.99, 1.0))
        return Load(len(self.times), self.faults, seconds, p50, p99, worst, self.bytes_read, self.first_fault)


def measure(
    address: tuple[str, int],
    bodies: Bodies,
    *,
    connections: int,
    seconds: float = 0.0,
    calls: int = 0,
    warm_up_s: float = 0.0,
) -> Load:
    """Load the server from a new process; otherwise as `drive`.

    bodies: has to be picklable: a function at the top of a module, or a partial of one.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(
            drive,
            (address, bodies),
            {"connections": connections, "seconds": seconds, "calls": calls, "warm_up_s": warm_up_s},
        )


def main() -> None:
    """Load a running server and print what came of it as JSON."""
    parser = argparse.ArgumentParser(description="load for an XML-RPC server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--method", default="ping")
    parser.add_argument("--params", default="[]", help="a JSON list")
    given = parser.parse_args()
    bodies = same_body(given.method, tuple(json.loads(given.params)))
    load = drive((given.host, given.port), bodies, connections=given.connections, seconds=given.seconds)
    sys.stdout.write(json.dumps(asdict(load) | {"per_second": load.per_second}, indent=2) + "\n")


if __name__ == "__main__":
    main()
