"""Actions on jobs and their relatives.

The named jobs change in the caller's own transaction; a row per job whose children are still to be looked at carries
the rest on in small steps, parents before children, also after a crash.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.lifecycle.status import Cause, apply, count_children
from hqueue.schema import job, job_edge, note_thread, run, wish, wish_job
from hqueue.states import SETTLED, UNSUCCESSFUL, JobEvent, JobStatus
from hqueue.store import DeleteLogs, PokeClient, RunWishes, Session, chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Children looked at in one step: about 10 ms of write lock.
STEP: Final = 100
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
_DELETABLE: Final = frozenset({*SETTLED, JobStatus.ABANDONED})


def act(session: Session, action: Action, job_ids: Sequence[int]) -> None:
    """Carry an action out on the named jobs, and note it for their relatives; unknown ids are skipped.

    Writes: the named jobs, and a wish that `step` carries on.
    """
    named = _existing(session, list(dict.fromkeys(job_ids)))
    if action is Action.DELETE:
        named = [job_id for job_id, status in _statuses(session, named).items() if status in _DELETABLE]
        below = _delete(session, named)
        _note(session, action, below)
        return
    _carry_out(session, action, named)
    _note(session, action, _with_children(session, named))


def step(session: Session) -> bool:
    """Carry the oldest unfinished wish a small step on; tell whether there may be more to do."""
    oldest = session.connection.execute(sa.select(wish).order_by(wish.c.id).limit(1)).one_or_none()
    if oldest is None:
        return False
    action = Action(oldest.action)
    if oldest.phase == _SPREAD:
        query = (
            sa.select(wish_job.c.position, wish_job.c.job_id, wish_job.c.child_cursor)
            .where(wish_job.c.wish_id == oldest.id, wish_job.c.state == _EXPAND)
            .order_by(wish_job.c.position)
            .limit(STEP if action is Action.DELETE else 1)
        )
        rows = session.connection.execute(query).all()
        if rows and action is Action.DELETE:
            _delete_below(session, oldest.id, [(row.position, row.job_id) for row in rows])
        elif rows:
            _expand(session, oldest.id, action, *rows[0])
        else:
            session.connection.execute(sa.update(wish).where(wish.c.id == oldest.id).values(phase=_RELEASE))
        return True
    if not _release(session, oldest.id):
        session.connection.execute(sa.delete(wish_job).where(wish_job.c.wish_id == oldest.id))
        session.connection.execute(sa.delete(wish).where(wish.c.id == oldest.id))
    return True


def below_unfinished(connection: sa.Connection, job_ids: Iterable[int]) -> set[int]:
    """Return those of the jobs that an unfinished wish has reached or may still reach; they are not to be assigned."""
    if connection.execute(sa.select(wish.c.id).limit(1)).first() is None:
        return set()
    reached = sa.select(wish_job.c.job_id)
    blocked: set[int] = set()
    for job_id in job_ids:
        above = sa.select(sa.literal(job_id, sa.BigInteger).label("id")).cte("above", recursive=True)
        above = above.union(sa.select(job_edge.c.parent_id).where(job_edge.c.child_id == above.c.id))
        query = sa.select(above.c.id).where(above.c.id.in_(reached)).limit(1)
        if connection.execute(query).first() is not None:
            blocked.add(job_id)
    return blocked


def fall_under(session: Session, edges: Sequence[tuple[int, int]]) -> None:
    """Let new children fall under the unfinished wishes that their parents have already been through."""
    if session.connection.execute(sa.select(wish.c.id).limit(1)).first() is None:
        return
    for parent_id, child_id in edges:
        query = (
            sa.select(wish.c.id, wish.c.action)
            .join(wish_job, wish_job.c.wish_id == wish.c.id)
            .where(wish_job.c.job_id == parent_id, wish_job.c.state == _DONE)
            .order_by(wish.c.id)
        )
        for wish_id, name in session.connection.execute(query).all():
            action = Action(name)
            if action is Action.DELETE:
                continue
            _carry_out(session, action, [child_id])
            _insert(session, wish_id, [child_id], skip_known=True)


def _existing(session: Session, job_ids: Sequence[int]) -> list[int]:
    known = _statuses(session, job_ids)
    return [job_id for job_id in job_ids if job_id in known]


def _statuses(session: Session, job_ids: Sequence[int]) -> dict[int, JobStatus]:
    found: dict[int, JobStatus] = {}
    for part in chunks(job_ids):
        query = sa.select(job.c.id, job.c.status).where(job.c.id.in_(part))
        found.update((job_id, JobStatus(status)) for job_id, status in session.connection.execute(query))
    return found


def _with_children(session: Session, job_ids: Sequence[int]) -> list[int]:
    found: set[int] = set()
    for part in chunks(job_ids):
        found.update(
            session.connection.execute(
                sa.select(job.c.id).where(job.c.id.in_(part), job.c.children_total > 0),
            ).scalars(),
        )
    return [job_id for job_id in job_ids if job_id in found]


def _carry_out(session: Session, action: Action, job_ids: Sequence[int]) -> None:
    if job_ids:
        cause = Cause(message="asked for", hold=action is Action.RESCHEDULE)
        apply(session, _EVENTS[action], job_ids, cause)


def _note(session: Session, action: Action, job_ids: Sequence[int]) -> None:
    if not job_ids:
        return
    values = {"action": action.value, "phase": _SPREAD, "created_at": session.now_ms}
    result = session.connection.execute(sa.insert(wish).values(values))
    key = result.inserted_primary_key
    assert key is not None  # noqa: S101 - every database gives the id of the row it has just stored
    _insert(session, key[0], job_ids)
    session.after_commit(RunWishes())


def _insert(session: Session, wish_id: int, job_ids: Sequence[int], *, skip_known: bool = False) -> None:
    if skip_known:
        known: set[int] = set()
        for part in chunks(job_ids):
            query = sa.select(wish_job.c.job_id).where(wish_job.c.wish_id == wish_id, wish_job.c.job_id.in_(part))
            known.update(session.connection.execute(query).scalars())
        job_ids = [job_id for job_id in job_ids if job_id not in known]
    if job_ids:
        session.connection.execute(
            sa.insert(wish_job),
            [{"wish_id": wish_id, "job_id": job_id, "state": _EXPAND, "child_cursor": 0} for job_id in job_ids],
        )


def _expand(session: Session, wish_id: int, action: Action, position: int, parent_id: int, cursor: int) -> None:
    """Look at the next children of a job that the wish has reached."""
    query = (
        sa.select(job_edge.c.child_id)
        .where(job_edge.c.parent_id == parent_id, job_edge.c.child_id > cursor)
        .order_by(job_edge.c.child_id)
        .limit(STEP)
    )
    children = list(session.connection.execute(query).scalars())
    touched = _touched(session, wish_id, action, children)
    _carry_out(session, action, touched)
    _insert(session, wish_id, _with_children(session, touched), skip_known=True)
    values = {"child_cursor": children[-1]} if len(children) == STEP else {"state": _DONE}
    session.connection.execute(sa.update(wish_job).where(wish_job.c.position == position).values(values))


def _touched(session: Session, wish_id: int, action: Action, children: Sequence[int]) -> list[int]:
    """Return the children that the wish holds for.

    A reschedule: the unsuccessful ones. Any other: all but those that still have an unsettled parent outside.
    """
    if action is Action.RESCHEDULE:
        wanted = {*UNSUCCESSFUL, JobStatus.ABANDONED}
        return [child for child, status in _statuses(session, children).items() if status in wanted]
    if not children:
        return []
    reached = sa.select(wish_job.c.job_id).where(wish_job.c.wish_id == wish_id)
    query = (
        sa.select(job_edge.c.child_id)
        .join(job, job.c.id == job_edge.c.parent_id)
        .where(
            job_edge.c.child_id.in_(children),
            job.c.status.not_in(sorted(SETTLED)),
            job.c.id.not_in(reached),
        )
    )
    outside = set(session.connection.execute(query).scalars())
    return [child for child in children if child not in outside]


def _release(session: Session, wish_id: int) -> bool:
    """Let jobs go that waited for the wish to reach their children; tell whether there were any."""
    query = (
        sa.select(job.c.id)
        .join(wish_job, wish_job.c.job_id == job.c.id)
        .where(wish_job.c.wish_id == wish_id, job.c.held_by_wish)
        .limit(STEP)
    )
    held = list(session.connection.execute(query).scalars())
    if held:
        session.connection.execute(sa.update(job).where(job.c.id.in_(held)).values(held_by_wish=False))
        queued = [job_id for job_id, status in _statuses(session, held).items() if status is JobStatus.QUEUED]
        apply(session, JobEvent.LAST_CHILD_SETTLED, queued)
    return bool(held)


def _delete_below(session: Session, wish_id: int, rows: Sequence[tuple[int, int]]) -> None:
    """Delete those of the reached jobs that have no parent left; the others stay."""
    reached = [job_id for _, job_id in rows]
    query = sa.select(job_edge.c.child_id).where(job_edge.c.child_id.in_(reached))
    staying = set(session.connection.execute(query).scalars())
    _adopt_root(session, sorted(staying))
    going = [job_id for job_id in reached if job_id not in staying]
    apply(session, JobEvent.CANCEL, going, Cause(message="deleted"))
    below = _delete(session, going)
    session.connection.execute(
        sa.update(wish_job).where(wish_job.c.position.in_([position for position, _ in rows])).values(state=_DONE),
    )
    # A job that stays is looked at again whenever another of its parents goes.
    again = sa.delete(wish_job).where(
        wish_job.c.wish_id == wish_id,
        wish_job.c.state == _DONE,
        wish_job.c.job_id.in_([*staying, *below]),
    )
    session.connection.execute(again)
    _insert(session, wish_id, below, skip_known=True)


def _delete(session: Session, job_ids: Sequence[int]) -> list[int]:
    """Delete jobs for good; return the children that they leave behind.

    An open run stays, told to die, until its death is proved; the output goes with it.
    """
    below: list[int] = []
    for part in chunks(job_ids):
        statuses = _statuses(session, part)
        edges = session.connection.execute(
            sa.select(job_edge.c.parent_id, job_edge.c.child_id).where(
                sa.or_(job_edge.c.child_id.in_(part), job_edge.c.parent_id.in_(part)),
            ),
        ).all()
        below.extend(child for parent, child in edges if parent in statuses and child not in statuses)
        deltas: dict[int, tuple[int, int]] = {}
        lost: dict[int, int] = {}
        for parent, child in edges:
            if child in statuses and parent not in statuses:
                du, ds = deltas.get(parent, (0, 0))
                status = statuses[child]
                deltas[parent] = (du - (status not in SETTLED), ds - (status in UNSUCCESSFUL))
                lost[parent] = lost.get(parent, 0) + 1
        _let_runs_die(session, part)
        for job_id, status in statuses.items():
            session.record(job_id, "deleted", status)
        session.connection.execute(sa.delete(note_thread).where(note_thread.c.job_id.in_(part)))
        session.connection.execute(
            sa.delete(job_edge).where(sa.or_(job_edge.c.child_id.in_(part), job_edge.c.parent_id.in_(part))),
        )
        session.connection.execute(sa.delete(job).where(job.c.id.in_(part)))
        for parent, count in lost.items():
            query = sa.update(job).where(job.c.id == parent)
            session.connection.execute(query.values(children_total=job.c.children_total - count))
        if deltas:
            count_children(session, deltas)
    gone = set(job_ids)
    return [child for child in dict.fromkeys(below) if child not in gone]


def _let_runs_die(session: Session, job_ids: Sequence[int]) -> None:
    query = sa.select(run.c.job_id, run.c.client_id).where(run.c.open_job_id.in_(job_ids))
    held = session.connection.execute(query).all()
    session.connection.execute(
        sa.update(run)
        .where(run.c.open_job_id.in_(job_ids), run.c.wish != "die")
        .values(wish="die", wish_reason="deleted", wish_number=run.c.wish_number + 1),
    )
    for _, client_id in held:
        session.after_commit(PokeClient(client_id))
    running = {job_id for job_id, _ in held}
    for job_id in job_ids:
        if job_id not in running:
            session.after_commit(DeleteLogs(job_id))


def _adopt_root(session: Session, job_ids: Sequence[int]) -> None:
    """Give jobs whose root is gone, and what lies below them, the root of a parent that is left."""
    for job_id in job_ids:
        old, exists = session.connection.execute(
            sa.select(
                job.c.root_id,
                sa.select(_roots.c.id).where(_roots.c.id == job.c.root_id).exists(),
            ).where(job.c.id == job_id),
        ).one()
        if exists:
            continue
        query = (
            sa.select(job.c.root_id)
            .join(job_edge, job_edge.c.parent_id == job.c.id)
            .where(job_edge.c.child_id == job_id)
            .order_by(job.c.id)
            .limit(1)
        )
        root_id = session.connection.execute(query).scalar_one()
        below = sa.select(sa.literal(job_id, sa.BigInteger).label("id")).cte("below", recursive=True)
        below = below.union(sa.select(job_edge.c.child_id).where(job_edge.c.parent_id == below.c.id))
        ids = list(session.connection.execute(sa.select(below.c.id)).scalars())
        for part in chunks(ids):
            session.connection.execute(
                sa.update(job).where(job.c.id.in_(part), job.c.root_id == old).values(root_id=root_id),
            )


_roots: Final = job.alias("roots")
