"""The existing jobs that a submission names: its parents and children, and what must not be done with them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.errors import CyclicGraphError, JobStateError, UnknownJobError
from hqueue.lifecycle.rows import ancestors, statuses
from hqueue.schema import event, job, job_edge, job_spec
from hqueue.states import SETTLED, JobStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hqueue.jobspec import SpecGraph
    from hqueue.store import Session


@dataclass(frozen=True, slots=True)
class Known:
    """A job that existed before."""

    id: int
    root_id: int
    status: JobStatus
    is_root: bool
    priority: int
    pause_wished: bool
    submitted_by: str


_KNOWN: Final = (
    sa.select(
        *(job.c.id, job.c.root_id, job.c.status, job.c.is_root, job.c.priority, job.c.pause_wished),
        job_spec.c.submitted_by,
    )
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
        given = graph.given if parent_id is not None or child_ids else 0
        # The jobs that name existing ones, by their indexes.
        self.linked = [
            index for index, spec in enumerate(graph.jobs) if index < given or spec.child_ids or spec.parent_ids
        ]
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
        for index in self.linked:
            spec = self._jobs[index]
            for key, ids in (("childrenIds", spec.child_ids), ("parentIds", spec.parent_ids)):
                for place, job_id in enumerate(ids):
                    if job_id not in self.known:
                        raise UnknownJobError(_unknown(f"{self._path(index)}{key}[{place}]", job_id))
        above = self.existing_parents()
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

    def existing_parents(self) -> set[int]:
        """Return the existing jobs that get new children."""
        above = {job_id for index in self.linked for job_id in self._jobs[index].parent_ids}
        if self._parent_id is not None:
            above.add(self._parent_id)
        return above

    def _check_cycles(self, higher: set[int]) -> None:
        """Refuse an existing child that is above an existing parent of the same new jobs."""
        if higher.isdisjoint(child for index in self.linked for child in self.children(index)):
            return
        reach: dict[int, set[int]] = {}  # existing parent -> itself and its ancestors
        for parent in self.existing_parents():
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

    def paused(self) -> set[int]:
        """Return the existing parents that new children wait with: paused ones, and settled ones in paused trees."""
        return {
            parent
            for parent in self.existing_parents()
            if self.known[parent].pause_wished
            or (self.known[parent].status in SETTLED and _in_paused_tree(self._connection, parent))
        }

    def _load_known(self) -> dict[int, Known]:
        """Load the existing jobs that the submission names."""
        wanted = set(self._given_child_ids)
        if self._parent_id is not None:
            wanted.add(self._parent_id)
        for index in self.linked:
            wanted.update(self._jobs[index].child_ids, self._jobs[index].parent_ids)
        rows = self._connection.execute(_KNOWN, {"jobs": wanted}) if wanted else ()
        return {row.id: Known(row.id, row.root_id, JobStatus(row.status), *row[3:]) for row in rows}


def record_additions(session: Session, edges: Sequence[tuple[int, int]], known: Mapping[int, Known]) -> None:
    """Add to existing parents' logs that they have new children: (parent, child), each parent's in ascending order.

    Additions that follow each other within a minute become one line, which moves to the end of the feed.
    """
    session.write_events()
    added: dict[int, list[int]] = defaultdict(list)
    for parent, child in edges:
        added[parent].append(child)
    parameters = {"jobs": list(added), "since": session.now_ms - _TOGETHER_MS}
    moved: list[dict[str, Any]] = [
        {"old_seq": row.seq, "text": _addition(added.pop(row.job_id), row.message)}
        for row in session.connection.execute(_LATEST_ADDITIONS, parameters).all()
    ]
    for parent, children in added.items():
        session.record(parent, _CHILD_ADDED, known[parent].status, _addition(children))
    if moved:
        first = session.allocate("event", len(moved))
        rows = [{**row, "new_seq": first + place, "now": session.now_ms} for place, row in enumerate(moved)]
        session.connection.execute(_MOVE, rows)


def _addition(children: Sequence[int], before: str = "") -> str:
    """Return the words for new children, `before` being those for the ones that came before them."""
    count, first = len(children), children[0]
    if earlier := _ADDITION.fullmatch(before):
        count, first = count + int(earlier["count"] or 1), int(earlier["first"])
    return f"job {first}" if count == 1 else f"{count} jobs, {first} to {children[-1]}"


_CHILD_ADDED: Final = "child added"
_TOGETHER_MS: Final = 60_000
_ADDITION: Final = re.compile(r"(?:job |(?P<count>\d+) jobs, )(?P<first>\d+)(?: to \d+)?")
# Where the newest line of a log is of that kind, and not too old.
_LATEST_ADDITIONS: Final = sa.select(event.c.seq, event.c.job_id, event.c.message).where(
    event.c.seq.in_(
        sa.select(sa.func.max(event.c.seq)).where(event.c.job_id.in_(listed("jobs"))).group_by(event.c.job_id)
    ),
    event.c.event == _CHILD_ADDED,
    event.c.at >= sa.bindparam("since"),
)
_MOVE: Final = (
    sa.update(event)
    .where(event.c.seq == sa.bindparam("old_seq"))
    .values(seq=sa.bindparam("new_seq"), at=sa.bindparam("now"), message=sa.bindparam("text"))
)


_ABOVE: Final = (
    sa.select(job.c.id, job.c.status, job.c.pause_wished)
    .join(job_edge, job_edge.c.parent_id == job.c.id)
    .where(job_edge.c.child_id.in_(listed("jobs")))
)


def _in_paused_tree(connection: sa.Connection, settled_id: int) -> bool:
    """Tell whether the nearest unsettled jobs above a settled one are all paused."""
    nearest: list[bool] = []
    level, seen = {settled_id}, {settled_id}
    while level:
        above: set[int] = set()
        for row in connection.execute(_ABOVE, {"jobs": level}):
            if row.status in SETTLED:
                above.add(row.id)
            else:
                nearest.append(row.pause_wished)
        level = above - seen
        seen |= level
    return bool(nearest) and all(nearest)


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
