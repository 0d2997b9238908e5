"""When a client is to be used: at any time, in hours of the week, while nobody sits at it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

ANYTIME, TIME, IDLE = "anytime", "time", "idle"
TYPES: Final = (ANYTIME, TIME, IDLE)
_EVERY_DAY: Final = frozenset(range(7))
_CLOCK: Final = re.compile(r"\s*([01]?[0-9]|2[0-3]):([0-5][0-9])\s*\Z")
_LONGEST_IDLE: Final = 10_000_000


class RuleError(ValueError):
    """What was given is no rule; the text says where, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One availability rule."""

    type: str
    days: frozenset[int] = _EVERY_DAY  # 0 = Monday; the day on which a window begins
    start: time = time()
    end: time = time()  # at or before `start`: on the next day
    minutes: int = 0  # since somebody last touched the machine
    enabled: bool = True

    def matches(self, local: datetime, idle_minutes: int) -> bool:
        """Tell whether a client with it is to be used now.

        Units: `local` is the wall clock at the server; idle_minutes is -1 where nobody knows.
        """
        if self.type == TIME:
            return self._in_window(local)
        return self.type == ANYTIME or 0 <= self.minutes <= idle_minutes

    def _in_window(self, local: datetime) -> bool:
        now, today = local.time(), local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= now < self.end
        return (today in self.days and now >= self.start) or ((today - 1) % 7 in self.days and now < self.end)


def open_now(rules: Iterable[Rule], local: datetime, idle_minutes: int) -> bool:
    """Tell whether one of the rules matches; disabled ones do not count, and without any a client is always used."""
    enabled = [rule for rule in rules if rule.enabled]
    return not enabled or any(rule.matches(local, idle_minutes) for rule in enabled)


def read_rules(value: Any, name: str = "rules") -> tuple[Rule, ...]:
    """Return the rules that a caller gives, or that the store holds.

    Errors: RuleError.
    """
    if not isinstance(value, (list, tuple)):
        raise RuleError(f"{name} is {value!r:.60}, but a list of rules was expected")
    return tuple(_read_rule(each, f"{name}[{place}]") for place, each in enumerate(value))


def rules_as_dicts(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Return rules as callers know them."""
    shown: list[dict[str, Any]] = []
    for rule in rules:
        each: dict[str, Any] = {"type": rule.type, "enabled": rule.enabled}
        if rule.type == TIME:
            each |= {"days": sorted(rule.days), "start": f"{rule.start:%H:%M}", "end": f"{rule.end:%H:%M}"}
        elif rule.type == IDLE:
            each["minutes"] = rule.minutes
        shown.append(each)
    return shown


def _read_rule(value: Any, path: str) -> Rule:
    if not isinstance(value, dict):
        raise _unfit(path, value, "a rule (a dict with a type)")
    kind = value.get("type")
    if kind not in TYPES:
        raise _unfit(f"{path}.type", kind, f"one of {', '.join(TYPES)}")
    enabled = value.get("enabled", True)
    if not isinstance(enabled, int) or enabled not in {0, 1}:
        raise _unfit(f"{path}.enabled", enabled, "True or False")
    if kind == TIME:
        start, end = (_read_time(value.get(member), f"{path}.{member}") for member in ("start", "end"))
        return Rule(kind, _read_days(value.get("days"), f"{path}.days"), start, end, enabled=bool(enabled))
    if kind == IDLE:
        minutes = value.get("minutes")
        if isinstance(minutes, bool) or not isinstance(minutes, int) or not 0 <= minutes <= _LONGEST_IDLE:
            raise _unfit(f"{path}.minutes", minutes, "a whole number of minutes, 0 or more")
        return Rule(kind, minutes=minutes, enabled=bool(enabled))
    return Rule(kind, enabled=bool(enabled))


def _read_days(value: Any, path: str) -> frozenset[int]:
    if value is None:
        return _EVERY_DAY
    if not isinstance(value, (list, tuple)) or not value:
        raise _unfit(path, value, "a list of days, 0 for Monday to 6 for Sunday")
    for place, day in enumerate(value):
        if isinstance(day, bool) or not isinstance(day, int) or day not in _EVERY_DAY:
            raise _unfit(f"{path}[{place}]", day, "a day, 0 for Monday to 6 for Sunday")
    return frozenset(value)


def _read_time(value: Any, path: str) -> time:
    found = _CLOCK.match(value) if isinstance(value, str) else None
    if found is None:
        raise _unfit(path, value, "a time from 00:00 to 23:59")
    return time(int(found[1]), int(found[2]))


def _unfit(path: str, value: Any, expected: str) -> RuleError:
    found = "missing" if value is None else f"{value!r:.60}"
    return RuleError(f"{path} is {found}, but {expected} was expected")
