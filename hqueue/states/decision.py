"""What an event does to one job: the row as it will be, and what else is to be done.

Pure: `lifecycle` loads what a decision needs, and carries rows and effects out in sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from hqueue.errors import JobStateError
from hqueue.states.table import SETTLED, Hook, JobEvent, JobStatus, Outcome, by_children, outcome

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class JobRow:
    """A job as decisions see it: the columns that decide, and those that may change."""

    id: int
    status: JobStatus
    run_id: int | None
    has_command: bool
    command_done: bool
    pause_wished: bool
    held_by_bulk: bool
    children_unsettled: int
    children_unsuccessful: int
    attempts: int
    tries_left: int
    rescues: int
    progress: float
    progress_numerator: float | None
    progress_denominator: float | None
    runnable_at: int | None
    started_at: int | None
    ended_at: int | None
    exit_code: int | None
    is_root: bool
    children_total: int
    counted: bool
    watched: bool = False  # hooks, mail or a webhook follow what happens to it


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an event happens, as far as that matters for what follows."""

    message: str = ""  # for people: "exit 3, client farm07"
    kill_reason: str = ""  # KILLED: why we began to kill
    exit_code: int | None = None
    run_ids: Mapping[int, int] = field(default_factory=dict)  # ASSIGNED: the new run of each job
    messages: Mapping[int, str] = field(default_factory=dict)  # where they differ from job to job
    halted: frozenset[int] = frozenset()  # CLIENT_BACK: jobs whose run the client says is halted
    hopeless: bool = False  # REFUSED: no client is left that could run it
    hold: bool = False  # RESCHEDULE: unsuccessful children are about to be rescheduled too


@dataclass(frozen=True, slots=True)
class Wish:
    """What a run was asked last."""

    wish: str
    reason: str
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What decisions need besides the row: it is the same for all jobs of an event, or loaded for all at once."""

    now_ms: int
    max_rescues: int
    tries: Mapping[int, int] = field(default_factory=dict)  # RESCHEDULE: as submitted, by job
    wishes: Mapping[int, Wish] = field(default_factory=dict)  # CLIENT_BACK: by run


@dataclass(frozen=True, slots=True)
class SetWish:
    """A run is asked for something, and its client woken."""

    run_id: int
    wish: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fence:
    """A run that nobody has proved dead is given up; its client is told to kill it when it comes back.

    A run that its client reported itself was closed before, and stays as it is.
    """

    run_id: int


@dataclass(frozen=True, slots=True)
class ForgetFailures:
    """The clients that a job failed on count for nothing any more."""

    job_id: int


@dataclass(frozen=True, slots=True)
class ReconsiderBlocked:
    """The blocked clients of a job's root may have changed while the job was settled."""

    job_id: int


@dataclass(frozen=True, slots=True)
class RunHook:
    """A hook of a job is to run, if the job has it."""

    job_id: int
    hook: Hook


@dataclass(frozen=True, slots=True)
class DropHooks:
    """The hooks of a job that have not been started are not to run."""

    job_id: int


Effect = SetWish | Fence | ForgetFailures | ReconsiderBlocked | RunHook | DropHooks

_UNCHANGED: Final = frozenset({Outcome.IGNORED, Outcome.STALE})
_FENCES: Final = frozenset(
    {Outcome.FENCED, Outcome.FENCED_AFRESH, Outcome.FENCED_CANCELLED, Outcome.RESCUED_OR_FAILED},
)
# What the run of a job is asked when the job goes to a status.
_ASKED: Final[dict[JobStatus, tuple[str, str]]] = {
    JobStatus.CANCELLED: ("die", "cancelled"),
    JobStatus.EJECTING: ("die", "ejected"),
    JobStatus.PAUSING: ("halt", "paused"),
    JobStatus.RESUMING: ("run", "resumed"),
}


def decide(row: JobRow, event: JobEvent, cause: Cause, facts: Facts) -> tuple[JobRow, tuple[Effect, ...]]:
    """Return a job's row as it will be after an event, and what else is to be done.

    The row that was given stays as it is; where nothing changes, it is returned.
    Errors: ImpossibleTransitionError, a bug of ours; JobStateError for a child added below a cancelled job.
    """
    result = outcome(row.status, event, has_run=row.run_id is not None)
    if result in _UNCHANGED:
        return row, _late_hooks(row, event)
    decision = _Decision(replace(row), event, cause, facts)
    if isinstance(result, JobStatus):
        decision.go_to(result)
    else:
        decision.follow(result)
    if row.watched:
        hooks = _hooks_at(decision.after, on_client=row.run_id is not None, command_failed=decision.command_failed)
        decision.effects += [RunHook(row.id, hook) for hook in hooks]
    return decision.after, tuple(decision.effects)


def _hooks_at(row: JobRow, *, on_client: bool = False, command_failed: bool = False) -> tuple[Hook, ...]:
    """Return the hooks that run because a job has come to its status (SPEC 12).

    on_client: it had a run until now. command_failed: its own command failed for good.
    """
    if row.status is JobStatus.SUCCEEDED:
        return (Hook.SUCCESS,)
    if row.status is JobStatus.CANCELLED:
        return (Hook.CANCEL,) if on_client else ()
    if row.status is not JobStatus.FAILED:
        return ()
    by_child = row.children_unsuccessful > 0 and row.children_unsettled == 0
    return (Hook.ERROR,) * command_failed + (Hook.CHILD_ERROR,) * by_child


# The hooks of jobs that are settled as they are submitted.
AT_ONCE: Final = {JobStatus.SUCCEEDED: Hook.SUCCESS, JobStatus.FAILED: Hook.CHILD_ERROR}


