"""Actions on jobs and their relatives.

The named jobs change in the caller's own transaction, unless an older action is still at work in their trees: then
they change at its end. A row per job whose children are still to be looked at carries the rest on in small steps,
parents before children, also after a crash.
"""

from __future__ import annotations

import json
import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import insert_row, listed
from hqueue.lifecycle import turns
from hqueue.lifecycle.deletion import GONE_ROOT, cut, delete, detach, fitting, make_roots, missed_roots, rehome, wide
from hqueue.lifecycle.rows import statuses
from hqueue.lifecycle.spreading import SPREADING, Change
from hqueue.lifecycle.status import apply
from hqueue.schema import bulk, bulk_job, job, job_edge, job_row
from hqueue.states import SETTLED, UNSUCCESSFUL, Cause, JobEvent, JobStatus
from hqueue.store import RunBulk, Session, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

# Children looked at in one step: 10 to 20 ms of write lock.
STEP: Final = 200
# A job with more children is not deleted while its caller waits: it leaves its tree, and then goes in steps.
AT_ONCE: Final = 1_000
_DONE: Final = "done"
_ITSELF: Final = -1  # where the children's cursor stands: the job is to be changed itself before them
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
_HAVE_CHILDREN: Final = sa.select(job.c.id).where(_THESE, job.c.children_total > 0)
_RELEASED: Final = sa.update(job_row).where(job_row.c.id.in_(listed("jobs"))).values(held_by_bulk=False)
_STEPPED: Final = sa.update(bulk).where(bulk.c.id == sa.bindparam("key_id")).values(steps=bulk.c.steps + 1)
_FORGET: Final = sa.delete(bulk_job).where(bulk_job.c.position.in_(listed("positions")))
_DELETABLE: Final = frozenset({*SETTLED, JobStatus.ABANDONED})


def act(session: Session, action: Action, job_ids: Sequence[int]) -> None:
    """Carry an action out on the named jobs, and note it for their relatives; unknown ids are skipped.

    Named jobs change now; those for which an older action is still on its way change when that is done.
    Writes: the named jobs, and an action that `step` carries on.
    """
    named = _existing(session, list(dict.fromkeys(job_ids)))
    roots, held = turns.roots_of(session.connection, named), turns.held(session.connection, named)
    below, gone_roots = _begin(session, action, [job_id for job_id in named if job_id not in held])
    later = [job_id for job_id in named if job_id in held]
    _note(session, action, named, below, roots, later=later, gone_roots=gone_roots)


def _begin(session: Session, action: Action, named: Sequence[int]) -> tuple[list[int], list[int]]:
    """Change named jobs themselves, all together: a child that is cancelled first would fail its parent.

    Returns the jobs from which the action goes on, and the deleted ones that are still the root of others.
    """
    if action is not Action.DELETE:
        _carry_out(session, action, named)
        return _with_children(session, named), []
    going = _deletable(session, named)
    slowly = wide(session.connection, going, AT_ONCE)
    detach(session, slowly)
    below = [*slowly, *delete(session, [job_id for job_id in going if job_id not in set(slowly)])]
    return below, missed_roots(session, going)


def spread(session: Session, change: Change, job_ids: Sequence[int], value: Any) -> None:
    """Have everything below jobs get what they were given.

    Writes: an action that `step` carries on.
    """
    # An older action that is still on its way must not have the last word on one of these.
    again = turns.holder(session.connection, job_ids) is not None
    below = job_ids if again else _with_children(session, job_ids)
    _note(session, change, job_ids, below, turns.roots_of(session.connection, job_ids), value=value)


def step(session: Session) -> bool:
    """Carry the unfinished action whose turn it is a small step on; tell whether there may be more to do.

    One whose step raises is set aside; the others go on.
    Errors: what says that nothing can be stored now.
    """
    turn = turns.next_action(session.connection)
    if turn is None:
        return False
    error = session.attempt(lambda: _carry_on(session, turn))
    if error is not None:
        _set_aside(session, turn, error)
    return True


