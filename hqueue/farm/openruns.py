"""What output and end reports need to know of runs: read once, kept in memory while a client has a run."""

from __future__ import annotations

import logging
import re
import signal as signals
from functools import partial
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from msgspec.structs import replace

from hqueue.errors import StoreFullError, StoreUnavailableError
from hqueue.joblogs import RunLog
from hqueue.lifecycle import clients
from hqueue.lifecycle.runs import describe
from hqueue.live import LiveRun
from hqueue.protocol import EXITED, KILLED, Place, Resend
from hqueue.schema import run
from hqueue.views.failures import LOOKED_BACK_BYTES, telling_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hqueue.joblogs import JobLogs
    from hqueue.live import LiveClient, LiveFarm
    from hqueue.protocol import Assignment, Piece, Report
    from hqueue.store import Store

log = logging.getLogger(__name__)

NOWHERE: Final = Place()
_BY_TOKEN: Final = sa.select(run.c.id, run.c.job_id).where(
    run.c.token == sa.bindparam("wanted"), run.c.client_id == sa.bindparam("client")
)


class OpenRuns:
    """The runs that clients are at work on, and what becomes of their output."""

    def __init__(self, *, store: Store, live_farm: LiveFarm, logs: JobLogs) -> None:
        self._store = store
        self._live_farm = live_farm
        self._logs = logs

    def find(self, live: LiveClient, token: str) -> LiveRun | None:
        """Return a client's run, from the store where memory has none; None where it has none with this token."""
        known = live.runs.get(token)
        if known is None:
            with self._store.reading() as connection:
                row = connection.execute(_BY_TOKEN, {"wanted": token, "client": live.id}).one_or_none()
            if row is not None:
                known = live.runs[token] = LiveRun(row.id, row.job_id)
        return known

    def remember(self, live: LiveClient, assignment: Assignment) -> None:
        """Keep what was just handed out."""
        live.runs[assignment.token] = LiveRun(assignment.run_id, assignment.job_id, assignment=assignment)
        self._live_farm.begin(assignment.job_id)

    def note_progress(self, live: LiveClient, token: str, progress: tuple[float, float] | None) -> None:
        """Take what a running command says of its progress."""
        known = live.runs.get(token)
        if known is not None and progress is not None:
            self._live_farm.report_progress(known.job_id, *progress)

    def append(self, live: LiveClient, piece: Piece) -> int:
        """Add a piece of output; return how many bytes there are now, -1 for a run that is not this client's."""
        known = self.find(live, piece.token)
        if known is None:
            return -1
        place = Place(piece.pid, piece.shell, piece.folder, piece.remark)
        if place != NOWHERE:
            known.place = place
        head = partial(self._head, known, live.label)
        try:
            length = self._logs.append(known.job_id, known.run_id, piece.offset, piece.data, head)
        except (StoreFullError, StoreUnavailableError) as error:
            known.trouble = error.message
            raise
        known.trouble = ""
        if length >= piece.offset + len(piece.data):
            self.note_progress(live, piece.token, piece.progress)
        return length

    def note_ended(self, live: LiveClient, token: str) -> None:
        """Note that a run has ended: while its output cannot be taken, it waits for that without its CPUs."""
        known = live.runs.get(token)
        if known is None:
            return
        if not known.trouble:
            self._live_farm.withheld.pop(known.run_id, None)
        elif self._live_farm.withhold(known.run_id, known.trouble):
            log.error("%s Its command has ended and waits for that; its CPUs are free.", known.trouble)

    def accept(self, live: LiveClient, reports: Iterable[Report]) -> tuple[list[Report], list[Resend]]:
        """Return the reports whose output is complete and on disk, and what is missing of the others'."""
        accepted: list[Report] = []
        resend: list[Resend] = []
        for report in reports:
            known = self.find(live, report.token)
            if known is None:
                accepted.append(report)  # of no use to anybody: acknowledged and dropped
                continue
            try:
                length = self._finish(known, live.label, report)
                line = self._telling_line(known, report)
            except (StoreFullError, StoreUnavailableError) as error:
                known.trouble = error.message
                self.note_ended(live, report.token)
                continue  # it comes again, and holds up no other
            known.trouble = ""
            if length < report.output_bytes:
                resend.append(Resend(report.token, length))
            else:
                accepted.append(replace(report, line=line))
        return accepted, resend

    def _telling_line(self, known: LiveRun, report: Report) -> str:
        """Return the line of a run's output that says best how it went."""
        if not report.output_bytes:
            return ""
        whole = RunLog(known.run_id, "")
        return telling_line(self._logs.tail_chars(known.job_id, [whole], None, LOOKED_BACK_BYTES))

    def _finish(self, known: LiveRun, label: str, report: Report) -> int:
        """Put the last line under the output of a run, where all of it is there; return how many bytes there are."""
        wanted = report.output_bytes
        length = self._logs.length(known.job_id, known.run_id)
        if length < wanted:
            return length
        if wanted:
            self._logs.sync(known.job_id, known.run_id)
        head = partial(self._head, known, label)
        return self._logs.finish(known.job_id, known.run_id, head, end_line(report), least=wanted)

    def _head(self, known: LiveRun, label: str) -> str:
        what, known.assignment = known.assignment, None  # commands and environments are long, and written only once
        if what is None:
            with self._store.reading() as connection:
                what = clients.assignment(connection, known.run_id)
        if what is None:
            return f"job {known.job_id}, deleted\n"
        return run_head(what, known.place or NOWHERE, label)


