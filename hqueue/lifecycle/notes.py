"""Notes: what people write to the thread of a job or a client, or to a free one, and what the server adds by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from hqueue.database import insert_row, insert_rows, listed
from hqueue.schema import client, job, note, note_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hqueue.store import Session


def add(
    session: Session,
    text: str,
    *,
    client_id: int | None = None,
    job_id: int | None = None,
    thread_id: int | None = None,
    once: bool = False,
) -> None:
    """Add a note to the thread of a client, else of a job, else to a thread, as far as there is such a one.

    A job or a client without a thread gets one; otherwise the note begins a free one.
    once: do nothing where the newest note of the thread says the same.
    Writes: note, note_thread.
    """
    connection = session.connection
    key: int | None = None
    known_client = sa.select(client.c.id).where(client.c.id == client_id, ~client.c.forgotten)
    if client_id is not None and _exists(connection, known_client):
        key = _thread_of(connection, note_thread.c.client_id, client_id)
    elif job_id is not None and _exists(connection, sa.select(job.c.id).where(job.c.id == job_id)):
        key = _thread_of(connection, note_thread.c.job_id, job_id)
    elif thread_id is not None and _exists(
        connection, sa.select(note_thread.c.id).where(note_thread.c.id == thread_id)
    ):
        key = thread_id
    if key is None:
        key = _new_thread(connection, {})
    elif once:
        newest = sa.select(note.c.text).where(note.c.thread_id == key).order_by(note.c.id.desc()).limit(1)
        if connection.execute(newest).scalar() == text:
            return
    connection.execute(sa.insert(note).values(thread_id=key, at=session.now_ms, text=text))


def add_to_jobs(session: Session, texts: Mapping[int, str]) -> None:
    """Add a note to the thread of each of many jobs, given by id; a job without a thread gets one.

    Writes: note, note_thread.
    """
    if not texts:
        return
    threads = _threads_of_jobs(session.connection, texts)
    fresh = [{"job_id": job_id, "client_id": None} for job_id in texts if job_id not in threads]
    if fresh:
        insert_rows(session.connection, note_thread, fresh)
        threads = _threads_of_jobs(session.connection, texts)
    rows = [{"thread_id": threads[job_id], "at": session.now_ms, "text": text} for job_id, text in texts.items()]
    insert_rows(session.connection, note, rows)


def _threads_of_jobs(connection: sa.Connection, job_ids: Iterable[int]) -> dict[int, int]:
    query = sa.select(note_thread.c.job_id, note_thread.c.id).where(note_thread.c.job_id.in_(listed("jobs")))
    return dict(connection.execute(query, {"jobs": list(job_ids)}).all())


def _exists(connection: sa.Connection, query: sa.Select[Any]) -> bool:
    return connection.execute(query).first() is not None


def _thread_of(connection: sa.Connection, owner: sa.Column[Any], owner_id: int) -> int:
    key = connection.execute(sa.select(note_thread.c.id).where(owner == owner_id)).scalar()
    return _new_thread(connection, {owner.name: owner_id}) if key is None else int(key)


def _new_thread(connection: sa.Connection, values: dict[str, int]) -> int:
    return insert_row(connection, note_thread, {"job_id": None, "client_id": None} | values)


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
