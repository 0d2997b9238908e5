"""The methods that later versions of HQueue added, and ours: each one's paragraph, in short.

What each does in detail is tested beside the module it is in; here stands what a caller is promised.
"""
# ruff: noqa: N802, SIM905 - a test is named after its method

from __future__ import annotations

import logging
from datetime import UTC

import pytest

from hqueue import errors
from hqueue.errors import InvalidArgumentError
from tests.rpc.test_doc12 import METHODS as FIRST
from tests.store.scheduling import tick

METHODS = """
getNetworkFolders getEnvRoot getJobIdsByStatus getJobIdsAssignedToClient readJobOutput getNumWaitingJobs pauseJobs
resumeJobs cancelJobs rescheduleJobs ejectJobs deleteJobs getPermittedClientsList savePermittedClientsList
setShowBlockedClientsWarning getClientsByName getClientByName getClientGroup getClientGroupByName createClientGroup
deleteClientGroup addClientToGroup removeClientFromGroup getResources setJobPriority setJobProperties
setClientDescription removeClients listJobs getChanges getJobRuns getServerErrors getClientErrors upgradeClients
getFailures explainJob clearBlocks setAvailabilityRules createResource setResource deleteResource
""".split()


def test_every_later_method_is_there_and_has_a_test(api):
    assert [name for name in METHODS if f"test_doc17_{name}" not in globals()] == []
    users = [name for name in api.table.names() if not name.startswith("system.")]
    assert sorted(METHODS + FIRST) == users


def status(api, job_id):
    return api.getJob(job_id, ["status"])["status"]


@pytest.fixture
def running(api):
    """Return a job that runs, and where."""
    machine = api.farm.machine("farm-ü")
    job_id = api.newjob({"name": "Bild-ä", "command": "c"})[0]
    api.run(job_id, machine, "erste Zeile\n")
    return job_id, machine


def test_doc17_getNetworkFolders(api):
    (folder,) = api.getNetworkFolders()
    assert folder["name"] == "HQROOT"
    assert folder["main"] is True
    assert {folder[platform] for platform in ("linux", "windows", "macosx")} == {"/mnt/hq", "H:/", "/Volumes/HQShared"}


def test_doc17_getEnvRoot(api):
    assert api.getEnvRoot("HQROOT", "linux") == api.getHQRoot("linux")
    assert api.getEnvRoot("HQROOT", "irix") is api.getEnvRoot("ANDERE", "linux") is None


def test_doc17_getJobIdsByStatus(api, running):
    assert api.getJobIdsByStatus(["running"]) == api.getJobIdsBySatus(["running"]) == [running[0]]


def test_doc17_getJobIdsAssignedToClient(api, running):
    job_id, machine = running
    assert api.getJobIdsAssignedToClient(machine.id) == [job_id]
    machine.end(job_id)
    assert api.getJobIdsAssignedToClient(machine.id) == api.getJobIdsAssignedToClient(987654321) == []


def test_doc17_readJobOutput(api, running):
    job_id, machine = running
    text, offset, piece = "", 0, {"finished": False}
    api.print(job_id, "zweite Zeile: größer\n")
    machine.end(job_id)
    while not piece["finished"]:
        piece = api.readJobOutput(job_id, offset, 7)
        text, offset = text + piece["text"], piece["next"]
    assert text == api.getJobOutput(job_id) == "erste Zeile\nzweite Zeile: größer\n"
    assert api.readJobOutput(987654321) is None


def test_doc17_getNumWaitingJobs(api):
    api.newjob([{"name": "x", "command": "c", "priority": each} for each in (1, 2, 3)])
    assert api.getNumWaitingJobs() == 3
    assert api.getNumWaitingJobs(0, 2, 3) == 2
    assert api.getNumWaitingJobs(5) == 0


def test_doc17_pauseJobs(api, running):
    job_id, machine = running
    assert api.pauseJobs([job_id, 987654321]) is True
    assert status(api, job_id) == "pausing"
    machine.beat()
    machine.obey()
    assert status(api, job_id) == "paused"


def test_doc17_resumeJobs(api, running):
    job_id, machine = running
    api.pauseJobs([job_id])
    machine.beat()
    machine.obey()
    assert api.resumeJobs([job_id]) is True
    assert status(api, job_id) == "resuming"
    machine.beat()
    machine.obey()
    assert status(api, job_id) == "running"


def test_doc17_cancelJobs(api, running):
    job_id, machine = running
    assert api.cancelJobs([job_id]) is True
    assert status(api, job_id) == "cancelled"
    machine.beat()
    machine.obey()
    assert status(api, job_id) == "cancelled"


