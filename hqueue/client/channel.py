"""Messages between the daemon and the runner: JSON, one per line, over a socket that never blocks either."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

PROTOCOL = 1
Message = dict[str, Any]


class Channel:
    """One end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        self._socket = connection
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.closed = False  # the other side is gone; what it said before is still in the last `receive`

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Tell whether something waits for the other side to read."""
        return bool(self._outgoing) and not self.closed

    def send(self, message: Message) -> None:
        """Put a message in line; `flush` sends all of them."""
        self._outgoing += json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"

    def flush(self) -> None:
        """Send as much as the other side takes now."""
        while self._outgoing and not self.closed:
            try:
                sent = self._socket.send(self._outgoing)
            except BlockingIOError:
                return
            except OSError:
                # Not closed yet for the reader: what the other side said last may still be there.
                self._outgoing.clear()
                return
            del self._outgoing[:sent]

    def receive(self) -> list[Message]:
        """Return the messages that have arrived whole.

        Errors: ValueError when the other side does not speak this language.
        """
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
                break
            self._incoming += data
        end = self._incoming.rfind(b"\n")
        if end < 0:
            return []
        lines = bytes(self._incoming[:end]).split(b"\n")
        del self._incoming[: end + 1]
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        self._socket.close()
