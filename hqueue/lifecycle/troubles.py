"""Errors of the server and of clients, counted by day and message, as `getServerErrors` and `getClientErrors` show."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.outbox.news import tell_of_trouble
from hqueue.schema import trouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hqueue.store import Session

SERVER: Final = 0  # where a client's id stands otherwise
MOST: Final = 1_000
KEPT_DAYS: Final = 30
_DAY_MS: Final = 86_400_000


def count(session: Session, message: str, *, client_id: int = SERVER, times: int = 1) -> None:
    """Count an error; what is too old or too much goes.

    Writes: trouble; news, for those who hear of the farm's errors.
    """
    tell_of_trouble(session)
    connection = session.connection
    day = session.now_ms // _DAY_MS
    digest = hashlib.sha256(message.encode("utf-8", "replace")).hexdigest()
    this = (trouble.c.client_id == client_id, trouble.c.day == day, trouble.c.digest == digest)
    values = {"times": trouble.c.times + times, "latest_at": session.now_ms}
    if connection.execute(sa.update(trouble).where(*this).values(values)).rowcount:
        return
    connection.execute(
        sa.insert(trouble).values(
            client_id=client_id,
            day=day,
            digest=digest,
            latest_at=session.now_ms,
            times=times,
            message=message,
        ),
    )
    newest_first = sa.select(trouble.c.id).where(trouble.c.client_id == client_id).order_by(trouble.c.id.desc())
    surplus = connection.execute(newest_first.offset(MOST).limit(1)).scalar() or 0
    old = sa.or_(trouble.c.id <= surplus, trouble.c.day < day - KEPT_DAYS)
    connection.execute(sa.delete(trouble).where(trouble.c.client_id == client_id, old))


def recent(connection: sa.Connection, now_ms: int, *, client_id: int = SERVER) -> Sequence[Any]:
    """Return the messages of the last days with `times` and `latest_at`, newest first."""
    latest = sa.func.max(trouble.c.latest_at)
    query = (
        sa.select(
            sa.func.max(trouble.c.message).label("message"),
            sa.func.sum(trouble.c.times).label("times"),
            latest.label("latest_at"),
        )
        .where(trouble.c.client_id == client_id, trouble.c.latest_at >= now_ms - KEPT_DAYS * _DAY_MS)
        .group_by(trouble.c.digest)
        .order_by(latest.desc())
        .limit(MOST)
    )
    return connection.execute(query).all()
