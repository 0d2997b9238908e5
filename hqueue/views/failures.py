"""What failed in a tree, and why: the telling line of a run, and the digest of a tree's failures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle.runs import describe
from hqueue.protocol import Report
from hqueue.schema import client, job, job_edge, run
from hqueue.states import JobStatus
from hqueue.views.attribute import optional_date

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOOKED_BACK_BYTES: Final = 16 * 1024  # of a run's output, for its telling line
_LONGEST: Final = 300
_TELLS: Final = re.compile(r"error|fatal|exception|cannot|denied|not found|licen[cs]e|killed", re.IGNORECASE)
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NUMBERS: Final = re.compile(r"0[xX][0-9a-fA-F]+|\b(?=[a-fA-F]*[0-9])[0-9a-fA-F]{6,}\b|[0-9]+")


def telling_line(output: str) -> str:
    """Return the line at the end of an output that says best how the run went: "" for none, at most 300 characters.

    That is the last one that speaks of an error, a licence or the like, else the last that is not blank.
    """
    lines = [
        line for each in re.split(r"[\r\n]", _ESCAPES.sub("", output)) if (line := _CONTROLS.sub("", each).strip())
    ]
    found = next((line for line in reversed(lines) if _TELLS.search(line)), lines[-1] if lines else "")
    return found if len(found) <= _LONGEST else found[: _LONGEST - 1] + "…"


def as_cause(line: str) -> str:
    """Return a line as it is counted: digits and hexadecimal numbers are `#`, so that all frames say the same."""
    return _NUMBERS.sub("#", line)


@dataclass(frozen=True, slots=True)
class Digest:
    """What has become of a tree.

    counts: its jobs by status. failed: how many of them failed by themselves, not because of what is below them.
    failures: the first of these. causes: their telling lines with digits as `#`, with count and an example's id.
    """

    name: str
    status: str
    counts: Mapping[str, int]
    failed: int
    failures: Sequence[Mapping[str, Any]]
    causes: Sequence[Mapping[str, Any]]


def digest(connection: sa.Connection, job_id: int, limit: int) -> Digest | None:
    """Return what has become of a job and everything below it, None for an unknown id."""
    own = connection.execute(sa.select(job.c.name, job.c.status).where(job.c.id == job_id)).one_or_none()
    if own is None:
        return None
    ids = connection.execute(_BELOW, {"top": job_id}).scalars().all()
    tree = connection.execute(_TREE, {"jobs": ids}).all()
    failed = [row.id for row in sorted(tree, key=lambda row: (row.ended_at or 0, row.id)) if _failed_itself(row)]
    lines = {row.id: row.line or row.message or "" for row in connection.execute(_LINES, {"jobs": failed})}
    causes: Counter[str] = Counter()
    examples: dict[str, int] = {}
    for failed_id in failed:
        cause = as_cause(lines[failed_id])
        causes[cause] += 1
        examples.setdefault(cause, failed_id)
    first = connection.execute(_DETAILS, {"jobs": failed[:limit]})
    shown = {row.id: _shown(row) for row in first}
    return Digest(
        own.name,
        own.status,
        Counter(row.status for row in tree),
        len(failed),
        [shown[failed_id] for failed_id in failed[:limit]],
        [{"line": line, "count": count, "example": examples[line]} for line, count in causes.most_common(limit)],
    )


def _shown(row: Any) -> dict[str, Any]:
    text = ""
    if row.outcome:
        report = Report("", row.outcome, exit_code=row.exit_code, signal=row.signal or None, message=row.message)
        text = describe(report)
    return {
        "id": row.id,
        "name": row.name,
        "exitCode": row.exit_code,
        "signal": row.signal or None,
        "text": text,
        "clientId": row.client_id,
        "clientHostname": row.hostname,
        "date": optional_date(row.ended_at),
        "line": row.line or row.message or "",
    }


def _failed_itself(row: Any) -> bool:
    """Tell whether a job failed itself: where one below it did, only an exit status of its own says so."""
    return row.status == JobStatus.FAILED and (not row.children_unsuccessful or bool(row.exit_code))


def _below() -> sa.Select[Any]:
    """Return the statement for the ids of a job and of everything below it, each once."""
    below = sa.select(job.c.id).where(job.c.id == sa.bindparam("top")).cte("below", recursive=True)
    below = below.union(sa.select(job_edge.c.child_id).where(job_edge.c.parent_id == below.c.id))
    return sa.select(below.c.id)


_BELOW: Final = _below()
# Apart from the ids: together, SQLite would rather look at all jobs of a status.
_TREE: Final = sa.select(job.c.id, job.c.status, job.c.children_unsuccessful, job.c.exit_code, job.c.ended_at).where(
    job.c.id.in_(listed("jobs"))
)
_RUN: Final = run.alias("last")
_LAST_RUN: Final = (
    sa.select(sa.func.max(_RUN.c.id)).where(_RUN.c.job_id == job.c.id, _RUN.c.hook == "").scalar_subquery()
)
_LINES: Final = (
    sa.select(job.c.id, run.c.line, run.c.message)
    .select_from(job)
    .outerjoin(run, run.c.id == _LAST_RUN)
    .where(job.c.id.in_(listed("jobs")))
)
_DETAILS: Final = (
    sa.select(
        job.c.id,
        job.c.name,
        job.c.ended_at,
        *(run.c[name] for name in ("exit_code", "signal", "outcome", "message", "line", "client_id")),
        client.c.hostname,
    )
    .select_from(job)
    .outerjoin(run, run.c.id == _LAST_RUN)
    .outerjoin(client, client.c.id == run.c.client_id)
    .where(job.c.id.in_(listed("jobs")))
)
