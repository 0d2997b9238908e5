"""Changes that go down a tree in small steps: a priority, and conditions that descendants share.

Each function changes the next children of one job. It returns those of them that have children of their own, and the
id of the last child it looked at: None when the job has no more. In one tree actions are done in the order in which
they came, so a value that is being spread is always newer than what it overwrites.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle.requirements import give, read_requirement
from hqueue.matching import conditions_from
from hqueue.outbox.news import Happened, announce
from hqueue.schema import job, job_edge, job_row, job_spec, requirement
from hqueue.states import SETTLED
from hqueue.store import Session, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Jobs looked at in one step: less than 10 ms of write lock.
_STEP: Final = 200
PRIORITY_CHANGED: Final = "priority changed"


class Change(StrEnum):
    """What can be set for everything below a job."""

    PRIORITY = "priority"
    CONDITIONS = "conditions"


_SET_PRIORITY: Final = sa.update(job_row).where(job_row.c.id.in_(listed("jobs"))).values(priority=sa.bindparam("given"))


def set_priority(session: Session, rows: Sequence[Any], priority: int) -> None:
    """Give jobs a priority, and say so in their logs; a row has id, status and priority."""
    changed = [row for row in rows if row.priority != priority]
    if changed:
        session.connection.execute(_SET_PRIORITY, {"jobs": [row.id for row in changed], "given": priority})
        told = [Happened(row.id, (PRIORITY_CHANGED,), row.status, f"{row.priority} > {priority}") for row in changed]
        for each in told:
            session.record(each.job_id, PRIORITY_CHANGED, each.status, each.message)
        announce(session, told)
        session.after_commit(WakeScheduler())


def _spread_priority(session: Session, job_id: int, cursor: int, priority: int) -> tuple[list[int], int | None]:
    columns = (job.c.id, job.c.status, job.c.priority, job.c.children_total)
    query = (
        sa.select(*columns)
        .join(job_edge, job_edge.c.child_id == job.c.id)
        .where(job_edge.c.parent_id == job_id, job_edge.c.child_id > cursor)
        .order_by(job_edge.c.child_id)
        .limit(_STEP)
    )
    rows = list(session.connection.execute(query))
    # The job itself again: an older action may have been here since it was set.
    itself = [] if cursor else list(session.connection.execute(sa.select(*columns).where(job.c.id == job_id)))
    set_priority(session, [row for row in (*itself, *rows) if row.status not in SETTLED], priority)
    return [row.id for row in rows if row.children_total], rows[-1].id if len(rows) == _STEP else None


def _spread_conditions(session: Session, root_id: int, cursor: int, given: list[Any]) -> tuple[list[int], int | None]:
    query = (
        sa.select(job.c.id, job_spec.c.inherits_conditions, requirement.c.spec_json)
        .join(job_spec, job_spec.c.job_id == job.c.id)
        .join(requirement, requirement.c.id == job.c.requirement_id)
        .where(job.c.root_id == root_id, job.c.id > cursor)
        .order_by(job.c.id)
        .limit(_STEP)
    )
    rows = session.connection.execute(query).all()
    conditions = conditions_from(given)
    needs = {row.id: read_requirement(row.spec_json) for row in rows if row.inherits_conditions}
    changed = {key: each for key, each in needs.items() if each.conditions != conditions}
    give(session, {key: replace(each, conditions=conditions) for key, each in changed.items()})
    session.after_commit(WakeScheduler())
    return [], rows[-1].id if len(rows) == _STEP else None


SPREADING: Final[dict[str, Callable[[Session, int, int, Any], tuple[list[int], int | None]]]] = {
    Change.PRIORITY: _spread_priority,
    Change.CONDITIONS: _spread_conditions,
}
