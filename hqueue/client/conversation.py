"""What the client says to the server, and when: a state machine without sockets, threads or clocks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault

from hqueue.errors import ClientRefusedError, InvalidArgumentError, UnknownClientError
from hqueue.protocol import MOST_OUTPUT_BYTES, Acknowledgement, Answer, Beat, Welcome, read, write

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from hqueue.client.runs import Runs
    from hqueue.protocol import Identity, Piece

log = logging.getLogger(__name__)

REPORTS = 200  # in one call
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 10.0


@dataclass(frozen=True)
class Call:
    """One call to make, and what is needed to understand its answer."""

    method: str
    params: tuple[Any, ...]
    beat: Beat | None = None
    pieces: Sequence[Piece] = ()


@dataclass(frozen=True)
class Refused:
    """The server will not have this client, and trying again would change nothing."""

    sentence: str


class Conversation:
    """Decides on the next call whenever none is under way.

    One call at a time: the server then sees all in the order in which it happened, and what piles up meanwhile goes
    together in the next.
    """

    def __init__(
        self,
        runs: Runs,
        identity: Identity,
        load: Callable[[], Mapping[str, Any]],
        on_registered: Callable[[Welcome], None],
        dice: random.Random,
    ) -> None:
        self._runs = runs
        self._account = runs.account
        self._identity = identity
        self._load = load
        self._on_registered = on_registered
        self._dice = dice
        self._number = 0
        self._failures = 0
        self._retry_at = 0.0
        self._heartbeat_at = 0.0
        self._interval_s = 5.0
        self._output_last = False
        self._said_terminating = False
        self.client_id = 0
        self.registered = False
        self.refused: Refused | None = None

    @property
    def reachable(self) -> bool:
        """Tell whether the server answered the last call."""
        return self.registered and not self._failures

    @property
    def farewell_said(self) -> bool:
        """Tell whether the server knows that this client terminates, and holds nothing any more."""
        return self._said_terminating

    def next_due(self) -> float:
        """Return when `next_call` has something to say, should nothing happen before."""
        return max(self._retry_at, self._heartbeat_at if self.registered else 0.0)

    def next_call(self, now: float) -> Call | None:
        """Return the call to make now."""
        if self.refused is not None or now < self._retry_at:
            return None
        if not self.registered:
            return Call("farm.register", (write(self._identity),))
        if now >= self._heartbeat_at:
            return self._heartbeat(now)
        # Output of ended runs first, for their reports wait for it; but much of it must not hold other news up.
        if self._account.ended_output and not (self._runs.news and self._output_last):
            return self._output()
        if self._runs.news:
            return self._report(now) or self._heartbeat(now)
        return self._output() if self._account.running_output else None

    def last_call(self, now: float) -> Call | None:
        """Return a call to make before leaving: what is still to be delivered, without asking for work."""
        if not self.reachable:
            return None
        if self._account.ended_output:
            return self._output()
        return self._report(now, at_least=1)

    def answered(self, call: Call, value: Any, now: float) -> None:
        """Take the answer to a call."""
        try:
            self._take(call, value, now)
        except (InvalidArgumentError, ValueError) as error:
            log.debug("the answer to %s cannot be understood", call.method, exc_info=True)
            self.failed(call, ValueError(f"the answer cannot be understood: {error}"), now)
            return
        if self._failures:
            log.info("the server answers again")
        self._failures = 0
        self._retry_at = 0.0

    def failed(self, call: Call, error: Exception, now: float) -> None:
        """Take note that a call brought no answer, or a fault."""
        if isinstance(error, Fault) and error.faultCode == ClientRefusedError.code:
            self.refused = Refused(error.faultString)
            return
        if isinstance(error, Fault) and error.faultCode == UnknownClientError.code and self.registered:
            log.warning("the server does not know this client any more; registering again")
            self.registered = False
            self._failures = 0
            self._retry_at = now
            return
        if not self._failures:
            log.warning("%s failed: %s; trying again until it works", call.method, error)
        self._failures += 1
        pause_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(self._failures - 1, 10))
        # Thousands of clients lose a server at the same moment; they shall not come back at the same moment.
        self._retry_at = now + pause_s * self._dice.uniform(0.5, 1.0)

    def _take(self, call: Call, value: Any, now: float) -> None:
        if call.method == "farm.register":
            welcome = read(value, Welcome, "the answer")
            self.client_id = welcome.client_id
            self._interval_s = welcome.heartbeat_s
            self._runs.kill_grace_s = welcome.kill_grace_s
            self._on_registered(welcome)
            self.registered = True
            self._heartbeat_at = now
        elif call.beat is not None:
            self._take_answer(call.beat, read(value, Answer, "the answer"), now)
        elif call.method == "farm.report":
            told = read(value, Acknowledgement, "the answer")
            self._runs.acknowledge(told.acknowledged)
            self._account.resend(told.resend, now)
        else:
            lengths = read(value, list[int], "the answer")
            self._runs.news |= self._account.lengths(call.pieces, lengths)

    def _take_answer(self, beat: Beat, answer: Answer, now: float) -> None:
        self._interval_s = answer.interval_s
        self._heartbeat_at = now + self._interval_s
        if answer.stale or answer.number != self._number:
            return
        if beat.terminating and not beat.runs:
            self._said_terminating = True
        # What has ended makes room before what is new.
        self._runs.acknowledge(answer.acknowledged)
        self._account.resend(answer.resend, now)
        self._runs.wish(answer.wishes, now)
        self._runs.take(answer.assignments)

    def _heartbeat(self, now: float) -> Call:
        self._number += 1
        self._output_last = False
        # Whatever happens while it is under way is news for the next one.
        self._runs.news = False
        # One that is lost is followed by another after the pause for retries.
        self._heartbeat_at = now
        beat = Beat(
            **self._load(),
            condemned=self._account.condemned,
            terminating=self._runs.terminating,
            runs=self._account.listing(now),
            reports=self._account.reports(now, REPORTS),
        )
        return Call("farm.heartbeat", (self.client_id, *self._credentials, self._number, write(beat)), beat=beat)

    def _report(self, now: float, *, at_least: int = REPORTS + 1) -> Call | None:
        """Return a call with end reports alone: a backlog goes this way, so that no heartbeat grows long."""
        reports = self._account.reports(now, REPORTS + 1)
        if len(reports) < at_least:
            return None
        return Call("farm.report", (self.client_id, *self._credentials, write(reports[:REPORTS])))

    def _output(self) -> Call:
        self._output_last = True
        pieces = self._account.pieces(MOST_OUTPUT_BYTES)
        return Call("farm.output", (self.client_id, self._identity.key, write(pieces)), pieces=pieces)

    @property
    def _credentials(self) -> tuple[str, int]:
        return self._identity.key, self._identity.incarnation
