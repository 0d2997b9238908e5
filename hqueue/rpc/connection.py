"""One caller's connection: bytes in, whole requests out, answers back, never waiting for the peer.

Everything here runs on the loop's thread. A connection is in one of these states:

idle       nothing received; may be closed at any time
receiving  part of a request is here; it has a time limit from its first byte
busy       a request was handed on; whatever happens, it is answered, and until then nothing closes the connection
writing    the answer waits for the peer to read; it has a time limit that is renewed as the peer reads, and a last one
           in proportion to its size
leaving    refused; what the peer still sends is thrown away, for closing at once would destroy the answer on its way
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
from collections import deque
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import TYPE_CHECKING, Final, Protocol

from hqueue.errors import HQueueError, LimitExceededError, ServerBusyError
from hqueue.rpc import http
from hqueue.rpc.room import SMALL_BYTES, Share

if TYPE_CHECKING:
    from hqueue.rpc.http import Head, Limits
    from hqueue.rpc.room import Budget
    from hqueue.wire.guard import Door

_SMALL_READ: Final = 64 * 1024
_LARGE_READ: Final = 256 * 1024
_WRITE_PIECE: Final = 256 * 1024
_WRITES_PER_TURN: Final = 4
_REQUESTS_PER_TURN: Final = 32
_MAX_WAITING_BYTES: Final = 64 * 1024
"""Most bytes of pipelined requests that wait behind the one in hand; then the peer's sending is no longer read."""
_LEAVING_S: Final = 30.0
_EMPTY_LINE: Final = re.compile(rb"\r?\n\r?\n")


