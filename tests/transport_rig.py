"""A FarmServer on a thread of the test, methods to call on it, and a peer that speaks bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import xmlrpc.client
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from hqueue.clock import Clock, SystemClock
from hqueue.rpc.dispatch import MethodTable, Where, exposed
from hqueue.rpc.transport import FarmServer, Limits, Page
from tests.fakes import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Api:
    """Methods of every kind; what waits, waits for the test."""

    def __init__(self) -> None:
        self.parked: list[Future[Any]] = []
        self.calls: list[str] = []
        self.arrived = threading.Semaphore(0)
        self.gate = threading.Event()

    @exposed(Where.LOOP)
    def ping(self) -> bool:
        return True

    @exposed()
    def echo(self, value: Any) -> Any:
        return value

    @exposed(Where.LOOP, name="loopEcho")
    def loop_echo(self, value: Any) -> Any:
        return value

    @exposed(Where.FARM, name="farm.echo")
    def farm_echo(self, value: Any) -> list[Any]:
        return [value, threading.current_thread().name]

    @exposed(name="threadName")
    def thread_name(self, _value: Any = None) -> str:
        return threading.current_thread().name

    @exposed(Where.LOOP, name="loopThreadName")
    def loop_thread_name(self, _value: Any = None) -> str:
        return threading.current_thread().name

    @exposed(big=True)
    def big(self, size: int) -> str:
        return "ü" * size

    @exposed()
    def fail(self) -> None:
        raise ValueError("/srv/secret")

    @exposed()
    def whoami(self, *, peer: str) -> str:
        return peer

    @exposed()
    def park(self, name: str) -> Future[Any]:
        future: Future[Any] = Future()
        self.parked.append(future)
        self.calls.append(name)
        self.arrived.release()
        return future

    @exposed()
    def block(self, name: str) -> str:
        self.calls.append(name)
        self.arrived.release()
        assert self.gate.wait(PATIENCE_S)
        return name

    def await_calls(self, count: int = 1) -> None:
        """Return once so many more calls of `park` and `block` have arrived."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE_S)


class Rig:
    """A server that is serving."""

    def __init__(self, server: FarmServer, api: Api) -> None:
        self.server = server
        self.api = api
        self.thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="loop")
        self.thread.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.server_address[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def proxy(self, path: str = "", **options: Any) -> xmlrpc.client.ServerProxy:
        return xmlrpc.client.ServerProxy(self.url + path, allow_none=True, **options)

    def peer(self) -> Peer:
        return Peer(socket.create_connection(self.address, timeout=PATIENCE_S))

    def until(self, condition: Callable[[], bool]) -> None:
        """Return once the loop, asked between its turns, finds the condition true."""
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.01)):
            if condition():
                return
            pause.wait(0.01)
        raise AssertionError("the condition never came true")

    def connections(self) -> int:
        return len(self.server._connections)


@contextlib.contextmanager
def serving(
    limits: Limits | None = None,
    clock: Clock | None = None,
    get_page: Callable[[str], Page] | None = None,
    host: str = "127.0.0.1",
) -> Iterator[Rig]:
    """Serve, and stop at the end; unless the test stopped it, the server must still be well then."""
    clock = clock or SystemClock()
    api = Api()
    table = MethodTable(clock)
    table.add(api)
    server = FarmServer((host, 0), table, limits=limits, clock=clock, get_page=get_page)
    rig = Rig(server, api)
    try:
        yield rig
        if not server.stopping:
            with rig.proxy() as proxy:
                assert proxy.ping() is True
    finally:
        api.gate.set()
        for future in api.parked:
            if not future.done():
                future.set_result("at last")
        server.server_close()
        rig.thread.join(PATIENCE_S)
    assert not rig.thread.is_alive()


class Answer:
    """An HTTP answer."""

    def __init__(self, head: str, body: bytes) -> None:
        first, *lines = head.split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def value(self) -> Any:
        return xmlrpc.client.loads(self.body)[0][0]

    @property
    def fault(self) -> xmlrpc.client.Fault:
        try:
            value = self.value
        except xmlrpc.client.Fault as fault:
            return fault
        raise AssertionError(f"no fault but {value!r}")


class Peer:
    """A caller that sends exactly what the test says."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *data: bytes | str) -> None:
        self.socket.sendall(b"".join(piece.encode() if isinstance(piece, str) else piece for piece in data))

    def answer(self, *, only_head: bool = False) -> Answer:
        """Read one whole answer."""
        while b"\r\n\r\n" not in self.received:
            self._receive()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        answer = Answer(head.decode(), b"")
        if answer.status == 100:
            return answer
        length = 0 if only_head else int(answer.headers["content-length"])
        while len(self.received) < length:
            self._receive()
        answer.body, self.received = self.received[:length], self.received[length:]
        return answer

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed the connection after {self.received[:300]!r}")
        self.received += data

    def is_closed(self) -> bool:
        """Wait for the server's end of the connection, and tell whether nothing came before it."""
        try:
            return not self.received and not self.socket.recv(65536)
        except ConnectionResetError:
            return True


def request(
    method: str = "ping",
    *params: Any,
    path: str = "/RPC2",
    headers: str = "",
    version: str = "1.1",
    body: bytes | None = None,
) -> bytes:
    """Return the bytes of a call."""
    if body is None:
        body = xmlrpc.client.dumps(params, method, allow_none=True).encode("utf-8", "xmlcharrefreplace")
    lines = f"Host: h\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n{headers}"
    return f"POST {path} HTTP/{version}\r\n{lines}\r\n".encode() + body
