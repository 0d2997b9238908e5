"""The other clients of a run that has several: taken for as long as it is open, and kept among the job's clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import insert_rows, listed
from hqueue.schema import client, job, reservation, run
from hqueue.store import WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hqueue.store import Session

_OF_RUNS: Final = reservation.c.run_id.in_(listed("runs"))


def reserve(session: Session, others: Mapping[int, Sequence[int]]) -> None:
    """Take further clients for runs, given by the run's id."""
    rows = [{"run_id": key, "client_id": each} for key, client_ids in others.items() for each in client_ids]
    if rows:
        insert_rows(session.connection, reservation, rows)


def release_client(session: Session, client_id: int, why: str) -> None:
    """Take a client that is gone out of the runs that have reserved it; their jobs go on.

    Writes: reservations; a line in the log of each of those jobs.
    """
    query = (
        sa.select(reservation.c.run_id, job.c.id, job.c.status)
        .join(run, run.c.id == reservation.c.run_id)
        .outerjoin(job, job.c.run_id == run.c.id)
        .where(reservation.c.client_id == client_id, run.c.open_job_id > 0)
    )
    rows = session.connection.execute(query).all()
    if not rows:
        return
    gone = sa.delete(reservation).where(reservation.c.client_id == client_id, _OF_RUNS)
    session.connection.execute(gone, {"runs": [row.run_id for row in rows]})
    for row in rows:
        if row.id is not None:
            session.record(row.id, "note", row.status, f"{why}; the job goes on without it")
    session.after_commit(WakeScheduler())


def hostnames(connection: sa.Connection, run_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the hostnames of the other clients of runs that have any, by run."""
    found: dict[int, list[str]] = {}
    query = (
        sa.select(reservation.c.run_id, client.c.hostname)
        .join(client, client.c.id == reservation.c.client_id)
        .where(_OF_RUNS)
        .order_by(reservation.c.run_id, client.c.id)
    )
    for run_id, hostname in connection.execute(query, {"runs": run_ids}) if run_ids else ():
        found.setdefault(run_id, []).append(hostname)
    return found
