"""The values of a job specification's properties, coerced as scripts rely on.

Each `read_…` takes what the wire brought and returns what the store keeps, or raises UnfitError; only the caller knows
the path. Numbers may be digits in text, also with a label behind (`"5 (Medium)"`), or whole floats; one thing may
stand for a list of it; `""` stands for an empty list or dict. Booleans are no numbers.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from hqueue.wire import find_unencodable, scrub

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NUMBER: Final = 2**31 - 1  # what the store's columns hold, and every caller's <int>
MAX_ID: Final = 2**63 - 1
# One variable, as `NAME=value` with its closing zero, is at most 32 pages on Linux; macOS and Windows allow less.
MAX_VARIABLE_BYTES: Final = 128 * 1024
MAX_SHELL_LENGTH: Final = 4096  # as long as a path
MAX_SUBMISSION_ID_LENGTH: Final = 200
EMAIL_REASONS: Final = (
    "abandoned",
    "cancelled",
    "ejected",
    "ejecting",
    "failed",
    "paused",
    "pausing",
    "priority changed",
    "queued",
    "rescheduled",
    "resumed",
    "resuming",
    "runnable",
    "running",
    "succeeded",
    "waiting",
)

_PLATFORMS: Final = {"linux": "linux", "windows": "windows", "macosx": "macosx", "macos": "macosx"}
_NUMBER: Final = re.compile(r"([+-]?[0-9]{1,30})(?:\.0*)?(?:\s*\(.*\))?", re.ASCII | re.DOTALL)
SEPARATOR: Final = re.compile(r"[,;]")
_LINE_END: Final = re.compile(r"\r\n?")
# Options that take a command text, as docker, cron and make have them; the command is run from a file here.
_TEXT_OPTION: Final = re.compile(r"(?<=\S)\s+(?:-(?P<others>[A-Za-z]*)c|/[cC])$")


class UnfitError(ValueError):
    """A value cannot be coerced: what was expected, what was found, and where inside the property."""

    def __init__(self, expected: str, found: str, inside: str = "") -> None:
        super().__init__(f"expected {expected}, got {found}")
        self.expected = expected
        self.found = found
        self.inside = inside


def shown(value: Any) -> str:
    """Return a value as it may stand in a message: short, and nothing in it that XML cannot carry."""
    if isinstance(value, str):
        text = str.__str__(value)
        return repr(text if len(text) <= 60 else text[:60] + "…")
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(int(value)) if abs(value) <= 2 * MAX_ID else "a number of more than 64 bits"
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    return "a value of another kind"


_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (dict, "a dict"),
    ((list, tuple), "a list"),
    ((bytes, bytearray), "bytes"),
    (datetime, "a date"),
)


def read_text(value: Any) -> str:
    """Return text; numbers are written out, bytes are UTF-8."""
    text = value if type(value) is str else _as_text(value)
    # Everything that XML cannot carry is unprintable, and this test is five times as fast.
    if not text.isprintable():
        place = find_unencodable(text)
        if place is not None:
            found = f"the character U+{ord(text[place]):04X} at position {place}"
            raise UnfitError("text that XML can carry", found)
    return text


def _as_text(value: Any) -> str:
    """Return as text what came as something else."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UnfitError("text in UTF-8", f"bytes that are not (at position {error.start})") from None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID:
        return int.__repr__(value)
    if isinstance(value, float) and math.isfinite(value):
        return float.__repr__(value)
    raise UnfitError("text", shown(value))


def read_name(value: Any) -> str:
    """Return text that is not blank."""
    text = read_text(value)
    if not text.strip():
        raise UnfitError("a name that is not blank", shown(text))
    return text


def read_description(value: Any) -> str:
    """Return text in which the characters that XML cannot carry have been replaced."""
    return scrub(value if type(value) is str else _as_text(value))