def _late_hooks(row: JobRow, event: JobEvent) -> tuple[Effect, ...]:
    """Return the hook of a job that failed while children, added as it ran, were still at work, and now are not."""
    if row.watched and event is JobEvent.LAST_CHILD_SETTLED and row.status is JobStatus.FAILED:
        return tuple(RunHook(row.id, hook) for hook in _hooks_at(row))
    return ()


class _Decision:
    """The row of one job while it is being changed, and the effects so far."""

    def __init__(self, after: JobRow, event: JobEvent, cause: Cause, facts: Facts) -> None:
        self.after = after
        self.effects: list[Effect] = []
        self.command_failed = False  # for good
        self._event = event
        self._cause = cause
        self._facts = facts

    def go_to(self, status: JobStatus) -> None:
        """Go to a status that the table names."""
        after = self.after
        if self._event is JobEvent.PAUSE:
            after.pause_wished = True
        if status is JobStatus.RESUMING:
            after.pause_wished = False
        if status in _ASKED:
            self._ask(*_ASKED[status])
        elif self._event is JobEvent.ASSIGNED:
            after.run_id = self._cause.run_ids[after.id]
            after.attempts += 1
            after.started_at = after.started_at or self._facts.now_ms
        self._enter(status)

    def follow(self, rule: Outcome) -> None:
        """Follow a rule that the table names."""
        after = self.after
        if rule in {Outcome.PAUSE_LATER, Outcome.RESUME_LATER}:
            after.pause_wished = rule is Outcome.PAUSE_LATER
            return
        if rule is Outcome.AS_WISHED:
            self._enter(self._as_wished())
            return
        if rule in _FENCES and after.run_id is not None:
            self.effects.append(Fence(after.run_id))
        after.run_id = None
        own = self._without_run(rule)
        status = own or self._by_children()
        self.command_failed = JobStatus.FAILED in {own, status if rule is Outcome.RETRIED_OR_FAILED else None}
        self._enter(status)
        if status not in SETTLED and not after.command_done:
            self._begin_anew()

    def _without_run(self, rule: Outcome) -> JobStatus | None:  # noqa: C901, PLR0912 - one branch per rule, no nesting
        """Do what a rule says to a job that has no run any more; return the status, None where the children decide."""
        after, reason = self.after, self._cause.kill_reason
        if rule is Outcome.BY_KILL_REASON:
            if reason in {"cancelled", "terminated"}:
                rule = Outcome.FENCED_CANCELLED
            elif reason != "ejected":
                rule = Outcome.RESCUED_OR_FAILED
        if rule is Outcome.FENCED_CANCELLED:
            return JobStatus.CANCELLED
        if rule is Outcome.REFUSED and self._cause.hopeless:
            return JobStatus.FAILED
        if rule in {Outcome.AFRESH, Outcome.FENCED_AFRESH}:
            self._start_afresh()
        elif rule is Outcome.REOPENED and after.status is JobStatus.CANCELLED:
            raise JobStateError(f"job {after.id} is cancelled and takes no new children; reschedule it first")
        elif rule is Outcome.REOPENED:
            self.effects.append(ReconsiderBlocked(after.id))
        elif rule is Outcome.COMMAND_DONE:
            after.command_done = True
            after.progress = 1.0
            after.exit_code = self._cause.exit_code
        elif rule is Outcome.RETRIED_OR_FAILED:
            after.exit_code = self._cause.exit_code
            if after.tries_left == 0:
                return JobStatus.FAILED
            after.tries_left -= 1
        elif rule is Outcome.RESCUED_OR_FAILED:
            if after.rescues >= self._facts.max_rescues:
                return JobStatus.FAILED
            after.rescues += 1
        elif self._event is JobEvent.RESUME:
            after.pause_wished = False
        return None

    def _by_children(self) -> JobStatus:
        row = self.after
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

    def _enter(self, status: JobStatus) -> None:
        after = self.after
        after.status = status
        if status in SETTLED:
            after.ended_at = self._facts.now_ms
            after.pause_wished = False
            after.run_id = None
        else:
            after.ended_at = None
        if status is JobStatus.RUNNABLE:
            after.runnable_at = self._facts.now_ms

    def _begin_anew(self) -> None:
        """Let the next attempt begin from nothing."""
        self.after.progress = 0.0
        self.after.progress_numerator = self.after.progress_denominator = None

    def _start_afresh(self) -> None:
        after = self.after
        after.tries_left = self._facts.tries[after.id]
        after.command_done = False
        self._begin_anew()
        after.rescues = 0
        after.started_at = None
        after.exit_code = None
        after.held_by_bulk = self._cause.hold and after.children_unsuccessful > 0
        self.effects.append(ForgetFailures(after.id))
        if after.watched:
            self.effects.append(DropHooks(after.id))

    def _ask(self, wish: str, reason: str) -> None:
        if self.after.run_id is not None:
            self.effects.append(SetWish(self.after.run_id, wish, reason))

    def _as_wished(self) -> JobStatus:
        """Return the status of a job whose client is back with its run."""
        after = self.after
        assert after.run_id is not None  # noqa: S101 - abandoned jobs have one: a constraint of the table
        known = self._facts.wishes[after.run_id]
        if known.wish == "die":
            return JobStatus.EJECTING if known.reason == "ejected" else JobStatus.RUNNING
        halted = after.id in self._cause.halted or (known.wish == "halt" and known.confirmed)
        if after.pause_wished:
            if halted and known.wish == "halt":
                return JobStatus.PAUSED
            if known.wish != "halt":
                self._ask("halt", "paused")
            return JobStatus.PAUSING
        if halted or known.wish == "halt":
            if known.wish != "run" or known.confirmed:  # an unconfirmed one is repeated anyway
                self._ask("run", "resumed")
            return JobStatus.RESUMING
        return JobStatus.RUNNING
