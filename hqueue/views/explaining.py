"""Why jobs wait, as `explainJob`, `waitingFor` and `uiStatus` say it: worked out when somebody asks."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.config import client_label
from hqueue.database import listed
from hqueue.matching import Explanation, explain
from hqueue.schema import client, job, resource, run
from hqueue.states import JobStatus
from hqueue.views.farmview import farm_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hqueue.matching import FarmNames, Hold, Requirement
    from hqueue.views.farmview import FarmReader, FarmView

_MOST_AHEAD: Final = 1_000_000
_WAITS: Final = {
    JobStatus.PAUSED: "waits for somebody to resume it",
    JobStatus.ABANDONED: "waits for its client to come back",
}


class Explainer:
    """What keeps the jobs of one call from the farm's clients; the farm is read when the first job needs it."""

    def __init__(self, connection: sa.Connection, reader: FarmReader, rows: Sequence[Any]) -> None:
        self._connection = connection
        self._rows = rows
        self._reader = reader
        self._holds = reader.live_farm.holds
        self._found: dict[tuple[int, tuple[Hold, ...]], Explanation] = {}

    @cached_property
    def farm(self) -> FarmView:
        """The farm's clients and resources."""
        return self._reader.read(self._connection)

    @cached_property
    def _names(self) -> FarmNames:
        return farm_names(self._connection, self.farm.clients)

    def requirement(self, row: Any) -> Requirement:
        """Return what a job needs, by its row."""
        return self._requirements[row.requirement_id]

    @cached_property
    def _requirements(self) -> Mapping[int, Requirement]:
        return self._reader.requirements(self._connection, {row.requirement_id for row in self._rows})

    def clients(self, row: Any) -> Explanation:
        """Return why each client does not take a job that waits."""
        before = self._held_for_others(row)
        key = (row.requirement_id, before)
        if key not in self._found:
            farm = self.farm
            held = {client_id for hold in before for client_id in hold.clients}
            for view in farm.clients:
                view.held = view.id in held
            farm.units.keep_nothing()
            for hold in before:
                farm.units.keep(hold.units)
            self._found[key] = explain(self.requirement(row), farm.clients, farm.units, self._names)
        return self._found[key]

    @cached_property
    def earlier_runs(self) -> Mapping[int, str]:
        """The client of an earlier run that is not over yet, for those of the jobs that wait for its end."""
        waiting = [row.id for row in self._rows if row.status == JobStatus.RUNNABLE]
        found = self._connection.execute(_EARLIER_RUNS, {"jobs": waiting}) if waiting else ()
        return {row.open_job_id: client_label(row.hostname, row.name) for row in found}

    def waits_for(self, row: Any) -> str:
        """Return in a sentence what a job waits for, "" for one that does not wait."""
        if row.status == JobStatus.RUNNABLE:
            earlier = self.earlier_runs.get(row.id)
            if earlier is not None:
                return f"waits for its earlier run on {earlier} to end"
            return self.clients(row).summary
        if row.status == JobStatus.QUEUED:
            count, total = row.children_unsettled, row.children_total
            what = f"{count} of its {total} children to finish" if count else "its children to be rescheduled"
            return f"waits for {what}"
        return _WAITS.get(JobStatus(row.status), "")

    def clients_on_hold(self, job_id: int) -> list[dict[str, Any]]:
        """Return the clients that the latest tick kept for a job."""
        hold = self._holds.get(job_id)
        if hold is None or not hold.clients:
            return []
        facts = {view.id: view.facts for view in self._reader.clients(self._connection)}
        return [shown_client(each, facts[each], master=False) for each in hold.clients if each in facts]

    def _held_for_others(self, row: Any) -> tuple[Hold, ...]:
        """Return what is kept for jobs that come before."""
        if not self._holds:
            return ()
        rank = (-row.priority, row.root_id, row.id)
        return tuple(hold for hold in self._holds.values() if hold.rank < rank)


def resources_of(connection: sa.Connection, wanted: Requirement, farm: FarmView) -> list[dict[str, Any]]:
    """Return how it stands with the resources that a job wants."""
    rows = {row.name: row for row in connection.execute(sa.select(resource))}
    return [
        {
            "name": name,
            "wanted": amount,
            "max": rows[name].maximum if name in rows else 0,
            "used": farm.units.used.get(name, 0),
            "perMachine": bool(rows[name].per_machine) if name in rows else False,
            "known": name in rows,
        }
        for name, amount in wanted.resources
    ]


def jobs_ahead(connection: sa.Connection, row: Any) -> int:
    """Return how many runnable jobs come before a job in the queue's order."""
    before = sa.or_(
        job.c.priority > row.priority,
        sa.and_(job.c.priority == row.priority, job.c.root_id < row.root_id),
        sa.and_(job.c.priority == row.priority, job.c.root_id == row.root_id, job.c.id < row.id),
    )
    query = sa.select(job.c.id).where(job.c.status == JobStatus.RUNNABLE, before).limit(_MOST_AHEAD)
    return int(connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one())


_EARLIER_RUNS: Final = (
    sa.select(run.c.open_job_id, client.c.hostname, client.c.name)
    .join(client, client.c.id == run.c.client_id)
    .where(run.c.open_job_id.in_(listed("jobs")))
)


def shown_client(client_id: int, named: Any, *, master: bool) -> dict[str, Any]:
    """Return a client of a job for the wire; `master`: the command runs there."""
    return {"id": client_id, "clientId": client_id, "hostname": named.hostname, "name": named.name, "master": master}
