"""The attributes of jobs: each is declared once, with the columns it needs and how its value is made.

What is asked for limits the work: the columns of one narrow statement, and, for what stands in other tables, one
statement per kind for all the jobs together, made when the first value needs it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.clock import from_ms, to_ms
from hqueue.database import listed
from hqueue.lifecycle.notes import NO_THREAD, LatestNote, latest_notes_of_jobs
from hqueue.lifecycle.requirements import read_requirement
from hqueue.lifecycle.runs import fraction
from hqueue.matching import conditions_as_dicts
from hqueue.schema import client, event, job, job_edge, job_spec, requirement, reservation, run
from hqueue.states import SETTLED, JobStatus
from hqueue.views.explaining import Explainer
from hqueue.views.rollups import UNKNOWN_ETA, Rollups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from hqueue.clock import Clock
    from hqueue.views.farmview import FarmReader


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: the columns of a job's row, its specification or its requirement, and what makes its value."""

    columns: tuple[sa.Column[Any], ...]
    make: Callable[[Any, Batch], Any]


class Batch:
    """The jobs of one call, and what other tables say of all of them together."""

    def __init__(self, connection: sa.Connection, farm: FarmReader, now_ms: int, rows: Sequence[Any]) -> None:
        self._connection = connection
        self._farm = farm
        self.rows = rows
        self.now_ms = now_ms
        self.live_farm = farm.live_farm

    @cached_property
    def children(self) -> Mapping[int, list[int]]:
        """The ids of the children of each job that has any."""
        return self._edges(job_edge.c.parent_id, job_edge.c.child_id, self._having("children_total"))

    @cached_property
    def parents(self) -> Mapping[int, list[int]]:
        """The ids of the parents of each job that has any."""
        return self._edges(
            job_edge.c.child_id,
            job_edge.c.parent_id,
            [job_id for job_id, root in zip(self.ids, self.columns["is_root"], strict=True) if not root],
        )

    @cached_property
    def clients(self) -> Mapping[int, list[dict[str, Any]]]:
        """The clients that run or ran each job: the current one first, then the newest."""
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in self._connection.execute(_CLIENTS, {"ids": self._having("attempts")}).all():
            found[row.job_id].append({"id": row.id, "hostname": row.hostname, "name": row.name})
        for row in self._connection.execute(_RESERVED, {"ids": self._having("attempts")}):
            also = {"id": row.id, "hostname": row.hostname, "name": row.name}
            earlier = found[row.job_id]
            earlier[1:] = [also, *(each for each in earlier[1:] if each != also)]
        return found

    @cached_property
    def logs(self) -> Mapping[int, list[dict[str, Any]]]:
        """The log of each job, oldest line first."""
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for job_id, at, name, status, message in self.log_lines:
            found[job_id].append({"date": from_ms(at), "event": name, "status": status, "message": message})
        return found

    @cached_property
    def log_lines(self) -> Sequence[Any]:
        """The lines of all the logs, (job id, at, event, status, message), by job and oldest first."""
        return self._connection.execute(_LOGS, {"ids": self.ids}).all()

    @cached_property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """The rows by column."""
        if not self.rows:
            return defaultdict(tuple)
        return dict(zip(self.rows[0]._fields, zip(*self.rows, strict=True), strict=True))

    @property
    def ids(self) -> Sequence[int]:
        """The ids of the jobs."""
        return self.columns["id"]

    @cached_property
    def notes(self) -> Mapping[int, LatestNote]:
        """The note thread of each job that has one."""
        return latest_notes_of_jobs(self._connection, self.ids)

    @cached_property
    def last_runs(self) -> Mapping[int, Any]:
        """The newest run of each job that has been assigned since it was last rescheduled."""
        started = self._having("started_at")
        return {row.job_id: row for row in self._connection.execute(_LAST_RUNS, {"ids": started}).all()}

    @cached_property
    def rollups(self) -> Rollups:
        """What holds for the trees of those jobs that have children."""
        return Rollups(self._connection, self.live_farm, self.now_ms, self._having("children_total"))

    @cached_property
    def explainer(self) -> Explainer:
        """Why those of the jobs that wait do so."""
        return Explainer(self._connection, self._farm, self.rows)

    def progress(self, row: Any) -> float:
        """Return how far a job's command is: what its client said last, else what is stored."""
        live = self.live_farm.progress.get(row.id) if row.run_id is not None else None
        return row.progress if live is None else fraction(live.numerator, live.denominator)

    def _having(self, column: str) -> list[int]:
        return [job_id for job_id, value in zip(self.ids, self.columns[column], strict=True) if value]

    def _edges(self, owner: sa.Column[Any], other: sa.Column[Any], ids: Sequence[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        if ids:
            query = sa.select(owner, other).where(owner.in_(listed("ids"))).order_by(owner, other)
            for owner_id, other_id in self._connection.execute(query, {"ids": ids}).all():
                found[owner_id].append(other_id)
        return found


class JobAttributes:
    """Reads attributes of jobs."""

    def __init__(self, farm: FarmReader, clock: Clock) -> None:
        self._farm = farm
        self._clock = clock

    def fetch(
        self,
        connection: sa.Connection,
        job_ids: Sequence[int],
        names: Iterable[str],
    ) -> dict[int, dict[str, Any]]:
        """Return the attributes of those of the jobs that exist, by id."""
        names = tuple(names)
        batch = self.read(connection, job_ids, names)
        makers = [(name, JOB_ATTRIBUTES[name].make) for name in names]
        return {row.id: {name: make(row, batch) for name, make in makers} for row in batch.rows}

    def read(self, connection: sa.Connection, job_ids: Sequence[int], names: Iterable[str]) -> Batch:
        """Return those of the jobs that exist, with the columns that these attributes need, in no order."""
        plan = _plan(tuple(names))
        if len(job_ids) == 1:
            rows = connection.execute(plan.one, {"id": job_ids[0]}).all()
        else:
            rows = connection.execute(plan.many, {"ids": job_ids}).all()
        return Batch(connection, self._farm, to_ms(self._clock.now()), rows)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a set of attributes takes: a statement for one job, and one for many."""

    one: sa.Select[Any]
    many: sa.Select[Any]


@lru_cache(maxsize=256)
def _plan(names: tuple[str, ...]) -> _Plan:
    columns = dict.fromkeys([job.c.id, *(column for name in names for column in JOB_ATTRIBUTES[name].columns)])
    query = sa.select(*columns)
    tables = {column.table for column in columns}
    if job_spec in tables:
        query = query.join(job_spec, job_spec.c.job_id == job.c.id)
    if requirement in tables:
        query = query.join(requirement, requirement.c.id == job.c.requirement_id)
    return _Plan(
        one=query.where(job.c.id == sa.bindparam("id")),
        many=query.where(job.c.id.in_(listed("ids"))),
    )


def optional_date(milliseconds: int | None) -> datetime | None:
    """Return a moment of the store for the wire; None where it is unset."""
    return None if milliseconds is None else from_ms(milliseconds)


def _plain(column: sa.Column[Any]) -> Attribute:
    name = column.name
    return Attribute((column,), lambda row, _batch: getattr(row, name))


def _date(column: sa.Column[Any]) -> Attribute:
    name = column.name
    return Attribute((column,), lambda row, _batch: optional_date(getattr(row, name)))


def _json(column: sa.Column[Any]) -> Attribute:
    name = column.name

    def make(row: Any, _batch: Batch) -> Any:
        text = getattr(row, name)
        return None if text is None else json.loads(text)

    return Attribute((column,), make)


def _required(make: Callable[[Any], Any]) -> Attribute:
    """Return an attribute that is part of the requirement."""
    return Attribute((requirement.c.spec_json,), lambda row, _batch: make(read_requirement(row.spec_json)))


def _run_date(column: str) -> Attribute:
    def make(row: Any, batch: Batch) -> datetime | None:
        if row.started_at is None:
            return None
        last = batch.last_runs.get(row.id)
        return None if last is None else optional_date(getattr(last, column))

    return Attribute((job.c.started_at,), make)


def _start_time(row: Any, batch: Batch) -> datetime | None:
    if not row.children_total:
        return optional_date(row.started_at)
    return optional_date(batch.rollups.started_at(row.id))


def _overall_progress(row: Any, batch: Batch) -> float:
    if row.children_total:
        return batch.rollups.overall_progress(row.id)
    if not row.counted:
        return 1.0 if row.status in SETTLED else 0.0
    return 1.0 if row.status == JobStatus.SUCCEEDED else batch.progress(row)


def _eta(row: Any, batch: Batch) -> int:
    if row.status in SETTLED:
        return 0
    if row.children_total:
        return batch.rollups.eta_s(row.id)
    progress = batch.progress(row)
    last = batch.last_runs.get(row.id)
    if row.status != JobStatus.RUNNING or not progress or last is None or last.started_at is None:
        return UNKNOWN_ETA
    elapsed_s = max(0, batch.now_ms - int(last.started_at)) / 1000
    return math.ceil(elapsed_s * (1 - progress) / progress)


def _ui_status(row: Any, batch: Batch) -> str:
    if row.status == JobStatus.RUNNABLE:
        # Only a job that wants a resource can lack one; for others the farm need not be looked at.
        lacking = read_requirement(row.spec_json).resources and batch.explainer.clients(row).lacks_resource
        return "waiting for resources" if lacking else "waiting for machine"
    if row.status == JobStatus.QUEUED:
        clients = batch.rollups.clients_at_work(row.id)
        return f"running ({clients} clients assigned)" if clients else "waiting for machine"
    return str(row.status)


def _waiting_for(row: Any, batch: Batch) -> str:
    return batch.explainer.waits_for(row)


def _child_counts(row: Any, _batch: Batch) -> dict[str, int]:
    finished = row.children_total - row.children_unsettled
    return {"total": row.children_total, "finished": finished, "failed": row.children_unsuccessful}


_TREE: Final = (job.c.children_total,)
_PROGRESS: Final = (job.c.progress, job.c.run_id)
_QUEUED: Final = (job.c.requirement_id, job.c.priority, job.c.root_id)
_WAITING: Final = (*_QUEUED, job.c.status, job.c.children_total, job.c.children_unsettled)
_COUNTERS: Final = (job.c.children_total, job.c.children_unsettled, job.c.children_unsuccessful)

_DEFAULT: Final[dict[str, Attribute]] = {
    "availabilityRules": Attribute((), lambda _row, _batch: []),  # clients have them; HQueue lists it for jobs too
    "childCounts": Attribute(_COUNTERS, _child_counts),
    "children": Attribute(_TREE, lambda row, batch: batch.children.get(row.id, [])),
    "clients": Attribute((job.c.attempts,), lambda row, batch: batch.clients.get(row.id, [])),
    "clientsOnHold": Attribute((), lambda row, batch: batch.explainer.clients_on_hold(row.id)),
    "conditions": _required(lambda wanted: conditions_as_dicts(wanted.conditions)),
    "cpus": _required(lambda wanted: wanted.cpus),
    "description": _plain(job_spec.c.description),
    "endTime": _date(job.c.ended_at),
    "ETA": Attribute((*_TREE, *_PROGRESS, job.c.status, job.c.started_at), _eta),
    "id": _plain(job.c.id),
    "latestNote": Attribute((), lambda row, batch: batch.notes.get(row.id, NO_THREAD).text),
    "logs": Attribute((), lambda row, batch: batch.logs.get(row.id, [])),
    "name": _plain(job.c.name),
    "overallProgress": Attribute((*_TREE, *_PROGRESS, job.c.status, job.c.counted), _overall_progress),
    "parents": Attribute((job.c.is_root,), lambda row, batch: batch.parents.get(row.id, [])),
    "priority": _plain(job.c.priority),
    "progress": Attribute(_PROGRESS, lambda row, batch: batch.progress(row)),
    "queueTime": _date(job.c.queued_at),
    "resources": _required(lambda wanted: dict(wanted.resources) or None),
    "showBlockedClientsWarning": _plain(job_spec.c.show_blocked_warning),
    "startTime": Attribute((*_TREE, job.c.started_at), _start_time),
    "status": _plain(job.c.status),
    "submittedBy": _plain(job_spec.c.submitted_by),
    "tags": _json(job_spec.c.tags_json),
    "threadId": Attribute((), lambda row, batch: batch.notes.get(row.id, NO_THREAD).thread_id),
    "triesLeft": _plain(job.c.tries_left),
    "uiStatus": Attribute((*_TREE, *_QUEUED, job.c.status, requirement.c.spec_json), _ui_status),
    "waitingFor": Attribute(_WAITING, _waiting_for),
}
_ON_REQUEST: Final[dict[str, Attribute]] = {
    "cmdEndTime": _run_date("closed_at"),
    "cmdStartTime": _run_date("started_at"),
    "command": _json(job_spec.c.command_json),
    "environment": _json(job_spec.c.environment_json),
    "exitCode": _plain(job.c.exit_code),
    "inheritsConditions": _plain(job_spec.c.inherits_conditions),
    "maxHosts": _required(lambda wanted: wanted.max_hosts),
    "maxTime": _plain(job_spec.c.max_time_s),
    "minHosts": _required(lambda wanted: wanted.min_hosts),
    "root": _plain(job.c.root_id),
    "runnableTime": _date(job.c.runnable_at),
    "shell": _plain(job_spec.c.shell),
}
JOB_ATTRIBUTES: Final = {**_DEFAULT, **_ON_REQUEST}
DEFAULT_JOB_ATTRIBUTES: Final = tuple(_DEFAULT)
# What stands in a job's own row and takes no other statement: what scripts poll for.
NARROW: Final = frozenset(
    {"childCounts", "endTime", "id", "name", "priority", "progress", "queueTime", "status", "triesLeft"}
)

_IDS: Final = listed("ids")
_RAN: Final = (
    sa.select(
        run.c.job_id,
        run.c.client_id,
        sa.func.max(run.c.id).label("newest"),
        sa.func.max(sa.case((run.c.open_job_id.is_not(None), 1), else_=0)).label("current"),
    )
    .where(run.c.job_id.in_(_IDS))
    .group_by(run.c.job_id, run.c.client_id)
    .subquery()
)
_CLIENTS: Final = (
    sa.select(_RAN.c.job_id, client.c.id, client.c.hostname, client.c.name)
    .join(client, client.c.id == _RAN.c.client_id)
    .order_by(_RAN.c.job_id, _RAN.c.current.desc(), _RAN.c.newest.desc())
)
# The other clients of the current run, in the reverse of their order.
_RESERVED: Final = (
    sa.select(run.c.job_id, client.c.id, client.c.hostname, client.c.name)
    .join(reservation, reservation.c.run_id == run.c.id)
    .join(client, client.c.id == reservation.c.client_id)
    .where(run.c.open_job_id.in_(_IDS))
    .order_by(client.c.id.desc())
)
_LOGS: Final = (
    sa.select(event.c.job_id, event.c.at, event.c.event, event.c.status, event.c.message)
    .where(event.c.job_id.in_(_IDS))
    .order_by(event.c.job_id, event.c.seq)
)
_NEWEST: Final = sa.select(sa.func.max(run.c.id)).where(run.c.job_id.in_(_IDS)).group_by(run.c.job_id)
_LAST_RUNS: Final = sa.select(run.c.job_id, run.c.started_at, run.c.closed_at).where(run.c.id.in_(_NEWEST))
