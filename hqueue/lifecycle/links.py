"""The existing jobs that a submission names: its parents and children, and what must not be done with them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.errors import CyclicGraphError, JobStateError, UnknownJobError
from hqueue.lifecycle.rows import ancestors, statuses
from hqueue.schema import job, job_spec
from hqueue.states import JobStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hqueue.jobspec import SpecGraph


@dataclass(frozen=True, slots=True)
class Known:
    """A job that existed before."""

    id: int
    root_id: int
    status: JobStatus
    is_root: bool
    requirement_id: int
    submitted_by: str


_KNOWN: Final = (
    sa.select(job.c.id, job.c.root_id, job.c.status, job.c.is_root, job.c.requirement_id, job_spec.c.submitted_by)
    .join(job_spec, job_spec.c.job_id == job.c.id)
    .where(job.c.id.in_(listed("jobs")))
)


class Attachment:
    """How the jobs of a graph hang together with those that exist already."""

    def __init__(
        self,
        connection: sa.Connection,
        graph: SpecGraph,
        parent_id: int | None,
        child_ids: Sequence[int],
    ) -> None:
        self._connection = connection
        self._graph = graph
        self._jobs = graph.jobs
        self._parent_id = parent_id
        self._given_child_ids = tuple(child_ids)
        self.known = self._load_known()

    def check(self) -> None:
        """Refuse unknown ids, cycles through existing jobs, and children below a cancelled job.

        Errors: UnknownJobError, CyclicGraphError, JobStateError.
        """
        if self._parent_id is not None and self._parent_id not in self.known:
            raise UnknownJobError(_unknown("parent_id", self._parent_id))
        for job_id in self._given_child_ids:
            if job_id not in self.known:
                raise UnknownJobError(_unknown("child_ids", job_id))
        for index, spec in enumerate(self._jobs):
            for key, ids in (("childrenIds", spec.child_ids), ("parentIds", spec.parent_ids)):
                for place, job_id in enumerate(ids):
                    if job_id not in self.known:
                        raise UnknownJobError(_unknown(f"{self._path(index)}{key}[{place}]", job_id))
        above = self._existing_parents()
        if above:
            self._check_above(above)

    def _check_above(self, above: set[int]) -> None:
        higher = ancestors(self._connection, above) | above
        self._check_cycles(higher)
        found = statuses(self._connection, higher)
        cancelled = min((job_id for job_id, status in found.items() if status is JobStatus.CANCELLED), default=None)
        if cancelled is not None:
            raise JobStateError(
                f"job {cancelled} is cancelled and takes no new jobs below it; reschedule it first, "
                "or submit below another parent",
            )

    def _existing_parents(self) -> set[int]:
        above = {job_id for spec in self._jobs for job_id in spec.parent_ids}
        if self._parent_id is not None:
            above.add(self._parent_id)
        return above

    def _check_cycles(self, higher: set[int]) -> None:
        """Refuse an existing child that is above an existing parent of the same new jobs."""
        if higher.isdisjoint(child for index in range(len(self._jobs)) for child in self.children(index)):
            return
        reach: dict[int, set[int]] = {}  # existing parent -> itself and its ancestors
        for parent in self._existing_parents():
            reach[parent] = ancestors(self._connection, [parent]) | {parent}
        # Nodes: new jobs by index, existing ones by -id; an edge goes from a job to one that must be below it.
        edges: dict[int, set[int]] = defaultdict(set)
        for index, spec in enumerate(self._jobs):
            edges[index].update(spec.children)
            for child in self.children(index):
                edges[index].add(-child)
                edges[-child].update(-parent for parent, above in reach.items() if child in above and child != parent)
            for parent in self.parents(index):
                edges[-parent].add(index)
        cycle = _find_cycle(edges)
        if cycle is not None:
            names = " > ".join(f"job {-node}" if node < 0 else self._graph.path(node) for node in cycle)
            raise CyclicGraphError(f"these jobs would be their own ancestors: {names}; leave one of the links out")

    def _path(self, index: int) -> str:
        path = self._graph.places.path(index)
        return f"{path}." if path else ""

    def parents(self, index: int) -> tuple[int, ...]:
        """Return the existing parents of a job, in the order that decides its root."""
        spec = self._jobs[index]
        if index < self._graph.given and self._parent_id is not None:
            return tuple(dict.fromkeys((self._parent_id, *spec.parent_ids)))
        return spec.parent_ids

    def children(self, index: int) -> tuple[int, ...]:
        """Return the existing jobs that become children of a job."""
        ids = self._jobs[index].child_ids
        if index < self._graph.given and self._given_child_ids:
            return tuple(dict.fromkeys((*ids, *self._given_child_ids)))
        return ids

    def root(self, index: int, first_id: int) -> int:
        """Return the id of a new job's root, where the new jobs' ids begin with `first_id`."""
        parents = self.parents(index)
        if parents:
            return self.known[parents[0]].root_id
        around = self._jobs[index].parent
        while around is not None:
            parents = self.parents(around)
            if parents:
                return self.known[parents[0]].root_id
            index, around = around, self._jobs[around].parent
        return first_id + index

    def _load_known(self) -> dict[int, Known]:
        """Load the existing jobs that the submission names."""
        wanted = set(self._given_child_ids)
        if self._parent_id is not None:
            wanted.add(self._parent_id)
        for spec in self._jobs:
            wanted.update(spec.child_ids, spec.parent_ids)
        rows = self._connection.execute(_KNOWN, {"jobs": wanted}) if wanted else ()
        return {
            row.id: Known(row.id, row.root_id, JobStatus(row.status), row.is_root, row.requirement_id, row.submitted_by)
            for row in rows
        }


def _unknown(place: str, job_id: int) -> str:
    return f"{place}: there is no job {job_id}; give the id of an existing job, or leave it out"


def _find_cycle(edges: Mapping[int, set[int]]) -> list[int] | None:
    """Return a cycle, its first node repeated at the end, or None."""
    state: dict[int, int] = {}  # 1: on the path, 2: done
    for start in list(edges):
        if start in state:
            continue
        path = [start]
        iterators = [iter(edges.get(start, ()))]
        state[start] = 1
        while path:
            following = next(iterators[-1], None)
            if following is None:
                state[path.pop()] = 2
                iterators.pop()
            elif state.get(following) == 1:
                return [*path[path.index(following) :], following]
            elif following not in state:
                state[following] = 1
                path.append(following)
                iterators.append(iter(edges.get(following, ())))
    return None
