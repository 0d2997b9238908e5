"""What is assigned to clients, and what they report of it.

A run is the truth about a client's capacity, a job's status the truth for people: a cancelled job's run stays open
until its death is proved.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.lifecycle.status import MAX_RESCUES, Cause, apply, load
from hqueue.schema import client, job, run
from hqueue.states import JobEvent, JobStatus
from hqueue.store import DeleteLogs, PokeClient, Session, WakeScheduler, chunks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("hqueue.lifecycle")

EXITED, KILLED, REFUSED, LOST = "exited", "killed", "refused", "lost"
OUTCOMES: Final = (EXITED, KILLED, REFUSED, LOST)
# After a refusal a client gets nothing for a while, longer each time (SPEC 6.7).
_FIRST_REFUSAL_PAUSE_MS: Final = 10_000
_LONGEST_REFUSAL_PAUSE_MS: Final = 300_000


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended, as its client tells it."""

    token: str
    outcome: str  # one of OUTCOMES
    exit_code: int | None = None
    signal: int | None = None
    kill_reason: str = ""
    seconds: float = 0.0
    peak_memory_kb: int = 0
    output_bytes: int = 0
    message: str = ""
    progress: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as reports and heartbeats need it."""

    id: int
    token: str
    job_id: int
    client_id: int
    attempt: int
    fenced: bool
    wish: str
    wish_number: int
    wish_confirmed: int
    wish_reason: str
    assigned_at: int
    listed_at: int | None
    started_at: int | None
    closed_at: int | None
    abandoned_at: int | None


RUN_COLUMNS: Final = tuple(run.c[name] for name in RunRow.__slots__)
_OF_CLIENT: Final = sa.select(*RUN_COLUMNS).where(run.c.client_id == sa.bindparam("client"), run.c.closed_at.is_(None))
_FENCED_OF_CLIENT: Final = sa.select(*RUN_COLUMNS).where(run.c.client_id == sa.bindparam("client"), run.c.fenced)
_BY_TOKEN: Final = sa.select(*RUN_COLUMNS).where(run.c.token == sa.bindparam("wanted"))
_CLOSE: Final = (
    sa.update(run)
    .where(run.c.id == sa.bindparam("key_id"))
    .values(
        closed_at=sa.func.coalesce(run.c.closed_at, sa.bindparam("now")),
        open_job_id=None,
        fenced=False,
        abandoned_at=None,
        started_at=sa.func.coalesce(run.c.started_at, sa.bindparam("began")),
        **{
            name: sa.bindparam(f"new_{name}")
            for name in ("outcome", "exit_code", "signal", "message", "seconds", "peak_memory_kb", "output_bytes")
        },
    )
)
_STORE_PROGRESS: Final = (
    sa.update(job)
    .where(job.c.id == sa.bindparam("key_id"))
    .values(
        progress=sa.bindparam("fraction"),
        progress_numerator=sa.bindparam("numerator"),
        progress_denominator=sa.bindparam("denominator"),
    )
)


@dataclass(frozen=True, slots=True)
class Placement:
    """A job that is to run on a client."""

    job_id: int
    client_id: int
    requirement_id: int
    cpus: int


def assign(session: Session, placements: Sequence[Placement]) -> int:
    """Give jobs to clients, as far as they are still runnable and without an open run; return how many were given.

    Writes: runs, jobs (`running`), their log.
    """
    wanted = {placement.job_id: placement for placement in placements}
    attempts = _still_runnable(session, list(wanted))
    if not attempts:
        return 0
    first = session.allocate("run", len(attempts))
    by_client: dict[int, dict[int, int]] = {}
    rows = []
    for run_id, (job_id, attempt) in enumerate(attempts.items(), first):
        placement = wanted[job_id]
        by_client.setdefault(placement.client_id, {})[job_id] = run_id
        rows.append(
            {
                "id": run_id,
                "token": f"{run_id:x}-{secrets.token_hex(8)}",
                "job_id": job_id,
                "open_job_id": job_id,
                "client_id": placement.client_id,
                "requirement_id": placement.requirement_id,
                "attempt": attempt + 1,
                "cpus": placement.cpus,
                "fenced": False,
                "wish": "run",
                "wish_number": 0,
                "wish_confirmed": 0,
                "wish_reason": "",
                "assigned_at": session.now_ms,
                "outcome": "",
                "message": "",
            },
        )
    session.connection.execute(sa.insert(run), rows)
    labels = client_labels(session.connection, list(by_client))
    for client_id, run_ids in by_client.items():
        cause = Cause(message=f"client {labels[client_id]}", run_ids=run_ids)
        apply(session, JobEvent.ASSIGNED, list(run_ids), cause)
        session.after_commit(PokeClient(client_id))
    return len(rows)


def _still_runnable(session: Session, job_ids: Sequence[int]) -> dict[int, int]:
    """Return the attempts so far of those jobs that can be assigned at this moment, in the order given."""
    open_run = sa.select(run.c.id).where(run.c.open_job_id == job.c.id).exists()
    attempts: dict[int, int] = {}
    for part in chunks(job_ids):
        query = sa.select(job.c.id, job.c.attempts).where(
            job.c.id.in_(part),
            job.c.status == JobStatus.RUNNABLE,
            ~open_run,
        )
        attempts.update((row.id, row.attempts) for row in session.connection.execute(query))
    return {job_id: attempts[job_id] for job_id in job_ids if job_id in attempts}


def client_labels(connection: sa.Connection, client_ids: Sequence[int]) -> dict[int, str]:
    """Return what people call the clients: `hostname`, or `hostname:name`."""
    query = sa.select(client.c.id, client.c.hostname, client.c.name).where(client.c.id.in_(client_ids))
    return {row.id: f"{row.hostname}:{row.name}" if row.name else row.hostname for row in connection.execute(query)}


def open_runs(connection: sa.Connection, client_id: int) -> list[RunRow]:
    """Return a client's runs that are not closed, oldest first."""
    rows = connection.execute(_OF_CLIENT, {"client": client_id})
    return sorted((RunRow(*row) for row in rows), key=lambda row: row.id)


