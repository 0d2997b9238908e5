"""The server seen from the client: one connection, one call at a time, in a thread of its own."""

from __future__ import annotations

import http.client
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xmlrpc.client import Fault

from hqueue import __version__
from hqueue.deadline import response_within
from hqueue.errors import HQueueError
from hqueue.service import Consumer
from hqueue.wire import dumps_request, loads_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.client.conversation import Call
    from hqueue.service import OnDeath

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0  # of silence; a whole answer may take twice as long
MAX_ANSWER_BYTES = 256 << 20


class ServerLink:
    """Makes the calls it is given; `on_answer(call, value)` or `on_failure(call, error)` tells, in its own thread.

    `before` runs ahead of each call, in that thread too: what the server is told must be on the disk by then, and the
    daemon's loop does not wait for disks. `authorization` is a header for a proxy that asks for a login.
    """

    def __init__(
        self,
        url: str,
        *,
        before: Callable[[], None],
        on_answer: Callable[[Call, Any], None],
        on_failure: Callable[[Call, Exception], None],
        on_death: OnDeath,
        authorization: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self.host = parts.hostname or "127.0.0.1"
        self._port = parts.port
        self._path = parts.path if parts.path.strip("/") else "/RPC2"
        self._before = before
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._authorization = authorization
        self._timeout_s = timeout_s
        self._answer = response_within(2 * timeout_s)
        self._connection: http.client.HTTPConnection | None = None
        self._service: Consumer[Call] = Consumer("link", on_death, each=self._make, fail=on_failure)
        self.start = self._service.start
        self.busy = False  # set and cleared by the daemon's loop

    def make(self, call: Call) -> None:
        """Make a call; the one before it must have been answered."""
        self.busy = True
        self._service.put(call)

    def stop(self, seconds: float) -> None:
        """End the thread; a call under way may take up to `seconds` more, then it is left behind."""
        if self._service.stop(seconds):
            self._close()

    def _make(self, call: Call) -> None:
        try:
            self._before()
            value = self._exchange(dumps_request(call.method, call.params))
        except Fault as error:
            self._on_failure(call, error)
        except (OSError, http.client.HTTPException, HQueueError) as error:
            self._close()
            self._on_failure(call, error)
        except Exception as error:
            # A bug of ours; the client goes on, for one without a voice is a lost client.
            log.exception("%s could not be made", call.method)
            self._close()
            self._on_failure(call, error)
        else:
            self._on_answer(call, value)

    def _exchange(self, body: bytes) -> Any:
        kept = self._connection is not None
        try:
            return self._post(body)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # The server has closed an idle connection, or was restarted. All farm calls may be made twice.
            self._close()
            if not kept:
                raise
            return self._post(body)

    def _post(self, body: bytes) -> Any:
        connection = self._connection
        if connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            connection = self._connection = kind(self.host, self._port, timeout=self._timeout_s)
            connection.response_class = self._answer
        connection.putrequest("POST", self._path, skip_accept_encoding=True)
        connection.putheader("Content-Type", "text/xml")
        connection.putheader("User-Agent", f"hqclient/{__version__}")
        connection.putheader("Content-Length", str(len(body)))
        if self._authorization:
            connection.putheader("Authorization", self._authorization)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER_BYTES)
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"the server answered {response.status} {response.reason}")
        return loads_response(answer)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
