from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from hqueue.clock import SystemClock
from hqueue.errors import StoreUnavailableError
from hqueue.service import FIRST_RETRY_S, LONGEST_RETRY_S, PeriodicService
from tests.fakes import PATIENCE_S, FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hqueue.clock import Clock

    Make = Callable[..., PeriodicService]


class Ticks:
    """A tick that counts itself, carries out what it was given once, and proves it never runs twice at a time."""

    def __init__(self, *script: float | BaseException | Callable[[], float | None] | None) -> None:
        self.count = 0
        self.overlaps = 0
        self._script = list(script)
        self._inside = threading.Lock()
        self._counted = threading.Condition()

    def __call__(self) -> float | None:
        if not self._inside.acquire(blocking=False):
            self.overlaps += 1
            return None
        try:
            with self._counted:
                self.count += 1
                self._counted.notify_all()
            step = self._script.pop(0) if self._script else None
            if isinstance(step, BaseException):
                raise step
            return step() if callable(step) else step
        finally:
            self._inside.release()

    def reach(self, count: int, within_s: float) -> bool:
        with self._counted:
            return self._counted.wait_for(lambda: self.count >= count, within_s)

    def until(self, count: int) -> None:
        assert self.reach(count, PATIENCE_S), f"{self.count} ticks"


class Deaths(list[BaseException]):
    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def __call__(self, error: BaseException) -> None:
        self.append(error)
        self.came.set()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
def make(clock: FakeClock, deaths: Deaths) -> Iterator[Callable[..., PeriodicService]]:
    made: list[PeriodicService] = []

    def make(tick: Callable[[], float | None], clock: Clock = clock, interval_s: float | None = 60) -> PeriodicService:
        made.append(PeriodicService("prüfer", tick, clock, deaths, interval_s=interval_s))
        return made[-1]

    yield make
    for service in made:
        service.stop()


def service_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prüfer"]


def test_it_ticks_at_once_then_by_its_interval_or_as_the_tick_says(make: Make, clock: FakeClock) -> None:
    ticks = Ticks(None, 5.0)
    make(ticks).start()
    clock.until_waiting()
    assert (ticks.count, clock.waits) == (1, [60])
    clock.advance(60)
    clock.until_waiting(after=1)
    assert (ticks.count, clock.waits) == (2, [60, 5.0])
    clock.advance(4.9)
    assert ticks.count == 2
    clock.advance(0.1)
    clock.until_waiting(after=2)
    assert (ticks.count, clock.waits) == (3, [60, 5.0, 60])


def test_without_any_interval_it_waits_until_woken(make: Make, clock: FakeClock) -> None:
    ticks = Ticks()
    service = make(ticks, interval_s=None)
    service.start()
    clock.until_waiting()
    assert clock.waits == [None]
    clock.advance(1e9)
    assert ticks.count == 1
    service.wake()
    ticks.until(2)


def test_a_wake_during_a_tick_brings_another_tick(make: Make, clock: FakeClock) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert go_on.wait(PATIENCE_S)

    ticks = Ticks(slow)
    service = make(ticks)
    service.start()
    assert inside.wait(PATIENCE_S)
    service.wake()
    go_on.set()
    ticks.until(2)
    clock.until_waiting()
    assert ticks.count == 2


def test_a_tick_that_wakes_its_own_service_is_called_again(make: Make) -> None:
    def again() -> None:
        service.wake()

    ticks = Ticks(again, again)
    service = make(ticks)
    service.start()
    ticks.until(3)


def test_stop_during_a_tick_waits_for_its_end_and_none_follows(make: Make) -> None:
    inside, go_on, stopped = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert go_on.wait(PATIENCE_S)

    ticks = Ticks(slow)
    service = make(ticks)
    service.start()
    assert inside.wait(PATIENCE_S)

    def stop() -> None:
        service.stop()
        stopped.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    assert not stopped.wait(0.05)
    go_on.set()
    assert stopped.wait(PATIENCE_S)
    stopper.join()
    assert ticks.count == 1
    assert not service_threads()


