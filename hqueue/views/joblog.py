"""A job's log in its two shapes: `history`, entry by entry, and `logs`, in the words and pairs that scripts expect."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.clock import from_ms
from hqueue.database import listed
from hqueue.schema import event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

_ASSIGNED: Final = re.compile(r"client (\S+(?:, with .+)?)")
_ENTRIES: Final = (
    sa.select(event.c.job_id, event.c.at, event.c.event, event.c.status, event.c.message)
    .where(event.c.job_id.in_(listed("ids")))
    .order_by(event.c.job_id, event.c.seq)
)


class JobLog:
    """The logs of the jobs of one call."""

    def __init__(self, connection: sa.Connection, job_ids: Sequence[int]) -> None:
        self._connection = connection
        self._job_ids = job_ids

    @cached_property
    def lines(self) -> Mapping[int, list[tuple[int, str]]]:
        """The lines of each job, oldest first: (at, text)."""
        found: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for job_id, at, name, status, message in self._entries:
            found[job_id] += [(at, text) for text in _texts(name, status, message)]
        return found

    def logs(self, job_id: int) -> list[tuple[str, datetime]]:
        """Return a job's lines as pairs."""
        return [(text, from_ms(at)) for at, text in self.lines.get(job_id, ())]

    def history(self, job_id: int) -> list[dict[str, Any]]:
        """Return what has happened to a job."""
        return self._histories.get(job_id, [])

    @cached_property
    def _histories(self) -> Mapping[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for job_id, at, name, status, message in self._entries:
            entry = {"date": from_ms(at), "event": name, "status": status, "message": message, "by": ""}
            found[job_id].append(entry)
        return found

    @cached_property
    def _entries(self) -> Sequence[Any]:
        return self._connection.execute(_ENTRIES, {"ids": self._job_ids}).all()


def _texts(name: str, status: str, message: str) -> list[str]:
    """Return what an original server would have written of an entry."""
    if name == "note":
        return [message]
    if name != status:
        return [f"{name}: {message}" if message else name]
    setting = f"setting status to {status}"
    if status == "running" and (assigned := _ASSIGNED.fullmatch(message)):
        return [f"Assigned to {assigned[1]}", setting]
    return [f"{setting}: {message}" if message else setting]
