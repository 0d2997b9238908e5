"""Notes, and the threads they belong to: of a job, of a client, or free."""
# ruff: noqa: N802 - methods have the names that they have on the wire

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import wire
from hqueue.clock import from_ms
from hqueue.config import client_label
from hqueue.context import Chapter
from hqueue.database import listed
from hqueue.errors import HQueueError
from hqueue.lifecycle import notes
from hqueue.rpc import arguments
from hqueue.rpc.method import asks_for_many, exposed
from hqueue.schema import client, note, note_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from hqueue.store import Session

log = logging.getLogger(__name__)

THREAD_ATTRIBUTES: Final = ("clientHostname", "clientId", "clientLabel", "id", "jobId", "notes")
NOTE_ATTRIBUTES: Final = ("clientHostname", "clientId", "clientLabel", "date", "id", "jobId", "text", "threadId")


def _are_few(params: list[Any]) -> bool:
    """Tell whether a call asks for a few threads, not for all."""
    return bool(params) and isinstance(params[0], list | int) and bool(params[0]) and not asks_for_many(params)


class Notes(Chapter):
    """The methods about notes and threads."""

    @exposed()
    def addNote(self, text: Any, thread_id: Any = None, job_id: Any = None, client_id: Any = None) -> Future[bool]:
        """Add a note to the thread of a client, else of a job, else to a thread; return True.

        A job or client without a thread gets one; where nothing is given, or what is given does not exist, the note
        begins a free thread. With both a job and a client the client wins. A blank text adds nothing.
        Source: 12.
        """
        words = wire.scrub(arguments.text(text, "text"))
        thread = arguments.optional_id(thread_id, "thread_id")
        job_key, client_key = arguments.optional_id(job_id, "job_id"), arguments.optional_id(client_id, "client_id")
        if job_key is not None and client_key is not None:
            log.warning("a note was given for job %d and client %d; it goes to the client", job_key, client_key)

        def write(session: Session) -> bool:
            if words.strip():
                notes.add(session, words, client_id=client_key, job_id=job_key, thread_id=thread)
            return True

        return self._store.write_soon(write)

    @exposed()
    def getNoteThreadIds(self) -> list[int]:
        """Return the ids of all threads, in ascending order.

        Source: 12.
        """
        with self._store.reading() as connection:
            return list(connection.execute(sa.select(note_thread.c.id).order_by(note_thread.c.id)).scalars())

    @exposed(big=lambda params: not _are_few(params))
    def getNoteThreads(
        self,
        thread_ids: Any = None,
        thread_attribs: Any = None,
        note_attribs: Any = None,
    ) -> list[dict[str, Any]]:
        """Return attributes of threads: of all, by id, or of those asked for, in the order asked.

        Shapes: a thread has clientHostname, clientId, clientLabel, jobId, id and notes, oldest first; a note has
        clientHostname, clientId, clientLabel, jobId, date, text, id and threadId. Unknown ids are skipped.
        Errors: UnknownAttributeError.
        Source: 12.
        """
        wanted = arguments.optional_ids(thread_ids, "thread_ids")
        names = arguments.attributes(thread_attribs, THREAD_ATTRIBUTES, THREAD_ATTRIBUTES, "thread_attribs")
        note_names = arguments.attributes(note_attribs, NOTE_ATTRIBUTES, NOTE_ATTRIBUTES, "note_attribs")
        with self._store.reading() as connection:
            threads = _threads(connection, wanted)
            written = _notes(connection, threads, note_names) if "notes" in names else {}
        found = []
        for row in threads:
            owner = _owner(row)
            found.append(
                {name: written.get(row.id, []) if name == "notes" else owner[name] for name in names},
            )
        return found

    @exposed(big=lambda params: not _are_few(params))
    def getLatestNotes(self, thread_ids: Any = None, attribs: Any = None) -> list[dict[str, Any]]:
        """Return attributes of the newest note of threads: of all, by id, or of those asked for, in the order asked.

        Shapes: as the notes of getNoteThreads. Unknown ids are skipped.
        Errors: UnknownAttributeError.
        Source: 12.
        """
        wanted = arguments.optional_ids(thread_ids, "thread_ids")
        names = arguments.attributes(attribs, NOTE_ATTRIBUTES, NOTE_ATTRIBUTES)
        with self._store.reading() as connection:
            threads = _threads(connection, wanted)
            newest = _notes(connection, threads, names, newest=True)
        return [newest[row.id][0] for row in threads if row.id in newest]

    @exposed()
    def threadExists(self, thread_id: Any) -> bool | None:
        """Tell whether there is a thread with an id; None on any error, an id that is none included.

        Source: 12.
        """
        try:
            key = arguments.one_id(thread_id, "thread_id")
            with self._store.reading() as connection:
                query = sa.select(note_thread.c.id).where(note_thread.c.id == key)
                return connection.execute(query).first() is not None
        except HQueueError:
            return None

    @exposed()
    def removeSingleNote(self, note_id: Any) -> Future[bool]:
        """Remove a note and tell whether it could be; with its last note a thread goes.

        The first note of a thread can be removed only when it is the only one left.
        Source: 12.
        """
        key = arguments.one_id(note_id, "note_id")
        return self._store.write_soon(lambda session: _remove_note(session, key))

    @exposed()
    def removeSingleThread(self, thread_id: Any) -> Future[bool]:
        """Remove a thread with its notes, and tell whether there was such a thread.

        Source: 12.
        """
        key = arguments.one_id(thread_id, "thread_id")
        return self._store.write_soon(lambda session: _remove_thread(session, key))

    @exposed()
    def removeNotes(self, note_ids: Any) -> Future[list[int]]:
        """Remove notes in the order given, and return the ids of those that could not be.

        The first note of a thread must stand behind all others of it; with its last note a thread goes.
        Source: 12.
        """
        return self._remove(note_ids, "note_ids", _remove_note)

    @exposed()
    def removeThreads(self, thread_ids: Any) -> Future[list[int]]:
        """Remove threads with their notes, and return the ids of those that could not be.

        Source: 12.
        """
        return self._remove(thread_ids, "thread_ids", _remove_thread)

    def _remove(self, value: Any, name: str, remove: Callable[[Session, int], bool]) -> Future[list[int]]:
        keys = arguments.ids(value, name)
        given = value if isinstance(value, (list, tuple)) else [value]

        def write(session: Session) -> list[int]:
            return [_sendable(each) for each, key in zip(given, keys, strict=True) if not remove(session, key)]

        return self._store.write_soon(write)


