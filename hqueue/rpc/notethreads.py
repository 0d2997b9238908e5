"""The threads of jobs and clients, as their attributes `threadId` and `latestNote` show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.schema import note, note_thread

if TYPE_CHECKING:
    from collections.abc import Sequence


class LatestNote(NamedTuple):
    """A job's or a client's thread and the text of its newest note."""

    thread_id: int | None
    text: str


NO_THREAD: Final = LatestNote(None, "")


def latest_notes_of_jobs(connection: sa.Connection, job_ids: Sequence[int]) -> dict[int, LatestNote]:
    """Return the threads of those of the jobs that have one, by job."""
    return _latest(connection, _OF_JOBS, job_ids)


def latest_notes_of_clients(connection: sa.Connection, client_ids: Sequence[int]) -> dict[int, LatestNote]:
    """Return the threads of those of the clients that have one, by client."""
    return _latest(connection, _OF_CLIENTS, client_ids)


def _latest(connection: sa.Connection, statement: sa.Select[Any], ids: Sequence[int]) -> dict[int, LatestNote]:
    return {
        owner_id: LatestNote(thread_id, text or "")
        for owner_id, thread_id, text in connection.execute(statement, {"owners": ids}).all()
    }


def _statement(owner: sa.Column[Any]) -> sa.Select[Any]:
    newest = sa.select(sa.func.max(note.c.id)).where(note.c.thread_id == note_thread.c.id).scalar_subquery()
    return (
        sa.select(owner, note_thread.c.id, note.c.text)
        .select_from(note_thread)
        .outerjoin(note, note.c.id == newest.correlate(note_thread))
        .where(owner.in_(listed("owners")))
    )


_OF_JOBS: Final = _statement(note_thread.c.job_id)
_OF_CLIENTS: Final = _statement(note_thread.c.client_id)
