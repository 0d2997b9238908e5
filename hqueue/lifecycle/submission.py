"""A graph of specifications becomes jobs, in one transaction: all or nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from hqueue.database import insert_rows, listed
from hqueue.jobspec import children_first
from hqueue.lifecycle import blocklist, hooks, properties, repeats, trees
from hqueue.lifecycle.bulk import fall_under
from hqueue.lifecycle.links import Attachment, record_additions
from hqueue.lifecycle.properties import Part
from hqueue.lifecycle.requirements import requirement_id
from hqueue.lifecycle.rows import load
from hqueue.lifecycle.status import apply
from hqueue.matching import Condition, Requirement, conditions_from
from hqueue.outbox.addresses import complaints
from hqueue.outbox.news import Happened, announce
from hqueue.schema import job, job_edge, job_row, job_spec, requirement
from hqueue.states import AT_ONCE, SETTLED, UNSUCCESSFUL, Cause, JobEvent, JobStatus, by_children
from hqueue.store import Session, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from hqueue.jobspec import JobSpec, SpecGraph
    from hqueue.states import Hook

T = TypeVar("T")
U = TypeVar("U")


class _Found(NamedTuple):
    """What new jobs have from existing ones: those above, with the conditions of their roots, and those below."""

    roots: dict[int, int]
    priorities: dict[int, int]
    submitters: dict[int, str]
    paused: set[int]  # those above that new jobs wait with
    conditions: dict[int, tuple[Condition, ...]]
    statuses: dict[int, JobStatus]  # of those below


class Submission:
    """One submission on its way into the store: planned, stored in one piece or several, then joined to the others.

    Errors: from the constructor and `still_holds`, those of `submit`.
    """

    def __init__(
        self, session: Session, graph: SpecGraph, parent_id: int | None = None, child_ids: Sequence[int] = ()
    ) -> None:
        self._graph = graph
        self._jobs = graph.jobs
        self._places = parent_id, child_ids
        self._requirements: dict[Requirement, int] = {}
        self._attached, self._found = self._look(session)
        self.first_id = session.allocate("job", len(graph.jobs))
        self.ids = list(range(self.first_id, self.first_id + len(graph.jobs)))

    def _look(self, session: Session) -> tuple[Attachment, _Found]:
        """Read the existing jobs that the submission names, and what the new ones have from them."""
        attached = Attachment(session.connection, self._graph, *self._places)
        attached.check()
        above = [attached.known[job_id] for job_id in sorted(attached.existing_parents())]
        below = {child for index in attached.linked for child in attached.children(index)}
        return attached, _Found(
            roots={each.id: each.root_id for each in above},
            priorities={each.id: each.priority for each in above},
            submitters={each.id: each.submitted_by for each in above},
            paused=attached.paused(),
            conditions=_conditions_of(session, {each.root_id for each in above}),
            statuses={job_id: attached.known[job_id].status for job_id in below},
        )

    def plan(self) -> None:
        """Work out what is stored of each job; without the database."""
        jobs, found, attached, first_id = self._jobs, self._found, self._attached, self.first_id
        self._children_first = children_first(jobs)
        self._down = [(self.ids[index], child) for index in attached.linked for child in attached.children(index)]
        self._up = [(parent, self.ids[index]) for index in attached.linked for parent in attached.parents(index)]
        self._roots = self._inherited(self._above(found.roots, None), lambda index: first_id + index)
        self._submitters = self._inherited(lambda index: jobs[index].submitted_by, self._above(found.submitters, ""))
        self._priorities = self._inherited(lambda index: jobs[index].priority, self._above(found.priorities, 0))
        self._parents_of = self._parents()
        self._statuses, self._unsettled, self._unsuccessful = self._count(self._paused())
        self._hooks, self._told = self._follows()
        self._is_tree = self._forms_tree()
        self._sums = self._add_up()
        # An edge is stored with the later of its jobs.
        self._edges_of: dict[int, list[dict[str, int]]] = defaultdict(list)
        for index, parents in enumerate(self._parents_of):
            for parent in parents:
                if parent < 0:
                    edge = {"parent_id": first_id - 1 - parent, "child_id": first_id + index}
                    self._edges_of[max(index, -1 - parent)].append(edge)

    def store(self, session: Session, indexes: Iterable[int]) -> None:
        """Store some of the jobs, each part once and in the graph's order; nobody else may see them yet."""
        job_rows, spec_rows, edges = [], [], []
        now = session.now_ms
        for index in indexes:
            spec, job_id, status = self._jobs[index], self.ids[index], self._statuses[index]
            job_rows.append(
                properties.values_of(Part.JOB, spec)
                | {
                    "id": job_id,
                    "root_id": self._roots[index],
                    "is_root": not self._parents_of[index],
                    "status": status,
                    "requirement_id": self._requirement_id(session, spec, self._conditions(index)),
                    "priority": self._priorities[index],
                    "has_command": spec.command is not None,
                    "command_done": False,
                    "pause_wished": status is JobStatus.PAUSED,
                    "held_by_bulk": False,
                    "children_total": len(spec.children) + len(self._attached.children(index)),
                    "children_unsettled": self._unsettled[index],
                    "children_unsuccessful": self._unsuccessful[index],
                    "counted": _is_counted(spec),
                    "watched": properties.is_watched(spec),
                    "tree_exact": self._is_tree,
                    **{
                        f"tree_{name}": value
                        for name, value in zip(trees.NAMES, trees.numbers(self._sums[index]), strict=True)
                    },
                    "attempts": 0,
                    "rescues": 0,
                    "progress": 0.0,
                    "queued_at": now,
                    "runnable_at": now if status is JobStatus.RUNNABLE else None,
                    "ended_at": now if status in SETTLED else None,
                },
            )
            spec_rows.append(_spec_row(job_id, spec, self._submitters[index]))
            edges += self._edges_of[index]
            if index:
                self._record(session, index, jobs=0)
        insert_rows(session.connection, job_row, job_rows)
        insert_rows(session.connection, job_spec, spec_rows)
        if edges:
            insert_rows(session.connection, job_edge, edges)

    def _record(self, session: Session, index: int, *, jobs: int) -> None:
        job_id, status = self.ids[index], self._statuses[index]
        session.record(job_id, "submitted", status, jobs=jobs)
        spec = self._jobs[index]
        untold = complaints(session.policy, ",".join(spec.email_to), spec.webhook)
        for line in (*spec.log, *untold):
            session.record(job_id, "note", status, line, jobs=0)

    def still_holds(self, session: Session) -> bool:
        """Look at the existing jobs again; tell whether what was stored is still right."""
        self._attached, found = self._look(session)
        return found == self._found

    def join(self, session: Session) -> None:
        """Do all that concerns existing jobs: edges to them, their counters, what follows for them; and tell of it."""
        self._record(session, 0, jobs=len(self._jobs))
        if self._down:
            edges = [{"parent_id": parent, "child_id": child} for parent, child in self._down]
            session.connection.execute(sa.insert(job_edge), edges)
        roots = sorted({child for _, child in self._down if self._attached.known[child].is_root})
        if roots:
            session.connection.execute(_NO_ROOTS, {"jobs": roots})
        if JobStatus.RUNNABLE in self._statuses:
            session.after_commit(WakeScheduler())
        hooks.queue(session, self._hooks)
        announce(session, self._told)
        for root_id in set(self._found.roots.values()):
            blocklist.reconsider(session, root_id, self.first_id - 1)
        if self._up:
            session.connection.execute(_HANG_BELOW, _runs(self._up))
            self._tell_parents(session)

    def _inherited(self, own: Callable[[int], T | None], otherwise: Callable[[int], T]) -> list[T]:
        """Return a value per job: its own, else that of its parent in the submission, else what else there is."""
        values: dict[int, T] = {}
        for index in reversed(self._children_first):
            value, parent = own(index), self._jobs[index].parent
            if value is None:
                value = otherwise(index) if parent is None else values[parent]
            values[index] = value
        return [values[index] for index in range(len(self._jobs))]

    def _above(self, values: Mapping[int, T], default: U) -> Callable[[int], T | U]:
        """Return what tells the value of a job's first existing parent."""

        def value(index: int) -> T | U:
            parents = self._attached.parents(index)
            return values[parents[0]] if parents else default

        return value

    def _paused(self) -> list[bool]:
        """Tell which jobs wait from the start, for all their parents are paused; with one that goes on they go on."""
        paused = [False] * len(self._jobs)
        outside = self._found.paused
        if outside:
            for index in reversed(self._children_first):
                parents = self._parents_of[index]
                paused[index] = bool(parents) and all(
                    parent in outside if parent >= 0 else paused[-1 - parent] for parent in parents
                )
        return paused

    def _conditions(self, index: int) -> tuple[Condition, ...]:
        own, root = self._jobs[index].conditions, self._roots[index]
        if own is None and root < self.first_id:
            return self._found.conditions[root]
        if own is None:
            own = self._jobs[root - self.first_id].conditions
        return conditions_from(own or ())

    def _requirement_id(self, session: Session, spec: JobSpec, conditions: tuple[Condition, ...]) -> int:
        wanted = Requirement(conditions=conditions, **properties.values_of(Part.REQUIREMENT, spec))
        known = self._requirements.get(wanted)
        if known is None:
            known = self._requirements[wanted] = requirement_id(session, wanted)
        return known

    def _count(self, paused: Sequence[bool]) -> tuple[list[JobStatus], list[int], list[int]]:
        """Return each job's status by its children, and how many of them are unsettled and unsuccessful."""
        count = len(self._jobs)
        statuses: list[JobStatus] = [JobStatus.QUEUED] * count
        unsettled, unsuccessful = [0] * count, [0] * count
        for index in self._children_first:
            spec = self._jobs[index]
            below = [statuses[child] for child in spec.children]
            below += [self._found.statuses[child] for child in self._attached.children(index)]
            unsettled[index] = sum(status not in SETTLED for status in below)
            unsuccessful[index] = sum(status in UNSUCCESSFUL for status in below)
            statuses[index] = by_children(
                unsettled=unsettled[index],
                unsuccessful=unsuccessful[index],
                has_command=spec.command is not None,
                command_done=False,
                pause_wished=paused[index],
            )
        return statuses, unsettled, unsuccessful

    def _follows(self) -> tuple[list[tuple[int, Hook]], list[Happened]]:
        """Return the hooks of jobs that are settled as they come, and what people may wish to hear of."""
        due: list[tuple[int, Hook]] = []
        told: list[Happened] = []
        for job_id, spec, status, parents in zip(self.ids, self._jobs, self._statuses, self._parents_of, strict=True):
            watched, ends_tree = properties.is_watched(spec), status in SETTLED and not parents
            if watched and status in AT_ONCE:
                due.append((job_id, AT_ONCE[status]))
            if watched or ends_tree:
                told.append(Happened(job_id, (status.value,), status, ends_tree=ends_tree))
        return due, told

    def _forms_tree(self) -> bool:
        """Tell whether every new job has one parent at most, and no existing job gets another one."""
        return not self._found.statuses and all(len(parents) <= 1 for parents in self._parents_of)

    def _add_up(self) -> list[trees.Share]:
        """Return, per job, the sums over it and what is below it; they count only where the jobs form a tree."""
        sums = [
            trees.Share(
                jobs=1,
                settled=int(status in SETTLED),
                counted=int(_is_counted(spec)),
                waiting=int(spec.command is not None and status not in SETTLED),
            )
            for spec, status in zip(self._jobs, self._statuses, strict=True)
        ]
        if self._is_tree:
            for index in self._children_first:
                if self._jobs[index].children:
                    sums[index] = trees.total([sums[index], *(sums[child] for child in self._jobs[index].children)])
        return sums

    def _parents(self) -> list[list[int]]:
        """Return, per job, its parents: existing ones by id, new ones by -1 - index."""
        parents = [list(self._attached.parents(index)) for index in range(len(self._jobs))]
        for index, spec in enumerate(self._jobs):
            for child in spec.children:
                parents[child].append(-1 - index)
        return parents

    def _tell_parents(self, session: Session) -> None:
        """Count the new children of existing parents; an unsettled one sends a parent back to wait."""
        connection, edges, known = session.connection, self._up, self._attached.known
        below: dict[int, list[int]] = defaultdict(list)  # the indexes of each parent's new children
        for parent, child in edges:
            below[parent].append(child - self.first_id)
        counts = [
            {
                "key_id": parent,
                "total": len(children),
                "unsettled": sum(self._statuses[child] not in SETTLED for child in children),
                "unsuccessful": sum(self._statuses[child] in UNSUCCESSFUL for child in children),
            }
            for parent, children in below.items()
        ]
        trees.begin(connection, [row for row in load(connection, list(below)) if not row.children_total])
        connection.execute(_ADD_CHILDREN, counts)
        if self._is_tree:
            shares = {
                parent: trees.total(self._sums[child] for child in children) for parent, children in below.items()
            }
            trees.add(connection, shares, containers=shares)
        else:
            trees.mark(connection, sorted(below))
        record_additions(session, edges, known)
        # A child that has failed at once (through an existing one below it) counts as one that fails later.
        failed = {each["key_id"] for each in counts if each["unsuccessful"]}
        failing = [parent for parent in below if parent in failed and known[parent].status is not JobStatus.FAILED]
        reopened = [each["key_id"] for each in counts if each["unsettled"] or each["key_id"] in failing]
        apply(session, JobEvent.CHILD_ADDED, reopened, Cause(message="a child was added"))
        apply(session, JobEvent.LAST_CHILD_SETTLED, failing)
        fall_under(session, edges)


