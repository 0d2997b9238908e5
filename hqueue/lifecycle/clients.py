"""What a client says, carried into runs and jobs; and what there is to tell it."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import insert_row, listed
from hqueue.errors import ClientRefusedError
from hqueue.lifecycle import notes, reservations, troubles
from hqueue.lifecycle.runrows import RunRow, current, fence, fenced_runs, open_runs, set_wish
from hqueue.lifecycle.runs import (
    end_run,
    end_runs_well,
    is_usual_end,
)
from hqueue.lifecycle.status import apply
from hqueue.matching import os_of
from hqueue.protocol import KILLED, LOST, Assignment, Orders, Report, Wish
from hqueue.schema import client, hook, job, job_spec, run
from hqueue.states import Cause, JobEvent
from hqueue.store import Session, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hqueue.protocol import Identity, Listed


log = logging.getLogger("hqueue.lifecycle")

_LONGEST_REASON: Final = 500


def register(session: Session, identity: Identity, ip: str) -> int:
    """Store a client that reports for the first time, or again, and return its id.

    Same label and key: the newer incarnation wins. Same label and another key: refused while the known one is not
    lost; otherwise the newcomer takes the row over, and what the old one held is lost.
    Writes: the client; runs and jobs of one that is replaced.
    Errors: ClientRefusedError.
    """
    connection = session.connection
    query = sa.select(client.c.id, client.c.key, client.c.incarnation, client.c.lost, client.c.forgotten)
    known = connection.execute(query.where(client.c.label_key == identity.label_key)).one_or_none()
    values = _row(identity, ip, session.now_ms)
    session.after_commit(WakeScheduler())
    if known is None:
        values |= {"description": "", "rules_json": "[]", "disabled": False, "refusals": 0, "refused_until": 0}
        return insert_row(connection, client, values | {"label_key": identity.label_key})
    if known.key == identity.key and identity.incarnation < known.incarnation and not known.forgotten:
        raise ClientRefusedError(f"a newer daemon of {identity.label} has registered; this one is to stop")
    if known.key != identity.key:
        if not known.lost and not known.forgotten:
            raise ClientRefusedError(
                f"another machine is registered as {identity.label}; give this one a name (hqclient --name NAME)",
            )
        give_up_runs(session, known.id, f"another machine took over {identity.label}")
    connection.execute(sa.update(client).where(client.c.id == known.id).values(**values))
    return int(known.id)


def _row(identity: Identity, ip: str, now_ms: int) -> dict[str, Any]:
    return {
        "hostname": identity.hostname,
        "name": identity.name,
        "key": identity.key,
        "incarnation": identity.incarnation,
        "ip": ip,
        "port": identity.port,
        "cpus": identity.cpus,
        "cpu_speed": identity.cpu_speed_mhz,
        "platform": identity.platform,
        "version": identity.version,
        "machine_json": identity.machine_json,
        "condemned": "",
        "lost": False,
        "terminating": False,
        "forgotten": False,
        "last_heartbeat_at": now_ms,
        "load": 0.0,
    }


def give_up_runs(session: Session, client_id: int, why: str) -> None:
    """Let the jobs of a client that will not come back with them go on without it.

    Writes: runs, reservations, jobs.
    """
    rows = open_runs(session.connection, client_id)
    fence(session, [row.id for row in rows], why)
    apply_to_current(session, rows, JobEvent.RUN_LOST, Cause(why))
    reservations.release_client(session, client_id, why)


def apply_to_current(session: Session, rows: Sequence[RunRow], event: JobEvent, cause: Cause) -> None:
    """Tell jobs of something that happened to runs, as far as these are the jobs' current ones."""
    told = [row.job_id for row in current(session.connection, rows)]
    if told:
        apply(session, event, told, cause)


def take_reports(
    session: Session,
    client_id: int,
    label: str,
    reports: Sequence[Report],
) -> bool:
    """Take how runs ended; tell whether any had not been known to have ended.

    A token that is not this client's, or that nobody knows, changes nothing: the report is of no use to anybody. One
    report that cannot be stored holds up no other: its run counts as lost, or it would come again for ever.
    """
    if not reports:
        return False
    known = {row.token: row for row in _held(session.connection, client_id)}
    ended = [(row, report) for report in reports if (row := known.pop(report.token, None)) is not None]
    take = partial(_end_runs, session, label)
    if ended and session.attempt(partial(take, ended)) is not None:
        for row, report in ended:
            error = session.attempt(partial(take, [(row, report)]))
            if error is not None:
                log.error(
                    "client %s, job %d: the end of run %s cannot be stored",
                    label,
                    row.job_id,
                    row.token,
                    exc_info=error,
                )
                told = f"its client reported its end ({report.outcome}), which the server could not store"
                take([(row, Report(row.token, LOST, message=told))])
    return bool(ended)


