"""The method that says why a job waits."""
# ruff: noqa: N802 - methods have the names that they have on the wire

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from hqueue.context import Chapter
from hqueue.rpc import arguments
from hqueue.rpc.method import exposed
from hqueue.schema import job
from hqueue.states import JobStatus
from hqueue.views.explaining import Explainer, jobs_ahead, resources_of


class Explanations(Chapter):
    """The method that says why a job waits."""

    @exposed()
    def explainJob(self, job_id: Any) -> dict[str, Any] | None:
        """Return why a job waits, None for an unknown id.

        Shapes: {summary, clients: {total, free, reasons: [{reason, count, examples}]}, resources: [{name, wanted,
        max, used, perMachine, known}], ahead}. Each client counts once, under the first reason that holds, so that
        free and the counts add up to total. ahead: runnable jobs that come before it. For a job that does not wait
        the summary says so, and the rest is empty.
        Source: ours.
        """
        key = arguments.one_id(job_id, "job_id")
        with self._store.reading() as connection:
            row = connection.execute(_EXPLAINED, {"wanted": key}).one_or_none()
            if row is None:
                return None
            explainer = Explainer(connection, self._farm, [row])
            if row.status not in _WAITING:
                nobody = {"total": 0, "free": 0, "reasons": []}
                summary = explainer.waits_for(row) or f"does not wait: it is {row.status}"
                return {"summary": summary, "clients": nobody, "resources": [], "ahead": 0}
            return {
                "summary": explainer.waits_for(row),
                "clients": explainer.clients(row).as_dict(),
                "resources": resources_of(connection, explainer.requirement(row), explainer.farm),
                "ahead": jobs_ahead(connection, row),
            }


_WAITING: Final = frozenset({JobStatus.RUNNABLE, JobStatus.QUEUED})
_EXPLAINED: Final = sa.select(
    job.c.id,
    job.c.status,
    job.c.requirement_id,
    job.c.priority,
    job.c.root_id,
    job.c.children_total,
    job.c.children_unsettled,
    job.c.run_id,
).where(job.c.id == sa.bindparam("wanted"))
