"""Which job goes on which client, and why not. Pure: everything needed comes in as arguments."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SINGLE: Final = "single"
_PARTS: Final = re.compile(r"[,;]")


def os_of(platform: str) -> str:
    """Return `linux`, `windows` or `macosx` for a platform as clients name it (`linux-x86_64`, `macos-arm64`)."""
    system = platform.split("-", 1)[0].lower()
    return "macosx" if system == "macos" else system


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on the client of a job."""

    name: str  # hostname, hostname:name, group, os
    op: str  # ==, !=, in, not_in, any
    value: str

    def holds(self, client: ClientView) -> bool:
        """Tell whether a client meets it."""
        return self._matches(client) != (self.op in {"!=", "not_in"})

    def _matches(self, client: ClientView) -> bool:
        # The whole value comes first: a group may well be called "sim, fast".
        wanted = {self.value.strip(), *(part.strip() for part in _PARTS.split(self.value))}
        if self.name == "group":
            return not wanted.isdisjoint(client.groups)
        if self.name == "os":
            return client.os in {os_of(text) for text in wanted}
        if self.name == "hostname":
            return any(same_host(text, client.hostname) for text in wanted)
        return any(_same_label(text, client) for text in wanted)


def same_host(one: str, other: str) -> bool:
    """Tell whether two hostnames mean one machine: case and a domain that only one of them has do not matter."""
    one, other = one.lower(), other.lower()
    if one == other:
        return bool(one)
    if ("." in one) == ("." in other):
        return False
    return one.split(".", 1)[0] == other.split(".", 1)[0]


def _same_label(wanted: str, client: ClientView) -> bool:
    """`host` is any client there, `host:name` that one, `host:` the unnamed one."""
    hostname, colon, name = wanted.partition(":")
    return same_host(hostname, client.hostname) and (not colon or name == client.name)


