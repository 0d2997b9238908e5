"""The server as callers see it: real sockets, stock clients of Python 3 and 2, and peers that send what they like."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import xmlrpc.client
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hqueue.rpc.transport import FarmServer, Limits, Page
from tests.fakes import PATIENCE_S, FakeClock
from tests.pythons import python2
from tests.transport_rig import Rig, request, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rig() -> Iterator[Rig]:
    with serving() as rig:
        yield rig


def pages(path: str) -> Page:
    if path == "/fail":
        raise ValueError("/srv/secret")
    if path == "/metrics":
        return Page(200, "up 1\n", "text/plain; version=0.0.4")
    return Page(200 if path == "/" else 404, f"Seite {path} · größer\n")


# --- Stock clients ---


@pytest.mark.parametrize("path", ["", "/", "/RPC2"])
def test_a_stock_client_calls(rig: Rig, path: str) -> None:
    with rig.proxy(path) as proxy:
        assert proxy.ping() is True
        assert proxy.echo({"名前": ["a", 1, None, 2.5, True]}) == {"名前": ["a", 1, None, 2.5, True]}
        assert proxy.farm.echo("x")[0] == "x"
        assert proxy.whoami() == "127.0.0.1"
        assert "echo" in proxy.system.listMethods()
        with pytest.raises(xmlrpc.client.Fault) as caught:
            proxy.nope()
        assert caught.value.faultCode == -32601
        with pytest.raises(xmlrpc.client.Fault) as caught:
            proxy.fail()
        assert (caught.value.faultCode, "secret" in caught.value.faultString) == (-32603, False)


def test_values_of_a_stock_client(rig: Rig) -> None:
    with rig.proxy(use_builtin_types=True) as proxy:
        moment = datetime(2026, 3, 9, 4, 5, 6)  # noqa: DTZ001 - as the library has them
        for value in (b"\x00\xff", moment, "\x1b[1mZeile\r\n", [[[[]]]], -5, 2**31 - 1):
            expected: Any = "[1mZeile\n" if isinstance(value, str) else value
            assert proxy.echo(value) == expected
        multi = xmlrpc.client.MultiCall(proxy)
        multi.ping()
        multi.echo("ü")
        assert list(multi()) == [True, "ü"]


def test_a_stock_client_keeps_its_connection(rig: Rig) -> None:
    with rig.proxy() as proxy:
        for _ in range(5):
            assert proxy.ping() is True
            with pytest.raises(xmlrpc.client.Fault):
                proxy.nope()
        assert rig.connections() == 1
    rig.until(lambda: rig.connections() == 0)


def test_large_calls_and_answers(rig: Rig) -> None:
    with rig.proxy() as proxy:
        text = "Zeile ü\n" * 400_000
        assert proxy.echo(text) == text
        assert proxy.big(3_000_000) == "ü" * 3_000_000


PYTHON_2 = """
    # coding: utf-8
    import xmlrpclib, datetime, sys
    opened = []
    class Transport(xmlrpclib.Transport):
        def make_connection(self, host):
            connection = xmlrpclib.Transport.make_connection(self, host)
            if connection not in opened:
                opened.append(connection)
            return connection
    proxy = xmlrpclib.ServerProxy(sys.argv[1], transport=Transport(), allow_none=True)
    assert proxy.ping() is True
    assert proxy.echo(None) is None
    assert proxy.big_number() == 2 ** 40, proxy.big_number()
    assert proxy.echo(u'Gr\\xf6\\xdfe \\u5f71') == u'Gr\\xf6\\xdfe \\u5f71'
    assert proxy.echo('bytes \\xfc') == u'bytes \\ufffd'
    assert proxy.echo('Gr\\xc3\\xb6\\xc3\\x9fe') == u'Gr\\xf6\\xdfe'
    assert proxy.echo(u'\\x1b[1m') == '[1m'
    assert proxy.moment().value == '20260309T04:05:06'
    assert proxy.echo(datetime.datetime(2026, 3, 9, 4, 5, 6)).value == '20260309T04:05:06'
    assert proxy.echo(xmlrpclib.Binary('\\x00\\xff')).data == '\\x00\\xff'
    assert proxy.echo({'a': [1, 2.5, True, {}]}) == {'a': [1, 2.5, True, {}]}
    assert len(proxy.echo('x' * 300000)) == 300000
    try:
        proxy.nope()
    except xmlrpclib.Fault as fault:
        assert fault.faultCode == -32601
    assert proxy.ping() is True
    assert len(opened) == 1, opened
    sys.stdout.write('all well')
