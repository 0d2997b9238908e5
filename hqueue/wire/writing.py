"""Python values to XML-RPC documents.

The standard library's marshaller refuses integers beyond 32 bits and lets through what XML cannot carry; here that is
scrubbed, in this one place. Each type has a function that returns its element, found by one table look-up. Only the
outer lists and structs of an answer are written piece by piece: what is big is either many rows or one long text.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from xmlrpc.client import Binary, DateTime

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


_INT32: Final = 2**31
_INT64: Final = 2**63
_HEAD: Final = "<?xml version='1.0'?>\n"


class Raw:
    """A value that is XML already: `<value>…</value>` elements in UTF-8, sent as they are."""

    __slots__ = ("xml",)

    def __init__(self, xml: bytes) -> None:
        self.xml = xml


def response_pieces(value: Any) -> list[bytes]:
    """Return the document that answers a call, in pieces that need not be joined to be sent.

    Shapes: None, bool, int up to 64 bits, float, str, bytes, Binary, datetime (aware, or naive and in UTC), list,
    tuple, dict (its keys become text), `Raw`, and what is derived from one of these.
    Errors: TypeError, ValueError for anything else: a bug of ours.
    """
    return _document("<methodResponse><params><param>", value, "</param></params></methodResponse>\n")


def dumps_response(value: Any) -> bytes:
    """Return the document that answers a call, in one piece; otherwise as `response_pieces`."""
    return b"".join(response_pieces(value))


def dumps_fault(code: int, text: str) -> bytes:
    """Return the document that says a call failed."""
    fault = _element({"faultCode": code, "faultString": text})
    return f"{_HEAD}<methodResponse><fault>{fault}</fault></methodResponse>\n".encode()


def dumps_request(method: str, params: list[Any] | tuple[Any, ...]) -> bytes:
    """Return the document that calls a method."""
    elements = "".join([f"<param>{_element(param)}</param>" for param in params])
    name = escape(method)
    return (f"{_HEAD}<methodCall><methodName>{name}</methodName><params>{elements}</params></methodCall>\n").encode()


def dumps_value(value: Any) -> bytes:
    """Return one `<value>…</value>` element: what `Raw` holds, to be stored or put into a row template."""
    return _element(value).encode()


# --- One value as text -----------------------------------------------------------------------------------------------


def _element(value: Any) -> str:
    return (_ELEMENTS.get(type(value)) or _element_of_kin(type(value)))(value)


def _none(_value: None) -> str:
    return "<value><nil/></value>"


def _bool(value: bool) -> str:
    return "<value><boolean>1</boolean></value>" if value else "<value><boolean>0</boolean></value>"


def _int(value: int) -> str:
    if -_INT32 <= value < _INT32:
        return f"<value><int>{value}</int></value>"
    if -_INT64 <= value < _INT64:
        return f"<value><i8>{value}</i8></value>"
    raise ValueError(f"XML-RPC cannot carry an integer of {value.bit_length()} bits")


def _float(value: float) -> str:
    return f"<value><double>{value!r}</double></value>"


def _str(value: str) -> str:
    return f"<value><string>{escape(value)}</string></value>"


def _bytes(value: bytes | bytearray) -> str:
    step = PIECE_BYTES // 57 * 57  # whole lines of base64, so that the pieces join
    lines = [b2a_base64(value[start : start + step]).decode() for start in range(0, len(value), step)]
    return f"<value><base64>\n{''.join(lines)}</base64></value>"


def _binary(value: Binary) -> str:
    return _bytes(value.data)


def _datetime(value: datetime) -> str:
    moment = value if value.tzinfo is None else value.astimezone(UTC)
    text = moment.replace(tzinfo=None, microsecond=0).isoformat().replace("-", "")
    return f"<value><dateTime.iso8601>{text}</dateTime.iso8601></value>"


def _xmlrpc_datetime(value: DateTime) -> str:
    return f"<value><dateTime.iso8601>{escape(value.value)}</dateTime.iso8601></value>"


def _list(value: list[Any] | tuple[Any, ...]) -> str:
    elements = "".join([(_ELEMENTS.get(type(item)) or _element_of_kin(type(item)))(item) for item in value])
    return f"<value><array><data>{elements}</data></array></value>"


def _dict(value: dict[Any, Any]) -> str:
    members = "".join(
        [
            f"{_NAMES.get(key) or _name(key)}"
            f"{(_ELEMENTS.get(type(item)) or _element_of_kin(type(item)))(item)}</member>"
            for key, item in value.items()
        ],
    )
    return f"<value><struct>{members}</struct></value>"


_NAMES: Final[dict[Any, str]] = {}
_MAX_NAMES: Final = 4096


def _name(key: Any) -> str:
    """Return the start of a member; attribute names, which come in every row, are remembered."""
    start = f"<member><name>{escape(str(key))}</name>"
    if type(key) is str and len(key) <= 40 and len(_NAMES) < _MAX_NAMES:
        _NAMES[key] = start
    return start


def _raw(value: Raw) -> str:
    return value.xml.decode()


_ELEMENTS: Final[dict[type, Callable[[Any], str]]] = {
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    bytearray: _bytes,
    Binary: _binary,
    datetime: _datetime,
    DateTime: _xmlrpc_datetime,
    list: _list,
    tuple: _list,
    dict: _dict,
    Raw: _raw,
}
# A derived class may print itself as it likes; what is sent is the value.
_KIN: Final[dict[type, Callable[[Any], str]]] = {
    str: lambda value: _str(str.__str__(value)),
    int: lambda value: _int(int(value)),
    float: lambda value: _float(float(value)),
}


def _element_of_kin(kind: type) -> Callable[[Any], str]:
    """Return what writes a derived type (an enumeration, a named tuple), and remember it."""
    for base in kind.__mro__:
        element = _KIN.get(base) or _ELEMENTS.get(base)
        if element is not None:
            return _ELEMENTS.setdefault(kind, element)
    raise TypeError(f"XML-RPC cannot carry a {kind.__name__}")


# --- A document in pieces --------------------------------------------------------------------------------------------


def _document(before: str, value: Any, after: str) -> list[bytes]:
    pieces = _Pieces()
    pieces.add(f"{_HEAD}{before}")
    _stream(value, pieces)
    pieces.add(after)
    pieces.flush()
    return pieces.done


class _Pieces:
    """Collects text and turns it into bytes whenever enough for a piece has come together."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.texts: list[str] = []
        self.rows: list[bytes] = []
        self.size = 0

    def add(self, text: str) -> None:
        if self.rows:
            self.flush()
        self.texts.append(text)
        self.size += len(text)
        if self.size >= PIECE_BYTES:
            self.flush()

    def add_raw(self, xml: bytes) -> None:
        if self.texts:
            self.flush()
        self.rows.append(xml)
        self.size += len(xml)
        if self.size >= PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.size:
            self.done.append("".join(self.texts).encode() + b"".join(self.rows))
        self.texts.clear()
        self.rows.clear()
        self.size = 0


def _stream(value: Any, pieces: _Pieces) -> None:
    if isinstance(value, list):
        pieces.add("<value><array><data>")
        for item in value:
            if type(item) is Raw:
                pieces.add_raw(item.xml)
            else:
                pieces.add(_element(item))
        pieces.add("</data></array></value>")
    elif isinstance(value, dict):
        pieces.add("<value><struct>")
        for key, item in value.items():
            pieces.add(_NAMES.get(key) or _name(key))
            _stream(item, pieces)
            pieces.add("</member>")
        pieces.add("</struct></value>")
    elif isinstance(value, str) and len(value) > PIECE_BYTES:
        pieces.add("<value><string>")
        for start in range(0, len(value), PIECE_BYTES):
            pieces.add(escape(value[start : start + PIECE_BYTES]))
        pieces.add("</string></value>")
    elif type(value) is Raw:
        pieces.add_raw(value.xml)
    else:
        pieces.add(_element(value))
