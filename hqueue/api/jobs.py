"""The jobs, as scripts see them, and what can be asked of them."""
# ruff: noqa: A002, N802 - methods and arguments have the names that they have on the wire

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.api import statusnames
from hqueue.clock import to_ms
from hqueue.config import client_label
from hqueue.context import Chapter
from hqueue.database import listed
from hqueue.errors import InvalidArgumentError
from hqueue.joblogs import RunLog
from hqueue.lifecycle.bulk import Action, act
from hqueue.rpc import arguments
from hqueue.rpc.method import exposed
from hqueue.schema import client, hook, job, run
from hqueue.states import FINISHED, JobStatus
from hqueue.views import jobxml
from hqueue.views.attribute import optional_date
from hqueue.views.jobattributes import (
    DEFAULT_JOB_ATTRIBUTES,
    JOB_ATTRIBUTES,
    NARROW,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future

    from hqueue.store import Session

_MIB: Final = 1024 * 1024
_MINUTE_MS: Final = 60_000


class Jobs(Chapter):
    """The methods that read jobs, and those that act on lists of them."""

    @exposed()
    def getJobs(self, ids: Any, attribs: Any = None) -> list[dict[str, Any]]:
        """Return attributes of jobs, in the order asked; unknown ids are skipped.

        Shapes: attribs is a list of names, and limits the work too; without it, the default set.
        Errors: UnknownAttributeError, which lists the attributes there are.
        Source: 12. Ours are also submittedBy, description, cpus, childCounts ({total, finished, failed}), and on
        request command, shell, environment, minHosts, maxHosts, maxTime, cmdStartTime, cmdEndTime, runnableTime, root,
        exitCode, inheritsConditions, emailTo, emailReasons, webhook, onSuccess, onError, onCancel, onChildError (as
        they were given), history (a list of {date, event, status, message, by}). logs is a list of
        pairs (text, date); clients and clientsOnHold are lists of {id, clientId, hostname, name, master}.
        """
        wanted, names = arguments.ids(ids, "ids"), names_of(attribs)
        with self._store.reading() as connection:
            return jobxml.answer(self._attributes, connection, wanted, names)

    @exposed(quick=lambda params: is_narrow(params, 1))
    def getJob(self, id: Any, attribs: Any = None) -> dict[str, Any] | None:
        """Return attributes of one job, None for an unknown id.

        Shapes: as getJobs.
        Errors: UnknownAttributeError.
        Source: 12.
        """
        key = arguments.one_id(id, "id")
        return self.fetch([key], names_of(attribs)).get(key)

    @exposed(big=True)
    def getUnfinishedRootJobIds(self) -> list[int]:
        """Return the ids of the jobs without parents that are not finished, in ascending order.

        Source: 12.
        """
        return self._ids(sa.select(job.c.id).where(job.c.is_root, job.c.status.in_(_UNFINISHED)))

    @exposed(big=True)
    def getFinishedRootJobIds(self) -> list[int]:
        """Return the ids of the jobs without parents that are finished, in ascending order; abandoned ones are.

        Source: 12.
        """
        return self._ids(sa.select(job.c.id).where(job.c.is_root, job.c.status.in_(sorted(FINISHED))))

    @exposed(big=True)
    def getJobIdsByStatus(self, statuses: Any) -> list[int]:
        """Return the ids of the jobs in one of some statuses, in ascending order.

        Shapes: a list of names, or one name; `waiting` is `runnable`, `ejected` matches nothing.
        Errors: InvalidArgumentError, which lists the names there are.
        Source: 12.
        """
        wanted = statusnames.read(statuses, "statuses")
        return self._ids(
            sa.select(job.c.id).where(job.c.status.in_(listed("statuses", texts=True))).params(statuses=wanted)
        )

    @exposed(big=True)
    def getJobIdsBySatus(self, statuses: Any) -> list[int]:
        """Return what getJobIdsByStatus returns, for scripts that spell it as the document does.

        Source: 12.
        """
        return self.getJobIdsByStatus(statuses)

    @exposed()
    def getNumWaitingJobs(self, wait_time: Any = 0, min_priority: Any = -1, max_priority: Any = -1) -> int:
        """Return how many jobs are runnable, and have been for so long.

        Units: wait_time in minutes; 0 or less counts all. The bounds of the priority are inclusive, negative: none.
        Source: 17.
        """
        least_ms = max(0, arguments.integer(wait_time, "wait_time")) * _MINUTE_MS
        lowest = arguments.integer(min_priority, "min_priority")
        highest = arguments.integer(max_priority, "max_priority")
        query = sa.select(sa.func.count()).where(job.c.status == JobStatus.RUNNABLE)
        if least_ms:
            # Nobody has waited for longer than since 1970; a longer time does not fit the column.
            since = max(-1, to_ms(self._clock.now()) - least_ms)
            query = query.where(job.c.runnable_at <= since)
        if lowest >= 0:
            query = query.where(job.c.priority >= min(lowest, _BIGGEST_INT))
        if highest >= 0:
            query = query.where(job.c.priority <= min(highest, _BIGGEST_INT))
        with self._store.reading() as connection:
            return int(connection.execute(query.select_from(job)).scalar_one())

    @exposed(big=lambda params: not _is_short(params))
    def getJobOutput(self, job_id: Any, max_last_chars: Any = None) -> str | None:
        """Return the output of a job's command: all of it, or its last characters; None for an unknown id.

        Shapes: "" before there is any. The runs of a job follow each other, with a line in between. What is longer
        than max_output_answer loses its beginning; the first line then says how much.
        Source: 12.
        """
        key = arguments.one_id(job_id, "job_id")
        chars = None if max_last_chars is None else arguments.integer(max_last_chars, "max_last_chars")
        found = self._run_logs(key)
        if found is None:
            return None
        return self._logs.tail_chars(key, found[1], chars, self._config.max_output_answer_bytes)

    @exposed()
    def readJobOutput(self, job_id: Any, offset: Any = 0, max_bytes: Any = _MIB) -> dict[str, Any] | None:
        """Return a piece of a job's output, to follow it while the job runs; None for an unknown id.

        Shapes: {text, next, end, finished}: go on at `next`; `end` is where the output ends at the moment; finished
        says that the job and its hooks are, and that nothing follows this piece.
        Units: bytes. A character is never cut in two.
        Errors: InvalidArgumentError for a negative offset, or max_bytes below 1.
        Source: ours.
        """
        key = arguments.one_id(job_id, "job_id")
        start, most = arguments.integer(offset, "offset"), arguments.integer(max_bytes, "max_bytes")
        if start < 0:
            raise InvalidArgumentError(f"offset is {start}, but a number of bytes from 0 on was expected")
        if most < 1:
            raise InvalidArgumentError(f"max_bytes is {most}, but at least 1 was expected")
        found = self._run_logs(key)
        if found is None:
            return None
        status, runs = found
        piece = self._logs.read(key, runs, start, min(most, self._config.max_output_answer_bytes))
        ended = status in FINISHED and not any(each.open for each in runs) and not self._has_hooks(key)
        return {
            "text": piece.text,
            "next": piece.next,
            "end": piece.end,
            "finished": ended and piece.next >= piece.end,
        }

    @exposed()
    def getJobRuns(self, job_id: Any) -> list[dict[str, Any]]:
        """Return the attempts of a job, oldest first; [] for an unknown id.

        Shapes: {id, attempt, hook, clientId, client, assignedTime, startTime, endTime, seconds, exitCode, signal,
        outcome, message, peakMemory, outputBytes, line}. hook: "" for the command, else the hook's name. outcome:
        running, exited, killed, refused, lost. seconds: not halted. line: of its output, the one that tells most.
        Units: peakMemory in KB.
        Source: ours.
        """
        query = (
            sa.select(run, client.c.hostname, client.c.name)
            .join(client, client.c.id == run.c.client_id)
            .join(job, job.c.id == run.c.job_id)
            .where(run.c.job_id == arguments.one_id(job_id, "job_id"))
            .order_by(run.c.id)
        )
        with self._store.reading() as connection:
            return [_shown_run(row) for row in connection.execute(query)]

    @exposed()
    def cancelJobs(self, ids: Any) -> Future[bool]:
        """Cancel jobs and what is below them, but for what another unsettled parent still needs; return True.

        What runs is killed; settled jobs stay as they are. Unknown ids are skipped. The jobs named change at once,
        what is below them in the moments after.
        Source: 17.
        """
        return self._act(Action.CANCEL, ids)

    @exposed()
    def pauseJobs(self, ids: Any) -> Future[bool]:
        """Pause jobs and what is below them, but for what another unsettled parent still needs; return True.

        What runs is halted where it is and keeps its client; what waits is not scheduled. Unknown ids are skipped.
        Source: 17.
        """
        return self._act(Action.PAUSE, ids)

    @exposed()
    def resumeJobs(self, ids: Any) -> Future[bool]:
        """Let paused jobs go on, and what is below them; return True.

        Unknown ids are skipped.
        Source: 17.
        """
        return self._act(Action.RESUME, ids)

    @exposed()
    def rescheduleJobs(self, ids: Any) -> Future[bool]:
        """Run jobs again, with what is below them that did not succeed and every finished job above; return True.

        triesLeft is again what was submitted. Unknown ids are skipped.
        Source: 17.
        """
        return self._act(Action.RESCHEDULE, ids)

    @exposed()
    def ejectJobs(self, ids: Any) -> Future[bool]:
        """Take jobs, and what is below them, from the clients that run them, back into the queue; return True.

        No try is used up. Unknown ids are skipped.
        Source: 17.
        """
        return self._act(Action.EJECT, ids)

    @exposed()
    def deleteJobs(self, ids: Any) -> Future[bool]:
        """Delete finished jobs for good, with their output and what is below them; return True.

        What has another parent stays; unfinished jobs and unknown ids are skipped. Ids are never used again.
        Source: 17.
        """
        return self._act(Action.DELETE, ids)

    def fetch(self, job_ids: Sequence[int], names: Iterable[str]) -> dict[int, dict[str, Any]]:
        """Return attributes of those of the jobs that exist, by id."""
        with self._store.reading() as connection:
            return self._attributes.fetch(connection, job_ids, names)

    def _act(self, action: Action, ids: Any) -> Future[bool]:
        wanted = arguments.ids(ids, "ids")

        def write(session: Session) -> bool:
            act(session, action, wanted)
            return True

        return self._store.write_soon(write, urgent=action is Action.CANCEL)

    def _ids(self, query: sa.Select[Any]) -> list[int]:
        with self._store.reading() as connection:
            # Sorted here: in the index they stand by status first.
            return sorted(connection.execute(query).scalars())

    def _has_hooks(self, job_id: int) -> bool:
        """Tell whether hooks of a job are to run or do: their output follows the job's."""
        with self._store.reading() as connection:
            return connection.execute(sa.select(hook.c.id).where(hook.c.job_id == job_id).limit(1)).first() is not None

    def _run_logs(self, job_id: int) -> tuple[JobStatus, list[RunLog]] | None:
        """Return a job's status and its runs as its output needs them, None for an unknown id."""
        with self._store.reading() as connection:
            status = connection.execute(sa.select(job.c.status).where(job.c.id == job_id)).scalar()
            if status is None:
                return None
            rows = connection.execute(_RUN_LOGS, {"job": job_id}).all()
        return JobStatus(status), [RunLog(row.id, _title(row), open=row.closed_at is None) for row in rows]


def _is_short(params: list[Any]) -> bool:
    """Tell whether a call asks for no more than the last MiB of an output."""
    return len(params) > 1 and isinstance(params[1], int) and params[1] <= _MIB


_BIGGEST_INT: Final = 2**31 - 1
_UNFINISHED: Final = sorted(set(JobStatus) - FINISHED)
_RUN_LOGS: Final = (
    sa.select(run.c.id, run.c.attempt, run.c.hook, run.c.closed_at, client.c.hostname, client.c.name)
    .join(client, client.c.id == run.c.client_id)
    .where(run.c.job_id == sa.bindparam("job"))
    .order_by(run.c.id)
)


def is_narrow(params: list[Any], place: int) -> bool:
    """Tell whether a call asks for some attributes of one job that stand in its own row."""
    attribs = params[place] if place < len(params) else None
    return (
        isinstance(attribs, list)
        and 0 < len(attribs) <= len(NARROW)
        and all(isinstance(each, str) and each in NARROW for each in attribs)
    )


def names_of(attribs: Any) -> list[str]:
    """Return the attributes of jobs that a caller wants.

    Errors: UnknownAttributeError.
    """
    return arguments.attributes(attribs, DEFAULT_JOB_ATTRIBUTES, JOB_ATTRIBUTES)


def _title(row: Any) -> str:
    return f"{row.hook or f'attempt {row.attempt}'} on {client_label(row.hostname, row.name)}"


def _shown_run(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "attempt": row.attempt,
        "clientId": row.client_id,
        "client": client_label(row.hostname, row.name),
        "assignedTime": optional_date(row.assigned_at),
        "startTime": optional_date(row.started_at),
        "endTime": optional_date(row.closed_at),
        "seconds": row.seconds,
        "exitCode": row.exit_code,
        "signal": row.signal,
        "hook": row.hook,
        "outcome": row.outcome or "running",
        "message": row.message,
        "peakMemory": row.peak_memory_kb,
        "outputBytes": row.output_bytes,
        "line": row.line or "",
    }
