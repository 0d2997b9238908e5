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

from hqueue.config import client_label
from hqueue.database import insert_rows, listed
from hqueue.lifecycle import blocklist, hooks, notes, refusals, reservations, troubles
from hqueue.lifecycle.rows import load, statuses
from hqueue.lifecycle.runrows import RunRow, abandon, current, fence, open_runs
from hqueue.lifecycle.status import apply
from hqueue.outbox.news import tell_of_trouble
from hqueue.protocol import EXITED, KILLED, LOST, REFUSED, Report
from hqueue.schema import client, job, job_row, run
from hqueue.states import Cause, JobEvent, JobStatus
from hqueue.store import DeleteLogs, Session, WakeClient, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hqueue.protocol import Fault

log = logging.getLogger("hqueue.lifecycle")

_MOST_NAMED: Final = 20  # jobs, in a note about a client that was lost with thousands


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
            for name in (
                "outcome",
                "exit_code",
                "signal",
                "message",
                "seconds",
                "peak_memory_kb",
                "output_bytes",
                "line",
            )
        },
    )
)
_LABELS: Final = sa.select(client.c.id, client.c.hostname, client.c.name).where(
    client.c.id.in_(listed("clients")),
)
# Without the status among the conditions: SQLite would rather walk along all runnable jobs than look up a few by id.
_RUNNABLE: Final = (
    sa.select(job.c.id, job.c.attempts, job.c.requirement_id, job.c.status, run.c.id.label("open_run"))
    .outerjoin(run, run.c.open_job_id == job.c.id)
    .where(job.c.id.in_(listed("jobs")))
)
_STORE_PROGRESS: Final = (
    sa.update(job_row)
    # One whose run has ended meanwhile has its last word already.
    .where(job_row.c.id == sa.bindparam("key_id"), job_row.c.run_id.is_not(None))
    .values(
        progress=sa.bindparam("fraction"),
        progress_numerator=sa.bindparam("numerator"),
        progress_denominator=sa.bindparam("denominator"),
    )
)


@dataclass(frozen=True, slots=True)
class Placement:
    """A job that is to run on a client, with others reserved where it takes several."""

    job_id: int
    client_id: int
    requirement_id: int
    cpus: int
    others: tuple[int, ...] = ()


