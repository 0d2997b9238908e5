"""Runs as the lifecycle sees them: how they are read, what they are asked for, and how they are given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle import hooks
from hqueue.schema import job, run
from hqueue.states import Wish
from hqueue.store import DeleteLogs, Session, WakeClient, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Collection

    from hqueue.protocol import Asked


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as reports and heartbeats need it."""

    id: int
    token: str
    job_id: int
    client_id: int
    attempt: int
    fenced: bool
    wish: Asked
    wish_number: int
    wish_confirmed: int
    wish_reason: str
    assigned_at: int
    listed_at: int | None
    started_at: int | None
    closed_at: int | None
    abandoned_at: int | None
    hosts: int
    hook: str  # "": the job's command


RUN_COLUMNS: Final = tuple(run.c[name] for name in RunRow.__slots__)
_OF_CLIENT: Final = sa.select(*RUN_COLUMNS).where(run.c.client_id == sa.bindparam("client"), run.c.closed_at.is_(None))
_FENCED_OF_CLIENT: Final = sa.select(*RUN_COLUMNS).where(run.c.client_id == sa.bindparam("client"), run.c.fenced)
_THESE: Final = run.c.id.in_(listed("runs"))
_WISHES: Final = sa.select(
    run.c.id, run.c.wish, run.c.wish_reason, (run.c.wish_confirmed == run.c.wish_number).label("confirmed")
).where(_THESE)
_CLIENTS: Final = sa.select(run.c.client_id).where(_THESE).distinct()
_WISH: Final = (
    sa.update(run)
    .where(_THESE)
    .values(wish=sa.bindparam("new_wish"), wish_reason=sa.bindparam("reason"), wish_number=run.c.wish_number + 1)
)
_OPEN: Final = (
    sa.select(run.c.id, run.c.job_id, run.c.client_id, run.c.hosts, run.c.hook, job.c.id.label("known"))
    .outerjoin(job, job.c.id == run.c.job_id)
    .where(_THESE, run.c.closed_at.is_(None))
)
_FENCE: Final = (
    sa.update(run)
    .where(_THESE)
    .values(
        closed_at=sa.bindparam("now"),
        open_job_id=None,
        fenced=True,
        outcome="lost",
        wish="die",
        wish_reason="lost",
        wish_number=run.c.wish_number + 1,
        abandoned_at=None,
        message=sa.bindparam("text"),
    )
)
_ABANDON: Final = sa.update(run).where(_THESE).values(abandoned_at=sa.bindparam("since"))
_CURRENT: Final = sa.select(job.c.id, job.c.run_id).where(job.c.id.in_(listed("jobs")))


def open_runs(connection: sa.Connection, client_id: int) -> list[RunRow]:
    """Return a client's runs that are not closed, oldest first."""
    rows = connection.execute(_OF_CLIENT, {"client": client_id})
    return sorted((RunRow(*row) for row in rows), key=lambda row: row.id)


def fenced_runs(connection: sa.Connection, client_id: int) -> list[RunRow]:
    """Return the runs that were given up, but that the client has not proved dead."""
    return [RunRow(*row) for row in connection.execute(_FENCED_OF_CLIENT, {"client": client_id})]


def current(connection: sa.Connection, rows: Collection[RunRow]) -> list[RunRow]:
    """Return those of the runs that are their job's current one."""
    if not rows:
        return []
    known = {row.run_id for row in connection.execute(_CURRENT, {"jobs": [row.job_id for row in rows]})}
    return [row for row in rows if row.id in known]


def read_wishes(connection: sa.Connection, run_ids: Collection[int | None]) -> dict[int, Wish]:
    """Return what runs were asked last."""
    rows = connection.execute(_WISHES, {"runs": [key for key in run_ids if key is not None]})
    return {row.id: Wish(row.wish, row.wish_reason, bool(row.confirmed)) for row in rows}


def set_wish(session: Session, run_ids: Collection[int], wish: str, reason: str) -> None:
    """Ask runs for something, and wake their clients."""
    if not run_ids:
        return
    session.connection.execute(_WISH, {"runs": run_ids, "new_wish": wish, "reason": reason})
    for client_id in session.connection.execute(_CLIENTS, {"runs": run_ids}).scalars():
        session.after_commit(WakeClient(client_id))


def abandon(session: Session, run_ids: Collection[int]) -> None:
    """Note that runs have been without their client since now."""
    if run_ids:
        session.connection.execute(_ABANDON, {"runs": run_ids, "since": session.now_ms})


def fence(session: Session, run_ids: Collection[int], why: str = "") -> None:
    """Close those of the runs that are open as lost, without proof of death: their clients are to kill them.

    Writes: runs; the output of a deleted job goes.
    """
    rows = session.connection.execute(_OPEN, {"runs": run_ids}).all() if run_ids else ()
    if not rows:
        return
    session.connection.execute(_FENCE, {"runs": [row.id for row in rows], "now": session.now_ms, "text": why})
    hooks.close(session, {row.id: f"lost: {why}" for row in rows if row.hook})
    session.after_commit(WakeScheduler())
    for row in rows:
        session.after_commit(WakeClient(row.client_id))
        if row.known is None:
            session.after_commit(DeleteLogs(row.job_id))
