"""Who answers a whole request, and what becomes of the answer on its way back to the connection."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from hqueue import wire
from hqueue.errors import HQueueError, InternalError
from hqueue.rpc import http
from hqueue.rpc.introspection import as_fault
from hqueue.rpc.method import Method, Page, Where
from hqueue.service import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.rpc.connection import Connection
    from hqueue.rpc.dispatch import MethodTable
    from hqueue.rpc.http import Head, Limits
    from hqueue.service import OnDeath

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


class _Request:
    """A whole request in the hands of a worker, and whether there was an answer."""

    __slots__ = ("answered", "connection", "head", "task")

    def __init__(self, connection: Connection, head: Head) -> None:
        self.connection = connection
        self.head = head
        self.task: Callable[[], None] = _nothing
        self.answered = False


def _nothing() -> None:
    """Stand for a task that was not given yet."""


class RequestHandler:
    """Takes whole requests from the loop, has them done there or by workers, and posts the answers."""

    def __init__(
        self, table: MethodTable, host: Host, get_page: Callable[[str], Page] | None, on_death: OnDeath
    ) -> None:
        self._table = table
        self._host = host
        self._get_page = get_page

        def workers(name: str, threads: int) -> Consumer[_Request]:
            return Consumer(name, on_death, each=lambda request: request.task(), fail=self._fail, threads=threads)

        self._workers = {
            Where.WORKER: workers("rpc", host.limits.workers),
            Where.FARM: workers("rpc-farm", host.limits.farm_workers),
        }
        self._big_workers = workers("rpc-big", host.limits.big_workers)

    def start(self) -> None:
        """Start the workers."""
        for workers in (*self._workers.values(), self._big_workers):
            workers.start()

    def stop(self, within_s: float) -> None:
        """End the workers; what none has begun is answered with a fault, who takes longer is left behind."""
        for workers in (*self._workers.values(), self._big_workers):
            workers.stop(within_s)

    def handle(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        """Answer a request, on this thread or by a worker."""
        request = _Request(connection, head)
        if head.method == "POST":
            if head.path in http.RPC_PATHS:
                self._handle_call(request, body)
            else:
                text = f"calls are posted to /RPC2, not to {head.path[:200]}\n"
                self._post_page(request, Page(404, text))
        elif head.method not in {"GET", "HEAD"}:
            text = f"this server answers GET, HEAD and POST, not {head.method}\n"
            self._post_page(request, Page(405, text))
        elif self._get_page is None:
            self._post_page(request, Page(404, "there are no pages here\n"))
        else:
            request.task = partial(self._answer_page, request, self._get_page)
            self._workers[Where.WORKER].put(request)

    def _handle_call(self, request: _Request, body: bytes | bytearray) -> None:
        peer, deliver = request.connection.peer, partial(self._deliver, request)
        if request.head.coding or len(body) > self._host.limits.loop_body_bytes:
            found = _METHOD_NAME.search(body, 0, 1024)
            method = self._table.get(found[1].decode()) if found else None
            workers = self._workers[Where.WORKER]
            if method is not None and method.where is Where.FARM:
                workers = self._workers[Where.FARM]
            elif len(body) > self._host.limits.loop_body_bytes:
                workers = self._big_workers
            request.task = partial(self._read_and_answer, request, body, deliver, workers)
            workers.put(request)
            return
        try:
            name, params = wire.loads_request(body, max_depth=self._host.limits.max_depth)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            deliver(_fault(as_fault("reading a call", error)))
            return
        method = self._table.get(name)
        if method is None or method.place_of(params) is Where.LOOP:
            self._table.answer(name, params, peer, deliver)
        else:
            request.task = partial(self._table.answer, name, params, peer, deliver)
            self._workers_for(method, params).put(request)

    def _workers_for(self, method: Method, params: list[Any]) -> Consumer[_Request]:
        if method.where is Where.FARM:
            return self._workers[Where.FARM]
        return self._big_workers if self._table.is_big(method.name, params) else self._workers[Where.WORKER]

    # --- What workers do ---

    def _read_and_answer(
        self,
        request: _Request,
        body: bytes | bytearray,
        deliver: Callable[[list[bytes]], None],
        workers: Consumer[_Request],
    ) -> None:
        take, limits = request.connection.share.take, self._host.limits
        try:
            plain = http.decode_body(body, request.head.coding, limits.max_request_bytes, take)
            name, params = wire.loads_request(plain, max_depth=limits.max_depth)
        except Exception as error:  # noqa: BLE001 - as above
            deliver(_fault(as_fault("reading a call", error)))
            return
        answer = partial(self._table.answer, name, params, request.connection.peer, deliver)
        if workers is self._workers[Where.WORKER] and self._table.is_big(name, params):
            request.task = answer
            self._big_workers.put(request)
        else:
            answer()

    def _answer_page(self, request: _Request, get_page: Callable[[str], Page]) -> None:
        try:
            page = get_page(request.head.path)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("the page %.200r failed", request.head.path)
            page = Page(500, f"{InternalError().message}\n")
        self._post_page(request, page)

    def _fail(self, request: _Request, error: HQueueError) -> None:
        """Answer a request that no worker will."""
        if request.answered:
            return
        if request.head.method == "POST":
            self._deliver(request, _fault(error))
        else:
            self._post_page(request, Page(503, f"{error.message}\n"))

    def _post_page(self, request: _Request, page: Page) -> None:
        head = request.head
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
        request.answered = True
        self._host.post(request.connection, [text], keep=keep)

    def _deliver(self, request: _Request, pieces: list[bytes]) -> None:
        """Send an XML answer; called on whichever thread has it."""
        head = request.head
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        gzipped = head.accepts_gzip and size >= self._host.limits.gzip_min_bytes and not self._host.on_loop()
        if gzipped:
            pieces = http.gzip_pieces(pieces)
            size = sum(map(len, pieces))
        keep = head.keep_alive and not self._host.stopping
        pieces[0] = http.xml_head(head, size, gzipped=gzipped, keep=keep) + pieces[0]
        request.answered = True
        self._host.post(request.connection, pieces, keep=keep)


def _fault(error: HQueueError) -> list[bytes]:
    return [wire.dumps_fault(error.code, error.message)]
