"""A database that takes 100 parameters in a statement: nothing is built from a list that somebody else makes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.farm import eventually
from tests.faults.calls import names, status
from tests.faults.injections import few_parameters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.farm import Farm

LIMIT = 100
WIDE = 5 * LIMIT


@pytest.fixture
def farm(make_farm: Callable[..., Farm], tmp_path: Path) -> Farm:
    return make_farm({"eins": 2}, prefix=few_parameters(tmp_path, LIMIT))


def wide_tree(name: str, **frame: object) -> dict[str, object]:
    frames = [{**frame, "name": f"{name} {number}"} for number in range(WIDE)]
    return {"name": name, "children": [{"name": f"{name} Ebene", "children": frames}]}


def all_are(farm: Farm, ids: list[int], wanted: str) -> bool:
    return {job["status"] for job in farm.proxy().getJobs(ids, ["status"])} == {wanted}


def test_actions_on_a_wide_second_level(farm: Farm) -> None:
    proxy = farm.proxy()
    gone = proxy.newjob(wide_tree("weg", command="true", host="niemand"))
    stays = proxy.newjob(wide_tree("bleibt", command="true", host="niemand"))
    for action, wanted in (("pauseJobs", "paused"), ("cancelJobs", "cancelled")):
        getattr(proxy, action)([gone[0]])
        eventually(lambda wanted=wanted: all_are(farm, gone, wanted), f"all are {wanted}")
    proxy.deleteJobs([gone[0]])
    eventually(lambda: len(names(farm)) == len(stays), "the tree is deleted")
    proxy.setJobPriority([stays[0]], 7)
    proxy.cancelJobs([stays[0]])
    eventually(lambda: all_are(farm, stays, "cancelled"), "the other tree is cancelled")
    proxy.rescheduleJobs([stays[0]])
    eventually(lambda: all_are(farm, stays[2:], "runnable"), "it waits again")
    assert "ERROR" not in farm.server.log.read_text()
    assert farm.server.stop() == 0
    farm.server.start()
    assert sorted(job["id"] for job in farm.proxy().getJobs(stays, ["id"])) == sorted(stays)


def test_long_lists_of_ids(farm: Farm) -> None:
    proxy = farm.proxy()
    ids = proxy.newjob([{"name": f"Bild {number}", "command": "true", "host": "niemand"} for number in range(WIDE)])
    assert len(proxy.getJobs(ids, ["status"])) == WIDE
    assert len(proxy.getJobs(ids)) == WIDE
    proxy.setJobPriority(ids, 7)
    (parent,) = proxy.newjob({"name": "darüber", "childrenIds": ids})
    assert len(proxy.getJob(parent, ["children"])["children"]) == WIDE
    proxy.cancelJobs(ids)
    eventually(lambda: status(farm, parent) == "failed", "all are cancelled")
    proxy.deleteJobs(ids)
    eventually(lambda: names(farm) == ["darüber"], "all are deleted")
    assert "ERROR" not in farm.server.log.read_text()


def test_many_roots_with_failures_do_not_hold_up_a_start(farm: Farm) -> None:
    proxy = farm.proxy()
    ids = proxy.newjob([{"name": f"Fehler {number}", "command": "exit 1"} for number in range(2 * LIMIT)])
    eventually(lambda: {job["status"] for job in proxy.getJobs(ids, ["status"])} == {"failed"}, "all have failed")
    farm.server.kill()
    farm.server.start()
    (job_id,) = farm.proxy().newjob({"name": "danach", "command": "true"})
    eventually(lambda: status(farm, job_id) == "succeeded", "it is started")
    assert "ERROR" not in farm.server.log.read_text()
