"""Names of statuses that callers give, made statuses."""

from __future__ import annotations

from typing import Any

from hqueue.errors import InvalidArgumentError
from hqueue.rpc.arguments import shown
from hqueue.states import ALL_NAMES, EJECTED, WAITING, JobStatus


def read(value: Any, name: str) -> list[JobStatus]:
    """Return the statuses that names stand for; one name is taken for a list of it.

    Errors: InvalidArgumentError that lists the valid names.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise InvalidArgumentError(f"{name} is {shown(value)}, but a list of status names was expected")
    found: dict[JobStatus, None] = {}
    for each in names:
        if each == EJECTED:
            continue  # an event that HQueue lists among its statuses; no job is ever in it
        if each == WAITING:
            found[JobStatus.RUNNABLE] = None
        elif isinstance(each, str) and each in ALL_NAMES:
            found[JobStatus(each)] = None
        else:
            raise InvalidArgumentError(
                f"{name}: there is no status {shown(each)}; valid ones are {', '.join(ALL_NAMES)}",
            )
    return list(found)
