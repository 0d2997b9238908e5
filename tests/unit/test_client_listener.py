from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from typing import TYPE_CHECKING

import pytest

from hqueue.client.listener import Listener
from hqueue.errors import ConfigError, HQueueError, UnknownMethodError
from tests.fakes import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bell:
    def __init__(self, server: str = "192.0.2.7", *, port: int = 0, next_free: bool = False) -> None:
        self.rung: list[str] = []
        self.door = Listener(
            port,
            server,
            next_free=next_free,
            on_wakeup=lambda: self.rung.append("wakeup"),
            on_terminate=lambda: self.rung.append("terminate"),
            on_death=print,
        )


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.door.server_close()


def test_anybody_may_wake_it(bell: Bell) -> None:
    assert bell.door.answer("ping", (), "198.51.100.1") is True
    assert bell.door.answer("wakeup", (), "198.51.100.1") is True
    assert bell.rung == ["wakeup"]


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "192.0.2.7", "::ffff:192.0.2.7", "::ffff:127.0.0.1"])
def test_the_server_and_this_machine_may_terminate_it(bell: Bell, peer: str) -> None:
    assert bell.door.answer("terminate", (), peer) is True
    assert bell.rung == ["terminate"]


@pytest.mark.parametrize("peer", ["192.0.2.8", "::ffff:192.0.2.8", "2001:db8::1", "größe"])
def test_nobody_else_may(bell: Bell, peer: str) -> None:
    with pytest.raises(HQueueError, match="from the server and from this machine only"):
        bell.door.answer("terminate", (), peer)
    assert bell.rung == []


def test_it_has_three_methods_without_arguments(bell: Bell) -> None:
    for method, arguments in (("shutdown", ()), ("system.listMethods", ()), ("wakeup", (1,))):
        with pytest.raises(UnknownMethodError):
            bell.door.answer(method, arguments, "127.0.0.1")


def test_a_taken_port_and_the_next_free_one(bell: Bell) -> None:
    with pytest.raises(ConfigError, match=f"port {bell.door.port} "):
        Bell(port=bell.door.port)
    other = Bell(port=bell.door.port, next_free=True)
    assert other.door.port > bell.door.port
    other.door.server_close()


def posted(bell: Bell, host: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    """Ring over a socket, and return status and text."""
    bell.door.start()
    connection = http.client.HTTPConnection(host, bell.door.port, timeout=PATIENCE_S)
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/RPC2", xmlrpc.client.dumps((), "wakeup"), said)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    bell.door.stop()
    return answer.status, text


def test_a_program_rings(bell: Bell) -> None:
    assert posted(bell, Content_Type="text/xml")[0] == 200
    assert bell.rung == ["wakeup"]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content_Type": "text/plain"}, "not as text/plain"),
        ({"Content_Type": "text/xml", "Origin": "https://evil.example"}, "a page of https://evil.example"),
        ({"Content_Type": "text/xml", "Sec_Fetch_Site": "same-site"}, "another site"),
        ({"Content_Type": "text/xml", "Sec_Fetch_Site": "same-origin", "Host": "evil.example"}, "is for evil.example"),
    ],
)
def test_a_web_page_does_not(bell: Bell, headers: dict[str, str], said: str) -> None:
    status, text = posted(bell, **headers)
    assert (status, said in text) == (403, True)
    assert bell.rung == []


def test_it_is_rung_on_ipv6_as_well(bell: Bell) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("another system: there is no IPv6 here")
    assert posted(bell, "::1", Content_Type="text/xml")[0] == 200
    local = Bell("::1")
    assert local.door.server_address[0] == "::1"
    assert posted(local, "::1", Content_Type="text/xml")[0] == 200
    assert local.rung == ["wakeup"]


def test_a_farm_on_this_machine_alone_is_rung_from_this_machine_alone() -> None:
    bell = Bell("127.0.0.1")
    assert bell.door.server_address[0] == "127.0.0.1"
    bell.door.server_close()
