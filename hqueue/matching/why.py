"""Why a job does not go on a client: checks in order, and the first that fails is the reason.

A plan asks the same checks in two parts: what stays the same from tick to tick is asked once and kept (`FitTable`),
what changes while jobs are placed is asked each time (`lacks_room`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hqueue.matching.clients import ClientFacts, ClientView, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hqueue.matching.requirement import Requirement
    from hqueue.matching.units import Units


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a job from a client."""

    reason: str  # for people, the same for clients that lack the same
    place: int  # of its check in the order; the last ones are passed by clients that are only busy


# --- what a client is: asked once per requirement ------------------------------------------------------------------


def _platform(wanted: Requirement, client: ClientFacts) -> str:
    if not wanted.platforms or client.os in wanted.platforms:
        return ""
    return f"platform: the command is given for {' and '.join(wanted.platforms)} only"


def _conditions(wanted: Requirement, client: ClientFacts) -> str:
    for condition in wanted.conditions:
        if not condition.holds(client):
            return condition.said(fails=True)
    return ""


def _blocked(wanted: Requirement, client: ClientFacts) -> str:
    return "blocked: too many jobs of this tree failed there" if client.id in wanted.blocked else ""


def _too_small(wanted: Requirement, client: ClientFacts) -> str:
    return f"too few CPUs: {wanted.cpus} wanted" if wanted.cpus > client.cpus else ""


# --- what is in use: asked for each job ----------------------------------------------------------------------------


def _held(_wanted: Requirement, client: ClientView, _units: Units) -> str:
    return "on hold for a job that comes before" if client.held else ""


def _tags(wanted: Requirement, client: ClientView, _units: Units) -> str:
    if client.lonely:
        return "tags: a job runs there that wants it alone"
    if wanted.alone:
        return "tags: wanted alone, and jobs run there" if client.jobs else ""
    if wanted.singles and not client.singles.isdisjoint(wanted.singles):
        return f"tags: a job tagged {', '.join(sorted(client.singles & set(wanted.singles)))} runs there"
    return ""


def _cpus(wanted: Requirement, client: ClientView, _units: Units) -> str:
    return "busy" if wanted.cpus > client.free_cpus else ""


def _resources(wanted: Requirement, client: ClientView, units: Units) -> str:
    lacking = units.lacking(wanted, (client,)) if wanted.resources else ""
    return f"resources: {units.said(lacking, wanted)}" if lacking else ""


_Static = tuple[str, "Callable[[Requirement, ClientFacts], str]"]
_Moving = tuple[str, "Callable[[Requirement, ClientView, Units], str]"]
_WHAT_IT_IS: Final[tuple[_Static, ...]] = (
    ("platform", _platform),
    ("conditions", _conditions),
    ("blocked", _blocked),
    ("too few CPUs", _too_small),
)
_WHAT_IS_IN_USE: Final[tuple[_Moving, ...]] = (
    ("on hold", _held),
    ("tags", _tags),
    ("CPUs", _cpus),
    ("resources", _resources),
)
_REFUSED: Final = "refused: it refused a job a moment ago"
# The order in which reasons count (SPEC 6.8); refusals stand between two checks of what a client is.
ORDER: Final = (
    *(standing.name.lower() for standing in Standing if standing),
    "platform",
    "conditions",
    "blocked",
    "refused",
    "too few CPUs",
    *(name for name, _ in _WHAT_IS_IN_USE),
)


def obstacle(wanted: Requirement, client: ClientView, units: Units) -> Obstacle | None:
    """Return the first reason why a job does not go on a client, None when it could go there now."""
    if client.standing:
        return Obstacle(client.standing.value, ORDER.index(client.standing.name.lower()))
    facts = client.facts
    for name, check in _WHAT_IT_IS:
        if name == "too few CPUs" and client.refused:
            return Obstacle(_REFUSED, ORDER.index("refused"))
        reason = check(wanted, facts)
        if reason:
            return Obstacle(reason, ORDER.index(name))
    for name, moving in _WHAT_IS_IN_USE:
        reason = moving(wanted, client, units)
        if reason:
            return Obstacle(reason, ORDER.index(name))
    return None


def lacks_room(wanted: Requirement, client: ClientView, units: Units) -> bool:
    """Tell whether a client that would do has no room at this moment."""
    return any(check(wanted, client, units) for _, check in _WHAT_IS_IN_USE)


class FitTable:
    """Which clients would do for a requirement, were they idle; kept while the clients stay the same."""

    _MOST = 20_000

    def __init__(self) -> None:
        self._clients: list[ClientFacts] = []
        self._fitting: dict[int, frozenset[int]] = {}

    def renew(self, clients: Sequence[ClientFacts]) -> None:
        """Say which clients there are now."""
        if self._clients != clients or len(self._fitting) > self._MOST:
            self._clients = list(clients)
            self._fitting.clear()

    def fitting(self, key: int, wanted: Requirement) -> frozenset[int]:
        """Return the ids of the clients that would do for a requirement, stored under its key."""
        found = self._fitting.get(key)
        if found is None:
            found = self._fitting[key] = frozenset(
                client.id for client in self._clients if not any(check(wanted, client) for _, check in _WHAT_IT_IS)
            )
        return found
