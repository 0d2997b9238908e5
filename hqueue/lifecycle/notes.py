"""Notes: what people write to the thread of a job or a client, or to a free one, and what the server adds by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue.schema import client, job, note, note_thread

if TYPE_CHECKING:
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


def _exists(connection: sa.Connection, query: sa.Select[Any]) -> bool:
    return connection.execute(query).first() is not None


def _thread_of(connection: sa.Connection, owner: sa.Column[Any], owner_id: int) -> int:
    key = connection.execute(sa.select(note_thread.c.id).where(owner == owner_id)).scalar()
    return _new_thread(connection, {owner.name: owner_id}) if key is None else int(key)


def _new_thread(connection: sa.Connection, values: dict[str, int]) -> int:
    owner = {"job_id": None, "client_id": None} | values
    key = connection.execute(sa.insert(note_thread).values(owner)).inserted_primary_key
    assert key is not None  # noqa: S101 - every database gives the id of the row it has just stored
    return int(key[0])
