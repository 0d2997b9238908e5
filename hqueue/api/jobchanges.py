"""What can be changed of jobs that are in the queue: priority, properties, the clients they may go to."""
# ruff: noqa: N802 - methods have the names that they have on the wire

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import jobspec
from hqueue.context import Chapter
from hqueue.database import listed
from hqueue.errors import InvalidArgumentError, JobStateError, UnknownJobError
from hqueue.lifecycle import blocklist
from hqueue.lifecycle.bulk import spread
from hqueue.lifecycle.hooks import field_of
from hqueue.lifecycle.properties import PROPERTIES, Part, hooks_json, values_of, watch
from hqueue.lifecycle.requirements import read_requirement, requirement_id
from hqueue.lifecycle.spreading import Change, set_priority
from hqueue.lifecycle.status import count_in
from hqueue.lifecycle.trees import is_counted
from hqueue.matching import Condition, conditions_as_dicts, conditions_from
from hqueue.outbox.addresses import complaints
from hqueue.rpc import arguments
from hqueue.rpc.method import exposed
from hqueue.schema import job, job_row, job_spec, requirement
from hqueue.states import Hook
from hqueue.store import WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from hqueue.jobspec import JobSpec
    from hqueue.store import Session

_PROPERTIES_CHANGED: Final = "properties changed"


