"""Resources that are counted: how much of each there is, and how much is in use.

Use is derived from what runs, never counted apart: `take` is told of every open run before a plan begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hqueue.matching.clients import ClientView
    from hqueue.matching.requirement import Requirement


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as somebody has set it up."""

    maximum: int | None  # None: as much as anybody wants
    per_machine: bool  # a client takes it once, the largest amount among its jobs


class Units:
    """The resources of a farm, and what is in use."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = resources
        self.used: dict[str, int] = dict.fromkeys(resources, 0)
        self._kept: dict[str, int] = {}  # for jobs that come before whatever is asked about

    def take(self, requirement: Requirement, client: ClientView, *, times: int = 1, first: bool = True) -> None:
        """Note that jobs run on a client; `first` is False for the further clients of jobs on several."""
        for name, amount in requirement.resources:
            kind = self._resources.get(name)
            if kind is None:
                continue
            if not kind.per_machine:
                if first:
                    self.used[name] += amount * times
            elif amount > client.units.get(name, 0):
                self.used[name] += amount - client.units.get(name, 0)
                client.units[name] = amount

    def keep_for(self, requirement: Requirement, clients: Sequence[ClientView]) -> tuple[tuple[str, int], ...]:
        """Keep what a job will need, on these clients or on clients that hold nothing yet; return the amounts."""
        others = 0 if clients else requirement.min_hosts
        amounts = []
        for name, amount in requirement.resources:
            kind = self._resources[name]
            if kind.maximum is not None:
                amounts.append((name, _wanted(kind, name, amount, clients, others)))
        self.keep(amounts)
        return tuple(amounts)

    def keep(self, amounts: Iterable[tuple[str, int]]) -> None:
        """Keep amounts for a job that comes before the jobs that are asked about."""
        for name, amount in amounts:
            self._kept[name] = self._kept.get(name, 0) + amount

    def keep_nothing(self) -> None:
        """Forget all that was kept."""
        self._kept.clear()

    def best_supplied(self, requirement: Requirement, clients: Iterable[ClientView]) -> list[ClientView]:
        """Return the clients, fewest additional units first; equal clients keep their order."""
        known = [(name, amount, self._resources.get(name)) for name, amount in requirement.resources]

        def missing(client: ClientView) -> int:
            return sum(_wanted(kind, name, amount, (client,), 0) for name, amount, kind in known if kind is not None)

        return sorted(clients, key=missing)

    def lacking(self, requirement: Requirement, clients: Sequence[ClientView]) -> str:
        """Return the first resource of which too little is left for a job on these clients, else ""."""
        for name, amount in requirement.resources:
            kind = self._resources.get(name)
            if kind is None:
                return name
            if kind.maximum is None:
                continue
            wanted = _wanted(kind, name, amount, clients, 0)
            taken = self.used[name] + (self._kept.get(name, 0) if wanted else 0)
            if taken + wanted > kind.maximum:  # also where the maximum was lowered below what is in use: it drains
                return name
        return ""

    def impossible(self, requirement: Requirement) -> str:
        """Return the first resource of which there is too little even when nothing is in use, else ""."""
        for name, amount in requirement.resources:
            kind = self._resources.get(name)
            if kind is None:
                return name
            if kind.maximum is not None and _wanted(kind, name, amount, (), requirement.min_hosts) > kind.maximum:
                return name
        return ""

    def said(self, name: str, requirement: Requirement) -> str:
        """Return why a resource lacks, as people say it."""
        kind = self._resources.get(name)
        if kind is None:
            return f"nobody has created the resource {name}"
        amount = dict(requirement.resources)[name]
        # Those that come before may together want more than there is.
        kept = min(self._kept.get(name, 0), kind.maximum or 0)
        more = f", {kept} kept for jobs that come before" if kept else ""
        each = f" on each of {requirement.min_hosts} clients" if kind.per_machine and requirement.min_hosts > 1 else ""
        return f"{name}: {self.used[name]} of {kind.maximum} in use{more}, {amount} wanted{each}"


def _wanted(kind: Resource, name: str, amount: int, clients: Sequence[ClientView], others: int) -> int:
    """Return how many more units a job takes: once, or per machine for each client that holds fewer and each other."""
    if not kind.per_machine:
        return amount
    return others * amount + sum(max(0, amount - client.units.get(name, 0)) for client in clients)
