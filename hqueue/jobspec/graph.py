"""From the argument of `newjob` to a graph of JobSpecs.

Each specification of the nesting is read by the table at the end of this module; then stubs become edges.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hqueue.errors import CyclicGraphError, InvalidSpecError
from hqueue.jobspec.conditions import read_conditions, read_hosts
from hqueue.jobspec.nesting import Nesting, Places, join
from hqueue.jobspec.values import (
    UnfitError,
    read_addresses,
    read_command,
    read_count,
    read_description,
    read_environment,
    read_ids,
    read_limit,
    read_name,
    read_priority,
    read_reasons,
    read_resources,
    read_shell,
    read_stub,
    read_stubs,
    read_submission_id,
    read_tags,
    read_text,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

COMMANDS_HOOKS: Final = ("onCancel", "onError")  # that only a job with a command comes to
_encode: Final = json.JSONEncoder(sort_keys=True).encode
_MOST_NAMED: Final = 10
_EMPTY: Final[dict[str, str]] = {}


class JobSpec(NamedTuple):
    """One job as it was asked for: coerced, checked, with every default in place.

    A named tuple, not a frozen dataclass, for it takes 0.8 µs to make instead of 4.
    """

    name: str
    parent: int | None = None  # index of the specification around it, else of the first that names it by its stub
    command: str | dict[str, str] | None = None  # a text, or a text by platform: linux, windows, macosx
    shell: str = ""  # "": the platform's own
    children: tuple[int, ...] = ()  # indexes; those inside it first, then those named by its childStubIds
    child_ids: tuple[int, ...] = ()  # jobs that exist already
    parent_ids: tuple[int, ...] = ()  # same; their order counts, for the first gives the root
    stub_id: str | None = None
    submission_id: str | None = None  # counts in the first specification of a submission
    conditions: tuple[dict[str, str], ...] | None = None  # host and hostgroup included; None: the root's
    cpus: int = 1
    tags: tuple[str, ...] = ()
    min_hosts: int = 1
    max_hosts: int = 1
    priority: int | None = None  # None: the parent's
    resources: dict[str, int] | None = None
    max_time_s: int | None = None
    tries: int = 0
    environment: Mapping[str, str] = _EMPTY
    description: str = ""
    submitted_by: str | None = None  # None: the parent's
    email_to: tuple[str, ...] = ()
    email_reasons: tuple[str, ...] = ()  # "waiting" is here as "runnable"
    on_success: str | dict[str, str] | None = None
    on_error: str | dict[str, str] | None = None
    on_cancel: str | dict[str, str] | None = None
    on_child_error: str | dict[str, str] | None = None
    webhook: str | None = None
    log: tuple[str, ...] = ()  # lines for the job's log: what was accepted but ignored


class SpecGraph(NamedTuple):
    """All jobs of one submission, in its order: the given ones first, then their nested children, depth first."""

    jobs: tuple[JobSpec, ...]
    given: int  # how many were given, the others being nested; `parent_id` and `child_ids` of newjob hold for these
    places: Places
    digest: str = ""  # of all the jobs, where the submission may be repeated

    def path(self, index: int) -> str:
        """Return where a job stood in the argument, for complaints: `children[2]`, or `jobspec` for the only one."""
        return self.places.path(index) or "jobspec"


def parse(argument: Any, *, max_depth: int) -> SpecGraph:
    """Return the jobs that the first argument of `newjob` asks for.

    Shapes: a dict, a JSON text (also as bytes), or a list of either, mixed; an empty list asks for nothing. Units:
    `max_depth` counts specifications inside each other. Errors: InvalidSpecError; LimitExceededError when it is too
    deep; CyclicGraphError. Source: SPEC section 3.
    """
    nesting = Nesting(max_depth)
    nesting.add_given(argument)
    nesting.add_nested()
    stubs = _stubs(nesting)
    jobs = [_job(nesting, index, stubs) for index in range(len(nesting.specs))]
    if stubs:
        _name_parents(jobs)
    digest = _digest(jobs) if jobs and jobs[0].submission_id else ""
    graph = SpecGraph(tuple(jobs), nesting.given, nesting.places, digest)
    _refuse_cycles(graph)
    return graph


def _stubs(nesting: Nesting) -> dict[str, int]:
    """Return the specifications that have a stubId, by it."""
    stubs: dict[str, int] = {}
    for index, spec in enumerate(nesting.specs):
        if "stubId" not in spec:
            continue
        try:
            stub = read_stub(spec["stubId"]) if spec["stubId"] is not None else None
        except UnfitError as error:
            raise _fault(nesting, index, "stubId", error) from None
        if stub is not None and stubs.setdefault(stub, index) != index:
            first = nesting.places.path(stubs[stub]) or "jobspec"
            raise _fault(nesting, index, "stubId", UnfitError("a name of its own", f"{shown(stub)}, as at {first}"))
    return stubs


def _fault(nesting: Nesting, index: int, name: str, error: UnfitError) -> InvalidSpecError:
    """Return the complaint about a property."""
    path = join(nesting.places.path(index), name)
    return InvalidSpecError(f"{path}{error.inside}: expected {error.expected}, got {error.found}")


def _job(nesting: Nesting, index: int, stubs: Mapping[str, int]) -> JobSpec:
    """Read one specification."""
    fields: dict[str, Any] = {}
    unknown: list[Any] = []
    for name, value in nesting.specs[index].items():
        if name not in _PROPERTIES:
            unknown.append(name)
        elif value is not None:
            field, read = _PROPERTIES[name]
            try:
                fields[field] = read(value)
            except UnfitError as error:
                raise _fault(nesting, index, name, error) from None
    if "name" not in fields:
        raise _fault(nesting, index, "name", UnfitError("a name for the job", "nothing"))
    log = _ignored(unknown) if unknown else []
    children = nesting.children[index]
    if named := fields.pop("child_stubs", None):
        children = list(dict.fromkeys(children + [stubs[stub] for stub in named if stub in stubs]))
        if missing := [shown(stub) for stub in named if stub not in stubs]:
            told = _listing(missing, len(missing))
            log.append(f"ignored in childStubIds, for no job of the submission has them as stubId: {told}")
    if hosts := fields.pop("hosts", ()) + fields.pop("groups", ()):
        fields["conditions"] = (fields.get("conditions") or ()) + hosts
    if "min_hosts" in fields or "max_hosts" in fields:
        _settle_hosts(nesting, index, fields)
    log += _idle_hooks(fields)
    fields["parent"] = nesting.places.parent(index)
    fields["children"] = tuple(children)
    fields["log"] = tuple(log)
    return JobSpec(**fields)


def _idle_hooks(fields: Mapping[str, Any]) -> list[str]:
    idle = [name for name in COMMANDS_HOOKS if fields.get(_PROPERTIES[name][0]) and not fields.get("command")]
    return [never_run(idle)] if idle else []


def never_run(hooks: Collection[str]) -> str:
    """Return the line for hooks of a job that has no command that could fail or be cancelled."""
    return f"{' and '.join(sorted(hooks))}: never run, for the job has no command"


def _name_parents(jobs: list[JobSpec]) -> None:
    """Give a parent to the jobs that stand inside no other, but are named by others' childStubIds."""
    for index, spec in enumerate(jobs):
        for child in spec.children:
            if jobs[child].parent is None:
                jobs[child] = jobs[child]._replace(parent=index)


