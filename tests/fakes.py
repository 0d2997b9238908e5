"""Hand-written stand-ins for what tests must control: here, time."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

# How long a test really waits for another thread to arrive somewhere before it gives up.
PATIENCE_S = 10.0


class FakeClock:
    """A clock that moves only when told to; whoever waits on it sleeps until the event is set or time is advanced.

    With ``auto=True`` a wait moves the time itself and returns at once: for code under test in the test's own thread.
    ``waits`` lists the seconds of every wait so far, in order.
    """

    def __init__(self, start: datetime = datetime(2026, 3, 28, 23, 59, 30, tzinfo=UTC), *, auto: bool = False) -> None:
        self._start = start
        # Whole microseconds: two advances of 0.1 and one of 0.2 must arrive at the same moment.
        self._elapsed_us = 0
        self._jumped = timedelta()
        self._auto = auto
        self._waiters: list[threading.Event] = []
        self._changed = threading.Condition()
        self.waits: list[float | None] = []

    def now(self) -> datetime:
        with self._changed:
            return self._start + timedelta(microseconds=self._elapsed_us) + self._jumped

    def monotonic(self) -> float:
        with self._changed:
            return 1000.0 + self._elapsed_us / 1_000_000

    def steady_ms(self) -> int:
        with self._changed:
            return int((self._start + timedelta(microseconds=self._elapsed_us)).timestamp() * 1000)

    def wait(self, event: threading.Event, seconds: float | None) -> bool:
        with self._changed:
            self.waits.append(seconds)
            if self._auto and seconds is not None:
                if not event.is_set():
                    self._elapsed_us += round(seconds * 1_000_000)
                return event.is_set()
            until_us = None if seconds is None else self._elapsed_us + round(seconds * 1_000_000)
            self._waiters.append(event)
            self._changed.notify_all()
        # The event's own condition: set() by another thread and advance() then wake the same sleeper, without polling.
        condition: threading.Condition = event._cond  # type: ignore[attr-defined]
        with condition:
            condition.wait_for(lambda: event.is_set() or (until_us is not None and self._elapsed_us >= until_us))
        with self._changed:
            self._waiters.remove(event)
            self._changed.notify_all()
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass, and wake every waiter whose time is over."""
        with self._changed:
            self._elapsed_us += round(seconds * 1_000_000)
            waiters = list(self._waiters)
        for event in waiters:
            condition: threading.Condition = event._cond  # type: ignore[attr-defined]
            with condition:
                condition.notify_all()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does; the monotonic time stays."""
        with self._changed:
            self._jumped += timedelta(seconds=seconds)

    def until_waiting(self, threads: int = 1, after: int = 0) -> None:
        """Return once so many threads sleep in `wait` and more than `after` waits have begun; fail after 10 s.

        To see a thread begin its *next* wait: ``before = len(clock.waits)``, wake it, ``until_waiting(after=before)``.
        """
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: len(self._waiters) >= threads and len(self.waits) > after, PATIENCE_S
            )
            if not arrived:
                raise AssertionError(f"{len(self._waiters)} threads wait after {len(self.waits)} waits: {self.waits}")
