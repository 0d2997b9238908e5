"""Which clients a name means: `hostname`, `hostname:name`, or `hostname:` for the unnamed one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.matching import same_host
from hqueue.schema import client

if TYPE_CHECKING:
    from collections.abc import Sequence

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
