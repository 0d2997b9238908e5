"""As much of HTTP/1.x as callers of XML-RPC speak: heads, bodies and answers, without a socket.

Written for speed (the standard library spends 100 µs on a head, more than on everything else a small call needs) and
against strangers: every length is bounded and every oddity is refused with a sentence.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from hqueue.errors import HQueueError, LimitExceededError, MalformedRequestError, ServerBusyError
from hqueue.wire import dumps_fault, guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep one caller from harming the others; each has a clear error."""

    max_request_bytes: int = 64 * 1024 * 1024
    """Body of a request, as sent and as unpacked."""
    max_head_bytes: int = 32 * 1024
    max_depth: int = 2016
    """Arrays and structs within each other: two for each of 1,000 levels of job specification, and some to spare."""
    max_connections: int = 10_000
    request_timeout_s: float = 60.0
    """From the first byte of a request to its last, and from a connection's start to its first byte."""
    idle_timeout_s: float = 300.0
    """Between requests."""
    write_timeout_s: float = 60.0
    """For each 64 KiB of an answer to be read."""
    slowest_bytes_per_s: int = 64 * 1024
    """An answer that is read more slowly than this, and not within `write_timeout_s`, is dropped."""
    shutdown_s: float = 10.0
    """For requests in hand to be answered when the server stops."""
    loop_body_bytes: int = 64 * 1024
    """Larger bodies are read by a worker."""
    gzip_min_bytes: int = 64 * 1024
    """Smaller answers are not worth packing."""
    max_received_bytes: int = 256 * 1024 * 1024
    """Of all requests together, as sent and as unpacked, until they are answered; a large one beyond it is refused."""
    max_unsent_bytes: int = 512 * 1024 * 1024
    """Of all answers together that wait for their callers to read them; a large one beyond it becomes a fault."""
    workers: int = 8
    farm_workers: int = 4
    big_workers: int = 2


RPC_PATHS: Final = frozenset({"/", "/RPC2"})
"""Where calls are posted: `ServerProxy("http://h:5000")` to /RPC2, with a slash at its end to /."""

_REQUEST_LINE: Final = re.compile(rb"([A-Za-z]{1,20}) (\S{1,8000}) HTTP/(\d)\.(\d)")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_AUTHORITY: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_MAX_FIELDS: Final = 100
_UNPACK_BYTES: Final = 256 * 1024
_PACKED_BYTES: Final = 16 * 1024


class RefusedError(Exception):
    """The request cannot be answered as XML-RPC; the connection ends with this status and sentence."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a request says."""

    method: str
    path: str
    """Without its query, percent-decoded."""
    old: bool
    """HTTP/1.0: the connection stays open only if both sides say so."""
    keep_alive: bool
    length: int
    """Bytes of the body; -1 if it comes in chunks."""
    coding: str
    """How the body is compressed; empty if it is not."""
    accepts_gzip: bool
    expects_continue: bool


def parse_head(block: bytes, door: guard.Door | None = None) -> Head:
    """Read a head: everything before the empty line.

    door: what `guard` refuses is refused; without it, nothing is.
    Errors: RefusedError.
    """
    line, *field_lines = block.replace(b"\r\n", b"\n").split(b"\n")
    method, path, old = parse_request_line(line)
    fields = _parse_fields(field_lines)
    length = _body_length(method, fields, old=old)
    connection = _tokens(fields.get(b"connection", b""))
    expectation = fields.get(b"expect", b"").lower()
    if expectation not in {b"", b"100-continue"}:
        raise RefusedError(417, "this server knows no expectation but 100-continue")
    coding = fields.get(b"content-encoding", b"").lower().decode("latin-1")
    if door is not None:
        refusal = guard.refusal(door, method, path, lambda name: fields.get(name.encode(), b"").decode("latin-1"))
        if refusal:
            raise RefusedError(403, refusal)
    return Head(
        method=method,
        path=path,
        old=old,
        keep_alive=b"keep-alive" in connection if old else b"close" not in connection,
        length=length,
        coding="" if coding == "identity" else coding.removeprefix("x-"),
        accepts_gzip=_accepts_gzip(fields.get(b"accept-encoding", b"")),
        expects_continue=bool(expectation) and not old,
    )


