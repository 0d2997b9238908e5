"""The client's own XML-RPC server: wakeup(), terminate(), ping()."""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from hqueue.deadline import DeadlineReader
from hqueue.errors import ConfigError, HQueueError, UnknownMethodError
from hqueue.service import Loop
from hqueue.wire import guard

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from hqueue.service import OnDeath

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
PATIENCE_S = 2.0  # with a caller that sends slowly or not at all; calls are answered one after the other
PORTS_TRIED = 200


class _Handler(SimpleXMLRPCRequestHandler):
    timeout = PATIENCE_S
    rpc_paths = ("/", "/RPC2")
    server: Listener

    def setup(self) -> None:
        """Have a request read whole within the patience, however slowly it comes."""
        super().setup()
        self.rfile.close()
        self.rfile = DeadlineReader(self.connection, PATIENCE_S).makefile("rb")

    def do_POST(self) -> None:  # noqa: N802 - the standard library's name
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_REQUEST_BYTES:
            self.send_error(413)
            return
        refused = guard.refusal(guard.Door(), "POST", self.path, self._header)
        if refused:
            self.rfile.read(int(length))  # closing with unread data would destroy the answer
            self.send_error(403, explain=refused)
            return
        try:
            super().do_POST()
        except OSError:
            self.close_connection = True

    def _header(self, name: str) -> str:
        return ", ".join(self.headers.get_all(name, []))

    def _dispatch(self, method: str, params: tuple[Any, ...]) -> bool:
        try:
            return self.server.answer(method, params, self.client_address[0])
        except HQueueError as error:
            raise Fault(error.code, error.message) from error


class Listener(SimpleXMLRPCServer):
    """Listens where the server (and people on this machine) can ring.

    `next_free` tries the ports above when the wanted one is taken. A farm whose server is on this machine's loopback is
    rung from there alone.
    Errors: ConfigError when no port can be had.
    """

    timeout = 0.2  # how late a stop may be noticed

    def __init__(
        self,
        port: int,
        server_host: str,
        *,
        next_free: bool,
        on_wakeup: Callable[[], None],
        on_terminate: Callable[[], None],
        on_death: OnDeath,
    ) -> None:
        self._server_host = server_host
        self._on_wakeup = on_wakeup
        self._on_terminate = on_terminate
        self._service = Loop("listener", self._serve, on_death)
        self.start = self._service.start
        address = "127.0.0.1" if all(_is_loopback(host) for host in _addresses(server_host) or ["?"]) else ""
        last = port + PORTS_TRIED if next_free and port else port
        for candidate in range(port, min(last, 65535) + 1):
            try:
                self.address_family, host = _family(address, server_host)
                super().__init__((host, candidate), requestHandler=_Handler, logRequests=False)
            except OSError as error:
                failure = error
            else:
                self.port = int(self.server_address[1])
                return
        raise ConfigError(
            f"port {port} cannot be listened on ({failure.strerror}): another client may run on this machine; "
            f"give this one a name and a listen_port of its own"
        )

    def stop(self) -> None:
        """Stop answering, for good."""
        self._service.stop()
        self.server_close()

    def _serve(self, stopping: threading.Event) -> None:
        try:
            while not stopping.is_set():
                self.handle_request()
        finally:
            self.server_close()  # those who rang meanwhile must not wait

    def server_bind(self) -> None:
        """Take the address; the one for all of them is for IPv4 too."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note that a caller broke off, or worse; the next one is served all the same."""
        del request
        log.info("a call from %s failed", client_address, exc_info=True)  # noqa: LOG014 - socketserver calls this in its handler

    def answer(self, method: str, params: tuple[Any, ...], peer: str) -> bool:
        """Carry out a call; the peer is the caller's address."""
        if method not in {"ping", "wakeup", "terminate"} or params:
            raise UnknownMethodError("a client has the methods ping(), wakeup() and terminate(), without arguments")
        if method == "terminate":
            if not _is_loopback(peer) and _plain(peer) not in _addresses(self._server_host):
                raise HQueueError(f"terminate() is taken from the server and from this machine only, not from {peer}")
            self._on_terminate()
        elif method == "wakeup":
            self._on_wakeup()
        return True


def _family(address: str, server_host: str) -> tuple[socket.AddressFamily, str]:
    """Return how and where to listen: on loopback as the server does, else on every address of both kinds."""
    if not address:
        return (socket.AF_INET6, "::") if socket.has_dualstack_ipv6() else (socket.AF_INET, "")
    if all(":" in each for each in _addresses(server_host)):
        return socket.AF_INET6, "::1"
    return socket.AF_INET, address


def _addresses(host: str) -> set[str]:
    try:
        return {_plain(str(entry[4][0])) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _plain(address: str) -> str:
    """Return an address without its zone, and an IPv4 one as such however it arrived."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(_plain(address)).is_loopback
    except ValueError:
        return False
