"""Room that all callers share: bytes, connections, descriptors. When there is none, the slowest make way."""

from __future__ import annotations

import contextlib
import resource
import threading
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

SMALL_BYTES: Final = 64 * 1024
"""Requests and answers up to this size always find room: what they may take is bounded by the connections."""
PATIENCE_S: Final = 5.0
"""Who moves fewer than `SMALL_BYTES` in this time has to make way for others."""
_IDLE_S: Final = 10.0
REFUSED_AT_ONCE: Final = 64
"""Connections beyond the most there may be, while they are told so."""
_OTHER_FILES: Final = 96
_FILES_PER_SESSION: Final = 3
"""SQLite has the database, its log and its index open for each."""


class Budget:
    """Bytes that may be held at one time; any thread may take and give."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self._lock = threading.Lock()

    def take(self, size: int, *, always: bool) -> bool:
        """Count bytes that are now held, and tell whether there was room for them; else they are not counted."""
        with self._lock:
            if self.used + size > self.most and not always:
                return False
            self.used += size
        return True

    def give(self, size: int) -> None:
        """Take back what was counted."""
        with self._lock:
            self.used -= size


class Share:
    """What one request holds of a budget; one thread at a time has the request, and its share."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def take(self, size: int) -> bool:
        """Hold so many bytes more, and tell whether there was room for them."""
        if not self._budget.take(size, always=self.held + size <= SMALL_BYTES):
            return False
        self.held += size
        return True

    def release(self) -> None:
        """Hold nothing."""
        if self.held:
            self._budget.give(self.held)
            self.held = 0


class Caller(Protocol):
    """A connection, as far as it is needed here."""

    moved_at: float
    unsent: int

    @property
    def receiving_bytes(self) -> int:
        """How much is here of a request that is still arriving."""

    def is_idle(self) -> bool:
        """Tell whether it may be closed without anybody losing anything."""


_Caller = TypeVar("_Caller", bound=Caller)


def slowest_sender(connections: Iterable[_Caller], now: float) -> _Caller | None:
    """Return whose large request has stood still for longest; None if all move."""
    return _first(each for each in connections if each.receiving_bytes > SMALL_BYTES and _stands(each, now))


def slowest_reader(connections: Iterable[_Caller], now: float) -> _Caller | None:
    """Return whose large answer has stood still for longest; None if all move."""
    return _first(each for each in connections if each.unsent > SMALL_BYTES and _stands(each, now))


def longest_idle(connections: Iterable[_Caller], now: float) -> list[_Caller]:
    """Return some connections that were not used for a while, the longest unused first."""
    idle = [each for each in connections if each.moved_at <= now - _IDLE_S and each.is_idle()]
    return sorted(idle, key=lambda each: each.moved_at)[:REFUSED_AT_ONCE]


def _stands(connection: Caller, now: float) -> bool:
    return connection.moved_at <= now - PATIENCE_S


def _first(connections: Iterable[_Caller]) -> _Caller | None:
    return min(connections, key=lambda each: each.moved_at, default=None)


def raise_descriptor_limit() -> tuple[int, int]:
    """Let this process open as many files as the system allows it, and return what its limits were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def connections_within(wanted: int, sessions: int) -> tuple[int, int]:
    """Return how many connections there is room for, and how many files this process may open.

    sessions: with the database, at most. What they, logs and services open is kept free.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return wanted, files
    kept = _OTHER_FILES + _FILES_PER_SESSION * sessions + REFUSED_AT_ONCE
    return min(wanted, max(files - kept, files // 4)), files
