"""Why a job does not go on a client: checks in order, and the first that fails is the reason.

A plan asks the same checks in two parts. The answers that stay the same from tick to tick are kept (`FitTable`); the
answers that change while jobs are placed are asked for each time (`lacks_room`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from hqueue.matching.clients import ClientView, Standing
from hqueue.matching.facts import ClientFacts
from hqueue.matching.resources import Units

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from hqueue.matching.requirement import Requirement

_Seen = TypeVar("_Seen", ClientFacts, ClientView)
_NO_UNITS: Final = Units({})


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a job from a client."""

    reason: str  # for people, the same for clients that lack the same
    place: int  # of its check in the order; a client that is only busy passes all but the last checks


@dataclass(frozen=True, slots=True)
class Check(Generic[_Seen]):
    """One reason why a job does not go on a client: whether the reason holds, and its words.

    A plan asks only whether a reason holds; the words are made for `explainJob`.
    """

    name: str
    holds: Callable[[Requirement, _Seen, Units], bool]
    says: Callable[[Requirement, _Seen, Units], str]


def _unmet(wanted: Requirement, client: ClientFacts, _units: Units) -> bool:
    for condition in wanted.conditions:  # noqa: SIM110 - any() with a generator takes three times as long
        if not condition.holds(client):
            return True
    return False


def _tags(wanted: Requirement, client: ClientView, _units: Units) -> bool:
    if not client.singles and not wanted.singles:
        return False
    return client.lonely or (wanted.alone and client.jobs > 0) or not client.singles.isdisjoint(wanted.singles)


def _say_tags(wanted: Requirement, client: ClientView, _units: Units) -> str:
    if client.lonely:
        return "tags: taken by a job that wants it alone"
    if wanted.alone:
        return "tags: not empty, and this job wants it alone"
    return f"tags: running a job tagged {', '.join(sorted(client.singles & set(wanted.singles)))}"


def _lacking(wanted: Requirement, client: ClientView, units: Units) -> bool:
    return bool(wanted.resources and units.lacking(wanted, (client,)))


# What a client is: asked once for requirements with the same `Requirement.of_a_client`.
_WHAT_IT_IS: Final[tuple[Check[ClientFacts], ...]] = (
    Check(
        "platform",
        lambda wanted, client, _: bool(wanted.platforms) and client.os not in wanted.platforms,
        lambda wanted, *_: f"platform: the command is given for {' and '.join(wanted.platforms)} only",
    ),
    Check(
        "conditions",
        _unmet,
        lambda wanted, client, _: next(each for each in wanted.conditions if not each.holds(client)).said(fails=True),
    ),
    Check(
        "too few CPUs",
        lambda wanted, client, _: wanted.cpus > client.cpus,
        lambda wanted, *_: f"too few CPUs: {wanted.cpus} wanted",
    ),
)
# What is in use: asked for each job.
_WHAT_IS_IN_USE: Final[tuple[Check[ClientView], ...]] = (
    Check("on hold", lambda _wanted, client, _: client.held, lambda *_: "on hold for a job that comes before"),
    Check("tags", _tags, _say_tags),
    Check("CPUs", lambda wanted, client, _: wanted.cpus > client.free_cpus, lambda *_: "busy"),
    Check(
        "resources",
        _lacking,
        lambda wanted, client, units: f"resources: {units.said(units.lacking(wanted, (client,)), wanted)}",
    ),
)
_REFUSED: Final = "refused: it cannot run this job, and said so"
_BLOCKED: Final = "blocked: too many jobs of this tree failed there"
# The order in which reasons count (SPEC 6.8): what can never be, then what cannot be now.
ORDER: Final = (
    *(check.name for check in _WHAT_IT_IS),
    "refused",
    *(standing.name.lower() for standing in Standing if standing),
    "blocked",
    *(check.name for check in _WHAT_IS_IN_USE),
)


def obstacle(wanted: Requirement, client: ClientView, units: Units) -> Obstacle | None:
    """Return the first reason why a job does not go on a client, None when it could go there now.

    Every block counts: `explain` leaves those out that do not.
    """
    for check in _WHAT_IT_IS:
        if check.holds(wanted, client.facts, units):
            return Obstacle(check.says(wanted, client.facts, units), ORDER.index(check.name))
    if client.id in wanted.refused:
        return Obstacle(_REFUSED, ORDER.index("refused"))
    if client.standing:
        return Obstacle(client.standing.value, ORDER.index(client.standing.name.lower()))
    if client.id in wanted.blocked:
        return Obstacle(_BLOCKED, ORDER.index("blocked"))
    for moving in _WHAT_IS_IN_USE:
        if moving.holds(wanted, client, units):
            return Obstacle(moving.says(wanted, client, units), ORDER.index(moving.name))
    return None


def lacks_room(wanted: Requirement, client: ClientView, units: Units) -> bool:
    """Tell whether a client that would do has no room at this moment."""
    for check in _WHAT_IS_IN_USE:  # noqa: SIM110 - any() with a generator takes three times as long
        if check.holds(wanted, client, units):
            return True
    return False


class FitTable:
    """Which clients would do for a requirement, were they idle; kept from tick to tick, mended where one changes.

    Requirements that ask the same of what a client is share one set: thousands may differ in a tag alone.
    """

    _MOST = 20_000

    def __init__(self) -> None:
        self._clients: dict[int, ClientFacts] = {}
        self._sets: dict[tuple[object, ...], tuple[Requirement, set[int]]] = {}  # by what is asked
        self._by_key: dict[int, set[int]] = {}

    def renew(self, clients: Sequence[ClientFacts]) -> None:
        """Say which clients there are now."""
        known, self._clients = self._clients, {client.id: client for client in clients}
        changed = [client for client in clients if known.get(client.id) is not client]
        gone = [key for key in known if key not in self._clients]
        if len(changed) + len(gone) > len(clients) // 4:
            self._sets.clear()
            self._by_key.clear()
        elif changed or gone:
            for wanted, fitting in self._sets.values():
                fitting.difference_update(gone, (client.id for client in changed))
                fitting.update(would_do(wanted, changed))

    def keep(self, keys: Collection[int]) -> None:
        """Forget requirements that are not among the keys, where too many are kept."""
        if len(self._by_key) > max(self._MOST, 2 * len(keys)):
            self._by_key = {key: self._by_key[key] for key in keys if key in self._by_key}
            used = {id(fitting) for fitting in self._by_key.values()}
            self._sets = {asked: each for asked, each in self._sets.items() if id(each[1]) in used}

    def fitting(self, key: int, wanted: Requirement) -> set[int]:
        """Return the ids of the clients that would do for a requirement, stored under its key."""
        could = self._by_key.get(key)
        if could is None:
            shared = self._sets.get(wanted.of_a_client)
            if shared is None:
                shared = self._sets[wanted.of_a_client] = (wanted, would_do(wanted, self._clients.values()))
            could = self._by_key[key] = shared[1]
        if wanted.refused:
            could = could.difference(wanted.refused)
        return could.difference(wanted.without_limbo(could)) if wanted.blocked else could


def would_do(wanted: Requirement, clients: Iterable[ClientFacts]) -> set[int]:
    """Return the ids of those of some clients that are what a job needs, whatever went wrong on them."""
    checks = [check.holds for check in _WHAT_IT_IS]
    found: set[int] = set()
    for client in clients:
        for holds in checks:
            if holds(wanted, client, _NO_UNITS):
                break
        else:
            found.add(client.id)
    return found
