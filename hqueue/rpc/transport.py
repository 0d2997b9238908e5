"""The standard library's SimpleXMLRPCServer made fit for a farm.

It keeps that class's contract (registration, `serve_forever`, `shutdown`, `server_close`) and replaces what carries the
calls: one selector loop owns every connection, so an idle or hostile one costs a file descriptor and never a thread.
Small calls that wait for nothing are answered on the loop; all others by a few workers.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from xmlrpc.server import SimpleXMLRPCServer

from hqueue.errors import ServerBusyError
from hqueue.rpc import http, room
from hqueue.rpc.connection import Connection
from hqueue.rpc.dispatch import Method, MethodTable, Where
from hqueue.rpc.handler import RequestHandler
from hqueue.rpc.http import Limits
from hqueue.rpc.method import Page
from hqueue.wire.guard import Door

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.clock import Clock
    from hqueue.rpc.http import Head

__all__ = ["FarmServer", "Limits", "Page"]

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.5
"""Longest real wait of the loop: how late a time limit may be noticed."""
_SWEEP_S: Final = 1.0
_ACCEPTS_PER_TURN: Final = 256
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class FarmServer(SimpleXMLRPCServer):
    """An XML-RPC server over HTTP/1.x for thousands of connections.

    table: the methods; `register_function` and `register_instance` add to it.
    get_page: answers GET and HEAD for a path (without its query), on a worker; without it they are 404.
    door: the names under which browsers may reach it.
    Errors: OSError when the address cannot be listened on.
    """

    request_queue_size = 1024  # with the library's 5, a burst of 64 connects waits for seconds
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        table: MethodTable,
        *,
        clock: Clock,
        limits: Limits | None = None,
        get_page: Callable[[str], Page] | None = None,
        door: Door | None = None,
    ) -> None:
        self.address_family = _family(*address)
        self.limits = limits or Limits()
        self.door = door or Door()
        self.table = table
        self.unsent = 0
        self.received = room.Budget(self.limits.max_received_bytes)
        self.now = clock.monotonic()
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._clock = clock
        self._connections: set[Connection] = set()
        self._answers: deque[tuple[Connection, list[bytes], bool]] = deque()
        self._later: deque[Connection] = deque()
        self._no_room = False
        self._full = False
        self._made_room_at = -1.0
        self._next_sweep = self.now
        self._handler = RequestHandler(table, self, get_page, self._end_with)
        self._failure: BaseException | None = None
        self._state = threading.RLock()  # a signal handler may call shutdown() in the middle of anything
        self.stopping = False
        self._serving: int | None = None
        self._stopped = threading.Event()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.settimeout(0)
        self._wake_sender.settimeout(0)
        self._waking = False
        super().__init__(address, logRequests=False, allow_none=True)  # closes the server if it cannot listen
        self.socket.settimeout(0)

    # --- The library's contract ---

    def server_bind(self) -> None:
        """Take the address; `::` is every address, those of IPv4 too."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def serve_forever(self, poll_interval: float = _POLL_S) -> None:
        """Serve until `shutdown`; return at once if that came before.

        Errors: what a worker died of, after everything that was handed on has been answered.
        """
        with self._state:
            if self.stopping:
                return
            self._serving = threading.get_ident()
        try:
            self._serve(poll_interval)
            if self._failure is not None:
                raise self._failure
        finally:
            self._handler.stop(0.0)
            with self._state:
                self.stopping = True
                self._serving = None
            self._stopped.set()

    def shutdown(self) -> None:
        """Stop accepting, answer what was handed on (for `shutdown_s` at most), close, and wait until that is done.

        Safe before `serve_forever`, twice, from any thread and from a signal handler; on the loop's own thread it does
        not wait.
        """
        with self._state:
            self.stopping = True
            serving = self._serving
        self._wake()
        if serving is not None and serving != threading.get_ident():
            self._stopped.wait()

    def server_close(self) -> None:
        """Stop, and release the address and every connection."""
        self.shutdown()
        super().server_close()
        for connection in list(self._connections):
            connection.close()
        self._wake_receiver.close()
        self._wake_sender.close()
        self.selector.close()

    def register_function(self, function: Any = None, name: str | None = None) -> Any:
        """Add a function to the method table; it runs on a worker."""
        if function is None:
            return partial(self.register_function, name=name)
        self.table.add_method(Method(name or function.__name__, function, Where.WORKER))
        return function

    def register_instance(self, instance: Any, allow_dotted_names: bool = False) -> None:
        """Add the marked methods of an object to the method table.

        Errors: ValueError for dotted names, which would let callers walk attributes.
        """
        if allow_dotted_names:
            raise ValueError("the method table is closed; dotted names are not looked up")
        self.table.add(instance)

    def _dispatch(self, method: str, params: Any) -> Any:
        value = self.table.dispatch(method, params)
        return value.result() if isinstance(value, Future) else value

    # --- The loop ---

    def _serve(self, poll_interval: float) -> None:
        self._handler.start()
        self.selector.register(self.socket, selectors.EVENT_READ, self._accept)
        self.selector.register(self._wake_receiver, selectors.EVENT_READ, self._woken)
        while not self.stopping:
            self._turn(poll_interval)
        self._finish(poll_interval)

    def _turn(self, poll_interval: float) -> None:
        events = self.selector.select(0 if self._later or self._answers else poll_interval)
        self.now = self._clock.monotonic()
        for key, ready in events:
            if isinstance(key.data, Connection):
                self._step(key.data, key.data.on_event, ready)
            else:
                key.data()
        while self._answers:
            connection, pieces, keep = self._answers.popleft()
            if not connection.closed:
                self._step(connection, self._complete, connection, pieces, keep)
        for _ in range(len(self._later)):
            connection = self._later.popleft()
            self._step(connection, connection.advance)
        if self.now >= self._next_sweep:
            self._next_sweep = self.now + _SWEEP_S
            self._sweep()

    def _step(self, connection: Connection, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception:  # noqa: BLE001 - one connection's trouble is not the others'
            _log.exception("the connection from %s failed and is closed", connection.peer)
            connection.close()

    def _complete(self, connection: Connection, pieces: list[bytes], keep: bool) -> None:
        self._answer(connection, pieces, keep)
        connection.advance()

    def _answer(self, connection: Connection, pieces: list[bytes], keep: bool) -> None:
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        if size > room.SMALL_BYTES:
            while self.unsent + size > self.limits.max_unsent_bytes:
                slow = room.slowest_reader(self._connections, self.now)
                if slow is None:
                    error = ServerBusyError("too many large answers wait to be read; try again shortly")
                    connection.answer_error(error, keep=keep)
                    return
                _log.warning("the answer to %s is not read, and dropped to make room for others", slow.peer)
                slow.make_way()
        connection.answer(pieces, keep=keep)

    def _sweep(self) -> None:
        for connection in [each for each in self._connections if each.deadline <= self.now]:
            self._step(connection, connection.expire)
        if self._no_room:
            self._accept_again()

    def _finish(self, poll_interval: float) -> None:
        """Answer what was handed on, and close."""
        until = self._clock.monotonic() + self.limits.shutdown_s
        if not self._no_room:
            self.selector.unregister(self.socket)
        self.socket.close()
        for connection in list(self._connections):
            connection.close_unless_answering()
        while self._connections and self._clock.monotonic() < until:
            self._turn(poll_interval)
        if self._connections:
            _log.warning("stopping with %d requests that could not be answered in time", len(self._connections))
        for connection in list(self._connections):
            connection.close()
        self._handler.stop(max(0.0, until - self._clock.monotonic()))
        self.selector.unregister(self._wake_receiver)

    def _end_with(self, error: BaseException) -> None:
        self._failure = error
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        if self._waking:
            return
        self._waking = True
        try:
            self._wake_sender.send(b"\0")
        except OSError:  # full: the loop will wake anyway; closed: there is no loop any more
            _log.debug("nothing to wake")

    def _woken(self) -> None:
        self._wake_receiver.recv(4096)
        self._waking = False  # before the answers are looked at: one that comes later wakes again

    # --- New connections ---

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, address = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._stop_accepting(error)
                return
            self._welcome(accepted, address[0].removeprefix("::ffff:"))

    def _welcome(self, accepted: socket.socket, peer: str) -> None:
        limit = self.limits.max_connections
        if len(self._connections) >= limit and self._made_room_at != self.now:
            self._made_room_at = self.now
            for idle in room.longest_idle(self._connections, self.now):
                idle.close()
        if len(self._connections) >= limit + room.REFUSED_AT_ONCE:
            accepted.close()
            return
        try:
            accepted.settimeout(0)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = Connection(accepted, peer, self)
        except OSError as error:
            _log.debug("a connection from %s was gone at once: %s", peer, error)
            accepted.close()
            return
        self._connections.add(connection)
        if len(self._connections) > limit:
            if not self._full:
                self._full = True
                _log.warning("refusing connections: there are %d, the last from %s", limit, peer)
            text = f"this server has {limit} connections, as many as it takes; try again shortly\n"
            self._step(connection, connection.refuse, http.text_answer(503, text))

    def _stop_accepting(self, error: OSError) -> None:
        """Leave new connections in the kernel's queue; asking for them again at once would only spin."""
        if error.errno not in _NO_ROOM:
            _log.exception("cannot accept connections at the moment")
        else:
            _log.warning("cannot accept connections at the moment: %s", error.strerror)
        self.selector.unregister(self.socket)
        self._no_room = True

    def _accept_again(self) -> None:
        self._no_room = False
        if not self.stopping:
            self.selector.register(self.socket, selectors.EVENT_READ, self._accept)

    # --- What connections ask for ---

    def make_room(self, connection: Connection, size: int) -> bool:
        """Refuse the requests that stand still, the slowest first, until there is room for so many bytes."""
        while self.received.used + size > self.received.most:
            slow = room.slowest_sender(self._connections - {connection}, self.now)
            if slow is None:
                return False
            _log.warning("the request of %s stands still, and is refused to make room for others", slow.peer)
            slow.make_way()
        return True

    def go_on_later(self, connection: Connection) -> None:
        """Let the other connections have their turn before this one's next requests."""
        self._later.append(connection)

    def forget(self, connection: Connection) -> None:
        """Drop a closed connection."""
        self._connections.discard(connection)
        if len(self._connections) < self.limits.max_connections:
            self._full = False
        if self._no_room:
            self._accept_again()

    def handle(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        """Have a request answered, on this thread or by a worker."""
        self._handler.handle(connection, head, body)

    def on_loop(self) -> bool:
        """Tell whether this is the loop's own thread."""
        return threading.get_ident() == self._serving

    def post(self, connection: Connection, pieces: list[bytes], *, keep: bool) -> None:
        """Send an answer, from whichever thread has it."""
        if self.on_loop():
            self._answer(connection, pieces, keep)
        else:
            self._answers.append((connection, pieces, keep))
            self._wake()


def _family(host: str, port: int) -> socket.AddressFamily:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    families = [each[0] for each in found]
    return socket.AF_INET if socket.AF_INET in families else families[0]
