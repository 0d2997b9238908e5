"""JSON text to Python values, for text of any size and depth a stranger may send.

The standard library's parser recurses, so that its depth ends at the interpreter's stack, and it is one call into C,
so that every other thread stands still while it reads (0.7 s for 33 MB). This one keeps its own stack and runs in
Python, around two regular expressions, so that other threads run between any two tokens; what is small it hands to
the standard library. A key that comes twice in one object is a complaint here, where the standard library drops the
first without a word.
"""

from __future__ import annotations

import re
from json.decoder import JSONDecodeError, JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any, Final

_SPACE: Final = r"[ \t\n\r]*"
# Strings without escapes are taken by the expressions themselves; the others, and long ones, by `scanstring`.
_PLAIN: Final = r'"([^"\\\x00-\x1f]{0,1024})"'
_KEY: Final = re.compile(rf"{_SPACE}{_PLAIN}{_SPACE}:{_SPACE}")
_SCALAR: Final = re.compile(
    rf"(?:{_PLAIN}|(-?(?:0|[1-9][0-9]*))(?![0-9.eE])|(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
    rf"|(true|false|null|NaN|Infinity|-Infinity)){_SPACE}",
)
_STRING, _INTEGER, _FLOAT, _WORD = 1, 2, 3, 4
_WORDS: Final = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}
_PIECE: Final = 16 * 1024  # characters: the standard library reads so many in 0.1 ms
_SKIP: Final = re.compile(_SPACE)
_MAX_DIGITS: Final = 4000  # int() refuses more than 4,300, for its cost is quadratic


class JsonTextError(ValueError):
    """The text is not JSON; the message says where and what was expected."""


class JsonDepthError(ValueError):
    """The text nests its lists and objects deeper than allowed."""


def parse(text: str, *, max_depth: int) -> Any:
    """Return the value that a JSON text stands for.

    Shapes: as `json.loads` has them, `NaN` and the infinities included. Units: `max_depth` counts lists and objects
    inside each other. Errors: JsonTextError, JsonDepthError.
    """
    return _Reader(text, max_depth).read()


