from __future__ import annotations

import random
from typing import Any
from xmlrpc.client import Fault

import pytest

from hqueue.client.conversation import LONGEST_RETRY_S, Call, Conversation
from hqueue.protocol import Acknowledgement, Answer, Assignment, Identity, Listed, Piece, Report, Welcome, Wish, write

IDENTITY = Identity(hostname="größe", key="schlüssel", incarnation=3, port=5001, cpus=4)


class FakeRuns:
    """Runs, and their account in one, that say what a test puts in them."""

    def __init__(self) -> None:
        self.news = False
        self.kill_grace_s = 0.0
        self.terminating = False
        self.condemned = ""
        self.ended_output = self.running_output = False
        self.due: list[Report] = []
        self.done: list[tuple[str, Any]] = []
        self.account = self

    def listing(self, now: float) -> list[Listed]:
        return [Listed("t1", "running")]

    def reports(self, now: float, limit: int) -> list[Report]:
        return self.due[:limit]

    def pieces(self, limit: int) -> list[Piece]:
        return [Piece(token="t1", data=b"x", pid=7)]

    def lengths(self, pieces: Any, lengths: Any) -> bool:
        self.done.append(("lengths", lengths))
        return False

    def take(self, assignments: Any) -> None:
        self.done.append(("take", assignments))

    def wish(self, wishes: Any, now: float) -> None:
        self.done.append(("wish", wishes))

    def acknowledge(self, tokens: Any) -> None:
        self.due = [report for report in self.due if report.token not in tokens]

    def resend(self, wanted: Any, now: float) -> None:
        self.done.append(("resend", wanted))


class Talk:
    def __init__(self) -> None:
        self.runs = FakeRuns()
        self.registrations: list[Any] = []
        self.conversation = Conversation(
            self.runs, IDENTITY, lambda: {"load": 0.5}, self.registrations.append, random.Random(1)
        )

    def call(self, now: float) -> Call:
        call = self.conversation.next_call(now)
        assert call is not None
        return call

    def register(self, now: float = 0.0) -> None:
        call = self.call(now)
        assert call.method == "farm.register"
        self.conversation.answered(call, write(Welcome(client_id=7, heartbeat_s=5, kill_grace_s=8)), now)

    def beat(self, now: float, **more: Any) -> Call:
        """Make the heartbeat that is due, and have it answered."""
        call = self.call(now)
        assert call.method == "farm.heartbeat"
        answer = Answer(**{"number": call.params[3], "interval_s": 5, **more})
        self.conversation.answered(call, write(answer), now)
        return call


@pytest.fixture
def talk() -> Talk:
    talk = Talk()
    talk.register()
    return talk


def test_a_heartbeat_follows_the_registration_and_then_the_interval(talk: Talk) -> None:
    assert talk.beat(0.0).params[:4] == (7, "schlüssel", 3, 1)
    assert talk.runs.kill_grace_s == 8.0
    assert talk.conversation.next_call(4.9) is None
    assert talk.conversation.next_due() == 5.0
    call = talk.beat(5.0, interval_s=0.5)
    assert call.params[3] == 2
    assert call.params[4]["load"] == 0.5
    assert talk.conversation.next_due() == 5.5


def test_news_go_at_once(talk: Talk) -> None:
    talk.beat(0.0)
    talk.runs.news = True
    assert talk.beat(0.1).method == "farm.heartbeat"
    assert talk.conversation.next_call(0.2) is None


def test_news_during_a_heartbeat_is_for_the_next(talk: Talk) -> None:
    call = talk.call(0.0)
    talk.runs.news = True
    talk.conversation.answered(call, write(Answer(number=1, interval_s=5)), 0.1)
    assert talk.call(0.2).method == "farm.heartbeat"


def test_a_stale_answer_is_dropped(talk: Talk) -> None:
    new, wish = Assignment("new", 12, "true"), Wish("t1", "die", 1)
    talk.beat(0.0, stale=True, assignments=[new])
    talk.beat(5.0, number=1, assignments=[new])
    assert talk.runs.done == []
    talk.beat(10.0, assignments=[new], wishes=[wish])
    assert talk.runs.done == [("resend", []), ("wish", [wish]), ("take", [new])]


