"""Since when something has waited, by a clock that never jumps: abandoned runs, jobs that are first in order, hooks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.clock import to_ms
from hqueue.lifecycle.hooks import Start
from hqueue.matching import HeldFor, Requirement, needs_more_than_a_gap, would_do
from hqueue.schema import hook, job, run
from hqueue.states import JobStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hqueue.clock import Clock
    from hqueue.matching import Candidate
    from hqueue.views.farmview import FarmReader

# A job that waits for an emptier client looks again for the best one after this long, then after twice as long, …
_LOOK_AGAIN_MS: Final = 60_000
ABANDONED: Final = (
    sa.select(run.c.id, job.c.id.label("job_id"), run.c.client_id)
    .join(job, job.c.run_id == run.c.id)
    .where(job.c.status == JobStatus.ABANDONED)
)


_HOOK_PATIENCE_S: Final = 600.0
_MOST_HOOKS: Final = 1_000  # looked at in one pass
_COMMAND: Final = run.alias("command")
_LAST_CLIENT: Final = (
    sa.select(_COMMAND.c.client_id)
    .where(_COMMAND.c.job_id == hook.c.job_id, _COMMAND.c.hook == "")
    .order_by(_COMMAND.c.id.desc())
    .limit(1)
    .scalar_subquery()
)
# A hook comes after the end of its job's command: that is when status and output are as they stay.
_WAITING_HOOKS: Final = (
    sa.select(
        hook.c.id, hook.c.command_json, hook.c.refused_json, job.c.requirement_id, _LAST_CLIENT.label("last_client")
    )
    .join(job, job.c.id == hook.c.job_id)
    .where(hook.c.run_id.is_(None), ~sa.select(run.c.id).where(run.c.open_job_id == hook.c.job_id).exists())
    .order_by(hook.c.id)
    .limit(_MOST_HOOKS)
)
_HOOKS_AT_WORK: Final = (
    sa.select(run.c.client_id, sa.func.count()).where(run.c.open_job_id < 0).group_by(run.c.client_id)
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


class WaitingHooks:
    """The hooks that wait for a client, and since when there has been none for them: anew after a start."""

    def __init__(self, farm: FarmReader) -> None:
        self._farm = farm
        self._since: dict[int, float] = {}  # monotonic, by hook

    def look(self, connection: sa.Connection, now_s: float) -> tuple[list[Start], list[int]]:
        """Return where hooks are to run now, and those that have waited for too long.

        A hook goes to the last client of its job, else to any that meets the job's conditions. No client has more
        hooks at a time than it has CPUs: thousands of jobs may fail together.
        """
        rows = connection.execute(_WAITING_HOOKS).all()
        if not rows:
            self._since = {}
            return [], []
        facts = [view.facts for view in self._farm.clients(connection) if not view.standing]
        room = {each.id: each.cpus for each in facts}
        for client_id, count in connection.execute(_HOOKS_AT_WORK):
            room[client_id] = room.get(client_id, 0) - count
        needs = self._farm.requirements(connection, {row.requirement_id for row in rows})
        starts: list[Start] = []
        since: dict[int, float] = {}
        for row in rows:
            able = would_do(_needs_of(row, needs[row.requirement_id]), facts).difference(json.loads(row.refused_json))
            if not able:
                since[row.id] = self._since.get(row.id, now_s)
                continue
            best = max(able, key=lambda each: (room[each] > 0, each == row.last_client, room[each], -each))
            if room[best] > 0:
                room[best] -= 1
                starts.append(Start(row.id, best))
        self._since = since
        return starts, [hook_id for hook_id, at_s in since.items() if now_s - at_s >= _HOOK_PATIENCE_S]


def _needs_of(row: Any, job_needs: Requirement) -> Requirement:
    """Return what a hook needs of a client: the conditions are the job's, the platforms its own."""
    command = json.loads(row.command_json)
    platforms = tuple(sorted(command)) if isinstance(command, dict) else ()
    return Requirement(conditions=job_needs.conditions, platforms=platforms)


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
