"""News become letters: one for a tree's end, one for many of the same, and no more than so many mails an hour."""

from __future__ import annotations

import json
import secrets
from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa

from hqueue.clock import from_ms
from hqueue.config import client_label
from hqueue.database import listed
from hqueue.outbox.news import FARM, MAIL, TROUBLE, WEBHOOK
from hqueue.schema import client, job, job_spec, letter, news, trouble
from hqueue.states import SETTLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from hqueue.config import ServerConfig
    from hqueue.store import Session, Store

EVERY_MS: Final = 600_000  # the farm's errors, and what happens below one root
LOOK_AGAIN_MS: Final = 60_000  # whether the root is over that news wait for
GATHER_MS: Final = 5_000  # that the news of a job below others waits for more of the same
MOST_AN_HOUR: Final = 100  # mails of a submitter
HOUR_MS: Final = 3_600_000
_SHOWN: Final = 10
_MOST_NAMED: Final = 50
_LONGEST: Final = 120  # characters of a text in a subject
_AT_ONCE: Final = 5_000  # news read for one pass
_ENDS: Final = frozenset(SETTLED)


class Digest(Protocol):
    """What has become of a tree, as `views` says it."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Return how many of its jobs have each status."""
        ...

    @property
    def failed(self) -> int:
        """Return how many failed by themselves."""
        ...

    @property
    def failures(self) -> Sequence[Mapping[str, Any]]:
        """Return the first of these: id, name, text, clientHostname, date, line and more."""
        ...

    @property
    def causes(self) -> Sequence[Mapping[str, Any]]:
        """Return their lines, the most frequent first: line, count, example."""
        ...


if TYPE_CHECKING:
    ReadDigest = Callable[[sa.Connection, int, int], Digest | None]


