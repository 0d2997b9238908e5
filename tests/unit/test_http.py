"""Heads and bodies of requests, as bytes."""

from __future__ import annotations

import contextlib
import gzip
import random
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqueue.errors import HQueueError, LimitExceededError, MalformedRequestError, ServerBusyError
from hqueue.rpc import http


def head(lines: str, first: str = "POST /RPC2 HTTP/1.1") -> http.Head:
    return http.parse_head("\r\n".join([first, *lines.splitlines()]).encode("latin-1"))


def refusal(lines: str, first: str = "POST /RPC2 HTTP/1.1") -> tuple[int, str]:
    with pytest.raises(http.RefusedError) as caught:
        head(lines, first)
    return caught.value.status, caught.value.text


def test_a_stock_call() -> None:
    lines = "Host: h:5000\nAccept-Encoding: gzip\nContent-Type: text/xml\nUser-Agent: x\nContent-Length: 12"
    assert head(lines) == http.Head(
        method="POST",
        path="/RPC2",
        old=False,
        keep_alive=True,
        length=12,
        coding="",
        accepts_gzip=True,
        expects_continue=False,
    )


@pytest.mark.parametrize(
    ("first", "lines", "kept"),
    [
        ("GET / HTTP/1.1", "", True),
        ("GET / HTTP/1.1", "Connection: close", False),
        ("GET / HTTP/1.1", "CONNECTION:  TE , Close ", False),
        ("GET / HTTP/1.0", "", False),
        ("GET / HTTP/1.0", "Connection: Keep-Alive", True),
        ("GET / HTTP/1.2", "", True),
    ],
)
def test_keep_alive(first: str, lines: str, kept: bool) -> None:
    assert head(lines, first).keep_alive is kept


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/RPC2?x=/y", "/RPC2"),
        ("/jobs/view/12#top", "/jobs/view/12"),
        ("http://proxy:80/RPC2", "/RPC2"),
        ("HTTP://proxy", "/"),
        ("/gr%C3%B6%C3%9Fe%20x", "/größe x"),
        ("*", "*"),
    ],
)
def test_paths(target: str, path: str) -> None:
    assert head("", f"GET {target} HTTP/1.1").path == path


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("identity", False),
        ("", False),
    ],
)
def test_accepted_encodings(value: str, accepted: bool) -> None:
    assert head(f"Accept-Encoding: {value}", "GET / HTTP/1.1").accepts_gzip is accepted


@pytest.mark.parametrize(
    ("first", "status"),
    [
        ("", 400),
        ("POST", 400),
        ("POST /RPC2", 400),
        ("POST  /RPC2 HTTP/1.1", 400),
        ("POST /a b HTTP/1.1", 400),
        ("POST /RPC2 HTTP/1.1 ", 400),
        ("POST /RPC2 http/1.1", 400),
        ("P\x00ST / HTTP/1.1", 400),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        (f"GET /{'x' * 9000} HTTP/1.1", 400),
    ],
)
def test_malformed_request_lines(first: str, status: int) -> None:
    assert refusal("", first)[0] == status


def test_tls_is_recognised() -> None:
    assert "http:// instead of https://" in refusal("", "\x16\x03\x01\x02")[1]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Content-Length: -1", 400),
        ("Content-Length: +1", 400),
        ("Content-Length: 1.5", 400),
        ("Content-Length: \u00b2", 400),
        ("Content-Length:", 400),
        (f"Content-Length: {'9' * 40}", 400),
        ("Content-Length: 5\nContent-Length: 6", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: 5\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Host: h", 411),
        ("Content-Length: 5\nExpect: tea", 417),
        ("no colon", 400),
        ("Content-Length : 5", 400),
        (" folded: 5", 400),
        (": 5", 400),
        ("X: a\x00b", 400),
        ("\n".join(f"X-{number}: 1" for number in range(101)), 431),
    ],
)
def test_heads_that_are_refused(lines: str, status: int) -> None:
    assert refusal(lines)[0] == status


def test_chunks_need_http_1_1() -> None:
    assert refusal("Transfer-Encoding: chunked", "POST / HTTP/1.0")[0] == 501