def test_doc17_rescheduleJobs(api, running):
    job_id, machine = running
    machine.end(job_id, 1)
    assert status(api, job_id) == "failed"
    assert api.rescheduleJobs([job_id]) is True
    assert status(api, job_id) == "runnable"


def test_doc17_ejectJobs(api, running):
    job_id, machine = running
    assert api.ejectJobs([job_id]) is True
    assert status(api, job_id) == "ejecting"
    machine.beat()
    machine.obey()
    assert status(api, job_id) == "runnable"


def test_doc17_deleteJobs(api, running):
    job_id, machine = running
    assert api.deleteJobs([job_id]) is True
    assert status(api, job_id) == "running"
    machine.end(job_id)
    assert api.deleteJobs([job_id]) is True
    assert api.getJob(job_id) is api.getJobOutput(job_id) is None
    assert api.newjob({"name": "x"}) == [job_id + 1]


def test_doc17_getPermittedClientsList(api, running):
    job_id, _ = running
    api.farm.machine("farm-ö", name="zwei")
    assert api.getPermittedClientsList(job_id) == ["farm-ü", "farm-ö:zwei"]
    assert api.getPermittedClientsList(987654321) is None


def test_doc17_savePermittedClientsList(api, running):
    job_id, _ = running
    assert api.savePermittedClientsList(job_id, ["farm-ü:"]) is True
    assert api.getPermittedClientsList(job_id) == ["farm-ü"]
    assert api.getJob(job_id, ["conditions"])["conditions"][0]["value"] == "farm-ü:"
    api.savePermittedClientsList(job_id, [])
    assert api.getJob(job_id, ["conditions"]) == {"conditions": []}


def test_doc17_setShowBlockedClientsWarning(api):
    machine = api.farm.machine(cpus=1)
    root, *frames = api.newjob({"name": "Szene", "children": [{"name": "Bild-ä", "command": "c"}] * 5})
    other = api.newjob({"name": "andere", "command": "c", "priority": 0})[0]
    shown = ["showBlockedClientsWarning"]
    assert not any(job["showBlockedClientsWarning"] for job in api.getJobs([root, *frames, other], shown))
    for _ in range(3):
        tick(api.farm)
        machine.beat()
        machine.end(min(machine.jobs), 1)
    tick(api.farm)
    ids = [root, *frames, other] * 10  # so many are written another way
    expected = [{"showBlockedClientsWarning": job_id != other} for job_id in ids]
    assert [api.getJob(job_id, shown) for job_id in ids] == api.getJobs(ids, shown) == expected
    for value in (False, True):
        assert api.setShowBlockedClientsWarning(root, value) is True
        assert api.getJob(root, shown) == {"showBlockedClientsWarning": value}
        assert api.setShowBlockedClientsWarning(other, value) is True
        assert api.getJob(other, shown) == {"showBlockedClientsWarning": False}


def test_doc17_getClientsByName(api, running):
    assert api.getClientsByName(["farm-ü"]) == api.getClientsByName() == api.getClients()


def test_doc17_getClientByName(api, running):
    assert api.getClientByName("farm-ü") == api.getClient(running[1].id)
    assert api.getClientByName("niemand") is None


def test_doc17_getClientGroup(api):
    group = api.createClientGroup("schnell")
    assert api.getClientGroup(group) == {"clients": [], "id": group, "name": "schnell"}
    assert api.getClientGroup(987654321) is None


def test_doc17_getClientGroupByName(api):
    group = api.createClientGroup("a:b, c; ü")
    assert api.getClientGroupByName("a:b, c; ü", ["id"]) == {"id": group}
    assert api.getClientGroupByName("a") is None


def test_doc17_createClientGroup(api):
    first, second = api.createClientGroup("a"), api.createClientGroup("b")
    assert first < second
    with pytest.raises(errors.DuplicateNameError):
        api.createClientGroup("a")


def test_doc17_deleteClientGroup(api, running):
    group = api.createClientGroup("a")
    api.addClientToGroup(group, running[1].id)
    assert api.deleteClientGroup(group) is True
    assert api.getClientGroups() == []
    assert api.getClient(running[1].id, ["groups"]) == {"groups": []}


def test_doc17_addClientToGroup(api, running):
    group = api.createClientGroup("a")
    assert api.addClientToGroup(group, running[1].id) is True
    assert api.getClientGroup(group, ["clients"]) == {"clients": [running[1].id]}
    with pytest.raises(errors.UnknownClientError):
        api.addClientToGroup(group, 987654321)


