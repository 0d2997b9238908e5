"""What lives in a thread: services that start, stop and die in one way.

Whatever escapes a service's thread is its death: it is logged with its traceback and handed to `on_death`, which ends
the process in order. Nobody is left waiting for an answer of a service that stopped or died.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from hqueue.errors import PASSING, HQueueError, InternalError, OutcomeUnknownError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hqueue.clock import Clock

    OnDeath = Callable[[BaseException], None]

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 10.0

_STOP: Final = object()  # the last that each thread of a consumer takes from its queue


class _Life:
    """The threads of a service, from a start to the next stop."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.nudge = threading.Event()
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.threads: list[threading.Thread] = []


class Service:
    """What all services have in common: `start`, `stop`, and a death that somebody hears of.

    Errors: what escapes a thread is logged with its traceback, ends the service, and is handed to `on_death` there.
    """

    def __init__(self, name: str, on_death: OnDeath, *, threads: int = 1, once: bool = False) -> None:
        self.name = name
        self._on_death = on_death
        self._count = threads
        self._once = once
        self._over = False
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._life = _Life()
        self._life.stopping.set()

    def start(self) -> None:
        """Begin; do nothing if the service is running, or lives `once` and was stopped."""
        with self._lock:
            if not self._life.stopping.is_set() or self._over:
                return
            before, life = self._life.threads, _Life()
            # Before the threads run: the work may call wake(), put() or stop() at once.
            self._life = life
            try:
                for number in range(1, self._count + 1):
                    name = self.name if self._count == 1 else f"{self.name}-{number}"
                    # A daemon thread: if the main thread dies, the process must end so that it is started again.
                    thread = threading.Thread(target=self._run, args=(life, before), name=name, daemon=True)
                    thread.start()
                    life.threads.append(thread)
            except RuntimeError:  # the machine has no more threads to give
                life.threads += before
                life.stopping.set()
                self._interrupt(life)
                raise

    def stop(self, within_s: float | None = None) -> bool:
        """End the service and return when its work is over; from inside the service, return at once.

        within_s: leave a thread behind that takes longer.
        Returns: whether all its threads have ended.
        """
        with self._lock:
            life = self._life
            life.stopping.set()
            self._over = self._once
        self._interrupt(life)
        if getattr(self._inside, "yes", False):
            return False
        for thread in life.threads:
            thread.join(within_s)
        return not any(thread.is_alive() for thread in life.threads)

    def _work(self, life: _Life) -> None:
        """Do what the service is for, until `life.stopping` is set."""
        raise NotImplementedError

    def _interrupt(self, life: _Life) -> None:
        """Have every thread look at `life.stopping`; called after it was set, perhaps several times."""
        raise NotImplementedError

    def _bury(self, life: _Life) -> None:
        """Do what has to be done when a thread has died."""
        self._interrupt(life)

    def _run(self, life: _Life, before: list[threading.Thread]) -> None:
        self._inside.yes = True
        for thread in before:
            thread.join()  # a start right after a stop from inside: never two lives at a time
        try:
            self._work(life)
        except BaseException as error:  # whatever ended the thread, somebody has to hear of it
            with self._lock:
                life.stopping.set()
            log.critical("%s died", self.name, exc_info=True)
            try:
                self._bury(life)
            finally:
                self._on_death(error)


class Loop(Service):
    """Run a loop that knows by itself how to wait: `run` returns soon after its event is set or `interrupt` called.

    It lives once. A loop that returns unasked is over, and not dead.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[threading.Event], None],
        on_death: OnDeath,
        *,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name, on_death, once=True)
        self._loop = run
        self._interrupt_loop = interrupt

    def _work(self, life: _Life) -> None:
        self._loop(life.stopping)

    def _interrupt(self, life: _Life) -> None:
        if life.threads:
            self._interrupt_loop()

    def _bury(self, life: _Life) -> None:
        """Leave the loop alone: it has ended."""


class PeriodicService(Service):
    """Call `tick` again and again in a thread of its own, one call at a time.

    Units: a tick returns the seconds until the next one; None means `interval_s`, and that being None, until woken.
    Errors: what passes (away, full, unknown) is retried with a growing pause, logged when it begins and is over.
    Anything else is the death of the service.
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[], float | None],
        clock: Clock,
        on_death: OnDeath,
        *,
        interval_s: float | None = None,
    ) -> None:
        super().__init__(name, on_death)
        self._tick = tick
        self._clock = clock
        self._interval_s = interval_s

    def wake(self) -> None:
        """Have the next tick now, or right after the one under way; any thread may call this, also a tick."""
        self._life.nudge.set()

    def _interrupt(self, life: _Life) -> None:
        life.nudge.set()

    def _work(self, life: _Life) -> None:
        retry_s = 0.0
        while True:
            # This order and no other: a stop or wake that comes at any moment after the clear ends the wait below.
            life.nudge.clear()
            if life.stopping.is_set():
                return
            try:
                pause_s = self._tick()
            except PASSING as error:
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


