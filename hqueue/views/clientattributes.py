"""The attributes of clients: each is declared once, with the columns it needs and how its value is made.

What changes at every heartbeat comes from memory while the client reports, else from its row as it was stored last.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import __version__
from hqueue.clock import from_ms
from hqueue.config import client_label
from hqueue.database import listed
from hqueue.lifecycle.notes import NO_THREAD, LatestNote, latest_notes_of_clients
from hqueue.matching import Standing, same_host
from hqueue.schema import client, client_group_member, job, reservation, run
from hqueue.views.attribute import Attribute, columns_of, from_json, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from hqueue.live import LiveClient
    from hqueue.views.farmview import FarmReader


UNKNOWN: Final = -1  # idle minutes, free memory, free disk of a client that is not reporting


class Batch:
    """The clients of one call, and what other tables and the live_farm say of all of them."""

    def __init__(self, connection: sa.Connection, reader: FarmReader, rows: Sequence[Any]) -> None:
        self._connection = connection
        self._reader = reader
        self._ids = [row.id for row in rows]

    def live(self, client_id: int) -> LiveClient | None:
        """Return what a client said in its latest heartbeat; None while it has not reported to this process."""
        known = self._reader.live_farm.clients.get(client_id)
        return known if known is not None and known.number > 0 else None

    def standing(self, row: Any) -> Standing:
        """Return why a client takes no job at all."""
        return self._reader.standing(row)

    @cached_property
    def groups(self) -> Mapping[int, list[int]]:
        """The ids of the groups of each client."""
        member = client_group_member.c
        query = sa.select(member.client_id, member.group_id).order_by(member.group_id)
        return self._lists(query, member.client_id)

    @cached_property
    def running_jobs(self) -> Mapping[int, list[int]]:
        """The ids of the jobs that have an open run on each client, or have reserved it for one."""
        # The jobs themselves, because a deleted one leaves an open run behind until its death is proved.
        # Sorted here and not by the database, which would go through all jobs to have them in order.
        query = sa.select(run.c.client_id, job.c.id).join(job, job.c.id == run.c.open_job_id)
        found = self._lists(query.where(run.c.closed_at.is_(None)), run.c.client_id)
        reserved = sa.select(reservation.c.client_id, job.c.id).join(run, run.c.id == reservation.c.run_id)
        reserved = reserved.join(job, job.c.id == run.c.open_job_id)
        for client_id, job_ids in self._lists(reserved, reservation.c.client_id).items():
            found[client_id] += job_ids
        return {client_id: sorted(job_ids) for client_id, job_ids in found.items()}

    @cached_property
    def notes(self) -> Mapping[int, LatestNote]:
        """The note thread of each client that has one."""
        return latest_notes_of_clients(self._connection, self._ids)

    def _lists(self, query: sa.Select[Any], owner: sa.Column[Any]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for client_id, value in self._connection.execute(query.where(owner.in_(listed("ids"))), {"ids": self._ids}):
            found[client_id].append(value)
        return found


def fetch_clients(
    connection: sa.Connection,
    reader: FarmReader,
    client_ids: Sequence[int] | None,
    names: Iterable[str],
) -> list[dict[str, Any]]:
    """Return the attributes of clients: of all, by id; of those asked for, in the order asked, unknown ones skipped."""
    plan = _plan(tuple(names))
    rows: list[Any] = []
    if client_ids is None:
        rows.extend(connection.execute(plan.everything))
    else:
        by_id = {row.id: row for row in connection.execute(plan.some, {"ids": client_ids})}
        rows.extend(by_id[each] for each in client_ids if each in by_id)
    batch = Batch(connection, reader, rows)
    return [{name: make(row, batch) for name, make in plan.makers} for row in rows]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a set of attributes takes: statements, and what makes the values."""

    everything: sa.Select[Any]
    some: sa.Select[Any]
    makers: tuple[tuple[str, Callable[[Any, Batch], Any]], ...]


@lru_cache(maxsize=256)
def _plan(names: tuple[str, ...]) -> _Plan:
    query = sa.select(*columns_of(CLIENT_ATTRIBUTES, ("id", *names))).where(~client.c.forgotten)
    return _Plan(
        everything=query.order_by(client.c.id),
        some=query.where(client.c.id.in_(listed("ids"))),
        makers=tuple((name, CLIENT_ATTRIBUTES[name].make) for name in names),
    )


def _live(field: str, column: sa.Column[Any] | None = None) -> Attribute[Batch]:
    """Return an attribute that heartbeats bring; without them the stored one, or UNKNOWN."""

    def make(row: Any, batch: Batch) -> Any:
        live = batch.live(row.id)
        if live is not None:
            return getattr(live, field)
        return UNKNOWN if column is None else getattr(row, column.name)

    return Attribute(make, () if column is None else (column,))


def _machine(key: str, default: Any) -> Attribute[Batch]:
    """Return an attribute of the machine that its client sent when it registered."""
    return Attribute(lambda row, _batch: json.loads(row.machine_json).get(key, default), (client.c.machine_json,))


def _last_heartbeat(row: Any, batch: Batch) -> datetime:
    live = batch.live(row.id)
    return from_ms(row.last_heartbeat_at if live is None else max(live.last_heartbeat_at, row.last_heartbeat_at))