def _end_runs(session: Session, label: str, ended: Sequence[tuple[RunRow, Report]]) -> None:
    end_runs_well(session, [each for each in ended if is_usual_end(*each)], label=label)
    for row, report in ended:
        if not is_usual_end(row, report):
            end_run(session, row, report, label=label)
        if report.lost_output:
            why = report.lost_output[:_LONGEST_REASON]
            notes.add(session, f"output of job {row.job_id} is missing, from {label}: {why}", job_id=row.job_id)
            troubles.count(session, f"lost output of a job: {why}", client_id=row.client_id)


def take_listing(session: Session, client_id: int, label: str, listing: Collection[Listed]) -> bool:
    """Compare the runs a client holds with those it should hold; False for a client that is to register first.

    A run that was listed once and is missing now is lost; one that was never listed, and is to die, never started;
    a given-up one that is missing is dead. A client that was lost while what it says waited is watched by nobody.
    """
    if session.connection.execute(_GONE, {"client": client_id}).first() is not None:
        return False
    said = {each.token: each for each in listing}
    held = _held(session.connection, client_id)
    _take_listed(session, label, [(row, said[row.token]) for row in held if not row.fenced and row.token in said])
    for row in held:
        if row.token in said:
            continue
        if row.fenced:
            end_run(session, row, Report(row.token, LOST), label=label)
        elif row.listed_at is not None:
            gone = Report(row.token, LOST, message="the client does not have it any more")
            end_run(session, row, gone, label=label)
        elif row.wish == "die":
            end_run(session, row, Report(row.token, KILLED, kill_reason=row.wish_reason), label=label)
    fresh = [row for row in held if row.token not in said and row.listed_at is None and row.wish != "die"]
    _come_back(session, label, [row for row in fresh if row.abandoned_at is not None])
    return True


_GONE: Final = sa.select(client.c.id).where(
    client.c.id == sa.bindparam("client"), sa.or_(client.c.lost, client.c.forgotten)
)


def _take_listed(session: Session, label: str, both: Sequence[tuple[RunRow, Listed]]) -> None:
    news: list[dict[str, Any]] = []
    halted: list[RunRow] = []
    continued: list[RunRow] = []
    for row, said in both:
        confirmed = said.wish == row.wish_number > row.wish_confirmed
        started = said.pid is not None and row.started_at is None
        if confirmed or started or row.listed_at is None:
            began = max(row.assigned_at, session.now_ms - int(said.seconds * 1000)) if started else row.started_at
            values = {"key_id": row.id, "now": session.now_ms, "number": said.wish if confirmed else row.wish_confirmed}
            news.append({**values, "new_pid": said.pid, "began": began})
        if confirmed and row.wish != "die":
            (halted if row.wish == "halt" else continued).append(row)
    if news:
        session.connection.execute(_LISTED, news)
    back = [row for row, _ in both if row.abandoned_at is not None]
    _come_back(session, label, back, frozenset(row.job_id for row, said in both if said.state == "halted"))
    for event, rows in ((JobEvent.HALTED, halted), (JobEvent.CONTINUED, continued)):
        apply_to_current(session, rows, event, Cause(f"client {label}"))


def _come_back(session: Session, label: str, rows: Sequence[RunRow], halted: frozenset[int] = frozenset()) -> None:
    if rows:
        session.connection.execute(_BACK, {"runs": [row.id for row in rows]})
        apply_to_current(session, rows, JobEvent.CLIENT_BACK, Cause(f"client {label} is back", halted=halted))


def end_overtime(session: Session, tokens: Collection[str]) -> None:
    """Wish runs dead whose client should have ended them for their time long ago."""
    query = sa.select(run.c.id).where(run.c.closed_at.is_(None), run.c.wish != "die")
    query = query.where(run.c.token.in_(listed("tokens", texts=True)))
    set_wish(session, session.connection.execute(query, {"tokens": tokens}).scalars().all(), "die", "time")


_LISTED: Final = (
    sa.update(run)
    .where(run.c.id == sa.bindparam("key_id"))
    .values(
        listed_at=sa.func.coalesce(run.c.listed_at, sa.bindparam("now")),
        pid=sa.func.coalesce(run.c.pid, sa.bindparam("new_pid")),
        started_at=sa.bindparam("began"),
        wish_confirmed=sa.bindparam("number"),
    )
)
_BACK: Final = sa.update(run).where(run.c.id.in_(listed("runs"))).values(abandoned_at=None)


