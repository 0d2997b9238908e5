"""Progress lines in a command's output."""

from __future__ import annotations

import re

LONGEST_LINE_BYTES = 64 * 1024  # of a longer one, what has come so far is read as if it were whole
LONGEST_MARK_BYTES = 128  # what of it is kept, for a mark may be cut in two

_MARK = re.compile(
    rb"(?<![A-Za-z_])(?:PROGRESS:[ \t]*(-?\d{1,18})(?:\.\d*)?[ \t]*/[ \t]*(\d{1,18})(?:\.\d*)?"
    rb"|ALF_PROGRESS[ \t]+(\d{1,18})(?:\.\d*)?[ \t]*%)"
)


class Progress:
    """The last `PROGRESS: n/m` or `ALF_PROGRESS nn%` of an output that arrives in pieces of any size.

    A line ends with a line feed or a carriage return; one that has not ended yet does not count, for the rest of a
    number may be still to come. m = 0 is passed over, n is held between 0 and m.
    """

    def __init__(self) -> None:
        self.latest: tuple[int, int] | None = None
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Read the next piece."""
        text = self._tail + data
        end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        self._tail = text[end:]
        if end:
            self._read(text[:end])
        if len(self._tail) > LONGEST_LINE_BYTES:
            self._read(self._tail[:-LONGEST_MARK_BYTES])
            self._tail = self._tail[-LONGEST_MARK_BYTES:]

    def finish(self) -> None:
        """Read what the last line holds although nothing ended it."""
        self._read(self._tail)
        self._tail = b""

    def _read(self, text: bytes) -> None:
        if b"PROGRESS" not in text:
            return
        for match in _MARK.finditer(text):
            n, m, percent = match.groups()
            done, of = (int(percent), 100) if percent is not None else (int(n), int(m))
            if of:
                self.latest = min(max(done, 0), of), of
