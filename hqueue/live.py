"""What changes at every heartbeat, kept in memory: a heartbeat that brings no news touches no table.

Everything here can be lost: a new process starts with an empty live_farm, and the clients fill it again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hqueue.clock import Clock
    from hqueue.matching import Hold
    from hqueue.protocol import Assignment, Listed, Place

# A check that comes later than this means that the server stood still, and so did every client's connection to it.
STALL_S: Final = 10.0
_WITHHELD_S: Final = 60.0


@dataclass(slots=True)
class LiveRun:
    """A run that a client is at work on, as far as its log needs to know it."""

    run_id: int
    job_id: int
    place: Place | None = None
    assignment: Assignment | None = None  # as it was handed out, until the head of its log is written
    trouble: str = ""  # why its output cannot be taken


@dataclass(slots=True)
class LiveClient:
    """A client that has reported to this process."""

    id: int
    label: str
    key: str
    incarnation: int
    number: int = 0  # of its latest heartbeat
    seen_at_s: float = 0.0  # monotonic
    last_heartbeat_at: int = 0  # ms since 1970
    load: float = 0.0
    idle_minutes: int = -1
    free_memory_kb: int = 0
    free_disk_kb: int = 0
    condemned: str = ""
    terminating: bool = False
    unheard: str = ""  # why its latest heartbeat could not be taken: it gets no work meanwhile
    complaints: list[str] = field(default_factory=list)  # what of its latest heartbeat made no sense
    news: int = 0  # grows whenever there may be something to tell the client
    quiet: tuple[int, frozenset[tuple[str, str, int]]] | None = None  # `news` and listing that needed no answer
    runs: dict[str, LiveRun] = field(default_factory=dict)  # by token: what it lists, or was just given
    limits: dict[str, float] = field(default_factory=dict)  # maxTime in seconds of its runs, by token
    parked: bool = False  # a heartbeat of it waits for the next tick; it need not be woken
    ip: str = ""
    port: int = 0
    unsaved: bool = True  # load and last heartbeat are not in the store yet


@dataclass(slots=True)
class Progress:
    """What a running command says of its progress."""

    numerator: float
    denominator: float
    unsaved: bool = True
    passes_left: int = 0  # set: its run has ended


@dataclass(frozen=True, slots=True)
class RunTime:
    """How long a run has been at work, as its client measures it."""

    seconds: float
    said_at_s: float  # monotonic
    goes_on: bool


@dataclass
class LiveFarm:
    """The clients that report, and how far and how long what they run is at work."""

    clock: Clock
    clients: dict[int, LiveClient] = field(default_factory=dict)
    progress: dict[int, Progress] = field(default_factory=dict)  # by job id, for open runs
    times: dict[int, RunTime] = field(default_factory=dict)  # by job id, for open runs
    holds: dict[int, Hold] = field(default_factory=dict)  # by job id: what the latest tick kept for it
    # By run id: ended, but the server cannot take the rest of its output: why, and when that was last so.
    withheld: dict[int, tuple[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _checked_at_s: float = 0.0

    def enter(self, client: LiveClient) -> LiveClient:
        """Add a client that has just registered, or replace what was known of it."""
        client.seen_at_s = self.clock.monotonic()
        with self._lock:
            known = self.clients.get(client.id)
            if known is not None:
                client.news = known.news + 1
                client.runs = known.runs  # its first heartbeat says which of them it still has
            self.clients[client.id] = client
        return client

    def leave(self, client_id: int, client: LiveClient | None = None) -> None:
        """Forget a client that was lost or is gone; its next heartbeat is told to register again.

        client: the one that was lost; another that has registered meanwhile stays.
        """
        with self._lock:
            known = self.clients.get(client_id)
            if known is None or (client is not None and known is not client):
                return
            del self.clients[client_id]
        self.forget_runs(known, list(known.runs))

    def is_overdue(self, client: LiveClient, timeout_s: float) -> bool:
        """Tell whether a client has not been heard, or has not registered anew, since it was found overdue."""
        with self._lock:
            current = self.clients.get(client.id) is client
        return current and self.clock.monotonic() - client.seen_at_s > timeout_s

    def tell(self, client_id: int) -> None:
        """Note that there may be something to tell a client at its next heartbeat."""
        with self._lock:
            client = self.clients.get(client_id)
            if client is not None:
                client.news += 1

    def watch(self, client_ids: Iterable[int]) -> None:
        """Give clients that the store knows but that have not reported to this process a full period to do so."""
        now = self.clock.monotonic()
        with self._lock:
            for client_id in client_ids:
                if client_id not in self.clients:
                    self.clients[client_id] = LiveClient(client_id, "", "", -1, seen_at_s=now, unsaved=False)

    def overdue(self, timeout_s: float) -> list[LiveClient]:
        """Return the clients that have not reported for too long, counting only time in which the server listened."""
        now = self.clock.monotonic()
        with self._lock:
            if now - self._checked_at_s > STALL_S:
                # The first check, or one that comes late: everybody gets a full period again.
                for client in self.clients.values():
                    client.seen_at_s = now
            self._checked_at_s = now
            return [client for client in self.clients.values() if now - client.seen_at_s > timeout_s]

    def report_progress(self, job_id: int, numerator: float, denominator: float) -> None:
        """Note how far a job's command is."""
        known = self.progress.get(job_id)
        if known is None or (known.numerator, known.denominator) != (numerator, denominator):
            self.progress[job_id] = Progress(numerator, denominator)

    def begin(self, job_id: int) -> None:
        """Note that a job's run is handed out now."""
        self.progress.pop(job_id, None)  # an earlier attempt's
        self.times[job_id] = RunTime(0.0, self.clock.monotonic(), goes_on=True)

    def note_times(self, client: LiveClient, runs: Iterable[Listed]) -> None:
        """Note what a client says of the time that its runs have been at work."""
        now = self.clock.monotonic()
        with self._lock:
            for each in runs:
                known = client.runs.get(each.token)
                if known is not None:
                    self.times[known.job_id] = RunTime(each.seconds, now, each.state == "running")

    def ran_s(self, job_id: int) -> float:
        """Return the seconds that a job's open run has been at work, without those in which it was halted.

        0.0: nobody knows, for its client has not been heard since the server was started.
        """
        known = self.times.get(job_id)
        if known is None:
            return 0.0
        return known.seconds + (self.clock.monotonic() - known.said_at_s if known.goes_on else 0.0)

    def withhold(self, run_id: int, why: str) -> bool:
        """Note that a run has ended whose output cannot be taken; tell whether that is new."""
        is_new = run_id not in self.undelivered()
        self.withheld[run_id] = why, self.clock.monotonic()
        return is_new

    def undelivered(self) -> dict[int, str]:
        """Return why the output of runs that have ended cannot be taken, by run id: they hold nothing any more.

        One that its client no longer speaks of is none of them.
        """
        if not self.withheld:
            return {}
        since = self.clock.monotonic() - _WITHHELD_S
        found = {run_id: why for run_id, (why, at_s) in list(self.withheld.items()) if at_s >= since}
        if not found:
            self.withheld.clear()
        return found

    def forget_runs(self, client: LiveClient, tokens: Iterable[str]) -> None:
        """Let go of runs that a client is not at work on any more, however they ended."""
        with self._lock:
            for token in tokens:
                known = client.runs.pop(token, None)
                if known is not None:
                    self.forget_progress(known.job_id)
                    self.times.pop(known.job_id, None)
                    self.withheld.pop(known.run_id, None)

    def forget_progress(self, job_id: int) -> None:
        """Let a job go whose run has ended; its progress is in the store.

        It goes with the second pass of maintenance from now: until then somebody may still read an older snapshot.
        """
        known = self.progress.get(job_id)
        if known is not None:
            known.unsaved = False
            known.passes_left = 2

    def sweep_progress(self) -> None:
        """Drop what was let go some time ago; called by maintenance."""
        for job_id, each in list(self.progress.items()):
            if each.passes_left:
                each.passes_left -= 1
                if not each.passes_left:
                    self.progress.pop(job_id, None)
