"""Conditions on the clients of a job, in the one form that is stored and matched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hqueue.jobspec.values import SEPARATOR, UnfitError, read_text, several, shown, step, texts
from hqueue.matching.conditions import KINDS, OPS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def read_conditions(value: Any) -> tuple[dict[str, str], ...] | None:
    """Return conditions, each once, with the members `type`, `name`, `op` and `value`, all text; None for none.

    Shapes: other members are dropped, for scripts pass on what getJob answered. `op` "any" becomes "in", a list as
    value becomes its elements with commas between, `macos` becomes `macosx`.
    """
    conditions: list[dict[str, str]] = []
    for position, item in enumerate(several(value)):
        inside = step(value, position)
        if not isinstance(item, dict):
            raise UnfitError("a condition (a dict with type, name, op and value)", shown(item), inside)
        try:
            condition = _condition(item)
        except UnfitError as error:
            raise UnfitError(error.expected, error.found, inside + error.inside) from None
        if condition not in conditions:
            conditions.append(condition)
    return tuple(conditions) or None


def _condition(item: dict[Any, Any]) -> dict[str, str]:
    """Return one condition in its canonical form."""
    kind = item.get("type", "client")
    if kind != "client":
        raise UnfitError("'client'", shown(kind), ".type")
    name = _one_of(item, "name", KINDS)
    op = _one_of(item, "op", OPS)
    if item.get("value") is None:
        raise UnfitError("text or a list of it", "nothing", ".value")
    try:
        text = _names(item["value"])
    except UnfitError as error:
        raise UnfitError(error.expected, error.found, f".value{error.inside}") from None
    return {
        "type": "client",
        "name": name,
        "op": "in" if op == "any" else op,
        "value": KINDS[name].written(text),
    }


def _one_of(item: dict[Any, Any], member: str, allowed: Collection[str]) -> str:
    """Return a member of a condition that has to be one of a few words."""
    found = item.get(member)
    if not isinstance(found, str) or found.strip() not in allowed:
        raise UnfitError(f"one of {', '.join(allowed)}", "nothing" if found is None else shown(found), f".{member}")
    return found.strip()


def read_hosts(value: Any, name: str) -> tuple[dict[str, str], ...]:
    """Return the condition that `host` (name "hostname") or `hostgroup` (name "group") is short for; () for any.

    Shapes: hosts of which one names a client on its machine (`farm07:gpu`) become a condition on `hostname:name`.
    """
    if name == "hostname":
        text = _joined(part for text in texts(value) for part in SEPARATOR.split(text))
        name = "hostname:name" if ":" in text else name
    else:
        # The name of a group may hold a comma, so that a text stays whole here: matching tries the whole of it first.
        text = _names(value)
    if not text.strip(",; "):
        return ()
    op = "in" if SEPARATOR.search(text) else "=="
    return ({"type": "client", "name": name, "op": op, "value": text},)


def _names(value: Any) -> str:
    """Return as one text what may be a text or a list of names."""
    return _joined(texts(value)) if isinstance(value, list | tuple) else read_text(value).strip()


def _joined(given: Iterable[str]) -> str:
    """Return names as one text that falls into the same names again: the whole of it, or its parts."""
    names = list(dict.fromkeys(text.strip() for text in given if text.strip()))
    if len(names) > 1:
        for name in names:
            if SEPARATOR.search(name):
                raise UnfitError("names without ',' and ';' where there are several", shown(name))
    return ",".join(names)
