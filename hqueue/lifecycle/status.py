"""An event, through the table of `states`, to rows; then upwards, until nothing is left to change."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.errors import JobStateError
from hqueue.lifecycle import blocklist, notes, trees
from hqueue.lifecycle.rows import (
    CHANGED,
    JobRow,
    ancestors,
    change_message,
    change_name,
    failed_children,
    load,
    rescue_note,
)
from hqueue.schema import event as event_table
from hqueue.schema import job, job_edge, job_spec, run
from hqueue.states import (
    SETTLED,
    UNSUCCESSFUL,
    ImpossibleTransitionError,
    JobEvent,
    JobStatus,
    Outcome,
    by_children,
    outcome,
)
from hqueue.store import Session, WakeClient, WakeScheduler, chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger("hqueue.lifecycle")

MAX_RESCUES: Final = 2  # where nobody says otherwise


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an event happens, as far as it matters for what follows."""

    message: str = ""  # for people: "exit 3, client farm07"
    kill_reason: str = ""  # KILLED: why we began to kill
    exit_code: int | None = None
    max_rescues: int = MAX_RESCUES
    run_ids: Mapping[int, int] = field(default_factory=dict)  # ASSIGNED: the new run of each job
    messages: Mapping[int, str] = field(default_factory=dict)  # where it differs from job to job
    halted: frozenset[int] = frozenset()  # CLIENT_BACK: jobs whose run the client says is halted
    hold: bool = False  # RESCHEDULE: unsuccessful children are about to be rescheduled too


@lru_cache(maxsize=1024)
def _update(names: frozenset[str]) -> sa.Update:
    """Return the statement that changes these columns of a job: the fewer, the less it costs.

    The old status is in its condition: a row that is not what we took it for is never overwritten.
    """
    query = sa.update(job).where(job.c.id == sa.bindparam("key_id"), job.c.status == sa.bindparam("old_status"))
    return query.values({name: sa.bindparam(f"new_{name}") for name in names})


_COUNT: Final = (
    sa.update(job)
    .where(job.c.id == sa.bindparam("key_id"))
    .values(
        children_unsettled=job.c.children_unsettled + sa.bindparam("unsettled"),
        children_unsuccessful=job.c.children_unsuccessful + sa.bindparam("unsuccessful"),
    )
)
_PARENTS_OF_ONE: Final = sa.select(job_edge.c.child_id, job_edge.c.parent_id).where(
    job_edge.c.child_id == sa.bindparam("child"),
)
_WISH: Final = (
    sa.update(run)
    .where(run.c.id == sa.bindparam("key_id"))
    .values(wish=sa.bindparam("new_wish"), wish_reason=sa.bindparam("reason"), wish_number=run.c.wish_number + 1)
)
_FENCE: Final = (
    sa.update(run)
    .where(run.c.id == sa.bindparam("key_id"), run.c.closed_at.is_(None))
    .values(
        closed_at=sa.bindparam("now"),
        open_job_id=None,
        fenced=True,
        outcome="lost",
        wish="die",
        wish_reason="lost",
        wish_number=run.c.wish_number + 1,
        abandoned_at=None,
        message=sa.bindparam("text"),
    )
)


def apply(session: Session, event: JobEvent, job_ids: Sequence[int], cause: Cause | None = None) -> int:
    """Carry an event out on jobs, and what follows from it on their ancestors; return how many of the jobs changed.

    Writes: jobs, their runs' wishes, their log and the change feed. Unknown ids are skipped.
    Errors: JobStateError for a child added below a cancelled job; ImpossibleTransitionError is a bug of ours.
    """
    change = _Change(session, event, cause or Cause())
    return change.carry_out(job_ids)


def count_children(session: Session, deltas: Mapping[int, tuple[int, int]], cause: Cause | None = None) -> None:
    """Add to parents' counters (unsettled, unsuccessful) and let those react whose last unsettled child is gone."""
    _Change(session, JobEvent.LAST_CHILD_SETTLED, cause or Cause()).count(deltas)


