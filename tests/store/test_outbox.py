"""What becomes a letter, when, for whom, and that none is lost (SPEC 12)."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue.errors import StoreUnavailableError
from hqueue.lifecycle import troubles
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.runs import lose_client
from hqueue.lifecycle.spreading import set_priority
from hqueue.outbox import delivery
from hqueue.outbox import letters as letters_module
from hqueue.outbox.delivery import LineDownError, NotTakenError, Post
from hqueue.outbox.letters import MOST_AN_HOUR, Letters
from hqueue.outbox.news import MAIL, WEBHOOK
from hqueue.schema import letter, news
from hqueue.views.failures import digest
from tests.storefarm import StoreFarm, settings

if TYPE_CHECKING:
    from hqueue.store import Store
    from tests.fakes import FakeClock

SETTINGS = {"smtp_server": "post", "email_to": "farm@example.com", "public_url": "https://farm.example.com"}
ANA = {"emailTo": "ana@example.com", "submittedBy": "Ana"}


class Sender:
    """Takes letters, unless it is told otherwise."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.refuses: Exception | None = None

    def send(self, each: Any, _opened: object) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.taken.append(each)

    def close(self) -> None:
        pass


class Box:
    """A farm with an outbox, whose ticks the test makes."""

    def __init__(self, store: Store, clock: FakeClock, channel: str = MAIL, **more: str) -> None:
        self.farm = StoreFarm(store, clock, settings(**(SETTINGS | more)))
        self.clock = clock
        self.machine = self.farm.machine(cpus=64)
        self.sender = Sender()
        letters = Letters(channel, store, self.farm.config, digest)
        self.deaths: list[BaseException] = []
        self.post = Post(channel, letters, self.sender, store, clock, self.deaths.append)

    def later(self, seconds: float = 0.0) -> list[Any]:
        """Let time pass, and return the letters that were taken since the last time."""
        self.clock.advance(seconds)
        self.post.tick()
        taken, self.sender.taken = self.sender.taken, []
        return taken

    def subjects(self, seconds: float = 0.0) -> list[tuple[str, str]]:
        return [(each.address, each.subject) for each in self.later(seconds)]

    def waiting(self) -> int:
        with self.farm.store.reading() as connection:
            counts = [sa.select(sa.func.count()).select_from(table) for table in (news, letter)]
            there, made = (connection.execute(each).scalar_one() for each in counts)
            sent = connection.execute(sa.select(sa.func.count()).where(letter.c.sent_ms.is_not(None))).scalar_one()
        return int(there + made - sent)


@pytest.fixture
def box(store: Store, clock: FakeClock) -> Box:
    return Box(store, clock)


class TestReasons:
    def test_each_name_that_was_asked_for_is_one_mail(self, box: Box) -> None:
        farm, machine = box.farm, box.machine
        reasons = "waiting, running, rescheduled, pausing, paused, resumed, priority changed, succeeded"
        job_id = farm.add("Tür", triesLeft=1, emailReasons=reasons, **ANA)
        title = f'[hqueue] job {job_id} "Tür"'
        assert box.subjects() == [("ana@example.com", f"{title} runnable")]
        farm.start(job_id, machine)
        assert box.subjects() == [("ana@example.com", f"{title} running")]
        machine.end(job_id, 3)
        farm.act(Action.PAUSE, job_id)
        farm.act(Action.RESUME, job_id)
        (mail,) = box.later()
        told = [line for line in mail.body.splitlines() if line.startswith("job ")]
        assert [line.partition('Tür": ')[2].partition(" (")[0] for line in told] == ["rescheduled", "paused", "resumed"]
        farm.start(job_id, machine)
        machine.end(job_id)
        (mail,) = box.later()
        assert mail.subject == f"{title} succeeded"
        assert "exit 0, client farm-ü" in mail.body
        assert f"https://farm.example.com/jobs/view/{job_id}" in mail.body
        assert box.waiting() == 0

    def test_none_without_reasons_addresses_or_a_mail_server(self, box: Box, store: Store, clock: FakeClock) -> None:
        for more in ({"emailReasons": "running"}, {"emailTo": "a@b.c"}, {"emailTo": "a@b.c", "emailReasons": "failed"}):
            job_id = box.farm.add(**more)
            box.farm.start(job_id, box.machine)
            box.machine.end(job_id)
        assert box.waiting() == 0
        silent = Box(store, clock, smtp_server="")
        job_id = silent.farm.add(emailReasons="running,runnable", **ANA)
        assert silent.farm.log(job_id)[-1][2] == "emailTo: no mail is sent, for the server has no smtp_server"
        assert silent.waiting() == 0

    def test_priority_and_changed_properties(self, box: Box) -> None:
        job_id = box.farm.add(emailReasons="priority changed", **ANA)
        box.farm.write(lambda session: set_priority(session, [box.farm.job(job_id)], 7))
        (mail,) = box.later()
        assert "priority changed (0 > 7)" in mail.body

    def test_settled_as_it_comes(self, box: Box) -> None:
        job_id = box.farm.add("leer", command=None, emailReasons="succeeded", **ANA)
        assert box.subjects() == [("ana@example.com", f'[hqueue] job {job_id} "leer" succeeded')]

    def test_only_to_the_domains_that_are_allowed(self, store: Store, clock: FakeClock) -> None:
        box = Box(store, clock, email_domains="example.com, studio.example")
        job_id = box.farm.add(emailTo="a@EXAMPLE.com, b@evil.example, Ü <c@studio.example>", emailReasons="runnable")
        assert [address for address, _ in box.subjects()] == ["a@EXAMPLE.com", "Ü <c@studio.example>"]
        assert box.farm.log(job_id)[-1][2] == "emailTo: no mail to b@evil.example, whose domain is not in email_domains"


