"""A command's output: a file that grows, handed to the server in pieces by offset."""

from __future__ import annotations

import os
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


COMPARED_BYTES = 64
LOOK_BACK_BYTES = 64 * 1024  # where the last progress line is looked for after a restart


class Output:
    """What a run has written, and how much of it the server has.

    Units: offsets are the server's. They are the file's too, as long as nobody cuts the file short, as a script does by
    `echo … > /dev/stderr`. That is noticed by the length, and by what stands before the next piece; all there is then
    counts as new, and `shift` is what was handed over of earlier contents.
    """

    def __init__(self, path: str, *, shift: int = 0) -> None:
        self._path = path
        self.shift = shift
        self.size = shift  # offset of its end when last looked at
        self.sent = shift  # offset up to which the server has it
        self.unsure = False  # what the server has is to be asked first: this daemon did not see it sent
        self.dropped = False  # the server does not know the run and wants none of it
        self.begun = False  # a command writes to the file, so there must be one
        self.lost = ""  # why the server will never have all of it, as the end of a sentence
        self._progress = Progress()
        self._read_up_to = shift
        self._last_read = b""  # ends at _read_up_to
        self._before = b""  # ends at sent: what must stand there still

    @property
    def progress(self) -> tuple[int, int] | None:
        """Return the latest (n, m) found in what was handed over."""
        return self._progress.latest

    @property
    def delivered(self) -> bool:
        """Tell whether the server has all that was there at the last look."""
        return self.dropped or (self.sent >= self.size and not self.unsure)

    def look(self, *, closely: bool = False) -> None:
        """Look how far the file has grown, and whether it was cut short or removed.

        `closely`: notice that also when it is exactly as long as what was sent, which means opening it.
        """
        try:
            length = os.stat(self._path).st_size  # noqa: PTH116 - for each running command, twice a second
        except OSError as error:
            length = 0
            if self.begun and isinstance(error, FileNotFoundError):
                self.lose(f"its file was removed, with {max(0, self.size - self.sent)} bytes or more")
        self.size = self.shift + length
        if not self.unsure and (self.size < self.sent or (closely and self._was_cut())):
            self._start_over(length)

    def lose(self, why: str) -> None:
        """Note that some of it will never be handed over; the first reason stays."""
        self.lost = self.lost or why

    def adopt(self) -> None:
        """Start from a file that an earlier daemon may have handed over in part."""
        self.unsure = True
        self.look()

    def piece(self, limit: int) -> tuple[int, bytes]:
        """Read the next piece, at most `limit` bytes: offset and bytes; none, at the end, to ask for the length."""
        if self.unsure:
            return self.size, b""
        if self._was_cut():
            self.look(closely=True)
        data = self._read(self.sent, min(limit, self.size - self.sent))
        end = self.sent + len(data)
        if end > self._read_up_to:
            self._progress.feed(data[max(0, self._read_up_to - self.sent) :])
            self._read_up_to = end
            self._last_read = data[-COMPARED_BYTES:]
        if not data:
            # Unreadable, or shorter than at the last look: what cannot be had must not hold the end report up.
            if self.size > self.sent:
                self.lose(f"{self.size - self.sent} bytes of its file cannot be read any more")
            self.size = self.sent
        return self.sent, data

    def server_has(self, length: int) -> None:
        """Take the server's word for how much it has; -1: it does not know the run."""
        if length < 0:
            self.dropped = True
            return
        if self.unsure:
            self.unsure = False
            if length > self.size:
                # It has more than is here: the file was cut short, or lost its end in a power cut.
                self.shift += length - self.size
                self.size = length
            back = max(self.shift, length - LOOK_BACK_BYTES)
            self._last_read = self._read(back, length - back)
            self._progress.feed(self._last_read)
            self._last_read = self._last_read[-COMPARED_BYTES:]
            self._read_up_to = length
        if length < self.shift:
            # It lost what we no longer have; go on from what there is.
            self.lose(f"the server lost {self.shift - length} bytes that the client no longer has")
            self.size -= self.shift - length
            self.shift = length
        self.sent = min(length, self.size)
        self._before = self._last_read if self.sent == self._read_up_to else b""

    def finish(self) -> None:
        """Read the last progress line, now that nothing follows."""
        self._progress.finish()

    def _was_cut(self) -> bool:
        start = self.sent - len(self._before)
        return bool(self._before) and start >= self.shift and self._read(start, len(self._before)) != self._before

    def _start_over(self, length: int) -> None:
        self.shift = self.sent
        self.size = self.shift + length
        self._before = b""

    def _read(self, offset: int, count: int) -> bytes:
        if count <= 0:
            return b""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return b""
        try:
            os.lseek(descriptor, offset - self.shift, os.SEEK_SET)
            return os.read(descriptor, count)
        except OSError:
            return b""
        finally:
            os.close(descriptor)