def orders(connection: sa.Connection, client_id: int, listing: Collection[Listed]) -> Orders:
    """Return what there is to tell a client that holds these runs: new ones, and wishes that it has not confirmed."""
    tokens = {each.token: each for each in listing}
    held = {row.token: row for row in open_runs(connection, client_id)}
    # A run that is to die before its client has it is not handed out: the next heartbeat without it closes it.
    fresh = [row for row in held.values() if row.listed_at is None and row.token not in tokens and row.wish != "die"]
    wishes = [
        Wish(row.token, row.wish, row.wish_number, row.wish_reason)
        for row in held.values()
        if row.wish_number > row.wish_confirmed and (row.token in tokens or row.wish != "die")
    ]
    if len(held.keys() & tokens.keys()) < len(tokens):
        fenced = {row.token: row for row in fenced_runs(connection, client_id)}
        for token in sorted(tokens.keys() - held.keys()):
            row = fenced.get(token)
            # Newer than what the client has carried out, or it would take it for an old one.
            number = max(tokens[token].wish + 1, row.wish_number if row else 1)
            wishes.append(Wish(token, "die", number, "unknown"))
    return Orders(_assignments(connection, [row.id for row in fresh]), wishes)


_ASSIGNED: Final = (
    sa.select(
        run.c.id.label("run_id"),
        run.c.token,
        run.c.job_id,
        run.c.attempt,
        run.c.cpus,
        job.c.name,
        job.c.root_id,
        job_spec.c.command_json,
        job_spec.c.shell,
        job_spec.c.environment_json,
        job_spec.c.tags_json,
        job_spec.c.max_time_s,
        run.c.hosts,
        client.c.hostname,
        client.c.platform,
        run.c.hook,
        hook.c.command_json.label("hook_json"),
        hook.c.max_time_s.label("hook_s"),
    )
    .join(job, job.c.id == run.c.job_id)
    .join(job_spec, job_spec.c.job_id == run.c.job_id)
    .join(client, client.c.id == run.c.client_id)
    .outerjoin(hook, hook.c.run_id == run.c.id)
    .where(run.c.id.in_(listed("runs")))
    .order_by(run.c.id)
)


def _assignments(connection: sa.Connection, runs: Sequence[int]) -> list[Assignment]:
    """Return runs as their client is told of them; those of deleted jobs are left out, for they are to die."""
    if not runs:
        return []
    rows = connection.execute(_ASSIGNED, {"runs": runs}).all()
    others = reservations.hostnames(connection, [row.run_id for row in rows if row.hosts > 1])
    return [_as_assignment(row, others.get(row.run_id, ())) for row in rows]


def assignment(connection: sa.Connection, run_id: int) -> Assignment | None:
    """Return a run as its client was told of it, None when its job is deleted."""
    return next(iter(_assignments(connection, [run_id])), None)


def _as_assignment(row: Any, others: Sequence[str]) -> Assignment:
    text = row.hook_json if row.hook else row.command_json
    command = json.loads(text) if text else ""
    return Assignment(
        token=row.token,
        run_id=row.run_id,
        job_id=row.job_id,
        attempt=row.attempt,
        name=row.name,
        command=command.get(os_of(row.platform), "") if isinstance(command, dict) else command,
        shell=row.shell,
        environment=json.loads(row.environment_json),
        max_time_s=(row.hook_s if row.hook else row.max_time_s) or 0,
        hosts=[row.hostname, *others],
        tags=[] if row.hook else json.loads(row.tags_json),
        cpus=row.cpus,
        root_id=row.root_id,
        hook=row.hook,
    )


def time_limits(connection: sa.Connection, client_id: int) -> dict[str, float]:
    """Return, by token, the maxTime of the open runs of a client that have one."""
    query = (
        sa.select(run.c.token, job_spec.c.max_time_s)
        .join(job_spec, job_spec.c.job_id == run.c.open_job_id)
        .where(run.c.client_id == client_id, run.c.closed_at.is_(None), job_spec.c.max_time_s.is_not(None))
    )
    hooks = sa.select(run.c.token, hook.c.max_time_s).join(hook, hook.c.run_id == run.c.id)
    rows = connection.execute(sa.union_all(query, hooks.where(run.c.client_id == client_id, run.c.closed_at.is_(None))))
    return {row.token: row.max_time_s for row in rows}


def condemn(session: Session, client_id: int, label: str, why: str) -> None:
    """Store why a client takes no more work, "" when it does again."""
    session.connection.execute(sa.update(client).where(client.c.id == client_id).values(condemned=why))
    if why:
        notes.add(session, f"{label} takes no more work: {why}", client_id=client_id, once=True)
        troubles.count(session, f"takes no more work: {why}", client_id=client_id)


def forget(session: Session, client_id: int) -> None:
    """Hide a client that terminates and holds nothing; it returns with its id, groups and rules if it registers again.

    What it was given while it said so goes back to the queue.
    """
    rows = open_runs(session.connection, client_id)
    why = "its client has ended"
    fence(session, [row.id for row in rows], why)
    apply_to_current(session, rows, JobEvent.KILLED, Cause(why, kill_reason="ejected"))
    session.connection.execute(sa.update(client).where(client.c.id == client_id).values(forgotten=True))
    reservations.release_client(session, client_id, "one of its clients is gone")


def _held(connection: sa.Connection, client_id: int) -> list[RunRow]:
    return [*open_runs(connection, client_id), *fenced_runs(connection, client_id)]
