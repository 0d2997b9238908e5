"""What went wrong lately, on the server and on its clients."""
# ruff: noqa: N802 - methods have the names that they have on the wire

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue.clock import from_ms, to_ms
from hqueue.context import Chapter
from hqueue.lifecycle import troubles
from hqueue.rpc import arguments
from hqueue.rpc.method import exposed
from hqueue.schema import client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Troubles(Chapter):
    """The methods that list errors."""

    @exposed()
    def getServerErrors(self) -> dict[str, Any]:
        """Return the errors that the server met in the last 30 days, at most 1,000, newest first.

        Shapes: {total, errors: [{date, message, count}]}; equal messages are one entry with the date of the last, and
        total is the sum of the counts. The server's log tells more of each.
        Source: 17.
        """
        now_ms = to_ms(self._clock.now())
        unsaved = self._errors.pending()
        with self._store.reading() as connection:
            return _shown(troubles.recent(connection, now_ms), unsaved, now_ms)

    @exposed()
    def getClientErrors(self, client_id: Any) -> dict[str, Any]:
        """Return what went wrong on a client in the last 30 days, as getServerErrors; {} for an unknown one.

        It refused jobs, lost runs, was lost with runs, or takes no more work because a process would not die.
        Source: 17.
        """
        key = arguments.one_id(client_id, "client_id")
        with self._store.reading() as connection:
            if connection.execute(sa.select(client.c.id).where(client.c.id == key)).first() is None:
                return {}
            now_ms = to_ms(self._clock.now())
            return _shown(troubles.recent(connection, now_ms, client_id=key), {}, now_ms)


def _shown(rows: Sequence[Any], unsaved: Mapping[str, int], now_ms: int) -> dict[str, Any]:
    counted = {row.message: (row.latest_at, int(row.times)) for row in rows}
    for message, times in unsaved.items():
        counted[message] = (now_ms, times + counted.get(message, (0, 0))[1])
    newest = sorted(counted.items(), key=lambda item: item[1][0], reverse=True)[: troubles.MOST]
    return {
        "total": sum(times for _, (_, times) in newest),
        "errors": [{"date": from_ms(at), "message": message, "count": times} for message, (at, times) in newest],
    }
