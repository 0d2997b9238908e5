"""Why jobs wait, as callers are told."""

from __future__ import annotations

import pytest

from hqueue import errors
from tests.store.scheduling import tick


def reasons(api, job_id):
    explained = api.explainJob(job_id)
    counted = {each["reason"]: each["count"] for each in explained["clients"]["reasons"]}
    assert (
        explained["clients"]["free"] + sum(counted.values()) == explained["clients"]["total"] == len(api.getClients())
    )
    return counted


def test_every_reason_at_once(api_everywhere):
    """One client for each reason, in the order in which they count."""
    api = api_everywhere
    farm = api.farm
    render = api.createResource("render", 1, 1)
    group = api.createClientGroup("sim")
    every = [
        "lost",
        "terminating",
        "condemned",
        "disabled",
        "closed",
        "platform",
        "group",
        "blocked",
        "refused",
        "small",
        "tags",
        "busy",
        "licence",
        "free",
    ]
    machines = {name: farm.machine(name, cpus=1 if name == "small" else 4) for name in every}
    machines["platform"].platform = "windows-x86_64"
    machines["platform"].register()
    for name, machine in machines.items():
        if name != "group":
            api.addClientToGroup(group, machine.id)

    def only(name, **more):
        return api.newjob({"name": name, "command": "c", "host": name, **more})[0]

    api.run(only("busy", cpus=3), machines["busy"])
    api.run(only("tags", tags=["single:x"]), machines["tags"])
    api.run(only("free", resources={"render": 1}), machines["free"])
    refused = only("refused")
    api.run(refused, machines["refused"])
    machines["refused"].refuse(refused)
    parent, *_ = tree = api.newjob(
        {"name": "Baum", "children": [{"name": "k", "command": "c", "host": "blocked"} for _ in range(3)]}
    )
    for child in tree[1:]:
        api.run(child, machines["blocked"])
        machines["blocked"].end(child, 1)
    api.setdisabled("disabled", 1)
    api.setAvailabilityRules(machines["closed"].id, [{"type": "idle", "minutes": 5}])
    api.beat(machines["terminating"], terminating=True)
    api.beat(machines["condemned"], condemned="a process would not die")
    machines["lost"].vanish()
    wanted = {
        "name": "x",
        "command": {"linux": "c", "macosx": "c"},
        "cpus": 2,
        "hostgroup": "sim",
        "tags": ["single:x"],
        "resources": {"render": 1},
        "priority": 5,
    }
    job_id = api.newjob(wanted, parent)[0]
    api.setdisabled("free", 1)
    farm.scheduler.tick()
    farm.clock.advance(1)
    assert api.getJob(job_id, ["status"]) == {"status": "runnable"}
    assert reasons(api, job_id) == {
        "lost": 1,
        "terminating": 1,
        "condemned": 1,
        "disabled": 2,
        "no availability rule matches": 1,
        "platform: the command is given for linux and macosx only": 1,
        "not in group sim": 1,
        "blocked: too many jobs of this tree failed there": 1,
        "resting: it refused or failed what it was given a moment ago": 1,
        "too few CPUs: 2 wanted": 1,
        "tags: running a job tagged single:x": 1,
        "busy": 1,
        "resources: render: 1 of 1 in use, 1 wanted": 1,
    }
    assert api.getJob(job_id, ["uiStatus", "waitingFor"]) == {
        "uiStatus": "waiting for resources",
        "waitingFor": "waits for a resource: render: 1 of 1 in use, 1 wanted",
    }
    assert api.explainJob(job_id)["resources"] == [
        {"name": "render", "wanted": 1, "max": 1, "used": 1, "perMachine": True, "known": True},
    ]
    assert render


def test_clients_on_hold(api):
    first, second = (api.farm.machine(name, cpus=2) for name in ("farm-a", "farm-b"))
    small = api.newjob([{"name": "klein", "command": "c"}] * 4)
    api.farm.tick()
    wide = api.newjob({"name": "breit", "command": "c", "minHosts": 2, "maxHosts": 2, "priority": 1})[0]
    more = api.newjob({"name": "klein", "command": "c"})[0]
    first.beat()
    first.end(small[0])
    tick(api.farm)
    assert api.getJob(wide, ["clientsOnHold"])["clientsOnHold"] == [
        {"id": each.id, "clientId": each.id, "hostname": each.hostname, "name": "", "master": False}
        for each in (first, second)
    ]
    assert api.getJob(more, ["clientsOnHold", "waitingFor"]) == {
        "clientsOnHold": [],
        "waitingFor": "waits for a client: 2 clients, all on hold for another job",
    }
    assert api.getJob(wide, ["waitingFor"])["waitingFor"] == "waits for 2 clients at once: 2 clients: 1 free, 1 busy"
    second.beat()
    second.end(small[2])
    tick(api.farm)
    assert api.getJob(wide, ["clientsOnHold", "status"]) == {"clientsOnHold": [], "status": "running"}
    assert [each["hostname"] for each in api.getJob(wide)["clients"]] == ["farm-a", "farm-b"]
    assert api.getClient(second.id, ["runningJobs"])["runningJobs"] == [small[3], wide]
    assert api.getJobIdsAssignedToClient(second.id) == [small[3], wide]


