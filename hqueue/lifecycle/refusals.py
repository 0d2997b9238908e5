"""Whose fault it is that a client cannot run what it is given, and what follows from that (SPEC 6.7).

The job's fault: that client is out for this job, and the next is tried. The machine's fault: that machine rests.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle import notes, troubles
from hqueue.lifecycle.requirements import able, give, read_requirement
from hqueue.protocol import EXITED
from hqueue.schema import client, job, job_spec, requirement, run, shell

if TYPE_CHECKING:
    from collections.abc import Collection

    from hqueue.lifecycle.runrows import RunRow
    from hqueue.protocol import Fault, Report
    from hqueue.store import Session

_FIRST_REST_MS: Final = 10_000
LONGEST_REST_MS: Final = 300_000
_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
_QUICK_S: Final = 1.0
_MOST_ROOTS: Final = 3  # whose runs fail at once, in a row: then the machine is at fault
_LOOKED_BACK: Final = 100

_JOB: Final = (
    sa.select(job_spec.c.shell, requirement.c.spec_json)
    .join(job, job.c.id == job_spec.c.job_id)
    .join(requirement, requirement.c.id == job.c.requirement_id)
    .where(job.c.id == sa.bindparam("wanted"))
)
_SHELLS: Final = sa.select(job_spec.c.shell).where(job_spec.c.job_id.in_(listed("jobs")), job_spec.c.shell != "")
_RUNS_WITH: Final = (
    sa.select(run.c.id)
    .join(job_spec, job_spec.c.job_id == run.c.open_job_id)
    .where(run.c.started_at.is_not(None), job_spec.c.shell == sa.bindparam("wanted"))
    .limit(1)
)
_LATEST_ENDS: Final = (
    sa.select(run.c.outcome, run.c.exit_code, run.c.signal, run.c.seconds, job.c.root_id)
    .join(job, job.c.id == run.c.job_id)
    .where(run.c.client_id == sa.bindparam("client"), run.c.closed_at.is_not(None), run.c.outcome == EXITED)
    .where(run.c.hook == "")
    .order_by(run.c.closed_at.desc(), run.c.id.desc())
    .limit(_LOOKED_BACK)
)


def fault_of(session: Session, job_id: int, report: Report) -> Fault:
    """Return whose fault a refusal is; a shell that clients have run in the last day is missing from a machine."""
    if report.fault != "shell":
        return report.fault
    name = session.connection.execute(_SHELLS, {"jobs": [job_id]}).scalar()
    return "machine" if name is not None and _is_run(session, name) else "shell"


def _is_run(session: Session, name: str) -> bool:
    ran_at = session.connection.execute(sa.select(shell.c.ran_at).where(shell.c.digest == _digest(name))).scalar()
    if ran_at is not None and ran_at > session.steady_ms - _DAY_MS:
        return True
    return session.connection.execute(_RUNS_WITH, {"wanted": name}).first() is not None


def note_shells(session: Session, job_ids: Collection[int]) -> None:
    """Note that clients have run these jobs' shells, as far as they were named; once an hour each.

    Writes: shell.
    """
    for name in set(session.connection.execute(_SHELLS, {"jobs": job_ids}).scalars()):
        digest = _digest(name)
        if session.steady_ms < (session.recall(session.shells, digest) or 0) + _HOUR_MS:
            continue
        values = {"ran_at": session.steady_ms}
        if not session.connection.execute(sa.update(shell).where(shell.c.digest == digest).values(values)).rowcount:
            session.connection.execute(sa.insert(shell).values(digest=digest, **values))
        session.remember(session.shells, digest, session.steady_ms)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def leave_out(session: Session, row: RunRow, report: Report) -> str:
    """Have a job tried on other clients than the one that refused it; return why none is left, else "".

    Writes: the job's requirement.
    """
    found = session.connection.execute(_JOB, {"wanted": row.job_id}).one()
    needs = read_requirement(found.spec_json)
    needs = replace(needs, refused=tuple(sorted({*needs.refused, row.client_id})))
    give(session, {row.job_id: needs})
    count = len(needs.refused)
    if count < session.policy.max_refusals and len(able(session.connection, needs)) >= needs.min_hosts:
        return ""
    lacks_shell = report.fault == "shell"
    why = f"no client has the shell {found.shell}" if lacks_shell else f"no client can run it: {report.message}"
    return f"{why} (asked {count} clients)" if count > 1 else why


def hold_against_machine(session: Session, row: RunRow, report: Report, label: str) -> None:
    """Let a machine rest that cannot run what it is given, and say so to people."""
    reason = f"it refused job {row.job_id}: {report.message}"
    if rest(session, row.client_id, reason) == 1:  # the first of a row: the others would say the same
        notes.add(session, f"{label} refused job {row.job_id}: {report.message}", client_id=row.client_id)
    troubles.count(session, f"refused a job: {report.message}", client_id=row.client_id)


def rest(session: Session, client_id: int, reason: str) -> int:
    """Give a client nothing for a while; return how many times in a row that makes, 0 where it rests already.

    What goes wrong while it rests was given to it before: jobs given together are refused together, and count once.
    Writes: the client.
    """
    query = sa.select(client.c.refusals, client.c.refused_until).where(client.c.id == client_id)
    times, until = session.connection.execute(query).one()
    if session.steady_ms < until:
        return 0
    # A client that has been well for longer than the longest pause starts from the beginning.
    times = 1 if session.steady_ms > until + LONGEST_REST_MS else times + 1
    pause = min(_FIRST_REST_MS * 2 ** min(times - 1, 10), LONGEST_REST_MS)
    values = {"refusals": times, "refused_until": session.steady_ms + pause, "rest_reason": reason}
    session.connection.execute(sa.update(client).where(client.c.id == client_id).values(values))
    return int(times)


def cap_rests(session: Session) -> None:
    """Let no client rest longer than from now on: the clock may have been wrong when the end was stored.

    Writes: clients.
    """
    longest = session.steady_ms + LONGEST_REST_MS
    too_long = sa.update(client).where(client.c.refused_until > longest)
    session.connection.execute(too_long.values(refused_until=longest))


def note_quick_failure(session: Session, row: RunRow, report: Report, label: str) -> None:
    """Let a machine rest on which commands of several roots failed at once, where another could do its work.

    Such a machine is idle again at once, and so would get job after job, and use up the tries of all.
    """
    if report.seconds >= _QUICK_S:
        return
    roots: set[int] = set()
    for each in session.connection.execute(_LATEST_ENDS, {"client": row.client_id}):
        if not (each.exit_code or each.signal) or each.seconds >= _QUICK_S:
            break
        roots.add(each.root_id)
    if len(roots) < _MOST_ROOTS:
        return
    needs = read_requirement(session.connection.execute(_JOB, {"wanted": row.job_id}).one().spec_json)
    if not able(session.connection, needs, at_work_ms=session.steady_ms) - {row.client_id}:
        return
    if rest(session, row.client_id, "it fails everything") == 1:
        text = f"{label} fails everything: commands of {len(roots)} roots in a row ended with an error within a second"
        notes.add(session, text, client_id=row.client_id)
    troubles.count(session, "fails everything", client_id=row.client_id)