def read_shell(value: Any) -> str:
    """Return the name or path of a program, also with options; those at its end that take a command text are dropped.

    Shapes: of other letters in the same option (`-exc`) the rest stays, but for the l of `-lc`.
    """
    text = read_text(value).strip()
    if match := _TEXT_OPTION.search(text):
        others = match["others"]
        text = text[: match.start()] + (f" -{others}" if others and others != "l" else "")
    if len(text) > MAX_SHELL_LENGTH:
        raise UnfitError(f"at most {MAX_SHELL_LENGTH} characters", str(len(text)))
    return text


def read_stub(value: Any) -> str | None:
    """Return the name of a stub, or None for an empty one."""
    return read_text(value) or None


def _whole(value: Any, kind: str, lowest: int, highest: int) -> int:
    """Return a whole number within bounds."""
    if type(value) is not int:
        number = _as_number(value)
        if number is None:
            raise UnfitError(kind, shown(value))
        value = number
    if value > highest:
        raise UnfitError(f"{kind} of at most {highest}", shown(value))
    if value < lowest:
        raise UnfitError(f"{kind}, {lowest} or more", shown(value))
    return int(value)


def _as_number(value: Any) -> int | None:
    """Return the whole number that came as something else; None when it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str | bytes | bytearray) and len(value) <= 200:
        match = _NUMBER.fullmatch(_as_text(value).strip())
        return None if match is None else int(match[1])
    return None


def read_count(value: Any) -> int:
    """Return a number of things: 0 or more."""
    return _whole(value, "a whole number", 0, MAX_NUMBER)


def read_priority(value: Any) -> int:
    """Return a priority; a negative one is 0."""
    return max(0, _whole(value, "a whole number", -MAX_ID, MAX_NUMBER))


def read_limit(value: Any) -> int | None:
    """Return a limit in seconds; None, which is no limit, for 0 and negative numbers."""
    number = _whole(value, "a whole number of seconds", -MAX_ID, MAX_NUMBER)
    return number if number > 0 else None


def read_ids(value: Any) -> tuple[int, ...]:
    """Return ids of jobs, each once; a single 0 stands for none."""
    if type(value) is int and value == 0:
        return ()
    ids: dict[int, None] = {}
    for position, item in enumerate(several(value)):
        if item is None or item == "":
            raise UnfitError("the id of a job", shown(item), f"[{position}]")
        try:
            ids[_whole(item, "the id of a job", 1, MAX_ID)] = None
        except UnfitError as error:
            raise UnfitError(error.expected, error.found, step(value, position)) from None
    return tuple(ids)


def read_submission_id(value: Any) -> str | None:
    """Return the key of a submission that may be repeated, or None for an empty one."""
    text = read_text(value)
    if len(text) > MAX_SUBMISSION_ID_LENGTH:
        raise UnfitError(f"at most {MAX_SUBMISSION_ID_LENGTH} characters", str(len(text)))
    return text or None


def read_stubs(value: Any) -> tuple[str, ...]:
    """Return names of stubs, each once."""
    return tuple(dict.fromkeys(texts(value)))


def read_tags(value: Any) -> tuple[str, ...]:
    """Return tags without the blanks around them, each once."""
    return tuple(dict.fromkeys(tag.strip() for tag in texts(value) if not tag.isspace()))


def read_command(value: Any) -> str | dict[str, str] | None:
    """Return a shell text, or one for each platform that has one; None when there is nothing to run.

    Shapes: lines end in LF, however they came; a client gives them the ends that its shell wants.
    """
    if not isinstance(value, dict):
        text = _lines(read_text(value))
        return None if _blank(text) else text
    by_platform: dict[str, str] = {}
    for key, item in value.items():
        platform = _PLATFORMS.get(key.strip().lower()) if isinstance(key, str) and len(key) < 40 else None
        if platform is None:
            raise UnfitError("the platforms linux, windows and macosx", shown(key))
        try:
            text = "" if item is None else _lines(read_text(item))
        except UnfitError as error:
            raise UnfitError(error.expected, error.found, f".{platform}") from None
        if _blank(text):
            continue
        if by_platform.setdefault(platform, text) != text:
            raise UnfitError(f"one command for {platform}", "two")
    return by_platform or None


def _lines(text: str) -> str:
    """Return a text whose lines end in LF."""
    return _LINE_END.sub("\n", text) if "\r" in text else text


def _blank(text: str) -> bool:
    """Tell whether a command has nothing in it."""
    return not text or text.isspace()


def read_environment(value: Any) -> dict[str, str]:
    """Return environment variables; each must be one that some platform can carry."""
    variables: dict[str, str] = {}
    for key, item in _members(value, "a dict of environment variables"):
        name = _member_name(key, "the name of an environment variable")
        if "=" in name:
            raise UnfitError("names of environment variables without '='", shown(name))
        try:
            text = str(int(item)) if isinstance(item, bool) else read_text(item)
        except UnfitError as error:
            raise UnfitError(error.expected, error.found, _member(name)) from None
        # Four bytes is the most a character takes, so that most need not be encoded to be measured.
        if 4 * (len(name) + len(text)) >= MAX_VARIABLE_BYTES:
            size = len(name.encode()) + len(text.encode()) + 2
            if size > MAX_VARIABLE_BYTES:
                expected = f"at most {MAX_VARIABLE_BYTES} bytes, as no platform carries a longer variable"
                raise UnfitError(expected, str(size), _member(name))
        variables[name] = text
    return variables


def read_resources(value: Any) -> dict[str, int] | None:
    """Return amounts of resources, those of 0 left out; None when nothing is left."""
    amounts: dict[str, int] = {}
    for key, item in _members(value, "a dict of resources and amounts"):
        name = _member_name(key, "the name of a resource")
        try:
            amount = _whole(item, "a whole number", 0, MAX_NUMBER)
        except UnfitError as error:
            raise UnfitError(error.expected, error.found, _member(name)) from None
        if amount:
            name = name.strip()
            amounts[name] = amounts.get(name, 0) + amount
    return amounts or None


def read_addresses(value: Any) -> tuple[str, ...]:
    """Return e-mail addresses, each once."""
    addresses = dict.fromkeys(part.strip() for text in texts(value) for part in SEPARATOR.split(text))
    addresses.pop("", None)
    for address in addresses:
        if not address.isprintable():
            raise UnfitError("e-mail addresses with commas between", shown(address))
    return tuple(addresses)


def read_reasons(value: Any) -> tuple[str, ...]:
    """Return reasons for an e-mail, each once; `waiting` becomes `runnable`, for they are one mail."""
    reasons: dict[str, None] = {}
    for text in texts(value):
        for part in SEPARATOR.split(text):
            reason = " ".join(part.lower().split())
            if reason in EMAIL_REASONS:
                reasons["runnable" if reason == "waiting" else reason] = None
            elif reason:
                raise UnfitError(f"some of {', '.join(EMAIL_REASONS)}", shown(part.strip()))
    return tuple(reasons)


def several(value: Any) -> list[Any] | tuple[Any, ...]:
    """Return a list, also for one thing in its place, and for "" an empty one."""
    if isinstance(value, list | tuple):
        return value
    return [] if value is None or value == "" else [value]


def step(value: Any, position: int) -> str:
    """Return the step of a path to an element; none where one thing stood for a list."""
    return f"[{position}]" if isinstance(value, list | tuple) else ""


def texts(value: Any) -> list[str]:
    """Return the texts of a list that are not empty."""
    found = []
    for position, item in enumerate(several(value)):
        try:
            text = read_text(item)
        except UnfitError as error:
            raise UnfitError(error.expected, error.found, step(value, position)) from None
        if text:
            found.append(text)
    return found


def _members(value: Any, expected: str) -> Iterable[tuple[Any, Any]]:
    """Return the members of a dict, and for "" or an empty list none."""
    if isinstance(value, dict):
        return value.items()
    if value == "" or (isinstance(value, list | tuple) and not value):
        return ()
    raise UnfitError(expected, shown(value))


def _member_name(key: Any, expected: str) -> str:
    """Return the name of a member, which must not be blank."""
    name = read_text(key)
    if not name.strip():
        raise UnfitError(expected, shown(name))
    return name


def _member(name: str) -> str:
    """Return the step of a path to a member."""
    return f".{name}" if len(name) <= 60 and name.isidentifier() else f"[{shown(name)}]"
