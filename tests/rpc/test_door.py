"""What the port does with the calls of web pages, through a socket; which calls those are: tests/unit/test_guard.py."""

from __future__ import annotations

import pytest

from hqueue.rpc.transport import Page
from tests.transport_rig import Answer, Rig, request, serving


def ask(rig: Rig, head: str, body: bytes = b"") -> Answer:
    with rig.peer() as peer:
        peer.send(head.replace("\n", "\r\n"), body)
        return peer.answer()


@pytest.mark.parametrize("kind", ["text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "text/xml"])
def test_a_foreign_page_calls_nothing(kind: str) -> None:
    body = request("park", "evil").partition(b"\r\n\r\n")[2]
    head = (
        f"POST /RPC2 HTTP/1.1\nHost: 127.0.0.1\nContent-Type: {kind}\nContent-Length: {len(body)}\n"
        "Origin: https://evil.example\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\n\n"
    )
    with serving() as rig:
        answer = ask(rig, head, body)
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        assert ("another site's page" in answer.text) is (kind == "text/xml")
        assert rig.api.calls == []


def test_it_is_refused_before_its_body_arrives() -> None:
    with serving() as rig:
        answer = ask(rig, "POST /RPC2 HTTP/1.1\nHost: h\nContent-Type: text/plain\nContent-Length: 50000000\n\n")
        assert answer.status == 403
        assert answer.text == "a call is posted as text/xml, not as text/plain\n"


def test_no_page_is_told_that_it_may() -> None:
    with serving() as rig:
        asked = "Access-Control-Request-Method: POST\nAccess-Control-Request-Headers: content-type\n"
        for host, status in (("127.0.0.1", 405), ("evil.example", 403)):
            answer = ask(rig, f"OPTIONS /RPC2 HTTP/1.1\nHost: {host}\nOrigin: https://evil.example\n{asked}\n")
            assert answer.status == status
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_name_that_is_not_ours_gets_no_page_either() -> None:
    with serving(get_page=lambda path: Page(200, f"page {path}\n")) as rig:
        browser = "Host: evil.example\nSec-Fetch-Site: none\n\n"
        assert ask(rig, f"GET /jobs/view/1 HTTP/1.1\n{browser}").status == 403
        assert ask(rig, f"GET /health HTTP/1.1\n{browser}").text == "page /health\n"
        assert ask(rig, "GET /jobs/view/1 HTTP/1.1\nHost: evil.example\n\n").text == "page /jobs/view/1\n"
        own = "GET / HTTP/1.1\nHost: localhost:5000\nSec-Fetch-Site: none\n\n"
        assert ask(rig, own).text == "page /\n"


def test_its_own_page_calls() -> None:
    with serving() as rig, rig.peer() as peer:
        host = "localhost:5000"
        for origin, status in ((f"http://{host}", 200), ("http://localhost", 403)):
            head, body = request("ping").split(b"Host: h\r\n")
            peer.send(head, f"Host: {host}\r\nOrigin: {origin}\r\nSec-Fetch-Site: same-origin\r\n", body)
            assert peer.answer().status == status