def _settle_hosts(nesting: Nesting, index: int, fields: dict[str, Any]) -> None:
    """Fill in the one of minHosts and maxHosts that was not given: a maximum of 0 was not."""
    fewest = fields.setdefault("min_hosts", 1)
    most = fields["max_hosts"] = fields.get("max_hosts") or fewest
    if fewest > most:
        raise _fault(nesting, index, "minHosts", UnfitError(f"at most maxHosts, which is {most}", str(fewest)))


def _ignored(names: Sequence[Any]) -> list[str]:
    """Return the line that names unknown properties, each with the known one that it may have been meant for."""
    told = []
    for name in names[:_MOST_NAMED]:
        meant = _meant(name) if isinstance(name, str) else None
        told.append(f"{shown(name)} (meant {meant}?)" if meant else shown(name))
    return [f"ignored, for no such property is known: {_listing(told, len(names))}"]


def _meant(name: str) -> str | None:
    """Return the property that is spelled like a name, or else one edit away; None where there is none."""
    plain = _plain(name)
    near = (known for spelled, known in _PLAIN_NAMES.items() if _is_one_edit(plain, spelled))
    return _PLAIN_NAMES.get(plain) or next(near, None)


def _is_one_edit(one: str, other: str) -> bool:
    """Tell whether two names differ by one character, left out, added or another, or by two that changed places."""
    if abs(len(one) - len(other)) > 1:
        return False
    pairs = enumerate(zip(one, other, strict=False))
    same = next((place for place, (mine, yours) in pairs if mine != yours), min(len(one), len(other)))
    one, other = one[same:], other[same:]
    return (
        one[1:] == other[1:]
        or one == other[1:]
        or one[1:] == other
        or (one[:2] == other[1::-1] and one[2:] == other[2:])
    )


def _listing(items: Sequence[str], count: int) -> str:
    """Return the first of many items, and how many more there are."""
    return ", ".join(items[:_MOST_NAMED]) + (f" and {count - _MOST_NAMED} more" if count > _MOST_NAMED else "")


def _plain(name: str) -> str:
    """Return a property's name without what people spell differently."""
    return name[:40].lower().replace("_", "").replace("-", "").replace(" ", "")


