"""Why a job waits: reasons counted over the clients, and a sentence that an artist can read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from hqueue.matching.clients import Standing
from hqueue.matching.why import ORDER, obstacle, would_do

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hqueue.matching.clients import ClientView
    from hqueue.matching.facts import FarmNames
    from hqueue.matching.requirement import Requirement
    from hqueue.matching.resources import Units

_EXAMPLES: Final = 3
# Of clients that pass all that they would have to be, these say what keeps them from the job at the moment.
_SHORT: Final = {"resting": "resting after a refusal or failures", "on hold": "on hold for another job", "CPUs": "busy"}
_AT_WORK: Final = frozenset({"resting", "on hold", "tags", "CPUs", "resources"})


@dataclass(slots=True)
class Counted:
    """How many clients a reason holds for."""

    reason: str
    check: str  # one of why.ORDER
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why no client takes a job; the counts and `free` add up to `total`."""

    total: int
    free: int
    reasons: tuple[Counted, ...]
    summary: str
    lacks_resource: bool  # a counted resource is what lacks: a client would take the job if there were more of it

    def as_dict(self) -> dict[str, Any]:
        """Return the clients' part of it, as callers know it."""
        reasons = [{"reason": each.reason, "count": each.count, "examples": each.examples} for each in self.reasons]
        return {"total": self.total, "free": self.free, "reasons": reasons}


def explain(wanted: Requirement, clients: Iterable[ClientView], units: Units, names: FarmNames) -> Explanation:
    """Count the reasons why clients do not take jobs with a requirement, the first that holds for each."""
    clients = list(clients)
    could = would_do(wanted, (client.facts for client in clients)).difference(wanted.refused)
    wanted = replace(wanted, blocked=wanted.without_limbo(could))
    found: dict[tuple[int, str], Counted] = {}
    total = short = 0
    free: list[ClientView] = []
    for client in clients:
        total += 1
        why = obstacle(wanted, client, units)
        if why is None:
            free.append(client)
            continue
        short += ORDER[why.place] == "resources"
        key = (why.place, why.reason)
        counted = found.get(key)
        if counted is None:
            counted = found[key] = Counted(why.reason, ORDER[why.place])
        counted.count += 1
        if len(counted.examples) < _EXAMPLES:
            counted.examples.append(client.facts.label)
    reasons = tuple(found[key] for key in sorted(found))
    never = units.impossible(wanted)  # whatever the clients do
    if not never and len(free) >= wanted.min_hosts:  # each alone has enough of everything, but all together?
        never = units.lacking(wanted, units.best_supplied(wanted, free)[: wanted.min_hosts])
    lacks = bool(never) or len(free) < wanted.min_hosts <= len(free) + short
    if never:
        said = units.said(never, wanted)
    else:
        said = "; ".join(each.reason.removeprefix("resources: ") for each in reasons if each.check == "resources")
    summary = f"waits for a resource: {said}" if lacks else _summary(wanted, total, len(free), reasons, names)
    return Explanation(total, len(free), reasons, summary, lacks)


def _summary(wanted: Requirement, total: int, free: int, reasons: Sequence[Counted], names: FarmNames) -> str:
    if free >= wanted.min_hosts:
        return f"waits for its turn: {_clients(free)} {_has(free)} room"
    kind = f"{wanted.min_hosts} clients at once" if wanted.min_hosts > 1 else "a client"
    parts = [*_able(wanted, free, reasons), *_unable(reasons)]
    if not total:
        parts = ["the farm has none"]
    elif not any(each.check in _AT_WORK for each in reasons) and not free:
        parts = [*_nobody(wanted, reasons, names), *_unable(reasons)]
    return f"waits for {kind}: {'; '.join(parts)}"


def _able(wanted: Requirement, free: int, reasons: Sequence[Counted]) -> list[str]:
    """Return what is said of the clients that would do: `12 in group sim, all busy`."""
    doing: dict[str, int] = {"free": free} if free else {}
    for each in reasons:
        if each.check in _AT_WORK:
            words = _SHORT.get(each.check) or each.reason.split(": ", 1)[-1]
            if each.check == "resources":
                words = f"short of {words}"
            doing[words] = doing.get(words, 0) + each.count
    count = sum(doing.values())
    if not count:
        return []
    described = _described(wanted)
    who = f"{count} {described}" if described else _clients(count)
    if count < wanted.min_hosts:
        who = f"no more than {who}"
    if len(doing) == 1:
        return [f"{who}, {'all ' if count > 1 else ''}{next(iter(doing))}"]
    return [f"{who}: {', '.join(f'{number} {words}' for words, number in doing.items())}"]


def _unable(reasons: Sequence[Counted]) -> list[str]:
    """Return what is said of clients that take nothing at the moment, or not this job: `3 disabled`."""
    plain = {standing.value for standing in Standing} - {Standing.CLOSED.value, Standing.RESTING.value}
    said = []
    for each in reasons:
        if each.reason in plain:
            said.append(f"{each.count} {each.reason}")
        elif each.reason == Standing.CLOSED:
            said.append(f"{each.count} outside {'its' if each.count == 1 else 'their'} hours")
        elif each.check == "blocked":
            said.append(f"{each.count} blocked after failures")
        elif each.check == "refused":
            said.append(f"{each.count} refused this job")
        elif each.check == "too few CPUs":
            said.append(f"{each.count} with {each.reason}")
    return said


def _nobody(wanted: Requirement, reasons: Sequence[Counted], names: FarmNames) -> list[str]:
    """Return what is said where no client would do for what it is: the condition that nobody meets, unknown names."""
    asked = [condition for condition in wanted.conditions if not condition.negated]
    unknown = [text for condition in asked if (text := condition.unknown(names))]
    if unknown:
        return unknown
    unmet = [each for each in reasons if each.check in {"platform", "conditions"}]
    if not unmet:
        return []
    return [
        each.reason.removeprefix("platform: ") if each.check == "platform" else f"{each.count} {each.reason}"
        for each in unmet
    ]


def _described(wanted: Requirement) -> str:
    words = [f"on {' or '.join(wanted.platforms)}"] if wanted.platforms else []
    words += [condition.said() for condition in wanted.conditions if not condition.everybody]
    return " and ".join(words)


def _clients(count: int) -> str:
    return f"{count} client{'' if count == 1 else 's'}"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"
