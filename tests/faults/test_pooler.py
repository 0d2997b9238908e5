"""A pooler between the server and PostgreSQL: one that hands transactions out to several sessions is refused."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import sqlalchemy as sa

from hqueue.errors import ConfigError
from hqueue.store import Store
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.databases("postgresql")
_ANNOUNCED: Final = ("server_version", "server_encoding", "client_encoding", "DateStyle", "standard_conforming_strings")


class Pooler:
    """Lets in whoever comes, and gives each two sessions of the database.

    leaves: tells from what was said in a transaction whether the next one goes to the other session.
    """

    def __init__(self, connect: Callable[[], Any], leaves: Callable[[bytes], bool]) -> None:
        self._connect = connect
        self._leaves = leaves
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._nears: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """End it, all its connections and their sessions."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for near in self._nears:
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._nears.append(near)
                self._threads.append(threading.Thread(target=self._serve, args=(near,)))
                self._threads[-1].start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            opened.enter_context(near)
            sessions = [opened.enter_context(contextlib.closing(self._connect())) for _ in range(2)]
            fars = [opened.enter_context(socket.socket(fileno=os.dup(each.fileno()))) for each in sessions]
            for far in fars:
                far.settimeout(None)
            near.recv(1 << 16)  # who it is, and what it wants
            near.sendall(_welcome(sessions[0].info))
            while True:
                said = _transaction(near, fars[0])
                if self._leaves(said):
                    fars.reverse()


def _welcome(info: Any) -> bytes:
    parts = [struct.pack("!cII", b"R", 8, 0)]
    for name in _ANNOUNCED:
        pair = f"{name}\0{info.parameter_status(name)}\0".encode()
        parts.append(struct.pack("!cI", b"S", len(pair) + 4) + pair)
    return b"".join([*parts, struct.pack("!cIII", b"K", 12, 1, 1), struct.pack("!cIc", b"Z", 5, b"I")])


def _transaction(near: socket.socket, far: socket.socket) -> bytes:
    """Carry a transaction from one side to the other; return what was said in it."""
    said = answered = b""
    while True:
        for source in select.select([near, far], [], [])[0]:
            data = source.recv(1 << 16)
            if not data:
                raise ConnectionError
            (far if source is near else near).sendall(data)
            if source is near:
                said += data
                continue
            answered += data
            while len(answered) >= 5 and len(answered) > (length := struct.unpack("!I", answered[1:5])[0]):
                message, answered = answered[: length + 1], answered[length + 1 :]
                if message == struct.pack("!cIc", b"Z", 5, b"I"):
                    return said


@pytest.fixture
def through(fresh_url: str) -> Iterator[Callable[[Callable[[bytes], bool]], str]]:
    """Return a function: the URL of a new database through a pooler that leaves a session when it is told to."""
    psycopg = pytest.importorskip("psycopg")
    url = sa.make_url(fresh_url)
    names = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    opened = contextlib.ExitStack()

    def make(leaves: Callable[[bytes], bool]) -> str:
        pooler = Pooler(lambda: psycopg.connect(**names, autocommit=True), leaves)
        opened.callback(pooler.close)
        way = url.set(host="127.0.0.1", port=pooler.port)
        way = way.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
        return way.render_as_string(hide_password=False)

    with opened:
        yield make


@pytest.mark.parametrize(
    "leaves",
    [
        pytest.param(lambda _: True, id="each transaction gets another session"),
        pytest.param(lambda said: b"pg_advisory_lock" in said, id="the lock stays behind in a session of its own"),
    ],
)
def test_a_pooler_that_takes_the_lock_away_is_refused(
    through: Callable[..., str], leaves: Callable[[bytes], bool]
) -> None:
    store = Store(through(leaves), clock=FakeClock(auto=True))
    with pytest.raises(ConfigError, match="pool_mode = session"):
        store.open()


def test_one_that_keeps_the_session_is_as_good_as_none(through: Callable[..., str]) -> None:
    store = Store(through(lambda _: False), clock=FakeClock(auto=True))
    store.open()
    try:
        with store.writing() as session:
            assert session.allocate("job") == 1
    finally:
        store.close()