def assign(session: Session, placements: Sequence[Placement]) -> int:
    """Give jobs to clients, as far as they are still what they were taken for; return how many were given.

    A job that is no longer runnable, has an open run or needs something else by now is left alone.
    Writes: runs, reservations, jobs (`running`), their log.
    """
    wanted = {placement.job_id: placement for placement in placements}
    attempts = _still_runnable(session, wanted)
    if not attempts:
        return 0
    first = session.allocate("run", len(attempts))
    given = [wanted[job_id] for job_id in attempts]
    labels = client_labels(
        session.connection, sorted({key for each in given for key in (each.client_id, *each.others)})
    )
    run_ids: dict[int, int] = {}
    messages: dict[int, str] = {}
    rows = []
    for run_id, placement in enumerate(given, first):
        job_id = placement.job_id
        run_ids[job_id] = run_id
        messages[job_id] = f"client {labels[placement.client_id]}"
        if placement.others:
            messages[job_id] += f", with {', '.join(labels[each] for each in placement.others)}"
        rows.append(
            {
                "id": run_id,
                "token": f"{run_id:x}-{secrets.token_hex(8)}",
                "job_id": job_id,
                "open_job_id": job_id,
                "client_id": placement.client_id,
                "requirement_id": placement.requirement_id,
                "attempt": attempts[job_id] + 1,
                "cpus": placement.cpus,
                "hosts": 1 + len(placement.others),
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
    insert_rows(session.connection, run, rows)
    reservations.reserve(session, {run_ids[each.job_id]: each.others for each in given if each.others})
    apply(session, JobEvent.ASSIGNED, list(run_ids), Cause(run_ids=run_ids, messages=messages))
    for client_id in dict.fromkeys(each.client_id for each in given):
        session.after_commit(WakeClient(client_id))
    return len(rows)


def _still_runnable(session: Session, wanted: Mapping[int, Placement]) -> dict[int, int]:
    """Return the attempts so far of those jobs that can be assigned at this moment, in the order given."""
    attempts: dict[int, int] = {}
    for row in session.connection.execute(_RUNNABLE, {"jobs": list(wanted)}):
        ready = row.status == JobStatus.RUNNABLE and row.open_run is None
        if ready and row.requirement_id == wanted[row.id].requirement_id:
            attempts[row.id] = row.attempts
    return {job_id: attempts[job_id] for job_id in wanted if job_id in attempts}


def client_labels(connection: sa.Connection, client_ids: Sequence[int]) -> dict[int, str]:
    """Return what people call the clients."""
    rows = connection.execute(_LABELS, {"clients": client_ids})
    return {row.id: client_label(row.hostname, row.name) for row in rows}


def end_run(session: Session, row: RunRow, report: Report, *, label: str) -> None:
    """Take a run's end: close it, and tell its job if it is still the job's current run.

    A report that comes twice changes nothing the second time.
    Writes: the run, its job and its ancestors; the rest of a client that is at fault.
    """
    if row.closed_at is not None and not row.fenced:
        return
    session.after_commit(WakeScheduler())
    if row.fenced:
        if report.outcome == REFUSED and report.fault == "machine":
            refusals.rest(session, row.client_id, f"it refused job {row.job_id}: {report.message}")
        # It was given up before; what counts now is only that it is dead.
        session.connection.execute(sa.update(run).where(run.c.id == row.id).values(fenced=False))
        if not load(session.connection, [row.job_id]):
            session.after_commit(DeleteLogs(row.job_id))  # it may have written more since it was given up
        return
    _close(session, (row, report))
    fault = _fault(session, row, report, label)
    if row.hook:
        _tell_hooks(session, label, (row, report))
        return
    jobs = load(session.connection, [row.job_id])
    if not jobs:
        session.after_commit(DeleteLogs(row.job_id))
    elif jobs[0].run_id == row.id:
        _tell_job(session, row, report, fault, label)


def _fault(session: Session, row: RunRow, report: Report, label: str) -> Fault | None:
    """Hold an end against the client that is at fault; return whose fault a refusal is, else None."""
    if report.outcome == LOST:
        troubles.count(session, f"lost a run: {report.message}", client_id=row.client_id)
    if report.outcome != REFUSED:
        return None
    fault = refusals.fault_of(session, row.job_id, report)
    if fault == "machine":
        refusals.hold_against_machine(session, row, report, label)
    return fault


def _tell_job(session: Session, row: RunRow, report: Report, fault: Fault | None, label: str) -> None:
    """Tell a job how its current run ended, and remember where it went wrong."""
    if report.progress is not None:
        store_progress(session, {row.job_id: report.progress})
    its_own = fault is not None and fault != "machine"
    why = refusals.leave_out(session, row, report) if its_own else ""
    cause = Cause(
        message=why or f"{describe(report)}, client {label}",
        kill_reason=report.kill_reason,
        exit_code=report.exit_code,
        hopeless=bool(why),
    )
    event = _event(report)
    apply(session, event, [row.job_id], cause)
    # One that was killed before its command began says nothing of the shell.
    if report.outcome == EXITED or (report.outcome == KILLED and (row.started_at or report.seconds)):
        refusals.note_shells(session, [row.job_id])
    if event is JobEvent.EXITED_BADLY:
        blocklist.count_failure(session, row.job_id, row.client_id)
        refusals.note_quick_failure(session, row, report, label)
    if event in _HARM and not its_own:
        blocklist.try_last(session, {row.job_id: row.client_id})


def is_usual_end(row: RunRow, report: Report) -> bool:
    """Tell whether a run ended as most do: by itself, with status 0, while it was open."""
    well = report.outcome == EXITED and not report.exit_code and not report.signal
    return well and row.closed_at is None


def end_runs_well(session: Session, ended: Sequence[tuple[RunRow, Report]], *, label: str) -> None:
    """Take the usual end of many runs of a client at once: what `end_run` does for each, with one statement for all.

    Writes: the runs, their jobs and the jobs' ancestors.
    """
    if not ended:
        return
    session.after_commit(WakeScheduler())
    _close(session, *ended)
    _tell_hooks(session, label, *(each for each in ended if each[0].hook))
    ended = [each for each in ended if not each[0].hook]
    jobs = {row.id: row for row in load(session.connection, [row.job_id for row, _ in ended])}
    told: list[int] = []
    progress: dict[int, tuple[float, float]] = {}
    for row, report in ended:
        if row.job_id not in jobs:
            session.after_commit(DeleteLogs(row.job_id))
        elif jobs[row.job_id].run_id == row.id:
            told.append(row.job_id)
            if report.progress is not None:
                progress[row.job_id] = report.progress
    store_progress(session, progress)
    if told:
        refusals.note_shells(session, told)
        apply(session, JobEvent.EXITED_WELL, told, Cause(message=f"exit 0, client {label}", exit_code=0))


def _tell_hooks(session: Session, label: str, *ended: tuple[RunRow, Report]) -> None:
    """Note how hooks ended; one that was refused was never started, and goes to another client."""
    refused = {row.id: row.client_id for row, report in ended if report.outcome == REFUSED}
    hooks.refuse(session, refused, label)
    hooks.close(session, {row.id: _hook_end(report, label) for row, report in ended if row.id not in refused})
    known = statuses(session.connection, [row.job_id for row, _ in ended])
    for row, _ in ended:
        if row.job_id not in known:
            session.after_commit(DeleteLogs(row.job_id))


def _hook_end(report: Report, label: str) -> str:
    too_long = report.outcome == KILLED and report.kill_reason == "time"
    return f"{'killed: took longer than hook_max_minutes' if too_long else describe(report)}, client {label}"


# After these a job is tried on another client first, if there is one.
_HARM: Final = frozenset({JobEvent.EXITED_BADLY, JobEvent.REFUSED, JobEvent.RUN_LOST})


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


def _close(session: Session, *ended: tuple[RunRow, Report]) -> None:
    session.connection.execute(
        _CLOSE,
        [
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
                "new_line": report.line,
            }
            for row, report in ended
        ],
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
    why = f"client {label} was lost"
    kept = current(session.connection, runs)
    fence(session, {row.id for row in runs}.difference(row.id for row in kept), why)
    abandon(session, [row.id for row in kept])
    apply(session, JobEvent.CLIENT_LOST, [row.job_id for row in kept], Cause(message=why))
    reservations.release_client(session, client_id, why)
    if runs:
        held = ", ".join(str(row.job_id) for row in runs[:_MOST_NAMED]) + (", …" if len(runs) > _MOST_NAMED else "")
        text = f"{label} stopped reporting with {len(runs)} run{'' if len(runs) == 1 else 's'} (jobs {held})"
        notes.add(session, text, client_id=client_id)
        troubles.count(session, "stopped reporting while it ran jobs", client_id=client_id)
    else:
        tell_of_trouble(session, f"{label}: stopped reporting")
    log.warning("client %s was lost with %d runs", label, len(runs))
    return len(runs)