class TestTrees:
    def tree(self, box: Box, *, root: dict[str, str], child: dict[str, str], count: int = 30) -> tuple[int, list[int]]:
        frames = [{"name": f"Bild {number}", "command": "x", **child} for number in range(count)]
        top, *children = box.farm.submit({"name": "Film", **root, "children": frames})
        for each in children:
            box.farm.start(each, box.machine)
        return top, children

    def test_the_end_of_a_tree_is_one_mail_with_a_digest(self, box: Box) -> None:
        same = {**ANA, "emailReasons": "failed"}
        top, children = self.tree(box, root=same, child=same)
        for number, each in enumerate(children[:-1]):
            box.machine.end(each, 3 if number % 2 else 0, line=f"Error in frame {number:04d}")
            assert box.later(60) == []
        box.machine.end(children[-1], 3, line="No license")
        (mail,) = box.later()
        assert mail.subject == f'[hqueue] job {top} "Film" failed'
        assert "31 jobs in all: 16 failed, 15 succeeded" in mail.body
        assert "15 failed by themselves" in mail.body
        assert f"14 x  Error in frame #   (such as job {children[1]})" in mail.body
        assert f'{children[1]} "Bild 1", exit 3 on farm-ü: Error in frame 0001' in mail.body
        assert box.waiting() == 0

    def test_what_the_root_does_not_tell_comes_in_digests(self, box: Box) -> None:
        """The first soon, the others every ten minutes, and the last when they are over: none for each."""
        top, children = self.tree(box, root={}, child={**ANA, "emailReasons": "failed"})
        box.machine.end(children[0], 1)
        assert box.later() == []
        assert box.subjects(5) == [("ana@example.com", f'[hqueue] job {children[0]} "Bild 0" failed')]
        for each in children[1:10]:
            box.machine.end(each, 1)
            assert box.later(30) == []
        assert box.subjects(600) == [("ana@example.com", f'[hqueue] jobs of {top} "Film": 9 failed')]
        for each in children[10:]:
            box.machine.end(each, 1)
        assert box.subjects(600) == [("ana@example.com", f'[hqueue] jobs of {top} "Film": 20 failed')]
        assert box.waiting() == 0

    def test_news_below_a_root_that_ends_otherwise_are_not_lost(self, box: Box) -> None:
        same = {**ANA, "emailReasons": "failed"}
        top, children = self.tree(box, root=same, child=same, count=2)
        box.machine.end(children[0], 1)
        assert box.later(60) == []
        box.farm.act(Action.CANCEL, top)
        assert box.subjects(60) == [("ana@example.com", f'[hqueue] job {children[0]} "Bild 0" failed')]

    def test_thousands_that_wait_for_their_root_hold_up_nobody(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(letters_module, "_AT_ONCE", 10)
        same = {**ANA, "emailReasons": "failed"}
        top, children = self.tree(box, root=same, child=same)
        for each in children[:-1]:
            box.machine.end(each, 1)
        other = box.farm.add("andere", emailReasons="runnable", **ANA)
        found = [subject for _ in range(5) for _, subject in box.subjects(1)]
        assert found == [f'[hqueue] job {other} "andere" runnable']
        box.machine.end(children[-1], 1)
        found = [subject for _ in range(5) for _, subject in box.subjects(1)]
        assert found == [f'[hqueue] job {top} "Film" failed']
        assert box.waiting() == 0

    def test_a_job_that_is_gone_is_told_of_all_the_same(self, box: Box) -> None:
        job_id = box.farm.add("weg", emailReasons="cancelled", **ANA)
        box.farm.act(Action.CANCEL, job_id)
        box.farm.act(Action.DELETE, job_id)
        assert box.subjects() == [("ana@example.com", f'[hqueue] job {job_id} "weg" cancelled')]

    def test_no_more_than_so_many_in_an_hour(self, box: Box) -> None:
        for _ in range(MOST_AN_HOUR + 20):
            box.farm.add(emailReasons="runnable", **ANA)
        other = box.farm.add("andere", emailReasons="runnable", emailTo="bo@example.com", submittedBy="Bo")
        subjects = [subject for _, subject in box.subjects() + box.subjects(1)]
        assert len(subjects) == MOST_AN_HOUR + 2
        assert subjects[MOST_AN_HOUR] == "[hqueue] 100 mails in an hour about jobs of Ana: no more for now"
        assert subjects[-1] == f'[hqueue] job {other} "andere" runnable'
        box.farm.add(emailReasons="runnable", **ANA)
        assert box.subjects(60) == []
        box.farm.add("wieder", emailReasons="runnable", **ANA)
        assert len(box.subjects(3600)) == 1


class TestFarm:
    def test_errors_and_lost_clients_at_most_every_ten_minutes(self, box: Box) -> None:
        farm = box.farm
        farm.write(lambda session: troubles.count(session, "die Platte ist voll"))
        (mail,) = box.later()
        assert (mail.address, mail.subject) == (
            "farm@example.com",
            "[hqueue] server: die Platte ist voll (1 times today)",
        )
        box.clock.advance(1)
        farm.write(lambda session: lose_client(session, box.machine.id, box.machine.label))
        farm.write(lambda session: troubles.count(session, "noch etwas"))
        assert box.later(590) == []
        (mail,) = box.later(10)
        assert mail.subject == "[hqueue] 2 troubles"
        assert mail.body == "farm-ü: stopped reporting\nserver: noch etwas (1 times today)\n"
        assert box.later(1200) == []

    def test_nobody_who_wants_it(self, store: Store, clock: FakeClock) -> None:
        box = Box(store, clock, email_to="")
        box.farm.write(lambda session: troubles.count(session, "x"))
        assert box.waiting() == 0


class TestDelivery:
    def test_a_letter_that_is_not_taken_comes_again_as_the_same(self, box: Box) -> None:
        box.farm.add(emailReasons="runnable", **ANA)
        box.farm.add("zweite", emailReasons="runnable", emailTo="bo@example.com")
        box.sender.refuses = NotTakenError("452 later")
        assert box.later() == []
        box.sender.refuses = None
        assert box.later(9) == []
        first = box.later(1)
        assert len(first) == len({each.key for each in first}) == 2
        assert {each.attempts for each in first} == {1}
        assert box.later(3600) == []

    def test_while_the_line_is_down_everything_waits(self, box: Box, caplog: pytest.LogCaptureFixture) -> None:
        box.farm.add(emailReasons="runnable", **ANA)
        box.sender.refuses = LineDownError("connection refused")
        for _ in range(5):
            assert box.later(400) == []
        assert [record.levelname for record in caplog.records if "connection refused" in record.message] == ["ERROR"]
        box.sender.refuses = None
        assert len(box.later(400)) == 1
        assert "mail can be sent again" in caplog.text

    def test_after_three_days_it_is_given_up_and_its_job_says_so(self, box: Box) -> None:
        job_id = box.farm.add(emailReasons="runnable", **ANA)
        box.sender.refuses = NotTakenError("550 nobody here")
        box.later()
        box.later(2 * 86_400)
        assert box.waiting() == 1
        box.later(86_401)
        assert box.waiting() == 0
        assert box.farm.log(job_id)[-1][2] == "mail to ana@example.com was given up: 550 nobody here"

    def test_what_cannot_be_made_into_a_mail_holds_up_nothing(self, box: Box, caplog: pytest.LogCaptureFixture) -> None:
        box.farm.add(emailReasons="runnable", **ANA)
        box.sender.refuses = ValueError("no such header")
        assert box.later() == []
        assert "cannot be sent" in caplog.text
        assert box.deaths == []
        box.sender.refuses = None
        assert len(box.later(10)) == 1

    def test_taken_while_the_store_is_away_it_does_not_go_out_again(self, box: Box) -> None:
        box.farm.add(emailReasons="runnable", **ANA)
        write_soon, away = box.farm.store.write_soon, StoreUnavailableError()

        def gone(*_: object, **__: object) -> Any:
            raise away

        def take(each: Any, _opened: object) -> None:
            box.sender.taken.append(each)
            box.farm.store.write_soon = gone  # type: ignore[method-assign]

        box.sender.send = take  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            box.post.tick()
        box.farm.store.write_soon = write_soon  # type: ignore[method-assign]
        assert len(box.later(60)) == 1  # the one from before
        assert box.later(60) == []

    def test_letters_are_kept_for_an_hour_only(self, box: Box) -> None:
        box.farm.add(emailReasons="runnable", **ANA)
        box.later()
        box.clock.advance(3601)
        box.farm.write(delivery.expire)
        with box.farm.store.reading() as connection:
            assert connection.execute(sa.select(letter.c.id)).all() == []


class TestWebhooks:
    def test_of_jobs_and_of_the_farm(self, store: Store, clock: FakeClock) -> None:
        urls = {"webhook_url": "https://chat.example.com/farm", "webhook_hosts": "bot.example.com"}
        box = Box(store, clock, WEBHOOK, email_to="", **urls)
        url = "https://bot.example.com/x?y=1"
        top, child = box.farm.submit(
            {
                "name": "Film ü",
                "webhook": url,
                "emailReasons": "failed",
                "children": [{"name": "Bild", "command": "x"}],
            }
        )
        box.farm.start(child, box.machine)
        box.machine.end(child, 3, line="No licence")
        own, farms = box.later()
        assert (own.address, farms.address) == (url, "")
        for each in (own, farms):
            told = json.loads(each.body)
            assert (told["event"], told["tree"], told["counts"]) == ("failed", {"root": top}, {"failed": 2})
            assert told["job"] == {
                "id": top,
                "name": "Film ü",
                "status": "failed",
                "submittedBy": "",
                "message": "1 of its children did not succeed",
            }
            assert told["digest"]["causes"] == [{"line": "No licence", "count": 1, "example": child}]
        box.farm.write(lambda session: troubles.count(session, "kaputt"))
        (farms,) = box.later()
        assert json.loads(farms.body)["errors"] == ["server: kaputt (1 times today)"]
        assert box.waiting() == 0

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("https://other.example.com/", "for other.example.com is not in webhook_hosts"),
            ("ftp://bot.example.com/", "for it is no plain http or https URL"),
            ("https://user@bot.example.com/", "for it is no plain http or https URL"),
            ("https://bot.example.com:99999/", "for it is no URL"),
            ("https://10.0.0.5/", "for 10.0.0.5 is not in webhook_hosts"),
        ],
    )
    def test_other_hosts_are_not_called_and_the_log_says_so(
        self, store: Store, clock: FakeClock, url: str, why: str
    ) -> None:
        box = Box(store, clock, WEBHOOK, webhook_hosts="bot.example.com")
        job_id = box.farm.add(webhook=url, emailReasons="runnable")
        assert box.farm.log(job_id)[-1][2] == f"webhook: not called, {why}"
        assert box.waiting() == 0


def test_a_fake_letter_has_what_a_real_one_has(box: Box) -> None:
    """The senders' own tests use a namespace in its place."""
    box.farm.add(emailReasons="runnable", **ANA)
    (mail,) = box.later()
    assert set(vars(SimpleNamespace(key=1, address=1, subject=1, body=1, at=1))) < set(mail._fields)