class Letters:
    """Makes the letters of one channel."""

    def __init__(self, channel: str, store: Store, config: ServerConfig, read_digest: ReadDigest) -> None:
        self._channel = channel
        self._store = store
        self._config = config
        self._read_digest = read_digest

    def make(self, now_ms: int) -> None:
        """Make letters of the news that are due; those whose time has not come are looked at again later."""
        with self._store.reading() as connection:
            rows = connection.execute(_DUE, {"channel": self._channel, "now": now_ms, "most": _AT_ONCE}).all()
            if not rows:
                return
            ready, waiting = self._groups(connection, rows, now_ms)
            made = [(group, self._letters(connection, group)) for group in ready]
        for group, letters in made:
            self._store.write_soon(partial(_store, group=group, letters=letters)).result()
        if waiting:
            self._store.write_soon(lambda session: session.connection.execute(_WAIT, waiting)).result()

    def _groups(
        self, connection: sa.Connection, rows: Sequence[Any], now_ms: int
    ) -> tuple[list[Sequence[Any]], list[dict[str, int]]]:
        """Return what goes into one letter each, and when to look again at what does not."""
        groups: dict[tuple[str, int], list[Any]] = defaultdict(list)
        for row in rows:
            alone = self._channel == WEBHOOK and row.job_id != FARM
            groups[row.address, row.id if alone else -row.root_id].append(row)
        turn = _Turn(connection, self._channel, rows, now_ms)
        ready: list[Sequence[Any]] = []
        waiting: list[dict[str, int]] = []
        for (address, key), group in groups.items():
            wait_ms = turn.wait_ms(group)
            if wait_ms > 0:
                waiting += [{"key_id": row.id, "later": now_ms + wait_ms} for row in group]
            elif key > 0:
                ready.append(group)
            else:  # with those that are not due yet
                given = {"channel": self._channel, "root": -key, "to": address}
                ready.append(connection.execute(_TOGETHER, given).all())
        return ready, waiting

    def _letters(self, connection: sa.Connection, group: Sequence[Any]) -> list[dict[str, Any]]:
        first = group[0]
        if first.job_id == FARM:
            errors = connection.execute(_TROUBLES, {"since": first.at}).all()
            addresses = self._config.email_to if self._channel == MAIL else ("",)
            said = self._of_farm(errors, [row.message for row in group if row.message])
            return [self._letter(first, address, *said) for address in addresses]
        top = first.job_id if len(group) == 1 else first.root_id
        digest = self._read_digest(connection, top, _SHOWN)
        said = self._call(first, digest) if self._channel == WEBHOOK else self._of_jobs(connection, group, top, digest)
        return [self._letter(first, first.address, *said)]

    def _letter(self, row: Any, address: str, subject: str, body: str) -> dict[str, Any]:
        return {
            "key": secrets.token_hex(16),
            "channel": self._channel,
            "address": address,
            "job_id": row.job_id,
            "root_id": row.root_id,
            "submitter": row.submitter,
            "kind": "farm" if row.job_id == FARM else "job",
            "subject": subject,
            "body": body,
            "attempts": 0,
        }

    def _of_farm(self, errors: Sequence[Any], texts: Sequence[str]) -> tuple[str, str]:
        """Return a letter about what people were told in so many words, and about errors that were counted."""
        lines = [*texts, *(f"{_who(row)}: {row.message} ({row.times} times today)" for row in errors)]
        shown, more = lines[:_MOST_NAMED], len(lines) - _MOST_NAMED
        if more > 0:
            shown.append(f"and {more} others; getServerErrors and getClientErrors have all errors")
        if self._channel == WEBHOOK:
            return "", json.dumps({"event": TROUBLE, "errors": shown})
        return f"[hqueue] {lines[0][:_LONGEST]}" if len(lines) == 1 else f"[hqueue] {len(lines)} troubles", _text(shown)

    def _of_jobs(
        self, connection: sa.Connection, group: Sequence[Any], top: int, digest: Digest | None
    ) -> tuple[str, str]:
        own = next((row for row in reversed(group) if row.job_id == top), None)
        if own is not None or len(group) == 1:
            subject = f"[hqueue] {_title(own or group[0])} {(own or group[0]).reason}"
        else:
            ends = Counter(row.reason for row in group)
            said = ", ".join(f"{count} {reason}" for reason, count in ends.most_common())
            name = connection.execute(_NAME, {"job": top}).scalar() or ""
            subject = f'[hqueue] jobs of {top} "{name}": {said}'
        lines = [_line(row) for row in group[-_MOST_NAMED:]]
        if len(group) > _MOST_NAMED:
            lines.insert(0, f"{len(group)} times something happened; the latest:")
        if group[0].submitter:
            lines.append(f"Submitted by {group[0].submitter}")
        if digest is not None:
            lines += _digest_lines(digest)
        if self._config.public_url:
            lines += ["", f"{self._config.public_url.rstrip('/')}/jobs/view/{top}"]
        return subject, _text(lines)

    def _call(self, row: Any, digest: Digest | None) -> tuple[str, str]:
        told: dict[str, Any] = {
            "event": row.reason,
            "date": from_ms(row.at).isoformat(),
            "job": {
                "id": row.job_id,
                "name": row.name,
                "status": row.status,
                "submittedBy": row.submitter,
                "message": row.message,
            },
            "tree": {"root": row.root_id},
        }
        if digest is not None:
            told["counts"] = dict(digest.counts)
            told["digest"] = {"failed": digest.failed, "failures": digest.failures, "causes": digest.causes}
        return "", json.dumps(told, default=lambda date: date.isoformat())


class _Turn:
    """How long what happened is not to be told yet."""

    def __init__(self, connection: sa.Connection, channel: str, rows: Iterable[Any], now_ms: int) -> None:
        self._channel = channel
        self._now_ms = now_ms
        ids = sorted({row.root_id for row in rows})
        self._roots = {row.id: row for row in connection.execute(_ROOTS, {"jobs": ids})}
        recent = connection.execute(_RECENT, {"channel": channel, "jobs": ids, "since": now_ms - EVERY_MS})
        self._latest: dict[tuple[str, int], int] = {}
        for row in recent:
            # The farm's letters go to several addresses, all at once.
            key = ("" if row.root_id == FARM else row.address, row.root_id)
            self._latest[key] = max(row.made_ms, self._latest.get(key, 0))

    def wait_ms(self, group: Sequence[Any]) -> int:
        """Return how long some news about one root for one address wait; 0 or less: not any more."""
        first = group[0]
        key = (first.address, first.root_id)
        pause_ms = self._latest.get(key, self._now_ms - EVERY_MS) + EVERY_MS - self._now_ms
        if first.job_id == FARM:
            return pause_ms
        if self._channel == WEBHOOK or any(row.job_id == first.root_id for row in group):
            return 0
        root = self._roots.get(first.root_id)
        if root is not None and root.status not in SETTLED:
            reasons = set(root.email_reasons.split(","))
            if first.address in root.email_to.split(",") and all(row.reason in reasons & _ENDS for row in group):
                return LOOK_AGAIN_MS  # the mail about the root's end will say the same
        return int(max(pause_ms, first.noted_ms + GATHER_MS - self._now_ms))