def parse_request_line(line: bytes) -> tuple[str, str, bool]:
    """Return method, path, and whether it is HTTP/1.0.

    Errors: RefusedError.
    """
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        hint = "; it looks like TLS, use http:// instead of https://" if line[:2] == b"\x16\x03" else ""
        raise RefusedError(400, f"this is no HTTP/1.1 request line{hint}")
    method, target, major, minor = found.groups()
    if major != b"1":
        raise RefusedError(505, "this server speaks HTTP/1.0 and HTTP/1.1")
    path = _AUTHORITY.sub(b"", target, count=1).partition(b"?")[0].partition(b"#")[0]
    return method.decode(), unquote(path or b"/"), minor == b"0"


def _parse_fields(lines: list[bytes]) -> dict[bytes, bytes]:
    if len(lines) > _MAX_FIELDS:
        raise RefusedError(431, f"the request has more than {_MAX_FIELDS} header lines")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise RefusedError(400, "the request has a malformed header line")
        name = name.lower()
        if name in fields:
            if name == b"content-length" and fields[name] != value:
                raise RefusedError(400, "the request has two different Content-Length headers")
            if name != b"content-length":
                value = fields[name] + b", " + value
        fields[name] = value
    return fields


def _body_length(method: str, fields: dict[bytes, bytes], *, old: bool) -> int:
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise RefusedError(400, "the request has both a Content-Length and a Transfer-Encoding")
        if old or coding.lower() != b"chunked":
            raise RefusedError(501, "this server knows no Transfer-Encoding but chunked, and that with HTTP/1.1")
        return -1
    if length is not None:
        # isdigit() alone would let through "²" if this were text, and -1 or +1 are no lengths.
        if not length.isdigit() or len(length) > 18:
            raise RefusedError(400, "the request has a Content-Length that is no number of bytes")
        return int(length)
    if method == "POST":
        raise RefusedError(411, "a POST needs a Content-Length or chunks")
    return 0


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.lower().split(b",")]