def test_licences_on_hold(api):
    """What is kept for a job is said to those that come after it, and only to those."""
    machine = api.farm.machine("farm-a", cpus=9)
    api.createResource("nuke", 3)
    small = {"name": "klein", "command": "c", "resources": {"nuke": 1}}
    first = api.newjob(small)[0]
    api.farm.tick()
    machine.beat()
    big = api.newjob({"name": "groß", "command": "c", "resources": {"nuke": 3}, "priority": 1})[0]
    tick(api.farm, 62)
    urgent, later = api.newjob([small | {"priority": 9}, small])
    assert api.getJobs([later, urgent, big], ["waitingFor"]) == [
        {"waitingFor": "waits for a resource: nuke: 1 of 3 in use, 3 kept for jobs that come before, 1 wanted"},
        {"waitingFor": "waits for its turn: 1 client has room"},
        {"waitingFor": "waits for a resource: nuke: 1 of 3 in use, 3 wanted"},
    ]
    assert api.getJob(later, ["uiStatus"]) == {"uiStatus": "waiting for resources"}
    tick(api.farm)
    assert [api.getJob(each, ["status"])["status"] for each in (big, urgent, later)] == [
        "runnable",
        "running",
        "runnable",
    ]
    machine.beat()
    machine.end(first)
    machine.end(urgent)
    tick(api.farm)
    assert api.getJob(big, ["status"]) == {"status": "running"}


def test_a_run_that_is_not_over_yet(api):
    """A job that was cancelled and rescheduled waits until its old run is proved dead."""
    machine = api.farm.machine("farm-a", cpus=2)
    job_id, other = api.newjob([{"name": "x", "command": "c"}] * 2)
    api.run(job_id, machine)
    api.cancelJobs([job_id])
    api.rescheduleJobs([job_id])
    api.farm.finish_bulk()
    summary = "waits for its earlier run on farm-a to end"
    assert api.explainJob(job_id)["summary"] == summary
    assert api.getJobs([job_id, other], ["waitingFor"]) == [
        {"waitingFor": summary},
        {"waitingFor": "waits for its turn: 1 client has room"},
    ]
    machine.beat()
    machine.obey()
    assert api.explainJob(job_id)["summary"] == "waits for its turn: 1 client has room"


def test_names_that_nobody_knows_yet(api):
    machine = api.farm.machine("farm-a")
    by_group, by_host = api.newjob(
        [{"name": "x", "command": "c", "hostgroup": "licht"}, {"name": "x", "command": "c", "host": "farm-b"}]
    )
    assert api.explainJob(by_group)["summary"] == "waits for a client: there is no group licht"
    assert api.explainJob(by_host)["summary"] == "waits for a client: there is no host farm-b"
    group = api.createClientGroup("licht")
    assert api.explainJob(by_group)["summary"] == "waits for a client: 1 not in group licht"
    api.addClientToGroup(group, machine.id)
    assert api.explainJob(by_group)["summary"] == "waits for its turn: 1 client has room"
    api.farm.tick()
    assert api.getJob(by_group, ["status"]) == {"status": "running"}


def test_jobs_that_wait_for_something_else(api):
    api.farm.machine("farm-a")
    parent, child = api.newjob({"name": "x", "command": "c", "children": [{"name": "y", "command": "c"}]})
    explained = api.explainJob(parent)
    assert explained["summary"] == "waits for 1 of its 1 children to finish"
    assert explained["clients"] == {"total": 1, "free": 1, "reasons": []}
    api.pauseJobs([child])
    nobody = {"clients": {"total": 0, "free": 0, "reasons": []}, "resources": [], "ahead": 0}
    assert api.explainJob(child) == {"summary": "waits for somebody to resume it", **nobody}
    api.cancelJobs([child])
    assert api.explainJob(child) == {"summary": "does not wait: it is cancelled", **nobody}


def test_how_many_are_ahead(api):
    ids = api.newjob([{"name": "x", "command": "c", "priority": each} for each in (1, 5, 1, 0)])
    late = api.newjob({"name": "x", "command": "c", "priority": 1}, ids[0])[0]
    assert [api.explainJob(each)["ahead"] for each in (*ids[1:], late)] == [0, 2, 3, 1]


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"conditions": [{"type": "client", "name": "farbe", "op": "==", "value": "x"}]}, r"conditions\[0\].name"),
        ({"conditions": [{"type": "client", "name": "group", "op": "~", "value": "x"}]}, r"conditions\[0\].op"),
        ({"conditions": [{"type": "job", "name": "group", "op": "==", "value": "x"}]}, r"conditions\[0\].type"),
        ({"minHosts": 3, "maxHosts": 2}, "minHosts"),
        ({"resources": {"nuke": -1}}, "resources"),
        ({"children": [{"name": "y", "minHosts": 3, "maxHosts": 2}]}, r"children\[0\].minHosts"),
    ],
)
def test_what_can_never_be_placed_is_refused(api, spec, complaint):
    with pytest.raises(errors.InvalidSpecError, match=complaint):
        api.newjob({"name": "x", "command": "c", **spec})


def test_an_unknown_group_or_client_is_a_fault_where_something_is_added(api):
    machine = api.farm.machine()
    with pytest.raises(errors.UnknownGroupError, match="group_id is 7"):
        api.addClientToGroup(7, machine.id)
    with pytest.raises(errors.UnknownClientError, match="client_id is 987654321"):
        api.addClientToGroup(api.createClientGroup("licht"), 987654321)
