"""A hostile page in a real browser that can reach a farm's port: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import threading
import xmlrpc.client
from typing import TYPE_CHECKING, Any

import pytest

from hqueue.rpc.transport import Page
from tests.fakes import PATIENCE_S
from tests.transport_rig import Rig, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; '.[dev]' has it")

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # As DNS does for a page whose owner has pointed its name at the farm after it was loaded.
    "--host-resolver-rules=MAP rebound.example 127.0.0.1",
)
# Everything that a page may send to another site without asking, and what it may try.
TRICKS = {
    "no-cors": "fetch(url, {method: 'POST', mode: 'no-cors', body: call})",
    "no type": "fetch(url, {method: 'POST', mode: 'no-cors', body: new Blob([call])})",
    "form type": """fetch(url, {method: 'POST', mode: 'no-cors', body: call,
                   headers: {'Content-Type': 'application/x-www-form-urlencoded'}})""",
    "cors": "fetch(url, {method: 'POST', body: call, headers: {'Content-Type': 'text/xml'}})",
    "no-cors as xml": """fetch(url, {method: 'POST', mode: 'no-cors', body: call,
                        headers: {'Content-Type': 'text/xml'}})""",
    "beacon": "new Promise(done => { navigator.sendBeacon(url, call); setTimeout(done, 0) })",
    "form": """new Promise(done => {
        const frame = document.createElement('iframe');
        frame.name = 'target';
        document.body.appendChild(frame);
        const form = document.body.appendChild(document.createElement('form'));
        Object.assign(form, {method: 'POST', enctype: 'text/plain', action: url, target: 'target'});
        const [name, ...rest] = call.split('=');
        const field = form.appendChild(document.createElement('input'));
        Object.assign(field, {type: 'hidden', name, value: rest.join('=')});
        frame.onload = () => done();
        form.submit();
    })""",
}
RUN = "const [url, call, done] = arguments; Promise.resolve({trick}).then(a => done(a ? a.status : 0), () => done(-1))"


class _Hostile(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = b"<!doctype html><title>Gewinnspiel</title><body>Sie haben gewonnen"
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium with a chromedriver here")
    profile: Path = tmp_path_factory.mktemp("profile")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    started.set_script_timeout(PATIENCE_S)
    started.set_page_load_timeout(PATIENCE_S)
    yield started
    started.quit()


@pytest.fixture
def hostile() -> Iterator[int]:
    """Serve a hostile page on loopback, and return its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE_S)


@contextlib.contextmanager
def farm() -> Iterator[tuple[Rig, list[str]]]:
    """Serve a method that remembers what it was called with, and a page."""
    ran: list[str] = []
    with serving(get_page=lambda path: Page(200, f"Farm {path}", "text/html; charset=utf-8")) as rig:

        def run(command: str) -> bool:
            ran.append(command)
            return True

        rig.server.register_function(run, "runcmd")
        yield rig, ran


def play(browser: Any, trick: str, url: str, command: str) -> int:
    """Have the page that is shown try a trick, and return the status it was given; 0: it is not told, -1: no answer."""
    call = xmlrpc.client.dumps((command,), "runcmd")
    return int(browser.execute_async_script(RUN.replace("{trick}", TRICKS[trick]), url, call))


@pytest.mark.parametrize("page", ["localhost", "127.0.0.1", "rebound.example"])
def test_a_foreign_page_runs_nothing(browser: Any, hostile: int, page: str) -> None:
    with farm() as (rig, ran):
        for trick in TRICKS:
            browser.get(f"http://{page}:{hostile}/")
            assert "gewonnen" in browser.page_source
            assert play(browser, trick, f"{rig.url}/RPC2", f"evil: {trick}") <= 0
        with rig.proxy() as proxy:
            assert proxy.runcmd("a program's") is True
        assert ran == ["a program's"]


def test_a_name_that_was_pointed_at_the_farm_runs_nothing(browser: Any) -> None:
    with farm() as (rig, ran):
        page = f"http://rebound.example:{rig.address[1]}/"
        browser.get(page)
        for trick in ("no-cors", "cors"):
            assert play(browser, trick, f"{page}RPC2", "evil") == 403
        assert ran == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_page_calls(browser: Any, name: str) -> None:
    with farm() as (rig, ran):
        page = f"http://{name}:{rig.address[1]}/"
        browser.get(page)
        assert "Farm /" in browser.page_source
        assert play(browser, "cors", f"{page}RPC2", "ours") == 200
        assert ran == ["ours"]