"""


def test_a_stock_client_of_python_2(rig: Rig) -> None:
    program, environment = python2()
    rig.server.register_function(lambda: 2**40, "big_number")
    rig.server.register_function(lambda: datetime(2026, 3, 9, 4, 5, 6, tzinfo=UTC), "moment")
    done = subprocess.run(
        [program, "-c", textwrap.dedent(PYTHON_2).strip(), rig.url],
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout.decode(), done.stderr.decode()) == ("all well", "")


def test_integers_beyond_32_bits_reach_python_3(rig: Rig) -> None:
    rig.server.register_function(lambda: [2**31, -(2**63)], "big_numbers")
    with rig.proxy() as proxy:
        assert proxy.big_numbers() == [2**31, -(2**63)]


def test_curl(rig: Rig) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")
    for options in (
        ["--http1.0"],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Expect: 100-continue"],
        ["--compressed"],
    ):
        command = [curl, "-s", "-m", "10", "-H", "Content-Type: text/xml", *options, "--data-binary", "@-", rig.url]
        body = xmlrpc.client.dumps(("x" * 100_000,), "echo").encode()
        done = subprocess.run(command, input=body, capture_output=True, check=True)
        assert xmlrpc.client.loads(done.stdout)[0][0] == "x" * 100_000


# --- The library's contract ---


def test_registration() -> None:
    with serving() as rig:

        @rig.server.register_function
        def double(number: int) -> int:
            return 2 * number

        @rig.server.register_function(name="dreifach")
        def triple(number: int) -> int:
            return 3 * number

        with rig.proxy() as proxy:
            assert (proxy.double(4), proxy.dreifach(4)) == (8, 12)
        with pytest.raises(ValueError, match="dotted"):
            rig.server.register_instance(object(), allow_dotted_names=True)
        assert rig.server._dispatch("double", [2]) == 4


def test_an_address_in_use() -> None:
    with serving() as rig, pytest.raises(OSError, match="in use"):
        FarmServer(rig.address, rig.server.table, clock=FakeClock())


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")
    with serving(host="::1") as rig, rig.proxy() as proxy:
        assert proxy.whoami() == "::1"
    with serving(host="::") as rig:
        for address, peer in (("[::1]", "::1"), ("127.0.0.1", "127.0.0.1")):
            with xmlrpc.client.ServerProxy(f"http://{address}:{rig.address[1]}") as proxy:
                assert proxy.whoami() == peer
    with serving(host="localhost") as rig, rig.proxy() as proxy:
        assert proxy.whoami() in {"127.0.0.1", "::1"}


# --- Pages ---


def test_pages() -> None:
    with serving(get_page=pages) as rig:
        connection = http.client.HTTPConnection(*rig.address, timeout=PATIENCE_S)
        for method, path, status, text, kind in (
            ("GET", "/", 200, "Seite / · größer\n", "text/plain; charset=utf-8"),
            ("HEAD", "/", 200, "", "text/plain; charset=utf-8"),
            ("GET", "/jobs/view/12?x=1", 404, "Seite /jobs/view/12 · größer\n", "text/plain; charset=utf-8"),
            ("GET", "/metrics", 200, "up 1\n", "text/plain; version=0.0.4"),
            ("HEAD", "/fail", 500, "", "text/plain; charset=utf-8"),
            ("DELETE", "/", 405, "this server answers GET, HEAD and POST, not DELETE\n", "text/plain; charset=utf-8"),
        ):
            connection.request(method, path)
            answer = connection.getresponse()
            assert (answer.status, answer.read().decode()) == (status, text)
            assert answer.headers["Content-Type"] == kind
            if method == "HEAD":
                assert int(answer.headers["Content-Length"]) > 10
        assert rig.connections() == 1
        connection.close()


def test_a_page_that_fails_says_nothing_of_why(caplog: pytest.LogCaptureFixture) -> None:
    with serving(get_page=pages) as rig, rig.peer() as peer:
        peer.send("GET /fail HTTP/1.0\r\n\r\n")
        answer = peer.answer()
        assert (answer.status, "secret" in answer.text) == (500, False)
        assert peer.is_closed()
    assert "secret" in caplog.text


def test_no_pages(rig: Rig) -> None:
    with rig.peer() as peer:
        peer.send("GET / HTTP/1.1\r\n\r\n")
        assert peer.answer().status == 404


def test_posting_elsewhere_is_404(rig: Rig) -> None:
    with rig.peer() as peer:
        peer.send(request(path="/xmlrpc"), request())
        answer = peer.answer()
        assert (answer.status, answer.text) == (404, "calls are posted to /RPC2, not to /xmlrpc\n")
        assert peer.answer().value is True


# --- HTTP ---


def test_http_1_0_closes_unless_asked(rig: Rig) -> None:
    with rig.peer() as peer:
        peer.send(request(version="1.0", headers="Connection: keep-alive\r\n"), request(version="1.0"))
        first, second = peer.answer(), peer.answer()
        assert (first.value, first.headers.get("connection")) == (True, "keep-alive")
        assert (second.value, second.headers.get("connection")) == (True, "close")
        assert peer.is_closed()


def test_http_1_1_stays_open_unless_asked(rig: Rig) -> None:
    with rig.peer() as peer:
        peer.send(request())
        assert "connection" not in peer.answer().headers
        peer.send(request(headers="Connection: close\r\n"))
        assert peer.answer().headers["connection"] == "close"
        assert peer.is_closed()


def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    with rig.peer() as peer:
        count = 300
        for number in range(count):
            peer.send(request("echo" if number % 3 else "loopEcho", f"Nr. {number}"))
        assert [peer.answer().value for _ in range(count)] == [f"Nr. {number}" for number in range(count)]


def test_a_pipelined_call_waits_for_the_one_before(rig: Rig) -> None:
    with rig.peer() as peer:
        peer.send(request("park", "a"), request("park", "b"))
        rig.api.await_calls()
        with rig.proxy() as proxy:
            assert proxy.ping() is True
        assert rig.api.calls == ["a"]
        rig.api.parked[0].set_result("A")
        assert peer.answer().value == "A"
        rig.api.await_calls()
        rig.api.parked[1].set_result("B")
        assert peer.answer().value == "B"


def test_a_peer_that_closes_its_half_gets_all_its_answers(rig: Rig) -> None:
    with rig.peer() as peer:
        for number in range(100):
            peer.send(request("loopEcho" if number < 90 else "echo", number))
        peer.socket.shutdown(socket.SHUT_WR)
        assert [peer.answer().value for _ in range(100)] == list(range(100))
        assert peer.is_closed()


@pytest.mark.parametrize("step", [1, 7, 100])
def test_requests_in_small_pieces(rig: Rig, step: int) -> None:
    with rig.peer() as peer:
        data = request("echo", "größer") + request("echo", "b", headers="X: y\r\n")
        for start in range(0, len(data), step):
            peer.send(data[start : start + step])
        assert [peer.answer().value, peer.answer().value] == ["größer", "b"]


def test_empty_lines_between_requests_and_bare_newlines(rig: Rig) -> None:
    with rig.peer() as peer:
        body = b"<methodCall><methodName>ping</methodName></methodCall>"
        peer.send("\r\n", request(), "\r\n\r\n", request())
        peer.send(
            b"POST / HTTP/1.1\nHost: h\nContent-Type: text/xml\nContent-Length: %d\n\n%b" % (len(body), body), request()
        )
        assert [peer.answer().value for _ in range(4)] == [True] * 4


def test_heads_that_differ_are_read_anew(rig: Rig) -> None:
    with rig.peer() as peer:
        for size in (1, 1, 2, 20, 1, 3000, 1):
            peer.send(request("echo", "ü" * size))
            assert peer.answer().value == "ü" * size
        peer.send(request(), request(path="/x"), request())
        assert [peer.answer().status for _ in range(3)] == [200, 404, 200]


def test_authorization_is_ignored(rig: Rig) -> None:
    with xmlrpc.client.ServerProxy(rig.url.replace("http://", "http://käthe:geheim@")) as proxy:
        assert proxy.ping() is True
    with rig.peer() as peer:
        peer.send(request(headers="Authorization: Basic !!!not-base64\r\n"))
        assert peer.answer().value is True


def test_expect_100_continue(rig: Rig) -> None:
    with rig.peer() as peer:
        head, body = request("echo", "x" * 5000, headers="Expect: 100-continue\r\n").split(b"\r\n\r\n", 1)
        peer.send(head, b"\r\n\r\n")
        assert peer.answer().status == 100
        peer.send(body)
        assert peer.answer().value == "x" * 5000
        peer.send(head, b"\r\n\r\n", body)  # who does not wait is not told to go on
        assert peer.answer().status == 200


def test_expect_100_continue_with_too_large_a_body() -> None:
    with serving(Limits(max_request_bytes=1000)) as rig, rig.peer() as peer:
        peer.send("POST / HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        assert peer.answer().fault.faultCode == 10
        assert peer.is_closed()


def chunked(data: bytes, size: int) -> bytes:
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def test_chunked_requests(rig: Rig) -> None:
    with rig.peer() as peer:
        head = "POST /RPC2 HTTP/1.1\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
        for text in ("kurz", "ü" * 300_000):
            body = xmlrpc.client.dumps((text,), "echo").encode()
            peer.send(head, chunked(body, 1000), request())
            assert peer.answer().value == text
            assert peer.answer().value is True


def test_gzip_both_ways() -> None:
    with serving(Limits(gzip_min_bytes=10_000)) as rig, rig.peer() as peer:
        text = "Größe " * 50_000
        body = gzip.compress(xmlrpc.client.dumps((text,), "echo").encode())
        headers = "Content-Encoding: gzip\r\nAccept-Encoding: gzip\r\n"
        peer.send(request(body=body, headers=headers))
        answer = peer.answer()
        assert answer.headers["content-encoding"] == "gzip"
        answer.body = gzip.decompress(answer.body)
        assert answer.value == text
        peer.send(request(body=body, headers="Content-Encoding: gzip\r\n"))
        answer = peer.answer()
        assert "content-encoding" not in answer.headers
        assert answer.value == text
        peer.send(request("echo", "klein", headers="Accept-Encoding: gzip\r\n"))
        assert peer.answer().value == "klein"


def test_a_stock_client_that_packs_its_calls(rig: Rig) -> None:
    class Packing(xmlrpc.client.Transport):
        encode_threshold = 10

    with rig.proxy(transport=Packing()) as proxy:
        assert proxy.echo("ü" * 100_000) == "ü" * 100_000
        assert proxy.big(100_000) == "ü" * 100_000


# --- What is wrong is said, as a fault where that is possible ---


@pytest.mark.parametrize(
    ("body", "headers", "code", "said"),
    [
        (b"", "", -32700, "no element found"),
        (b"hello", "", -32700, "line 1"),
        (b"\xff\xfe", "", -32700, "well-formed"),
        (b"<!DOCTYPE x><methodCall/>", "", -32700, "document type"),
        (b"x", "Content-Encoding: gzip\r\n", -32700, "gzipped"),
        (b"x", "Content-Encoding: br\r\n", -32700, "'br'"),
        (gzip.compress(b"x" * 3_000_000), "Content-Encoding: gzip\r\n", 10, "unpacked"),
        (b"<methodCall><methodName>m</methodName><params><param>" + b"<value><array><data>" * 99, "", 10, "30"),
        (b"x" * 200_000, "", -32700, "line 1"),
        (b"<methodCall><methodName>__class__</methodName></methodCall>", "", -32601, "__class__"),
        (
            b"<methodCall><methodName>ping</methodName><params><param><value/></param></params></methodCall>",
            "",
            -32602,
            "ping()",
        ),
    ],
)
def test_what_is_wrong_with_a_call(body: bytes, headers: str, code: int, said: str) -> None:
    with serving(Limits(max_depth=30, max_request_bytes=2_000_000)) as rig, rig.peer() as peer:
        peer.send(request(body=body, headers=headers), request())
        answer = peer.answer()
        assert answer.status == 200
        assert answer.fault.faultCode == code
        assert said in answer.fault.faultString
        assert peer.answer().value is True


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HELLO\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET /\r\n", 400),
        (b"GET / HTTP/3.0\r\n", 505),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nbroken\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 3000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 3000 + b"\r\n\r\n", 431),
        (b"POST /elsewhere HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: 5000\r\n\r\n", 413),
    ],
)
def test_what_is_no_request_is_refused_in_text(data: bytes, status: int) -> None:
    with serving(Limits(max_head_bytes=1000, max_request_bytes=2000)) as rig, rig.peer() as peer:
        peer.send(data)
        answer = peer.answer()
        assert answer.status == status
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["connection"] == "close"
        assert answer.text.endswith("\n")
        assert peer.is_closed()


@pytest.mark.parametrize(
    "framing", ["Content-Length: 20000000", "Content-Length: 999999999999", "Transfer-Encoding: chunked"]
)
def test_too_large_a_body_is_a_fault_that_arrives(framing: str) -> None:
    """The caller is still sending when it is refused; closing then would reset the connection under the answer."""
    with serving(Limits(max_request_bytes=100_000)) as rig, rig.peer() as peer:
        peer.send(f"POST /RPC2 HTTP/1.1\r\nContent-Type: text/xml\r\n{framing}\r\n\r\n")
        for _ in range(300):
            peer.send(b"10000\r\n", b"x" * 65536, b"\r\n")
        answer = peer.answer()
        assert answer.fault.faultCode == 10
        assert "100000 bytes" in answer.fault.faultString
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.is_closed()


def test_too_large_a_call_of_a_stock_client() -> None:
    with serving(Limits(max_request_bytes=100_000)) as rig, rig.proxy() as proxy:
        for _ in range(2):
            with pytest.raises(xmlrpc.client.Fault) as caught:
                proxy.echo("x" * 10_000_000)
            assert caught.value.faultCode == 10
        assert proxy.ping() is True


# --- Where calls run ---


def test_where_calls_run(rig: Rig) -> None:
    with rig.proxy() as proxy:
        assert proxy.loopThreadName() == "loop"
        assert proxy.threadName().startswith("rpc-")
        assert not proxy.threadName().startswith("rpc-farm")
        assert proxy.loopThreadName("x" * 100_000).startswith("rpc-")
        assert proxy.farm.echo("x" * 100_000)[1].startswith("rpc-farm-")


def test_a_large_answer_is_marshalled_by_its_worker(rig: Rig) -> None:
    with rig.peer() as slow, rig.proxy() as proxy:
        slow.send(request("big", 4_000_000))
        for _ in range(50):
            assert proxy.ping() is True
        assert slow.answer().value == "ü" * 4_000_000


# --- Time limits, driven by a fake clock ---

TIMES = Limits(request_timeout_s=20, idle_timeout_s=100, write_timeout_s=30)


def test_a_request_has_a_time_limit_from_its_first_byte() -> None:
    clock = FakeClock()
    with serving(TIMES, clock) as rig, rig.peer() as slow, rig.peer() as slower, rig.peer() as body:
        whole = request()
        slow.send(whole[:10])
        body.send(whole[:-5])
        slower.send(request())
        assert slower.answer().value is True
        rig.until(lambda: sum(each._receiving for each in rig.server._connections) == 2)
        clock.advance(15)
        slow.send(whole[10:20])
        slower.send(whole[:10])
        rig.until(lambda: sum(each._receiving for each in rig.server._connections) == 3)
        clock.advance(6)
        for peer in (slow, body):
            answer = peer.answer()
            assert (answer.status, answer.text) == (408, "the request took longer than 20 s to arrive\n")
            assert peer.is_closed()
        slower.send(whole[10:])
        assert slower.answer().value is True


def test_a_connection_that_sends_nothing_is_closed() -> None:
    clock = FakeClock()
    with serving(TIMES, clock) as rig, rig.peer() as fresh, rig.peer() as used:
        used.send(request())
        assert used.answer().value is True
        rig.until(lambda: rig.connections() == 2)
        clock.advance(25)
        assert fresh.is_closed()
        rig.until(lambda: rig.connections() == 1)
        clock.advance(80)
        assert used.is_closed()


def test_nothing_is_closed_once_a_request_was_handed_on() -> None:
    clock = FakeClock()
    with serving(TIMES, clock) as rig, rig.peer() as peer:
        peer.send(request("park", "a"))
        rig.api.await_calls()
        clock.advance(10_000)
        with rig.proxy() as proxy:
            assert proxy.ping() is True
        rig.api.parked[0].set_result("A")
        assert peer.answer().value == "A"


def test_a_peer_that_does_not_read_is_closed_and_its_answer_dropped() -> None:
    clock = FakeClock()
    with serving(TIMES, clock) as rig, rig.peer() as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.send(request("big", 20_000_000), request("park", "never"))
        rig.until(lambda: rig.server.unsent > 0)
        clock.advance(25)
        with rig.proxy() as proxy:
            assert proxy.ping() is True
        assert rig.server.unsent > 30_000_000
        clock.advance(31)  # what the socket still took counts as reading
        rig.until(lambda: rig.connections() == 0)
        assert rig.server.unsent == 0
        assert rig.api.calls == []


def test_a_peer_that_reads_slowly_gets_its_answer() -> None:
    clock = FakeClock()
    with serving(TIMES, clock) as rig, rig.peer() as slow:
        slow.send(request("big", 10_000_000))
        rig.until(lambda: rig.server.unsent > 0)
        while len(slow.received) < 15_000_000:
            slow.received += slow.socket.recv(1_000_000)
            if len(slow.received) % 7 == 0:
                clock.advance(5)
        assert slow.answer().value == "ü" * 10_000_000


def test_large_answers_that_nobody_reads_are_bounded_together() -> None:
    with serving(Limits(max_unsent_bytes=20_000_000)) as rig, rig.peer() as deaf, rig.peer() as other:
        deaf.send(request("big", 6_000_000))
        rig.until(lambda: rig.server.unsent > 5_000_000)
        other.send(request("big", 6_000_000), request("big", 1000))
        assert other.answer().fault.faultCode == 53
        assert other.answer().value == "ü" * 1000
        assert deaf.answer().value == "ü" * 6_000_000
        other.send(request("big", 6_000_000))
        assert other.answer().value == "ü" * 6_000_000


def test_pipelined_requests_behind_a_busy_one_are_bounded() -> None:
    with serving() as rig, rig.peer() as peer:
        peer.send(request("park", "a"))
        rig.api.await_calls()
        peer.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.send(request("loopEcho", "x" * 10_000) * 10_000)
        (connection,) = rig.server._connections
        assert len(connection._inbox) < 400_000


# --- Peers that go away ---


def reset(peer: socket.socket) -> None:
    """Close so that the other side gets a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@pytest.mark.parametrize(
    "sent", [b"", b"POST /RPC2 HT", request()[:-10], request("big", 5_000_000), request("park", "x")]
)
@pytest.mark.parametrize("hard", [False, True])
def test_a_peer_that_leaves_disturbs_nobody(sent: bytes, hard: bool) -> None:
    with serving() as rig, rig.proxy() as proxy:
        assert proxy.ping() is True
        for _ in range(5):
            peer = rig.peer()
            peer.send(sent)
            if b"park" in sent:
                rig.api.await_calls()
            if hard:
                reset(peer.socket)
            else:
                peer.socket.close()
            assert proxy.ping() is True
        for future in rig.api.parked:
            future.set_result("nobody listens")
        rig.until(lambda: rig.connections() == 1)