def fenced_runs(connection: sa.Connection, client_id: int) -> list[RunRow]:
    """Return the runs that were given up, but that the client has not proved dead."""
    return [RunRow(*row) for row in connection.execute(_FENCED_OF_CLIENT, {"client": client_id})]


def find_run(connection: sa.Connection, token: str) -> RunRow | None:
    """Return the run with this token."""
    row = connection.execute(_BY_TOKEN, {"wanted": token}).one_or_none()
    return RunRow(*row) if row is not None else None


def end_run(session: Session, row: RunRow, report: Report, *, label: str, max_rescues: int = MAX_RESCUES) -> None:
    """Take a run's end: close it, and tell its job if it is still the job's current run.

    A report that comes twice changes nothing the second time.
    Writes: the run, its job and its ancestors; a refusing client's pause.
    """
    if row.closed_at is not None and not row.fenced:
        return
    session.after_commit(WakeScheduler())
    if row.fenced:
        # It was given up before; what counts now is only that it is dead.
        session.connection.execute(sa.update(run).where(run.c.id == row.id).values(fenced=False))
        if not load(session.connection, [row.job_id]):
            session.after_commit(DeleteLogs(row.job_id))  # it may have written more since it was given up
        return
    _close(session, row, report)
    if report.outcome == REFUSED:
        _pause_client(session, row.client_id)
    jobs = load(session.connection, [row.job_id])
    if not jobs:
        session.after_commit(DeleteLogs(row.job_id))
        return
    if jobs[0].run_id != row.id:
        return
    if report.progress is not None:
        store_progress(session, {row.job_id: report.progress})
    cause = Cause(
        message=f"{describe(report)}, client {label}",
        kill_reason=report.kill_reason,
        exit_code=report.exit_code,
        max_rescues=max_rescues,
    )
    apply(session, _event(report), [row.job_id], cause)


def _event(report: Report) -> JobEvent:
    if report.outcome == EXITED:
        return JobEvent.EXITED_BADLY if report.exit_code or report.signal else JobEvent.EXITED_WELL
    if report.outcome == KILLED:
        return JobEvent.TIME_EXCEEDED if report.kill_reason == "time" else JobEvent.KILLED
    return JobEvent.REFUSED if report.outcome == REFUSED else JobEvent.RUN_LOST


