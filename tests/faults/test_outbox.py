"""Mail servers and receivers of webhooks that refuse, hang and die: no letter is lost, and none comes as another."""

from __future__ import annotations

import asyncio
import contextlib
import email
import itertools
import json
import socket
import ssl
import threading
from collections import Counter
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from hqueue.outbox import addresses
from hqueue.outbox.mail import Mailer
from hqueue.outbox.news import WEBHOOK
from hqueue.outbox.webhooks import Caller, key_for_host, signature
from tests.fakes import PATIENCE_S
from tests.farm import eventually, free_port, running_farm
from tests.store.test_outbox import Box
from tests.storefarm import settings

for _name in ("trustme", "aiosmtpd"):
    pytest.importorskip(_name, reason=f"not installed: {_name} (pip install '.[dev]')")
import trustme  # noqa: E402 - see above
from aiosmtpd.controller import Controller  # noqa: E402
from aiosmtpd.smtp import AuthResult  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hqueue.store import Store
    from tests.fakes import FakeClock

PASSWORD = "geheim"
ANSWER_S = 0.5


class Post:
    """A mail server that now and then does not do what it is there for."""

    def __init__(self, moods: list[str]) -> None:
        self.moods = itertools.cycle(moods)
        self.mails: list[Any] = []
        self.unanswered: set[str] = set()
        self.mood = ""

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802 - its name there
        self.mood = next(self.moods)
        if self.mood.startswith("4") or self.mood.startswith("5"):
            return self.mood
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - its name there
        if self.mood == "hang":
            await asyncio.sleep(60 * ANSWER_S)
        if self.mood == "refuse":
            return "451 try again"
        mail = email.message_from_bytes(envelope.content, policy=default)
        self.mails.append(mail)
        if self.mood == "die":
            self.unanswered.add(mail["Message-ID"])
            server.transport.abort()
        return "250 taken"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


def tls_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def check_login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"farm", PASSWORD.encode()))


def serve(handler: Post, tls: str, context: ssl.SSLContext, port: int = 0) -> Controller:
    options: dict[str, Any] = {}
    if tls != "off":
        options = {"authenticator": check_login, "auth_required": True, "auth_require_tls": tls == "starttls"}
    if tls == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    server = Controller(
        handler,
        hostname="localhost",
        port=port or free_port(),
        ssl_context=context if tls == "tls" else None,
        **options,
    )
    server.start()
    return server


def mail_settings(port: int, tls: str) -> dict[str, str]:
    login = {"smtp_user": "farm", "smtp_password": PASSWORD} if tls != "off" else {}
    return {
        "smtp_server": "localhost",
        "smtp_port": str(port),
        "smtp_tls": tls,
        "error_email_from": "f@farm.example",
        **login,
    }


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # all of that line is TLS
@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("tls", ["off", "starttls", "tls"])
def test_no_mail_is_lost_and_twice_it_is_the_same(
    store: Store, clock: FakeClock, authority: trustme.CA, trusted: Path, tls: str
) -> None:
    post = Post(["", "451 busy", "hang", "550 unknown", "die", "refuse", "die"])
    server = serve(post, tls, tls_of(authority))
    try:
        box = Box(store, clock, email_to="", **mail_settings(server.port, tls))
        box.post._sender = Mailer(box.farm.config, ANSWER_S)
        jobs = [box.farm.add(f"Straße {i}", emailTo="Jörg <j@x.example>", emailReasons="runnable") for i in range(12)]
        for _ in range(100):
            box.later(1200)
            if not box.waiting():
                break
        assert box.waiting() == 0
        told = Counter(mail["Subject"] for mail in post.mails)
        assert set(told) == {f'[hqueue] job {job_id} "Straße {i}" runnable' for i, job_id in enumerate(jobs)}
        ids = Counter(mail["Message-ID"] for mail in post.mails)
        assert len(ids) == len(jobs)
        assert post.unanswered
        assert {key for key, times in ids.items() if times > 1} <= post.unanswered
        (mail, *_) = post.mails
        assert (mail["From"], mail["To"]) == ("f@farm.example", "Jörg <j@x.example>")
        assert mail["Message-ID"].endswith("@farm.example>")
    finally:
        server.stop()


def close_the_first(listener: socket.socket) -> None:
    listener.accept()[0].close()


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("wrong", ["nobody listens", "password", "certificate", "silent", "closes"])
def test_a_line_that_is_down_loses_nothing(
    store: Store, clock: FakeClock, authority: trustme.CA, trusted: Path, wrong: str
) -> None:
    post = Post([""])
    server = serve(post, "starttls", tls_of(trustme.CA() if wrong == "certificate" else authority))
    listener = socket.create_server(("localhost", 0))
    if wrong == "closes":
        threading.Thread(target=close_the_first, args=(listener,), daemon=True).start()
    port = {"nobody listens": free_port(), "silent": listener.getsockname()[1], "closes": listener.getsockname()[1]}
    try:
        down = mail_settings(port.get(wrong, server.port), "starttls")
        if wrong == "password":
            down["smtp_password"] = "falsch"
        box = Box(store, clock, email_to="", **down)
        box.post._sender = Mailer(box.farm.config, ANSWER_S)
        box.farm.add("Zeuge", emailTo="j@x.example", emailReasons="runnable")
        box.later()
        box.later(1)
        assert (post.mails, box.waiting()) == ([], 1)
        if wrong != "certificate":
            box.post._sender = Mailer(settings(**mail_settings(server.port, "starttls")), ANSWER_S)
            box.later(600)
            assert (len(post.mails), box.waiting()) == (1, 0)
    finally:
        listener.close()
        server.stop()


