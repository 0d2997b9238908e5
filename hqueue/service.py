"""A thread that ticks, wakes and stops."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from hqueue.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.clock import Clock

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 10.0


class _Life:
    """One thread of a service, from a start to the next stop."""

    def __init__(self) -> None:
        self.nudge = threading.Event()
        self.stopping = threading.Event()
        self.thread: threading.Thread | None = None

    def end(self) -> None:
        # The flag before the nudge: whoever sees the nudge must find the flag.
        self.stopping.set()
        self.nudge.set()


class PeriodicService:
    """Call `tick` again and again in a thread of its own, one call at a time.

    Units: a tick returns the seconds until the next one; None means `interval_s`, and that being None, until woken.
    Errors: StoreUnavailableError is retried with a growing pause, logged when the outage begins and when it is over.
    Anything else is logged with its traceback, ends the thread, and is handed to `on_death` in that thread.
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[], float | None],
        clock: Clock,
        on_death: Callable[[BaseException], None],
        *,
        interval_s: float | None = None,
    ) -> None:
        self.name = name
        self._tick = tick
        self._clock = clock
        self._on_death = on_death
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._life = _Life()
        self._life.end()

    def start(self) -> None:
        """Begin ticking, at once; do nothing if the service is running."""
        with self._lock:
            if not self._life.stopping.is_set():
                return
            before, life = self._life.thread, _Life()
            # A daemon thread: if the main thread dies, the process must end so that the init system can restart it.
            thread = threading.Thread(target=self._run, args=(life, before), name=self.name, daemon=True)
            # Before the thread runs: its first tick may call wake() or stop().
            life.thread, self._life = thread, life
            try:
                thread.start()
            except RuntimeError:  # the machine has no more threads to give
                life.thread = before
                life.end()
                raise

    def wake(self) -> None:
        """Have the next tick now, or right after the one under way; any thread may call this, also a tick."""
        self._life.nudge.set()

    def stop(self) -> None:
        """End the service and return when its last tick is over; from inside a tick, return at once."""
        with self._lock:
            life = self._life
            life.end()
        if life.thread is not None and life.thread is not threading.current_thread():
            life.thread.join()

    def _run(self, life: _Life, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # a start right after a stop from inside a tick: never two ticks at a time
        try:
            self._loop(life)
        except BaseException as error:  # whatever ended the thread, somebody has to hear of it
            life.end()
            log.critical("%s died", self.name, exc_info=True)
            self._on_death(error)

    def _loop(self, life: _Life) -> None:
        retry_s = 0.0
        while True:
            # This order and no other: a stop or wake that comes at any moment after the clear ends the wait below.
            life.nudge.clear()
            if life.stopping.is_set():
                return
            try:
                pause_s = self._tick()
            except StoreUnavailableError as error:
                if not retry_s:
                    log.warning("%s waits for the store: %s", self.name, error.message)
                retry_s = min(max(FIRST_RETRY_S, retry_s * 2), LONGEST_RETRY_S)
                # Not ended by a nudge: those keep coming from the clients, and each would be another try.
                self._clock.wait(life.stopping, retry_s)
                continue
            if retry_s:
                log.warning("%s can use the store again", self.name)
                retry_s = 0.0
            self._clock.wait(life.nudge, self._interval_s if pause_s is None else pause_s)
