"""Facts about runs that survive the process and, once synced, a power cut: one file of lines, merged by token."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

from hqueue.folders import flush_folder

if TYPE_CHECKING:
    from pathlib import Path

SPARE_BYTES = 1 << 20  # lines that say nothing any more are kept up to this size, and up to what is still said


class Journal:
    """A dictionary of dictionaries on disk, written by appending.

    One file for all runs, not one per run: however many runs change at a time, that is one write and one fsync. A line
    is `{"token": …, fields…}`, merged into what is known of that token, or `{"token": …, "gone": true}`. A line cut
    short by a crash is passed over. Only `sync` may be called from another thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        self.unreadable_lines = 0
        self._pending: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()  # guards the descriptor, which rewriting replaces
        self._dirty = False
        if path.exists():
            self._load()
        self._descriptor = -1
        self._size = self._live_size = 0
        self._rewrite()

    def put(self, token: str, **fields: Any) -> None:
        """Merge fields into what is known of a token; None takes a field away. Written by the next `flush`."""
        self._merge(token, fields)
        self._pending.append((token, _line({"token": token, **fields})))

    def drop(self, token: str) -> None:
        """Forget a token. Written by the next `flush`."""
        if self.entries.pop(token, None) is not None:
            self._pending.append((token, _line({"token": token, "gone": True})))

    def take_back(self, token: str) -> None:
        """Undo whatever was put for a token and not yet written."""
        self.entries.pop(token, None)
        self._pending = [(of, line) for of, line in self._pending if of != token]

    def flush(self) -> None:
        """Hand what was put and dropped to the system, which keeps it when this process is killed.

        Errors: OSError when the disk is full or worse; nothing is written then, and the next call tries again.
        """
        if not self._pending:
            return
        data = b"".join(line for _, line in self._pending)
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._pending.clear()
        self._size += len(data)
        self._dirty = True
        if self._size > SPARE_BYTES + 4 * self._live_size:
            self._rewrite()

    def sync(self) -> None:
        """Return when all that was flushed before this call survives a power cut."""
        with self._lock:
            if not self._dirty:
                return
            # A copy, for the owner may replace the file meanwhile; the new one is synced before it takes the name.
            descriptor = os.dup(self._descriptor)
            self._dirty = False
        try:
            os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)
        except OSError:
            self._dirty = True
            raise
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            os.close(self._descriptor)

    def _load(self) -> None:
        for line in self.path.read_bytes().split(b"\n"):
            if not line:
                continue
            try:
                fields = json.loads(line)
                token = str(fields.pop("token"))
            except (ValueError, TypeError, AttributeError, KeyError):
                self.unreadable_lines += 1
                continue
            if fields.get("gone"):
                self.entries.pop(token, None)
            else:
                self._merge(token, fields)

    def _merge(self, token: str, fields: dict[str, Any]) -> None:
        entry = self.entries.setdefault(token, {})
        for name, value in fields.items():
            if value is None:
                entry.pop(name, None)
            else:
                entry[name] = value

    def _rewrite(self) -> None:
        data = b"".join(_line({"token": token, **entry}) for token, entry in self.entries.items())
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600
        )
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
            os.replace(fresh, self.path)  # noqa: PTH105 - one style with the calls around it
        except OSError:
            os.close(descriptor)
            if self._descriptor < 0:
                raise
            return  # the old file goes on serving; the next flush tries again
        with self._lock:
            before, self._descriptor = self._descriptor, descriptor
            self._dirty = False
        if before >= 0:
            os.close(before)
        self._size = self._live_size = len(data)
        flush_folder(self.path.parent)


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"