_SECRET: Final = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|APIKEY|API_KEY|PRIVATE|(^|_)KEY$", re.IGNORECASE)


def run_head(what: Assignment, place: Place, client: str) -> str:
    """Return the head of a run's log; what looks like a secret in the environment is masked."""
    lines = [
        f"job {what.job_id}, {what.name}",
        f"{what.hook or f'attempt {what.attempt}'} on {client}" + (f", pid {place.pid}" if place.pid else ""),
    ]
    here = (f"shell {place.shell}" if place.shell else "", f"folder {place.folder}" if place.folder else "")
    lines += filter(None, (", ".join(filter(None, here)), place.remark))
    lines += [f"{name}={'***' if _SECRET.search(name) else value}" for name, value in sorted(what.environment.items())]
    lines.append(f"$ {what.command}")
    return "\n".join(lines) + "\n"


def end_line(report: Report) -> str:
    """Return the last line of a run's log: `exit 3 after 4m12s, peak 31.2 GB`, and what of its output is missing."""
    text = f"{describe(report)}{_explained(report)} after {duration(report.seconds)}"
    if report.peak_memory_kb:
        text += f", peak {size(report.peak_memory_kb)}"
    return f"{text}; output is missing: {report.lost_output}" if report.lost_output else text


def _explained(report: Report) -> str:
    """Say what a number means that people keep asking about."""
    if report.outcome not in {EXITED, KILLED}:
        return ""
    number = report.signal
    if number is None and report.exit_code is not None and 128 < report.exit_code < 193:
        number = report.exit_code - 128  # how a shell passes on that its last command died of a signal
    if number is None:
        return ""
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if report.outcome == EXITED and name == "SIGKILL":
        return f" ({name}: most often the machine ran out of memory)"
    return f" ({name})"


def duration(seconds: float) -> str:
    """Return a duration as people say it: `0.4s`, `4m12s`, `3h05m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(kilobytes: int) -> str:
    """Return an amount of memory as people say it: `31.2 GB`."""
    if kilobytes < 1024:
        return f"{kilobytes} KB"
    if kilobytes < 1024 * 1024:
        return f"{kilobytes / 1024:.1f} MB"
    return f"{kilobytes / 1024 / 1024:.1f} GB"
