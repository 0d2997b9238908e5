"""The text between the tags of one value to the value it means."""

from __future__ import annotations

import math
import re
from binascii import a2b_base64
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from hqueue.errors import MalformedRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

_INT64: Final = 2**63


def _read_int(text: str) -> int:
    number = int(text)
    if not -_INT64 <= number < _INT64:
        raise ValueError("an integer has at most 64 bits")
    return number


def _read_boolean(text: str) -> bool:
    return {"0": False, "1": True, "false": False, "true": True}[text.strip()]


def _read_double(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a double is a finite number")
    return number


_DATE: Final = re.compile(
    r"\s*(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)(?:[.,]\d*)?(?:Z|([+-]\d\d):?(\d\d)?)?\s*",
    re.ASCII,
)


def _read_date(text: str) -> datetime:
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError("a date is YYYYMMDDTHH:MM:SS")
    *fields, hours, minutes = found.groups()
    zone = UTC
    if hours:
        zone = timezone(timedelta(hours=int(hours), minutes=int(f"{hours[0]}{minutes or 0}")))
    return datetime(*map(int, fields), tzinfo=zone).astimezone(UTC)  # type: ignore[misc, arg-type]


def _read_string(text: str) -> str:
    return text


def _read_nil(_text: str) -> None:
    return None


READERS: Final[dict[str, Callable[[str], Any]]] = {
    "string": _read_string,
    "int": _read_int,
    "i4": _read_int,
    "i8": _read_int,
    "i1": _read_int,
    "i2": _read_int,
    "biginteger": _read_int,
    "boolean": _read_boolean,
    "double": _read_double,
    "float": _read_double,
    "dateTime.iso8601": _read_date,
    "base64": a2b_base64,
    "nil": _read_nil,
    # What Apache's library, and those after it, call them:
    "ex:nil": _read_nil,
    "ex:i1": _read_int,
    "ex:i2": _read_int,
    "ex:i8": _read_int,
}


def convert(tag: str, text: str) -> Any:
    """Return the value of an element.

    Errors: MalformedRequestError that quotes the text; KeyError for a tag that is not in `READERS`.
    """
    read = READERS[tag]
    try:
        return read(text)
    except (ValueError, KeyError, OverflowError) as error:
        shown = repr(text if len(text) <= 40 else f"{text[:40]}…")
        # int() and float() speak of Python; our own sentences say what is meant.
        why = f" ({error})" if str(error).startswith(("a ", "an ")) else ""
        raise MalformedRequestError(f"the document holds {shown} as <{tag}>, which it is not{why}") from None