@dataclass(frozen=True, slots=True)
class Requirement:
    """Everything that decides where a job may go; jobs that agree in it share one."""

    conditions: tuple[Condition, ...] = ()
    cpus: int = 1
    singles: tuple[str, ...] = ()  # the tags that start with "single"
    platforms: tuple[str, ...] = ()  # that the command is given for; none: any
    resources: tuple[tuple[str, int], ...] = ()
    min_hosts: int = 1
    max_hosts: int = 1

    def to_json(self) -> str:
        """Return it as text, the same for equal requirements."""
        return json.dumps(
            {
                "conditions": [[c.name, c.op, c.value] for c in self.conditions],
                "cpus": self.cpus,
                "singles": self.singles,
                "platforms": self.platforms,
                "resources": self.resources,
                "hosts": [self.min_hosts, self.max_hosts],
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Requirement:
        """Return what `to_json` wrote."""
        data = json.loads(text)
        return cls(
            conditions=tuple(Condition(*parts) for parts in data["conditions"]),
            cpus=data["cpus"],
            singles=tuple(data["singles"]),
            platforms=tuple(data["platforms"]),
            resources=tuple((name, amount) for name, amount in data["resources"]),
            min_hosts=data["hosts"][0],
            max_hosts=data["hosts"][1],
        )

    @staticmethod
    def digest(text: str) -> str:
        """Return a short key of the text."""
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def singles_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags that limit where a job runs, sorted."""
    return tuple(sorted({tag for tag in tags if tag.startswith(SINGLE)}))


@dataclass(slots=True)
class ClientView:
    """A client as a tick sees it; what is in use grows while the tick places jobs."""

    id: int
    hostname: str
    name: str
    os: str
    groups: frozenset[str]
    cpus: int
    speed: float
    takes_work: bool
    used_cpus: int = 0
    singles: set[str] = field(default_factory=set)  # of the jobs on it
    jobs: int = 0

    @property
    def free_cpus(self) -> int:
        """CPUs that no job has taken."""
        return self.cpus - self.used_cpus

    def take(self, requirement: Requirement) -> None:
        """Note that a job runs here."""
        self.used_cpus += requirement.cpus
        self.singles.update(requirement.singles)
        self.jobs += 1


def could_ever_run(requirement: Requirement, client: ClientView, unlimited: frozenset[str]) -> bool:
    """Tell whether a client would do, were it idle."""
    return (
        client.takes_work
        and (not requirement.platforms or client.os in requirement.platforms)
        and all(condition.holds(client) for condition in requirement.conditions)
        and requirement.cpus <= client.cpus
        and all(name in unlimited for name, _ in requirement.resources)
        and requirement.min_hosts == 1
    )


def fits_now(requirement: Requirement, client: ClientView) -> bool:
    """Tell whether there is room on a client that would do."""
    if SINGLE in requirement.singles:
        return client.jobs == 0
    return (
        requirement.cpus <= client.free_cpus
        and SINGLE not in client.singles
        and client.singles.isdisjoint(requirement.singles)
    )


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
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


class _Room:
    """The clients that would do for one requirement, best first.

    Room only shrinks during a tick, so a client that is full is dropped for good, and a requirement without a client
    is done. `taken` lists the clients that jobs of any requirement were placed on, in order.
    """

    def __init__(
        self,
        requirement: Requirement,
        clients: Iterable[ClientView],
        unlimited: frozenset[str],
        taken: Sequence[ClientView],
    ) -> None:
        self.requirement = requirement
        self._heap = [
            (self._key(client), client.id, client)
            for client in clients
            if could_ever_run(requirement, client, unlimited) and fits_now(requirement, client)
        ]
        heapq.heapify(self._heap)
        self._members = {client_id for _, client_id, _ in self._heap}
        self._taken = taken
        self._seen = 0  # so many of `taken` are in the heap's order

    def _key(self, client: ClientView) -> float:
        if SINGLE in self.requirement.singles:
            return -client.speed * client.cpus  # it has the machine to itself: the fastest
        return client.free_cpus  # the one it leaves least idle

    def take(self) -> ClientView | None:
        """Return the client for one job, None when no client has room left."""
        self._catch_up()
        while self._heap:
            key, _, client = self._heap[0]
            if key == self._key(client) and fits_now(self.requirement, client):
                client.take(self.requirement)
                return client
            heapq.heappop(self._heap)  # full, or further up by now
        return None

    def _catch_up(self) -> None:
        """Move the clients that were taken from to where they belong now."""
        moved = {client.id: client for client in self._taken[self._seen :]}
        self._seen = len(self._taken)
        for client_id in moved.keys() & self._members:
            heapq.heappush(self._heap, (self._key(moved[client_id]), client_id, moved[client_id]))


def choose(
    candidates: Mapping[int, Sequence[Candidate]],
    requirements: Mapping[int, Requirement],
    clients: Sequence[ClientView],
    unlimited: frozenset[str] = frozenset(),
) -> list[tuple[Candidate, ClientView]]:
    """Place jobs on clients, in the queue's order, as many as there is room for.

    `candidates` has, per requirement, its first jobs in order. A job that fits nowhere holds up nobody behind it.
    """
    taken: list[ClientView] = []
    rooms = {key: _Room(requirements[key], clients, unlimited, taken) for key in candidates}
    heads: list[tuple[tuple[int, int, int], int, int]] = [
        (queue[0].rank, key, 0) for key, queue in candidates.items() if queue
    ]
    heapq.heapify(heads)
    placed: list[tuple[Candidate, ClientView]] = []
    while heads:
        _, key, place = heads[0]
        queue = candidates[key]
        client = rooms[key].take()
        if client is None:
            heapq.heappop(heads)
            continue
        taken.append(client)
        placed.append((queue[place], client))
        if place + 1 < len(queue):
            heapq.heapreplace(heads, (queue[place + 1].rank, key, place + 1))
        else:
            heapq.heappop(heads)
    return placed


def conditions_from(values: Iterable[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """Return conditions for what a specification or a method gives: dicts of name, op and value."""
    return tuple(Condition(value["name"], value["op"], value["value"]) for value in values)


def conditions_as_dicts(conditions: Iterable[Condition]) -> list[dict[str, str]]:
    """Return conditions as callers know them."""
    return [{"type": "client", "name": c.name, "op": c.op, "value": c.value} for c in conditions]