class JobChanges(Chapter):
    """The methods that change jobs other than by an action."""

    @exposed()
    def setJobPriority(self, ids: Any, priority: Any) -> Future[bool]:
        """Set the priority of jobs, and of everything unsettled below them; return True.

        Unknown ids are skipped; a negative priority is 0. The jobs named change at once, what is below them in the
        moments after.
        Errors: InvalidSpecError for what is no priority, InvalidArgumentError for None.
        Source: ours.
        """
        wanted = arguments.ids(ids, "ids")
        if priority is None:
            raise InvalidArgumentError("priority is None, but a whole number was expected")
        value = jobspec.parse({"name": "-", "priority": priority}, max_depth=1).jobs[0].priority or 0

        def write(session: Session) -> bool:
            _set_priority(session, wanted, value)
            return True

        return self._store.write_soon(write)

    @exposed()
    def setJobProperties(self, ids: Any, properties: Any) -> Future[bool]:
        """Set properties of jobs, as a specification gives them; return True.

        Shapes: properties is a dict; it may hold what a specification may, but for children, parents and stubs. A
        command and an environment hold from the next attempt on; conditions of a root also for those descendants that
        have none of their own; a priority for everything unsettled below too. Unknown ids are skipped.
        Errors: InvalidSpecError, InvalidArgumentError; JobStateError where a job would get or lose its command.
        Source: ours.
        """
        wanted = arguments.ids(ids, "ids")
        if not isinstance(properties, dict):
            shown = arguments.shown(properties)
            raise InvalidArgumentError(f"properties is {shown}, but a dict of properties was expected")
        for name in properties:
            if name not in _CHANGEABLE:
                raise InvalidArgumentError(
                    f"properties: {arguments.shown(name)} cannot be set; these can: {', '.join(sorted(_CHANGEABLE))}",
                )
            if properties[name] is None and name in _CONDITIONS_NAMES:  # nobody opens a job to all clients unawares
                raise InvalidArgumentError(
                    f"properties.{name} is None, but conditions were expected; [] permits all clients",
                )
        spec = jobspec.parse({"name": "-", **properties}, max_depth=1).jobs[0]

        def write(session: Session) -> bool:
            self._set_properties(session, wanted, frozenset(properties) - {"priority"}, spec)
            if "priority" in properties:
                _set_priority(session, wanted, spec.priority or 0)
            return True

        return self._store.write_soon(write)

    @exposed()
    def clearBlocks(self, ids: Any) -> Future[bool]:
        """Give clients on which too many jobs of a tree failed jobs of that tree again; return True.

        All jobs below the same root count together: any of them names the tree. Unknown ids are skipped.
        Source: ours.
        """
        wanted = arguments.ids(ids, "ids")

        def write(session: Session) -> bool:
            blocklist.clear(session, wanted)
            return True

        return self._store.write_soon(write)

    @exposed()
    def getPermittedClientsList(self, job_id: Any) -> list[str] | None:
        """Return the labels of the clients that meet a job's conditions, None for an unknown job.

        Shapes: `host`, `host:name`, and `host:` for the unnamed client of a host where not every client is permitted.
        Without conditions: all clients.
        Source: 17.
        """
        with self._store.reading() as connection:
            text = connection.execute(_CONDITIONS, {"job": arguments.one_id(job_id, "job_id")}).scalar()
            if text is None:
                return None
            views = [view.facts for view in self._farm.clients(connection)]
        conditions = read_requirement(text).conditions
        permitted = [view for view in views if all(condition.holds(view) for condition in conditions)]
        kept = {view.id for view in permitted}
        split = {view.hostname for view in views if view.id not in kept}
        return [f"{view.hostname}:" if not view.name and view.hostname in split else view.label for view in permitted]

    @exposed()
    def savePermittedClientsList(self, job_id: Any, clients: Any) -> Future[bool]:
        """Let a job run on these clients alone; return True.

        It replaces the job's conditions; those of a root also for the descendants that have none of their own.
        Shapes: `host` (any client there), `host:name`, `host:` (the unnamed one); [] permits everybody.
        Errors: UnknownJobError; InvalidArgumentError for what is no list of names.
        Source: 17.
        """
        key, conditions = arguments.one_id(job_id, "job_id"), _permitting(clients)

        def write(session: Session) -> bool:
            status = _status(session, key, job_id)
            self._set_conditions(session, [key], conditions)
            session.record(key, _PROPERTIES_CHANGED, status, "conditions")
            session.after_commit(WakeScheduler())
            return True

        return self._store.write_soon(write)

    @exposed()
    def setShowBlockedClientsWarning(self, job_id: Any, state: Any) -> Future[bool]:
        """Say whether people are to be warned of clients that are blocked for a job; return True.

        Errors: UnknownJobError.
        Source: 17.
        """
        key, value = arguments.one_id(job_id, "job_id"), arguments.flag(state, "state")

        def write(session: Session) -> bool:
            _status(session, key, job_id)
            query = sa.update(job_spec).where(job_spec.c.job_id == key)
            session.connection.execute(query.values(show_blocked_warning=value))
            return True

        return self._store.write_soon(write)

    def _set_properties(self, session: Session, ids: Sequence[int], names: frozenset[str], spec: JobSpec) -> None:
        query = sa.select(job.c.id, job.c.status, job.c.has_command).where(_THESE).order_by(job.c.id)
        rows = session.connection.execute(query, {"jobs": ids}).all()
        if "command" in names:
            _refuse_other_kind(rows, spec)
        found = [row.id for row in rows]
        _set_columns(session, job_row.c.id, found, values_of(Part.JOB, spec, names))
        _set_columns(session, job_spec.c.job_id, found, values_of(Part.SPEC, spec, names))
        if "tags" in names:
            count_in(session, found, is_counted(spec.tags))
        hooks = values_of(Part.HOOKS, spec, names)
        if hooks:
            _set_hooks(session, found, hooks)
            _note_idle(session, rows, hooks)
        if names & _WATCHED:
            watch(session, found)
            _note_untold(session, rows, values_of(Part.SPEC, spec, names & {"emailTo", "webhook"}))
        if names & _CONDITIONS_NAMES:
            self._set_conditions(session, found, conditions_from(spec.conditions or ()))
        changes = values_of(Part.REQUIREMENT, spec, names)
        if names & _STARTED_WITH:
            changes["refused"] = ()  # clients that could not start it so may be able to now
        if changes:
            self._replace(session, found, changes)
        for row in rows if names else ():
            session.record(row.id, _PROPERTIES_CHANGED, row.status, ", ".join(sorted(names)))
        session.after_commit(WakeScheduler())

    def _set_conditions(self, session: Session, ids: Sequence[int], conditions: tuple[Condition, ...]) -> None:
        """Give jobs conditions of their own, and what is below roots among them and has the root's."""
        self._replace(session, ids, {"conditions": conditions})
        own = sa.update(job_spec).where(_SPECS_OF_THESE).values(inherits_conditions=False)
        session.connection.execute(own, {"jobs": ids})
        spread(session, Change.CONDITIONS, ids, conditions_as_dicts(conditions))

    def _replace(self, session: Session, ids: Sequence[int], changes: Mapping[str, Any]) -> None:
        """Move jobs to requirements that differ from their own; a statement per different one, not per job."""
        connection = session.connection
        query = sa.select(requirement.c.id, requirement.c.spec_json).where(
            requirement.c.id.in_(sa.select(job.c.requirement_id).where(_THESE)),
        )
        for old_id, text in connection.execute(query, {"jobs": ids}).all():
            old = read_requirement(text)
            new = replace(old, **changes)
            if new.min_hosts > new.max_hosts:
                raise InvalidArgumentError(
                    f"properties: minHosts would be {new.min_hosts} and maxHosts {new.max_hosts}; it must not be more",
                )
            if new != old:
                new_id = requirement_id(session, new)
                moved = (
                    sa.update(job_row)
                    .where(job_row.c.id.in_(listed("jobs")), job_row.c.requirement_id == old_id)
                    .values(requirement_id=new_id)
                )
                connection.execute(moved, {"jobs": ids})