def _accepts_gzip(value: bytes) -> bool:
    for token in _tokens(value):
        name, _, weight = token.partition(b";")
        if name.strip() in {b"gzip", b"*"}:
            return weight.replace(b" ", b"") not in {b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"}
    return False


class Body:
    """Collects the body of a request as it arrives, within its limit.

    Errors (of `feed`): LimitExceededError, RefusedError.
    """

    def __init__(self, length: int, limit: int) -> None:
        self.data = bytearray()
        self.done = False
        self._limit = limit
        self._chunked = length < 0
        self._left = max(length, 0)
        """Bytes that are still missing of the body, or of the current chunk."""
        self._line = b""
        """A chunk's first line as far as it is here."""
        self._expects = b"size"
        self._chunks = 0
        self._trailer = 0
        if length > limit:
            raise _too_large(limit)

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body, and return what follows it."""
        if self._chunked:
            return self._feed_chunks(data)
        rest = data[self._left :]
        self.data += data if not rest else data[: self._left]
        self._left -= len(data) - len(rest)
        self.done = not self._left
        return rest

    def _feed_chunks(self, data: bytes) -> bytes:
        position = 0
        while position < len(data) and not self.done:
            if self._left:
                piece = data[position : position + self._left]
                self.data += piece
                self._left -= len(piece)
                position += len(piece)
                continue
            end = data.find(b"\n", position)
            self._line += data[position:] if end < 0 else data[position:end]
            if len(self._line) > 1024:
                raise RefusedError(400, "the request has a malformed chunk")
            if end < 0:
                break
            position = end + 1
            line, self._line = self._line.removesuffix(b"\r"), b""
            self._take_line(line)
        return data[position:] if self.done else b""

    def _take_line(self, line: bytes) -> None:
        if self._expects == b"end of chunk":
            if line:
                raise RefusedError(400, "the request has a chunk that is longer than it says")
            self._expects = b"size"
        elif self._expects == b"size":
            size = line.partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,12}", size):
                raise RefusedError(400, "the request has a malformed chunk")
            self._left = int(size, 16)
            if len(self.data) + self._left > self._limit:
                raise _too_large(self._limit)
            self._chunks += 1
            # Each chunk costs the same however small it is.
            if self._chunks > 1024 + len(self.data) // 64:
                raise RefusedError(400, "the request comes in chunks that are too small")
            self._expects = b"end of chunk" if self._left else b"trailer"
        else:
            self._trailer += 1
            if self._trailer > _MAX_FIELDS:
                raise RefusedError(431, "the request has too many trailers")
            self.done = not line


def _too_large(limit: int) -> LimitExceededError:
    return LimitExceededError(f"the request is larger than this server accepts: {limit} bytes")


def decode_body(
    data: bytes | bytearray, coding: str, limit: int, hold: Callable[[int], bool] = lambda _size: True
) -> bytes | bytearray:
    """Return the body without its compression.

    hold: told of each piece's size, answers whether there is room for it.
    Errors: LimitExceededError before more than the limit is unpacked, ServerBusyError, MalformedRequestError.
    """
    if not coding:
        return data
    if coding not in {"gzip", "deflate"}:
        raise MalformedRequestError(
            f"the request is compressed as {coding[:40]!r}; send it plain, as gzip or as deflate"
        )
    packing = "gzipped" if coding == "gzip" else "deflated"
    unpacker = zlib.decompressobj(_window_bits(data, coding))
    unpacked = bytearray()
    try:
        # In small pieces: what is left of one is copied for each step.
        for start in range(0, len(data), _PACKED_BYTES):
            packed: bytes | memoryview = memoryview(data)[start : start + _PACKED_BYTES]
            full = False
            while (packed or full) and not unpacker.eof:
                piece = unpacker.decompress(packed, _UNPACK_BYTES)
                packed, full = unpacker.unconsumed_tail, len(piece) == _UNPACK_BYTES
                if len(unpacked) + len(piece) > limit:
                    raise LimitExceededError(f"the request is larger than this server accepts, unpacked: {limit} bytes")
                if not hold(len(piece)):
                    raise ServerBusyError("too many large requests are arriving; try again shortly")
                unpacked += piece
            if packed or unpacker.unused_data:
                raise MalformedRequestError(f"the {packing} request goes on after its end")
    except zlib.error:
        raise MalformedRequestError(f"the request says it is {packing}, but it is not") from None
    if not unpacker.eof:
        raise MalformedRequestError(f"the {packing} request ends before its end")
    return unpacked


def _window_bits(data: bytes | bytearray, coding: str) -> int:
    """Return what tells zlib how the data are wrapped: deflate by zlib, or, in error, not at all."""
    if coding == "gzip":
        return zlib.MAX_WBITS | 16
    wrapped = len(data) > 1 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS


def gzip_pieces(pieces: Iterable[bytes]) -> list[bytes]:
    """Compress a document piece by piece, quickly rather than well."""
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    packed = [packer.compress(piece) for piece in pieces]
    return [piece for piece in (*packed, packer.flush()) if piece]


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_XML_START: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: "


def xml_head(head: Head, size: int, *, gzipped: bool, keep: bool) -> bytes:
    """Return the head of an answer in XML."""
    if keep and not gzipped and not head.old:
        return b"%b%d\r\n\r\n" % (_XML_START, size)
    coding = b"\r\nContent-Encoding: gzip" if gzipped else b""
    return b"%b%d%b%b\r\n\r\n" % (_XML_START, size, coding, _connection(old=head.old, keep=keep))


def text_answer(
    status: int,
    text: str,
    content_type: str = "text/plain; charset=utf-8",
    *,
    old: bool = False,
    keep: bool = False,
    only_head: bool = False,
) -> bytes:
    """Return a whole answer in plain text."""
    body = text.encode("utf-8", "replace")
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    extra = {405: "\r\nAllow: GET, HEAD, POST", 503: "\r\nRetry-After: 1"}.get(status, "")
    lines = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}{extra}"
    head = lines.encode("latin-1", "replace") + _connection(old=old, keep=keep) + b"\r\n\r\n"
    return head if only_head else head + body


def error_answer(head: Head | None, error: HQueueError, status: int, *, keep: bool) -> bytes:
    """Return an answer that says what is wrong: a fault to a call, a text with the status to anything else."""
    if head is None or head.method != "POST" or head.path not in RPC_PATHS:
        return text_answer(status, f"{error.message}\n", keep=keep)
    fault = dumps_fault(error.code, error.message)
    return xml_head(head, len(fault), gzipped=False, keep=keep) + fault


def _connection(*, old: bool, keep: bool) -> bytes:
    if not keep:
        return b"\r\nConnection: close"
    return b"\r\nConnection: keep-alive" if old else b""
