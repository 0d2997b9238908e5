"""The log of one run as a file.

- a header; its first line, always of the same length, says how long the header is and, once the run is finished, how
  long the output is, so that both are known again after a restart, whatever the output looks like
- the output, byte for byte
- once the run is finished, one line about its end

What a crash leaves: half a header (as good as no file: it is written anew), or less output than was answered for (the
next append is past the end, is told so, and the client sends again from there).
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST_LINE = re.compile(rb"hqueue log 1: ([0-9]{8}) bytes of header, ([0-9]{15}|-{15}) bytes of output\n")
FIRST_LINE_BYTES = len("hqueue log 1: 00000000 bytes of header, --------------- bytes of output\n")
BLOCK_BYTES = 64 << 10


class RunFile:
    """An open file; whoever has one sees to it that only one thread writes at a time.

    Units: `header_bytes`, `output_bytes` and `synced_bytes` (the output a power cut cannot take any more) are bytes.
    """

    def __init__(self, fd: int, header_bytes: int, output_bytes: int, *, finished: bool) -> None:
        self.fd = fd
        self.header_bytes = header_bytes
        self.output_bytes = output_bytes
        self.finished = finished
        self.synced_bytes = 0
        self.folders_synced = False

    @classmethod
    def open(cls, path: Path, *, writing: bool) -> Self | None:
        """Open a run's file; None where there is none, or none with a whole header."""
        try:
            fd = os.open(path, os.O_RDWR if writing else os.O_RDONLY)
        except FileNotFoundError:
            return None
        with _closing_on_error(fd):
            match = FIRST_LINE.fullmatch(os.pread(fd, FIRST_LINE_BYTES, 0))
            size = os.fstat(fd).st_size
        if match is None or size < int(match[1]):
            os.close(fd)
            return None
        header_bytes, there = int(match[1]), size - int(match[1])
        finished = not match[2].startswith(b"-") and int(match[2]) <= there
        return cls(fd, header_bytes, int(match[2]) if finished else there, finished=finished)

    @classmethod
    def create(cls, path: Path, header: str) -> Self:
        """Begin a run's file with its header; half a one that is there is replaced."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with _closing_on_error(fd):
            body = header.rstrip("\n").encode("utf-8", "replace") + b"\n"
            header_bytes = FIRST_LINE_BYTES + len(body)
            _cut(fd, 0)
            _write_all(fd, _first_line(header_bytes, None) + body, 0)
        return cls(fd, header_bytes, 0, finished=False)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    @property
    def end(self) -> int:
        """Return where in the file the next byte of output goes."""
        return self.header_bytes + self.output_bytes

    @property
    def ends_within_a_line(self) -> bool:
        """Return whether the output's last line is not ended."""
        return self.output_bytes > 0 and os.pread(self.fd, 1, self.end - 1) != b"\n"

    def append(self, data: memoryview) -> None:
        """Write all of the data behind the output, or none of it; takes the last line of a finished run away."""
        if self.finished:
            # First the line, then the mark: however this is interrupted, the line is never taken for output.
            os.ftruncate(self.fd, self.end)
            _write_all(self.fd, _first_line(self.header_bytes, None), 0)
            self.finished = False
        try:
            _write_all(self.fd, data, self.end)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell; the next append overwrites
                os.ftruncate(self.fd, self.end)
            raise
        self.output_bytes += len(data)

    def finish(self, line: str) -> None:
        """Write the line about the run's end; does nothing where there is a whole one."""
        before = b"\n" if self.ends_within_a_line else b""
        size = os.fstat(self.fd).st_size
        if self.finished and size > self.end + len(before) and os.pread(self.fd, 1, size - 1) == b"\n":
            return
        # First the mark, then the line: see append().
        _write_all(self.fd, _first_line(self.header_bytes, self.output_bytes), 0)
        self.finished = True
        _cut(self.fd, self.end)
        text = " ".join(line.split("\n")) + "\n"
        _write_all(self.fd, before + text.encode("utf-8", "replace"), self.end)

    def cut_zeros(self) -> None:
        """Take the zeros off the end that some file systems leave after a power cut; the client sends them again."""
        whole = self.output_bytes
        while self.output_bytes > 0:
            length = min(BLOCK_BYTES, self.output_bytes)
            kept = len(os.pread(self.fd, length, self.end - length).rstrip(b"\0"))
            self.output_bytes -= length - kept
            if kept:
                break
        if self.output_bytes < whole:
            os.ftruncate(self.fd, self.end)


def read_part(path: Path, start: int, length: int) -> bytes:
    """Return bytes of a file; fewer when it has got shorter, or been deleted, since it was measured."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        parts: list[bytes] = []
        while length > 0 and (part := os.pread(fd, length, start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _first_line(header_bytes: int, output_bytes: int | None) -> bytes:
    said = "-" * 15 if output_bytes is None else f"{output_bytes:015d}"
    return f"hqueue log 1: {header_bytes:08d} bytes of header, {said} bytes of output\n".encode()


def _cut(fd: int, length: int) -> None:
    """Shorten a file that is longer."""
    # One that was cut to nothing, even from nothing, is flushed by ext4 when it is closed: 0.9 ms instead of 0.1.
    if os.fstat(fd).st_size > length:
        os.ftruncate(fd, length)


def _write_all(fd: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


@contextlib.contextmanager
def _closing_on_error(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise
