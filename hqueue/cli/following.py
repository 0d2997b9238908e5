"""Waiting for jobs and following their output, also across a restart of the server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from hqueue.cli import shown
from hqueue.cli.connection import FaultError, UnreachableError
from hqueue.cli.program import EXIT_FAILED, EXIT_INTERRUPTED, ComplaintError
from hqueue.clock import SystemClock
from hqueue.errors import OutcomeUnknownError, ServerBusyError, StoreUnavailableError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from hqueue.cli.connection import Farm
    from hqueue.cli.screen import Screen
    from hqueue.clock import Clock

PIECE_BYTES: Final = 256 * 1024
POLL_S: Final = 0.2
LONGEST_POLL_S: Final = 2.0
OVER: Final = frozenset({"succeeded", "failed", "cancelled"})
# Half as much again after each answer without news: a short job is noticed at once, a long one costs little.
SLOWER: Final = 1.5
LONGEST_DOUBT_S: Final = 120.0
_PASSING: Final = frozenset({StoreUnavailableError.code, ServerBusyError.code, OutcomeUnknownError.code})


class _Patience:
    """Asks again and again; once the server has answered, its absence is waited out."""

    def __init__(self, farm: Farm, screen: Screen, clock: Clock) -> None:
        self._farm = farm
        self._screen = screen
        self._clock = clock
        self._never = threading.Event()
        self._pause_s = POLL_S
        self._away = False

    def ask(self, method: str, *params: Any) -> Any:
        """Return the answer, however long that takes."""
        while True:
            try:
                value = self._farm.call(method, *params)
            except (UnreachableError, FaultError) as error:
                if isinstance(error, FaultError) and error.code not in _PASSING:
                    raise
                if not self._away:
                    self._screen.aside(f"hq: {error}\nhq: still trying; Ctrl-C ends this and leaves the jobs alone.")
                self._away = True
                self.wait()
                continue
            if self._away:
                self._screen.aside("hq: the server answers again")
                self._away = False
            return value

    def wait(self, *, news: bool = False) -> None:
        """Wait until it is worth asking again."""
        self._pause_s = POLL_S if news else min(LONGEST_POLL_S, self._pause_s * SLOWER)
        self._clock.wait(self._never, self._pause_s)


def submit(text: str, parent: int | None, farm: Farm, screen: Screen, clock: Clock) -> list[int]:
    """Submit specifications of which the first has a submissionId; return the ids.

    Where the answer is lost it asks again, for a while: nothing is submitted twice.
    """
    patience, until, in_doubt = _Patience(farm, screen, clock), clock.monotonic() + LONGEST_DOUBT_S, False
    while True:
        try:
            ids: list[int] = farm.call("newjob", text, parent)
        except (UnreachableError, FaultError) as error:
            lost = error.arrived if isinstance(error, UnreachableError) else error.code in _PASSING
            again = lost or (in_doubt and isinstance(error, UnreachableError))
            if not again or clock.monotonic() >= until:
                raise
            if not in_doubt:
                screen.aside(f"hq: {error}\nhq: asking again, which submits nothing twice; Ctrl-C ends this.")
            in_doubt = True
            patience.wait()
            continue
        return ids


def wait_for(ids: Sequence[int], farm: Farm, screen: Screen, clock: Clock | None = None) -> int:
    """Wait until all jobs are over; return the exit code of the first that did not succeed, else 0."""
    patience = _Patience(farm, screen, clock or SystemClock())
    words: dict[int, str] = {}
    waiting, codes = list(ids), dict.fromkeys(ids, 0)
    try:
        while True:
            found = {job["id"]: job for job in patience.ask("getJobs", waiting, _WATCHED)}
            for job_id in waiting:
                job = found.get(job_id)
                now = "deleted" if job is None else _state(job)
                if words.get(job_id) != now:
                    screen.aside(f"job {job_id} {now}")
                    words[job_id] = now
                codes[job_id] = EXIT_FAILED if job is None else exit_code(job)
            waiting = [job_id for job_id in waiting if job_id in found and found[job_id]["status"] not in OVER]
            if not waiting:
                return next((code for code in codes.values() if code), 0)
            patience.wait()
    except KeyboardInterrupt:
        numbers = " ".join(map(str, waiting))
        screen.aside(
            f"\njob {numbers} goes on; to follow it: hq job {numbers.split(' ')[0]}; to end it: hq cancel {numbers}"
        )
        return EXIT_INTERRUPTED


_WATCHED: Final = ["id", "status", "uiStatus", "exitCode", "clients"]


def exit_code(job: dict[str, Any]) -> int:
    """Return what a shell would report of a job: its command's exit code, 128 and the signal's number, or 1."""
    if job["status"] == "succeeded":
        return 0
    code = job.get("exitCode") if job["status"] == "failed" else None
    if not isinstance(code, int):
        return EXIT_FAILED
    code = 128 - code if code < 0 else code
    return code if 0 < code < 256 else EXIT_FAILED


def output(options: argparse.Namespace, farm: Farm, screen: Screen, clock: Clock | None = None) -> int:
    """Print a job's output; with --follow until the job is over."""
    offset, finished = 0, False
    patience = _Patience(farm, screen, clock or SystemClock())
    piece = farm.call("readJobOutput", options.id, offset, PIECE_BYTES)
    texts: list[str] = []
    while True:
        if piece is None:
            raise ComplaintError(f"there is no job {options.id}." if not offset else f"job {options.id} was deleted.")
        if screen.json_wanted:
            texts.append(piece["text"])
        else:
            screen.text(piece["text"])
        moved, offset = piece["next"] > offset, piece["next"]
        finished = piece["finished"] and offset >= piece["end"]
        if finished or (offset >= piece["end"] and not options.follow):
            break
        if not moved:
            patience.wait()
        piece = patience.ask("readJobOutput", options.id, offset, PIECE_BYTES)
    if screen.json_wanted:
        screen.json({"id": options.id, "output": "".join(texts), "finished": finished})
    return 0


def _state(job: dict[str, Any]) -> str:
    words = str(shown.status(job).text)
    where = shown.clients(job)
    return f"{words} on {where}" if where and words.startswith("running") else words