class _Reader:
    """One pass over one text."""

    __slots__ = ("_large_until", "_max_depth", "_text")

    def __init__(self, text: str, max_depth: int) -> None:
        self._text = text
        self._max_depth = max_depth
        self._large_until = 0  # objects that begin before this place are not tried as small ones again

    def read(self) -> Any:  # noqa: C901, PLR0912, PLR0915 - one loop with its state in local names is the speed of this module
        text = self._text
        match_key, match_scalar, skip = _KEY.match, _SCALAR.match, self._skip
        stack: list[tuple[Any, str]] = []  # the containers around the open one, each with the key it waits on
        container: Any = None  # the open dict or list
        key = ""  # the member of the open dict that the next value is for
        at = skip(1 if text.startswith("\ufeff") else 0)
        while True:
            # A value begins at `at`.
            value: Any
            scalar = match_scalar(text, at)
            if scalar is not None:
                kind = scalar.lastindex
                value = scalar[kind] if kind == _STRING else self._number_or_word(scalar, at)
                at = scalar.end()
            elif (small := self._small_object(at, len(stack) + 1)) is not None:
                value, at = small[0], skip(small[1])
            elif text.startswith(("{", "["), at):
                value, closing = ({}, "}") if text[at] == "{" else ([], "]")
                if len(stack) + (container is not None) >= self._max_depth:
                    raise JsonDepthError(f"more than {self._max_depth} lists and objects inside each other")
                at = skip(at + 1)
                if not text.startswith(closing, at):
                    if container is not None:
                        stack.append((container, key))
                    container = value
                    if closing == "}":
                        key, at = self._key(at, container)
                    continue
                at = skip(at + 1)
            else:
                value, at = self._string(at, "a value")
                at = skip(at)
            # The value is complete, and so may be the containers around it.
            while True:
                mark = text[at : at + 1]
                if type(container) is dict:
                    container[key] = value
                    if mark == ",":
                        found = match_key(text, at + 1)
                        if found is None or found[1] in container:
                            key, at = self._key(skip(at + 1), container)
                        else:
                            key, at = found[1], found.end()
                        break
                    if mark != "}":
                        raise self._complaint(at, "',' or '}'")
                elif container is None:
                    if mark:
                        raise self._complaint(at, "the end of the text")
                    return value
                else:
                    container.append(value)
                    if mark == ",":
                        at = skip(at + 1)
                        break
                    if mark != "]":
                        raise self._complaint(at, "',' or ']'")
                at = skip(at + 1)
                value = container
                container, key = stack.pop() if stack else (None, "")

    def _skip(self, at: int) -> int:
        """Return the first place from here that is no white space."""
        if self._text[at : at + 1] > " ":
            return at
        space = _SKIP.match(self._text, at)
        return at if space is None else space.end()

    def _small_object(self, at: int, depth: int) -> tuple[dict[str, Any], int] | None:
        """Return the object at this place and where it ends; None for anything that needs a closer look."""
        if at < self._large_until or not self._text.startswith("{", at):
            return None
        piece = self._text[at : at + _PIECE]
        try:
            value, length = _DECODER.raw_decode(piece)
        except (ValueError, RecursionError):
            # Too long, too deep or wrong. Without this place a nest of long objects would be tried at every level.
            self._large_until = at + _PIECE
            return None
        nested = piece.count("{", 0, length) + piece.count("[", 0, length)
        return (value, at + length) if depth + nested <= self._max_depth else None

    def _number_or_word(self, scalar: re.Match[str], at: int) -> Any:
        """Return what a scalar that is no string stands for."""
        if scalar.lastindex == _WORD:
            return _WORDS[scalar[_WORD]]
        number = scalar[_INTEGER] or scalar[_FLOAT]
        if len(number) > _MAX_DIGITS:
            raise self._complaint(at, f"a number of at most {_MAX_DIGITS} characters", f"one of {len(number)}")
        return int(number) if scalar.lastindex == _INTEGER else float(number)

    def _key(self, at: int, container: dict[str, Any]) -> tuple[str, int]:
        """Return the key at this place, and where its value begins."""
        key, end = self._string(at, "a key in double quotes")
        if key in container:
            raise self._complaint(at, "another key", f"{_shown(key)} for the second time")
        end = self._skip(end)
        if not self._text.startswith(":", end):
            raise self._complaint(end, "':'")
        return key, self._skip(end + 1)

    def _string(self, at: int, expected: str) -> tuple[str, int]:
        """Return the string at this place, whatever it holds, and where it ends."""
        if not self._text.startswith('"', at):
            raise self._complaint(at, expected)
        try:
            string, end = scanstring(self._text, at + 1, True)  # noqa: FBT003 - a C function without keywords
        except JSONDecodeError as error:
            if error.msg.startswith("Unterminated"):
                raise self._complaint(len(self._text), "the end of the string") from None
            raise self._complaint(error.pos, "an allowed character or escape in the string") from None
        return string, end

    def _complaint(self, at: int, expected: str, found: str = "") -> JsonTextError:
        """Return the error for something unexpected at this place."""
        found = found or (_shown(self._text[at : at + 20]) if at < len(self._text) else "the end of the text")
        return JsonTextError(f"expected {expected}, found {found} ({self._place(at)})")

    def _place(self, at: int) -> str:
        """Return a place in the text as people count: lines and columns from 1."""
        line = self._text.count("\n", 0, at) + 1
        return f"line {line}, column {at - self._text.rfind(chr(10), 0, at)}"


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's members as a dict, or raise ValueError when a key comes twice."""
    value = dict(members)
    if len(value) != len(members):
        raise ValueError
    return value


_DECODER: Final = JSONDecoder(object_pairs_hook=_unique)


def _shown(text: str) -> str:
    """Return a text as it may stand in a message: in quotes, escaped, and short."""
    return repr(text if len(text) <= 20 else text[:20] + "…")
