"""A graph of specifications becomes jobs, in one transaction: all or nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle import blocklist, properties, repeats, trees
from hqueue.lifecycle.bulk import fall_under
from hqueue.lifecycle.links import Attachment, record_additions
from hqueue.lifecycle.properties import Part
from hqueue.lifecycle.requirements import requirement_id
from hqueue.lifecycle.rows import load
from hqueue.lifecycle.status import apply
from hqueue.matching import Condition, Requirement, conditions_from
from hqueue.schema import job, job_edge, job_spec, requirement
from hqueue.states import SETTLED, UNSUCCESSFUL, Cause, JobEvent, JobStatus, by_children
from hqueue.store import Session, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hqueue.jobspec import JobSpec, SpecGraph

T = TypeVar("T")


class _Submission:
    """One submission on its way into the store."""

    def __init__(
        self,
        session: Session,
        graph: SpecGraph,
        parent_id: int | None,
        child_ids: Sequence[int],
    ) -> None:
        self._session = session
        self._connection = session.connection
        self._graph = graph
        self._jobs = graph.jobs
        self._requirements: dict[Requirement, int] = {}
        self._conditions_of: dict[int, tuple[Condition, ...]] = {}  # existing roots
        self._attached = Attachment(self._connection, graph, parent_id, child_ids)
        self._is_tree = True
        self._children_first = _children_first(graph.jobs)

    def run(self) -> list[int]:
        self._attached.check()
        jobs, count = self._jobs, len(self._jobs)
        if not count:
            return []
        first_id = self._session.allocate("job", count)
        roots = self._inherited(self._attached.root, lambda index: first_id + index)
        submitters = self._inherited(lambda index: jobs[index].submitted_by, self._of_parent("submitted_by", ""))
        priorities = self._inherited(lambda index: jobs[index].priority, self._of_parent("priority", 0))
        parents_of = self._parents()
        statuses, unsettled, unsuccessful = self._statuses(self._paused(parents_of))
        self._is_tree = self._forms_tree(parents_of)
        sums = self._sums(statuses)
        job_rows, spec_rows = [], []
        now = self._session.now_ms
        for index, spec in enumerate(jobs):
            conditions = self._conditions(index, roots, first_id)
            status = statuses[index]
            job_rows.append(
                properties.values_of(Part.JOB, spec)
                | {
                    "id": first_id + index,
                    "root_id": roots[index],
                    "is_root": not parents_of[index],
                    "status": status,
                    "requirement_id": self._requirement_id(spec, conditions),
                    "priority": priorities[index],
                    "has_command": spec.command is not None,
                    "command_done": False,
                    "pause_wished": status is JobStatus.PAUSED,
                    "held_by_bulk": False,
                    "children_total": len(spec.children) + len(self._attached.children(index)),
                    "children_unsettled": unsettled[index],
                    "children_unsuccessful": unsuccessful[index],
                    "counted": _is_counted(spec),
                    "tree_exact": self._is_tree,
                    **{
                        f"tree_{name}": value
                        for name, value in zip(trees.NAMES, trees.numbers(sums[index]), strict=True)
                    },
                    "attempts": 0,
                    "rescues": 0,
                    "progress": 0.0,
                    "queued_at": now,
                    "runnable_at": now if status is JobStatus.RUNNABLE else None,
                    "ended_at": now if status in SETTLED else None,
                },
            )
            spec_rows.append(_spec_row(first_id + index, spec, submitters[index]))
        self._insert(job_rows, spec_rows, self._edges(first_id, parents_of))
        for index, spec in enumerate(jobs):
            job_id, status = first_id + index, statuses[index]
            self._session.record(job_id, "submitted", status)
            for line in spec.log:
                self._session.record(job_id, "note", status, line)
        if JobStatus.RUNNABLE in statuses:
            self._session.after_commit(WakeScheduler())
        for root_id in {root_id for root_id in roots if root_id < first_id}:
            blocklist.reconsider(self._session, root_id, first_id - 1)
        self._tell_parents(first_id, statuses, parents_of, sums)
        return list(range(first_id, first_id + count))

    def _inherited(self, own: Callable[[int], T | None], otherwise: Callable[[int], T]) -> list[T]:
        """Return a value per job: its own, else that of its parent in the submission, else what else there is."""
        values: dict[int, T] = {}
        for index in reversed(self._children_first):
            value, parent = own(index), self._jobs[index].parent
            if value is None:
                value = otherwise(index) if parent is None else values[parent]
            values[index] = value
        return [values[index] for index in range(len(self._jobs))]

    def _of_parent(self, name: str, default: T) -> Callable[[int], T]:
        """Return what tells a value of a job's first existing parent."""

        def value(index: int) -> T:
            parents = self._attached.parents(index)
            return getattr(self._attached.known[parents[0]], name) if parents else default

        return value

    def _paused(self, parents_of: Sequence[Sequence[int]]) -> list[bool]:
        """Tell which jobs wait from the start, for all their parents are paused; with one that goes on they go on."""
        paused = [False] * len(self._jobs)
        outside = self._attached.paused()
        if outside:
            for index in reversed(self._children_first):
                parents = parents_of[index]
                paused[index] = bool(parents) and all(
                    parent in outside if parent >= 0 else paused[-1 - parent] for parent in parents
                )
        return paused

    def _conditions(self, index: int, roots: Sequence[int], first_id: int) -> tuple[Condition, ...]:
        own = self._jobs[index].conditions
        if own is not None:
            return conditions_from(own)
        root = roots[index]
        if root >= first_id:
            return conditions_from(self._jobs[root - first_id].conditions or ())
        return self._root_conditions(root)

    def _root_conditions(self, root_id: int) -> tuple[Condition, ...]:
        if root_id not in self._conditions_of:
            query = (
                sa.select(requirement.c.spec_json)
                .join(job, job.c.requirement_id == requirement.c.id)
                .where(job.c.id == root_id)
            )
            text = self._connection.execute(query).scalar()
            self._conditions_of[root_id] = Requirement.from_json(text).conditions if text else ()
        return self._conditions_of[root_id]

    def _requirement_id(self, spec: JobSpec, conditions: tuple[Condition, ...]) -> int:
        wanted = Requirement(conditions=conditions, **properties.values_of(Part.REQUIREMENT, spec))
        known = self._requirements.get(wanted)
        if known is None:
            known = self._requirements[wanted] = requirement_id(self._session, wanted)
        return known

    def _statuses(self, paused: Sequence[bool]) -> tuple[list[JobStatus], list[int], list[int]]:
        """Return each job's status by its children, and how many of them are unsettled and unsuccessful."""
        count = len(self._jobs)
        statuses: list[JobStatus] = [JobStatus.QUEUED] * count
        unsettled, unsuccessful = [0] * count, [0] * count
        for index in self._children_first:
            spec = self._jobs[index]
            below = [statuses[child] for child in spec.children]
            below += [self._attached.known[child].status for child in self._attached.children(index)]
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

    def _forms_tree(self, parents_of: Sequence[Sequence[int]]) -> bool:
        """Tell whether every new job has one parent at most, and no existing job gets another one."""
        return all(len(parents) <= 1 for parents in parents_of) and not any(
            self._attached.children(index) for index in range(len(self._jobs))
        )

    def _sums(self, statuses: Sequence[JobStatus]) -> list[trees.Share]:
        """Return, per job, the sums over it and what is below it; they count only where the jobs form a tree."""
        sums = [
            trees.Share(
                jobs=1,
                settled=int(status in SETTLED),
                counted=int(_is_counted(spec)),
                waiting=int(spec.command is not None and status not in SETTLED),
            )
            for spec, status in zip(self._jobs, statuses, strict=True)
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

    def _edges(self, first_id: int, parents_of: Sequence[Sequence[int]]) -> list[dict[str, int]]:
        edges = [
            {"parent_id": parent if parent >= 0 else first_id - 1 - parent, "child_id": first_id + index}
            for index, parents in enumerate(parents_of)
            for parent in parents
        ]
        edges.extend(
            {"parent_id": first_id + index, "child_id": child}
            for index in range(len(self._jobs))
            for child in self._attached.children(index)
        )
        return edges

    def _insert(
        self,
        job_rows: list[dict[str, Any]],
        spec_rows: list[dict[str, Any]],
        edges: list[dict[str, int]],
    ) -> None:
        self._connection.execute(sa.insert(job), job_rows)
        self._connection.execute(sa.insert(job_spec), spec_rows)
        if edges:
            self._connection.execute(sa.insert(job_edge), edges)
        attached = sorted({child for index in range(len(self._jobs)) for child in self._attached.children(index)})
        roots = [child for child in attached if self._attached.known[child].is_root]
        if roots:
            self._connection.execute(_NO_ROOTS, {"jobs": roots})

    def _tell_parents(
        self,
        first_id: int,
        statuses: Sequence[JobStatus],
        parents_of: Sequence[Sequence[int]],
        sums: Sequence[trees.Share],
    ) -> None:
        """Count the new children of existing parents; an unsettled one sends a parent back to wait."""
        totals: dict[int, int] = defaultdict(int)
        unsettled: dict[int, int] = defaultdict(int)
        unsuccessful: dict[int, int] = defaultdict(int)
        edges: list[tuple[int, int]] = []
        for index, parents in enumerate(parents_of):
            for parent in parents:
                if parent < 0:
                    continue
                totals[parent] += 1
                unsettled[parent] += statuses[index] not in SETTLED
                unsuccessful[parent] += statuses[index] in UNSUCCESSFUL
                edges.append((parent, first_id + index))
        if not totals:
            return
        trees.begin(self._connection, [row for row in load(self._connection, list(totals)) if not row.children_total])
        self._connection.execute(
            _ADD_CHILDREN,
            [
                {"key_id": key, "total": totals[key], "unsettled": unsettled[key], "unsuccessful": unsuccessful[key]}
                for key in totals
            ],
        )
        if self._is_tree:
            trees.add(self._connection, {child: sums[child - first_id] for _, child in edges})
        else:
            trees.mark(self._connection, sorted(totals))
        record_additions(self._session, edges, self._attached.known)
        # A child that has failed at once (through an existing one below it) counts as one that fails later.
        failing = [
            key for key in totals if unsuccessful[key] and self._attached.known[key].status is not JobStatus.FAILED
        ]
        reopened = [key for key in totals if unsettled[key] or key in failing]
        apply(self._session, JobEvent.CHILD_ADDED, reopened, Cause(message="a child was added"))
        apply(self._session, JobEvent.LAST_CHILD_SETTLED, failing)
        fall_under(self._session, edges)


_NO_ROOTS: Final = sa.update(job).where(job.c.id.in_(listed("jobs"))).values(is_root=False)
_ADD_CHILDREN: Final = (
    sa.update(job)
    .where(job.c.id == sa.bindparam("key_id"))
    .values(
        children_total=job.c.children_total + sa.bindparam("total"),
        children_unsettled=job.c.children_unsettled + sa.bindparam("unsettled"),
        children_unsuccessful=job.c.children_unsuccessful + sa.bindparam("unsuccessful"),
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
    key = repeats.key_of(graph, parent_id, child_ids) if graph.jobs else None
    known = None if key is None else repeats.find(session, key)
    if known is not None:
        return known
    ids = _Submission(session, graph, parent_id, child_ids).run()
    if key is not None:
        repeats.keep(session, key, ids)
    return ids


def _children_first(jobs: Sequence[JobSpec]) -> list[int]:
    """Return the indexes so that every job comes after those below it."""
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