def _carry_on(session: Session, turn: Any) -> None:
    session.connection.execute(_STEPPED, {"key_id": turn.id})
    if turn.phase == _RELEASE:
        if not _let_go(session, turn):
            turns.finish(session, turn.id)
        return
    rows = turns.next_jobs(session.connection, turn.id, STEP if turn.action == Action.DELETE else 1)
    if not rows:
        holder = turns.holder_of_next(session.connection, turn.id)
        if holder is not None:
            turns.wait(session, turn.id, holder)
        else:
            session.connection.execute(sa.update(bulk).where(bulk.c.id == turn.id).values(phase=_RELEASE))
        return
    if rows[0].child_cursor == _ITSELF:
        _begin_later(session, turn)
        return
    rows = [row for row in rows if row.child_cursor != _ITSELF]
    reached = [row.job_id for row in rows]
    if turn.action != Action.DELETE:
        reached += _next_children(session, rows[0].job_id, rows[0].child_cursor)
    holder = turns.holder(session.connection, reached, turn.id)
    if holder is not None:
        turns.wait(session, turn.id, holder)
    else:
        _reach(session, turn, rows, reached)


def _begin_later(session: Session, turn: Any) -> None:
    """Change those of the named jobs that had to wait for older actions and wait no more."""
    query = sa.select(bulk_job.c.job_id, bulk_job.c.position)
    query = query.where(bulk_job.c.bulk_id == turn.id, bulk_job.c.child_cursor == _ITSELF)
    positions = dict(session.connection.execute(query.order_by(bulk_job.c.position)).all())
    held = turns.held(session.connection, positions, turn.id)
    named = [job_id for job_id in positions if job_id not in held]
    holder = None if named else turns.holder(session.connection, positions, turn.id)
    if holder is not None:
        turns.wait(session, turn.id, holder)
        return
    session.connection.execute(_FORGET, {"positions": [positions[job_id] for job_id in named]})
    below, gone_roots = _begin(session, Action(turn.action), _existing(session, named))
    turns.note_jobs(session.connection, turn.id, below)
    turns.note_jobs(session.connection, turn.id, gone_roots, state=GONE_ROOT)


def _reach(session: Session, turn: Any, rows: Sequence[Any], reached: Sequence[int]) -> None:
    if turn.action == Action.DELETE:
        _delete_below(session, turn.id, rows)
    elif turn.action in SPREADING:
        _spread_on(session, turn, rows[0])
    else:
        _expand(session, turn.id, Action(turn.action), rows[0], reached[1:])


def _spread_on(session: Session, turn: Any, row: Any) -> None:
    value = json.loads(turn.value_json)
    below, cursor = SPREADING[turn.action](session, row.job_id, row.child_cursor, value)
    turns.note_jobs(session.connection, turn.id, below)
    values = {"state": _DONE} if cursor is None else {"child_cursor": cursor}
    session.connection.execute(sa.update(bulk_job).where(bulk_job.c.position == row.position).values(values))


def _set_aside(session: Session, turn: Any, error: Exception) -> None:
    """Give up an action that cannot be carried on, and let go what it held; the jobs it was asked of say so."""
    reason = str(getattr(error, "orig", None) or error).partition("\n")[0][:500]
    text = f"{turn.action} was given up before it was done with everything below: {reason}; it may be asked for again"
    log.error("jobs %s: %s", turn.named_json[:200], text, exc_info=error)
    failure = session.attempt(lambda: _let_all_go(session, turn))
    if failure is not None:
        log.error("what %s of jobs %s held waits for the next start", turn.action, turn.named_json[:200])
    for job_id, status in statuses(session.connection, json.loads(turn.named_json)).items():
        session.record(job_id, "note", status, text)
    turns.finish(session, turn.id)
    session.after_commit(WakeScheduler())


def _let_go(session: Session, turn: Any) -> bool:
    """Let some of the jobs go that waited for an action to reach what is below them; tell whether there were any."""
    if turn.action == Action.DELETE:
        return rehome(session, turn.id, STEP)
    return turn.action == Action.RESCHEDULE and _release(session, turn.id)


