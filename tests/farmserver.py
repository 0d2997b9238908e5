"""A farm server for the client's tests: farm.* over the standard library's server, and a memory of all it was told."""

from __future__ import annotations

import socketserver
import threading
import xmlrpc.client
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from hqueue.protocol import (
    Acknowledgement,
    Answer,
    Assignment,
    Beat,
    Identity,
    Listed,
    NetworkFolder,
    Piece,
    Report,
    Resend,
    Welcome,
    Wish,
    read,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hqueue.protocol import Asked

PATIENCE_S = 20.0


class _Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1


class _Server(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), requestHandler=_Handler, logRequests=False, allow_none=True)
        self.connections: set[Any] = set()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle of a call is what these tests are about."""


class Farm:
    """What the server knows. `away()` takes it off the network; what it knows stays."""

    def __init__(self, *, interval_s: float = 5.0, grace_s: float = 10.0) -> None:
        self.changed = threading.Condition()
        self.interval_s = interval_s
        self.grace_s = grace_s
        self.slots = 10_000
        self.clients: list[Identity] = []  # identities, by registration
        self.queue: list[Assignment] = []  # assignments, not yet listed by the client
        self.assigned: dict[str, Assignment] = {}
        self.wishes: dict[str, Wish] = {}
        self.listed: dict[str, Listed] = {}  # token → how it was last listed
        self.states: dict[str, list[str]] = {}  # token → the states it was listed in, repeats left out
        self.output: dict[str, bytearray] = {}
        self.reports: dict[str, Report] = {}
        self.times_reported: dict[str, int] = {}
        self.heartbeats: list[Beat] = []
        self.forget: set[str] = set()  # methods to answer once with fault 40
        self.refuse = ""  # the sentence of fault 41
        self.next_length: int | None = None  # what the next output call is answered, whatever arrives
        self.keep_reports = False  # do not acknowledge
        self._counter = 0
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    # -- for tests ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._server = _Server(self.port)
        self.port = self._server.server_address[1]
        for method in (self._register, self._heartbeat, self._report, self._output):
            self._server.register_function(method, "farm." + method.__name__.removeprefix("_"))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self._server.connections:
            try:
                connection.shutdown(2)
            except OSError:
                continue
        self._server = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Take the server off the network for a while."""
        self.stop()
        yield
        self.start()

    def submit(self, command: str, *, ring: bool = True, **more: Any) -> str:
        """Queue a run and return its token."""
        with self.changed:
            self._counter += 1
            token = more.pop("token", f"run-{self._counter}")
            assignment = Assignment(
                token=token,
                job_id=self._counter,
                name="Würfel_日本",
                command=command,
                hosts=["farm07", "farm08"],
                **more,
            )
            self.queue.append(assignment)
        if ring:
            self.ring()
        return token

    def wish(self, token: str, wish: Asked, reason: str = "cancelled") -> None:
        with self.changed:
            number = self.wishes[token].number + 1 if token in self.wishes else 1
            self.wishes[token] = Wish(token, wish, number, reason)
        self.ring()

    def ring(self) -> None:
        if self.clients:
            with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{self.clients[-1].port}") as client:
                client.wakeup()

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
        """Wait until something holds that calls can change."""
        with self.changed:
            if not self.changed.wait_for(condition, seconds):
                raise AssertionError(f"not within {seconds} s; listed {self.listed}, reports {self.reports}")
            return condition()

    def result(self, token: str, seconds: float = PATIENCE_S) -> Report:
        """Wait for a run's end report."""
        return self.until(lambda: self.reports.get(token), seconds)

    def state(self, token: str) -> str:
        return self.listed[token].state if token in self.listed else ""

    def text(self, token: str) -> str:
        return self.output.get(token, b"").decode()

    # -- what a client calls -------------------------------------------------------------------------------------------

    def _register(self, identity: dict[str, Any]) -> Any:
        with self.changed:
            if self.refuse:
                raise xmlrpc.client.Fault(41, self.refuse)
            self.clients.append(read(identity, Identity, "identity"))
            self.changed.notify_all()
        return write(
            Welcome(
                client_id=7,
                heartbeat_s=self.interval_s,
                kill_grace_s=self.grace_s,
                network_folders=[
                    NetworkFolder("HQROOT", "/mnt/hq", "H:/", "/Volumes/HQ", main=True),
                    NetworkFolder("TEXTURES", "/mnt/texturen", "T:/", "/Volumes/T"),
                ],
                server_time=datetime.now(UTC),  # noqa: TID251 - a client takes any
                max_output_bytes=1 << 30,
            )
        )

    def _heartbeat(self, client_id: int, key: str, incarnation: int, number: int, body: dict[str, Any]) -> Any:
        beat = read(body, Beat, "body")
        with self.changed:
            self._check("farm.heartbeat")
            self.heartbeats.append(beat)
            for run in beat.runs:
                self.listed[run.token] = run
                states = self.states.setdefault(run.token, [])
                if states[-1:] != [run.state]:
                    states.append(run.state)
            here = {run.token for run in beat.runs}
            self.queue = [entry for entry in self.queue if entry.token not in here]
            told = self._take(beat.reports)
            wishes = [
                wish
                for token, wish in self.wishes.items()
                if token in here and self.listed[token].wish < wish.number and self.listed[token].state != "ended"
            ]
            wishes += [
                Wish(token, "die", 1, "unknown")
                for token in here
                if token not in self.assigned and self.listed[token].state != "ended"
            ]
            room = self.slots - sum(run.state != "ended" for run in beat.runs)
            given = [] if beat.terminating else self.queue[: max(0, room)]
            self.assigned.update((entry.token, entry) for entry in given)
            self.changed.notify_all()
        return write(
            Answer(
                number=number,
                interval_s=self.interval_s,
                assignments=given,
                wishes=wishes,
                acknowledged=told.acknowledged,
                resend=told.resend,
            )
        )

    def _report(self, client_id: int, key: str, incarnation: int, reports: list[dict[str, Any]]) -> Any:
        with self.changed:
            self._check("farm.report")
            told = self._take(read(reports, list[Report], "reports"))
            self.changed.notify_all()
        return write(told)

    def _output(self, client_id: int, key: str, told: list[dict[str, Any]]) -> list[int]:
        lengths = []
        for fields in told:
            fields["data"] = fields["data"].data  # the standard library wraps bytes
        pieces = read(told, list[Piece], "pieces")
        assert sum(len(piece.data) for piece in pieces) <= 256 * 1024
        with self.changed:
            for piece in pieces:
                if piece.token not in self.assigned:
                    lengths.append(-1)
                    continue
                have = self.output.setdefault(piece.token, bytearray())
                if self.next_length is not None:
                    del have[self.next_length :]
                    self.next_length = None
                elif piece.offset <= len(have):
                    have += piece.data[len(have) - piece.offset :]
                lengths.append(len(have))
            self.changed.notify_all()
        return lengths

    def _check(self, method: str) -> None:
        if self.refuse:
            raise xmlrpc.client.Fault(41, self.refuse)
        if method in self.forget:
            self.forget.discard(method)
            raise xmlrpc.client.Fault(40, "there is no client 7")

    def _take(self, reports: list[Report]) -> Acknowledgement:
        told = Acknowledgement()
        for report in reports:
            token = report.token
            self.times_reported[token] = self.times_reported.get(token, 0) + 1
            have = len(self.output.get(token, b""))
            if token not in self.assigned:
                told.acknowledged.append(token)
            elif have < report.output_bytes:
                told.resend.append(Resend(token, have))
            else:
                self.reports.setdefault(token, report)
                if not self.keep_reports:
                    told.acknowledged.append(token)
        return told
