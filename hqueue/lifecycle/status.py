"""An event, through the table of `states`, to rows; then upwards, until nothing is left to change."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle import blocklist, hooks, notes, trees
from hqueue.lifecycle.rows import (
    CHANGED,
    ancestors,
    change_message,
    change_name,
    failed_children,
    load,
    rescue_note,
)
from hqueue.lifecycle.runrows import fence, read_wishes, set_wish
from hqueue.outbox.news import Happened, announce
from hqueue.schema import event as event_table
from hqueue.schema import job_edge, job_row, job_spec
from hqueue.states import (
    SETTLED,
    UNSUCCESSFUL,
    Cause,
    DropHooks,
    Effect,
    Facts,
    Fence,
    ForgetFailures,
    ImpossibleTransitionError,
    JobEvent,
    JobRow,
    JobStatus,
    ReconsiderBlocked,
    RunHook,
    SetWish,
    decide,
)
from hqueue.store import Session, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("hqueue.lifecycle")


@lru_cache(maxsize=1024)
def _update(names: frozenset[str]) -> sa.Update:
    """Return the statement that changes these columns of a job: the fewer, the less it costs.

    The old status is in its condition: a row that is not what we took it for is never overwritten.
    """
    query = sa.update(job_row).where(
        job_row.c.id == sa.bindparam("key_id"), job_row.c.status == sa.bindparam("old_status")
    )
    return query.values({name: sa.bindparam(f"new_{name}") for name in names})


_COUNT: Final = (
    sa.update(job_row)
    .where(job_row.c.id == sa.bindparam("key_id"))
    .values(
        children_unsettled=job_row.c.children_unsettled + sa.bindparam("unsettled"),
        children_unsuccessful=job_row.c.children_unsuccessful + sa.bindparam("unsuccessful"),
    )
)
_PARENTS: Final = sa.select(job_edge.c.child_id, job_edge.c.parent_id).where(job_edge.c.child_id.in_(listed("jobs")))
_TRIES: Final = sa.select(job_spec.c.job_id, job_spec.c.tries).where(job_spec.c.job_id.in_(listed("jobs")))
_COUNT_IN: Final = (
    sa.update(job_row).where(job_row.c.id.in_(listed("jobs"))).values(counted=sa.bindparam("new_counted"))
)


def apply(session: Session, event: JobEvent, job_ids: Sequence[int], cause: Cause | None = None) -> int:
    """Carry an event out on jobs, and what follows from it on their ancestors; return how many of the jobs changed.

    Writes: jobs, their runs' wishes, their log and the change feed. Unknown ids are skipped.
    Errors: JobStateError for a child added below a cancelled job; ImpossibleTransitionError is a bug of ours.
    """
    change = _Change(session, event, cause or Cause())
    return change.begin(job_ids)


def count_children(session: Session, deltas: Mapping[int, tuple[int, int]], cause: Cause | None = None) -> None:
    """Add to parents' counters (unsettled, unsuccessful) and let those react whose last unsettled child is gone."""
    _Change(session, JobEvent.LAST_CHILD_SETTLED, cause or Cause()).count(deltas)


def count_in(session: Session, job_ids: Sequence[int], counted: bool) -> None:
    """Have the progress of jobs with a command be part of their ancestors' overall progress, or not."""
    changed = [row for row in load(session.connection, job_ids) if row.has_command and row.counted is not counted]
    ran_ms = trees.ran_ms(session.connection, changed)
    shares: dict[int, trees.Share] = {}
    for row in changed:
        before = trees.share(row, ran_ms)
        row.counted = counted
        shares[row.id] = trees.share(row, ran_ms) - before + trees.Share(counted=1 if counted else -1)
    if changed:
        session.connection.execute(_COUNT_IN, {"jobs": [row.id for row in changed], "new_counted": counted})
    trees.add(session.connection, shares, containers=[row.id for row in changed if row.children_total])