class Host(Protocol):
    """The server, as its connections see it."""

    limits: Limits
    door: Door
    now: float
    selector: BaseSelector
    unsent: int
    received: Budget

    def handle(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        """Answer a request, now or later, with `Connection.answer`."""

    def make_room(self, connection: Connection, size: int) -> bool:
        """Find room for so many bytes of a large request, and tell whether there is."""

    def go_on_later(self, connection: Connection) -> None:
        """Call `Connection.advance` after the others had their turn."""

    def forget(self, connection: Connection) -> None:
        """Learn that a connection is closed."""


class Connection:
    """The state of one connection."""

    __slots__ = (
        "_block", "_body", "_ended", "_events", "_head", "_host", "_inbox", "_last", "_leaving", "_moved",
        "_outbox", "_receiving", "_socket", "_write_end", "busy", "closed", "deadline", "moved_at", "peer",
        "share", "unsent",
    )  # fmt: skip

    def __init__(self, accepted: socket.socket, peer: str, host: Host) -> None:
        self.peer = peer
        self.busy = False
        self.closed = False
        self.deadline = host.now + host.limits.request_timeout_s
        self.moved_at = host.now  # when it became idle, or last sent or read a good piece
        self.share = Share(host.received)  # whoever has the request in hand may take more
        self.unsent = 0
        self._socket = accepted
        self._host = host
        self._inbox = b""
        self._block = b""
        self._head: Head | None = None
        self._body: http.Body | None = None
        self._outbox: deque[memoryview] = deque()
        self._write_end = 0.0
        self._moved = 0
        self._receiving = False
        self._ended = False  # the peer will send nothing more
        self._last = False  # the answer being written is the last
        self._leaving = False
        self._events = EVENT_READ
        host.selector.register(accepted, EVENT_READ, self)

    # --- What the loop calls ---

    def on_event(self, events: int) -> None:
        """Read and write what the socket is ready for."""
        if self.closed:  # by another event of the same turn
            return
        if events & EVENT_WRITE:
            self._flush()
            if not (self._outbox or self.closed or self._leaving):
                self.advance()
        if events & EVENT_READ and not self.closed:
            self._receive()

    def advance(self) -> None:
        """Hand on the requests that are whole, in order, each after the answer to the one before."""
        try:
            for _ in range(_REQUESTS_PER_TURN):
                if self.busy or self._outbox or self._leaving or self.closed:
                    return
                if not self._inbox or not self._take_request():
                    break
            else:
                self._host.go_on_later(self)
                return
        except http.RefusedError as refusal:
            self.refuse(http.text_answer(refusal.status, refusal.text + "\n"))
            return
        self._wait_for_more()

    def is_idle(self) -> bool:
        """Tell whether it may be closed without anybody losing anything."""
        return not (self.busy or self._outbox or self._inbox or self._body is not None or self._leaving)

    @property
    def receiving_bytes(self) -> int:
        """How much is here of a request that is still arriving."""
        return 0 if self._body is None else self.share.held

    def answer(self, pieces: list[bytes], *, keep: bool) -> None:
        """Send the answer to the request that was handed on; the caller advances afterwards."""
        self.busy = False
        self.share.release()
        self._last = not keep
        self._send(pieces)

    def answer_error(self, error: HQueueError, *, keep: bool) -> None:
        """Send this instead of an answer there is no room for."""
        self.answer([http.error_answer(self._head, error, 503, keep=keep)], keep=keep)

    def make_way(self) -> None:
        """End for the sake of others: refuse a request that arrives too slowly, drop an answer that is not read."""
        if self._outbox:
            self.close()
        else:
            self._refuse_body(ServerBusyError("too many large requests are arriving, and this one too slowly"))

    def refuse(self, data: bytes) -> None:
        """Send this as the last answer, whatever the peer is still sending."""
        self.busy = False
        self._receiving = False
        self._leaving = self._last = True
        self._inbox = b""
        self._body = None
        self.share.release()
        self.deadline = self._host.now + _LEAVING_S
        self._send([data])

    def expire(self) -> None:
        """End what has taken too long."""
        if self._receiving:
            seconds = self._host.limits.request_timeout_s
            self.refuse(http.text_answer(408, f"the request took longer than {seconds:g} s to arrive\n"))
        else:
            self.close()

    def close_unless_answering(self) -> None:
        """Close, unless a request was handed on that is not answered yet."""
        if not self.busy and not self._outbox:
            self.close()

    def close(self) -> None:
        """Close, at once and in any state."""
        if self.closed:
            return
        self.closed = True
        if self._events:
            self._host.selector.unregister(self._socket)
        self._socket.close()
        self._host.unsent -= self.unsent
        self.unsent = 0
        self._outbox.clear()
        self.share.release()
        self._host.forget(self)

    # --- Reading ---

    def _wait_for_more(self) -> None:
        """Set the time limit for what the peer is to send next."""
        if self._leaving or self.closed:
            return
        if self._ended:
            self.close()
        elif self._inbox or self._body is not None:
            if not self._receiving:
                self._receiving = True
                self.moved_at = self._host.now
                self.deadline = self._host.now + self._host.limits.request_timeout_s
        else:
            self.moved_at = self._host.now
            self.deadline = self._host.now + self._host.limits.idle_timeout_s
        if self._events != EVENT_READ:
            self._watch()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_SMALL_READ if self._body is None else _LARGE_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._ended = True
            self._watch()
            if self._leaving:
                self.close()
            elif not self.busy and not self._outbox:
                self.advance()
        elif not self._leaving:
            if self._receiving and not self._outbox:
                self._move(len(data))
            self._inbox = self._inbox + data if self._inbox else data
            if not self.busy and not self._outbox:
                self.advance()
            elif len(self._inbox) > _MAX_WAITING_BYTES:
                self._watch()

    def _take_request(self) -> bool:
        """Hand on the next request if it is whole, and tell whether it was."""
        if self._body is not None:
            return self._go_on_with_body(self._body, self._inbox)
        inbox = self._inbox
        end = inbox.find(b"\r\n\r\n")
        start = end + 4
        if end < 0 or end != len(self._block) or not inbox.startswith(self._block):
            found = self._find_head(inbox)
            if found is None:
                return False
            inbox, start = self._inbox, found
        head = self._head
        if head is None:
            return False
        stop = start + head.length
        if start <= stop <= len(inbox) and head.length <= self._host.limits.max_request_bytes:
            self._inbox = inbox[stop:]
            self._hand_on(head, inbox[start:stop])
            return True
        try:
            self._body = http.Body(head.length, self._host.limits.max_request_bytes)
        except LimitExceededError as error:
            self._refuse_body(error)
            return False
        if head.expects_continue and start == len(inbox):
            self._send([http.CONTINUE])
        return self._go_on_with_body(self._body, inbox[start:])

    def _find_head(self, inbox: bytes) -> int | None:
        """Read a head that is not the same as the last, and return where it ends; None if it is not whole."""
        if inbox[:1] in {b"\r", b"\n"}:
            self._inbox = inbox = inbox.lstrip(b"\r\n")  # some callers end a body with an empty line
        if not inbox:
            return None
        limit = self._host.limits.max_head_bytes
        found = _EMPTY_LINE.search(inbox, 0, limit + 4)
        if found is not None and found.start() <= limit:
            self._block = inbox[: found.start()]
            self._head = http.parse_head(self._block, self._host.door)
            return found.end()
        line, newline, _ = inbox.partition(b"\n")
        if newline or not inbox[:1].isalpha():
            http.parse_request_line(line.removesuffix(b"\r"))  # why wait for the rest of what is no request
        if len(inbox) > limit:
            raise http.RefusedError(431, f"the head of the request is longer than {limit} bytes")
        return None

    def _go_on_with_body(self, body: http.Body, data: bytes) -> bool:
        head = self._head
        self._inbox = b""
        try:
            rest = body.feed(data)
        except LimitExceededError as error:
            self._refuse_body(error)
            return False
        grown = len(body.data) - self.share.held
        if not self.share.take(grown) and not (self._host.make_room(self, grown) and self.share.take(grown)):
            self._refuse_body(ServerBusyError("too many large requests are arriving; try again shortly"))
            return False
        if not body.done or head is None:
            return False
        self._inbox = rest
        self._body = None
        self._hand_on(head, body.data)
        return True

    def _refuse_body(self, error: HQueueError) -> None:
        status = 413 if isinstance(error, LimitExceededError) else 503
        self.refuse(http.error_answer(self._head, error, status, keep=False))

    def _move(self, size: int) -> bool:
        """Count what the peer sent or read, and tell whether that makes a good piece."""
        self._moved += size
        if self._moved < SMALL_BYTES:
            return False
        self._moved = 0
        self.moved_at = self._host.now
        return True

    def _hand_on(self, head: Head, body: bytes | bytearray) -> None:
        self.busy = True
        self._receiving = False
        self.deadline = math.inf
        self._host.handle(self, head, body)

    # --- Writing ---

    def _send(self, pieces: list[bytes]) -> None:
        sent = 0
        if len(pieces) == 1 and not self._outbox:
            try:
                sent = self._socket.send(pieces[0])
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.close()
                return
            if sent == len(pieces[0]):
                self._all_sent()
                return
        waiting = sum(map(len, pieces)) - sent
        self.unsent += waiting
        self._host.unsent += waiting
        for piece in pieces:
            self._outbox.append(memoryview(piece)[sent:])
            sent = 0
        if not self._leaving:
            limits = self._host.limits
            self.moved_at = self._host.now
            self.deadline = self._host.now + limits.write_timeout_s
            self._write_end = self.deadline + waiting / limits.slowest_bytes_per_s
        self._flush()

    def _flush(self) -> None:
        for _ in range(_WRITES_PER_TURN):
            if not self._outbox:
                break
            view = self._outbox[0]
            try:
                sent = self._socket.send(view[:_WRITE_PIECE])
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            if sent == len(view):
                self._outbox.popleft()
            else:
                self._outbox[0] = view[sent:]
            self._count_sent(sent)
        if not self._outbox:
            self._all_sent()
        if not self.closed:
            self._watch()

    def _count_sent(self, sent: int) -> None:
        self.unsent -= sent
        self._host.unsent -= sent
        if self._move(sent) and not self._leaving:
            self.deadline = min(self._host.now + self._host.limits.write_timeout_s, self._write_end)

    def _all_sent(self) -> None:
        if not self._last:
            return
        if not self._leaving or self._ended:
            self.close()
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _watch(self) -> None:
        """Have the selector report what is of use in the present state."""
        full = (self.busy or self._outbox) and len(self._inbox) > _MAX_WAITING_BYTES
        events = (0 if self._ended or full else EVENT_READ) | (EVENT_WRITE if self._outbox else 0)
        if events == self._events:
            return
        if not events:
            self._host.selector.unregister(self._socket)
        elif not self._events:
            self._host.selector.register(self._socket, events, self)
        else:
            self._host.selector.modify(self._socket, events, self)
        self._events = events
