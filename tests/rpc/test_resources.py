"""Resources, and how much of them is in use."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hqueue import errors
from hqueue.schema import resource


def test_houdinis_licences_are_there_from_the_start(api_everywhere):
    api = api_everywhere
    found = api.getResources()
    assert [(each["name"], each["max"], each["used"], each["perMachine"]) for each in found] == [
        ("sidefx.license.houdini", None, 0, True),
        ("sidefx.license.render", None, 0, True),
        ("sidefx.license.karma", None, 0, True),
    ]
    assert [each["id"] for each in api.getResources([found[2]["id"], 99, found[0]["id"]])] == [
        found[2]["id"],
        found[0]["id"],
    ]


def test_use_is_counted_per_run_or_per_machine(api):
    with api.store.writing() as session:
        session.connection.execute(sa.insert(resource).values(name="nuke", maximum=None, per_machine=False))
    first, second = api.farm.machine("farm-a"), api.farm.machine("farm-b")
    amounts = [{"nuke": 2, "sidefx.license.render": 1}, {"nuke": 3, "sidefx.license.render": 2}, {"nuke": 1}]
    ids = api.newjob([{"name": "x", "command": "c", "resources": each} for each in (*amounts, amounts[0])])
    for job_id in ids[:3]:
        api.run(job_id, first)
    api.run(ids[3], second)

    def used():
        return {each["name"]: each["used"] for each in api.getResources() if each["used"]}

    assert used() == {"nuke": 2 + 3 + 1 + 2, "sidefx.license.render": 2 + 1}
    first.end(ids[1])
    assert used() == {"nuke": 2 + 1 + 2, "sidefx.license.render": 1 + 1}
    second.vanish()
    assert used() == {"nuke": 2 + 1 + 2, "sidefx.license.render": 1 + 1}


def test_what_is_used_up_is_waited_for(api):
    with api.store.writing() as session:
        session.connection.execute(sa.insert(resource).values(name="nuke", maximum=2, per_machine=False))
    machine = api.farm.machine()
    running, waiting = api.newjob([{"name": "x", "command": "c", "resources": {"nuke": 2}}] * 2)
    assert api.getJob(waiting, ["uiStatus"]) == {"uiStatus": "waiting for machine"}
    api.run(running, machine)
    assert api.getJob(waiting, ["uiStatus", "waitingFor"]) == {
        "uiStatus": "waiting for resources",
        "waitingFor": "waits for a resource: nuke: 2 of 2 in use, 2 wanted",
    }


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        (("", 1), "name is ''"),
        (("  ", 1), "name is '  '"),
        (("x" * 256, 1), "a name of 1 to 255 characters"),
        ((7, 1), "name is 7"),
        (("nuke", -1), "max is -1, but a number from 0, or None, was expected"),
        (("nuke", "viele"), "max is 'viele'"),
        (("nuke", 1, "ja"), "per_machine is 'ja'"),
    ],
)
def test_what_is_no_resource(api, params, complaint):
    with pytest.raises(errors.InvalidArgumentError, match=complaint):
        api.createResource(*params)


def test_what_cannot_be_set(api_everywhere):
    api = api_everywhere
    key = api.createResource("nuke", "3")
    with pytest.raises(errors.InvalidArgumentError, match="'farbe' cannot be set"):
        api.setResource(key, {"farbe": 1})
    with pytest.raises(errors.InvalidArgumentError, match=r"properties\.max is -1"):
        api.setResource(key, {"max": -1})
    with pytest.raises(errors.InvalidArgumentError, match="properties is 3"):
        api.setResource(key, 3)
    with pytest.raises(errors.DuplicateNameError, match=r"sidefx\.license\.karma"):
        api.setResource(key, {"name": "sidefx.license.karma"})
    with pytest.raises(errors.UnknownResourceError, match="id is 99"):
        api.setResource(99, {"max": 1})
    assert api.setResource(key, {"name": "nuke", "max": 4}) is True
    assert api.setResource(key, {"name": "Größe"}) is True
    assert [each["name"] for each in api.getResources([key])] == ["Größe"]


def test_per_machine_changes_only_while_nothing_is_in_use(api):
    key = api.createResource("nuke", 3)
    machine = api.farm.machine()
    job_id = api.newjob({"name": "x", "command": "c", "resources": {"nuke": 2}})[0]
    api.run(job_id, machine)
    with pytest.raises(errors.JobStateError, match="2 of 'nuke' are in use"):
        api.setResource(key, {"perMachine": True})
    with pytest.raises(errors.JobStateError, match="2 of 'nuke' are in use; set name when none are"):
        api.setResource(key, {"name": "nuke_x"})
    assert api.setResource(key, {"perMachine": False, "max": 1, "name": "nuke"}) is True  # it drains
    machine.end(job_id)
    assert api.setResource(key, {"perMachine": True}) is True


def test_what_wants_a_deleted_resource_waits_until_it_is_there_again(api):
    machine = api.farm.machine(cpus=2)
    key = api.createResource("nuke", 5)
    running, waiting = api.newjob([{"name": "x", "command": "c", "resources": {"nuke": 1}}] * 2)
    api.run(running, machine)
    api.deleteResource(key)
    api.farm.tick()
    assert api.getJob(waiting, ["waitingFor"])["waitingFor"] == (
        "waits for a resource: nobody has created the resource nuke"
    )
    assert api.getJob(running, ["status"]) == {"status": "running"}
    api.createResource("nuke", 1)
    assert api.explainJob(waiting)["resources"] == [
        {"name": "nuke", "wanted": 1, "max": 1, "used": 1, "perMachine": False, "known": True},
    ]
    machine.end(running)
    api.farm.tick()
    assert api.getJob(waiting, ["status"]) == {"status": "running"}
