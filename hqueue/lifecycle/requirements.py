"""The requirement table: what jobs need of a client, once per distinct value."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import insert_row, insert_rows, listed
from hqueue.matching import ClientFacts, Requirement, os_of, would_do
from hqueue.schema import client, client_group, client_group_member, job_row, requirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def give(session: Session, wanted: Mapping[int, Requirement]) -> None:
    """Let jobs need something else; what each needs is given by its id."""
    if not wanted:
        return
    texts = {each: each.to_json() for each in set(wanted.values())}
    digests = {each: Requirement.digest(text) for each, text in texts.items()}
    known = _by_digest(session, digests.values())
    fresh = [{"digest": digest, "spec_json": texts[each]} for each, digest in digests.items() if digest not in known]
    if fresh:
        insert_rows(session.connection, requirement, fresh)
        known = _by_digest(session, digests.values())
    session.connection.execute(
        _GIVE, [{"key_id": job_id, "right": known[digests[each]]} for job_id, each in wanted.items()]
    )


def _by_digest(session: Session, digests: Iterable[str]) -> dict[str, int]:
    query = sa.select(requirement.c.digest, requirement.c.id)
    query = query.where(requirement.c.digest.in_(listed("digests", texts=True)))
    return dict(session.connection.execute(query, {"digests": list(digests)}).all())


_GIVE: Final = (
    sa.update(job_row).where(job_row.c.id == sa.bindparam("key_id")).values(requirement_id=sa.bindparam("right"))
)


def able(connection: sa.Connection, wanted: Requirement, *, at_work_ms: int | None = None) -> set[int]:
    """Return the known clients that could run a job, off or busy as they may be; blocks do not count.

    at_work_ms: without those that take no work at this moment.
    """
    groups: dict[int, set[str]] = {}
    for client_id, name in connection.execute(_MEMBERS):
        groups.setdefault(client_id, set()).add(name)
    facts = [
        ClientFacts(row.id, row.hostname, row.name, os_of(row.platform), frozenset(groups.get(row.id, ())), row.cpus)
        for row in connection.execute(_KNOWN)
        if at_work_ms is None or (row.at_work and row.refused_until <= at_work_ms)
    ]
    return would_do(wanted, facts).difference(wanted.refused)


_AT_WORK: Final = sa.and_(~client.c.lost, ~client.c.disabled, ~client.c.terminating, client.c.condemned == "")
_KNOWN: Final = sa.select(
    client.c.id,
    client.c.hostname,
    client.c.name,
    client.c.platform,
    client.c.cpus,
    client.c.refused_until,
    _AT_WORK.label("at_work"),
).where(~client.c.forgotten)
_MEMBERS: Final = sa.select(client_group_member.c.client_id, client_group.c.name).join(
    client_group, client_group.c.id == client_group_member.c.group_id
)
