"""Actions on jobs and their relatives.

The named jobs change in the caller's own transaction; a row per job whose children are still to be looked at carries
the rest on in small steps, parents before children, also after a crash.
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
_NOTED: Final = bulk_job.c.job_id.in_(listed("jobs"))
_HAVE_CHILDREN: Final = sa.select(job.c.id).where(_THESE, job.c.children_total > 0)
_RELEASED: Final = sa.update(job_row).where(job_row.c.id.in_(listed("jobs"))).values(held_by_bulk=False)
_ROOTS: Final = sa.select(job.c.id, job.c.root_id).where(_THESE)
_STEPPED: Final = sa.update(bulk).where(bulk.c.id == sa.bindparam("key_id")).values(steps=bulk.c.steps + 1)
_BEGIN: Final = sa.update(bulk_job).where(bulk_job.c.position == sa.bindparam("key_position")).values(child_cursor=0)
_FORGET: Final = sa.delete(bulk_job).where(bulk_job.c.position.in_(listed("positions")))
_DELETABLE: Final = frozenset({*SETTLED, JobStatus.ABANDONED})


def act(session: Session, action: Action, job_ids: Sequence[int]) -> None:
    """Carry an action out on the named jobs, and note it for their relatives; unknown ids are skipped.

    Where an older action is still at work, the named jobs change now, and once more when it is done.
    Writes: the named jobs, and an action that `step` carries on.
    """
    named = _existing(session, list(dict.fromkeys(job_ids)))
    again = turns.holder(session.connection, named) is not None
    if action is Action.DELETE:
        going = _deletable(session, named)
        slowly = wide(session.connection, going, AT_ONCE)
        detach(session, slowly)
        below = [*slowly, *delete(session, [job_id for job_id in going if job_id not in set(slowly)])]
        left = [job_id for job_id in named if job_id not in set(going)] if again else []
        _note(session, action, named, below, again=left, gone_roots=missed_roots(session, going))
        return
    _carry_out(session, action, named)
    if again:
        _note(session, action, named, again=named)
    else:
        _note(session, action, named, _with_children(session, named))


def spread(session: Session, change: Change, job_ids: Sequence[int], value: Any) -> None:
    """Have everything below jobs get what they were given.

    Writes: an action that `step` carries on.
    """
    # An older action that is still on its way must not have the last word on one of these.
    again = turns.holder(session.connection, job_ids) is not None
    _note(session, change, job_ids, job_ids if again else _with_children(session, job_ids), value=value)


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
    themselves = rows[0].child_cursor == _ITSELF and turn.action in _EVENTS
    if themselves:
        rows = _those_themselves(session, turn)
    if turn.action == Action.DELETE or themselves:
        reached = [row.job_id for row in rows]
    else:
        reached = [rows[0].job_id, *_next_children(session, rows[0].job_id, rows[0].child_cursor)]
    holder = turns.holder(session.connection, reached, turn.id)
    if holder is not None:
        turns.wait(session, turn.id, holder)
    elif themselves:
        _carry_out(session, Action(turn.action), reached)
        session.connection.execute(_BEGIN, [{"key_position": row.position} for row in rows])
    else:
        _reach(session, turn, rows, reached)


def _those_themselves(session: Session, turn: Any) -> list[Any]:
    """Return named jobs to be changed together: a child that is cancelled first would fail its parent."""
    return [row for row in turns.next_jobs(session.connection, turn.id, STEP) if row.child_cursor == _ITSELF]


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
    _insert(session, turn.id, below)
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
    named: Sequence[int],
    job_ids: Sequence[int] = (),
    *,
    again: Sequence[int] = (),
    gone_roots: Sequence[int] = (),
    value: Any = None,
) -> None:
    """Note what is left to do of an action.

    again: jobs that it was asked of and that it has to change once more.
    """
    if not job_ids and not again and not gone_roots:
        return
    given = None if value is None else json.dumps(value, ensure_ascii=False)
    values = {"action": action.value, "phase": _SPREAD, "created_at": session.now_ms, "value_json": given}
    values |= {"named_json": json.dumps(list(named)), "steps": 0}
    key = insert_row(session.connection, bulk, values)
    _insert(session, key, again, cursor=_ITSELF)
    _insert(session, key, job_ids)
    _insert(session, key, gone_roots, state=GONE_ROOT)
    session.after_commit(RunBulk())


def _insert(
    session: Session, bulk_id: int, job_ids: Sequence[int], *, state: str = turns.EXPAND, cursor: int = 0
) -> None:
    """Note jobs for an action that does not have them yet."""
    if not job_ids:
        return
    query = sa.select(bulk_job.c.job_id).where(bulk_job.c.bulk_id == bulk_id, _NOTED)
    known = set(session.connection.execute(query, {"jobs": job_ids}).scalars())
    roots = dict(session.connection.execute(_ROOTS, {"jobs": job_ids}).all())
    same = {"bulk_id": bulk_id, "state": state, "child_cursor": cursor}
    fresh = [job_id for job_id in job_ids if job_id not in known]
    rows = [{"job_id": job_id, "root_id": roots.get(job_id, job_id), **same} for job_id in fresh]
    if rows:
        session.connection.execute(sa.insert(bulk_job), rows)


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
    _insert(session, bulk_id, _with_children(session, _leading_on(session, action, children, touched)))
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
    """Delete those of the reached jobs that have no parent left, and those that were named; the others stay."""
    connection = session.connection
    named = _deletable(session, [row.job_id for row in rows if row.child_cursor == _ITSELF])
    reached = [row.job_id for row in rows if row.child_cursor != _ITSELF]
    staying = {child for child, _ in connection.execute(turns.EDGES_UP, {"jobs": reached})}
    going = [job_id for job_id in reached if job_id not in staying]
    going, is_wide = fitting(connection, going, STEP)
    if is_wide:
        # Its children go a step's worth at a time, and itself with the last of them.
        apply(session, JobEvent.CANCEL, going, Cause(message="deleted"))
        _insert(session, bulk_id, cut(session, going[0], STEP))
        return
    apply(session, JobEvent.CANCEL, going, Cause(message="deleted"))
    going += named
    below = delete(session, going)
    # What is done is forgotten: a job that stays is looked at again whenever another of its parents goes.
    done = {*going, *staying, *(row.job_id for row in rows if row.child_cursor == _ITSELF)}
    connection.execute(_FORGET, {"positions": [row.position for row in rows if row.job_id in done]})
    _insert(session, bulk_id, below)
    _insert(session, bulk_id, missed_roots(session, going), state=GONE_ROOT)
