"""A letter as a call: a POST of JSON, signed, without redirects, and for jobs never to an address of the inside."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from hqueue.deadline import response_within
from hqueue.outbox.addresses import may_call, refuses_webhook
from hqueue.outbox.delivery import NotTakenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.clock import Clock
    from hqueue.config import ServerConfig

WITHIN_S: Final = 10.0
_ANSWER_BYTES: Final = 64 * 1024


class Caller:
    """Makes calls, each on a connection of its own."""

    def __init__(self, config: ServerConfig, clock: Clock, within_s: float = WITHIN_S) -> None:
        self._config = config
        self._policy = config.policy
        self._clock = clock
        self._within_s = within_s

    def send(self, letter: Any, opened: Callable[[socket.socket], None]) -> None:
        """Call a URL; `opened` is told of the socket.

        Errors: NotTakenError when the call is not to be made, or was not answered with a status of success in time.
        """
        own = not letter.address
        url = self._config.webhook_url if own else letter.address
        if not url or (why := "" if own else refuses_webhook(self._policy, url)):
            raise NotTakenError(why if url else "webhook_url is not set any more")
        try:
            status = self._post(url, letter, opened, inside=own)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotTakenError(str(error) or type(error).__name__) from error
        if not 200 <= status < 300:
            raise NotTakenError(f"it answered with status {status}")

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _post(self, url: str, letter: Any, opened: Callable[[socket.socket], None], *, inside: bool) -> int:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        body = letter.body.encode()
        headers = {"Content-Type": "application/json", "Connection": "close", "X-HQueue-Id": letter.key}
        if self._config.webhook_secret:
            secret = self._config.webhook_secret if inside else key_for_host(self._config.webhook_secret, host)
            moment = int(self._clock.now().timestamp())
            headers["X-HQueue-Signature"] = f"t={moment},v1={signature(secret, moment, url, body)}"
        connection = http.client.HTTPConnection(host, port, timeout=self._within_s)
        connection.response_class = response_within(self._within_s)
        connection.default_port = 443 if secure else 80  # what the header Host leaves out
        connection.sock = self._connect(host, port, opened, secure=secure, inside=inside)
        try:
            target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            connection.request("POST", target, body, headers)
            answer = connection.getresponse()
            answer.read(_ANSWER_BYTES)
            return answer.status
        finally:
            connection.close()

    def _connect(
        self, host: str, port: int, opened: Callable[[socket.socket], None], *, secure: bool, inside: bool
    ) -> socket.socket:
        """Connect to an address of a host that may be called: the one that was looked at, not one found again."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        allowed = [each for each in found if inside or may_call(self._policy, str(each[4][0]))]
        if not allowed:
            raise NotTakenError(f"{host} is {found[0][4][0]}, an address of the inside that is not in webhook_hosts")
        family, kind, protocol, _, address = allowed[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(self._within_s)
            opened(made)
            made.connect(address)
            if secure:
                made = ssl.create_default_context().wrap_socket(made, server_hostname=host)
                opened(made)
        except BaseException:
            made.close()
            raise
        return made


def key_for_host(secret: str, host: str) -> str:
    """Return the key that signs what jobs send to a host: who has it cannot sign for another host."""
    return hmac.new(secret.encode(), host.lower().encode(), hashlib.sha256).hexdigest()


def signature(secret: str, moment: int, url: str, body: bytes) -> str:
    """Return the signature of a call: HMAC-SHA256 over its time, its URL and its body, with dots between."""
    return hmac.new(secret.encode(), b".".join((str(moment).encode(), url.encode(), body)), hashlib.sha256).hexdigest()
