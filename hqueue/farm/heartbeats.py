"""One heartbeat that brings news, on its way: into the store, past the scheduler, onto the disk, and back."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.errors import PASSING, UnknownClientError
from hqueue.lifecycle import clients
from hqueue.protocol import Answer, write
from hqueue.schema import client
from hqueue.store import AwaitTick, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.config import ServerConfig
    from hqueue.farm.openruns import OpenRuns
    from hqueue.live import LiveClient, LiveFarm
    from hqueue.protocol import Beat, Listed, Report, Resend
    from hqueue.store import Session, Store

# The client measures maxTime itself; the server steps in this long after it should have proved the death.
_OVERTIME_S: Final = 60.0


class Heartbeat:
    """A heartbeat in hand. No thread waits for anything: each step is begun by the end of the one before."""

    def __init__(
        self,
        live: LiveClient,
        number: int,
        beat: Beat,
        *,
        store: Store,
        live_farm: LiveFarm,
        runs: OpenRuns,
        config: ServerConfig,
        soon: Callable[[Heartbeat], None],
    ) -> None:
        self.reply: Future[dict[str, Any]] = Future()
        self._live = live
        self._number = number
        self._beat = beat
        self._store = store
        self._live_farm = live_farm
        self._runs = runs
        self._config = config
        self._soon = soon
        self._accepted: list[Report] = []
        self._resend: list[Resend] = []
        self._tick: Future[None] | None = None
        self._answer: dict[str, Any] = {}
        self._next_step = self._take

    def go_on(self) -> None:
        """Do the next of the two steps that may wait for the store or for a disk."""
        self._next_step()

    def _take(self) -> None:
        """Look at the output of what has ended, then have the news stored."""
        try:
            for listed in self._beat.runs:
                self._runs.find(self._live, listed.token)  # so that its progress has a place
            self._accepted, self._resend = self._runs.accept(self._live, self._beat.reports)
        except Exception as error:  # noqa: BLE001 - the caller's answer
            self.fail(error)
            return
        if self._accepted:
            # What has ended makes room: the answer waits for the scheduler's next pass, to carry new work.
            self._tick = Future()
        self._store.write_soon(self._write, durable=False, urgent=True).add_done_callback(self._stored)

    def _write(self, session: Session) -> None:
        live = self._live
        if self._tick is not None:
            live.parked = True
            session.after_commit(AwaitTick(self._tick))
            session.after_commit(WakeScheduler())
        clients.take_reports(session, live.id, live.label, self._accepted)
        if not clients.take_listing(session, live.id, live.label, self._listing()):
            raise UnknownClientError(f"{live.label} was lost before this heartbeat was taken; register first")
        self._write_state(session)

    def _write_state(self, session: Session) -> None:
        live, beat = self._live, self._beat
        late = overtime(live, beat, self._config)
        if late:
            clients.end_overtime(session, late)
        if beat.condemned != live.condemned:
            clients.condemn(session, live.id, live.label, beat.condemned)
        if beat.terminating != live.terminating:
            values = {"terminating": beat.terminating}
            session.connection.execute(sa.update(client).where(client.c.id == live.id).values(**values))
        if beat.terminating and not beat.runs:
            clients.forget(session, live.id)

    def _stored(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self._live.parked = False
            self.fail(error)
            return
        self._live.unheard = ""
        self._live.condemned, self._live.terminating = self._beat.condemned, self._beat.terminating
        if self._beat.terminating and not self._beat.runs:
            self._live_farm.leave(self._live.id)
        if self._tick is not None:
            self._next_step = self._finish
            self._tick.add_done_callback(lambda _: self._soon(self))
        else:
            self._finish()

    def _finish(self) -> None:
        """Put the answer together, and send it once all that it tells is on disk: ends taken and runs handed out."""
        try:
            self._answer = self._orders()
        except Exception as error:  # noqa: BLE001 - the caller's answer
            self.fail(error)
            return
        self._store.when_durable(self._on_disk)

    def _orders(self) -> Any:
        live = self._live
        live.parked = False
        news = live.news  # before the look: what comes after it is news again
        listing = self._listing()
        with self._store.reading() as connection:
            orders = clients.orders(connection, live.id, listing)
        for assignment in orders.assignments:
            self._runs.remember(live, assignment)
            if assignment.max_time_s:
                live.limits[assignment.token] = assignment.max_time_s
        held = {each.token for each in listing} | {each.token for each in orders.assignments}
        self._live_farm.forget_runs(live, live.runs.keys() - held)
        live.limits = {token: limit_s for token, limit_s in live.limits.items() if token in held}
        gone = {report.token for report in self._accepted}
        quiet = not (orders.assignments or orders.wishes or self._resend)
        live.quiet = (
            (news, frozenset(each for each in self._beat.signature() if each[0] not in gone)) if quiet else None
        )
        return answer(
            self._number,
            self._config,
            assignments=orders.assignments,
            wishes=orders.wishes,
            acknowledged=[report.token for report in self._accepted],
            resend=self._resend,
        )

    def _on_disk(self, error: BaseException | None) -> None:
        if error is None:
            self.reply.set_result(self._answer)
        else:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless there was an answer."""
        if self.reply.done():
            return
        if isinstance(error, PASSING):
            # The heartbeat counts all the same; what it brought comes again with the next one.
            self.reply.set_result(answer(self._number, self._config))
        elif isinstance(error, UnknownClientError):
            self.reply.set_exception(error)
        else:
            self._live.unheard = f"its heartbeats cannot be stored ({type(error).__name__}; see the server's log)"
            self.reply.set_exception(error)

    def _listing(self) -> list[Listed]:
        gone = {report.token for report in self._accepted}
        return [listed for listed in self._beat.runs if listed.token not in gone]


def overtime(live: LiveClient, beat: Beat, config: ServerConfig) -> list[str]:
    """Return the runs that the client should have ended for their time long ago."""
    if not live.limits:
        return []
    grace_s = _OVERTIME_S + 3 * config.kill_grace_s
    return [
        listed.token
        for listed in beat.runs
        if listed.state != "ended" and listed.seconds > live.limits.get(listed.token, float("inf")) + grace_s
    ]


def answer(number: int, config: ServerConfig, **parts: Any) -> Any:
    """Return the answer to a heartbeat, with nothing in it but what is given."""
    return write(Answer(number=number, interval_s=config.heartbeat_s, **parts))
