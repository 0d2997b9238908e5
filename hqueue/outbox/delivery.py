"""Sends letters until somebody takes them, or three days have passed."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.schema import job, letter
from hqueue.service import PeriodicService

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hqueue.clock import Clock
    from hqueue.outbox.letters import Letters
    from hqueue.service import OnDeath
    from hqueue.store import Session, Store

log = logging.getLogger(__name__)

_FIRST_PAUSE_MS: Final = 10_000
_LONGEST_PAUSE_MS: Final = 3_600_000
_LONGEST_OUTAGE_MS: Final = 300_000
GIVEN_UP_MS: Final = 3 * 86_400_000
_KEPT_MS: Final = 3_600_000  # a letter that was taken, to be counted
_A_ROUND: Final = 100
_LOOK_AGAIN_S: Final = 5.0


class NotTakenError(Exception):
    """This letter was not taken, at this time; others may be."""


class LineDownError(Exception):
    """Nothing can be sent at this time."""


class Sender(Protocol):
    """What hands letters over."""

    def send(self, letter: Any, opened: Callable[[socket.socket], None]) -> None:
        """Return once the letter is taken; `opened` is told of each socket that this waits for.

        Errors: NotTakenError, LineDownError.
        """
        ...

    def close(self) -> None:
        """End what was kept for further letters."""
        ...


class Post:
    """One channel of the outbox: makes letters of news, and sends what is due, oldest first."""

    def __init__(
        self, name: str, letters: Letters, sender: Sender, store: Store, clock: Clock, on_death: OnDeath
    ) -> None:
        self._name = name
        self._letters = letters
        self._sender = sender
        self._store = store
        self._clock = clock
        self._taken: list[Any] = []  # by the other side, and not noted yet
        self._outages = 0  # rounds in a row
        self._silent_until_ms = 0
        self._socket: socket.socket | None = None
        self._stopping = False
        self._service = PeriodicService(name, self.tick, clock, on_death, interval_s=_LOOK_AGAIN_S)
        self.wake = self._service.wake

    def start(self) -> None:
        """Begin to send."""
        self._stopping = False
        self._service.start()

    def stop(self) -> None:
        """Stop, also in the middle of a letter: that one is sent again, as the same, after the next start."""
        self._stopping = True
        self._hang_up()
        self._service.stop()

    def tick(self) -> float | None:
        """Do what is due; return the seconds until there may be more, None for the usual."""
        now_ms = self._clock.steady_ms()
        self._note_taken()
        self._letters.make(now_ms)
        if now_ms < self._silent_until_ms:
            return None
        with self._store.reading() as connection:
            due = connection.execute(_DUE, {"channel": self._name, "now": now_ms}).all()
        try:
            sent = self._send(due)
        finally:
            self._sender.close()
        return 0.0 if sent == _A_ROUND else None

    def _send(self, due: Sequence[Any]) -> int:
        for place, each in enumerate(due):
            if self._stopping:
                return place
            try:
                self._sender.send(each, self._opened)
            except LineDownError as error:
                if not self._stopping:
                    self._note_outage(str(error))
                return place
            except NotTakenError as error:
                if not self._stopping:
                    self._put_off(each, str(error))
            except Exception as error:
                log.exception("%s %d cannot be sent", self._name, each.id)
                self._put_off(each, f"{type(error).__name__}: {error}")
            else:
                self._note_sent(each)
        return len(due)

    def _note_sent(self, row: Any) -> None:
        if self._outages:
            log.warning("%s can be sent again", self._name)
            self._outages = 0
        self._taken.append(row)
        self._note_taken()

    def _note_taken(self) -> None:
        """Note which letters were taken, also later, when the store was away at that moment: none goes out again."""
        if self._taken:
            taken = list(self._taken)
            self._store.write_soon(lambda session: _mark(session, taken)).result()
            self._taken.clear()

    def _note_outage(self, why: str) -> None:
        """Leave everything for a while; said as an error once, for people look there."""
        if not self._outages:
            log.error("%s cannot be sent: %s", self._name, why)
        pause_ms = min(_FIRST_PAUSE_MS * 2**self._outages, _LONGEST_OUTAGE_MS)
        self._outages = min(self._outages + 1, 10)
        self._silent_until_ms = self._clock.steady_ms() + pause_ms

    def _put_off(self, row: Any, why: str) -> None:
        if self._clock.steady_ms() - row.made_ms < GIVEN_UP_MS:
            pause_ms = min(_FIRST_PAUSE_MS * 2 ** min(row.attempts, 10), _LONGEST_PAUSE_MS)
            log.warning("%s to %s is tried again in %d s: %s", self._name, _where(row), pause_ms // 1000, why)
            self._store.write_soon(lambda session: _delay(session, row, pause_ms)).result()
        else:
            log.error("%s to %s was given up: %s", self._name, _where(row), why)
            self._store.write_soon(lambda session: _give_up(session, row, why)).result()

    def _opened(self, made: socket.socket) -> None:
        self._socket = made
        if self._stopping:
            self._hang_up()

    def _hang_up(self) -> None:
        """Let nobody wait for the other side any more."""
        made = self._socket
        if made is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(made, socket.SHUT_RDWR)


def _where(row: Any) -> str:
    return row.address or "webhook_url"


def _mark(session: Session, rows: Sequence[Any]) -> None:
    sent = sa.update(letter).where(letter.c.id.in_(listed("letters"))).values(sent_ms=session.steady_ms)
    session.connection.execute(sent, {"letters": [row.id for row in rows]})


def _delay(session: Session, row: Any, pause_ms: int) -> None:
    values = {"due_ms": session.steady_ms + pause_ms, "attempts": row.attempts + 1}
    session.connection.execute(sa.update(letter).where(letter.c.id == row.id).values(values))


def _give_up(session: Session, row: Any, why: str) -> None:
    status = session.connection.execute(sa.select(job.c.status).where(job.c.id == row.job_id)).scalar()
    if status is not None:
        session.record(row.job_id, "note", status, f"{row.channel} to {_where(row)} was given up: {why}")
    session.connection.execute(sa.delete(letter).where(letter.c.id == row.id))


def expire(session: Session) -> None:
    """Forget the letters that were taken and need not be counted any more.

    Writes: letter.
    """
    session.connection.execute(sa.delete(letter).where(letter.c.sent_ms < session.steady_ms - _KEPT_MS))


_DUE: Final = (
    sa.select(letter)
    .where(
        letter.c.channel == sa.bindparam("channel"),
        letter.c.sent_ms.is_(None),
        letter.c.due_ms <= sa.bindparam("now"),
    )
    .order_by(letter.c.due_ms, letter.c.id)
    .limit(_A_ROUND)
)
