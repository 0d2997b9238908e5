"""The resources: what jobs ask for by name and number."""
# ruff: noqa: A002, N802 - methods and arguments have the names that they have on the wire

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import wire
from hqueue.context import Chapter
from hqueue.database import insert_row
from hqueue.errors import DuplicateNameError, InvalidArgumentError, JobStateError, UnknownResourceError
from hqueue.rpc import arguments
from hqueue.rpc.arguments import shown
from hqueue.rpc.method import exposed
from hqueue.schema import resource
from hqueue.store import WakeScheduler

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hqueue.store import Session

_LONGEST_NAME: Final = 255
_BIGGEST: Final = 2**31 - 1
_PROPERTIES: Final = ("max", "name", "perMachine")


class Resources(Chapter):
    """The methods about resources."""

    @exposed()
    def getResources(self, ids: Any = None) -> list[dict[str, Any]]:
        """Return resources: all, by id, or those asked for, in the order asked; unknown ids are skipped.

        Shapes: {id, name, max, used, perMachine}. max is None without a limit. used counts each open run, or, per
        machine, each client once, with the largest amount of its runs.
        Source: 17.
        """
        wanted = arguments.optional_ids(ids, "ids")
        with self._store.reading() as connection:
            rows = {row.id: row for row in connection.execute(sa.select(resource).order_by(resource.c.id))}
            used = self._farm.read(connection).units.used
        return [
            {
                "id": row.id,
                "name": row.name,
                "max": row.maximum,
                "used": used[row.name],
                "perMachine": row.per_machine,
            }
            for row in (rows.values() if wanted is None else (rows[each] for each in wanted if each in rows))
        ]

    @exposed()
    def createResource(self, name: Any, max: Any, per_machine: Any = False) -> Future[int]:
        """Create a resource and return its id.

        Shapes: max is how much of it there is, None for no limit; per_machine: a client takes it once, however many
        of its jobs want it.
        Errors: DuplicateNameError; InvalidArgumentError for a name that is blank or longer than 255 characters, and
        for a negative max.
        Source: ours.
        """
        wanted = _name(name, "name")
        values = {
            "name": wanted,
            "maximum": _maximum(max, "max"),
            "per_machine": arguments.flag(per_machine, "per_machine"),
        }

        def write(session: Session) -> int:
            _refuse_taken(session, wanted, "name")
            session.after_commit(WakeScheduler())
            return insert_row(session.connection, resource, values)

        return self._store.write_soon(write)

    @exposed()
    def setResource(self, id: Any, properties: Any) -> Future[bool]:
        """Change a resource; return True.

        Shapes: properties is a dict with some of max, name, perMachine. A max below what is in use ends no job: no
        new ones start until enough have ended. name and perMachine change only while nothing is in use.
        Errors: UnknownResourceError, DuplicateNameError, InvalidArgumentError; JobStateError while it is in use.
        Source: ours.
        """
        key = arguments.one_id(id, "id")
        values = _changes(properties)

        def write(session: Session) -> bool:
            row = _existing(session, key, id)
            if values.get("name", row.name) != row.name:
                _refuse_taken(session, values["name"], "properties.name")
            for column, name in (("name", "name"), ("per_machine", "perMachine")):
                # What runs took it as it was, under the name it had: it would not be counted any more.
                if values.get(column, getattr(row, column)) != getattr(row, column):
                    used = self._farm.read(session.connection).units.used[row.name]
                    if used:
                        raise JobStateError(f"{used} of {shown(row.name)} are in use; set {name} when none are")
            if values:
                session.connection.execute(sa.update(resource).where(resource.c.id == key).values(values))
            session.after_commit(WakeScheduler())
            return True

        return self._store.write_soon(write)

    @exposed()
    def deleteResource(self, id: Any) -> Future[bool]:
        """Delete a resource; return True.

        Jobs that run with it go on; those that want it wait until somebody creates it again.
        Errors: UnknownResourceError.
        Source: ours.
        """
        key = arguments.one_id(id, "id")

        def write(session: Session) -> bool:
            _existing(session, key, id)
            session.connection.execute(sa.delete(resource).where(resource.c.id == key))
            return True

        return self._store.write_soon(write)


def _existing(session: Session, key: int, given: Any) -> Any:
    row = session.connection.execute(sa.select(resource).where(resource.c.id == key)).one_or_none()
    if row is None:
        raise UnknownResourceError(f"id is {shown(given)}, but there is no resource with this id")
    return row


def _refuse_taken(session: Session, name: str, argument: str) -> None:
    if session.connection.execute(sa.select(resource.c.id).where(resource.c.name == name)).first() is not None:
        raise DuplicateNameError(f"{argument}: there is a resource {shown(name)} already")


def _changes(properties: Any) -> dict[str, Any]:
    if not isinstance(properties, dict):
        raise InvalidArgumentError(f"properties is {shown(properties)}, but a dict of properties was expected")
    for name in properties:
        if name not in _PROPERTIES:
            raise InvalidArgumentError(
                f"properties: {shown(name)} cannot be set; these can: {', '.join(_PROPERTIES)}",
            )
    values: dict[str, Any] = {}
    if "name" in properties:
        values["name"] = _name(properties["name"], "properties.name")
    if "max" in properties:
        values["maximum"] = _maximum(properties["max"], "properties.max")
    if "perMachine" in properties:
        values["per_machine"] = arguments.flag(properties["perMachine"], "properties.perMachine")
    return values


def _name(value: Any, argument: str) -> str:
    name = wire.scrub(arguments.text(value, argument)).strip()
    if not name or len(name) > _LONGEST_NAME:
        raise InvalidArgumentError(f"{argument} is {shown(value)}, but a name of 1 to 255 characters was expected")
    return name


def _maximum(value: Any, argument: str) -> int | None:
    if value is None or value == "":
        return None
    number = arguments.integer(value, argument)
    if not 0 <= number <= _BIGGEST:
        raise InvalidArgumentError(f"{argument} is {shown(value)}, but a number from 0, or None, was expected")
    return number
