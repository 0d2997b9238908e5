"""Calls that the document names deprecated."""

from __future__ import annotations

import pytest

from hqueue import errors


def test_getinfo_can_be_put_into_a_new_specification(api):
    parent = api.newjob({"name": "p", "priority": 7, "host": "farm07"})[0]
    job_id = api.newjob({"name": "x", "command": "c", "priority": 3, "hostgroup": "sim"}, parent)[0]
    info = api.getinfo(str(job_id))
    assert set(info) == {
        "startTime", "endTime", "cmdStartTime", "cmdEndTime", "status", "progress", "root", "children", "parents",
        "priority", "conditions",
    }  # fmt: skip
    again = api.newjob(
        {"name": "y", "command": "c", "parentIds": info["parents"], "conditions": info["conditions"],
         "priority": info["priority"]},
    )[0]  # fmt: skip
    assert {**api.getinfo(again), "children": []} == info
    assert info["root"] == parent
    assert api.getinfo(99) is None


def test_getstatus(api):
    job_id = api.newjob({"name": "x"})[0]
    assert api.getstatus(job_id) == "succeeded"
    assert api.getstatus(99) is None


def test_getprogress(api):
    machine = api.farm.machine()
    job_id = api.newjob({"name": "x", "command": "c", "triesLeft": 1})[0]
    assert api.getprogress(job_id) == [None, None]
    assert api.getprogress(99) is None
    api.run(job_id, machine)
    assert api.getprogress(job_id) == [None, None]
    api.live_farm.report_progress(job_id, 3, 8)
    assert api.getprogress(str(job_id)) == [3, 8]
    api.live_farm.forget_progress(job_id)
    machine.end(job_id, 1, progress=(5, 8))
    assert api.getprogress(job_id) == [None, None]  # it begins again
    api.run(job_id, machine)
    machine.end(job_id, 0, progress=(6, 8))
    assert api.getprogress(job_id) == [8, 8]  # it succeeded, whatever it said last


def test_getprogress_of_a_failed_job_is_what_it_said_last(api):
    machine = api.farm.machine()
    silent, telling = api.newjob([{"name": "x", "command": "c"}] * 2)
    for job_id, said in ((silent, {}), (telling, {"progress": (5, 8)})):
        api.run(job_id, machine)
        machine.end(job_id, 1, **said)
    assert api.getprogress(silent) == [None, None]
    assert api.getprogress(telling) == [5, 8]
    api.run(api.rescheduleJobs([silent]) and silent, machine)
    machine.end(silent, 0)
    assert api.getprogress(silent) == [1, 1]


def test_getoutput(api):
    machine = api.farm.machine()
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.run(job_id, machine, "ä")
    assert api.getoutput(job_id) == api.getJobOutput(job_id) == "ä"
    assert api.getoutput(99) is None


def test_getclientinfo(api):
    machine = api.farm.machine("farm-ü")
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.run(job_id, machine)
    assert api.getclientinfo("farm-ü") == {"disabled": False, "jobs": [job_id]}
    assert api.getclientinfo("niemand") is None
    with pytest.raises(errors.InvalidArgumentError, match="hostname is 3"):
        api.getclientinfo(3)
