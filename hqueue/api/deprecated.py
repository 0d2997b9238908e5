"""Calls that HQueue's document names deprecated, and that scripts still make."""
# ruff: noqa: A002 - arguments have the names that the document gives them

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from hqueue.api.clients import Clients
from hqueue.api.jobs import Jobs
from hqueue.context import Chapter, Context
from hqueue.rpc import arguments
from hqueue.rpc.method import exposed
from hqueue.schema import job

_INFO: Final = (
    "startTime",
    "endTime",
    "cmdStartTime",
    "cmdEndTime",
    "status",
    "progress",
    "root",
    "children",
    "parents",
    "priority",
    "conditions",
)


class Deprecated(Chapter):
    """The deprecated methods; they answer as their successors do."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._jobs = Jobs(context)
        self._clients = Clients(context)

    @exposed()
    def getinfo(self, id: Any) -> dict[str, Any] | None:
        """Return what is to know of a job, None for an unknown id.

        Shapes: startTime, endTime, cmdStartTime, cmdEndTime, status, progress, root, children, parents, priority,
        conditions.
        Source: 12, deprecated: use getJob.
        """
        key = arguments.one_id(id, "id")
        return self._jobs.fetch([key], _INFO).get(key)

    @exposed()
    def getstatus(self, id: Any) -> str | None:
        """Return a job's status, None for an unknown id.

        Source: 12, deprecated: use getJob.
        """
        key = arguments.one_id(id, "id")
        found = self._jobs.fetch([key], ["status"]).get(key)
        return None if found is None else str(found["status"])

    @exposed()
    def getprogress(self, id: Any) -> list[float | None] | None:
        """Return numerator and denominator of a job's progress, None for an unknown id.

        Shapes: [None, None] before there is any.
        Source: 12, deprecated: use getJob.
        """
        key = arguments.one_id(id, "id")
        columns = (job.c.run_id, job.c.progress, job.c.progress_numerator, job.c.progress_denominator)
        with self._store.reading() as connection:
            row = connection.execute(sa.select(*columns).where(job.c.id == key)).one_or_none()
        if row is None:
            return None
        live = self._live_farm.progress.get(key) if row.run_id is not None else None
        if live is not None:
            return [live.numerator, live.denominator]
        numerator, denominator = row.progress_numerator, row.progress_denominator
        if row.progress == 1.0:
            # It succeeded, whatever it said last.
            return [denominator or 1.0, denominator or 1.0]
        # What an attempt before the current one said does not count any more.
        return [None, None] if not row.progress and numerator else [numerator, denominator]

    @exposed(big=True)
    def getoutput(self, id: Any) -> str | None:
        """Return the output of a job's command, None for an unknown id.

        Source: 12, deprecated: use getJobOutput.
        """
        return self._jobs.getJobOutput(id)

    @exposed()
    def getclientinfo(self, hostname: Any) -> dict[str, Any] | None:
        """Return whether a client is disabled and the ids of its jobs, None for an unknown one.

        Shapes: {disabled, jobs}. hostname as in getClientByHostname.
        Source: 12, deprecated: use getClientByHostname.
        """
        found = self._clients.getClientByHostname(hostname, ["disabled", "runningJobs"])
        return None if found is None else {"disabled": found["disabled"], "jobs": found["runningJobs"]}
