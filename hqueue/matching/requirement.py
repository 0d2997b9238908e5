"""Everything that decides where a job may go, once per distinct value."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hqueue.matching.conditions import Condition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SINGLE: Final = "single"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What jobs that share it need of a client; ids of clients are those that failed them."""

    conditions: tuple[Condition, ...] = ()
    cpus: int = 1
    singles: tuple[str, ...] = ()  # the tags that start with "single"
    platforms: tuple[str, ...] = ()  # that the command is given for; none: any
    resources: tuple[tuple[str, int], ...] = ()
    min_hosts: int = 1
    max_hosts: int = 1
    blocked: tuple[int, ...] = ()  # too many failures of the root's jobs there; where they failed least comes first
    refused: tuple[int, ...] = ()  # this job was refused there, and not for want of anything of the machine
    last: tuple[int, ...] = ()  # this job failed, was refused or was lost there: only when nothing else has room

    @property
    def alone(self) -> bool:
        """Whether a job has its client to itself."""
        return SINGLE in self.singles

    @property
    def several(self) -> bool:
        """Whether a job may take several clients."""
        return self.max_hosts > 1

    @property
    def of_a_client(self) -> tuple[object, ...]:
        """Return what is asked of what a client is, rather than of what is in use on it."""
        return self.conditions, self.platforms, self.cpus

    def without_limbo(self, could: Collection[int]) -> tuple[int, ...]:
        """Return the clients whose block counts: none where no other is left of those that could run a job.

        could: the ids of the clients that would do, did blocks not count; those that refused it are not among them.
        """
        blocked = frozenset(self.blocked)
        left = sum(each not in blocked for each in could)
        return self.blocked if left >= self.min_hosts else ()

    def to_json(self) -> str:
        """Return it as text, the same for equal requirements."""
        data: dict[str, Any] = {
            "conditions": [[c.name, c.op, c.value] for c in self.conditions],
            "cpus": self.cpus,
            "singles": self.singles,
            "platforms": self.platforms,
            "resources": self.resources,
            "hosts": [self.min_hosts, self.max_hosts],
        }
        if self.blocked:
            data["blocked"] = self.blocked
        if self.refused:
            data["refused"] = self.refused
        if self.last:
            data["last"] = self.last
        return json.dumps(data, separators=(",", ":"))

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
            blocked=tuple(data.get("blocked", ())),
            refused=tuple(data.get("refused", ())),
            last=tuple(data.get("last", ())),
        )

    @staticmethod
    def digest(text: str) -> str:
        """Return a short key of the text."""
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def singles_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags that limit where a job runs, sorted."""
    return tuple(sorted({tag for tag in tags if tag.startswith(SINGLE)}))