def _state(row: Any, batch: Batch) -> tuple[str, str]:
    """Return a client's state in one word, and the sentence that explains it."""
    if row.lost:
        return "lost", f"it has not reported since {_last_heartbeat(row, batch):%Y-%m-%d %H:%M:%S} UTC"
    standing = batch.standing(row)
    if standing is Standing.CONDEMNED:
        live = batch.live(row.id)
        return "condemned", row.condemned or (live.condemned or live.unheard if live is not None else "")
    if standing is Standing.RESTING:
        return "resting", f"{row.rest_reason}; it takes no jobs for a while"
    if standing in _UNAVAILABLE:
        return _UNAVAILABLE[standing]
    jobs = len(batch.running_jobs.get(row.id, ()))
    if jobs:
        return "running", f"it runs {jobs} job{'' if jobs == 1 else 's'}"
    return "idle", "it runs nothing and takes jobs"


def _available(row: Any, batch: Batch) -> bool:
    return not batch.standing(row)


_RESTS: Final = "it takes no new jobs and finishes those that it has"
_UNAVAILABLE: Final[dict[Standing, tuple[str, str]]] = {
    Standing.TERMINATING: ("terminating", f"it was told to end: {_RESTS}"),
    Standing.DISABLED: ("disabled", f"somebody has disabled it: {_RESTS}"),
    Standing.CLOSED: ("closed", f"none of its availability rules matches now: {_RESTS}"),
}
_LABEL: Final = (client.c.hostname, client.c.name)
_FLAGS: Final = (
    client.c.lost,
    client.c.terminating,
    client.c.condemned,
    client.c.disabled,
    client.c.rules_json,
    client.c.refused_until,
    client.c.rest_reason,
)

CLIENT_ATTRIBUTES: Final[dict[str, Attribute[Batch]]] = {
    "available": Attribute(_available, _FLAGS),
    "availabilityRules": from_json(client.c.rules_json),
    "cpus": plain(client.c.cpus),
    "cpuSpeed": plain(client.c.cpu_speed),
    "description": plain(client.c.description),
    "disabled": plain(client.c.disabled),
    "diskCapacity": _machine("diskCapacity", 0),
    "freeDisk": _live("free_disk_kb"),
    "freeMemory": _live("free_memory_kb"),
    "gpus": _machine("gpus", []),
    "groups": Attribute(lambda row, batch: batch.groups.get(row.id, [])),
    "hostname": plain(client.c.hostname),
    "id": plain(client.c.id),
    "idleTime": _live("idle_minutes"),
    "installLocation": _machine("installLocation", ""),
    "ip": plain(client.c.ip),
    "label": Attribute(lambda row, _batch: client_label(row.hostname, row.name), _LABEL),
    "lastHeartbeat": Attribute(_last_heartbeat, (client.c.last_heartbeat_at,)),
    "latestNote": Attribute(lambda row, batch: batch.notes.get(row.id, NO_THREAD).text),
    "load": _live("load", client.c.load),
    "memory": _machine("memory", 0),
    "name": plain(client.c.name),
    "needsUpgrade": Attribute(lambda row, _batch: row.version != __version__, (client.c.version,)),
    "platform": plain(client.c.platform),
    "port": plain(client.c.port),
    "runningJobs": Attribute(lambda row, batch: batch.running_jobs.get(row.id, [])),
    "state": Attribute(lambda row, batch: _state(row, batch)[0], (*_FLAGS, client.c.last_heartbeat_at)),
    "stateReason": Attribute(lambda row, batch: _state(row, batch)[1], (*_FLAGS, client.c.last_heartbeat_at)),
    "threadId": Attribute(lambda row, batch: batch.notes.get(row.id, NO_THREAD).thread_id),
    "version": plain(client.c.version),
}
DEFAULT_CLIENT_ATTRIBUTES: Final = tuple(CLIENT_ATTRIBUTES)


_ALL: Final = sa.select(client.c.id, client.c.hostname, client.c.name).where(~client.c.forgotten).order_by(client.c.id)


class ClientNames:
    """The clients there are, to be found by name."""

    def __init__(self, connection: sa.Connection) -> None:
        self.rows: Sequence[Any] = connection.execute(_ALL).all()
        self._by_hostname: dict[str, list[Any]] = {}
        for row in self.rows:
            self._by_hostname.setdefault(row.hostname.lower(), []).append(row)

    def all_of(self, wanted: str) -> list[int]:
        """Return the ids a name means, in order; a hostname without a name means every client there."""
        hostname, colon, name = wanted.partition(":")
        return [row.id for row in self._at(hostname) if not colon or row.name == name]

    def one_of(self, wanted: str) -> int | None:
        """Return the one client a name means; of several at a hostname the unnamed one, else the lowest id."""
        hostname, colon, name = wanted.partition(":")
        there = self._at(hostname)
        exact = [row.id for row in there if row.name == name]
        if exact:
            return int(exact[0])
        return int(there[0].id) if there and not colon else None

    def _at(self, hostname: str) -> list[Any]:
        """Return the clients at a hostname: as it is spelled, else with or without a domain."""
        hostname = hostname.strip().lower()
        return self._by_hostname.get(hostname) or [row for row in self.rows if same_host(hostname, row.hostname)]
