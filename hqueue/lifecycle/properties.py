"""Where the properties of a specification are stored: each is declared once, for submissions and for later changes."""

from __future__ import annotations

import json
from enum import Enum, auto
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.matching import singles_of
from hqueue.schema import job_row, job_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from hqueue.jobspec import JobSpec
    from hqueue.store import Session

encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Part(Enum):
    """What is stored of a job."""

    JOB = auto()
    SPEC = auto()
    REQUIREMENT = auto()
    HOOKS = auto()  # they share a column


class _Place(NamedTuple):
    """A column, a field of the requirement or a hook, and what a specification has for it."""

    part: Part
    name: str
    value: Callable[[JobSpec], Any]


def _column(column: sa.Column[Any], value: str | Callable[[JobSpec], Any]) -> _Place:
    part = Part.JOB if column.table is job_row else Part.SPEC
    return _Place(part, column.name, attrgetter(value) if isinstance(value, str) else value)


def _needs(name: str, value: Callable[[JobSpec], Any] | None = None) -> _Place:
    return _Place(Part.REQUIREMENT, name, value or attrgetter(name))


def _hook(name: str) -> _Place:
    return _Place(Part.HOOKS, name, attrgetter(name))


def values_of(part: Part, spec: JobSpec, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return what a specification has for a part: by all its properties, or by those of these names."""
    places = _BY_PART[part]
    if names is not None:
        places = [place for place in places if place[0] in names]
    return {name: value(spec) for _, name, value in places}


def is_watched(spec: JobSpec) -> bool:
    """Tell whether anything may follow what happens to a job: a hook, mail or a webhook."""
    return bool((spec.email_to or spec.webhook) and spec.email_reasons) or any(_HOOKS(spec))


def watch(session: Session, job_ids: Collection[int]) -> None:
    """Note of jobs whose properties were changed whether anything follows what happens to them.

    Writes: job.
    """
    session.connection.execute(_WATCH, {"jobs": job_ids})


_WATCH: Final = (
    sa.update(job_row)
    .where(job_row.c.id.in_(listed("jobs")))
    .values(
        watched=sa.select(job_spec.c.job_id)
        .where(job_spec.c.job_id == job_row.c.id)
        .where(
            sa.or_(
                job_spec.c.hooks_json.is_not(None),
                sa.and_(
                    sa.or_(job_spec.c.email_to != "", job_spec.c.webhook.is_not(None)),
                    job_spec.c.email_reasons != "",
                ),
            )
        )
        .exists()
    )
)


def hooks_json(hooks: Mapping[str, Any]) -> str | None:
    """Return the column of the hooks."""
    kept = {name: value for name, value in hooks.items() if value}
    return encode(kept) if kept else None


# By the name on the wire. What is not here is no fact of the job alone: its place in the graph, and its conditions,
# which are the root's where it has none.
PROPERTIES: Final[dict[str, tuple[_Place, ...]]] = {
    "command": (
        _column(job_spec.c.command_json, lambda spec: None if spec.command is None else encode(spec.command)),
        _needs("platforms", lambda spec: tuple(sorted(spec.command)) if isinstance(spec.command, dict) else ()),
    ),
    "cpus": (_needs("cpus"),),
    "description": (_column(job_spec.c.description, "description"),),
    "emailReasons": (_column(job_spec.c.email_reasons, lambda spec: ",".join(spec.email_reasons)),),
    "emailTo": (_column(job_spec.c.email_to, lambda spec: ",".join(spec.email_to)),),
    "environment": (
        _column(job_spec.c.environment_json, lambda spec: encode(dict(spec.environment)) if spec.environment else "{}"),
    ),
    "maxHosts": (_needs("max_hosts"),),
    "maxTime": (_column(job_spec.c.max_time_s, "max_time_s"),),
    "minHosts": (_needs("min_hosts"),),
    "name": (_column(job_row.c.name, "name"),),
    "onCancel": (_hook("on_cancel"),),
    "onChildError": (_hook("on_child_error"),),
    "onError": (_hook("on_error"),),
    "onSuccess": (_hook("on_success"),),
    "priority": (_column(job_row.c.priority, lambda spec: spec.priority or 0),),
    "resources": (_needs("resources", lambda spec: tuple(sorted((spec.resources or {}).items()))),),
    "shell": (_column(job_spec.c.shell, "shell"),),
    "submittedBy": (_column(job_spec.c.submitted_by, lambda spec: spec.submitted_by or ""),),
    "tags": (
        _column(job_spec.c.tags_json, lambda spec: encode(spec.tags) if spec.tags else "[]"),
        _needs("singles", lambda spec: singles_of(spec.tags)),
    ),
    "webhook": (_column(job_spec.c.webhook, "webhook"),),
    "triesLeft": (_column(job_row.c.tries_left, "tries"), _column(job_spec.c.tries, "tries")),
}
_HOOKS: Final = attrgetter(
    *(place.name for places in PROPERTIES.values() for place in places if place.part is Part.HOOKS)
)
_BY_PART: Final = {
    part: [
        (given, place.name, place.value)
        for given, places in PROPERTIES.items()
        for place in places
        if place.part is part
    ]
    for part in Part
}
