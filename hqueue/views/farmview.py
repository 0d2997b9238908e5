"""The farm as a plan sees it: its clients with what they hold, and what is in use of its resources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle.requirements import read_requirement
from hqueue.matching import ClientFacts, ClientView, FarmNames, Requirement, Standing, Units, open_now, os_of
from hqueue.matching.resources import Resource
from hqueue.matching.rules import read_rules
from hqueue.schema import client, client_group, client_group_member, requirement, reservation, resource, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, tzinfo

    from hqueue.clock import Clock
    from hqueue.live import LiveFarm
    from hqueue.matching import Rule

_NO_GROUPS: Final[frozenset[str]] = frozenset()


class _Known(NamedTuple):
    """What was made of a client's row, to be used again while the row stays the same."""

    columns: tuple[Any, ...]
    facts: ClientFacts
    standing: Standing | None  # None where it may change without the row


def _known(row: Any, groups: frozenset[str], before: _Known | None) -> _Known:
    facts = ClientFacts(row.id, row.hostname, row.name, os_of(row.platform), groups, row.cpus, row.cpu_speed)
    if before is not None and before.facts == facts:
        facts = before.facts
    return _Known(tuple(row), facts, Standing.LOST if row.lost else None)


@dataclass(frozen=True, slots=True)
class FarmView:
    """A snapshot of the farm."""

    clients: list[ClientView]
    units: Units


class FarmReader:
    """Reads the farm, for any number of threads; what has not changed since the last time is not built again.

    What is kept is replaced, never emptied: another thread may be reading it.
    `zone` is that of the availability rules: None for the machine's own.
    """

    def __init__(
        self, live_farm: LiveFarm, clock: Clock, zone: tzinfo | None = None, *, most_kept: int = 50_000
    ) -> None:
        self.live_farm = live_farm
        self._most_kept = most_kept
        self._clock = clock
        self._zone = zone
        self._known: dict[int, _Known] = {}
        self._requirements: dict[int, Requirement] = {}  # by id, as far as they were asked for

    def read(self, connection: sa.Connection) -> FarmView:
        """Return the farm as it is."""
        clients = self.clients(connection)
        resources = connection.execute(_RESOURCES)
        units = Units({row.name: Resource(row.maximum, bool(row.per_machine)) for row in resources})
        by_id = {view.facts.id: view for view in clients}
        undelivered = self.live_farm.undelivered()
        statement = _IN_USE_BUT_ENDED if undelivered else _IN_USE
        use = connection.execute(statement, {"ended": [*undelivered]} if undelivered else {}).all()
        known = self.requirements(connection, {row[1] for row in use})
        for client_id, requirement_id, kind, count in use:
            view = by_id.get(client_id)
            if view is None:  # one that is forgotten: what it holds is in use all the same
                view = by_id[client_id] = ClientView(ClientFacts(client_id, "", "", "", _NO_GROUPS, 0))
            wanted = known[requirement_id]
            view.occupy(wanted, count)
            if wanted.resources and kind != _FENCED:
                units.take(wanted, view, times=count, first=kind == _COMMAND)
        return FarmView(clients, units)

    def clients(self, connection: sa.Connection) -> list[ClientView]:
        """Return the clients as if nothing ran on them."""
        now = self._clock.now()
        local = now.astimezone(self._zone)
        members: dict[int, set[str]] = {}
        for client_id, name in connection.execute(_MEMBERS).all():
            members.setdefault(client_id, set()).add(name)
        kept: dict[int, _Known] = {}
        views = []
        for row in connection.execute(_CLIENTS).all():
            client_id, columns = row[0], tuple(row)
            groups = members.get(client_id, _NO_GROUPS)
            known = self._known.get(client_id)
            if known is None or known.columns != columns or known.facts.groups != groups:
                known = _known(row, frozenset(groups), known)
            kept[client_id] = known
            standing = known.standing
            if standing is None:
                standing = self.standing(row, local)
            views.append(ClientView(known.facts, standing))
        self._known = kept
        return views

    def standing(self, row: Any, local: datetime | None = None) -> Standing:
        """Return why a client takes no job at all, by its row.

        Shapes: the row has id, lost, terminating, condemned, disabled, rules_json and refused_until.
        """
        if row.lost:
            return Standing.LOST
        live = self.live_farm.clients.get(row.id)
        if row.terminating or (live is not None and live.terminating):
            return Standing.TERMINATING
        if row.condemned or (live is not None and (live.condemned or live.unheard)):
            return Standing.CONDEMNED
        if row.disabled:
            return Standing.DISABLED
        if row.rules_json != "[]":
            local = local or self._clock.now().astimezone(self._zone)
            idle_minutes = live.idle_minutes if live is not None else -1
            if not open_now(_rules(row.rules_json), local, idle_minutes):
                return Standing.CLOSED
        return Standing.RESTING if row.refused_until > self._clock.steady_ms() else Standing.TAKES_WORK

    def requirements(self, connection: sa.Connection, keys: Iterable[int]) -> Mapping[int, Requirement]:
        """Return the requirements known so far; those asked for are among them."""
        known = self._requirements
        if len(known) > self._most_kept:
            known = self._requirements = {}
        missing = [key for key in keys if key not in known]
        for key, text in connection.execute(_REQUIREMENTS, {"keys": missing}) if missing else ():
            known[key] = read_requirement(text)
        return known


