"""A client as a plan sees it: whether it takes work, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from hqueue.matching.requirement import SINGLE

if TYPE_CHECKING:
    from hqueue.matching.facts import ClientFacts
    from hqueue.matching.requirement import Requirement


class Standing(StrEnum):
    """Why a client takes no job at all, whatever the job; the first that holds counts."""

    LOST = "lost"
    TERMINATING = "terminating"
    CONDEMNED = "condemned"
    DISABLED = "disabled"
    CLOSED = "no availability rule matches"
    RESTING = "resting: it refused or failed what it was given a moment ago"
    TAKES_WORK = ""


@dataclass(slots=True)
class ClientView:
    """A client with what is in use on it; that grows while a plan places jobs."""

    facts: ClientFacts
    standing: Standing = Standing.TAKES_WORK
    free_cpus: int = 0
    jobs: int = 0
    singles: set[str] = field(default_factory=set)  # tags of the jobs on it
    units: dict[str, int] = field(default_factory=dict)  # per-machine resources: the largest amount of its jobs
    held: bool = False  # for a job that comes before whatever is asked about
    fresh: bool = False  # this plan has placed a job on it

    def __post_init__(self) -> None:
        self.free_cpus = self.facts.cpus

    @property
    def id(self) -> int:
        """Return the client's id."""
        return self.facts.id

    def occupy(self, requirement: Requirement, times: int = 1) -> None:
        """Note that jobs run here; the units of resources are counted apart, in `Units`."""
        self.free_cpus -= requirement.cpus * times
        self.jobs += times
        if requirement.singles:
            self.singles.update(requirement.singles)

    @property
    def lonely(self) -> bool:
        """Whether a job runs here that wants its client to itself."""
        return SINGLE in self.singles
