"""What a GET is answered with."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from hqueue import __version__
from hqueue.api import Pages
from hqueue.errors import StoreUnavailableError
from hqueue.rpc.method import Page


def test_the_front_page_is_one_line(api):
    page = api.pages.get("/")
    assert (page.status, page.text) == (200, f"hqueue {__version__}, running\n")
    assert api.pages.get("/health").text == "running\n"


def test_a_job_is_shown_with_its_log(api):
    machine = api.farm.machine("farm-ü", name="zwei")
    parent, child = api.newjob(
        {"name": "Wurzel-ä", "children": [{"name": "Kind", "command": {"linux": "a", "windows": "b"}, "tags": ["x"]}]},
    )
    api.run(child, machine)
    page = api.pages.get(f"/jobs/view/{child}")
    assert page.status == 200
    assert page.content_type.startswith("text/plain; charset=utf-8")
    lines = page.text.splitlines()
    assert lines[0] == f"job {child}: Kind"
    for line in (
        "status:        running",
        "progress:      0%",
        f"parents:       {parent}",
        "clients:       farm-ü:zwei",
        "command:       linux: a; windows: b",
        "tags:          x",
    ):
        assert line in lines
    assert lines[-1].endswith("running (client farm-ü:zwei)")
    assert "children:      1, 0 finished, 0 failed" in api.pages.get(f"/jobs/view/{parent}/").text


@pytest.mark.parametrize(
    "path", ["/jobs/view/99", "/jobs/view/x", "/jobs/view/", "/jobs", "/../etc", f"/jobs/view/{10**30}"]
)
def test_what_does_not_exist(api, path):
    assert api.pages.get(path).status == 404


def test_metrics(api):
    machine = api.farm.machine(cpus=4)
    api.farm.machine("farm-ö").vanish()
    ids = api.newjob([{"name": "x", "command": "c", "cpus": 2}] * 3)
    api.run(ids[0], machine)
    api.clock.advance(30)
    page = api.pages.get("/metrics")
    assert page.content_type.startswith("text/plain; version=0.0.4")
    lines = page.text.splitlines()
    assert 'hqueue_jobs{status="runnable"} 2' in lines
    assert 'hqueue_jobs{status="failed"} 0' in lines
    assert 'hqueue_clients{state="running"} 1' in lines
    assert 'hqueue_clients{state="lost"} 1' in lines
    assert 'hqueue_cpus{kind="available"} 4' in lines
    assert "hqueue_runs 1" in lines
    assert "hqueue_oldest_runnable_seconds 30" in lines
    assert "hqueue_uptime_seconds 30" in lines
    for name in {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}:
        assert f"# TYPE {name} gauge" in lines


class BrokenStore:
    def trouble(self):
        return StoreUnavailableError().message

    @contextlib.contextmanager
    def reading(self):
        raise StoreUnavailableError
        yield


def test_an_unavailable_store_is_said(api):
    pages = Pages(replace(api.context, store=BrokenStore()))
    for path in ("/", "/health", "/metrics", "/jobs/view/1"):
        assert pages.get(path).status == 503


def test_health_is_that_of_the_latest_write(api):
    api.newjob([{"name": "x", "command": "c"}])
    assert api.pages.get("/health") == Page(200, "running\n")
    api.clock.advance(6)
    page = api.pages.get("/health")
    assert (page.status, page.text) == (503, "no write has come to its end in the last 5 s\n")
    api.store.prove()
    assert api.pages.get("/health").status == 200


def test_health_names_what_cannot_be_delivered(api):
    api.newjob([{"name": "x", "command": "c"}])
    api.context.live_farm.withhold(1, "The output of job 1 cannot be written.")
    assert api.pages.get("/health").text == "running\nThe output of job 1 cannot be written.\n"
    api.clock.advance(61)  # its client says nothing of it any more
    api.store.prove()
    assert api.pages.get("/health").text == "running\n"
