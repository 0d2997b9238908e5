"""A proxy for XML-RPC over HTTP that loses, repeats and delays messages, and can be cut off altogether."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Coroutine

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Network:
    """The thread on which all proxies live."""

    def __init__(self, server_port: int, chances: random.Random) -> None:
        self.server_port = server_port
        self.chances = chances
        self.counts: Counter[str] = Counter()
        self.calm = threading.Event()  # set: messages pass as they are
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def path(self) -> Path:
        """Return a new way to the server."""
        path = Path(self)
        self.run(self._open(path))
        return path

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Do something on the thread, and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        """End all connections and the thread."""
        self.run(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _open(self, path: Path) -> None:
        server = await asyncio.start_server(path.serve, "127.0.0.1", 0)
        path.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)

    async def _end_all(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Path:
    """One way to the server. `cut`: "" it works, "refused" nobody gets through, "silent" nothing is ever answered."""

    def __init__(self, network: Network) -> None:
        self.port = 0
        self.cut = ""
        self._network = network
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry the messages of one connection."""
        onwards: list[_Streams] = []  # the connection to the server, once there is one
        try:
            while message := await _message(reader):
                answer = await self._carry(message, onwards)
                if not answer:
                    return
                writer.write(answer)
                await writer.drain()
        except (OSError, EOFError, ValueError, asyncio.CancelledError):
            return
        finally:
            for each in (writer, *(stream for _, stream in onwards)):
                each.close()

    async def _carry(self, message: bytes, onwards: list[_Streams]) -> bytes:
        """Return the answer; no answer: the caller's connection is to be closed."""
        network, chances = self._network, self._network.chances
        await self._silence()
        if self.cut:
            return b""
        fate = 1.0 if network.calm.is_set() else chances.random()
        if fate < 0.02:
            network.counts["requests lost"] += 1
            return b""
        if fate < 0.10:
            network.counts["messages delayed"] += 1
            await asyncio.sleep(chances.uniform(0.05, 1.0))
        if not onwards:
            onwards.append(await asyncio.open_connection("127.0.0.1", network.server_port))
        answer = await _exchange(message, onwards[0])
        if fate > 0.96 and fate != 1.0:
            network.counts["messages repeated"] += 1
            self._later(self._repeat(message, chances.uniform(0.0, 3.0)))
        elif fate > 0.94 and fate != 1.0:
            network.counts["answers lost"] += 1
            return b""
        await self._silence()
        network.counts["messages passed"] += 1
        return answer

    async def _silence(self) -> None:
        """Wait until it is over."""
        while self.cut == "silent":  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.1)

    async def _repeat(self, message: bytes, delay_s: float) -> None:
        """Let a message arrive once more, perhaps after later ones; nobody is told the answer."""
        await asyncio.sleep(delay_s)
        if self.cut:
            return
        with contextlib.suppress(OSError, EOFError):
            onwards = await asyncio.open_connection("127.0.0.1", self._network.server_port)
            try:
                await _exchange(message, onwards)
            finally:
                onwards[1].close()

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _exchange(message: bytes, onwards: _Streams) -> bytes:
    reader, writer = onwards
    writer.write(message)
    await writer.drain()
    answer = await _message(reader)
    if not answer:
        raise ConnectionResetError
    return answer


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return a whole request or answer; b"" when the connection was closed before one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    raise ValueError(head)
