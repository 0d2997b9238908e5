"""What has to be done every few seconds: memory to the store, actions carried on, the write-ahead log kept small."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.errors import PASSING
from hqueue.lifecycle import bulk, repeats, troubles
from hqueue.lifecycle.runs import store_progress
from hqueue.outbox import delivery
from hqueue.schema import client

if TYPE_CHECKING:
    from hqueue.errorlog import ErrorLog
    from hqueue.live import LiveFarm
    from hqueue.store import Session, Store

log = logging.getLogger(__name__)

SAVE_INTERVAL_S: Final = 3.0
CHECKPOINT_INTERVAL_S: Final = 5.0
EXPIRY_INTERVAL_S: Final = 600.0

_SAVE_CLIENT: Final = (
    sa.update(client)
    .where(client.c.id == sa.bindparam("key_id"))
    .values(load=sa.bindparam("new_load"), last_heartbeat_at=sa.bindparam("seen_at"))
)


def save_live(store: Store, live_farm: LiveFarm) -> int:
    """Write what heartbeats brought since the last time, all of it in one transaction; return how many rows."""
    live_farm.sweep_progress()
    seen = [live for live in list(live_farm.clients.values()) if live.unsaved]
    moved = {job_id: each for job_id, each in list(live_farm.progress.items()) if each.unsaved}
    if not seen and not moved:
        return 0
    # Before the rows: what arrives in between is written again the next time, not forgotten.
    for live in seen:
        live.unsaved = False
    for each in moved.values():
        each.unsaved = False

    def write(session: Session) -> None:
        if seen:
            session.connection.execute(
                _SAVE_CLIENT,
                [{"key_id": live.id, "new_load": live.load, "seen_at": live.last_heartbeat_at} for live in seen],
            )
        store_progress(session, {job_id: (each.numerator, each.denominator) for job_id, each in moved.items()})

    try:
        store.write_soon(write).result()
    except PASSING:
        for live in seen:
            live.unsaved = True
        for each in moved.values():
            each.unsaved = True
        raise
    return len(seen) + len(moved)


def save_errors(store: Store, errors: ErrorLog) -> None:
    """Write what the server logged as errors since the last time."""
    taken = errors.take()
    if not taken:
        return

    def write(session: Session) -> None:
        for message, times in taken.items():
            troubles.count(session, message, times=times)

    try:
        store.write_soon(write, durable=False).result()
    except PASSING:
        errors.give_back(taken)
        raise


def expire(store: Store) -> None:
    """Remove what is kept for a time only, once that is over."""
    store.write_soon(repeats.expire, durable=False).result()
    store.write_soon(delivery.expire, durable=False).result()


def carry_bulk_on(store: Store) -> int:
    """Carry unfinished actions to their end, a small step a transaction; return how many steps that took."""
    steps = 0
    more = True
    while more:
        with store.writing(durable=False, urgent=True) as session:
            more = bulk.step(session)
        steps += more
    return steps