def farm_names(connection: sa.Connection, clients: Sequence[ClientView]) -> FarmNames:
    """Return the names that conditions may mean."""
    groups = frozenset(connection.execute(sa.select(client_group.c.name)).scalars())
    return FarmNames(groups, [view.facts for view in clients])


def run_times(connection: sa.Connection) -> dict[int, list[int]]:
    """Return when the open runs of each client were assigned."""
    found: dict[int, list[int]] = {}
    for client_id, assigned_at in connection.execute(_TIMES):
        found.setdefault(client_id, []).append(assigned_at)
    return found


@lru_cache(maxsize=1024)
def _rules(text: str) -> tuple[Rule, ...]:
    return read_rules(json.loads(text))


# Statements that every tick runs are built once: building one costs as much as running it.
_CLIENTS: Final = (
    sa.select(
        client.c.id,
        client.c.hostname,
        client.c.name,
        client.c.platform,
        client.c.cpus,
        client.c.cpu_speed,
        client.c.refused_until,
        client.c.lost,
        client.c.terminating,
        client.c.condemned,
        client.c.disabled,
        client.c.rules_json,
    )
    .where(~client.c.forgotten)
    .order_by(client.c.id)
)
_MEMBERS: Final = sa.select(client_group_member.c.client_id, client_group.c.name).join(
    client_group,
    client_group.c.id == client_group_member.c.group_id,
)
_RESOURCES: Final = sa.select(resource.c.name, resource.c.maximum, resource.c.per_machine)
_REQUIREMENTS: Final = sa.select(requirement.c.id, requirement.c.spec_json).where(
    requirement.c.id.in_(listed("keys")),
)
_COMMAND, _RESERVED, _FENCED = 0, 1, 2


# One query per index: an OR over all would read every run there ever was. A run that was given up holds its client's
# CPUs until it is proved dead, but no resources (SPEC 4.5). Grouped by the client first, SQLite would read all runs in
# the order of the index by client.
def _in_use(*holding: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    """Return the statement that counts what is in use; open runs count as far as they hold something."""
    return sa.union_all(
        sa.select(run.c.client_id, run.c.requirement_id, sa.literal(_COMMAND), sa.func.count())
        .where(run.c.open_job_id > 0, *holding)
        .group_by(run.c.requirement_id, run.c.client_id),
        sa.select(reservation.c.client_id, run.c.requirement_id, sa.literal(_RESERVED), sa.func.count())
        .join(run, run.c.id == reservation.c.run_id)
        .where(run.c.open_job_id > 0, *holding)
        .group_by(run.c.requirement_id, reservation.c.client_id),
        sa.select(run.c.client_id, run.c.requirement_id, sa.literal(_FENCED), sa.func.count())
        .where(run.c.fenced, run.c.hook == "")
        .group_by(run.c.requirement_id, run.c.client_id),
    )


_IN_USE: Final = _in_use()
# What has ended, but for output that the server cannot take, holds nothing any more (SPEC 6.7).
_IN_USE_BUT_ENDED: Final = _in_use(run.c.id.not_in(listed("ended")))
_TIMES: Final = sa.union_all(
    sa.select(run.c.client_id, run.c.assigned_at).where(run.c.open_job_id > 0),
    sa.select(reservation.c.client_id, run.c.assigned_at)
    .join(run, run.c.id == reservation.c.run_id)
    .where(run.c.open_job_id > 0),
    sa.select(run.c.client_id, run.c.assigned_at).where(run.c.fenced, run.c.hook == ""),
)
