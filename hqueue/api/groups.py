"""The groups of clients."""
# ruff: noqa: A002, N802 - methods and arguments have the names that they have on the wire

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import wire
from hqueue.context import Chapter
from hqueue.database import insert_row, listed
from hqueue.errors import DuplicateNameError, InvalidArgumentError, UnknownClientError, UnknownGroupError
from hqueue.rpc.arguments import attributes, one_id, optional_ids, shown, text
from hqueue.rpc.method import exposed
from hqueue.schema import client, client_group, client_group_member
from hqueue.store import WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from hqueue.store import Session

GROUP_ATTRIBUTES: Final = ("clients", "id", "name")
_LONGEST_NAME: Final = 255


class Groups(Chapter):
    """The methods about groups of clients."""

    @exposed()
    def getClientGroups(self, ids: Any = None, attribs: Any = None) -> list[dict[str, Any]]:
        """Return attributes of groups: of all, by id, or of those asked for, in the order asked.

        Shapes: attributes are clients (the ids of its members), id, name. Unknown ids are skipped.
        Errors: UnknownAttributeError.
        Source: 12.
        """
        return self._fetch(optional_ids(ids, "ids"), _names(attribs))

    @exposed()
    def getClientGroup(self, id: Any, attribs: Any = None) -> dict[str, Any] | None:
        """Return attributes of one group, None for an unknown id.

        Errors: UnknownAttributeError.
        Source: 17.
        """
        found = self._fetch([one_id(id, "id")], _names(attribs))
        return found[0] if found else None

    @exposed()
    def getClientGroupByName(self, name: Any, attribs: Any = None) -> dict[str, Any] | None:
        """Return attributes of the group with a name, None for an unknown one.

        Errors: UnknownAttributeError.
        Source: 17.
        """
        wanted, names = wire.scrub(text(name, "name")).strip(), _names(attribs)
        with self._store.reading() as connection:
            group_id = connection.execute(sa.select(client_group.c.id).where(client_group.c.name == wanted)).scalar()
            return None if group_id is None else _fetch(connection, [group_id], names)[0]

    @exposed()
    def createClientGroup(self, name: Any) -> Future[int]:
        """Create a group without members and return its id.

        Errors: DuplicateNameError; InvalidArgumentError for a name that is blank or longer than 255 characters.
        Source: 17.
        """
        wanted = wire.scrub(text(name, "name")).strip()  # as conditions name it
        if not wanted or len(wanted) > _LONGEST_NAME:
            raise InvalidArgumentError(f"name is {shown(name)}, but a name of 1 to 255 characters was expected")

        def write(session: Session) -> int:
            known = sa.select(client_group.c.id).where(client_group.c.name == wanted)
            if session.connection.execute(known).first() is not None:
                raise DuplicateNameError(f"name: there is a client group {shown(wanted)} already")
            return insert_row(session.connection, client_group, {"name": wanted})

        return self._store.write_soon(write)

    @exposed()
    def deleteClientGroup(self, id: Any) -> Future[bool]:
        """Delete a group; its clients stay.

        Returns: True.
        Errors: UnknownGroupError.
        Source: 17.
        """
        key = one_id(id, "id")

        def write(session: Session) -> bool:
            if not session.connection.execute(sa.delete(client_group).where(client_group.c.id == key)).rowcount:
                raise _unknown_group("id", id)
            session.after_commit(WakeScheduler())
            return True

        return self._store.write_soon(write)

    @exposed()
    def addClientToGroup(self, group_id: Any, client_id: Any) -> Future[bool]:
        """Make a client a member of a group; one that is a member already stays one.

        Returns: True.
        Errors: UnknownGroupError, UnknownClientError.
        Source: 17.
        """
        member = {"group_id": one_id(group_id, "group_id"), "client_id": one_id(client_id, "client_id")}

        def write(session: Session) -> bool:
            _check(session, group_id, client_id)
            if not _is_member(session, member):
                session.connection.execute(sa.insert(client_group_member).values(member))
                session.after_commit(WakeScheduler())
            return True

        return self._store.write_soon(write)

    @exposed()
    def removeClientFromGroup(self, group_id: Any, client_id: Any) -> Future[bool]:
        """Take a client out of a group; nothing happens to one that is no member.

        Returns: True.
        Errors: UnknownGroupError, UnknownClientError.
        Source: 17.
        """
        key, other = one_id(group_id, "group_id"), one_id(client_id, "client_id")

        def write(session: Session) -> bool:
            _check(session, group_id, client_id)
            columns = client_group_member.c
            session.connection.execute(
                sa.delete(client_group_member).where(columns.group_id == key, columns.client_id == other),
            )
            session.after_commit(WakeScheduler())
            return True

        return self._store.write_soon(write)

    def _fetch(self, group_ids: Sequence[int] | None, names: Sequence[str]) -> list[dict[str, Any]]:
        with self._store.reading() as connection:
            return _fetch(connection, group_ids, names)


def _names(attribs: Any) -> list[str]:
    return attributes(attribs, GROUP_ATTRIBUTES, GROUP_ATTRIBUTES)


def _fetch(connection: sa.Connection, group_ids: Sequence[int] | None, names: Sequence[str]) -> list[dict[str, Any]]:
    query = sa.select(client_group.c.id, client_group.c.name).order_by(client_group.c.id)
    if group_ids is None:
        rows = list(connection.execute(query))
    else:
        these = query.where(client_group.c.id.in_(listed("groups")))
        by_id = {row.id: row for row in connection.execute(these, {"groups": group_ids})}
        rows = [by_id[each] for each in group_ids if each in by_id]
    members = _members(connection, [row.id for row in rows]) if "clients" in names else {}
    values = ({"clients": members.get(row.id, []), "id": row.id, "name": row.name} for row in rows)
    return [{name: each[name] for name in names} for each in values]


def _members(connection: sa.Connection, group_ids: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    query = (
        sa.select(client_group_member.c.group_id, client_group_member.c.client_id)
        .join(client, client.c.id == client_group_member.c.client_id)
        .where(client_group_member.c.group_id.in_(listed("groups")), ~client.c.forgotten)
        .order_by(client_group_member.c.client_id)
    )
    for group_id, client_id in connection.execute(query, {"groups": group_ids}):
        found[group_id].append(client_id)
    return found


def _check(session: Session, group_id: Any, client_id: Any) -> None:
    """Refuse a group or a client that does not exist."""
    group = sa.select(client_group.c.id).where(client_group.c.id == one_id(group_id, "group_id"))
    if session.connection.execute(group).first() is None:
        raise _unknown_group("group_id", group_id)
    known = sa.select(client.c.id).where(client.c.id == one_id(client_id, "client_id"), ~client.c.forgotten)
    if session.connection.execute(known).first() is None:
        raise UnknownClientError(f"client_id is {shown(client_id)}, but there is no client with this id")


def _is_member(session: Session, member: dict[str, int]) -> bool:
    query = sa.select(client_group_member.c.group_id).filter_by(**member)
    return session.connection.execute(query).first() is not None


def _unknown_group(name: str, value: Any) -> UnknownGroupError:
    return UnknownGroupError(f"{name} is {shown(value)}, but there is no client group with this id")
