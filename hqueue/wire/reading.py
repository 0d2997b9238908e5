"""XML-RPC documents to Python values, without recursion.

The standard library's reader believes in whatever structure it is sent. This one checks the whole grammar with a
table, so that a stranger's document ends in a value or in an `HQueueError`, never in anything else. Documents in the
shape that nearly all callers write are read by `quick`, which gives up on all others; both give the same values.
"""

from __future__ import annotations

from typing import Any, Final
from xml.parsers import expat
from xmlrpc.client import Fault

from hqueue.errors import LimitExceededError, MalformedRequestError
from hqueue.wire import quick
from hqueue.wire.scalars import READERS, convert
from hqueue.wire.source import Source, restore
from hqueue.wire.writing import PIECE_BYTES

_MAX_TOKEN_BYTES: Final = 4 * PIECE_BYTES


# The grammar: a state maps each tag that may start in it to the state inside that element and the one after it. A
# state that must not be the last in its element says under None what is missing.
_State = dict[str | None, Any]
_EMPTY: Final[_State] = {}
_VALUE: Final[_State] = {}
_VALUE_DONE: Final[_State] = {}
_NEED_VALUE: Final[_State] = {"value": (_VALUE, _EMPTY), None: "a <value>"}
_MEMBER: Final[_State] = {"name": (_EMPTY, _NEED_VALUE), None: "a <name> and a <value>"}
_STRUCT: Final[_State] = {}
_STRUCT["member"] = (_MEMBER, _STRUCT)
_DATA: Final[_State] = {}
_DATA["value"] = (_VALUE, _DATA)
_ARRAY: Final[_State] = {"data": (_DATA, _EMPTY)}
_PARAMS: Final[_State] = {}
_PARAMS["param"] = (_NEED_VALUE, _PARAMS)
_CALL_NAMED: Final[_State] = {"params": (_PARAMS, _EMPTY)}
_CALL: Final[_State] = {"methodName": (_EMPTY, _CALL_NAMED), None: "a <methodName>"}
_ANSWER: Final[_State] = {
    "params": ({"param": (_NEED_VALUE, _EMPTY), None: "a <param>"}, _EMPTY),
    "fault": (_NEED_VALUE, _EMPTY),
    None: "<params> or a <fault>",
}
_REQUEST: Final[_State] = {"methodCall": (_CALL, _EMPTY)}
_RESPONSE: Final[_State] = {"methodResponse": (_ANSWER, _EMPTY)}


_VALUE.update(dict.fromkeys(READERS, (_EMPTY, _VALUE_DONE)))
_VALUE["array"] = (_ARRAY, _VALUE_DONE)
_VALUE["struct"] = (_STRUCT, _VALUE_DONE)


class _Reader:
    """Reads any document, an event of the XML reader at a time.

    Values that are complete wait in `values`; a container's start is a mark in that list, and at its end what follows
    the mark becomes one value. So the depth of a document costs two list entries a level.
    """

    def __init__(self, root: _State, max_depth: int) -> None:
        self.state = root
        self.states: list[_State] = []
        self.values: list[Any] = []
        self.marks: list[int] = []
        self.pieces: list[str] = []
        self.max_depth = max_depth
        self.method = ""
        self.faulty = False
        self.source = Source()
        self.fed = 0
        self.parser = parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.pieces.append
        parser.StartDoctypeDeclHandler = _refuse_doctype

    def read(self, body: bytes | bytearray) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            self._parse(self.source.read(body[start : start + PIECE_BYTES], final=False), final=False)
        self._parse(self.source.read(b"", final=True), final=True)

    def _parse(self, text: bytes, *, final: bool) -> None:
        try:
            self.parser.Parse(text, final)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise MalformedRequestError(
                f"the document is not well-formed XML: {reason} (line {error.lineno}, column {error.offset + 1})",
            ) from None
        if not final:
            # Each piece makes the XML reader look at an unfinished token from its start again.
            self.fed += len(text)
            if self.fed - self.parser.CurrentByteIndex > _MAX_TOKEN_BYTES:
                raise LimitExceededError(f"one XML tag or comment is longer than {_MAX_TOKEN_BYTES} bytes")

    def start(self, tag: str, _attributes: dict[str, str]) -> None:
        try:
            inside, after = self.state[tag]
        except KeyError:
            raise self._unexpected(tag) from None
        self.states.append(after)
        self.state = inside
        self.pieces.clear()
        if inside is _STRUCT or inside is _ARRAY:
            self.marks.append(len(self.values))
            if len(self.marks) > self.max_depth:
                raise LimitExceededError(
                    f"the arguments are nested too deeply; this server takes {self.max_depth} arrays and structs "
                    "within each other",
                )

    def end(self, tag: str) -> None:
        state = self.state
        self.state = self.states.pop()
        if tag == "value":
            if state is _VALUE:
                self.values.append(self._text())
            return
        if tag in READERS:
            self.values.append(convert(tag, self._text()))
        elif tag == "name":
            self.values.append(self._text())
        elif tag == "array":
            mark = self.marks.pop()
            self.values[mark:] = [self.values[mark:]]
        elif tag == "struct":
            mark = self.marks.pop()
            items = self.values[mark:]
            self.values[mark:] = [dict(zip(items[::2], items[1::2], strict=True))]
        elif None in state:
            raise MalformedRequestError(f"the document is not XML-RPC: <{tag}> lacks {state[None]}")
        elif tag == "methodName":
            self.method = self._text().strip()
        elif tag == "fault":
            self.faulty = True

    def _text(self) -> str:
        pieces = self.pieces
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        return restore(text) if self.source.replaced else text

    def _unexpected(self, tag: str) -> MalformedRequestError:
        shown = tag if len(tag) <= 40 else f"{tag[:40]}…"
        if self.state is _VALUE:
            return MalformedRequestError(f"the document holds a value of the unknown type <{shown}>")
        wanted = " or ".join(f"<{name}>" for name in self.state if name is not None) or "no further element"
        return MalformedRequestError(f"the document is not XML-RPC: <{shown}> where {wanted} is expected")


def _refuse_doctype(*_arguments: object) -> None:
    raise MalformedRequestError("the document holds a document type declaration, which this server does not read")


def loads_request(body: bytes | bytearray, *, max_depth: int) -> tuple[str, list[Any]]:
    """Return the method and the arguments of a call.

    Shapes: dates become aware datetimes in UTC, base64 becomes bytes, integers of all sizes int.
    Errors: MalformedRequestError, LimitExceededError; never anything else.
    """
    try:
        return quick.read_request(body, max_depth)
    except quick.NotQuickError:
        reader = _Reader(_REQUEST, max_depth)
        reader.read(body)
        return reader.method, reader.values


def loads_response(body: bytes | bytearray, *, max_depth: int = 10_000) -> Any:
    """Return what a call was answered with.

    Errors: xmlrpc.client.Fault for a fault; MalformedRequestError for what is no answer at all.
    """
    try:
        return quick.read_response(body, max_depth)
    except quick.NotQuickError:
        reader = _Reader(_RESPONSE, max_depth)
        reader.read(body)
    value = reader.values[0]
    if not reader.faulty:
        return value
    try:
        raise Fault(int(value["faultCode"]), str(value["faultString"]))
    except (TypeError, KeyError, ValueError):
        raise MalformedRequestError("the answer holds a fault without code and text") from None
