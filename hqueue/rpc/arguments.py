"""What callers give as arguments, made what the methods need; every complaint names the argument and the value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from hqueue.errors import InvalidArgumentError, UnknownAttributeError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_DIGITS: Final = re.compile(r"\s*[+-]?[0-9]{1,30}\s*\Z")
_BIGGEST: Final = 2**63 - 1


def shown(value: Any) -> str:
    """Return a value as a complaint shows it: short, whatever was sent."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def integer(value: Any, name: str) -> int:
    """Return a whole number, also from a text of digits.

    Errors: InvalidArgumentError.
    """
    if isinstance(value, int):  # booleans too: Python 2 callers send them where they mean 0 and 1
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _DIGITS.match(value):
        return int(value)
    raise InvalidArgumentError(f"{name} is {shown(value)}, but a whole number was expected")


def one_id(value: Any, name: str) -> int:
    """Return an id; one that no row can have becomes 0, which none has.

    Errors: InvalidArgumentError for what is not a number.
    """
    number = integer(value, name)
    return number if 0 < number <= _BIGGEST else 0


def optional_id(value: Any, name: str) -> int | None:
    """Return an id, None where None, "" or 0 was given."""
    if _is_none(value):
        return None
    number = integer(value, name)
    return number if 0 < number <= _BIGGEST else -1


def ids(value: Any, name: str) -> list[int]:
    """Return a list of ids; one id is taken for a list of it.

    Errors: InvalidArgumentError.
    """
    if isinstance(value, (list, tuple)):
        if all(type(each) is int for each in value):  # as nearly always, and there may be a hundred thousand
            return [each if 0 < each <= _BIGGEST else 0 for each in value]
        return [one_id(each, f"{name}[{place}]") for place, each in enumerate(value)]
    if value is None or isinstance(value, (dict, bytes)):
        raise InvalidArgumentError(f"{name} is {shown(value)}, but a list of ids was expected")
    return [one_id(value, name)]


def optional_ids(value: Any, name: str) -> list[int] | None:
    """Return a list of ids, None where None, "" or 0 was given."""
    return None if _is_none(value) else ids(value, name)


def _is_none(value: Any) -> bool:
    """Tell whether an id is given as callers do who cannot send nil."""
    return value is None or (isinstance(value, str | int | float) and value in {"", 0})


def flag(value: Any, name: str) -> bool:
    """Return a truth value; 0 and 1 are taken.

    Errors: InvalidArgumentError.
    """
    if isinstance(value, bool) or (isinstance(value, int) and value in {0, 1}):
        return bool(value)
    raise InvalidArgumentError(f"{name} is {shown(value)}, but True or False was expected")


def text(value: Any, name: str) -> str:
    """Return a text.

    Errors: InvalidArgumentError.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise InvalidArgumentError(f"{name} is {shown(value)}, but a text was expected")


def attributes(value: Any, default: Sequence[str], known: Collection[str], name: str = "attribs") -> list[str]:
    """Return the attributes wanted: the default set where none are named.

    Errors: UnknownAttributeError that lists the valid ones; InvalidArgumentError for what is no list of names.
    """
    if value is None or value in ([], (), ""):
        return list(default)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise InvalidArgumentError(f"{name} is {shown(value)}, but a list of attribute names was expected")
    for each in names:
        if not isinstance(each, str) or each not in known:
            valid = ", ".join(sorted(known, key=str.lower))
            raise UnknownAttributeError(f"{name}: there is no attribute {shown(each)}; valid ones are {valid}")
    return list(dict.fromkeys(names))
