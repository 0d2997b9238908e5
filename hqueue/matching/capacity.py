"""Which clients have room for a requirement, the best ones first.

A job that shares a client goes to the client on which it leaves least idle CPU. One that wants a client to itself goes
to the fastest idle client. A client on which the job went wrong before comes last.
"""

from __future__ import annotations

import bisect
import heapq
from typing import TYPE_CHECKING, Protocol

from hqueue.matching.why import lacks_room

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hqueue.matching.clients import ClientView
    from hqueue.matching.requirement import Requirement
    from hqueue.matching.resources import Units


class ByIdleCpus:
    """The clients that have idle CPUs, by how many."""

    def __init__(self, clients: Iterable[ClientView]) -> None:
        self._shelves: dict[int, dict[int, ClientView]] = {}
        self._numbers: list[int] = []  # of idle CPUs for which there is a shelf, ascending
        self._watched: dict[int, list[dict[int, ClientView]]] = {}  # by client
        for view in clients:
            self._put(view)

    def occupy(self, view: ClientView, wanted: Requirement, times: int) -> None:
        """Let jobs run on a client."""
        shelf = self._shelves.get(view.free_cpus)
        if shelf is not None:
            shelf.pop(view.facts.id, None)
        view.occupy(wanted, times)
        if view.free_cpus > 0:
            self._put(view)
            for changed in self._watched.get(view.facts.id, ()):
                changed[view.facts.id] = view

    def watch(self, client_ids: Iterable[int], changed: dict[int, ClientView]) -> None:
        """Enter those of the clients into `changed` that get jobs from now on and still have room."""
        for client_id in client_ids:
            self._watched.setdefault(client_id, []).append(changed)

    def least_first(self, cpus: int) -> Iterator[ClientView]:
        """Yield the clients with at least so many idle CPUs, those with the fewest first."""
        for number in self._numbers:
            if number >= cpus:
                yield from self._shelves[number].values()

    def _put(self, view: ClientView) -> None:
        shelf = self._shelves.get(view.free_cpus)
        if shelf is None:
            shelf = self._shelves[view.free_cpus] = {}
            bisect.insort(self._numbers, view.free_cpus)
        shelf[view.facts.id] = view


class Room(Protocol):
    """The clients that would do for one requirement; room only shrinks during a plan."""

    def best(self, most: int, /) -> list[ClientView]:
        """Return the best clients that have room, at most so many."""
        ...

    def put_back(self, view: ClientView) -> None:
        """Take back a client that `best` returned and that got no job."""
        ...


class CommonRoom:
    """For a requirement that many clients meet: looking along all clients soon finds one that fits."""

    def __init__(self, wanted: Requirement, fitting: set[int], idle: ByIdleCpus, units: Units) -> None:
        self._wanted = wanted
        self._fitting = fitting
        self._idle = idle
        self._units = units

    def best(self, _most: int) -> list[ClientView]:
        """Return the client that one more job leaves least idle."""
        wanted = self._wanted
        for view in self._idle.least_first(wanted.cpus):
            if view.facts.id in self._fitting and not lacks_room(wanted, view, self._units):
                return [view]
        return []

    def put_back(self, view: ClientView) -> None:
        """Do nothing: `best` takes no client out."""


class OwnRoom:
    """For a requirement that few clients meet, or that orders clients its own way; clients without room are dropped."""

    def __init__(self, wanted: Requirement, clients: Iterable[ClientView], idle: ByIdleCpus, units: Units) -> None:
        self._wanted = wanted
        self._units = units
        self._last = frozenset(wanted.last)
        # Blocked ones are here only where blocks do not count.
        self._failures = {client_id: place for place, client_id in enumerate(wanted.blocked, 1)}
        having = [view for view in clients if not lacks_room(wanted, view, units)]
        self._keys = {view.facts.id: self._key(view) for view in having}  # what else is in the heap is out of date
        self._heap = [(*self._keys[view.facts.id], view.facts.id, view) for view in having]
        heapq.heapify(self._heap)
        self._changed: dict[int, ClientView] = {}  # on which jobs have been placed since the last look
        idle.watch(self._keys, self._changed)

    def _key(self, view: ClientView) -> tuple[int, bool, float]:
        harm = self._failures.get(view.facts.id, 0), view.facts.id in self._last
        if self._wanted.alone:
            return *harm, -view.facts.speed * view.facts.cpus  # the fastest: it has it to itself
        return *harm, view.free_cpus  # the one it leaves least idle

    def best(self, most: int) -> list[ClientView]:
        """Take the best clients that have room out."""
        for view in self._changed.values():
            self.put_back(view)
        self._changed.clear()
        found: list[ClientView] = []
        while self._heap and len(found) < most:
            *key, client_id, view = heapq.heappop(self._heap)
            if self._keys.get(client_id) == tuple(key):
                del self._keys[client_id]
                if not lacks_room(self._wanted, view, self._units):
                    found.append(view)
        return found

    def put_back(self, view: ClientView) -> None:
        """Put a client where it belongs now."""
        key = self._key(view)
        if self._keys.get(view.facts.id) != key:
            self._keys[view.facts.id] = key
            heapq.heappush(self._heap, (*key, view.facts.id, view))
