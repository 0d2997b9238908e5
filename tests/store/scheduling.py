"""What tests of the scheduler ask of a farm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from hqueue.schema import job
from hqueue.views.explaining import Explainer

if TYPE_CHECKING:
    from hqueue.matching import Explanation
    from tests.storefarm import StoreFarm


def tick(farm: StoreFarm, seconds: float = 1) -> None:
    """Let time pass as a server does that ticks every second, its clients silent but there."""
    for _ in range(round(seconds)):
        farm.clock.advance(1)
        for live in farm.live_farm.clients.values():
            live.seen_at_s = farm.clock.monotonic()
        farm.tick()


def started(farm: StoreFarm, *job_ids: int) -> list[int]:
    """Return the running ones, in the order in which they were assigned."""
    running = [job_id for job_id in job_ids if farm.status(job_id) == "running"]
    return sorted(running, key=lambda job_id: int(farm.run(job_id).id))


def explained(farm: StoreFarm, job_id: int) -> Explanation:
    """Return why clients do not take a job."""
    with farm.store.reading() as connection:
        row = connection.execute(sa.select(job).where(job.c.id == job_id)).one()
        return Explainer(connection, farm.reader, [row]).clients(row)
