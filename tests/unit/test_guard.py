"""Which requests are refused because a web page may have sent them."""

from __future__ import annotations

import pytest

from hqueue.wire.guard import Door, names_of_this_machine, refusal

DOOR = Door(
    names=frozenset({"farmserver", "farmserver.studio.example"}),
    allowed_hosts=("Render.example", "xn--grer-5qa.example"),
    public_url="https://farm.example/queue/",
    ini="hqserver.ini",
)


def asked(headers: str, method: str = "POST", path: str = "/RPC2", door: Door = DOOR) -> str:
    """Return why a request is refused; `headers` are name: value, separated by |."""
    said = dict(line.split(": ", 1) for line in headers.split("|") if line)
    given = {name.lower(): value for name, value in said.items()}
    return refusal(door, method, path, lambda name: given.get(name, ""))


XML = "Content-Type: text/xml|"


@pytest.mark.parametrize("kind", ["text/xml", "application/xml", "TEXT/XML", "text/xml; charset=utf-8", " text/xml ;x"])
@pytest.mark.parametrize("host", ["", "Host: evil.example", "Host: 127.0.0.1:5000"])
def test_programs_are_held_to_their_type_only(kind: str, host: str) -> None:
    assert asked(f"Content-Type: {kind}|{host}") == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text/plain;charset=UTF-8", "not as text/plain"),
        ("application/x-www-form-urlencoded", "not as application/x-www-form-urlencoded"),
        ("multipart/form-data; boundary=text/xml", "not as multipart/form-data"),
        ("text/plain, text/xml", "not as text/plain, text/xml"),
        ("text/xml,text/plain", "not as text/xml,text/plain"),
        ("text/xmlx", "not as text/xmlx"),
        ("application/json", "not as application/json"),
        ("", "not as nothing in particular"),
    ],
)
@pytest.mark.parametrize("browser", ["", "Origin: http://127.0.0.1|Host: 127.0.0.1|Sec-Fetch-Site: same-origin"])
def test_other_types_are_refused(kind: str, said: str, browser: str) -> None:
    assert asked(f"Content-Type: {kind}|{browser}").startswith(f"a call is posted as text/xml, {said}")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:5000",
        "192.0.2.7",
        "[::1]:5000",
        "[2001:db8::7]",
        "localhost:5000",
        "LOCALHOST",
        "localhost.",
        "farmserver:5000",
        "FarmServer.studio.example.:5000",
        "render.example",
        "farm.example:5000",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_hosts_that_are_known(host: str, method: str) -> None:
    assert asked(f"{XML}Host: {host}|Sec-Fetch-Site: same-origin", method, "/jobs") == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:5000",
        "farmserver.evil.example",
        "evil.example.localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "localhost, evil.example",
        "render.example.evil",
        "example",
        "[evil]",
        "127.0.0.1:5000:5000",
        ":5000",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize("browser", ["Origin: http://{host}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"])
def test_hosts_that_are_not(host: str, method: str, browser: str) -> None:
    told = asked(f"{XML}Host: {host}|{browser.format(host=host)}", method, "/jobs")
    assert told.startswith(f"this request is for {host or 'no host'}, which is none of this machine's names")


def test_the_line_to_add_keeps_what_is_there() -> None:
    told = asked("Host: Queue.example:5000|Sec-Fetch-Site: none", "GET", "/")
    assert told.endswith(
        "the line in hqserver.ini is: allowed_hosts = Render.example, xn--grer-5qa.example, queue.example"
    )
    assert asked("Host: Queue.example|Sec-Fetch-Site: none", "GET", "/", Door(allowed_hosts=("queue.example",))) == ""
    bare = asked("Host: Queue.example|Sec-Fetch-Site: none", "GET", "/", Door())
    assert bare == "this request is for Queue.example, which is none of this machine's names"


def test_health_is_for_everybody() -> None:
    foreign = "Host: evil.example|Origin: https://evil.example|Sec-Fetch-Site: cross-site"
    assert asked(foreign, "GET", "/health") == asked(foreign, "HEAD", "/health") == ""
    assert asked(foreign, "GET", "/metrics") != ""
    assert asked(XML + foreign, "POST", "/health") != ""


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("farmserver:80", "http://FARMSERVER"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("127.0.0.1:5000", "https://farm.example"),
        ("farm.example", "https://farm.example:443"),
    ],
)
def test_its_own_page_may_post(host: str, origin: str) -> None:
    assert asked(f"{XML}Host: {host}|Origin: {origin}") == ""
    assert asked(f"{XML}Host: {host}|Origin: {origin}|Sec-Fetch-Site: same-origin") == ""


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:5000", "https://evil.example"),
        ("127.0.0.1:5000", "null"),
        ("127.0.0.1:5000", "http://127.0.0.1:5001"),
        ("127.0.0.1:5000", "http://127.0.0.1"),
        ("127.0.0.1:5000", "https://127.0.0.1:5000"),
        ("127.0.0.1:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://farm.example"),
        ("127.0.0.1:5000", "https://farm.example:8443"),
        ("127.0.0.1:5000", "https://farm.example.evil.example"),
        ("127.0.0.1:5000", "https://farm.example@evil.example"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000, http://evil.example"),
        ("127.0.0.1:5000", "file://"),
        ("127.0.0.1:5000", "chrome-extension://127.0.0.1:5000"),
    ],
)
def test_another_page_may_not(host: str, origin: str) -> None:
    told = asked(f"{XML}Host: {host}|Origin: {origin}")
    assert told.startswith(f"this call comes from a page of {origin}, which is not this server; public_url in")
    assert asked(f"{XML}Host: {host}|Origin: {origin}|Sec-Fetch-Site: same-origin") != ""


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "same-origin, none", "x"])
def test_another_sites_call_is_refused(site: str) -> None:
    told = asked(f"{XML}Host: 127.0.0.1:5000|Origin: http://127.0.0.1:5000|Sec-Fetch-Site: {site}")
    assert told.startswith("this call comes from another site's page")
    assert asked(f"Host: 127.0.0.1:5000|Sec-Fetch-Site: {site}", "GET", "/jobs") == ""  # a link to it


def test_this_machine_has_names() -> None:
    assert all(names_of_this_machine())