_REQUIREMENTS: Final = (
    sa.select(job.c.id, requirement.c.spec_json)
    .join(job, job.c.requirement_id == requirement.c.id)
    .where(job.c.id.in_(listed("jobs")))
)
_NO_ROOTS: Final = sa.update(job_row).where(job_row.c.id.in_(listed("jobs"))).values(is_root=False)
# The database makes the edges of many children of one parent by itself.
_HANG_BELOW: Final = sa.insert(job_edge).from_select(
    ["parent_id", "child_id"],
    sa.select(sa.bindparam("parent", type_=sa.BigInteger), job_row.c.id).where(
        job_row.c.id.between(sa.bindparam("first"), sa.bindparam("last"))
    ),
)
_ADD_CHILDREN: Final = (
    sa.update(job_row)
    .where(job_row.c.id == sa.bindparam("key_id"))
    .values(
        children_total=job_row.c.children_total + sa.bindparam("total"),
        children_unsettled=job_row.c.children_unsettled + sa.bindparam("unsettled"),
        children_unsuccessful=job_row.c.children_unsuccessful + sa.bindparam("unsuccessful"),
    )
)


def submit(
    session: Session,
    graph: SpecGraph,
    parent_id: int | None = None,
    child_ids: Sequence[int] = (),
) -> list[int]:
    """Store the jobs of a graph and return their ids, in the graph's order.

    A submission that has a submissionId and is stored already is not stored again.
    Errors: UnknownJobError, CyclicGraphError, JobStateError, InvalidSpecError; nothing is stored then.
    """
    if not graph.jobs:
        return []
    key = repeats.key_of(graph, parent_id, child_ids)
    known = repeats.find(session, key)
    if known is not None:
        return known
    found = Submission(session, graph, parent_id, child_ids)
    found.plan()
    found.store(session, range(len(graph.jobs)))
    found.join(session)
    repeats.keep(session, key, found.ids)
    return found.ids