_THESE: Final = job.c.id.in_(listed("jobs"))
_SPECS_OF_THESE: Final = job_spec.c.job_id.in_(listed("jobs"))


def _refuse_other_kind(rows: Sequence[Any], spec: JobSpec) -> None:
    """Refuse to give a job its first command, or to take its command away: its status depends on having one."""
    for row in rows:
        if row.has_command != (spec.command is not None):
            has = "a" if row.has_command else "no"
            raise JobStateError(f"job {row.id} has {has} command, and that cannot be changed; submit another job")


def _set_hooks(session: Session, ids: Sequence[int], hooks: Mapping[str, Any]) -> None:
    query = sa.select(job_spec.c.job_id, job_spec.c.hooks_json).where(_SPECS_OF_THESE)
    rows: list[dict[str, Any]] = []
    for job_id, text in session.connection.execute(query, {"jobs": ids}):
        rows.append({"key_id": job_id, "hooks": hooks_json({**(json.loads(text) if text else {}), **hooks})})
    if rows:
        this = sa.update(job_spec).where(job_spec.c.job_id == sa.bindparam("key_id"))
        session.connection.execute(this.values(hooks_json=sa.bindparam("hooks")), rows)


def _note_idle(session: Session, rows: Sequence[Any], hooks: Mapping[str, Any]) -> None:
    """Say in the logs of jobs without a command that hooks never run there."""
    idle = [name for name in jobspec.COMMANDS_HOOKS if hooks.get(field_of(Hook(name)))]
    for row in rows:
        if idle and not row.has_command:
            session.record(row.id, "note", row.status, jobspec.never_run(idle))


def _note_untold(session: Session, rows: Sequence[Any], given: Mapping[str, Any]) -> None:
    """Say in the logs of jobs which addresses will be told nothing."""
    lines = complaints(session.policy, given.get("email_to", ""), given.get("webhook"))
    for row in rows:
        for line in lines:
            session.record(row.id, "note", row.status, line)


def _set_columns(session: Session, key: sa.Column[Any], ids: Sequence[int], columns: Mapping[str, Any]) -> None:
    """Set columns of a table for some jobs."""
    if columns:
        these = sa.update(key.table).where(key.in_(listed("jobs")))
        session.connection.execute(these.values(columns), {"jobs": ids})


def _set_priority(session: Session, ids: Sequence[int], priority: int) -> None:
    query = sa.select(job.c.id, job.c.status, job.c.priority).where(_THESE).order_by(job.c.id)
    rows = session.connection.execute(query, {"jobs": ids}).all()
    set_priority(session, rows, priority)
    spread(session, Change.PRIORITY, [row.id for row in rows], priority)


def _status(session: Session, job_id: int, given: Any) -> str:
    status = session.connection.execute(sa.select(job.c.status).where(job.c.id == job_id)).scalar()
    if status is None:
        raise UnknownJobError(f"job_id is {arguments.shown(given)}, but there is no job with this id")
    return str(status)


def _permitting(clients: Any) -> tuple[Condition, ...]:
    """Return the conditions that let clients in by their names."""
    listed = [clients] if isinstance(clients, str) and clients else clients
    if not isinstance(listed, (list, tuple)):
        shown = arguments.shown(clients)
        raise InvalidArgumentError(f"clients is {shown}, but a list of hostnames was expected")
    names = [arguments.text(each, f"clients[{place}]").strip() for place, each in enumerate(listed)]
    for place, name in enumerate(names):
        # A whole name may hold a separator; where there are several, each would fall apart.
        hostname, _, client = name.partition(":")
        if not hostname.strip(" ,;") or ":" in client or (len(names) > 1 and ("," in name or ";" in name)):
            raise InvalidArgumentError(
                f"clients[{place}] is {arguments.shown(name)}, but a hostname, or hostname:name, was expected",
            )
    return (Condition("hostname:name", "in", ",".join(names)),) if names else ()


_CONDITIONS: Final = (
    sa.select(requirement.c.spec_json)
    .join(job, job.c.requirement_id == requirement.c.id)
    .where(job.c.id == sa.bindparam("job"))
)
_CONDITIONS_NAMES: Final = frozenset({"conditions", "host", "hostgroup"})
_STARTED_WITH: Final = frozenset({"command", "environment", "shell"})
_WATCHED: Final = frozenset({*Hook, "emailTo", "emailReasons", "webhook"})
_CHANGEABLE: Final = PROPERTIES.keys() | _CONDITIONS_NAMES
