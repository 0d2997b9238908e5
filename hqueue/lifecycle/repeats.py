"""Submissions with a submissionId: within a day the same again is answered with the ids of the first time.

A repeat while the first is under way waits for the first: behind it in its lane, or at the write lock.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy as sa

from hqueue.errors import InvalidSpecError
from hqueue.schema import submission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hqueue.jobspec import SpecGraph
    from hqueue.store import Session

_KEPT_MS: Final = 24 * 60 * 60 * 1000


class Key(NamedTuple):
    """What a submission is known by, and what it holds; both as digests."""

    digest: str
    content: str
    place: str  # of the submissionId, for complaints


def key_of(graph: SpecGraph, parent_id: int | None, child_ids: Sequence[int]) -> Key | None:
    """Return the key of a submission, None for one that has none."""
    first = graph.jobs[0]
    if first.submission_id is None:
        return None
    path = graph.places.path(0)
    return Key(
        _digest(first.submission_id, first.submitted_by),
        _digest(graph.digest, parent_id, sorted(child_ids)),
        f"{path}.submissionId" if path else "submissionId",
    )


def find(session: Session, key: Key | None) -> list[int] | None:
    """Return the ids that a submission was answered with, None for one that is new or has no key.

    Errors: InvalidSpecError where the key stands for something else.
    """
    if key is None:
        return None
    since = session.now_ms - _KEPT_MS
    query = sa.select(submission).where(submission.c.digest == key.digest, submission.c.at > since)
    row = session.connection.execute(query).one_or_none()
    if row is None:
        return None
    ids = list(range(row.first_id, row.first_id + row.jobs))
    if row.content != key.content:
        jobs = f"job {ids[0]}" if row.jobs == 1 else f"jobs {ids[0]} to {ids[-1]}"
        raise InvalidSpecError(f"{key.place}: expected a key that is new, got that of {jobs}, which were other ones")
    return ids


def keep(session: Session, key: Key | None, ids: Sequence[int]) -> None:
    """Note the answer to a submission that has a key."""
    if key is None:
        return
    session.connection.execute(sa.delete(submission).where(submission.c.digest == key.digest))
    row = {"digest": key.digest, "content": key.content, "first_id": ids[0], "jobs": len(ids), "at": session.now_ms}
    session.connection.execute(sa.insert(submission).values(row))


def expire(session: Session) -> None:
    """Forget the submissions that are more than a day old."""
    session.connection.execute(sa.delete(submission).where(submission.c.at <= session.now_ms - _KEPT_MS))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
