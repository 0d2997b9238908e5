"""Who has reported, and who has not for too long."""

from __future__ import annotations

import pytest

from hqueue.live import LiveClient, LiveFarm
from tests.fakes import FakeClock

TIMEOUT_S = 120.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def live_farm(clock: FakeClock) -> LiveFarm:
    made = LiveFarm(clock)
    made.overdue(TIMEOUT_S)  # the first check
    return made


def live(client_id: int = 1, **more: int) -> LiveClient:
    return LiveClient(client_id, f"farm{client_id:02}-ü", "schlüssel", 1, **more)


def overdue_after(live_farm: LiveFarm, clock: FakeClock, seconds: float) -> list[int]:
    """Let time pass with a check every second, as the scheduler does; return who is overdue then."""
    found: list[LiveClient] = []
    for _ in range(round(seconds)):
        clock.advance(1)
        found = live_farm.overdue(TIMEOUT_S)
    return [client.id for client in found]


def test_a_client_is_overdue_once_the_time_is_over(live_farm: LiveFarm, clock: FakeClock) -> None:
    live_farm.enter(live())
    assert overdue_after(live_farm, clock, TIMEOUT_S) == []
    assert overdue_after(live_farm, clock, 1) == [1]


def test_a_heartbeat_begins_the_time_anew(live_farm: LiveFarm, clock: FakeClock) -> None:
    client = live_farm.enter(live())
    assert overdue_after(live_farm, clock, 100) == []
    client.seen_at_s = clock.monotonic()
    assert overdue_after(live_farm, clock, 100) == []
    assert overdue_after(live_farm, clock, 21) == [1]


def test_after_a_stall_everybody_gets_a_full_period(live_farm: LiveFarm, clock: FakeClock) -> None:
    live_farm.enter(live(1))
    assert overdue_after(live_farm, clock, 119) == []
    clock.advance(3600)  # the server was stopped, or the machine slept
    assert live_farm.overdue(TIMEOUT_S) == []
    assert overdue_after(live_farm, clock, TIMEOUT_S) == []
    assert overdue_after(live_farm, clock, 1) == [1]


def test_a_late_check_is_a_stall_too(live_farm: LiveFarm, clock: FakeClock) -> None:
    live_farm.enter(live())
    assert overdue_after(live_farm, clock, 115) == []
    clock.advance(11)
    assert live_farm.overdue(TIMEOUT_S) == []
    assert overdue_after(live_farm, clock, 119) == []


def test_the_first_check_after_a_start_loses_nobody(clock: FakeClock) -> None:
    live_farm = LiveFarm(clock)
    live_farm.watch([1, 2])
    clock.advance(3600)  # the migration of a large store
    assert live_farm.overdue(TIMEOUT_S) == []
    assert overdue_after(live_farm, clock, 121) == [1, 2]


def test_a_clock_set_forward_by_hand_loses_nobody(live_farm: LiveFarm, clock: FakeClock) -> None:
    live_farm.enter(live())
    clock.jump(86_400)
    assert overdue_after(live_farm, clock, 5) == []


def test_watching_does_not_touch_who_has_reported(live_farm: LiveFarm, clock: FakeClock) -> None:
    client = live_farm.enter(live(number=7))
    live_farm.watch([1, 2])
    assert live_farm.clients[1] is client
    assert live_farm.clients[2].incarnation == -1  # any incarnation that reports is newer
    assert not live_farm.clients[2].unsaved  # there is nothing of it to store


def test_who_leaves_is_not_overdue_any_more(live_farm: LiveFarm, clock: FakeClock) -> None:
    live_farm.enter(live())
    live_farm.leave(1)
    live_farm.leave(1)
    assert overdue_after(live_farm, clock, 200) == []


def test_news_survive_a_new_registration(live_farm: LiveFarm) -> None:
    first = live_farm.enter(live())
    live_farm.tell(1)
    second = live_farm.enter(live())
    assert second.news > first.news  # or its first heartbeat might be taken for one that needs no answer
    live_farm.tell(1)
    assert second.news == first.news + 2
    live_farm.tell(99)  # nobody


def test_progress_is_stored_only_when_it_moves(live_farm: LiveFarm) -> None:
    live_farm.report_progress(5, 1, 10)
    live_farm.progress[5].unsaved = False
    live_farm.report_progress(5, 1, 10)
    assert not live_farm.progress[5].unsaved
    live_farm.report_progress(5, 2, 10)
    assert live_farm.progress[5].unsaved
    live_farm.forget_progress(5)
    live_farm.forget_progress(99)  # nobody
    assert not live_farm.progress[5].unsaved  # what the run's end stored is the last word
    live_farm.sweep_progress()
    assert live_farm.progress[5].numerator == 2  # a reader with an older snapshot may still ask
    live_farm.sweep_progress()
    assert 5 not in live_farm.progress