def test_doc17_removeClientFromGroup(api, running):
    group = api.createClientGroup("a")
    api.addClientToGroup(group, running[1].id)
    assert api.removeClientFromGroup(group, running[1].id) is True
    assert api.getClientGroup(group, ["clients"]) == {"clients": []}


def test_doc17_getResources(api):
    every = api.getResources()
    assert set(every[0]) == {"id", "name", "max", "used", "perMachine"}
    assert api.getResources([every[1]["id"]]) == every[1:2]


def test_doc17_setJobPriority(api):
    ids = api.newjob({"name": "p", "children": [{"name": "k", "command": "c"}, {"name": "done"}]})
    assert api.setJobPriority(ids[:1], 8) is True
    api.farm.finish_bulk()
    assert [job["priority"] for job in api.getJobs(ids, ["priority"])] == [8, 8, 0]


def test_doc17_setJobProperties(api, running):
    assert api.setJobProperties([running[0]], {"description": "neu", "cpus": 3}) is True
    assert api.getJob(running[0], ["description", "cpus"]) == {"description": "neu", "cpus": 3}
    with pytest.raises(errors.InvalidSpecError):
        api.setJobProperties([running[0]], {"cpus": "viele"})


def test_doc17_setClientDescription(api, running):
    assert api.setClientDescription(running[1].id, "am Fenster") is True
    assert api.getClient(running[1].id, ["description"]) == {"description": "am Fenster"}


def test_doc17_removeClients(api, running):
    job_id, machine = running
    with pytest.raises(errors.InvalidArgumentError, match="still reports"):
        api.removeClients([machine.id])
    machine.vanish()
    assert api.removeClients([machine.id]) is True
    assert api.getClients() == []
    assert status(api, job_id) == "runnable"


def test_doc17_getServerErrors(api):
    assert api.getServerErrors() == {"total": 0, "errors": []}
    for _ in range(2):
        api.errors.handle(logging.makeLogRecord({"levelno": logging.ERROR, "msg": "Plätte %s", "args": ("voll",)}))
    (error,) = api.getServerErrors()["errors"]
    assert (error["message"], error["count"], error["date"].tzinfo) == ("Plätte voll", 2, UTC)
    assert api.getServerErrors()["total"] == 2


def test_doc17_getClientErrors(api, running):
    job_id, machine = running
    assert api.getClientErrors(987654321) == {}
    assert api.getClientErrors(machine.id) == {"total": 0, "errors": []}
    machine.refuse(job_id)
    (error,) = api.getClientErrors(machine.id)["errors"]
    assert (error["message"], error["count"]) == ("refused a job: the disk is full", 1)


def test_doc17_clearBlocks(api):
    """A client gets the jobs of a tree again; any of its jobs names the tree."""
    machine = api.farm.machine("farm-ü", 1)
    api.farm.machine("farm-z", 1).vanish()
    _, *frames = api.newjob({"name": "Szene", "children": [{"name": "Bild", "command": "x"}] * 4})
    for frame in frames[:3]:
        api.farm.start(frame, machine)
        machine.end(frame, 1)
    api.farm.tick()
    assert api.getJob(frames[3], ["waitingFor"])["waitingFor"] == "waits for a client: 1 lost; 1 blocked after failures"
    assert api.clearBlocks([987654321]) is True
    assert api.clearBlocks([frames[3]]) is True
    api.farm.tick()
    assert api.getJob(frames[3], ["status"]) == {"status": "running"}


def test_doc17_upgradeClients(api, running):
    assert api.upgradeClients([987654321]) is True
    with pytest.raises(errors.UnsupportedError, match=r"client 1 \(farm-ü\) has version 1\.0\.0"):
        api.upgradeClients([running[1].id])


def test_doc17_listJobs(api, running):
    page = api.listJobs({"status": ["running"], "attribs": ["id", "name"], "limit": 10})
    assert page == {"jobs": [{"id": running[0], "name": "Bild-ä"}], "next": None, "seq": page["seq"]}
    assert api.getChanges(page["seq"])["changes"] == []


def test_doc17_getChanges(api, running):
    seq = api.listJobs()["seq"]
    running[1].end(running[0])
    found = api.getChanges(seq)
    assert [(each["jobId"], each["event"], each["status"]) for each in found["changes"]] == [
        (running[0], "succeeded", "succeeded"),
    ]
    assert api.getChanges(10**9)["reset"] is True


