"""Too few descriptors: what is connected is served, and whoever is not let in costs nobody an answer."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.farm import eventually
from tests.faults.calls import names, status
from tests.faults.injections import few_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.farm import Farm

LIMIT = 256


@pytest.fixture
def farm(make_farm: Callable[..., Farm]) -> Farm:
    return make_farm({"eins": 2}, prefix=few_descriptors(LIMIT), active_timeout_minutes=0.1)


def test_more_connections_than_descriptors(farm: Farm) -> None:
    proxy = farm.proxy()
    proxy.ping()  # its connection is there before the crowd comes
    wanted = [f"Bild {number}" for number in range(20)]
    crowd = [socket.create_connection(("127.0.0.1", farm.port)) for _ in range(LIMIT + 40)]
    try:
        eventually(lambda: has_its_fill(farm), "the server has taken as many as it can")
        ids = [proxy.newjob({"name": name, "command": "echo gut"})[0] for name in wanted]
        eventually(lambda: {job["status"] for job in proxy.getJobs(ids, ["status"])} == {"succeeded"}, "all end")
        assert {proxy.getJobOutput(job_id) for job_id in ids} == {"gut\n"}
        assert proxy.getClients(None, ["available"]) == [{"available": True}]
    finally:
        for one in crowd:
            one.close()
    # Whoever comes afterwards is let in.
    (last,) = farm.proxy().newjob({"name": "danach", "command": "true"})
    eventually(lambda: status(farm, last) == "succeeded", "it ends")
    assert sorted(names(farm)) == sorted([*wanted, "danach"])
    assert farm.server.stop() == 0
    assert "Traceback" not in farm.server.log.read_text()


def test_fewer_connections_than_asked_for_are_said_at_the_start(farm: Farm) -> None:
    assert "connections" in farm.server.log.read_text()


def has_its_fill(farm: Farm) -> bool:
    server = psutil.Process(farm.server.pid)
    before = server.num_fds()
    threading.Event().wait(0.5)
    return before > LIMIT // 2 and server.num_fds() == before
