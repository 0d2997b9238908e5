from __future__ import annotations

import http.client
import socket
import threading
import xmlrpc.client
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from hqueue.cli.connection import Farm, Place, UnreachableError
from hqueue.client.conversation import Call
from hqueue.client.link import ServerLink
from hqueue.client.listener import Listener
from hqueue.deadline import DeadlineReader, response_within
from hqueue.live import LiveClient, LiveFarm
from hqueue.wakeups import Wakeups
from tests.fakes import PATIENCE_S, FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
TRUE = xmlrpc.client.dumps((True,), methodresponse=True).encode()


def receive(connection: socket.socket) -> bytes:
    """Return a whole request: a head, and the body it announces."""
    head = body = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(length - len(body))
    return head + body


@contextmanager
def served(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Serve connections with a function, one after the other, and return the port."""
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            with suppress(OSError), listener.accept()[0] as connection:
                answer(connection, stopped)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            thread.join()


def drip(connection: socket.socket, stopped: threading.Event) -> None:
    """Answer a byte at a time, each well within any time-out for silence, for longer than anybody waits."""
    receive(connection)
    connection.sendall(ANSWER % 1_000_000)
    while not stopped.wait(0.02):
        connection.sendall(b"x")


def test_each_read_is_in_time_but_not_all_of_them() -> None:
    clock = FakeClock()
    ours, theirs = socket.socketpair()
    with ours, theirs, DeadlineReader(ours, 2.0, clock) as reader:
        ours.settimeout(5.0)
        theirs.sendall(b"abc")
        assert reader.read(1) == b"a"
        clock.advance(1.5)
        assert reader.read(1) == b"b"
        clock.advance(0.5)
        with pytest.raises(TimeoutError, match="too slowly"):
            reader.read(1)


def test_a_connection_that_is_kept_gets_the_whole_time_for_each_answer() -> None:
    def twice(connection: socket.socket, _stopped: threading.Event) -> None:
        for _ in range(2):
            receive(connection)
            connection.sendall(ANSWER % len(TRUE) + TRUE)

    with served(twice) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.response_class = response_within(PATIENCE_S)
        for _ in range(2):
            connection.request("POST", "/RPC2", b"x")
            assert connection.getresponse().read() == TRUE
        connection.close()


def test_a_server_that_drips_its_answer_does_not_hold_a_client_or_hq() -> None:
    failures: list[BaseException] = []
    failed = threading.Event()

    def on_failure(_call: Call, error: Exception) -> None:
        failures.append(error)
        failed.set()

    with served(drip) as port:
        url = f"http://127.0.0.1:{port}"
        link = ServerLink(
            url,
            before=lambda: None,
            on_answer=lambda *_: None,
            on_failure=on_failure,
            on_death=failures.append,
            timeout_s=0.2,
        )
        link.start()
        link.make(Call("farm.register", ()))
        assert failed.wait(PATIENCE_S)
        link.stop(PATIENCE_S)
        assert isinstance(failures[0], TimeoutError)
        with Farm(Place(url, "from here"), 0.2) as farm, pytest.raises(UnreachableError, match=r"within 0\.2 s"):
            farm.call("ping")


def test_a_client_tells_a_proxy_its_login() -> None:
    requests: list[bytes] = []
    answers: list[Any] = []
    answered = threading.Event()

    def answer(connection: socket.socket, _stopped: threading.Event) -> None:
        requests.append(receive(connection))
        connection.sendall(ANSWER % len(TRUE) + TRUE)

    def on_answer(_call: Call, value: Any) -> None:
        answers.append(value)
        answered.set()

    with served(answer) as port:
        link = ServerLink(
            f"http://127.0.0.1:{port}",
            before=lambda: None,
            on_answer=on_answer,
            on_failure=lambda *_: None,
            on_death=answers.append,
            authorization="Basic YsOkcjpnZWhlaW0=",
        )
        link.start()
        link.make(Call("farm.register", ()))
        assert answered.wait(PATIENCE_S)
        link.stop(PATIENCE_S)
    assert answers == [True]
    assert b"\r\nAuthorization: Basic YsOkcjpnZWhlaW0=\r\n" in requests[0]


def test_clients_that_drip_their_answers_keep_nobody_from_being_woken() -> None:
    woken = threading.Event()

    def ring(connection: socket.socket, _stopped: threading.Event) -> None:
        receive(connection)
        connection.sendall(ANSWER % len(TRUE) + TRUE)
        woken.set()

    deaths: list[BaseException] = []
    clock = FakeClock()
    farm = LiveFarm(clock)
    wakeups = Wakeups(farm, clock, deaths.append)
    with served(drip) as one, served(drip) as two, served(drip) as three, served(drip) as four, served(ring) as well:
        for number, port in enumerate((one, two, three, four, well), 1):
            farm.enter(LiveClient(number, "träge", "k", 1, ip="127.0.0.1", port=port))
        wakeups.start()
        for number in range(1, 6):
            wakeups.wake(number)
        assert woken.wait(PATIENCE_S)
        stopped = threading.Thread(target=wakeups.stop)
        stopped.start()
        stopped.join(PATIENCE_S)
        assert not stopped.is_alive()
    assert not deaths


def test_a_caller_that_drips_its_request_does_not_hold_a_clients_port() -> None:
    rung = threading.Event()
    deaths: list[BaseException] = []
    listener = Listener(
        0, "127.0.0.1", next_free=False, on_wakeup=rung.set, on_terminate=lambda: None, on_death=deaths.append
    )
    listener.start()
    stopped = threading.Event()
    accepted = threading.Event()

    def pester() -> None:
        with socket.create_connection(("127.0.0.1", listener.port)) as connection, suppress(OSError):
            while not stopped.wait(0.02):
                connection.sendall(b"x")
                accepted.set()

    thread = threading.Thread(target=pester)
    thread.start()
    try:
        assert accepted.wait(PATIENCE_S)
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{listener.port}") as proxy:
            answer = threading.Thread(target=proxy.wakeup)
            answer.start()
            assert rung.wait(PATIENCE_S)
            answer.join()
    finally:
        stopped.set()
        thread.join()
        listener.stop()
    assert not deaths
