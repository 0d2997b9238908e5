"""Places the jobs of the queue on clients.

Jobs are taken in order: priority, then the older root, then the older job. A job that fits nowhere holds up no job
behind it. A job that needs more than any client has free, and has been the first of its requirement for a while, gets
clients held for it: a held client takes only jobs that come before the holder, until the client is empty enough.
Holds are worked out anew in each plan, in the queue's order, so that they neither leak nor lock each other out.
"""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from hqueue.matching.capacity import ByIdleCpus, CommonRoom, OwnRoom, Room
from hqueue.matching.why import FitTable, lacks_room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hqueue.matching.clients import ClientView
    from hqueue.matching.requirement import Requirement
    from hqueue.matching.resources import Units

_FIRST_PAGE: Final = 32
_LARGEST_PAGE: Final = 4096


class Candidate(NamedTuple):
    """A runnable job; compares as the queue is ordered: priority, then the older root, then the older job."""

    rank: tuple[int, int, int]  # (-priority, root id, job id)
    requirement_id: int

    @classmethod
    def of(cls, job_id: int, requirement_id: int, priority: int, root_id: int) -> Candidate:
        """Return the candidate for a job."""
        return cls((-priority, root_id, job_id), requirement_id)

    @property
    def job_id(self) -> int:
        """The job's id."""
        return self.rank[2]

    @property
    def root_id(self) -> int:
        """The id of the job's root."""
        return self.rank[1]


class Waiting(Protocol):
    """The runnable jobs of each requirement, in the queue's order; read only as far as a plan needs them."""

    def after(self, requirement_id: int, seen: int, most: int) -> Sequence[Candidate]:
        """Return the next jobs after the first so many."""
        ...


class RunTimes(Protocol):
    """How long the runs of each client have lasted; asked for only where a job needs an emptier client."""

    def since(self) -> Mapping[int, Sequence[int]]:
        """Return when the open runs of each client were assigned, as milliseconds since 1970."""
        ...


@dataclass(frozen=True, slots=True)
class HeldFor:
    """The right of a job to have clients held."""

    job_id: int
    known_at_ms: int  # runs assigned after this moment do not tell how soon a client will be free


