"""What a job may ask of its clients.

A new kind of condition is one entry of `KINDS`: how a client meets it and how people say it. Submission accepts its
name, matching obeys it, and `why` gives it as a reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hqueue.matching.facts import Hosts, os_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from hqueue.matching.facts import ClientFacts, FarmNames

    _Test = Callable[[ClientFacts], bool]

_PARTS: Final = re.compile(r"[,;]")
_MACOS: Final = re.compile(r"\bmacos\b")
_NEGATED: Final = frozenset({"!=", "not_in"})
_MOST_SHOWN: Final = 3  # values, where a condition is said
OPS: Final = ("==", "!=", "in", "not_in", "any")  # "any" is "in"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of condition."""

    test: Callable[[Sequence[str]], _Test]  # of the values: whether a client is what one of them says
    says: str  # "in group {}": of a client that meets it; {} are the values
    absent: str  # "there is no group {}": of values that name nothing
    known: Callable[[FarmNames, _Test, Sequence[str]], bool]  # whether one of the values names anything in the farm
    written: Callable[[str], str] = str  # a value as it is stored


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on the client of a job."""

    name: str  # one of KINDS
    op: str  # ==, !=, in, not_in, any
    value: str
    negated: bool = field(init=False, repr=False, compare=False)  # it asks for clients that are not what the values say
    _test: _Test = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "negated", self.op in _NEGATED)
        object.__setattr__(self, "_test", KINDS[self.name].test(_values(self.value)))

    def holds(self, client: ClientFacts) -> bool:
        """Tell whether a client meets it."""
        return self._test(client) != self.negated

    def said(self, *, fails: bool = False) -> str:
        """Return it as people say it of clients that meet it (`in group sim`), or that do not (`not in group sim`)."""
        text = KINDS[self.name].says.format(_shown(_values(self.value)))
        return f"not {text}" if self.negated != fails else text

    @property
    def everybody(self) -> bool:
        """Whether every client meets it, as `hostname != ""` does."""
        return self.negated and not any(_values(self.value))

    def unknown(self, names: FarmNames) -> str:
        """Return in a few words that the values name nothing in the farm, "" where one of them names something."""
        values = _values(self.value)
        kind = KINDS[self.name]
        return "" if kind.known(names, self._test, values) else kind.absent.format(_shown(values))


def _values(text: str) -> tuple[str, ...]:
    """Return what a value may stand for: the whole of it, then its parts."""
    # The whole value comes first: a group may well be called "sim, fast".
    return tuple(dict.fromkeys((text.strip(), *(part.strip() for part in _PARTS.split(text)))))


def _shown(values: Sequence[str]) -> str:
    whole, *parts = values
    named = [part for part in parts if part] or [whole or '""']
    more = len(named) - _MOST_SHOWN
    return " or ".join([*named[:_MOST_SHOWN], f"one of {more} others"] if more > 1 else named)


def _test_hostname(values: Sequence[str]) -> _Test:
    hosts = Hosts(values)
    return lambda client: hosts.has(client.hostname)


def _test_label(values: Sequence[str]) -> _Test:
    """`host` is any client there, `host:name` that one, `host:` the unnamed one."""
    bare = Hosts(value for value in values if ":" not in value)
    named: dict[str, list[str]] = {}
    for value in values:
        hostname, colon, name = value.partition(":")
        if colon:
            named.setdefault(name, []).append(hostname)
    hosts = {name: Hosts(hostnames) for name, hostnames in named.items()}
    return lambda client: (
        bare.has(client.hostname) or (client.name in hosts and hosts[client.name].has(client.hostname))
    )


def _test_group(values: Sequence[str]) -> _Test:
    wanted = frozenset(values)
    return lambda client: not wanted.isdisjoint(client.groups)


def _test_os(values: Sequence[str]) -> _Test:
    wanted = {os_of(value) for value in values}
    return lambda client: client.os in wanted


def _names_client(names: FarmNames, test: _Test, _values: Sequence[str]) -> bool:
    return any(test(client) for client in names.clients)


KINDS: Final[dict[str, Kind]] = {
    "hostname": Kind(_test_hostname, "on host {}", "there is no host {}", _names_client),
    "hostname:name": Kind(_test_label, "called {}", "there is no client {}", _names_client),
    "group": Kind(
        _test_group, "in group {}", "there is no group {}", lambda names, _, values: not names.groups.isdisjoint(values)
    ),
    "os": Kind(_test_os, "on {}", "", lambda *_: True, lambda text: _MACOS.sub("macosx", text.lower())),
}


def conditions_from(values: Iterable[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """Return conditions for what a specification or a method gives: dicts of name, op and value."""
    return tuple(Condition(value["name"], value["op"], value["value"]) for value in values)


def conditions_as_dicts(conditions: Iterable[Condition]) -> list[dict[str, str]]:
    """Return conditions as callers know them."""
    return [{"type": "client", "name": c.name, "op": c.op, "value": c.value} for c in conditions]
