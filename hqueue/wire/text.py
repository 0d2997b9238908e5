"""Text that XML 1.0 can carry, and what to do with text that it cannot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES: Final = 256 * 1024
"""Nothing is encoded, scrubbed or parsed in larger pieces: each is one call into C that stops every other thread."""

DROPPED: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f"
REPLACED: Final = "\ud800-\udfff\ufffe\uffff"
_UNENCODABLE: Final = re.compile(f"[{DROPPED}{REPLACED}]")
# A carriage return is legal, but every XML reader turns a bare one into a newline: progress bars would become lists.
_SPECIAL: Final = re.compile(f"[&<>\r{DROPPED}{REPLACED}]")
_find_special: Final = _SPECIAL.search
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}


def find_unencodable(text: str) -> int | None:
    """Return the index of the first character that XML 1.0 cannot carry, None if it can carry all."""
    found = _UNENCODABLE.search(text)
    return found.start() if found else None


def scrub(text: str) -> str:
    r"""Return the text without what XML 1.0 cannot carry.

    Shapes: control characters other than tab, newline and return are dropped (of a colour code only the escape
    character is one); lone surrogates, U+FFFE and U+FFFF become U+FFFD.
    """
    return _in_pieces(text, _UNENCODABLE, _scrubbed)


def escape(text: str) -> str:
    """Return the text scrubbed and escaped, as it stands between two tags."""
    if len(text) <= PIECE_BYTES and _find_special(text) is None:
        return text
    return _in_pieces(text, _SPECIAL, _escaped)


def _in_pieces(text: str, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str]) -> str:
    if len(text) <= PIECE_BYTES:
        return pattern.sub(replace, text)
    pieces = (text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES))
    return "".join([pattern.sub(replace, piece) for piece in pieces])


def _scrubbed(found: re.Match[str]) -> str:
    return "" if found[0] < " " else "\ufffd"


def _escaped(found: re.Match[str]) -> str:
    return _ENTITIES.get(found[0]) or _scrubbed(found)
