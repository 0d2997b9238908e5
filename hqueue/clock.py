"""The only module that reads the time or waits for it; everybody else is given a Clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import threading


class Clock(Protocol):
    """What the rest of the program knows of time."""

    def now(self) -> datetime:
        """Return the wall-clock time, with its zone (UTC): for what people read."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump: for durations and time-outs."""
        ...

    def steady_ms(self) -> int:
        """Return milliseconds since 1970 that never jump while the process lives: for durations that are stored."""
        ...

    def wait(self, event: threading.Event, seconds: float | None) -> bool:
        """Wait until the event is set or the seconds have passed (None: for ever); tell whether it is set."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one place

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()  # noqa: TID251 - the one place

    def steady_ms(self) -> int:
        """Return the wall clock as it was at the start, and what has passed since."""
        return _STARTED_MS + int(self.monotonic() * 1000)

    def wait(self, event: threading.Event, seconds: float | None) -> bool:
        """Wait for the event, at most so many seconds."""
        return event.wait(seconds)


def to_ms(moment: datetime) -> int:
    """Return a moment as whole milliseconds since 1970 in UTC: how the store keeps all that ends in `_at`."""
    return int(moment.timestamp() * 1000)


def from_ms(milliseconds: int) -> datetime:
    """Return the moment (UTC) for milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


_STARTED_MS: Final = to_ms(SystemClock().now()) - int(SystemClock().monotonic() * 1000)