def _store(session: Session, group: Sequence[Any], letters: Sequence[dict[str, Any]]) -> None:
    """Put letters in the place of news; mails beyond what a submitter may have in an hour are not written."""
    session.connection.execute(_FORGET, {"news": [row.id for row in group]})
    times = {"at": session.now_ms, "made_ms": session.steady_ms, "due_ms": session.steady_ms}
    for each in letters:
        if each["kind"] == "job" and each["channel"] == MAIL:
            given = {"submitter": each["submitter"], "since": session.steady_ms - HOUR_MS}
            counts: dict[str, int] = dict(session.connection.execute(_WITHIN_AN_HOUR, given).all())
            if counts.get("limit"):
                continue
            if counts.get("job", 0) >= MOST_AN_HOUR:
                each.update(_limit_reached(each["submitter"]))
        session.connection.execute(sa.insert(letter).values(each | times))


def _limit_reached(submitter: str) -> dict[str, str]:
    """Return what a letter says instead of what it was to say."""
    said = f"{MOST_AN_HOUR} mails in an hour about jobs of {submitter or 'people who did not give their names'}"
    text = f"There were {said}. No more follow for an hour; `hq jobs` has what happens.\n"
    return {"kind": "limit", "subject": f"[hqueue] {said}: no more for now", "body": text}


def _title(row: Any) -> str:
    return f'job {row.job_id} "{row.name}"'


def _line(row: Any) -> str:
    said = f"{_title(row)}: {row.reason}"
    return f"{said} ({row.message})" if row.message else said


def _digest_lines(digest: Digest) -> list[str]:
    """Return what became of a tree: counts, causes, and the last lines of the first failures."""
    total = sum(digest.counts.values())
    lines = []
    if total > 1:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(digest.counts.items()))
        lines.append(f"{total} jobs in all: {counts}")
    if not digest.failed:
        return lines
    lines += ["", f"{digest.failed} failed by themselves. What they say:"]
    lines += [
        f"{each['count']:6d} x  {each['line'] or '(nothing)'}   (such as job {each['example']})"
        for each in digest.causes
    ]
    lines += ["", "The first of them:"]
    for each in digest.failures:
        where = f" on {each['clientHostname']}" if each["clientHostname"] else ""
        lines.append(f'  {each["id"]} "{each["name"]}", {each["text"]}{where}: {each["line"]}')
    return lines


def _who(row: Any) -> str:
    return "server" if row.hostname is None else client_label(row.hostname, row.name)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


_DUE: Final = (
    sa.select(news)
    .where(news.c.channel == sa.bindparam("channel"), news.c.due_ms <= sa.bindparam("now"))
    .order_by(news.c.due_ms, news.c.id)
    .limit(sa.bindparam("most"))
)
_TOGETHER: Final = (
    sa.select(news)
    .where(news.c.channel == sa.bindparam("channel"), news.c.root_id == sa.bindparam("root"))
    .where(news.c.address == sa.bindparam("to"))
    .order_by(news.c.id)
)
_WAIT: Final = sa.update(news).where(news.c.id == sa.bindparam("key_id")).values(due_ms=sa.bindparam("later"))
_FORGET: Final = sa.delete(news).where(news.c.id.in_(listed("news")))
_NAME: Final = sa.select(job.c.name).where(job.c.id == sa.bindparam("job"))
_ROOTS: Final = (
    sa.select(job.c.id, job.c.status, job_spec.c.email_to, job_spec.c.email_reasons)
    .join(job_spec, job_spec.c.job_id == job.c.id)
    .where(job.c.id.in_(listed("jobs")))
)
_RECENT: Final = sa.select(letter.c.address, letter.c.root_id, letter.c.made_ms).where(
    letter.c.channel == sa.bindparam("channel"),
    letter.c.root_id.in_(listed("jobs")),
    letter.c.made_ms > sa.bindparam("since"),
)
_WITHIN_AN_HOUR: Final = (
    sa.select(letter.c.kind, sa.func.count())
    .where(letter.c.channel == MAIL, letter.c.submitter == sa.bindparam("submitter"))
    .where(letter.c.made_ms > sa.bindparam("since"))
    .group_by(letter.c.kind)
)
_TROUBLES: Final = (
    sa.select(trouble.c.message, trouble.c.times, client.c.hostname, client.c.name)
    .select_from(trouble)
    .outerjoin(client, client.c.id == trouble.c.client_id)
    .where(trouble.c.latest_at >= sa.bindparam("since"))
    .order_by(trouble.c.latest_at, trouble.c.id)
)
