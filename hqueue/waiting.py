"""Since when something has waited, by a clock that never jumps: abandoned runs, and jobs that are first in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.clock import to_ms
from hqueue.matching import HeldFor, needs_more_than_a_gap
from hqueue.schema import job, run
from hqueue.states import JobStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hqueue.clock import Clock
    from hqueue.matching import Candidate, Requirement

# A job that waits for an emptier client looks again for the best one after this long, then after twice as long, …
_LOOK_AGAIN_MS: Final = 60_000
ABANDONED: Final = (
    sa.select(run.c.id, job.c.id.label("job_id"), run.c.client_id)
    .join(job, job.c.run_id == run.c.id)
    .where(job.c.status == JobStatus.ABANDONED)
)


class Abandoned:
    """Since when runs have been without their client: by the monotonic clock, anew after a start or a stall."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[int, float] = {}  # monotonic, by run

    def due(self, connection: sa.Connection, now_s: float, *, late: bool) -> list[int]:
        """Return the runs that have been abandoned for too long.

        late: the server did not look for a while, and so no client could come back.
        """
        if not self._patience_s:
            return []
        known = {} if late else self._since
        found = connection.execute(ABANDONED)
        self._since = {row.id: known.get(row.id, now_s) for row in found}
        return [run_id for run_id, since in self._since.items() if now_s - since >= self._patience_s]


class Firsts:
    """Since when the first job of each requirement has been that: after a while it may have clients held for it."""

    def __init__(self, patience_ms: int) -> None:
        self._patience_ms = patience_ms
        self._since: dict[int, tuple[int, int]] = {}  # job id and moment, by requirement

    def forget(self) -> None:
        """Start anew: nothing waits."""
        self._since.clear()

    def entitled(
        self,
        heads: Mapping[int, Candidate],
        requirements: Mapping[int, Requirement],
        clock: Clock,
    ) -> dict[int, HeldFor]:
        """Return the jobs that may have clients held, by requirement; those for one client only after a while."""
        now_ms = clock.steady_ms()
        jumped_ms = to_ms(clock.now()) - now_ms  # runs are known by the wall clock
        found: dict[int, HeldFor] = {}
        since: dict[int, tuple[int, int]] = {}
        for key, head in heads.items():
            wanted = requirements[key]
            if not needs_more_than_a_gap(wanted):
                continue
            known = self._since.get(key)
            began_ms = known[1] if known is not None and known[0] == head.job_id else now_ms
            since[key] = (head.job_id, began_ms)
            held_from_ms = began_ms if wanted.min_hosts > 1 else began_ms + self._patience_ms
            if now_ms >= held_from_ms:
                found[key] = HeldFor(head.job_id, _looked_at(held_from_ms, now_ms) + jumped_ms)
        self._since = since
        return found


def _looked_at(held_from_ms: int, now_ms: int) -> int:
    """Return the moment at which the clients to hold were last chosen: the beginning, then each twice as far from it.

    In between the choice stays, so that a client can become empty; a bad one is not kept for ever.
    """
    later = _LOOK_AGAIN_MS
    if now_ms - held_from_ms < later:
        return held_from_ms
    while now_ms - held_from_ms >= 2 * later:
        later *= 2
    return held_from_ms + later