def test_output_of_ended_runs_goes_before_their_reports_and_not_before_the_heartbeat(talk: Talk) -> None:
    talk.runs.ended_output = talk.runs.news = True
    talk.beat(0.0)
    talk.runs.news = True
    call = talk.call(0.1)
    assert (call.method, call.params[1]) == ("farm.output", "schlüssel")
    talk.conversation.answered(call, [1], 0.1)
    assert talk.runs.done[-1] == ("lengths", [1])
    talk.beat(0.2)  # much output holds no other news up
    assert talk.call(0.3).method == "farm.output"
    talk.conversation.answered(talk.call(0.3), [1], 0.3)
    assert talk.call(0.4).method == "farm.output"


def test_a_long_backlog_goes_in_pieces_before_the_heartbeat(talk: Talk) -> None:
    talk.beat(0.0)
    talk.runs.due = [Report(f"t{number}", "exited") for number in range(450)]
    talk.runs.news = True
    for left in (250, 50):
        call = talk.call(0.1)
        assert (call.method, len(call.params[3])) == ("farm.report", 200)
        tokens = [report["token"] for report in call.params[3]]
        talk.conversation.answered(call, write(Acknowledgement(tokens)), 0.1)
        assert len(talk.runs.due) == left
    assert len(talk.beat(0.2).params[4]["reports"]) == 50


def test_it_tries_again_for_ever_with_growing_pauses(talk: Talk) -> None:
    now, pauses = 0.0, []
    for _ in range(12):
        talk.conversation.failed(talk.call(now), ConnectionRefusedError(), now)
        pauses.append(talk.conversation.next_due() - now)
        assert talk.conversation.next_call(now + pauses[-1] - 0.001) is None
        now = talk.conversation.next_due()
    assert 0.25 <= pauses[0] <= 0.5
    assert all(LONGEST_RETRY_S / 2 <= pause <= LONGEST_RETRY_S for pause in pauses[6:])
    assert len(set(pauses)) == len(pauses)
    talk.beat(now)
    assert talk.conversation.next_due() == now + 5


def test_an_answer_without_sense_is_a_failure(talk: Talk) -> None:
    talk.conversation.answered(talk.call(0.0), {"hello": 1}, 0.0)
    assert not talk.conversation.reachable
    talk.beat(talk.conversation.next_due())
    assert talk.conversation.reachable


def test_forgotten_it_registers_again_at_once(talk: Talk) -> None:
    talk.conversation.failed(talk.call(0.0), Fault(40, "there is no client 7"), 0.0)
    talk.register(0.0)
    assert talk.beat(0.0).params[4]["runs"] == [{"token": "t1", "state": "running"}]
    assert len(talk.registrations) == 2


def test_refused_it_says_no_more(talk: Talk) -> None:
    talk.conversation.failed(talk.call(0.0), Fault(41, "a newer daemon runs"), 0.0)
    assert talk.conversation.refused is not None
    assert talk.conversation.refused.sentence == "a newer daemon runs"
    assert talk.conversation.next_call(100.0) is None


def test_another_fault_is_tried_again(talk: Talk) -> None:
    talk.conversation.failed(talk.call(0.0), Fault(50, "the store cannot be used"), 0.0)
    assert talk.conversation.refused is None
    talk.beat(talk.conversation.next_due())


def test_last_words_are_output_and_reports_and_nothing_that_brings_work(talk: Talk) -> None:
    talk.beat(0.0)
    talk.runs.due = [Report("t1", "exited")]
    talk.runs.ended_output = True
    call = talk.conversation.last_call(1.0)
    assert call is not None
    assert call.method == "farm.output"
    talk.runs.ended_output = False
    call = talk.conversation.last_call(1.0)
    assert call is not None
    assert call.method == "farm.report"
    talk.runs.due = []
    assert talk.conversation.last_call(1.0) is None


def test_no_last_words_for_a_server_that_is_away(talk: Talk) -> None:
    talk.runs.due = [Report("t1", "exited")]
    talk.conversation.failed(talk.call(0.0), TimeoutError(), 0.0)
    assert talk.conversation.last_call(1.0) is None


def test_the_farewell_counts_once_the_server_has_heard_it(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.runs.terminating = True
    talk.beat(0.0)
    assert not talk.conversation.farewell_said
    monkeypatch.setattr(talk.runs, "listing", lambda now: [])
    call = talk.call(5.0)
    talk.conversation.failed(call, TimeoutError(), 5.0)
    assert not talk.conversation.farewell_said
    talk.beat(talk.conversation.next_due())
    assert talk.conversation.farewell_said
