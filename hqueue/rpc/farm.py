"""What clients call: register, heartbeat, report, output.

Every call may come twice or late. What makes it idempotent: a client is its label and key, a heartbeat its
incarnation and number, a report the run's token, a piece of output the token and the offset.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.clock import to_ms
from hqueue.errors import ClientRefusedError, StoreUnavailableError, UnknownClientError
from hqueue.lifecycle import clients
from hqueue.matching import os_of
from hqueue.roster import LiveClient
from hqueue.rpc import runtext
from hqueue.rpc.arguments import integer, one_id, text
from hqueue.rpc.beats import Beat, Origin, Piece, read_beat, read_identity, read_pieces, read_reports
from hqueue.rpc.method import Where, exposed
from hqueue.schema import client, job, job_spec, run
from hqueue.store import AwaitTick, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hqueue.clock import Clock
    from hqueue.config import ServerConfig
    from hqueue.joblogs import JobLogs
    from hqueue.lifecycle import Report
    from hqueue.roster import Roster
    from hqueue.store import Session, Store

log = logging.getLogger(__name__)

_ANSWER_BYTES: Final = 256 * 1024
# The client measures maxTime itself; the server steps in this long after it should have proved the death.
_OVERTIME_S: Final = 60.0


_NOWHERE: Final = Origin()


@dataclass(slots=True)
class _Known:
    """What output and reports need of a run: read once, kept while the run is open."""

    run_id: int
    job_id: int
    client_id: int
    origin: Origin = _NOWHERE


class FarmMethods:
    """The calls of clients."""

    def __init__(
        self,
        *,
        store: Store,
        roster: Roster,
        logs: JobLogs,
        config: ServerConfig,
        clock: Clock,
    ) -> None:
        self._store = store
        self._roster = roster
        self._logs = logs
        self._config = config
        self._clock = clock
        self._runs: dict[str, _Known] = {}
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="heartbeat")

    def close(self) -> None:
        """Finish the heartbeats that are being worked on."""
        self._pool.shutdown(wait=True)

    @exposed(Where.FARM)
    def register(self, identity: dict[str, Any], *, peer: str) -> Future[dict[str, Any]]:
        """Make a client known, or known again after it or the server was restarted.

        identity: hostname, name ("" for the only client of a machine), key (random, kept in the client's state
        folder), incarnation (grows with each start of the daemon), port (where it serves wakeup), cpus, platform,
        version, cpuSpeed (MHz), memory and diskCapacity (KB), installLocation, gpus.
        Idempotency key: hostname, name, key and incarnation; called twice it changes nothing more.
        Returns: clientId, heartbeatSeconds, killGraceSeconds, networkFolders, serverTime, maxOutputBytes.
        Errors: 41 when another machine is registered under this name and not lost, or a newer daemon of this one.
        Source: ours.
        """
        who = read_identity(identity)
        reply: Future[dict[str, Any]] = Future()

        def stored(future: Future[int]) -> None:
            try:
                client_id = future.result()
                self._enter(client_id, who, peer)
                reply.set_result(self._welcome(client_id))
            except Exception as error:  # noqa: BLE001 - the caller's answer
                reply.set_exception(error)

        self._store.write_soon(lambda session: clients.register(session, who, peer)).add_done_callback(stored)
        return reply

    @exposed(Where.LOOP)
    def heartbeat(self, client_id: int, key: str, incarnation: int, number: int, body: dict[str, Any]) -> Any:
        """Say that a client is there, what it holds and how runs ended; hear what it is to do.

        number: grows by one with each heartbeat of an incarnation.
        body: load, idleTime (minutes, -1 unknown), freeMemory and freeDisk (KB), condemned ("" or why it takes no
        more work), terminating, runs: [{token, state, wish, seconds, pid, progress}], reports (see farm.report).
        Idempotency key: client, incarnation and number; one that is not newer is answered {stale: True} and dropped.
        Stale tokens: a listed run that the server does not know, or has given up, comes back as a wish to die with
        the reason "unknown"; a report of one is acknowledged and changes no job.
        Returns: number, stale, interval (seconds), assignments, wishes, acknowledged (tokens), resend ([{token,
        length}]: send the output from there, then report again). An answer to an ended run waits for the scheduler's
        next pass, so that it can carry new work.
        Errors: 40: register (again), with everything held; 41: stop, another daemon has this name.
        Source: ours.
        """
        live = self._known_client(client_id, key, integer(incarnation, "incarnation"))
        beat_number = integer(number, "number")
        beat = read_beat(body)
        if beat_number <= live.number:
            return self._answer(beat_number, stale=True)
        live.number = beat_number
        changed = self._note(live, beat)
        if not changed and not beat.reports and live.quiet == (live.news, beat.signature()):
            return self._answer(beat_number)
        reply: Future[dict[str, Any]] = Future()
        self._pool.submit(self._take, live, beat_number, beat, reply)
        return reply

    @exposed(Where.FARM)
    def report(self, client_id: int, key: str, incarnation: int, reports: list[Any]) -> Future[dict[str, Any]]:
        """Say how runs ended without being a heartbeat: a long backlog in pieces, or the last words of a daemon.

        reports: [{token, outcome, exitCode, signal, reason, seconds, peakMemory (KB), outputBytes, message,
        progress}]. outcome: exited (by itself), killed (after the client had begun to kill it, for `reason`,
        whatever its exit status), refused (never started), lost (gone without a result, and proved dead).
        Idempotency key: the token; a report that comes twice changes nothing the second time.
        Stale tokens: acknowledged; the run is closed and its client's CPUs are free, the job does not change.
        Returns: acknowledged (tokens), resend ([{token, length}] as in farm.heartbeat).
        Errors: 40: register first. 41: another daemon has this name.
        Source: ours.
        """
        live = self._known_client(client_id, key, integer(incarnation, "incarnation"))
        accepted, resend = self._accept(read_reports(reports))
        reply: Future[dict[str, Any]] = Future()

        def stored(future: Future[bool]) -> None:
            try:
                future.result()
                self._drop(accepted)
                reply.set_result({"acknowledged": [each.token for each in accepted], "resend": resend})
            except Exception as error:  # noqa: BLE001 - the caller's answer
                reply.set_exception(error)

        self._store.write_soon(
            lambda session: clients.take_reports(session, live.id, live.label, accepted, self._config.max_rescues),
        ).add_done_callback(stored)
        return reply

    @exposed(Where.FARM)
    def output(self, client_id: int, key: str, pieces: list[Any]) -> list[int]:
        """Add pieces of runs' output to their logs.

        pieces: [{token, offset, data (base64)}], 256 KiB in all at the most; with the first of a run also pid, shell
        and folder, for the head of its log.
        Idempotency key: token and offset; bytes that are there already are skipped.
        Stale tokens: the output of a run that was given up is still kept; -1 for a token that nobody knows.
        Returns: per piece, how many bytes of that run's output the server has now; less than the offset means that
        something is missing: send again from there.
        Errors: 10 for more than 256 KiB; 40: register first.
        Source: ours.
        """
        live = self._known_client(client_id, key, None)
        lengths = []
        for piece in read_pieces(pieces):
            known = self._find(piece.token)
            if known is None or known.client_id != live.id:
                lengths.append(-1)
                continue
            lengths.append(self._append(known, piece, live.label))
        return lengths

    def _append(self, known: _Known, piece: Piece, label: str) -> int:
        if piece.origin != _NOWHERE:
            known.origin = piece.origin
        return self._logs.append(known.job_id, known.run_id, piece.offset, piece.data, lambda: self._head(known, label))

    def _enter(self, client_id: int, who: clients.Identity, peer: str) -> None:
        with self._store.reading() as connection:
            limits = clients.time_limits(connection, client_id)
        live = LiveClient(client_id, who.label, who.key, who.incarnation, limits=limits, ip=peer, port=who.port)
        live.last_heartbeat_at = to_ms(self._clock.now())
        self._roster.enter(live)
        log.info("client %s registered from %s: %d CPUs, %s", who.label, peer, who.cpus, who.platform)

    def _welcome(self, client_id: int) -> dict[str, Any]:
        return {
            "clientId": client_id,
            "heartbeatSeconds": self._config.heartbeat_s,
            "killGraceSeconds": self._config.kill_grace_s,
            "networkFolders": [asdict(folder) for folder in self._config.network_folders],
            "serverTime": self._clock.now(),
            "maxOutputBytes": self._config.max_output_bytes,
        }

    def _known_client(self, client_id: Any, key: Any, incarnation: int | None) -> LiveClient:
        live = self._roster.clients.get(one_id(client_id, "client_id"))
        if live is None or live.incarnation < 0 or (incarnation is not None and incarnation > live.incarnation):
            raise UnknownClientError(f"client {client_id} has not registered with this server; register first")
        if live.key != text(key, "key"):
            raise ClientRefusedError(
                f"another machine is registered as {live.label}; give this one a name (hqclient --name NAME)",
            )
        if incarnation is not None and incarnation < live.incarnation:
            raise ClientRefusedError(f"a newer daemon of {live.label} has registered; this one is to stop")
        return live

    def _note(self, live: LiveClient, beat: Beat) -> bool:
        """Keep what a heartbeat says in memory; tell whether it says something for the store."""
        live.seen_at_s = self._clock.monotonic()
        live.last_heartbeat_at = to_ms(self._clock.now())
        live.load = beat.load
        live.idle_minutes = beat.idle_minutes
        live.free_memory_kb = beat.free_memory_kb
        live.free_disk_kb = beat.free_disk_kb
        live.unsaved = True
        for listed in beat.runs:
            if listed.progress is not None and (known := self._runs.get(listed.token)) is not None:
                self._roster.report_progress(known.job_id, *listed.progress)
        changed = beat.condemned != live.condemned or beat.terminating != live.terminating
        return changed or (beat.terminating and not beat.runs) or bool(self._overtime(live, beat))

    def _overtime(self, live: LiveClient, beat: Beat) -> list[str]:
        """Return the runs that the client should have ended for their time long ago."""
        if not live.limits:
            return []
        grace_s = _OVERTIME_S + 3 * self._config.kill_grace_s
        return [
            listed.token
            for listed in beat.runs
            if listed.state != "ended" and listed.seconds > live.limits.get(listed.token, float("inf")) + grace_s
        ]

    def _take(self, live: LiveClient, number: int, beat: Beat, reply: Future[dict[str, Any]]) -> None:
        """Carry a heartbeat's news into the store, then answer; runs on a thread of this class."""
        try:
            for token in [listed.token for listed in beat.runs if listed.token not in self._runs]:
                self._find(token)
            accepted, resend = self._accept(beat.reports)
        except Exception as error:  # noqa: BLE001 - the caller's answer
            self._fail(number, reply, error)
            return
        tick: Future[None] | None = Future() if accepted else None

        def write(session: Session) -> None:
            if tick is not None:
                live.parked = True
                session.after_commit(AwaitTick(tick))
                session.after_commit(WakeScheduler())
            clients.take_reports(session, live.id, live.label, accepted, self._config.max_rescues)
            gone = {report.token for report in accepted}
            listing = [listed for listed in beat.runs if listed.token not in gone]
            clients.take_listing(session, live.id, live.label, listing, self._config.max_rescues)
            self._store_state(session, live, beat)

        def stored(future: Future[None]) -> None:
            error = future.exception()
            if error is not None:
                live.parked = False
                self._fail(number, reply, error)
            elif tick is not None:
                tick.add_done_callback(lambda _: self._pool.submit(finish))
            else:
                finish()

        def finish() -> None:
            try:
                reply.set_result(self._finish(live, number, beat, accepted, resend))
            except Exception as error:  # noqa: BLE001 - the caller's answer
                self._fail(number, reply, error)

        self._store.write_soon(write).add_done_callback(stored)

    def _fail(self, number: int, reply: Future[dict[str, Any]], error: BaseException) -> None:
        if isinstance(error, StoreUnavailableError):
            # The heartbeat counts all the same; what it brought comes again with the next one.
            reply.set_result(self._answer(number))
        else:
            reply.set_exception(error)

    def _finish(
        self,
        live: LiveClient,
        number: int,
        beat: Beat,
        accepted: Sequence[Report],
        resend: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Return what there is to tell the client, once everything it said is stored."""
        live.parked = False
        news = live.news
        self._drop(accepted)
        gone = {report.token for report in accepted}
        listing = [listed for listed in beat.runs if listed.token not in gone]
        with self._store.reading() as connection:
            orders = clients.orders(connection, live.id, listing)
        for assignment in orders.assignments:
            if assignment["maxTime"]:
                live.limits[assignment["token"]] = assignment["maxTime"]
        if not orders and not resend:
            live.quiet = (news, beat.signature() - {each for each in beat.signature() if each[0] in gone})
        else:
            live.quiet = None
        return self._answer(
            number,
            assignments=orders.assignments,
            wishes=orders.wishes,
            acknowledged=[report.token for report in accepted],
            resend=resend,
        )

    def _answer(self, number: int, *, stale: bool = False, **parts: list[Any]) -> dict[str, Any]:
        return {
            "number": number,
            "stale": stale,
            "interval": self._config.heartbeat_s,
            "assignments": [],
            "wishes": [],
            "acknowledged": [],
            "resend": [],
            **parts,
        }

    def _store_state(self, session: Session, live: LiveClient, beat: Beat) -> None:
        overtime = self._overtime(live, beat)
        if overtime:
            clients.end_overtime(session, overtime)
        if beat.condemned != live.condemned or beat.terminating != live.terminating:
            session.connection.execute(
                sa.update(client)
                .where(client.c.id == live.id)
                .values(condemned=beat.condemned, terminating=beat.terminating),
            )
            live.condemned, live.terminating = beat.condemned, beat.terminating
        if beat.terminating and not beat.runs:
            clients.forget(session, live.id)
            self._roster.leave(live.id)
            log.info("client %s has finished and is forgotten", live.label)

    def _accept(self, reports: Sequence[Report]) -> tuple[list[Report], list[dict[str, Any]]]:
        """Return the reports whose output is complete and on disk, and what is missing of the others'."""
        accepted: list[Report] = []
        resend: list[dict[str, Any]] = []
        for report in reports:
            known = self._find(report.token)
            if known is None:
                accepted.append(report)  # nobody knows it: acknowledged and dropped
                continue
            length = self._logs.length(known.job_id, known.run_id)
            if length < report.output_bytes:
                resend.append({"token": report.token, "length": length})
                continue
            if report.output_bytes:
                self._logs.sync(known.job_id, known.run_id)
            live = self._roster.clients.get(known.client_id)
            head = partial(self._head, known, live.label if live else "")
            self._logs.finish(known.job_id, known.run_id, head, runtext.end_line(report))
            accepted.append(report)
        return accepted, resend

    def _drop(self, reports: Sequence[Report]) -> None:
        for report in reports:
            known = self._runs.pop(report.token, None)
            if known is not None:
                self._roster.forget_progress(known.job_id)

    def _find(self, token: str) -> _Known | None:
        known = self._runs.get(token)
        if known is None:
            query = sa.select(run.c.id, run.c.job_id, run.c.client_id).where(run.c.token == token)
            with self._store.reading() as connection:
                row = connection.execute(query).one_or_none()
            if row is None:
                return None
            known = self._runs[token] = _Known(row.id, row.job_id, row.client_id)
        return known

    def _head(self, known: _Known, label: str) -> str:
        query = (
            sa.select(
                job.c.name, job_spec.c.command_json, job_spec.c.environment_json, run.c.attempt, client.c.platform
            )
            .join(job, job.c.id == run.c.job_id)
            .join(job_spec, job_spec.c.job_id == job.c.id)
            .join(client, client.c.id == run.c.client_id)
            .where(run.c.id == known.run_id)
        )
        with self._store.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return f"job {known.job_id}, deleted\n"
        command = json.loads(row.command_json) if row.command_json else ""
        if isinstance(command, dict):
            command = command.get(os_of(row.platform), "")
        return runtext.head(
            job_id=known.job_id,
            name=row.name,
            attempt=row.attempt,
            client=label,
            pid=known.origin.pid,
            shell=known.origin.shell,
            folder=known.origin.folder,
            environment=json.loads(row.environment_json),
            command=command,
        )
