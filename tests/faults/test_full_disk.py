"""A full disk: the server goes on for what needs no room, says so, and heals by itself."""

from __future__ import annotations

import re
import xmlrpc.client
from typing import TYPE_CHECKING, Any

from tests.farm import eventually, throughout
from tests.faults.calls import is_refused, names, outcome, status

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.farm import Farm
    from tests.faults.injections import SmallDisk

WAITS = {"command": "true", "host": "niemand"}
CHECKPOINTS_S = 12.0  # two of them at least


def submit_until_refused(farm: Farm, told: list[str]) -> Any:
    """Submit until the first refusal, and return it; what was acknowledged is told."""
    proxy = farm.proxy()
    for number in range(3_000):
        wanted = [f"Füllung {number}.{part}" for part in range(50)]
        answer = outcome(lambda wanted=wanted: proxy.newjob([{**WAITS, "name": name} for name in wanted]))
        if isinstance(answer, xmlrpc.client.Fault):
            return answer
        told += wanted
    raise AssertionError("the disk took everything")


def test_a_full_store_takes_nothing_and_goes_on(make_farm: Callable[..., Farm], disk: SmallDisk) -> None:
    farm = make_farm({"eins": 2}, database_url=f"sqlite:///{disk.path}/hqserver.db", active_timeout_minutes=0.1)
    proxy = farm.proxy()
    (waits,) = proxy.newjob({**WAITS, "name": "wartet"})
    told = ["wartet"]
    disk.fill()
    assert is_refused(submit_until_refused(farm, told))
    throughout(farm.server.is_running, "the server runs", CHECKPOINTS_S)
    # What needs no room: reading, reporting, and cancelling out of the reserve.
    assert sorted(names(farm)) == sorted(told)
    assert proxy.getClients(None, ["available"]) == [{"available": True}]
    assert proxy.cancelJobs([waits]) is True
    eventually(lambda: status(farm, waits) == "cancelled", "it is cancelled on a full disk")
    disk.empty()
    (job_id,) = eventually(lambda: written(farm, {"name": "wieder", "command": "true"}), "there is room again")
    eventually(lambda: status(farm, job_id) == "succeeded", "work goes on")
    assert sorted(names(farm)) == sorted([*told, "wieder"])
    assert farm.server.stop() == 0


def test_a_server_starts_on_a_full_disk(make_farm: Callable[..., Farm], disk: SmallDisk) -> None:
    farm = make_farm(database_url=f"sqlite:///{disk.path}/hqserver.db")
    told: list[str] = []
    for death in (farm.server.stop, farm.server.kill):
        disk.fill()
        submit_until_refused(farm, told)
        death()
        farm.server.start()
        throughout(farm.server.is_running, "the server runs", CHECKPOINTS_S)
        assert sorted(names(farm)) == sorted(told)
        disk.empty()
        told.append(f"nach {len(told)}")
        eventually(lambda: written(farm, {**WAITS, "name": told[-1]}), "there is room again")
    assert sorted(names(farm)) == sorted(told)


def test_a_full_log_folder_is_said_and_keeps_no_cpu(make_farm: Callable[..., Farm], disk: SmallDisk) -> None:
    farm = make_farm({"eins": 1}, settings=f"job_logs_dir = {disk.path}/logs")
    proxy = farm.proxy()
    disk.fill()
    (loud,) = proxy.newjob({"name": "laut", "command": "yes ünïcode | head -n 100000"})
    eventually(lambda: status(farm, loud) == "running", "the command runs")
    # Ended, undelivered: said where people look, and the CPU is free.
    eventually(lambda: proxy.getServerErrors()["total"], "the server says that its log folder takes nothing", 15)
    assert re.search(r"(WARNING|ERROR).*log", farm.server.log.read_text())
    (quiet,) = proxy.newjob({"name": "leise", "command": f"touch {farm.folder}/ran"})
    eventually((farm.folder / "ran").exists, "the CPU of what has ended is free", 15)
    assert status(farm, loud) == "running"
    assert proxy.getJob(loud, ["waitingFor"])["waitingFor"]
    disk.empty()
    eventually(lambda: {status(farm, loud), status(farm, quiet)} == {"succeeded"}, "both end when there is room")
    assert proxy.getJobOutput(loud) == "ünïcode\n" * 100_000


def test_what_has_ended_outlives_a_server_while_the_log_folder_is_full(
    make_farm: Callable[..., Farm], disk: SmallDisk
) -> None:
    """The server forgets that it has ended, and is told again; the client keeps the rest."""
    farm = make_farm({"eins": 1}, settings=f"job_logs_dir = {disk.path}/logs")
    disk.fill()
    (loud,) = farm.proxy().newjob(
        {"name": "laut", "command": f"echo x >> {farm.folder}/ran; yes ünïcode | head -n 100000"}
    )
    eventually(lambda: waits_for_the_folder(farm, loud), "its output cannot be taken", 15)
    assert complaints(farm) == 1
    farm.server.kill()
    farm.server.start()
    eventually(lambda: waits_for_the_folder(farm, loud), "the client says again that it has ended", 15)
    (quiet,) = farm.proxy().newjob({"name": "leise", "command": f"touch {farm.folder}/leise"})
    eventually((farm.folder / "leise").exists, "the CPU of what has ended is free", 15)
    assert complaints(farm) == 2  # once in each life of the server
    disk.empty()
    eventually(lambda: {status(farm, loud), status(farm, quiet)} == {"succeeded"}, "both end when there is room")
    assert farm.proxy().getJobOutput(loud) == "ünïcode\n" * 100_000
    assert [run["outcome"] for run in farm.proxy().getJobRuns(loud)] == ["exited"]
    assert (farm.folder / "ran").read_text() == "x\n"
    eventually(lambda: farm.proxy().getJob(loud, ["waitingFor"]) == {"waitingFor": ""}, "it waits for nothing")


def waits_for_the_folder(farm: Farm, job_id: int) -> bool:
    """Tell whether a job waits for the server to take its output."""
    answer = outcome(lambda: farm.proxy().getJob(job_id, ["status", "waitingFor"]))
    return not isinstance(answer, xmlrpc.client.Fault) and "take its output" in (answer["waitingFor"] or "")


def complaints(farm: Farm) -> int:
    """Return how often the server's log says that an ended run waits."""
    return farm.server.log.read_text().count("Its command has ended and waits")


def written(farm: Farm, spec: dict[str, Any]) -> Any:
    """Return the new ids; None while nothing can be stored."""
    answer = outcome(lambda: farm.proxy().newjob(spec))
    return None if isinstance(answer, xmlrpc.client.Fault) else answer