def _let_all_go(session: Session, turn: Any) -> None:
    if turn.action == Action.DELETE:
        reached = sa.select(bulk_job.c.job_id).where(bulk_job.c.bulk_id == turn.id, bulk_job.c.state == turns.EXPAND)
        make_roots(session, session.connection.execute(reached).scalars().all())
    while _let_go(session, turn):
        pass


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
            .values(state=turns.EXPAND, child_cursor=cursor),
        )
    elif state is None and _was_reached(session, bulk_id, action, parent_id):
        turns.note_jobs(session.connection, bulk_id, [parent_id], cursor=cursor)
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
    named: Sequence[int],
    job_ids: Sequence[int],
    roots: Sequence[int],
    *,
    later: Sequence[int] = (),
    gone_roots: Sequence[int] = (),
    value: Any = None,
) -> None:
    """Note what is left to do of an action.

    later: jobs that it was asked of and that have not changed yet.
    """
    if not job_ids and not later and not gone_roots:
        return
    given = None if value is None else json.dumps(value, ensure_ascii=False)
    values = {"action": action.value, "phase": _SPREAD, "created_at": session.now_ms, "value_json": given}
    values |= {"named_json": json.dumps(list(named)), "steps": 0}
    key = insert_row(session.connection, bulk, values)
    turns.note_roots(session.connection, key, roots)
    turns.note_jobs(session.connection, key, later, cursor=_ITSELF)
    turns.note_jobs(session.connection, key, job_ids)
    turns.note_jobs(session.connection, key, gone_roots, state=GONE_ROOT)
    session.after_commit(RunBulk())


def _next_children(session: Session, parent_id: int, cursor: int) -> list[int]:
    query = (
        sa.select(job_edge.c.child_id)
        .where(job_edge.c.parent_id == parent_id, job_edge.c.child_id > cursor)
        .order_by(job_edge.c.child_id)
        .limit(STEP)
    )
    return list(session.connection.execute(query).scalars())


def _expand(session: Session, bulk_id: int, action: Action, row: Any, children: Sequence[int]) -> None:
    """Change the next children of a job that the action has reached."""
    touched = _touched(session, bulk_id, action, children)
    _carry_out(session, action, touched)
    leading_on = _with_children(session, _leading_on(session, action, children, touched))
    turns.note_jobs(session.connection, bulk_id, leading_on)
    values = {"child_cursor": children[-1]} if len(children) == STEP else {"state": _DONE}
    session.connection.execute(sa.update(bulk_job).where(bulk_job.c.position == row.position).values(values))


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


def _deletable(session: Session, job_ids: Sequence[int]) -> list[int]:
    return [job_id for job_id, status in statuses(session.connection, job_ids).items() if status in _DELETABLE]


def _delete_below(session: Session, bulk_id: int, rows: Sequence[Any]) -> None:
    """Delete those of the reached jobs that have no parent left; the others stay."""
    connection = session.connection
    reached = [row.job_id for row in rows]
    staying = {child for child, _ in connection.execute(turns.EDGES_UP, {"jobs": reached})}
    going = [job_id for job_id in reached if job_id not in staying]
    going, is_wide = fitting(connection, going, STEP)
    if is_wide:
        # Its children go a step's worth at a time, and itself with the last of them.
        apply(session, JobEvent.CANCEL, going, Cause(message="deleted"))
        turns.note_jobs(connection, bulk_id, cut(session, going[0], STEP))
        return
    apply(session, JobEvent.CANCEL, going, Cause(message="deleted"))
    below = delete(session, going)
    # What is done is forgotten: a job that stays is looked at again whenever another of its parents goes.
    done = {*going, *staying}
    connection.execute(_FORGET, {"positions": [row.position for row in rows if row.job_id in done]})
    turns.note_jobs(connection, bulk_id, below)
    turns.note_jobs(connection, bulk_id, missed_roots(session, going), state=GONE_ROOT)
