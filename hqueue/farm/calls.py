"""What clients call: register, heartbeat, report, output.

Every call may come twice or late. What makes it idempotent: a client is its label and key, a heartbeat its
incarnation and number, a report the run's token, a piece of output the token and the offset.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from msgspec import convert

from hqueue.clock import to_ms
from hqueue.errors import ClientRefusedError, InvalidArgumentError, UnknownClientError
from hqueue.farm.heartbeats import Heartbeat, answer, overtime
from hqueue.farm.openruns import OpenRuns
from hqueue.lifecycle import clients
from hqueue.live import LiveClient
from hqueue.protocol import (
    MOST_OUTPUT_BYTES,
    Acknowledgement,
    Beat,
    Identity,
    NetworkFolder,
    Piece,
    Welcome,
    read,
    read_beat,
    read_reports,
    write,
)
from hqueue.rpc.arguments import integer, one_id, text
from hqueue.rpc.method import Where, exposed
from hqueue.service import Consumer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hqueue.context import Context
    from hqueue.service import OnDeath

log = logging.getLogger(__name__)


class FarmMethods:
    """The calls of clients."""

    def __init__(self, context: Context, on_death: OnDeath) -> None:
        self._store = context.store
        self._live_farm = context.live_farm
        self._config = context.config
        self._clock = context.clock
        self._runs = OpenRuns(store=context.store, live_farm=context.live_farm, logs=context.logs)
        self._pool: Consumer[Heartbeat] = Consumer(
            "heartbeat", on_death, each=Heartbeat.go_on, fail=Heartbeat.fail, threads=2, finish=True
        )
        self.start = self._pool.start
        self.stop = self._pool.stop

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
        who = read(identity, Identity, "identity")
        reply: Future[dict[str, Any]] = Future()

        def stored(future: Future[int]) -> None:
            try:
                client_id = future.result()
                self._enter(client_id, who, peer)
                reply.set_result(self._welcome(client_id))
            except Exception as error:  # noqa: BLE001 - the caller's answer
                reply.set_exception(error)

        self._store.write_soon(lambda session: clients.register(session, who, peer), urgent=True).add_done_callback(
            stored
        )
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
        beat = self._read(live, body)
        if beat_number <= live.number:
            return answer(beat_number, self._config, stale=True)
        live.number = beat_number
        changed = self._note(live, beat)
        if not changed and not beat.reports and live.quiet == (live.news, beat.signature()):
            live.unheard = ""
            return answer(beat_number, self._config)
        heartbeat = Heartbeat(
            live,
            beat_number,
            beat,
            store=self._store,
            live_farm=self._live_farm,
            runs=self._runs,
            config=self._config,
            soon=self._pool.put,
        )
        self._pool.put(heartbeat)
        return heartbeat.reply

    @exposed(Where.FARM)
    def report(self, client_id: int, key: str, incarnation: int, reports: list[Any]) -> Future[dict[str, Any]]:
        """Say how runs ended without being a heartbeat: a long backlog in pieces, or the last words of a daemon.

        reports: [{token, outcome, exitCode, signal, reason, seconds, peakMemory (KB), outputBytes, message,
        progress, lostOutput (why some of its output will never come), fault}]. outcome: exited (by itself), killed
        (after the client had begun to kill it, for `reason`, whatever its exit status), refused (never started), lost
        (gone without a result, and proved dead). fault: of a refusal, "job", "shell" (the job's, unless clients ran
        that shell lately) or "machine".
        Idempotency key: the token; a report that comes twice changes nothing the second time.
        Stale tokens: acknowledged; the run is closed and its client's CPUs are free, the job does not change.
        Returns: acknowledged (tokens), resend ([{token, length}] as in farm.heartbeat).
        Errors: 40: register first. 41: another daemon has this name.
        Source: ours.
        """
        live = self._known_client(client_id, key, integer(incarnation, "incarnation"))
        told, complaints = read_reports(reports)
        _note_complaints(live, complaints)
        accepted, resend = self._runs.accept(live, told)
        reply: Future[dict[str, Any]] = Future()

        def stored(future: Future[bool]) -> None:
            try:
                future.result()
                self._live_farm.forget_runs(live, [each.token for each in accepted])
                reply.set_result(write(Acknowledgement([each.token for each in accepted], resend)))
            except Exception as error:  # noqa: BLE001 - the caller's answer
                reply.set_exception(error)

        self._store.write_soon(
            lambda session: clients.take_reports(session, live.id, live.label, accepted), urgent=True
        ).add_done_callback(stored)
        return reply

    @exposed(Where.FARM)
    def output(self, client_id: int, key: str, pieces: list[Any]) -> list[int]:
        """Add pieces of runs' output to their logs.

        pieces: [{token, offset, data (base64), progress}], 256 KiB in all at the most; with the first of a run also
        pid, shell and folder, for the head of its log. progress: (n, m) as the output up to there has it.
        Idempotency key: token and offset; bytes that are there already are skipped.
        Stale tokens: the output of a run that was given up is still kept; -1 for a token that nobody knows.
        Returns: per piece, how many bytes of that run's output the server has now; less than the offset means that
        something is missing: send again from there.
        Errors: 10 for more than 256 KiB; 40: register first.
        Source: ours.
        """
        live = self._known_client(client_id, key, None)
        told = read(pieces, list[Piece], "pieces")
        total = sum(len(piece.data) for piece in told)
        if total > MOST_OUTPUT_BYTES:
            raise InvalidArgumentError(f"pieces hold {total} bytes in all, but at most {MOST_OUTPUT_BYTES} are taken")
        return [self._runs.append(live, piece) for piece in told]

    def _enter(self, client_id: int, who: Identity, peer: str) -> None:
        with self._store.reading() as connection:
            limits = clients.time_limits(connection, client_id)
        live = LiveClient(client_id, who.label, who.key, who.incarnation, limits=limits, ip=peer, port=who.port)
        live.last_heartbeat_at = to_ms(self._clock.now())
        self._live_farm.enter(live)
        log.info("client %s registered from %s: %d CPUs, %s", who.label, peer, who.cpus, who.platform)

    def _welcome(self, client_id: int) -> Any:
        config = self._config
        folders = convert(config.network_folders, list[NetworkFolder], from_attributes=True)
        return write(
            Welcome(
                client_id=client_id,
                heartbeat_s=config.heartbeat_s,
                kill_grace_s=config.kill_grace_s,
                network_folders=folders,
                server_time=self._clock.now(),
                max_output_bytes=config.max_output_bytes,
            )
        )

    def _known_client(self, client_id: Any, key: Any, incarnation: int | None) -> LiveClient:
        live = self._live_farm.clients.get(one_id(client_id, "client_id"))
        if live is None or live.incarnation < 0 or (incarnation is not None and incarnation > live.incarnation):
            raise UnknownClientError(f"client {client_id} has not registered with this server; register first")
        if live.key != text(key, "key"):
            raise ClientRefusedError(
                f"another machine is registered as {live.label}; give this one a name (hqclient --name NAME)",
            )
        if incarnation is not None and incarnation < live.incarnation:
            raise ClientRefusedError(f"a newer daemon of {live.label} has registered; this one is to stop")
        return live

    def _read(self, live: LiveClient, body: Any) -> Beat:
        """Return a heartbeat's body; a client that is not understood is given no work until it is."""
        try:
            beat, complaints = read_beat(body)
        except InvalidArgumentError as error:
            live.unheard = f"its heartbeats cannot be understood: {error.message}"
            raise
        if complaints != live.complaints:
            live.complaints = complaints
            _note_complaints(live, complaints)
        return beat

    def _note(self, live: LiveClient, beat: Beat) -> bool:
        """Keep what a heartbeat says in memory; tell whether it says something for the store."""
        live.seen_at_s = self._clock.monotonic()
        live.last_heartbeat_at = to_ms(self._clock.now())
        live.load = beat.load
        live.idle_minutes = beat.idle_minutes
        live.free_memory_kb = beat.free_memory_kb
        live.free_disk_kb = beat.free_disk_kb
        live.unsaved = True
        self._live_farm.note_times(live, beat.runs)
        for listed in beat.runs:
            self._runs.note_progress(live, listed.token, listed.progress)
            if listed.state == "ended":
                self._runs.note_ended(live, listed.token)
        changed = beat.condemned != live.condemned or beat.terminating != live.terminating
        return changed or (beat.terminating and not beat.runs) or bool(overtime(live, beat, self._config))


def _note_complaints(live: LiveClient, complaints: Iterable[str]) -> None:
    for each in complaints:
        log.error("client %s: %s", live.label, each)
