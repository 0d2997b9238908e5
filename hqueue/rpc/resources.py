"""The resources: what jobs ask for by name and number."""
# ruff: noqa: N802 - methods have the names that they have on the wire

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue.rpc import arguments
from hqueue.rpc.method import exposed
from hqueue.rpc.resourceuse import used_resources
from hqueue.schema import resource

if TYPE_CHECKING:
    from hqueue.store import Store


class Resources:
    """The methods about resources."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

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
            used = used_resources(connection)
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
