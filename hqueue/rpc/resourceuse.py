"""How much of every resource is in use: derived from the open runs, never counted apart."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.matching import Requirement
from hqueue.schema import requirement, resource, run

if TYPE_CHECKING:
    from collections.abc import Mapping

# Requirements never change, and jobs share them.
read_requirement = lru_cache(maxsize=4096)(Requirement.from_json)

_OPEN: Final = (
    sa.select(run.c.client_id, requirement.c.spec_json, sa.func.count().label("runs"))
    .join(requirement, requirement.c.id == run.c.requirement_id)
    .where(run.c.open_job_id > 0)
    .group_by(run.c.client_id, run.c.requirement_id, requirement.c.spec_json)
)


def used_resources(connection: sa.Connection) -> dict[str, int]:
    """Return what open runs use of the resources that exist, by name.

    Per job: each run takes its amount. Per machine: a client takes it once, the largest amount among its runs.
    """
    rows = connection.execute(sa.select(resource.c.name, resource.c.per_machine))
    kinds = {row.name: bool(row.per_machine) for row in rows}
    used: dict[str, int] = dict.fromkeys(kinds, 0)
    largest: dict[tuple[int, str], int] = defaultdict(int)
    for client_id, spec_json, runs in connection.execute(_OPEN):
        for name, amount in read_requirement(spec_json).resources:
            if name not in kinds:
                continue
            if kinds[name]:
                largest[client_id, name] = max(largest[client_id, name], amount)
            else:
                used[name] += amount * runs
    for (_, name), amount in largest.items():
        used[name] += amount
    return used


def free_resources(connection: sa.Connection) -> dict[str, int | None]:
    """Return what is left of every resource, by name; None: as much as anybody wants."""
    maxima = connection.execute(sa.select(resource.c.name, resource.c.maximum)).all()
    if all(row.maximum is None for row in maxima):
        return {row.name: None for row in maxima}
    used = used_resources(connection)
    return {row.name: None if row.maximum is None else row.maximum - used[row.name] for row in maxima}


def lacks_resource(wanted: Requirement, free: Mapping[str, int | None]) -> bool:
    """Tell whether something counted is not there in the amount wanted; a name nobody created never is."""
    for name, amount in wanted.resources:
        if name not in free:
            return True
        left = free[name]
        if left is not None and left < amount:
            return True
    return False