def describe(report: Report) -> str:
    """Return in a few words how a run ended: `exit 3`, `signal 9`, `killed: cancelled`."""
    if report.outcome == EXITED:
        return f"signal {report.signal}" if report.signal else f"exit {report.exit_code or 0}"
    if report.outcome == KILLED:
        return "killed: took longer than maxTime" if report.kill_reason == "time" else f"killed: {report.kill_reason}"
    return f"{report.outcome}: {report.message}" if report.message else report.outcome


def _close(session: Session, row: RunRow, report: Report) -> None:
    session.connection.execute(
        _CLOSE,
        {
            "key_id": row.id,
            "now": session.now_ms,
            "began": max(row.assigned_at, session.now_ms - int(report.seconds * 1000)),
            "new_outcome": report.outcome,
            "new_exit_code": report.exit_code,
            "new_signal": report.signal,
            "new_message": report.message,
            "new_seconds": report.seconds,
            "new_peak_memory_kb": report.peak_memory_kb,
            "new_output_bytes": report.output_bytes,
        },
    )


def _pause_client(session: Session, client_id: int) -> None:
    query = sa.select(client.c.refusals, client.c.refused_until).where(client.c.id == client_id)
    refusals, until = session.connection.execute(query).one()
    # A client that has been well for longer than the longest pause starts from the beginning.
    refusals = 1 if session.now_ms > until + _LONGEST_REFUSAL_PAUSE_MS else refusals + 1
    pause = min(_FIRST_REFUSAL_PAUSE_MS * 2 ** min(refusals - 1, 10), _LONGEST_REFUSAL_PAUSE_MS)
    session.connection.execute(
        sa.update(client)
        .where(client.c.id == client_id)
        .values(refusals=refusals, refused_until=session.now_ms + pause),
    )


def store_progress(session: Session, progress: Mapping[int, tuple[float, float]]) -> None:
    """Store jobs' progress, given as numerator and denominator."""
    if progress:
        session.connection.execute(
            _STORE_PROGRESS,
            [
                {"key_id": job_id, "fraction": fraction(n, m), "numerator": n, "denominator": m}
                for job_id, (n, m) in progress.items()
            ],
        )


def fraction(numerator: float, denominator: float) -> float:
    """Return progress as a number from 0.0 to 1.0."""
    return min(1.0, max(0.0, numerator / denominator)) if denominator else 0.0


def lose_client(session: Session, client_id: int, label: str) -> int:
    """Abandon what runs on a client that stopped reporting; return how many runs it had.

    Writes: the client (`lost`), its runs and their jobs. A settled job's run is closed as lost, for nobody waits
    for it; every other stays open, for the client may come back with it.
    """
    session.connection.execute(sa.update(client).where(client.c.id == client_id).values(lost=True))
    runs = open_runs(session.connection, client_id)
    current = {row.run_id for row in load(session.connection, [row.job_id for row in runs])} if runs else set()
    kept = [row for row in runs if row.id in current]
    for row in runs:
        if row.id not in current:
            fence(session, row)
    for part in chunks([row.id for row in kept]):
        session.connection.execute(sa.update(run).where(run.c.id.in_(part)).values(abandoned_at=session.now_ms))
    apply(session, JobEvent.CLIENT_LOST, [row.job_id for row in kept], Cause(message=f"client {label} was lost"))
    log.warning("client %s was lost with %d runs", label, len(runs))
    return len(runs)


def fence(session: Session, row: RunRow) -> None:
    """Close a run as lost without proof of death."""
    session.connection.execute(
        sa.update(run)
        .where(run.c.id == row.id, run.c.closed_at.is_(None))
        .values(
            closed_at=session.now_ms,
            open_job_id=None,
            fenced=True,
            outcome=LOST,
            wish="die",
            wish_reason=LOST,
            wish_number=run.c.wish_number + 1,
            abandoned_at=None,
        ),
    )
    session.after_commit(WakeScheduler())
    if not load(session.connection, [row.job_id]):
        session.after_commit(DeleteLogs(row.job_id))