def _digest(jobs: Sequence[JobSpec]) -> str:
    """Return what tells these jobs from others; the order of keys in a dict does not matter."""
    made = hashlib.sha256()
    for spec in jobs:
        made.update(_encode(spec).encode())
    return made.hexdigest()


def _refuse_cycles(graph: SpecGraph) -> None:
    """Raise CyclicGraphError when a job would be its own ancestor, as far as the submission alone can tell."""
    jobs = graph.jobs
    if not any(job.stub_id is not None or job.child_ids or job.parent_ids for job in jobs):
        return  # what is only nested cannot be cyclic
    edges: list[Iterable[int]] = [job.children for job in jobs]
    # Jobs that exist already are nodes as well: one may be made the child of one new job and the parent of another.
    outside: dict[int, int] = {}
    below: list[list[int]] = []
    for index, job in enumerate(jobs):
        for job_id in (*job.child_ids, *job.parent_ids):
            if outside.setdefault(job_id, len(jobs) + len(below)) == len(jobs) + len(below):
                below.append([])
        for job_id in job.parent_ids:
            below[outside[job_id] - len(jobs)].append(index)
        if job.child_ids:
            edges[index] = (*job.children, *(outside[job_id] for job_id in job.child_ids))
    cycle = _find_cycle([*edges, *below])
    if cycle:
        ids = {node: job_id for job_id, node in outside.items()}
        steps = [
            f"{shown(jobs[node].name)} ({graph.path(node)})" if node < len(jobs) else f"job {ids[node]}"
            for node in (cycle if len(cycle) <= 8 else [*cycle[:4], *cycle[-4:]])
        ]
        if len(cycle) > 8:
            steps.insert(4, f"… {len(cycle) - 8} more …")
        raise CyclicGraphError(f"expected no job to be its own ancestor, got {' > '.join(steps)}")


def children_first(jobs: Sequence[JobSpec]) -> list[int]:
    """Return the indexes of a graph's jobs so that every job comes after those below it."""
    order: list[int] = []
    done = [False] * len(jobs)
    for start in range(len(jobs)):
        stack = [start]
        while stack:
            index = stack[-1]
            waiting = [] if done[index] else [child for child in jobs[index].children if not done[child]]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if not done[index]:
                done[index] = True
                order.append(index)
    return order


def _find_cycle(edges: Sequence[Iterable[int]]) -> list[int]:
    """Return the nodes of a cycle, its first one again at the end; [] when there is none."""
    state = bytearray(len(edges))  # 0: not seen, 1: on the trail, 2: leads to no cycle
    for start in range(len(edges)):
        if state[start]:
            continue
        state[start] = 1
        trail = [start]
        pending = [iter(edges[start])]
        while trail:
            for node in pending[-1]:
                if state[node] == 1:
                    return [*trail[trail.index(node) :], node]
                if state[node] == 0:
                    state[node] = 1
                    trail.append(node)
                    pending.append(iter(edges[node]))
                    break
            else:
                state[trail.pop()] = 2
                pending.pop()
    return []


def _nested(_children: Any) -> tuple[int, ...]:
    """Return no children: the nesting has them already."""
    return ()


# Every property: the field it fills and what reads its value. None stands for an absent one everywhere.
_PROPERTIES: Final[dict[Any, tuple[str, Callable[[Any], Any]]]] = {
    "name": ("name", read_name),
    "command": ("command", read_command),
    "shell": ("shell", read_shell),
    "children": ("children", _nested),
    "childrenIds": ("child_ids", read_ids),
    "parentIds": ("parent_ids", read_ids),
    "stubId": ("stub_id", read_stub),
    "childStubIds": ("child_stubs", read_stubs),
    "submissionId": ("submission_id", read_submission_id),
    "conditions": ("conditions", read_conditions),
    "host": ("hosts", lambda value: read_hosts(value, "hostname")),
    "hostgroup": ("groups", lambda value: read_hosts(value, "group")),
    "cpus": ("cpus", lambda value: read_count(value) or 1),
    "tags": ("tags", read_tags),
    "minHosts": ("min_hosts", lambda value: read_count(value) or 1),
    "maxHosts": ("max_hosts", read_count),
    "priority": ("priority", read_priority),
    "resources": ("resources", read_resources),
    "maxTime": ("max_time_s", read_limit),
    "triesLeft": ("tries", read_count),
    "environment": ("environment", read_environment),
    "description": ("description", read_description),
    "submittedBy": ("submitted_by", lambda value: read_text(value) or None),
    "emailTo": ("email_to", read_addresses),
    "emailReasons": ("email_reasons", read_reasons),
    "webhook": ("webhook", lambda value: read_text(value).strip() or None),
    "onSuccess": ("on_success", read_command),
    "onError": ("on_error", read_command),
    "onCancel": ("on_cancel", read_command),
    "onChildError": ("on_child_error", read_command),
}
_PLAIN_NAMES: Final[dict[str, str]] = {_plain(name): name for name in _PROPERTIES}