class _Change:
    """One event on its way through the graph."""

    def __init__(self, session: Session, event: JobEvent, cause: Cause) -> None:
        self._session = session
        self._connection = session.connection
        self._event = event
        self._cause = cause
        self._shares: dict[int, trees.Share] = {}
        self._started: dict[int, int] = {}
        self._containers: set[int] = set()

    def begin(self, job_ids: Sequence[int]) -> int:
        changed, deltas = self._update(load(self._connection, job_ids), self._event)
        # An ancestor that is taken along does not wait: nobody is about to reschedule its other children.
        self._cause = replace(self._cause, hold=False)
        self._count(deltas)
        if changed and self._event in {JobEvent.RESCHEDULE, JobEvent.CHILD_ADDED}:
            self._reopen_ancestors(changed)
        self._keep_sums()
        return len(changed)

    def count(self, deltas: Mapping[int, tuple[int, int]]) -> None:
        """Keep the counters of parents that lost or got children, and see to what follows."""
        self._count(deltas)
        self._keep_sums()

    def _count(self, deltas: Mapping[int, tuple[int, int]]) -> None:
        """Keep the parents' counters, and go on upwards with the parents that react."""
        pending: dict[int, tuple[int, int]] = dict(deltas)
        while pending:
            self._connection.execute(
                _COUNT,
                [{"key_id": key, "unsettled": du, "unsuccessful": ds} for key, (du, ds) in pending.items()],
            )
            parents = load(self._connection, list(pending))
            closing = [row for row in parents if pending[row.id][0] < 0 and row.children_unsettled == 0]
            opening = [row for row in parents if pending[row.id][0] > 0]
            _, pending = self._update(closing, JobEvent.LAST_CHILD_SETTLED)
            for event, rows in self._opening_events(opening):
                for key, (du, ds) in self._update(rows, event)[1].items():
                    known = pending.get(key, (0, 0))
                    pending[key] = (known[0] + du, known[1] + ds)

    def _opening_events(self, rows: list[JobRow]) -> list[tuple[JobEvent, list[JobRow]]]:
        if self._event is not JobEvent.RESCHEDULE:
            return [(JobEvent.CHILD_ADDED, rows)]
        # A rescheduled job takes its settled and abandoned ancestors along: their commands run again.
        afresh = [row for row in rows if row.status in SETTLED or row.status is JobStatus.ABANDONED]
        others = [row for row in rows if row not in afresh]
        return [(JobEvent.RESCHEDULE, afresh), (JobEvent.CHILD_ADDED, others)]

    def _reopen_ancestors(self, job_ids: Sequence[int]) -> None:
        """Reach what counting does not: settled ancestors above an unsettled one, or above one that stays settled."""
        above = sorted(ancestors(self._connection, job_ids))
        left = [row for row in load(self._connection, above) if self._is_left_behind(row)]
        self._count(self._update(left, self._event)[1])

    def _is_left_behind(self, row: JobRow) -> bool:
        if self._event is JobEvent.RESCHEDULE:
            return row.status in SETTLED or row.status is JobStatus.ABANDONED
        return row.status in SETTLED and row.children_unsettled > 0

    def _update(self, rows: list[JobRow], event: JobEvent) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """Change the rows as decided; return which, and what that adds to the counters of their parents."""
        changes, effects = self._decide(rows, event)
        self._carry_out(effects)
        if not changes:
            return [], {}
        self._write(changes)
        self._share(changes)
        self._record(changes, event)
        return [after.id for _, after in changes], self._parents_deltas(changes)

    def _decide(self, rows: list[JobRow], event: JobEvent) -> tuple[list[tuple[JobRow, JobRow]], list[Effect]]:
        changes: list[tuple[JobRow, JobRow]] = []
        effects: list[Effect] = []
        facts = self._facts(rows, event)
        for row in rows:
            try:
                after, more = decide(row, event, self._cause, facts)
            except ImpossibleTransitionError as error:
                raise ImpossibleTransitionError(
                    f"job {row.id}: {error}; its history: {self._history(row.id)}"
                ) from None
            effects.extend(more)
            if after != row:
                changes.append((row, after))
        return changes, effects

    def _facts(self, rows: list[JobRow], event: JobEvent) -> Facts:
        """Load what the decisions need besides the rows."""
        facts = Facts(self._session.now_ms, self._session.policy.max_rescues)
        if rows and event is JobEvent.RESCHEDULE:
            tries = self._connection.execute(_TRIES, {"jobs": [row.id for row in rows]})
            return replace(facts, tries=dict(tries.all()))
        if rows and event is JobEvent.CLIENT_BACK:
            return replace(facts, wishes=read_wishes(self._connection, [row.run_id for row in rows]))
        return facts

    def _carry_out(self, effects: list[Effect]) -> None:
        """Carry effects out, all of a kind at once."""
        asked: dict[tuple[str, str], list[int]] = defaultdict(list)
        for each in effects:
            if isinstance(each, SetWish):
                asked[each.wish, each.reason].append(each.run_id)
        for (wish, reason), run_ids in asked.items():
            set_wish(self._session, run_ids, wish, reason)
        fence(self._session, [each.run_id for each in effects if isinstance(each, Fence)], self._cause.message)
        blocklist.forget(self._session, [each.job_id for each in effects if isinstance(each, ForgetFailures)])
        reopened = [each.job_id for each in effects if isinstance(each, ReconsiderBlocked)]
        blocklist.reconsider_jobs(self._session, reopened)
        hooks.drop(self._session, [each.job_id for each in effects if isinstance(each, DropHooks)])
        hooks.queue(self._session, [(each.job_id, each.hook) for each in effects if isinstance(each, RunHook)])

    def _write(self, changes: list[tuple[JobRow, JobRow]]) -> None:
        names: set[str] = set()
        for before, after in changes:
            names.update(name for name in CHANGED if getattr(before, name) != getattr(after, name))
        parameters = []
        for before, after in changes:
            values = {f"new_{name}": getattr(after, name) for name in names}
            values["key_id"] = after.id
            values["old_status"] = before.status
            parameters.append(values)
        if any(after.status is JobStatus.RUNNABLE for _, after in changes):
            self._session.after_commit(WakeScheduler())
        result = self._connection.execute(_update(frozenset(names)), parameters)
        if result.rowcount not in {-1, len(parameters)}:
            raise RuntimeError(f"{self._event.value}: {len(parameters)} jobs to change, {result.rowcount} changed")

    def _share(self, changes: list[tuple[JobRow, JobRow]]) -> None:
        """Note what the changes add to the sums of everything above."""
        # A root without children is nobody's descendant, and its own row says all.
        shared = [(before, after) for before, after in changes if not after.is_root or after.children_total]
        ran_ms = trees.ran_ms(self._connection, itertools.chain(*shared))
        for before, after in shared:
            more = trees.share(after, ran_ms) - trees.share(before, ran_ms)
            if more:
                self._shares[after.id] = self._shares.get(after.id, trees.NOTHING) + more
            if after.started_at is not None and before.started_at is None:
                self._started[after.id] = after.started_at
            if after.children_total and (more or after.id in self._started):
                self._containers.add(after.id)

    def _keep_sums(self) -> None:
        """Add what was noted; once for all that one event changed, for the ways up are the same."""
        if self._shares or self._started:
            trees.add(self._connection, self._shares, containers=self._containers, started=self._started)

    def _record(self, changes: list[tuple[JobRow, JobRow]], event: JobEvent) -> None:
        rescued: dict[int, str] = {}
        told: list[Happened] = []
        for before, after in changes:
            if before.status is after.status and event not in {JobEvent.PAUSE, JobEvent.RESUME, JobEvent.RESCHEDULE}:
                continue
            message = self._words(event, before, after)
            name = change_name(event, before, after)
            self._session.record(after.id, name, after.status, message)
            ends_tree = after.is_root and after.status in SETTLED
            if after.watched or (ends_tree and self._session.policy.webhook_url):
                reasons = (name,) if before.status is after.status else (name, after.status.value)
                told.append(Happened(after.id, reasons, after.status, message, ends_tree=ends_tree))
            rescue = rescue_note(event, before, after, message, self._session.policy.max_rescues)
            if rescue:
                rescued[after.id] = rescue
            reason = f" ({message})" if message else ""
            log.info("job %d %s > %s%s", after.id, before.status.value, after.status.value, reason)
        notes.add_to_jobs(self._session, rescued)
        announce(self._session, told)

    def _words(self, event: JobEvent, before: JobRow, after: JobRow) -> str:
        if event is not self._event or event is JobEvent.LAST_CHILD_SETTLED:
            # It happened to a descendant; what the cause says is in that one's log.
            return failed_children(before, after)
        return change_message(event, before, after, self._cause.messages.get(after.id, self._cause.message))

    def _parents_deltas(self, changes: list[tuple[JobRow, JobRow]]) -> dict[int, tuple[int, int]]:
        moved: dict[int, tuple[int, int]] = {}
        for before, after in changes:
            unsettled = (after.status not in SETTLED) - (before.status not in SETTLED)
            unsuccessful = (after.status in UNSUCCESSFUL) - (before.status in UNSUCCESSFUL)
            if unsettled or unsuccessful:
                moved[after.id] = (unsettled, unsuccessful)
        deltas: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for child, parent in self._connection.execute(_PARENTS, {"jobs": moved}) if moved else ():
            du, ds = moved[child]
            deltas[parent] = (deltas[parent][0] + du, deltas[parent][1] + ds)
        return dict(deltas)

    def _history(self, job_id: int) -> str:
        query = (
            sa.select(event_table.c.event, event_table.c.status, event_table.c.message)
            .where(event_table.c.job_id == job_id)
            .order_by(event_table.c.seq.desc())
            .limit(5)
        )
        return "; ".join(f"{name} -> {status} {text}".strip() for name, status, text in self._connection.execute(query))
