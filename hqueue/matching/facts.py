"""What clients are, from tick to tick the same: their facts, and how their names and platforms compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hqueue.config import client_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What of a client stays the same from tick to tick."""

    id: int
    hostname: str
    name: str
    os: str
    groups: frozenset[str]
    cpus: int
    speed: float = 0.0  # MHz

    @property
    def label(self) -> str:
        """Return what people call it."""
        return client_label(self.hostname, self.name)


@dataclass(frozen=True, slots=True)
class FarmNames:
    """The groups and clients that a farm has at the moment. A condition may name others: they are not there yet."""

    groups: frozenset[str]
    clients: Sequence[ClientFacts]


def os_of(platform: str) -> str:
    """Return `linux`, `windows` or `macosx` for a platform as clients name it (`linux-x86_64`, `macos-arm64`)."""
    system = platform.split("-", 1)[0].lower()
    return "macosx" if system == "macos" else system


def same_host(one: str, other: str) -> bool:
    """Tell whether two hostnames mean one machine: case and a domain that only one of them has do not matter."""
    return Hosts([one]).has(other)


class Hosts:
    """Hostnames, to be compared with many others."""

    def __init__(self, names: Iterable[str]) -> None:
        self._full = {name.lower() for name in names} - {""}
        self._short = {name for name in self._full if "." not in name}
        self._heads = {name.split(".", 1)[0] for name in self._full - self._short}

    def has(self, hostname: str) -> bool:
        """Tell whether one of them means this machine."""
        hostname = hostname.lower()
        if hostname in self._full:
            return True
        head, dot, _ = hostname.partition(".")
        return head in self._short if dot else head in self._heads