def count_in(session: Session, job_ids: Sequence[int], counted: bool) -> None:
    """Have the progress of jobs with a command be part of their ancestors' overall progress, or not."""
    changed = [row for row in load(session.connection, job_ids) if row.has_command and row.counted is not counted]
    shares: dict[int, trees.Share] = {}
    for row in changed:
        before = trees.share(row)
        row.counted = counted
        shares[row.id] = trees.share(row) - before + trees.Share(counted=1 if counted else -1)
    for part in chunks([row.id for row in changed]):
        session.connection.execute(sa.update(job).where(job.c.id.in_(part)).values(counted=counted))
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
        self._named: frozenset[int] = frozenset()

    def carry_out(self, job_ids: Sequence[int]) -> int:
        self._named = frozenset(job_ids)
        changed, deltas = self._update(load(self._connection, job_ids), self._event)
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
        for job_id in sorted(ancestors(self._connection, job_ids)):
            # By the time its turn comes an earlier one may have changed it already.
            for row in load(self._connection, [job_id]):
                if self._is_left_behind(row):
                    self._count(self._update([row], self._event)[1])

    def _is_left_behind(self, row: JobRow) -> bool:
        if self._event is JobEvent.RESCHEDULE:
            return row.status in SETTLED or row.status is JobStatus.ABANDONED
        return row.status in SETTLED and row.children_unsettled > 0

    def _update(self, rows: list[JobRow], event: JobEvent) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """Change the rows as the table says; return which, and what that adds to the counters of their parents."""
        changes: list[tuple[JobRow, JobRow]] = []
        for row in rows:
            after = self._after(row, event)
            if after is not None and after != row:
                changes.append((row, after))
        if not changes:
            return [], {}
        self._write(changes)
        self._share(changes)
        self._record(changes, event)
        return [after.id for _, after in changes], self._parents_deltas(changes)

    def _after(self, row: JobRow, event: JobEvent) -> JobRow | None:
        """Return the row as it will be, None where nothing changes."""
        try:
            result = outcome(row.status, event, has_run=row.run_id is not None)
        except ImpossibleTransitionError as error:
            raise ImpossibleTransitionError(f"job {row.id}: {error}; its history: {self._history(row.id)}") from None
        if result in {Outcome.IGNORED, Outcome.STALE}:
            return None
        after = replace(row)
        if isinstance(result, JobStatus):
            self._go_to(after, result, event)
        else:
            self._follow(after, result, event)
        return after

    def _go_to(self, after: JobRow, status: JobStatus, event: JobEvent) -> None:
        """Go to a status that the table names."""
        if event is JobEvent.PAUSE:
            after.pause_wished = True
        if status is JobStatus.RESUMING:
            after.pause_wished = False
        if status is JobStatus.CANCELLED:
            self._wish(after, "die", "cancelled")
        elif status is JobStatus.EJECTING:
            self._wish(after, "die", "ejected")
        elif status is JobStatus.PAUSING:
            self._wish(after, "halt", "paused")
        elif status is JobStatus.RESUMING:
            self._wish(after, "run", "resumed")
        elif event is JobEvent.ASSIGNED:
            after.run_id = self._cause.run_ids[after.id]
            after.attempts += 1
            after.started_at = after.started_at or self._session.now_ms
        self._enter(after, status)

    def _follow(self, after: JobRow, rule: Outcome, event: JobEvent) -> None:  # noqa: C901, PLR0912 - one branch per rule, no nesting
        if rule in {Outcome.PAUSE_LATER, Outcome.RESUME_LATER}:
            after.pause_wished = rule is Outcome.PAUSE_LATER
            return
        if rule is Outcome.AS_WISHED:
            self._enter(after, self._as_wished(after))
            return
        if rule in {Outcome.FENCED, Outcome.FENCED_AFRESH, Outcome.FENCED_CANCELLED, Outcome.RESCUED_OR_FAILED}:
            self._fence(after)
        after.run_id = None
        if rule is Outcome.FENCED_CANCELLED:
            self._enter(after, JobStatus.CANCELLED)
            return
        if rule in {Outcome.AFRESH, Outcome.FENCED_AFRESH}:
            self._start_afresh(after)
        elif rule is Outcome.REOPENED and after.status is JobStatus.CANCELLED:
            raise JobStateError(f"job {after.id} is cancelled and takes no new children; reschedule it first")
        elif rule is Outcome.REOPENED:
            blocklist.reconsider_job(self._session, after.id)
        elif rule is Outcome.COMMAND_DONE:
            after.command_done = True
            after.progress = 1.0
            after.exit_code = self._cause.exit_code
        elif rule is Outcome.RETRIED_OR_FAILED:
            after.exit_code = self._cause.exit_code
            if after.tries_left == 0:
                self._enter(after, JobStatus.FAILED)
                return
            after.tries_left -= 1
        elif rule is Outcome.BY_KILL_REASON and self._cause.kill_reason in {"cancelled", "terminated"}:
            self._enter(after, JobStatus.CANCELLED)
            return
        elif rule is Outcome.RESCUED_OR_FAILED or (
            rule is Outcome.BY_KILL_REASON and self._cause.kill_reason != "ejected"
        ):
            if after.rescues >= self._cause.max_rescues:
                self._enter(after, JobStatus.FAILED)
                return
            after.rescues += 1
        elif event is JobEvent.RESUME:
            after.pause_wished = False
        self._enter(after, self._by_children(after))
        if after.status not in SETTLED and not after.command_done:
            # The next attempt begins from nothing.
            after.progress = 0.0
            after.progress_numerator = after.progress_denominator = None

    def _by_children(self, row: JobRow) -> JobStatus:
        status = by_children(
            unsettled=row.children_unsettled,
            unsuccessful=row.children_unsuccessful,
            has_command=row.has_command,
            command_done=row.command_done,
            pause_wished=row.pause_wished,
        )
        if row.held_by_bulk and status is JobStatus.FAILED:
            # Its unsuccessful children are about to be rescheduled: it waits for them.
            return JobStatus.PAUSED if row.pause_wished else JobStatus.QUEUED
        return status

    def _enter(self, after: JobRow, status: JobStatus) -> None:
        after.status = status
        if status in SETTLED:
            after.ended_at = self._session.now_ms
            after.pause_wished = False
            after.run_id = None
        else:
            after.ended_at = None
        if status is JobStatus.RUNNABLE:
            after.runnable_at = self._session.now_ms
            self._session.after_commit(WakeScheduler())

    def _start_afresh(self, after: JobRow) -> None:
        query = sa.select(job_spec.c.tries).where(job_spec.c.job_id == after.id)
        after.tries_left = self._connection.execute(query).scalar_one()
        after.command_done = False
        after.progress = 0.0
        after.progress_numerator = after.progress_denominator = None
        after.rescues = 0
        after.started_at = None
        after.exit_code = None
        blocklist.forget(self._session, after.id)
        # An ancestor that is only taken along does not wait: nobody is about to reschedule its other children.
        after.held_by_bulk = self._cause.hold and after.id in self._named and after.children_unsuccessful > 0

    def _wish(self, after: JobRow, wish: str, reason: str) -> None:
        if after.run_id is None:
            return
        self._connection.execute(_WISH, {"key_id": after.run_id, "new_wish": wish, "reason": reason})
        self._wake_client(after.run_id)

    def _fence(self, after: JobRow) -> None:
        """Give a run up that nobody has proved dead; its client is told to kill it when it comes back.

        A run that its client reported itself was closed before, and stays as it is.
        """
        if after.run_id is None:
            return
        parameters = {"key_id": after.run_id, "now": self._session.now_ms, "text": self._cause.message}
        self._connection.execute(_FENCE, parameters)
        self._wake_client(after.run_id)
        self._session.after_commit(WakeScheduler())

    def _wake_client(self, run_id: int) -> None:
        client_id = self._connection.execute(sa.select(run.c.client_id).where(run.c.id == run_id)).scalar()
        if client_id is not None:  # None only where a damaged store is being mended
            self._session.after_commit(WakeClient(client_id))

    def _as_wished(self, after: JobRow) -> JobStatus:
        """Return the status of a job whose client is back with its run."""
        query = sa.select(run.c.wish, run.c.wish_reason, run.c.wish_number, run.c.wish_confirmed)
        wish, reason, number, confirmed = self._connection.execute(query.where(run.c.id == after.run_id)).one()
        if wish == "die":
            return JobStatus.EJECTING if reason == "ejected" else JobStatus.RUNNING
        done = confirmed == number
        halted = after.id in self._cause.halted or (wish == "halt" and done)
        if after.pause_wished:
            if halted and wish == "halt":
                return JobStatus.PAUSED
            if wish != "halt":
                self._wish(after, "halt", "paused")
            return JobStatus.PAUSING
        if halted or wish == "halt":
            if wish != "run" or done:  # one that is confirmed already is not repeated
                self._wish(after, "run", "resumed")
            return JobStatus.RESUMING
        return JobStatus.RUNNING

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
        result = self._connection.execute(_update(frozenset(names)), parameters)
        if result.rowcount not in {-1, len(parameters)}:
            raise RuntimeError(f"{self._event.value}: {len(parameters)} jobs to change, {result.rowcount} changed")

    def _share(self, changes: list[tuple[JobRow, JobRow]]) -> None:
        """Note what the changes add to the sums of everything above."""
        for before, after in changes:
            if after.is_root and not after.children_total:
                continue  # it is nobody's descendant, and its own row says all
            more = trees.share(after) - trees.share(before)
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
        for before, after in changes:
            if before.status is after.status and event not in {JobEvent.PAUSE, JobEvent.RESUME, JobEvent.RESCHEDULE}:
                continue
            message = self._words(event, before, after)
            self._session.record(after.id, change_name(event, before, after), after.status, message)
            rescue = rescue_note(event, before, after, message, self._cause.max_rescues)
            if rescue:
                notes.add(self._session, rescue, job_id=after.id)
            reason = f" ({message})" if message else ""
            log.info("job %d %s > %s%s", after.id, before.status.value, after.status.value, reason)

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
        for child, parent in self._edges_up(list(moved)):
            du, ds = moved[child]
            deltas[parent] = (deltas[parent][0] + du, deltas[parent][1] + ds)
        return dict(deltas)

    def _edges_up(self, child_ids: list[int]) -> Iterable[Any]:
        if len(child_ids) == 1:
            yield from self._connection.execute(_PARENTS_OF_ONE, {"child": child_ids[0]})
            return
        for part in chunks(child_ids):
            query = sa.select(job_edge.c.child_id, job_edge.c.parent_id).where(job_edge.c.child_id.in_(part))
            yield from self._connection.execute(query)

    def _history(self, job_id: int) -> str:
        query = (
            sa.select(event_table.c.event, event_table.c.status, event_table.c.message)
            .where(event_table.c.job_id == job_id)
            .order_by(event_table.c.seq.desc())
            .limit(5)
        )
        return "; ".join(f"{name} -> {status} {text}".strip() for name, status, text in self._connection.execute(query))