def test_what_is_taken_all_the_same() -> None:
    assert head("Content-Length: 5\nContent-Length: 5").length == 5
    assert head("Transfer-Encoding: Chunked").length == -1
    assert head("Authorization: Basic 4pyTOuKckw==\nContent-Length: 1").length == 1
    assert head("Content-Length: 1\nContent-Encoding: x-gzip").coding == "gzip"
    assert head("Content-Length: 1\nContent-Encoding: identity").coding == ""
    assert head("Content-Length: 1\nX-Name: M\xfcller").length == 1
    assert head("Content-Length: 1\nExpect: 100-Continue").expects_continue is True
    assert head("Content-Length: 1\nExpect: 100-continue", "POST / HTTP/1.0").expects_continue is False


# --- Bodies ---


def collect(body: http.Body, data: bytes, step: int) -> bytes:
    """Feed data in steps until the body is done, and return what was not part of it."""
    for start in range(0, len(data), step):
        rest = body.feed(data[start : start + step])
        if body.done:
            return rest + data[start + step :]
        assert not rest
    raise AssertionError("the body never ended")


@given(st.binary(min_size=1), st.binary(), st.integers(1, 50))
def test_a_body_with_a_length(data: bytes, after: bytes, step: int) -> None:
    body = http.Body(len(data), 10_000)
    assert collect(body, data + after, step) == after
    assert body.data == data


@given(st.lists(st.binary(min_size=1), max_size=20), st.binary(), st.integers(1, 50), st.booleans())
def test_a_body_in_chunks(chunks: list[bytes], after: bytes, step: int, bare: bool) -> None:
    newline = b"\n" if bare else b"\r\n"
    sent = b"".join(b"%X;name=value%b%b%b" % (len(chunk), newline, chunk, newline) for chunk in chunks)
    sent += b"0" + newline + b"Trailer: x" + newline + newline
    body = http.Body(-1, 10_000)
    assert collect(body, sent + after, step) == after
    assert body.data == b"".join(chunks)


@pytest.mark.parametrize(
    "sent",
    [
        b"x\r\n",
        b"-1\r\n",
        b"\r\n",
        b"3\r\nabcd\r\n",
        b"1\r\na1\r\n",
        b"5" + b"0" * 2000,
        b"fffffffffffff\r\n",
        b"0x5\r\n",
    ],
)
def test_malformed_chunks(sent: bytes) -> None:
    with pytest.raises((http.RefusedError, LimitExceededError)) as caught:
        http.Body(-1, 1000).feed(sent)
    assert isinstance(caught.value, LimitExceededError) or caught.value.status == 400


def test_chunks_are_not_endless() -> None:
    with pytest.raises(http.RefusedError, match="too small"):
        http.Body(-1, 10**9).feed(b"1\r\nx\r\n" * 100_000)
    with pytest.raises(http.RefusedError, match="trailers"):
        http.Body(-1, 1000).feed(b"0\r\n" + b"X: y\r\n" * 1000)


def test_the_limit_holds_before_the_bytes_are_there() -> None:
    with pytest.raises(LimitExceededError, match="1000 bytes"):
        http.Body(1001, 1000)
    with pytest.raises(LimitExceededError, match="1000 bytes"):
        http.Body(-1, 1000).feed(b"3e9\r\n")
    body = http.Body(-1, 1000)
    body.feed(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
    with pytest.raises(LimitExceededError):
        body.feed(b"1\r\n")


# --- Compression ---


def test_gzip_bodies() -> None:
    data = "Zwölf Boxkämpfer".encode() * 50_000
    assert http.decode_body(gzip.compress(data), "gzip", len(data)) == data
    assert http.decode_body(gzip.compress(b"", mtime=0), "gzip", 10) == b""
    assert http.decode_body(bytearray(gzip.compress(data)), "gzip", len(data)) == data
    assert http.decode_body(data, "", 10) == data


def test_a_gzip_bomb_is_unpacked_no_further_than_the_limit() -> None:
    bomb = gzip.compress(bytes(1_000_000_000 // 10))
    with pytest.raises(LimitExceededError, match="unpacked: 1000000 bytes"):
        http.decode_body(bomb, "gzip", 1_000_000)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "before its end"),
        (b"not gzip", "it is not"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "before its end"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-1] + b"\x07", "it is not"),
        (gzip.compress(b"x", mtime=0) + gzip.compress(b"y", mtime=0), "after its end"),
        (gzip.compress(b"x", mtime=0) + b"\0", "after its end"),
        (zlib.compress(b"x"), "it is not"),
    ],
)
def test_broken_gzip(data: bytes, said: str) -> None:
    with pytest.raises(MalformedRequestError, match=said):
        http.decode_body(data, "gzip", 10_000)