def test_start_and_stop_twice_are_as_once(make: Make) -> None:
    ticks = Ticks()
    service = make(ticks)
    service.stop()
    service.start()
    service.start()
    ticks.until(1)
    assert len(service_threads()) == 1
    service.stop()
    service.stop()
    assert not service_threads()
    service.start()
    ticks.until(2)


def test_a_tick_may_stop_its_own_service_and_start_it_again(make: Make) -> None:
    def anew() -> None:
        service.stop()
        service.start()

    ticks = Ticks(anew)
    service = make(ticks)
    service.start()
    ticks.until(2)
    service.stop()
    assert ticks.overlaps == 0
    assert not service_threads()


def test_an_outage_of_the_store_is_waited_out_and_logged_once(
    make: Make, clock: FakeClock, deaths: Deaths, caplog: pytest.LogCaptureFixture
) -> None:
    outage = [StoreUnavailableError("the disk of /srv/höhle is full") for _ in range(7)]
    ticks = Ticks(*outage, 7.0, StoreUnavailableError(), 8.0)
    service = make(ticks)
    with caplog.at_level(logging.INFO, "hqueue.service"):
        service.start()
        for already in range(9):
            clock.until_waiting(after=already)
            clock.advance(60)
        clock.until_waiting(after=9)
    assert clock.waits == [FIRST_RETRY_S, 1, 2, 4, 8, LONGEST_RETRY_S, LONGEST_RETRY_S, 7.0, FIRST_RETRY_S, 8.0]
    assert deaths == []
    words = [record.getMessage() for record in caplog.records]
    assert len(words) == 4
    assert "/srv/höhle" in words[0]
    assert "again" in words[1]


def test_an_outage_is_ended_by_a_stop_but_not_by_a_wake(make: Make, clock: FakeClock) -> None:
    ticks = Ticks(StoreUnavailableError())
    service = make(ticks)
    service.start()
    clock.until_waiting()
    service.wake()
    assert not ticks.reach(2, within_s=0.05)
    service.stop()
    assert ticks.count == 1
    assert clock.waits == [FIRST_RETRY_S]


def test_an_outage_ends_with_the_next_try(make: Make, clock: FakeClock) -> None:
    ticks = Ticks(StoreUnavailableError(), None)
    service = make(ticks)
    service.start()
    clock.until_waiting()
    clock.advance(FIRST_RETRY_S)
    ticks.until(2)


@pytest.mark.parametrize("error", [ZeroDivisionError("the tick's own"), SystemExit(3)])
def test_any_other_error_ends_it_and_is_handed_on(
    make: Make, deaths: Deaths, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    ticks = Ticks(error)
    service = make(ticks)
    service.start()
    assert deaths.came.wait(PATIENCE_S)
    service.stop()
    assert deaths == [error]
    assert ticks.count == 1
    assert caplog.records[-1].exc_info is not None
    assert caplog.records[-1].exc_info[1] is error
    service.start()
    ticks.until(2)


def test_on_death_may_stop_the_service_while_others_stop_it_too(make: Make, clock: FakeClock) -> None:
    stopped = threading.Event()

    def on_death(_error: BaseException) -> None:
        service.stop()
        stopped.set()

    service = PeriodicService("prüfer", Ticks(ValueError("no")), clock, on_death)
    service.start()
    service.stop()
    assert stopped.wait(PATIENCE_S)
    assert not service_threads()


def test_many_threads_start_wake_and_stop_it_without_losing_a_stop(make: Make) -> None:
    ticks = Ticks()
    service = make(ticks, clock=SystemClock(), interval_s=3600)
    together = threading.Barrier(4)

    def churn(*steps: Callable[[], None]) -> None:
        for _ in range(100):
            together.wait(PATIENCE_S)
            for step in steps:
                step()

    threads = [
        threading.Thread(target=churn, args=steps)
        for steps in (
            (service.start, service.stop),
            (service.stop, service.start),
            (service.wake, service.wake),
            (service.stop, service.wake),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S * 3)
        assert not thread.is_alive(), "a stop was lost"
    service.stop()
    after = ticks.count
    service.wake()
    assert not service_threads()
    assert ticks.count == after > 0
    assert ticks.overlaps == 0