class Receiver(ThreadingHTTPServer):
    """What webhooks call: it does not always do what it is there for."""

    daemon_threads = True

    def __init__(self, moods: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.moods = itertools.cycle(moods)
        self.calls: list[tuple[str, dict[str, str], bytes]] = []
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/haken?an=ja"

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mood = next(self.server.moods)
        if mood in {"", "die"}:
            self.server.calls.append((self.path, dict(self.headers), body))
        if mood == "die":
            return
        if mood == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.server.over.wait(0.1):
                self.wfile.write(b"X: y\r\n")
        if mood == "hang":
            self.server.over.wait(PATIENCE_S)
            return
        self.send_response(int(mood or 204))
        if mood == "302":
            self.send_header("Location", self.server.url)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the caller has hung up
            super().handle()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(["", "500", "hang", "302", "die", "drip", "404"])
    yield made
    made.close()


@pytest.mark.databases("sqlite")
def test_no_call_is_lost_and_twice_it_has_the_same_id(store: Store, clock: FakeClock, receiver: Receiver) -> None:
    named = {"webhook_url": receiver.url, "webhook_hosts": "127.0.0.1", "webhook_secret": PASSWORD, "email_to": ""}
    box = Box(store, clock, WEBHOOK, **named)
    box.post._sender = Caller(box.farm.config, clock, ANSWER_S)
    jobs = [box.farm.add(command=None, webhook=receiver.url, emailReasons="succeeded") for _ in range(6)]
    for _ in range(100):
        box.later(1200)
        if not box.waiting():
            break
    assert box.waiting() == 0
    ids = Counter(headers["X-HQueue-Id"] for _, headers, _ in receiver.calls)
    assert len(ids) == 2 * len(jobs)  # each told by its own webhook, and by the farm's
    assert max(ids.values()) > 1  # those that died before they answered
    assert Counter({json.loads(body)["job"]["id"] for _, _, body in receiver.calls}) == Counter(jobs)
    for path, headers, body in receiver.calls:
        assert path == "/haken?an=ja"
        moment, given = (part.partition("=")[2] for part in headers["X-HQueue-Signature"].split(","))
        keys = (PASSWORD, key_for_host(PASSWORD, "127.0.0.1"))
        assert given in {signature(key, int(moment), receiver.url, body) for key in keys}


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("host", ["localhost", "127.1", "[::ffff:127.0.0.1]", "2130706433"])
def test_a_name_of_the_inside_is_not_called(
    store: Store, clock: FakeClock, receiver: Receiver, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However it is spelled: what counts is the address that would be connected to."""
    box = Box(store, clock, WEBHOOK, email_to="", webhook_hosts="localhost, 127.1, ::ffff:0:0:0/96, 2130706433")
    box.post._sender = Caller(box.farm.config, clock, ANSWER_S)
    url = f"http://{host}:{receiver.server_address[1]}/"
    box.farm.add(command=None, webhook=url, emailReasons="succeeded")
    box.later()
    assert receiver.calls == []
    assert not box.waiting() or "an address of the inside" in caplog.text


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("10.9.0.7", True),  # named
        ("not an address", False),
    ],
)
def test_addresses_that_may_be_called(address: str, may: bool) -> None:
    assert addresses.may_call(settings(webhook_hosts="chat.example.com, 10.9.0.0/16").policy, address) is may


def test_a_farm_writes_and_is_killed_and_writes_on(
    tmp_path: Path, authority: trustme.CA, trusted: Path, receiver: Receiver
) -> None:
    """A whole server with TLS and a login; what was not sent before kill -9 is sent after it."""
    post = Post([""])
    server = serve(post, "starttls", tls_of(authority))
    receiver.moods = itertools.cycle([""])
    port, url = server.port, receiver.url
    server.stop()
    given = mail_settings(port, "starttls") | {
        "email_to": "farm@x.example",
        "webhook_url": url,
        "webhook_hosts": "127.0.0.1",
    }
    lines = "\n".join(f"{key} = {value}" for key, value in given.items())
    with running_farm(tmp_path, {"eins": 2}, settings=lines, prefix=("env", f"SSL_CERT_FILE={trusted}")) as farm:
        spec = {
            "name": "Tür",
            "command": "echo Error: kaputt; exit 3",
            "emailTo": "j@x.example",
            "emailReasons": "failed",
        }
        job_id = farm.proxy().newjob({**spec, "webhook": url})[0]
        eventually(lambda: farm.proxy().getJob(job_id, ["status"])["status"] == "failed", "the job to fail")
        eventually(lambda: len(receiver.calls) >= 2, "both calls")
        farm.server.kill()
        again = serve(post, "starttls", tls_of(authority), port)
        try:
            farm.server.start()
            subject = f'[hqueue] job {job_id} "Tür" failed'
            eventually(lambda: subject in [mail["Subject"] for mail in post.mails], "the mail")
        finally:
            again.stop()
        assert [mail["Subject"] for mail in post.mails].count(subject) == 1
        body = next(mail for mail in post.mails if mail["Subject"] == subject).get_content()
        assert "exit 3 on" in body
        assert "Error: kaputt" in body
        assert {json.loads(body)["event"] for _, _, body in receiver.calls} >= {"failed"}
