"""Bytes and connections that all callers share: who has to make way when there is no room."""

from __future__ import annotations

import contextlib
import gzip
import resource
import xmlrpc.client

import pytest

from hqueue.rpc import room
from hqueue.rpc.transport import Limits, Page
from tests.fakes import FakeClock
from tests.transport_rig import Answer, Peer, Rig, request, serving

PART = 400_000
WHOLE = request("echo", "x" * 500_000)
BUDGET = Limits(max_received_bytes=1_000_000, request_timeout_s=60)


def send_part(rig: Rig, peer: Peer) -> None:
    """Send so much of a request, and return when the server has it."""
    before = rig.server.received.used
    peer.send(WHOLE[:PART])
    rig.until(lambda: rig.server.received.used > before + PART - 1000)


def send_and_hear(peer: Peer, data: bytes) -> Answer:
    with contextlib.suppress(ConnectionError):  # refused while it is still sending
        peer.send(data)
    return peer.answer()


def read_all(peer: Peer) -> bytes:
    """Return what comes before the server's end of the connection."""
    pieces = [b"x"]
    with contextlib.suppress(ConnectionResetError):
        while pieces[-1]:
            pieces.append(peer.socket.recv(1_000_000))
    return b"".join(pieces[1:])


# --- Requests ---


def test_large_requests_are_bounded_together() -> None:
    with serving(BUDGET, FakeClock()) as rig, rig.peer() as first, rig.peer() as second, rig.peer() as third:
        send_part(rig, first)
        send_part(rig, second)
        answer = send_and_hear(third, WHOLE)
        assert answer.fault.faultCode == 53
        assert "try again shortly" in answer.fault.faultString
        with rig.proxy() as proxy:
            assert proxy.echo("y" * 30_000) == "y" * 30_000
        for peer in (first, second):
            peer.send(WHOLE[PART:])
            assert peer.answer().value == "x" * 500_000
        rig.until(lambda: rig.server.received.used == 0)


def test_a_request_that_stands_still_makes_way(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    with serving(BUDGET, clock) as rig, rig.peer() as oldest, rig.peer() as moving, rig.peer() as newest:
        send_part(rig, oldest)
        clock.advance(4)
        send_part(rig, moving)
        clock.advance(2)
        newest.send(WHOLE)
        assert newest.answer().value == "x" * 500_000
        assert oldest.answer().fault.faultCode == 53
        moving.send(WHOLE[PART:])
        assert moving.answer().value == "x" * 500_000
        rig.until(lambda: rig.server.received.used == 0)
    assert "the request of 127.0.0.1 stands still" in caplog.text


def test_who_leaves_gives_back_what_it_held() -> None:
    with serving(BUDGET) as rig:
        for _ in range(5):
            with rig.peer() as peer:
                send_part(rig, peer)
            rig.until(lambda: rig.server.received.used == 0)


def test_a_request_counts_until_it_is_answered() -> None:
    with serving(Limits(max_received_bytes=1_000_000, loop_body_bytes=1_000)) as rig:
        with rig.peer() as working, rig.peer() as other:
            working.send(request("block", "x" * 800_000))
            rig.api.await_calls()
            assert rig.server.received.used > 800_000
            assert send_and_hear(other, WHOLE).fault.faultCode == 53
            rig.api.gate.set()
            assert working.answer().value == "x" * 800_000
        assert rig.server.received.used == 0


def test_what_is_unpacked_counts_too() -> None:
    packed = gzip.compress(xmlrpc.client.dumps(("x" * 1_500_000,), "echo").encode())
    with serving(BUDGET) as rig, rig.peer() as peer:
        peer.send(request(body=packed, headers="Content-Encoding: gzip\r\n"), request())
        assert peer.answer().fault.faultCode == 53
        assert peer.answer().value is True
        assert rig.server.received.used == 0


# --- Answers ---


def test_an_answer_that_is_not_read_makes_way(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    limits = Limits(max_unsent_bytes=20_000_000, write_timeout_s=60)
    with serving(limits, clock) as rig, rig.peer() as deaf, rig.peer() as other:
        deaf.send(request("big", 6_000_000))
        rig.until(lambda: rig.server.unsent > 5_000_000)
        before = 0
        while rig.server.unsent != before:  # until the peer's system takes no more: a call and its answer lie between
            before = rig.server.unsent
            other.send(request("big", 1))
            assert other.answer().value == "ü"
        clock.advance(6)
        other.send(request("big", 6_000_000))
        assert other.answer().value == "ü" * 6_000_000
        assert rig.server.unsent == 0
        assert len(read_all(deaf)) < 12_000_000
    assert "the answer to 127.0.0.1 is not read" in caplog.text


def test_a_page_there_is_no_room_for_says_so() -> None:
    limits = Limits(max_unsent_bytes=5_000_000)
    with serving(limits, get_page=lambda _path: Page(200, "x" * 6_000_000)) as rig, rig.peer() as peer:
        peer.send("GET / HTTP/1.1\r\n\r\n")
        answer = peer.answer()
        assert (answer.status, answer.text) == (503, "too many large answers wait to be read; try again shortly\n")


def test_time_to_take_an_answer_is_in_proportion_to_its_size() -> None:
    clock = FakeClock()
    size = 10_000_000
    with serving(Limits(write_timeout_s=30, slowest_bytes_per_s=size // 10), clock) as rig, rig.peer() as slow:
        slow.send(request("big", size))
        rig.until(lambda: rig.server.unsent > 0)
        (connection,) = rig.server._connections
        began = clock.monotonic()
        while not connection.closed:  # a piece within each 25 s, so that the limit for a piece is kept
            clock.advance(25)
            while connection.moved_at < clock.monotonic() and not connection.closed:
                if not slow.socket.recv(1_000_000):
                    break
            rig.until(lambda: rig.server._next_sweep > clock.monotonic())
        assert 50 <= clock.monotonic() - began <= 75  # 30 s, and 20 for its 20 MB


# --- Connections ---


def test_an_idle_connection_makes_way_when_there_are_too_many() -> None:
    clock = FakeClock()
    with serving(Limits(max_connections=3), clock) as rig:
        idle, busy, fresh = rig.peer(), rig.peer(), rig.peer()
        for peer in (idle, fresh):
            peer.send(request())
            assert peer.answer().value is True
        busy.send(request("park", "x"))
        rig.api.await_calls()
        clock.advance(11)
        fresh.send(request())
        assert fresh.answer().value is True
        with rig.peer() as newcomer:
            newcomer.send(request())
            assert newcomer.answer().value is True
            assert idle.is_closed()
            with rig.peer() as another:
                another.send(request())
                assert another.answer().status == 503
        rig.api.parked[0].set_result("X")
        assert busy.answer().value == "X"
        fresh.send(request())
        assert fresh.answer().value is True
        for peer in (idle, busy, fresh):
            peer.socket.close()


@pytest.fixture
def files() -> object:
    """Restore the limits of this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("soft", "wanted", "sessions", "taken"),
    [
        (1024, 4096, 40, 1024 - 96 - 120 - 64),
        (1024, 100, 40, 100),
        (300, 4096, 40, 75),
        (1000, 4096, 0, 840),
    ],
)
def test_connections_are_what_the_descriptors_allow(soft: int, wanted: int, sessions: int, taken: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert room.connections_within(wanted, sessions) == (taken, soft)


def test_the_soft_limit_is_raised_to_the_hard_one(files: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, files[1]))
    room.raise_descriptor_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (files[1], files[1])