def test_a_bug_in_one_connection_is_logged_and_closes_only_that(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = FarmServer.handle

    def broken(server: FarmServer, connection: Any, head: Any, body: bytes) -> None:
        if b"poison" in body:
            raise RuntimeError("a bug")
        handle(server, connection, head, body)

    monkeypatch.setattr(FarmServer, "handle", broken)
    with rig.peer() as peer, rig.proxy() as proxy:
        assert proxy.ping() is True
        peer.send(request("poison"))
        assert peer.is_closed()
        assert proxy.ping() is True
    assert "a bug" in caplog.text
    assert "Traceback" in caplog.text


# --- Too many ---


def test_the_cap_on_connections_says_so() -> None:
    with serving(Limits(max_connections=3)) as rig:
        peers = [rig.peer() for _ in range(3)]
        for peer in peers:
            peer.send(request())
            assert peer.answer().value is True
        with rig.peer() as fourth:
            fourth.send(request("echo", "x" * 100_000))
            answer = fourth.answer()
            assert answer.status == 503
            assert answer.headers["retry-after"]
            assert "3 connections" in answer.text
            assert fourth.is_closed()
        with pytest.raises(xmlrpc.client.ProtocolError) as caught, rig.proxy() as proxy:
            proxy.ping()
        assert caught.value.errcode == 503
        for peer in peers:
            peer.send(request())
            assert peer.answer().value is True
            peer.socket.close()
        rig.until(lambda: rig.connections() == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
def test_running_out_of_file_descriptors_does_not_spin(caplog: pytest.LogCaptureFixture) -> None:
    import resource  # noqa: PLC0415 - not on every platform

    with serving() as rig, rig.peer() as peer, contextlib.ExitStack() as hoard:
        peer.send(request())
        assert peer.answer().value is True
        waiting = hoard.enter_context(socket.socket())
        waiting.settimeout(PATIENCE_S)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        hoard.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                hoard.callback(os.close, os.dup(0))
        waiting.connect(rig.address)
        rig.until(lambda: rig.server._no_room)
        waiting.sendall(request())
        peer.send(request())
        assert peer.answer().value is True
        turns = count_turns(rig)
        before = caplog.text.count("cannot accept")
        rig.until(lambda: caplog.text.count("cannot accept") >= before + 2)  # it tries again, but once a second
        assert len(turns) < 1000
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200")


def count_turns(rig: Rig) -> list[None]:
    """Return a list that grows with each turn of the loop."""
    turns: list[None] = []
    select = rig.server.selector.select

    def counting(timeout: float | None = None) -> Any:
        turns.append(None)
        return select(timeout)

    rig.server.selector.select = counting  # type: ignore[method-assign]
    return turns