def _sendable(given: Any) -> Any:
    """Return an id as it was given; as a text where it is a number that no answer can carry."""
    return str(given) if isinstance(given, int) and not -(2**63) <= given < 2**63 else given


def _threads(connection: sa.Connection, wanted: Sequence[int] | None) -> list[Any]:
    """Return threads with their owners: all, by id, or those wanted, in that order."""
    query = (
        sa.select(note_thread.c.id, note_thread.c.job_id, note_thread.c.client_id, client.c.hostname, client.c.name)
        .select_from(note_thread)
        .outerjoin(client, client.c.id == note_thread.c.client_id)
        .order_by(note_thread.c.id)
    )
    if wanted is None:
        return list(connection.execute(query))
    these = query.where(note_thread.c.id.in_(listed("threads")))
    found = {row.id: row for row in connection.execute(these, {"threads": wanted})}
    return [found[each] for each in wanted if each in found]


def _owner(row: Any) -> dict[str, Any]:
    """Return whose thread it is; a free one is nobody's."""
    return {
        "clientHostname": row.hostname,
        "clientId": row.client_id,
        "clientLabel": None if row.hostname is None else client_label(row.hostname, row.name),
        "id": row.id,
        "jobId": row.job_id,
    }


def _notes(
    connection: sa.Connection,
    threads: Sequence[Any],
    names: Sequence[str],
    *,
    newest: bool = False,
) -> dict[int, list[dict[str, Any]]]:
    """Return the notes of threads, by thread, oldest first; or the newest of each alone."""
    owners = {row.id: _owner(row) for row in threads}
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    these = note.c.thread_id.in_(listed("threads"))
    query = sa.select(note.c.id, note.c.thread_id, note.c.at, note.c.text).where(these)
    if newest:
        query = query.where(note.c.id.in_(sa.select(sa.func.max(note.c.id)).where(these).group_by(note.c.thread_id)))
    for row in connection.execute(query.order_by(note.c.id), {"threads": list(owners)}):
        values = {**owners[row.thread_id], "date": from_ms(row.at), "id": row.id, "text": row.text}
        values["threadId"] = row.thread_id
        found[row.thread_id].append({name: values[name] for name in names})
    return found


def _remove_note(session: Session, note_id: int) -> bool:
    connection = session.connection
    thread_id = connection.execute(sa.select(note.c.thread_id).where(note.c.id == note_id)).scalar()
    if thread_id is None:
        return False
    first, count = connection.execute(
        sa.select(sa.func.min(note.c.id), sa.func.count()).where(note.c.thread_id == thread_id),
    ).one()
    if count == 1:
        return _remove_thread(session, thread_id)
    if first == note_id:
        return False
    connection.execute(sa.delete(note).where(note.c.id == note_id))
    return True


def _remove_thread(session: Session, thread_id: int) -> bool:
    return bool(session.connection.execute(sa.delete(note_thread).where(note_thread.c.id == thread_id)).rowcount)
