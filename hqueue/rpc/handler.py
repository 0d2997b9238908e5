"""Who answers a whole request, and what becomes of the answer on its way back to the connection."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

from hqueue import wire
from hqueue.errors import HQueueError, InternalError
from hqueue.rpc import http
from hqueue.rpc.introspection import as_fault
from hqueue.rpc.method import Method, Page, Where

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.rpc.connection import Connection
    from hqueue.rpc.dispatch import MethodTable
    from hqueue.rpc.http import Head, Limits


_log = logging.getLogger(__name__)


class Workers:
    """A fixed number of threads over one queue.

    The standard library's executor makes a Future per task and keeps the process alive for a thread that hangs; neither
    is wanted here: answers are delivered by the task itself, and a stopping server waits for them, not for threads.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._count = threads
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads, once."""
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
                for number in range(1, self._count + 1)
            ]
            for thread in self._threads:
                thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done."""
        self._tasks.put(task)

    def stop(self) -> None:
        """Let each thread end after the task it has; what is still queued is dropped."""
        with contextlib.suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:  # noqa: BLE001 - a task's bug must not cost the thread that serves everybody after it
                _log.exception("a call could not be answered")
            del task  # and with it a body of tens of megabytes, while this thread waits for the next


_log = logging.getLogger(__name__)

_METHOD_NAME: Final = re.compile(rb"<methodName>\s*([\w.]{1,60})\s*</methodName>")


class Host(Protocol):
    """The server, as far as it is needed here."""

    limits: Limits
    stopping: bool

    def on_loop(self) -> bool:
        """Tell whether this is the loop's own thread."""

    def post(self, connection: Connection, pieces: list[bytes], *, keep: bool) -> None:
        """Send an answer, from whichever thread has it."""


class RequestHandler:
    """Takes whole requests from the loop, has them done there or by workers, and posts the answers."""

    def __init__(self, table: MethodTable, host: Host, get_page: Callable[[str], Page] | None) -> None:
        self._table = table
        self._host = host
        self._get_page = get_page
        self._workers = {
            Where.WORKER: Workers("rpc", host.limits.workers),
            Where.FARM: Workers("rpc-farm", host.limits.farm_workers),
        }
        self._big_workers = Workers("rpc-big", host.limits.big_workers)

    def start(self) -> None:
        """Start the workers."""
        for workers in (*self._workers.values(), self._big_workers):
            workers.start()

    def stop(self) -> None:
        """Let the workers end; what no worker has begun is dropped."""
        for workers in (*self._workers.values(), self._big_workers):
            workers.stop()

    def handle(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        """Answer a request, on this thread or by a worker."""
        if head.method == "POST":
            if head.path in http.RPC_PATHS:
                self._handle_call(connection, head, body)
            else:
                text = f"calls are posted to /RPC2, not to {head.path[:200]}\n"
                self._post_page(connection, head, Page(404, text))
        elif head.method not in {"GET", "HEAD"}:
            text = f"this server answers GET, HEAD and POST, not {head.method}\n"
            self._post_page(connection, head, Page(405, text))
        elif self._get_page is None:
            self._post_page(connection, head, Page(404, "there are no pages here\n"))
        else:
            self._workers[Where.WORKER].submit(partial(self._answer_page, connection, head, self._get_page))

    def _handle_call(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        deliver = partial(self._deliver, connection, head)
        if head.coding or len(body) > self._host.limits.loop_body_bytes:
            found = _METHOD_NAME.search(body, 0, 1024)
            workers = self._workers_for(self._table.get(found[1].decode()) if found else None)
            workers.submit(partial(self._read_and_answer, connection, head, body, deliver))
            return
        try:
            name, params = wire.loads_request(body, max_depth=self._host.limits.max_depth)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            deliver(_fault(as_fault("reading a call", error)))
            return
        method = self._table.get(name)
        if method is None or method.place_of(params) is Where.LOOP:
            self._table.answer(name, params, connection.peer, deliver)
        else:
            self._workers_for(method).submit(partial(self._table.answer, name, params, connection.peer, deliver))

    def _workers_for(self, method: Method | None) -> Workers:
        if method is not None and method.big:
            return self._big_workers
        return self._workers[Where.FARM if method is not None and method.where is Where.FARM else Where.WORKER]

    # --- What workers do ---

    def _read_and_answer(
        self,
        connection: Connection,
        head: Head,
        body: bytes | bytearray,
        deliver: Callable[[list[bytes]], None],
    ) -> None:
        try:
            plain = http.decode_body(body, head.coding, self._host.limits.max_request_bytes, connection.share.take)
            name, params = wire.loads_request(plain, max_depth=self._host.limits.max_depth)
        except Exception as error:  # noqa: BLE001 - as above
            deliver(_fault(as_fault("reading a call", error)))
            return
        self._table.answer(name, params, connection.peer, deliver)

    def _answer_page(self, connection: Connection, head: Head, get_page: Callable[[str], Page]) -> None:
        try:
            page = get_page(head.path)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("the page %.200r failed", head.path)
            page = Page(500, f"{InternalError().message}\n")
        self._post_page(connection, head, page)

    def _post_page(self, connection: Connection, head: Head, page: Page) -> None:
        keep = head.keep_alive and not self._host.stopping
        only_head = head.method == "HEAD"
        text = http.text_answer(
            page.status,
            page.text,
            page.content_type,
            old=head.old,
            keep=keep,
            only_head=only_head,
        )
        self._host.post(connection, [text], keep=keep)

    def _deliver(self, connection: Connection, head: Head, pieces: list[bytes]) -> None:
        """Send an XML answer; called on whichever thread has it."""
        size = sum(map(len, pieces))
        gzipped = head.accepts_gzip and size >= self._host.limits.gzip_min_bytes and not self._host.on_loop()
        if gzipped:
            pieces = http.gzip_pieces(pieces)
            size = sum(map(len, pieces))
        keep = head.keep_alive and not self._host.stopping
        pieces[0] = http.xml_head(head, size, gzipped=gzipped, keep=keep) + pieces[0]
        self._host.post(connection, pieces, keep=keep)


def _fault(error: HQueueError) -> list[bytes]:
    return [wire.dumps_fault(error.code, error.message)]
