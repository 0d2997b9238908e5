"""Reads from a peer that may send a byte at a time: all of a message has a deadline, not each of its bytes."""

from __future__ import annotations

import io
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, cast

from hqueue.clock import SystemClock

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer

    from hqueue.clock import Clock


class DeadlineReader(io.RawIOBase):
    """What a socket receives within some seconds from now; its own time-out holds for each read besides.

    Errors: TimeoutError from a read that the deadline ends or finds over.
    """

    def __init__(self, connection: socket.socket, within_s: float, clock: Clock | None = None) -> None:
        self._connection = connection
        self._clock = clock or SystemClock()
        self._until_s = self._clock.monotonic() + within_s
        self._silence_s = connection.gettimeout() or within_s
        self._source = connection.makefile("rb", buffering=0)  # keeps the socket open, as makefile does

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        """Read what is there, waiting for the first byte of it."""
        left_s = self._until_s - self._clock.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out: the message came too slowly")
        self._connection.settimeout(min(left_s, self._silence_s))
        try:
            return self._source.readinto(buffer)
        finally:
            self._connection.settimeout(self._silence_s)

    def close(self) -> None:
        """Let go of the socket."""
        self._source.close()
        super().close()

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the buffered file that HTTP is read from, as a socket does."""
        return io.BufferedReader(self)


def response_within(seconds: float) -> type[HTTPResponse]:
    """Return what an HTTP connection makes of an answer that must be there so soon after its request."""

    class DeadlineResponse(HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
            super().__init__(cast("socket.socket", DeadlineReader(sock, seconds)), *args, **options)

    return DeadlineResponse
