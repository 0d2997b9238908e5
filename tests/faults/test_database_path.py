"""The way to a database is cut between COMMIT and its answer, or falls silent."""

from __future__ import annotations

import xmlrpc.client
from typing import TYPE_CHECKING

import pytest

from tests.farm import eventually
from tests.faults.calls import answered, health, is_refused, is_unknown, names, status

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.farm import Farm
    from tests.faults.injections import TcpPath

pytestmark = pytest.mark.databases("postgresql", "mysql")
# SPEC 13: a dead holder of the store is dropped by its own time-outs within 30 s.
HEALED_S = 40.0
DEADLINE_S = 30.0


@pytest.fixture
def farm(make_farm: Callable[..., Farm], database_path: tuple[str, TcpPath]) -> Farm:
    return make_farm({"eins": 2}, database_url=database_path[0], active_timeout_minutes=0.1)


@pytest.fixture
def path(database_path: tuple[str, TcpPath]) -> TcpPath:
    return database_path[1]


def test_a_cut_commit_is_never_called_unchanged(farm: Farm, path: TcpPath) -> None:
    spec = {"name": "nur einmal", "command": "true", "submissionId": "schlüssel-1"}
    path.cut_after(b"INSERT INTO job_spec ", b"COMMIT")
    first = answered(lambda: farm.proxy().newjob(spec), DEADLINE_S)
    assert path.was_cut.is_set()
    assert isinstance(first, list), first  # it was looked up
    again = eventually(lambda: answer_of(farm, spec), "the server goes on")
    assert again == first
    assert names(farm) == ["nur einmal"]
    # What is remembered of numbers is read anew.
    others = [farm.proxy().newjob({"name": f"danach {number}", "command": "true"})[0] for number in range(3)]
    assert sorted({*again, *others}) == [*again, *others]
    for job_id in (*again, *others):
        eventually(lambda job_id=job_id: status(farm, job_id) == "succeeded", "it ends")
    assert farm.server.stop() == 0


def test_a_commit_that_never_arrives_is_said_to_have_changed_nothing(farm: Farm, path: TcpPath) -> None:
    path.cut_before(b"INSERT INTO job_spec ", b"COMMIT")
    first = answered(lambda: farm.proxy().newjob({"name": "gar nicht", "command": "true"}), DEADLINE_S)
    assert path.was_cut.is_set()
    assert is_refused(first), first
    (job_id,) = eventually(lambda: answer_of(farm, {"name": "danach", "command": "true"}), "the server goes on")
    eventually(lambda: status(farm, job_id) == "succeeded", "it ends")
    assert names(farm) == ["danach"]


def test_what_cannot_be_looked_up_in_time_is_said_to_be_unknown(farm: Farm, path: TcpPath) -> None:
    spec = {"name": "nur einmal", "command": "true", "submissionId": "schlüssel-1"}
    path.refuse()
    path.cut_after(b"INSERT INTO job_spec ", b"COMMIT")
    first = answered(lambda: farm.proxy().newjob(spec), DEADLINE_S)
    assert is_unknown(first), first
    path.refuse(refused=False)
    (job_id,) = eventually(lambda: answer_of(farm, spec), "the server goes on")
    eventually(lambda: status(farm, job_id) == "succeeded", "it ends")
    assert names(farm) == ["nur einmal"]


def test_a_silent_path_heals(farm: Farm, path: TcpPath) -> None:
    proxy = farm.proxy()
    proxy.newjob({"name": "vorher", "command": "true", "host": "niemand"})
    path.fall_silent()
    assert answered(proxy.ping, 1) is True
    told = ["vorher"]
    answer = answered(
        lambda: farm.proxy().newjob({"name": "während", "command": "true", "host": "niemand"}), DEADLINE_S
    )
    if isinstance(answer, list):
        told.append("während")
    else:
        assert is_refused(answer) or is_unknown(answer), answer
    (job_id,) = eventually(lambda: answer_of(farm, {"name": "nachher", "command": "true"}), "it heals", HEALED_S)
    eventually(lambda: status(farm, job_id) == "succeeded", "work goes on")
    eventually(lambda: health(farm) == 200, "it says so")
    found = names(farm)
    assert {*told, "nachher"} <= set(found)
    assert is_unknown(answer) or sorted(found) == sorted([*told, "nachher"])
    assert farm.server.stop() == 0


def test_a_server_stops_in_order_on_a_silent_path(farm: Farm, path: TcpPath) -> None:
    path.fall_silent()
    assert farm.server.stop() == 0


def test_a_server_is_let_in_after_one_that_died_unheard(farm: Farm, path: TcpPath) -> None:
    (job_id,) = farm.proxy().newjob({"name": "vorher", "command": "true", "host": "niemand"})
    path.fall_silent()
    farm.server.kill()
    eventually(lambda: starts(farm), "a restarted server is let in", HEALED_S)
    assert status(farm, job_id) == "runnable"


def starts(farm: Farm) -> bool:
    """Start the server, as an init system does until it succeeds; tell whether it has."""
    try:
        farm.server.start()
    except AssertionError:
        return False
    return True


def answer_of(farm: Farm, spec: dict[str, object]) -> list[int] | None:
    """Return the new ids; None while there is a fault or no answer in time."""
    answer = answered(lambda: farm.proxy().newjob(spec), DEADLINE_S)
    return None if isinstance(answer, xmlrpc.client.Fault) else answer