class Consumer(Service, Generic[T]):
    """Hand items to a handler, in the order in which they were put.

    each: takes one item at a time. An ordinary error is the affair of the item: it is logged, and the service goes on.
    group: takes items that have arrived from an iterator, at least one; what the handler leaves comes with the next
    group. Whatever it raises is the death of the service.
    fail: is told of every item that will not be handled to its end, with an error for the caller: StoreUnavailableError
    when the service does not run, OutcomeUnknownError when it died, InternalError when `each` raised. An item in the
    handler's hands may have been answered by then.
    finish: a stop waits until all that was put is handled; otherwise what has not been begun fails.
    """

    def __init__(
        self,
        name: str,
        on_death: OnDeath,
        *,
        each: Callable[[T], None] | None = None,
        group: Callable[[Iterator[T]], None] | None = None,
        fail: Callable[[T, HQueueError], None],
        threads: int = 1,
        finish: bool = False,
    ) -> None:
        super().__init__(name, on_death, threads=threads)
        self._each = each
        self._group = group
        self._fail_item = fail
        self._finish = finish

    def put(self, item: T) -> None:
        """Have an item handled, or failed at once when the service does not run; any thread may call this."""
        with self._lock:
            running = not self._life.stopping.is_set()
            if running:
                self._life.queue.put(item)
        if not running:
            self._fail([item], StoreUnavailableError("the server is stopping; try again shortly"))

    def _work(self, life: _Life) -> None:
        while (item := life.queue.get()) is not _STOP:
            under_way = [item]
            del item
            try:
                self._handle(life, under_way)
            except BaseException:
                self._fail(under_way, OutcomeUnknownError())
                raise
            del under_way  # and with it a body of tens of megabytes, while this thread waits for the next

    def _handle(self, life: _Life, under_way: list[T]) -> None:
        if self._each is not None:
            try:
                self._each(under_way[0])
            except Exception:
                log.exception("%s could not handle one item", self.name)
                self._fail(under_way, InternalError())
        elif self._group is not None:
            self._group(_arrived(life.queue, under_way))

    def _interrupt(self, life: _Life) -> None:
        if not self._finish:
            self._fail(_drain(life.queue), StoreUnavailableError("the server is stopping; try again shortly"))
        for _ in range(self._count):
            life.queue.put(_STOP)

    def _bury(self, life: _Life) -> None:
        self._fail(_drain(life.queue), OutcomeUnknownError())
        for _ in range(self._count):
            life.queue.put(_STOP)

    def _fail(self, items: list[T], error: HQueueError) -> None:
        for item in items:
            try:
                self._fail_item(item, error)
            except Exception:
                log.exception("%s could not tell somebody of an error", self.name)


def _arrived(queue: SimpleQueue[Any], under_way: list[T]) -> Iterator[T]:
    """Yield the items under way, then what is in the queue by then, for as long as there is something."""
    yield under_way[0]
    with contextlib.suppress(Empty):
        while (item := queue.get_nowait()) is not _STOP:
            under_way.append(item)
            yield item
        queue.put(_STOP)  # for the thread itself; nothing can be put behind it


def _drain(queue: SimpleQueue[Any]) -> list[Any]:
    items = []
    with contextlib.suppress(Empty):
        while True:
            items.append(queue.get_nowait())
    return [item for item in items if item is not _STOP]
