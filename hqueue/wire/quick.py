"""The shape of document that Python's clients write, read four times as fast as an XML reader reports it.

One match takes a whole member of a struct, for which an XML reader makes eight calls. What is not known here (comments,
CDATA, attributes, untyped values, other encodings, anything malformed or too deep) raises `NotQuickError`, and the
thorough reader starts over. So nothing is taken here that would mean something else there, and every complaint has one
place.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final

from hqueue.wire.scalars import READERS, convert
from hqueue.wire.writing import PIECE_BYTES

_S: Final = r"[ \t\n]*"


def _value(then: str) -> str:
    """Return the expression for a scalar and what follows it, or the start of a container."""
    types = "|".join(re.escape(tag) for tag in READERS)
    scalar = rf"(?P<type>{types})(?:/>|>(?P<text>[^<]*)</(?P=type)>){_S}</value>{then}"
    return rf"<value>{_S}<(?:{scalar}|(?P<container>struct|array>{_S}<data)>){_S}"


_END: Final = rf"{_S}</value>{_S}"
_ITEM: Final = re.compile(rf"{_value('')}|</data>{_S}</array>{_END}")
_MEMBER: Final = re.compile(
    rf"(?P<closed></member>{_S})?"
    rf"(?:<member>{_S}<name>(?P<name>[^<]*)</name>{_S}{_value(f'{_S}</member>')}|</struct>{_END})",
)
_DECLARATION: Final = rf"""(?:<\?xml version=['"]1\.0['"](?: encoding=['"][uU][tT][fF]-8['"])?[ ]?\?>{_S})?"""
_CALL: Final = re.compile(
    rf"{_DECLARATION}<methodCall>{_S}<methodName>([^<&]*)</methodName>{_S}<params>{_S}",
)
_ANSWER: Final = re.compile(rf"{_DECLARATION}<methodResponse>{_S}<params>{_S}")
_PARAM: Final = re.compile(rf"<param>{_S}")
_PARAM_END: Final = re.compile(rf"</param>{_S}")
_CALL_END: Final = re.compile(rf"</params>{_S}</methodCall>{_S}\Z")
_ANSWER_END: Final = re.compile(rf"</params>{_S}</methodResponse>{_S}\Z")
_REFERENCE: Final = re.compile(r"&(?:(?:(lt|gt|amp|quot|apos)|#([0-9]{1,7})|#x([0-9a-fA-F]{1,6}));)?")
_ENTITIES: Final = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}


class NotQuickError(Exception):
    """The document has another shape than this module knows."""


def read_request(body: bytes | bytearray, max_depth: int) -> tuple[str, list[Any]]:
    """Return the method and the arguments of a call.

    Errors: NotQuickError; MalformedRequestError for a scalar that is not what its tag says.
    """
    text = _text(body)
    found = _CALL.match(text)
    if found is None:
        raise NotQuickError
    return found[1].strip(), _params(text, found.end(), _CALL_END, max_depth)


def read_response(body: bytes | bytearray, max_depth: int) -> Any:
    """Return the value of an answer that is no fault.

    Errors: as `read_request`.
    """
    text = _text(body)
    found = _ANSWER.match(text)
    if found is None:
        raise NotQuickError
    params = _params(text, found.end(), _ANSWER_END, max_depth)
    if len(params) != 1:
        raise NotQuickError
    return params[0]


def _text(body: bytes | bytearray) -> str:
    if len(body) <= PIECE_BYTES or body.isascii():
        text = body.decode("utf-8", "replace")
    else:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        starts = range(0, len(body), PIECE_BYTES)
        text = "".join([decoder.decode(body[start : start + PIECE_BYTES]) for start in starts])
        text += decoder.decode(b"", final=True)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # as XML says
    return text


def _params(text: str, position: int, tail: re.Pattern[str], max_depth: int) -> list[Any]:
    params: list[Any] = []
    while (start := _PARAM.match(text, position)) is not None:
        position = _read(text, start.end(), params, max_depth)
        end = _PARAM_END.match(text, position)
        if end is None:
            raise NotQuickError
        position = end.end()
    if tail.match(text, position) is None:
        raise NotQuickError
    return params


def _read(text: str, position: int, into: list[Any], max_depth: int) -> int:  # noqa: C901, PLR0912 - one hot loop
    """Append the value that starts at a position to a list, and return where it ends."""
    around: list[Any] = []  # the containers around the current one
    current: Any = into
    in_struct = False
    child_ended = False  # then the member that holds it has to end first
    while True:
        found = (_MEMBER if in_struct else _ITEM).match(text, position)
        if found is None:
            raise NotQuickError
        position = found.end()
        if in_struct:
            closed, name, tag, content, container = found.groups()
            if (closed is not None) is not child_ended:
                raise NotQuickError
            child_ended = False
        else:
            tag, content, container = found.groups()
            name = None
        if tag is not None:
            value = content if content is not None and "&" not in content else _unescaped(content or "")
            if tag != "string":
                value = convert(tag, value)
        elif container is not None:
            value = {} if container == "struct" else []
        else:
            if not around:
                raise NotQuickError
            current = around.pop()
            in_struct = child_ended = type(current) is dict
            if not around:
                return position
            continue
        if name is None:
            current.append(value)
        else:
            current[name if "&" not in name else _unescaped(name)] = value
        if container is not None:
            if len(around) >= max_depth:
                raise NotQuickError
            around.append(current)
            current = value
            in_struct = container == "struct"
        elif not around:
            return position


def _unescaped(text: str) -> str:
    return _REFERENCE.sub(_character, text)


def _character(found: re.Match[str]) -> str:
    name, decimal, hexadecimal = found.groups()
    if name:
        return _ENTITIES[name]
    if not (decimal or hexadecimal):
        raise NotQuickError
    code = int(decimal) if decimal else int(hexadecimal, 16)
    if code > 0x10FFFF:
        raise NotQuickError
    return chr(code)
