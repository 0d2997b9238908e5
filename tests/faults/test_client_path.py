"""The way between a client and the server falls silent without being closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.farm import eventually
from tests.faults.calls import status
from tests.faults.injections import TcpPath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.farm import Farm


@pytest.fixture
def farm(make_farm: Callable[..., Farm]) -> Farm:
    return make_farm(active_timeout_minutes=1)


@pytest.fixture
def path(farm: Farm) -> Iterator[TcpPath]:
    made = TcpPath(("127.0.0.1", farm.port))
    farm.add_client("eins", cpus=1, server=f"http://127.0.0.1:{made.port}")
    yield made
    made.close()


def test_a_run_goes_on_and_its_end_arrives(farm: Farm, path: TcpPath) -> None:
    starts, go = farm.folder / "starts", farm.folder / "go"
    command = f"echo x >> {starts}; until [ -e {go} ]; do sleep 0.05; done; echo fertig"
    (job_id,) = farm.proxy().newjob({"name": "still", "command": command})
    eventually(starts.exists, "the command runs")
    path.fall_silent()
    go.touch()
    eventually(lambda: status(farm, job_id) == "succeeded", "the client finds another way")
    assert farm.proxy().getJobOutput(job_id) == "fertig\n"
    assert starts.read_text() == "x\n"