def _conditions_of(session: Session, root_ids: Collection[int]) -> dict[int, tuple[Condition, ...]]:
    """Return the conditions of existing roots; none for one that is gone."""
    found: dict[int, tuple[Condition, ...]] = dict.fromkeys(root_ids, ())
    if root_ids:
        for root_id, text in session.connection.execute(_REQUIREMENTS, {"jobs": list(root_ids)}):
            found[root_id] = Requirement.from_json(text).conditions
    return found


def _runs(edges: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    """Return the edges (parent, child) with those of a parent's children that follow each other as one."""
    runs: list[dict[str, int]] = []
    for parent, child in sorted(edges):
        if runs and runs[-1]["parent"] == parent and runs[-1]["last"] == child - 1:
            runs[-1]["last"] = child
        else:
            runs.append({"parent": parent, "first": child, "last": child})
    return runs


def _spec_row(job_id: int, spec: JobSpec, submitted_by: str) -> dict[str, Any]:
    return properties.values_of(Part.SPEC, spec) | {
        "job_id": job_id,
        "inherits_conditions": spec.conditions is None,
        "submitted_by": submitted_by,
        "hooks_json": properties.hooks_json(properties.values_of(Part.HOOKS, spec)),
        "show_blocked_warning": True,
    }


def _is_counted(spec: JobSpec) -> bool:
    return spec.command is not None and trees.is_counted(spec.tags)
