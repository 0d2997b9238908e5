"""Resources, and how much of them is in use."""

from __future__ import annotations

import sqlalchemy as sa

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
        "waitingFor": "the resource nuke",
    }
