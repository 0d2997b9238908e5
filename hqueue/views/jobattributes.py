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

from hqueue.database import listed
from hqueue.lifecycle.hooks import field_of
from hqueue.lifecycle.notes import NO_THREAD, LatestNote, latest_notes_of_jobs
from hqueue.lifecycle.requirements import read_requirement
from hqueue.lifecycle.runs import fraction
from hqueue.matching import conditions_as_dicts
from hqueue.schema import client, job, job_edge, job_spec, requirement, reservation, root_block, run
from hqueue.states import SETTLED, Hook, JobStatus
from hqueue.views.attribute import Attribute, Shape, columns_of, date, from_json, optional_date, plain
from hqueue.views.explaining import Explainer, shown_client
from hqueue.views.joblog import JobLog
from hqueue.views.rollups import UNKNOWN_ETA, Rollups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from hqueue.views.farmview import FarmReader


class Batch:
    """The jobs of one call, and what other tables say of all of them together."""

    def __init__(self, connection: sa.Connection, farm: FarmReader, rows: Sequence[Any]) -> None:
        self._connection = connection
        self._farm = farm
        self.rows = rows
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
        """The clients that run or ran each job, or were reserved for it: those of the current run, then the newest."""
        found: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        for row in self._connection.execute(_CLIENTS, {"ids": self._having("attempts")}).all():
            found[row.job_id].setdefault(row.id, shown_client(row.id, row, master=bool(row.master)))
        return {job_id: list(clients.values()) for job_id, clients in found.items()}

    @cached_property
    def warned(self) -> Mapping[int, bool]:
        """Those of the jobs that are to warn of blocked clients."""
        query = sa.select(root_block.c.root_id).where(
            root_block.c.root_id.in_(listed("ids")), root_block.c.blocked_json != "[]"
        )
        blocked = set(self._connection.execute(query, {"ids": sorted(set(self.columns["root_id"]))}).scalars())
        return {row.id: True for row in self.rows if row.show_blocked_warning and row.root_id in blocked}

    @cached_property
    def log(self) -> JobLog:
        """The logs of the jobs."""
        return JobLog(self._connection, self.ids)

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
        return Rollups(self._connection, self.live_farm, self._having("children_total"))

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

    def __init__(self, farm: FarmReader) -> None:
        self._farm = farm

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
        return Batch(connection, self._farm, rows)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a set of attributes takes: a statement for one job, and one for many."""

    one: sa.Select[Any]
    many: sa.Select[Any]


@lru_cache(maxsize=256)
def _plan(names: tuple[str, ...]) -> _Plan:
    columns = columns_of(JOB_ATTRIBUTES, ("id", *names))
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


def _required(make: Callable[[Any], Any]) -> Attribute[Batch]:
    """Return an attribute that is part of the requirement."""
    return Attribute(lambda row, _batch: make(read_requirement(row.spec_json)), (requirement.c.spec_json,))


def _related(
    related: Callable[[Batch], Mapping[int, list[Any]]],
    *columns: sa.Column[Any],
    key: Callable[[Any], tuple[Any, ...]] = tuple,
) -> Attribute[Batch]:
    """Return an attribute that lists what is related to a job."""
    return Attribute(lambda row, batch: related(batch).get(row.id, []), also=columns, related=related, key=key)


def _note(make: Callable[[LatestNote], Any]) -> Attribute[Batch]:
    """Return an attribute that is part of the note thread."""
    return Attribute(lambda row, batch: make(batch.notes.get(row.id, NO_THREAD)), related=lambda batch: batch.notes)


def _run_date(column: str) -> Attribute[Batch]:
    def make(row: Any, batch: Batch) -> datetime | None:
        if row.started_at is None:
            return None
        last = batch.last_runs.get(row.id)
        return None if last is None else optional_date(getattr(last, column))

    return Attribute(make, also=(job.c.started_at,), related=lambda batch: batch.last_runs)


def _hook(name: Hook) -> Attribute[Batch]:
    """Return the attribute that shows a hook as it was given, None where there is none."""

    def make(row: Any, _batch: Batch) -> Any:
        return json.loads(row.hooks_json).get(field_of(name)) if row.hooks_json else None

    return Attribute(make, (job_spec.c.hooks_json,))


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


def _eta(row: Any, batch: Batch) -> float:
    if row.status in SETTLED:
        return 0.0
    if row.children_total:
        return batch.rollups.eta_s(row.id)
    progress, ran_s = batch.progress(row), batch.live_farm.ran_s(row.id)
    if row.status != JobStatus.RUNNING or not progress or not ran_s:
        return UNKNOWN_ETA
    return float(math.ceil(ran_s * (1 - progress) / progress))


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
_QUEUED: Final = (job.c.priority, job.c.root_id)
_COUNTERS: Final = (job.c.children_total, job.c.children_unsettled, job.c.children_unsuccessful)
_AT_WORK: Final = (*_TREE, job.c.run_id)

_DEFAULT: Final[dict[str, Attribute[Batch]]] = {
    "availabilityRules": Attribute(lambda _row, _batch: []),  # clients have them; HQueue lists it for jobs too
    "childCounts": Attribute(_child_counts, _COUNTERS),
    "children": _related(lambda batch: batch.children, *_TREE),
    "clients": _related(
        lambda batch: batch.clients,
        job.c.attempts,
        key=lambda ran: tuple([(each["id"], each["master"]) for each in ran]),
    ),
    "clientsOnHold": Attribute(
        lambda row, batch: batch.explainer.clients_on_hold(row.id), related=lambda batch: batch.live_farm.holds
    ),
    "conditions": _required(lambda wanted: conditions_as_dicts(wanted.conditions)),
    "cpus": _required(lambda wanted: wanted.cpus),
    "description": plain(job_spec.c.description),
    "endTime": date(job.c.ended_at),
    "ETA": Attribute(_eta, (job.c.status,), own=_AT_WORK, also=(job.c.progress,), elsewhere=True),
    "id": plain(job.c.id, Shape.NUMBER),
    "latestNote": _note(lambda note: note.text),
    "logs": Attribute(lambda row, batch: batch.log.logs(row.id), shape=Shape.LOG, elsewhere=True),
    "name": plain(job.c.name, Shape.TEXT),
    "overallProgress": Attribute(
        _overall_progress, (job.c.status, job.c.counted, job.c.progress), own=_AT_WORK, elsewhere=True
    ),
    "parents": _related(lambda batch: batch.parents, job.c.is_root),
    "priority": plain(job.c.priority),
    "progress": Attribute(lambda row, batch: batch.progress(row), (job.c.progress,), own=(job.c.run_id,)),
    "queueTime": date(job.c.queued_at),
    "resources": _required(lambda wanted: dict(wanted.resources) or None),
    "showBlockedClientsWarning": Attribute(
        lambda row, batch: row.id in batch.warned,
        also=(job.c.root_id, job_spec.c.show_blocked_warning),
        related=lambda batch: batch.warned,
        key=lambda _: (),
    ),
    "startTime": Attribute(_start_time, (job.c.started_at,), own=_TREE, shape=Shape.MOMENT, elsewhere=True),
    "status": plain(job.c.status),
    "submittedBy": plain(job_spec.c.submitted_by),
    "tags": from_json(job_spec.c.tags_json),
    "threadId": _note(lambda note: note.thread_id),
    "triesLeft": plain(job.c.tries_left),
    "uiStatus": Attribute(
        _ui_status,
        (job.c.status, job.c.requirement_id),
        own=_TREE,
        also=(*_QUEUED, requirement.c.spec_json),
        # While clients are kept for some jobs, it depends on the place in the queue.
        apart=lambda batch: batch.live_farm.holds,
        elsewhere=True,
    ),
    "waitingFor": Attribute(
        _waiting_for,
        (job.c.status, job.c.requirement_id, job.c.children_total, job.c.children_unsettled),
        also=(*_QUEUED, job.c.run_id),
        # Likewise while some jobs wait for the end of a run of their own, or for their output to be taken.
        apart=lambda batch: batch.explainer.earlier_runs or batch.live_farm.holds or batch.explainer.undelivered,
        elsewhere=True,
    ),
}
_ON_REQUEST: Final[dict[str, Attribute[Batch]]] = {
    "cmdEndTime": _run_date("closed_at"),
    "cmdStartTime": _run_date("started_at"),
    "command": from_json(job_spec.c.command_json),
    "emailReasons": plain(job_spec.c.email_reasons),
    "emailTo": plain(job_spec.c.email_to),
    "environment": from_json(job_spec.c.environment_json),
    "exitCode": plain(job.c.exit_code),
    "history": Attribute(lambda row, batch: batch.log.history(row.id), apart=lambda _: True, elsewhere=True),
    "inheritsConditions": plain(job_spec.c.inherits_conditions),
    "maxHosts": _required(lambda wanted: wanted.max_hosts),
    "maxTime": plain(job_spec.c.max_time_s),
    "minHosts": _required(lambda wanted: wanted.min_hosts),
    **{name.value: _hook(name) for name in Hook},
    "root": plain(job.c.root_id, Shape.NUMBER),
    "runnableTime": date(job.c.runnable_at),
    "shell": plain(job_spec.c.shell),
    "webhook": plain(job_spec.c.webhook),
}
JOB_ATTRIBUTES: Final = {**_DEFAULT, **_ON_REQUEST}
DEFAULT_JOB_ATTRIBUTES: Final = tuple(_DEFAULT)
# What stands in a job's own row and takes no other statement: what scripts poll for.
NARROW: Final = frozenset(name for name, each in JOB_ATTRIBUTES.items() if each.stands_in(job))

_IDS: Final = listed("ids")
_RUN_OF: Final = (run.c.job_id, run.c.id.label("run_id"), run.c.open_job_id)
_TAKEN: Final = sa.union_all(
    sa.select(*_RUN_OF, run.c.client_id, sa.literal(1).label("master")).where(run.c.job_id.in_(_IDS), run.c.hook == ""),
    sa.select(*_RUN_OF, reservation.c.client_id, sa.literal(0))
    .join(reservation, reservation.c.run_id == run.c.id)
    .where(run.c.job_id.in_(_IDS), run.c.hosts > 1),
).subquery()
_CLIENTS: Final = (
    sa.select(_TAKEN.c.job_id, client.c.id, client.c.hostname, client.c.name, _TAKEN.c.master)
    .join(client, client.c.id == _TAKEN.c.client_id)
    .order_by(
        _TAKEN.c.job_id,
        sa.case((_TAKEN.c.open_job_id.is_not(None), 0), else_=1),
        _TAKEN.c.run_id.desc(),
        _TAKEN.c.master.desc(),
        client.c.id,
    )
)
_NEWEST: Final = sa.select(sa.func.max(run.c.id)).where(run.c.job_id.in_(_IDS), run.c.hook == "").group_by(run.c.job_id)
_LAST_RUNS: Final = sa.select(run.c.job_id, run.c.started_at, run.c.closed_at).where(run.c.id.in_(_NEWEST))
