"""The requirement table: what jobs need of a client, once per distinct value."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hqueue.database import insert_row
from hqueue.matching import Requirement
from hqueue.schema import job, requirement

if TYPE_CHECKING:
    from hqueue.store import Session

# Requirements never change, and jobs share them.
read_requirement = lru_cache(maxsize=16384)(Requirement.from_json)


def requirement_id(session: Session, wanted: Requirement) -> int:
    """Return the id of a requirement, stored now if it is new."""
    text, known = wanted.to_json(), session.requirement_ids
    digest = Requirement.digest(text)
    key = session.recall(known, digest)
    if key is None:
        key = session.connection.execute(sa.select(requirement.c.id).where(requirement.c.digest == digest)).scalar()
        if key is None:
            key = insert_row(session.connection, requirement, {"digest": digest, "spec_json": text})
        session.remember(known, digest, key)
    return int(key)


def give(session: Session, job_id: int, wanted: Requirement) -> None:
    """Let a job need something else."""
    key = requirement_id(session, wanted)
    session.connection.execute(sa.update(job).where(job.c.id == job_id).values(requirement_id=key))
