"""Who has reported, and who has not for too long."""

from __future__ import annotations

import pytest

from hqueue.roster import LiveClient, Roster
from tests.fakes import FakeClock

TIMEOUT_S = 120.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def roster(clock: FakeClock) -> Roster:
    made = Roster(clock)
    made.overdue(TIMEOUT_S)  # the first check
    return made


def live(client_id: int = 1, **more: int) -> LiveClient:
    return LiveClient(client_id, f"farm{client_id:02}-ü", "schlüssel", 1, **more)


def overdue_after(roster: Roster, clock: FakeClock, seconds: float) -> list[int]:
    """Let time pass with a check every second, as the scheduler does; return who is overdue then."""
    found: list[LiveClient] = []
    for _ in range(round(seconds)):
        clock.advance(1)
        found = roster.overdue(TIMEOUT_S)
    return [client.id for client in found]


def test_a_client_is_overdue_once_the_time_is_over(roster: Roster, clock: FakeClock) -> None:
    roster.enter(live())
    assert overdue_after(roster, clock, TIMEOUT_S) == []
    assert overdue_after(roster, clock, 1) == [1]


def test_a_heartbeat_begins_the_time_anew(roster: Roster, clock: FakeClock) -> None:
    client = roster.enter(live())
    assert overdue_after(roster, clock, 100) == []
    client.seen_at_s = clock.monotonic()
    assert overdue_after(roster, clock, 100) == []
    assert overdue_after(roster, clock, 21) == [1]


def test_after_a_stall_everybody_gets_a_full_period(roster: Roster, clock: FakeClock) -> None:
    roster.enter(live(1))
    assert overdue_after(roster, clock, 119) == []
    clock.advance(3600)  # the server was stopped, or the machine slept
    assert roster.overdue(TIMEOUT_S) == []
    assert overdue_after(roster, clock, TIMEOUT_S) == []
    assert overdue_after(roster, clock, 1) == [1]


def test_a_late_check_is_a_stall_too(roster: Roster, clock: FakeClock) -> None:
    roster.enter(live())
    assert overdue_after(roster, clock, 115) == []
    clock.advance(11)
    assert roster.overdue(TIMEOUT_S) == []
    assert overdue_after(roster, clock, 119) == []


def test_the_first_check_after_a_start_loses_nobody(clock: FakeClock) -> None:
    roster = Roster(clock)
    roster.watch([1, 2])
    clock.advance(3600)  # the migration of a large store
    assert roster.overdue(TIMEOUT_S) == []
    assert overdue_after(roster, clock, 121) == [1, 2]


def test_a_clock_set_forward_by_hand_loses_nobody(roster: Roster, clock: FakeClock) -> None:
    roster.enter(live())
    clock.jump(86_400)
    assert overdue_after(roster, clock, 5) == []


def test_watching_does_not_touch_who_has_reported(roster: Roster, clock: FakeClock) -> None:
    client = roster.enter(live(number=7))
    roster.watch([1, 2])
    assert roster.clients[1] is client
    assert roster.clients[2].incarnation == -1  # any incarnation that reports is newer
    assert not roster.clients[2].unsaved  # there is nothing of it to store


def test_who_leaves_is_not_overdue_any_more(roster: Roster, clock: FakeClock) -> None:
    roster.enter(live())
    roster.leave(1)
    roster.leave(1)
    assert overdue_after(roster, clock, 200) == []


def test_news_survive_a_new_registration(roster: Roster) -> None:
    first = roster.enter(live())
    roster.tell(1)
    second = roster.enter(live())
    assert second.news > first.news  # or its first heartbeat might be taken for one that needs no answer
    roster.tell(1)
    assert second.news == first.news + 2
    roster.tell(99)  # nobody


def test_progress_is_stored_only_when_it_moves(roster: Roster) -> None:
    roster.report_progress(5, 1, 10)
    roster.progress[5].unsaved = False
    roster.report_progress(5, 1, 10)
    assert not roster.progress[5].unsaved
    roster.report_progress(5, 2, 10)
    assert roster.progress[5].unsaved
    roster.forget_progress(5)
    roster.forget_progress(99)  # nobody
    assert not roster.progress[5].unsaved  # what the run's end stored is the last word
    roster.sweep_progress()
    assert roster.progress[5].numerator == 2  # a reader with an older snapshot may still ask
    roster.sweep_progress()
    assert 5 not in roster.progress
