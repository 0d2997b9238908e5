"""Which server hq talks to, who said so, and every way in which talking to it can fail."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from xml.parsers.expat import ExpatError

from hqueue.cli.program import ComplaintError
from hqueue.config import address_url, load_client_config, server_address
from hqueue.config.ini import find_ini
from hqueue.deadline import response_within
from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVER_VARIABLES: Final = ("HQUEUE_SERVER", "HQSERVER", "HOUDINI_HQUEUE_SERVER")
DEFAULT_SERVER: Final = "http://127.0.0.1:5000"
# A submission of many thousands of jobs, on a server that has just been given several of them.
TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Place:
    """Where the server is; `origin` says who told us, and follows the address in brackets."""

    url: str
    origin: str
    authorization: str = field(default="", repr=False)


def find_server(option: str | None, environ: Mapping[str, str]) -> Place:
    """Return the server to talk to: the option's, a variable's, that of hqnode.ini, or the one on this machine.

    Errors: ConfigError, one sentence, for an address or an ini that cannot be used.
    """
    if option is not None:
        return _said(option, "--server")
    for variable in SERVER_VARIABLES:
        if environ.get(variable):
            return _said(environ[variable], variable)
    path = find_ini("hqnode.ini", environ, folder=Path.cwd())
    if path is not None:
        # Only the server matters here: what variables say of a client on this machine is none of our business.
        others = {name: text for name, text in environ.items() if not name.startswith("HQUEUE_")}
        config = load_client_config(path, environ=others)
        return Place(config.server_url, f"from {path}", config.server.authorization)
    return Place(DEFAULT_SERVER, "the default, as nothing names a server")


def _said(text: str, by: str) -> Place:
    try:
        address = server_address(text.strip())
        return Place(address_url(address), f"from {by}", address.authorization)
    except ConfigError as error:
        raise ConfigError(f"{by}: {error.message}") from None


class FaultError(ComplaintError):
    """The server refused a call, with a code and a sentence."""

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


class UnreachableError(ComplaintError):
    """The server did not answer; `arrived`: it may have taken the call all the same."""

    def __init__(self, sentence: str, *, arrived: bool = False) -> None:
        self.arrived = arrived
        super().__init__(sentence)


class Farm:
    """The server's methods, by name; what goes wrong comes out as FaultError, UnreachableError or ComplaintError."""

    def __init__(self, place: Place, timeout_s: float = TIMEOUT_S) -> None:
        self._place = place
        self._timeout_s = timeout_s
        self._proxy = xmlrpc.client.ServerProxy(
            f"{place.url}/RPC2",
            transport=_Transport(timeout_s, place.authorization),
            allow_none=True,
            use_builtin_types=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy("close")()

    @property
    def url(self) -> str:
        """Return the server's address."""
        return self._place.url

    def call(self, method: str, *params: Any) -> Any:
        """Call a method once: a call that may have arrived is never repeated, it could submit twice."""
        try:
            return getattr(self._proxy, method)(*params)
        except xmlrpc.client.Fault as error:
            raise FaultError(error.faultCode, error.faultString) from None
        except xmlrpc.client.ProtocolError as error:
            raise self._not_ours(f"HTTP {error.errcode} {error.errmsg}".rstrip()) from None
        except (OSError, http.client.IncompleteRead) as error:
            self._proxy("close")()
            arrived = not isinstance(error, ConnectionRefusedError | socket.gaierror)
            raise UnreachableError(self._why_not(method, error), arrived=arrived) from None
        except (ExpatError, xmlrpc.client.Error, http.client.HTTPException) as error:
            raise self._not_ours(str(error)) from None

    def _not_ours(self, detail: str) -> ComplaintError:
        return ComplaintError(
            f"{self._place.url} ({self._place.origin}) answers, but not as a farm's server does ({detail}); "
            f"check address and port."
        )

    def _why_not(self, method: str, error: OSError | http.client.IncompleteRead) -> str:
        where = f"{self._place.url} ({self._place.origin})"
        if isinstance(error, TimeoutError):
            sentence = f"{where} did not answer within {self._timeout_s:g} s."
            if method == "newjob":
                sentence += ' The job may have been submitted all the same: look at "hq jobs" before trying again.'
            return sentence
        if isinstance(error, socket.gaierror):
            return f"cannot find {where}: no machine of that name is known here. Check the name."
        if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
            return f"{where} closed the connection without an answer; look at the server's log."
        reason = (error.strerror or str(error)).lower()
        if self._place.url == DEFAULT_SERVER and not self._place.origin.startswith("from"):
            hint = 'Name your server with --server, or start a farm on this machine with "hqserver --with-client".'
        else:
            hint = "Is hqserver running there, and does it listen for other machines (host = 0.0.0.0)?"
        return f"cannot connect to {where}: {reason}. {hint}"


class _Transport(xmlrpc.client.Transport):
    """The standard transport with a time-out, and without its silent second attempt."""

    user_agent = "hq"

    def __init__(self, timeout_s: float, authorization: str) -> None:
        super().__init__(use_builtin_types=True, headers=[("Authorization", authorization)] if authorization else [])
        self._timeout_s = timeout_s
        self._answer = response_within(timeout_s)

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = self._timeout_s
        connection.response_class = self._answer
        return connection

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        return self.single_request(host, handler, request_body, verbose)