def test_other_codings_are_named() -> None:
    with pytest.raises(MalformedRequestError, match="'br'"):
        http.decode_body(b"x", "br", 10)


@pytest.mark.parametrize("bits", [zlib.MAX_WBITS, -zlib.MAX_WBITS, 9, -9])
@given(st.binary(max_size=300), st.sampled_from([1, 300, 5000]))
def test_deflate_bodies_with_and_without_their_wrapping(bits: int, data: bytes, times: int) -> None:
    packer = zlib.compressobj(wbits=bits)
    packed = packer.compress(data * times) + packer.flush()
    assert http.decode_body(packed, "deflate", len(data) * times) == data * times
    with pytest.raises(MalformedRequestError, match="the deflated request ends before its end"):
        http.decode_body(packed[:-1], "deflate", len(data) * times)
    with pytest.raises(MalformedRequestError, match="the deflated request goes on after its end"):
        http.decode_body(packed + b"x", "deflate", len(data) * times)


def test_unpacking_costs_what_it_unpacks() -> None:
    """What is not unpacked yet is not copied again for each piece."""
    data = gzip.compress(random.Random(7).randbytes(60_000_000), 0)
    began = time.process_time()
    zlib.decompress(data, zlib.MAX_WBITS | 16)
    at_once = time.process_time() - began
    began = time.process_time()
    assert len(http.decode_body(data, "gzip", 60_000_000)) == 60_000_000
    assert time.process_time() - began < 10 * at_once + 0.5


def test_what_is_unpacked_has_to_find_room() -> None:
    taken: list[int] = []
    packed = gzip.compress(bytes(10_000_000))
    with pytest.raises(ServerBusyError, match="try again"):
        http.decode_body(packed, "gzip", 10**9, lambda size: taken.append(size) or sum(taken) < 2_000_000)
    assert 2_000_000 <= sum(taken) < 3_000_000


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_our_errors(data: bytes) -> None:
    for attempt in (
        lambda: http.parse_head(data),
        lambda: http.parse_head(b"POST / HTTP/1.1\r\n" + data),
        lambda: http.Body(-1, 100).feed(data),
        lambda: http.decode_body(data, "gzip", 100),
        lambda: http.decode_body(data, "deflate", 100),
    ):
        with contextlib.suppress(http.RefusedError, HQueueError):
            attempt()


def test_answers_are_compressed_in_pieces() -> None:
    pieces = [b"<a>" * 100_000, b"", b"<b>" * 100_000]
    packed = http.gzip_pieces(pieces)
    assert gzip.decompress(b"".join(packed)) == b"".join(pieces)
    assert sum(map(len, packed)) < 10_000


# --- Answers ---


def test_heads_of_answers() -> None:
    new, old = head("Content-Length: 1"), head("Content-Length: 1", "POST / HTTP/1.0")
    start = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 7"
    assert http.xml_head(new, 7, gzipped=False, keep=True) == start + b"\r\n\r\n"
    assert http.xml_head(new, 7, gzipped=False, keep=False) == start + b"\r\nConnection: close\r\n\r\n"
    assert http.xml_head(old, 7, gzipped=False, keep=True) == start + b"\r\nConnection: keep-alive\r\n\r\n"
    assert http.xml_head(new, 7, gzipped=True, keep=True) == start + b"\r\nContent-Encoding: gzip\r\n\r\n"


def test_text_answers() -> None:
    answer = http.text_answer(404, "größe\n", keep=True)
    assert answer == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 8\r\n\r\n"
        + "größe\n".encode()
    )
    assert http.text_answer(200, "größe", only_head=True).endswith(b"Content-Length: 7\r\nConnection: close\r\n\r\n")
    assert b" 299 Unknown\r\n" in http.text_answer(299, "")
    assert b"Retry-After: " in http.text_answer(503, "")