class Placement(NamedTuple):
    """A job that is to run, and where; the command runs on the first client, the others are reserved."""

    candidate: Candidate
    clients: tuple[ClientView, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """The clients and resources kept for a job that waits for more than is free at once."""

    rank: tuple[int, int, int]  # of the job
    clients: tuple[int, ...]  # ids
    units: tuple[tuple[str, int], ...]  # of resources, by name


@dataclass(slots=True)
class Plan:
    """The jobs placed, and what is kept for jobs that wait."""

    placements: list[Placement] = field(default_factory=list)
    holds: dict[int, Hold] = field(default_factory=dict)  # by job id


def needs_more_than_a_gap(wanted: Requirement) -> bool:
    """Tell whether a stream of smaller jobs could keep a job with this requirement waiting for ever.

    A job that needs one CPU, one client and at most one unit of each resource needs no patience: whatever becomes
    free first is enough for it.
    """
    return wanted.min_hosts > 1 or wanted.alone or wanted.cpus > 1 or any(amount > 1 for _, amount in wanted.resources)


def plan(
    heads: Mapping[int, Candidate],
    requirements: Mapping[int, Requirement],
    clients: Sequence[ClientView],
    units: Units,
    *,
    fits: FitTable,
    waiting: Waiting,
    holders: Mapping[int, HeldFor],
    times: RunTimes,
) -> Plan:
    """Place jobs on clients, in the queue's order, as many as there is room for.

    heads: the first runnable job of each requirement. holders: by requirement, the job that may have clients held.
    """
    return _Planner(requirements, clients, units, fits, waiting, holders, times).run(heads)


@dataclass
class _Planner:
    """One pass over the queue."""

    requirements: Mapping[int, Requirement]
    clients: Sequence[ClientView]
    units: Units
    fits: FitTable
    waiting: Waiting
    holders: Mapping[int, HeldFor]
    times: RunTimes

    def __post_init__(self) -> None:
        self._open = [view for view in self.clients if not view.standing]
        self._free = {view.facts.id: view for view in self._open if view.free_cpus > 0}
        self._idle = ByIdleCpus(self._free.values())
        self._rooms: dict[int, Room] = {}
        self._queues: dict[int, _Queue] = {}
        self._plan = Plan()

    def run(self, heads: Mapping[int, Candidate]) -> Plan:
        line = sorted(heads.values())  # a sorted list is a heap
        while line and (self._free or self.holders):
            head = line[0]
            key = head.requirement_id
            clients = self._take(key)
            if not clients:
                heapq.heappop(line)  # room only shrinks during a plan: nothing behind it fits either
                self._hold(head)
                continue
            self._plan.placements.append(Placement(head, clients))
            self._fill(key, clients, min(line[1:3], default=None))
            following = self._queue(key).next() if self._free or self.holders else None
            if following is None:
                heapq.heappop(line)
            else:
                heapq.heapreplace(line, following)
        return self._plan

    def _queue(self, key: int) -> _Queue:
        return self._queues.get(key) or self._queues.setdefault(key, _Queue(key, self.waiting))

    def _take(self, key: int) -> tuple[ClientView, ...]:
        """Place the next job of a requirement; return its clients, or none where too few clients have room."""
        wanted = self.requirements[key]
        if wanted.resources and self.units.lacking(wanted, ()):
            return ()  # whatever the client
        room = self._rooms.get(key) or self._rooms.setdefault(key, self._room(key))
        licensed = wanted.several and wanted.resources
        found = self._licensed(wanted, room) if licensed else room.best(wanted.max_hosts)
        if len(found) < wanted.min_hosts:
            return ()
        for view in found:
            if wanted.resources:
                self.units.take(wanted, view, first=view is found[0])
            self._occupy(wanted, view)
        return tuple(found)

    def _fill(self, key: int, clients: tuple[ClientView, ...], before: Candidate | None) -> None:
        """Place more jobs of the requirement just placed on the same client, as far as they come before `before`.

        The client that one job leaves least idle is also the client that the next job like it leaves least idle.
        """
        wanted, view = self.requirements[key], clients[0]
        most = view.free_cpus // wanted.cpus
        if not most or wanted.several or wanted.singles or wanted.resources:
            return
        alike = self._queue(key).take(most, before)
        if alike:
            self._occupy(wanted, view, len(alike))
            self._plan.placements += [Placement(each, clients) for each in alike]

    def _occupy(self, wanted: Requirement, view: ClientView, times: int = 1) -> None:
        self._idle.occupy(view, wanted, times)
        view.fresh = True
        if view.free_cpus <= 0:
            del self._free[view.facts.id]

    def _licensed(self, wanted: Requirement, room: Room) -> list[ClientView]:
        """Return as many clients as there are resources for; clients that already hold the resources come first."""
        found = self.units.best_supplied(wanted, room.best(len(self._free)))
        able = wanted.max_hosts
        while able >= wanted.min_hosts and self.units.lacking(wanted, found[:able]):
            able -= 1
        for view in found[able:]:
            room.put_back(view)
        # The command runs on the first.
        return sorted(found[:able], key=lambda view: view.id in wanted.last)

    def _room(self, key: int) -> Room:
        wanted, fitting = self.requirements[key], self.fits.fitting(key, self.requirements[key])
        plain = not (wanted.alone or wanted.several or wanted.last or wanted.blocked)
        if plain and 4 * len(fitting) > len(self._open):
            return CommonRoom(wanted, fitting, self._idle, self.units)
        few = (self._free[each] for each in fitting if each in self._free)
        return OwnRoom(wanted, few, self._idle, self.units)

    def _hold(self, head: Candidate) -> None:
        """Hold all the clients that a job needs, or none, where the job has the right to have clients held."""
        right = self.holders.get(head.requirement_id)
        if right is None or right.job_id != head.job_id:
            return
        wanted = self.requirements[head.requirement_id]
        if self.units.impossible(wanted):
            return
        fitting = self.fits.fitting(head.requirement_id, wanted)
        doing = [view for view in self._open if view.id in fitting]
        if len(doing) < wanted.min_hosts:
            return  # emptier clients would not help
        able = [view for view in doing if not view.held and not self.units.lacking(wanted, (view,))]
        soonest = _Soonest(wanted, self.units, self.times.since(), right.known_at_ms)
        chosen = sorted(able, key=soonest.key)[: wanted.min_hosts]
        if len(chosen) < wanted.min_hosts or self.units.lacking(wanted, chosen):
            # Resources are kept first: clients that stand empty for want of a licence are of no use to anybody.
            chosen = []
        for view in chosen:
            view.held = True
        kept = self.units.keep_for(wanted, chosen)
        if chosen or kept:
            self._plan.holds[head.job_id] = Hold(head.rank, tuple(view.id for view in chosen), kept)


@dataclass(frozen=True, slots=True)
class _Soonest:
    """Orders clients by how soon they may have room.

    A run that has lasted long is expected to last long. So first come clients that have room already, then clients
    whose oldest run is the youngest. Clients with a run that began after the first choice come last: a held client
    gets no new runs, and so stays the choice.
    """

    wanted: Requirement
    units: Units
    since: Mapping[int, Sequence[int]]
    known_at_ms: int

    def key(self, view: ClientView) -> tuple[bool, int, int, int]:
        """Return what to sort a client by."""
        last = view.id in self.wanted.last
        if not lacks_room(self.wanted, view, self.units):
            return last, 0, 0, view.id
        assigned = self.since.get(view.id, ())
        if view.fresh or not assigned or max(assigned) > self.known_at_ms:
            return last, 2, max(assigned, default=0), view.id
        return last, 1, -min(assigned), view.id


class _Queue:
    """The jobs of a requirement behind its first job, read in pages that grow."""

    def __init__(self, key: int, waiting: Waiting) -> None:
        self._key = key
        self._waiting = waiting
        self._page: Sequence[Candidate] = ()
        self._place = 0
        self._seen = 1
        self._size = _FIRST_PAGE
        self._more = True

    def next(self) -> Candidate | None:
        """Return the next job, None after the last."""
        return next(iter(self.take(1, None)), None)

    def take(self, most: int, before: Candidate | None) -> list[Candidate]:
        """Return at most `most` of the next jobs, as far as they come before the job `before`."""
        found: list[Candidate] = []
        while len(found) < most and self._place_in_page():
            end = min(self._place + most - len(found), len(self._page))
            if before is not None:
                end = bisect.bisect_left(self._page, before, self._place, end)
            if end == self._place:
                break
            found += self._page[self._place : end]
            self._place = end
        return found

    def _place_in_page(self) -> bool:
        """Read the next page where this page is used up; tell whether any job is left."""
        if self._place == len(self._page) and self._more:
            self._page = self._waiting.after(self._key, self._seen, self._size)
            self._more = len(self._page) == self._size
            self._seen += len(self._page)
            self._size = min(2 * self._size, _LARGEST_PAGE)
            self._place = 0
        return self._place < len(self._page)
