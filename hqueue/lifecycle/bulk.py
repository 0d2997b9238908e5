"""Actions on jobs and their relatives.

The named jobs change in the caller's own transaction; a row per job whose children are still to be looked at carries
the rest on in small steps, parents before children, also after a crash.
"""

from __future__ import annotations

import json
from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import insert_row, listed
from hqueue.lifecycle.deletion import GONE_ROOT, delete, missed_roots, rehome
from hqueue.lifecycle.rows import ancestors, statuses
from hqueue.lifecycle.spreading import SPREADING, Change
from hqueue.lifecycle.status import apply
from hqueue.schema import bulk, bulk_job, job, job_edge
from hqueue.states import SETTLED, UNSUCCESSFUL, Cause, JobEvent, JobStatus
from hqueue.store import RunBulk, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Children looked at in one step: 10 to 20 ms of write lock.
STEP: Final = 200
_EXPAND, _DONE = "expand", "done"
_SPREAD, _RELEASE = "spread", "release"


class Action(StrEnum):
    """What can be asked of a list of jobs."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RESCHEDULE = "reschedule"
    EJECT = "eject"
    DELETE = "delete"


_EVENTS: Final[dict[Action, JobEvent]] = {
    action: JobEvent[action.name] for action in Action if action.name in JobEvent.__members__
}
_THESE: Final = job.c.id.in_(listed("jobs"))
_NOTED: Final = bulk_job.c.job_id.in_(listed("jobs"))
_EDGES_UP: Final = sa.select(job_edge.c.child_id, job_edge.c.parent_id).where(job_edge.c.child_id.in_(listed("jobs")))
_HAVE_CHILDREN: Final = sa.select(job.c.id).where(_THESE, job.c.children_total > 0)
_RELEASED: Final = sa.update(job).where(_THESE).values(held_by_bulk=False)
_DELETABLE: Final = frozenset({*SETTLED, JobStatus.ABANDONED})


def act(session: Session, action: Action, job_ids: Sequence[int]) -> None:
    """Carry an action out on the named jobs, and note it for their relatives; unknown ids are skipped.

    Writes: the named jobs, and an action that `step` carries on.
    """
    named = _existing(session, list(dict.fromkeys(job_ids)))
    if action is Action.DELETE:
        named = [job_id for job_id, status in statuses(session.connection, named).items() if status in _DELETABLE]
        below = delete(session, named)
        _note(session, action, below, missed_roots(session, named))
        return
    _carry_out(session, action, named)
    _note(session, action, _with_children(session, named))


def spread(session: Session, change: Change, job_ids: Sequence[int], value: Any) -> None:
    """Have everything below jobs get what they were given.

    Writes: an action that `step` carries on.
    """
    unfinished = sa.select(bulk.c.id).where(bulk.c.action == change.value).limit(1)
    # An older action that is still on its way must not have the last word on one of these.
    older = session.connection.execute(unfinished).first() is not None
    _note(session, change, job_ids if older else _with_children(session, job_ids), value=value)


def step(session: Session) -> bool:
    """Carry the oldest unfinished action a small step on; tell whether there may be more to do."""
    oldest = session.connection.execute(sa.select(bulk).order_by(bulk.c.id).limit(1)).one_or_none()
    if oldest is None:
        return False
    if oldest.action in SPREADING:
        _spread_on(session, oldest)
        return True
    action = Action(oldest.action)
    if oldest.phase == _SPREAD:
        query = (
            sa.select(bulk_job.c.position, bulk_job.c.job_id, bulk_job.c.child_cursor)
            .where(bulk_job.c.bulk_id == oldest.id, bulk_job.c.state == _EXPAND)
            .order_by(bulk_job.c.position)
            .limit(STEP if action is Action.DELETE else 1)
        )
        rows = session.connection.execute(query).all()
        if rows and action is Action.DELETE:
            _delete_below(session, oldest.id, [(row.position, row.job_id) for row in rows])
        elif rows:
            _expand(session, oldest.id, action, *rows[0])
        else:
            session.connection.execute(sa.update(bulk).where(bulk.c.id == oldest.id).values(phase=_RELEASE))
        return True
    if not (rehome(session, oldest.id, STEP) if action is Action.DELETE else _release(session, oldest.id)):
        _finish(session, oldest.id)
    return True


def _spread_on(session: Session, oldest: Any) -> None:
    query = (
        sa.select(bulk_job.c.position, bulk_job.c.job_id, bulk_job.c.child_cursor)
        .where(bulk_job.c.bulk_id == oldest.id, bulk_job.c.state == _EXPAND)
        .order_by(bulk_job.c.position)
        .limit(1)
    )
    row = session.connection.execute(query).one_or_none()
    if row is None:
        _finish(session, oldest.id)
        return
    value = json.loads(oldest.value_json)
    below, cursor = SPREADING[oldest.action](session, row.job_id, row.child_cursor, value)
    _insert(session, oldest.id, below)
    values = {"state": _DONE} if cursor is None else {"child_cursor": cursor}
    session.connection.execute(sa.update(bulk_job).where(bulk_job.c.position == row.position).values(values))


def _finish(session: Session, bulk_id: int) -> None:
    session.connection.execute(sa.delete(bulk_job).where(bulk_job.c.bulk_id == bulk_id))
    session.connection.execute(sa.delete(bulk).where(bulk.c.id == bulk_id))


def below_unfinished(connection: sa.Connection, job_ids: Iterable[int]) -> set[int]:
    """Return those of the jobs that an unfinished action has reached or may still reach; they are not to be assigned.

    One about priorities does not matter here.
    """
    matters = bulk.c.action != Change.PRIORITY.value
    if connection.execute(sa.select(bulk.c.id).where(matters).limit(1)).first() is None:
        return set()
    asked = set(job_ids)
    seen, level = set(asked), set(asked)
    children: dict[int, list[int]] = defaultdict(list)
    while level:
        above: set[int] = set()
        for child_id, parent_id in connection.execute(_EDGES_UP, {"jobs": level}):
            children[parent_id].append(child_id)
            above.add(parent_id)
        level = above - seen
        seen |= level
    reached = sa.select(bulk_job.c.job_id).join(bulk, bulk.c.id == bulk_job.c.bulk_id)
    blocked = set(connection.execute(reached.where(matters, _NOTED), {"jobs": seen}).scalars()) if seen else set()
    pending = list(blocked)
    while pending:
        fresh = [child for child in children[pending.pop()] if child not in blocked]
        blocked.update(fresh)
        pending.extend(fresh)
    return blocked & asked


def fall_under(session: Session, edges: Sequence[tuple[int, int]]) -> None:
    """Let new children fall under the unfinished actions that have been to their parents already."""
    unfinished = session.connection.execute(sa.select(bulk.c.id, bulk.c.action).order_by(bulk.c.id)).all()
    first_new: dict[int, int] = {}
    for parent_id, child_id in edges:
        first_new[parent_id] = min(child_id, first_new.get(parent_id, child_id))
    for bulk_id, name in unfinished:
        if name in SPREADING:
            continue  # a new job has the conditions that its root has now, and the priority it was given
        if Action(name) is not Action.DELETE:  # that takes what is below a job when it takes the job
            for parent_id, child_id in first_new.items():
                _look_again(session, bulk_id, Action(name), parent_id, child_id - 1)


def _look_again(session: Session, bulk_id: int, action: Action, parent_id: int, cursor: int) -> None:
    """Let an action look at the children of a job from a place on, if it was done with that job."""
    query = sa.select(bulk_job.c.state).where(bulk_job.c.bulk_id == bulk_id, bulk_job.c.job_id == parent_id)
    state = session.connection.execute(query).scalar()
    if state == _DONE:
        session.connection.execute(
            sa.update(bulk_job)
            .where(bulk_job.c.bulk_id == bulk_id, bulk_job.c.job_id == parent_id)
            .values(state=_EXPAND, child_cursor=cursor),
        )
    elif state is None and _was_reached(session, bulk_id, action, parent_id):
        _insert(session, bulk_id, [parent_id], cursor=cursor)
    else:
        return
    session.connection.execute(sa.update(bulk).where(bulk.c.id == bulk_id).values(phase=_SPREAD))
    session.after_commit(RunBulk())


def _was_reached(session: Session, bulk_id: int, action: Action, job_id: int) -> bool:
    """Tell whether an action has been to a job that it did not note, because it had no children then."""
    query = (
        sa.select(bulk_job.c.job_id)
        .join(job_edge, job_edge.c.parent_id == bulk_job.c.job_id)
        .where(
            bulk_job.c.bulk_id == bulk_id,
            job_edge.c.child_id == job_id,
            sa.or_(bulk_job.c.state == _DONE, bulk_job.c.child_cursor >= job_id),
        )
        .limit(1)
    )
    if session.connection.execute(query).first() is None:
        return False
    return bool(_touched(session, bulk_id, action, [job_id]))


def _existing(session: Session, job_ids: Sequence[int]) -> list[int]:
    known = statuses(session.connection, job_ids)
    return [job_id for job_id in job_ids if job_id in known]


def _with_children(session: Session, job_ids: Sequence[int]) -> list[int]:
    found = set(session.connection.execute(_HAVE_CHILDREN, {"jobs": job_ids}).scalars()) if job_ids else ()
    return [job_id for job_id in job_ids if job_id in found]


def _carry_out(session: Session, action: Action, job_ids: Sequence[int]) -> None:
    if job_ids:
        cause = Cause(message="asked for", hold=action is Action.RESCHEDULE)
        apply(session, _EVENTS[action], job_ids, cause)


def _note(
    session: Session,
    action: Action | Change,
    job_ids: Sequence[int],
    gone_roots: Sequence[int] = (),
    *,
    value: Any = None,
) -> None:
    if not job_ids and not gone_roots:
        return
    given = None if value is None else json.dumps(value, ensure_ascii=False)
    values = {"action": action.value, "phase": _SPREAD, "created_at": session.now_ms, "value_json": given}
    key = insert_row(session.connection, bulk, values)
    _insert(session, key, job_ids)
    _insert(session, key, gone_roots, state=GONE_ROOT)
    session.after_commit(RunBulk())


def _insert(
    session: Session,
    bulk_id: int,
    job_ids: Sequence[int],
    *,
    state: str = _EXPAND,
    cursor: int = 0,
) -> None:
    """Note jobs for an action that does not have them yet."""
    if not job_ids:
        return
    query = sa.select(bulk_job.c.job_id).where(bulk_job.c.bulk_id == bulk_id, _NOTED)
    known = set(session.connection.execute(query, {"jobs": job_ids}).scalars())
    rows = [
        {"bulk_id": bulk_id, "job_id": job_id, "state": state, "child_cursor": cursor}
        for job_id in job_ids
        if job_id not in known
    ]
    if rows:
        session.connection.execute(sa.insert(bulk_job), rows)


def _expand(session: Session, bulk_id: int, action: Action, position: int, parent_id: int, cursor: int) -> None:
    """Look at the next children of a job that the action has reached."""
    query = (
        sa.select(job_edge.c.child_id)
        .where(job_edge.c.parent_id == parent_id, job_edge.c.child_id > cursor)
        .order_by(job_edge.c.child_id)
        .limit(STEP)
    )
    children = list(session.connection.execute(query).scalars())
    if action is Action.RESCHEDULE and _cancelled_since(session, bulk_id, parent_id):
        children = []
    touched = _touched(session, bulk_id, action, children)
    _carry_out(session, action, touched)
    _insert(session, bulk_id, _with_children(session, _leading_on(session, action, children, touched)))
    values = {"child_cursor": children[-1]} if len(children) == STEP else {"state": _DONE}
    session.connection.execute(sa.update(bulk_job).where(bulk_job.c.position == position).values(values))


def _touched(session: Session, bulk_id: int, action: Action, children: Sequence[int]) -> list[int]:
    """Return the children that the action holds for.

    A reschedule: the unsuccessful ones. Any other: all but those that still have an unsettled parent outside.
    """
    if action is Action.RESCHEDULE:
        wanted = {*UNSUCCESSFUL, JobStatus.ABANDONED}
        return [child for child, status in statuses(session.connection, children).items() if status in wanted]
    if not children:
        return []
    query = (
        sa.select(job_edge.c.child_id)
        .join(job, job.c.id == job_edge.c.parent_id)
        .where(
            job_edge.c.child_id.in_(listed("jobs")),
            job.c.status.not_in(sorted(SETTLED)),
            job.c.id.not_in(sa.select(bulk_job.c.job_id).where(bulk_job.c.bulk_id == bulk_id)),
        )
    )
    outside = set(session.connection.execute(query, {"jobs": children}).scalars())
    return [child for child in children if child not in outside]


def _leading_on(session: Session, action: Action, children: Sequence[int], touched: Sequence[int]) -> Sequence[int]:
    """Return the children below which there may be more for the action."""
    if action is not Action.RESCHEDULE:
        return touched
    # Jobs that did not succeed may be below one that still waits for others.
    wanted = set(touched)
    known = statuses(session.connection, children)
    return [child for child, status in known.items() if child in wanted or status not in SETTLED]


def _cancelled_since(session: Session, bulk_id: int, job_id: int) -> bool:
    """Tell whether what is below a job has been cancelled after this action: then the later word counts."""
    cancelled = (
        sa.select(bulk_job.c.job_id)
        .join(bulk, bulk.c.id == bulk_job.c.bulk_id)
        .where(bulk.c.id > bulk_id, bulk.c.action == Action.CANCEL.value)
    )
    if session.connection.execute(cancelled.limit(1)).first() is None:
        return False
    above = {job_id, *ancestors(session.connection, [job_id])}
    return session.connection.execute(cancelled.where(_NOTED).limit(1), {"jobs": above}).first() is not None


def _release(session: Session, bulk_id: int) -> bool:
    """Let jobs go that waited for the action to reach their children; tell whether there were any."""
    query = (
        sa.select(job.c.id)
        .join(bulk_job, bulk_job.c.job_id == job.c.id)
        .where(bulk_job.c.bulk_id == bulk_id, job.c.held_by_bulk)
        .limit(STEP)
    )
    held = list(session.connection.execute(query).scalars())
    release(session, held)
    queued = [job_id for job_id, status in statuses(session.connection, held).items() if status is JobStatus.QUEUED]
    apply(session, JobEvent.LAST_CHILD_SETTLED, queued)
    return bool(held)


def release(session: Session, job_ids: Sequence[int]) -> None:
    """Note that jobs wait for no action any more."""
    if job_ids:
        session.connection.execute(_RELEASED, {"jobs": job_ids})


def _delete_below(session: Session, bulk_id: int, rows: Sequence[tuple[int, int]]) -> None:
    """Delete those of the reached jobs that have no parent left; the others stay."""
    connection, reached = session.connection, [job_id for _, job_id in rows]
    staying = {child for child, _ in connection.execute(_EDGES_UP, {"jobs": reached})}
    going = [job_id for job_id in reached if job_id not in staying]
    apply(session, JobEvent.CANCEL, going, Cause(message="deleted"))
    below = delete(session, going)
    done = sa.update(bulk_job).where(bulk_job.c.position.in_(listed("positions"))).values(state=_DONE)
    connection.execute(done, {"positions": [position for position, _ in rows]})
    # A job that stays is looked at again whenever another of its parents goes.
    again = sa.delete(bulk_job).where(bulk_job.c.bulk_id == bulk_id, bulk_job.c.state == _DONE, _NOTED)
    connection.execute(again, {"jobs": [*staying, *below]})
    _insert(session, bulk_id, below)
    _insert(session, bulk_id, missed_roots(session, going), state=GONE_ROOT)