def test_doc17_getJobRuns(api, running):
    job_id, machine = running
    machine.end(job_id, 3, signal=None, peak_memory_kb=5)
    (run,) = api.getJobRuns(job_id)
    assert (run["attempt"], run["client"], run["exitCode"], run["outcome"], run["peakMemory"]) == (
        1, "farm-ü", 3, "exited", 5,
    )  # fmt: skip


def test_doc17_getFailures(api):
    machine = api.farm.machine("farm-ü", cpus=8)
    frames = [{"name": f"Bild {number}", "command": "render"} for number in range(1, 6)]
    top, middle, *children = api.newjob({"name": "Film", "children": [{"name": "Szene", "children": frames}]})
    for child in children:
        api.run(child, machine)
    lines = ["Error: frame 0001 at 0xDEADbeef", "Error: frame 12 at 0x0", "", "no licence for Karma"]
    for child, line, signal in zip(children, lines, (None, 9, None, None), strict=False):
        machine.end(child, 3, signal=signal, line=line)
    machine.end(children[-1])
    assert api.getJob(top, ["status"]) == {"status": "failed"}
    found = api.getFailures(top)
    assert found["failed"] == 4
    assert [each["id"] for each in found["failures"]] == children[:4]
    first, second = found["failures"][:2]
    assert first.pop("date") is not None
    assert first == {
        "id": children[0], "name": "Bild 1", "exitCode": 3, "signal": None, "text": "exit 3", "clientId": machine.id,
        "clientHostname": "farm-ü", "line": lines[0],
    }  # fmt: skip
    assert (second["signal"], second["text"]) == (9, "signal 9")
    assert found["causes"] == [
        {"line": "Error: frame # at #", "count": 2, "example": children[0]},
        {"line": "", "count": 1, "example": children[2]},
        {"line": "no licence for Karma", "count": 1, "example": children[3]},
    ]
    assert len(api.getFailures(middle, 1)["failures"]) == len(api.getFailures(str(middle), "1")["causes"]) == 1
    assert api.getFailures(children[-1]) == {"failed": 0, "failures": [], "causes": []}
    assert api.getFailures(987654321) is None
    with pytest.raises(InvalidArgumentError, match="limit is -1"):
        api.getFailures(top, -1)


def test_doc17_explainJob(api):
    machine = api.farm.machine("farm-ü", cpus=2)
    job_id, other = api.newjob([{"name": "x", "command": "c", "cpus": 2}] * 2)
    assert api.explainJob(other) == {
        "summary": "waits for its turn: 1 client has room",
        "clients": {"total": 1, "free": 1, "reasons": []},
        "resources": [],
        "ahead": 1,
    }
    api.run(job_id, machine)
    api.setdisabled("farm-ü", 1)
    explained = api.explainJob(other)
    assert explained["clients"]["reasons"] == [{"reason": "disabled", "count": 1, "examples": ["farm-ü"]}]
    assert explained["summary"] == api.getJob(other)["waitingFor"] == "waits for a client: 1 disabled"
    assert api.explainJob(987654321) is None


def test_doc17_setAvailabilityRules(api):
    machine = api.farm.machine("farm-ü")
    rules = [{"type": "idle", "minutes": 10, "enabled": True}]
    assert api.setAvailabilityRules(machine.id, rules) is True
    shown = api.getClient(machine.id, ["available", "availabilityRules", "state"])
    assert shown == {"available": False, "availabilityRules": rules, "state": "closed"}
    with pytest.raises(
        errors.InvalidArgumentError, match=r"rules\[0\].start is '25:00', but a time from 00:00 to 23:59"
    ):
        api.setAvailabilityRules(machine.id, [{"type": "time", "start": "25:00", "end": "04:00"}])
    with pytest.raises(errors.UnknownClientError, match="client_id is 987654321"):
        api.setAvailabilityRules(987654321, [])


def test_doc17_createResource(api):
    key = api.createResource("nuke", 5)
    assert api.getResources([key]) == [{"id": key, "name": "nuke", "max": 5, "used": 0, "perMachine": False}]
    with pytest.raises(errors.DuplicateNameError):
        api.createResource("nuke", None, 1)


def test_doc17_setResource(api):
    key = api.createResource("nuke", 5)
    assert api.setResource(key, {"max": None, "perMachine": True}) is True
    assert api.getResources([key]) == [{"id": key, "name": "nuke", "max": None, "used": 0, "perMachine": True}]


def test_doc17_deleteResource(api):
    key = api.createResource("nuke", 5)
    assert api.deleteResource(key) is True
    assert api.getResources([key]) == []
    with pytest.raises(errors.UnknownResourceError, match=f"id is {key}"):
        api.deleteResource(key)
