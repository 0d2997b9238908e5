"""Every sentence of the Python API page of HQueue 12, method by method."""
# ruff: noqa: ERA001, N802, SIM905 - the sentences are quoted, and a test is named after its method

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from hqueue import errors
from tests.rpc.conftest import Api

METHODS = """
addNote getAllJobStatusNames getClient getClientByHostname getClientGroups getClients getClientsByHostname
getclientinfo getConfig getFailedJobStatusNames getFinishedJobStatusNames getFinishedRootJobIds getHQRoot getinfo
getJob getJobHistory getJobIdsBySatus getJobOutput getJobs getLatestNotes getNoteThreadIds getNoteThreads getoutput
getPausedJobStatusNames getPriorityChangedEventNames getprogress getRescheduledEventNames getResumedEventNames
getRunningJobStatusNames getServerTime getStartedJobEventNames getstatus getSucceededStatusNames
getUnfinishedJobStatusNames getUnfinishedRootJobIds getVersion getWaitingJobStatusNames newjob ping removeNotes
removeSingleNote removeSingleThread removeThreads runcmd setdisabled threadExists
""".split()

JOB_ATTRIBUTES = {
    "availabilityRules", "children", "clients", "clientsOnHold", "conditions", "endTime", "ETA", "id", "logs", "name",
    "latestNote", "overallProgress", "parents", "priority", "progress", "queueTime", "startTime", "status", "threadId",
    "tags", "uiStatus",
}  # fmt: skip
CLIENT_ATTRIBUTES = {
    "available", "availabilityRules", "cpus", "cpuSpeed", "disabled", "groups", "hostname", "id", "idleTime", "ip",
    "lastHeartbeat", "latestNote", "load", "memory", "needsUpgrade", "platform", "runningJobs", "threadId", "version",
}  # fmt: skip
NOTE_ATTRIBUTES = {"clientHostname", "clientId", "date", "jobId", "text"}


def test_every_method_of_the_document_is_there_and_has_a_test(api):
    assert len(METHODS) == 46
    assert [name for name in METHODS if name not in api.table.names()] == []
    assert [name for name in METHODS if f"test_doc12_{name}" not in globals()] == []


def test_doc12_addNote(api):
    machine = api.farm.machine("farm-ü")
    job_id = api.newjob({"name": "x"})[0]
    # "Adds a note to a thread or creates a new thread if there is no corresponding thread"
    assert api.addNote("neu", None, None, None) is True
    assert api.getNoteThreadIds() == [1]
    api.addNote("dazu", 1, None, None)
    api.addNote("Auftrag", None, job_id, None)
    api.addNote("Rechner", None, None, machine.id)
    assert api.getNoteThreadIds() == [1, 2, 3]
    # "If one of those two values are not nil then they are used to determine the id of the thread"
    api.addNote("Auftrag 2", 1, job_id, None)
    api.addNote("Rechner 2", 1, None, machine.id)
    # "Otherwise thread_id is used."
    api.addNote("frei", 1, None, None)
    texts = [[note["text"] for note in thread["notes"]] for thread in api.getNoteThreads()]
    assert texts == [["neu", "dazu", "frei"], ["Auftrag", "Auftrag 2"], ["Rechner", "Rechner 2"]]


def test_doc12_getAllJobStatusNames(api):
    # "Return a tuple containing all the possible job statuses."
    names = api.getAllJobStatusNames()
    assert set(names) >= {
        "abandoned", "cancelled", "failed", "succeeded", "paused", "pausing", "queued", "resuming", "running",
        "runnable", "waiting",
    }  # fmt: skip
    assert len(names) == len(set(names))


def test_doc12_getClient(api):
    machine = api.farm.machine("farm-ü")
    # "Convenience function for getClients(). Return a dictionary of attributes for the specified client."
    assert api.getClient(machine.id) == api.getClients([machine.id])[0]
    assert api.getClient(machine.id, ["hostname"]) == {"hostname": "farm-ü"}
    assert api.getClient(987654321) is None


def test_doc12_getClientByHostname(api):
    machine = api.farm.machine("farm-ü")
    assert api.getClientByHostname("farm-ü") == api.getClient(machine.id)
    assert api.getClientByHostname("farm-ü", ["id"]) == {"id": machine.id}
    assert api.getClientByHostname("niemand") is None


def test_doc12_getClientGroups(api):
    machine = api.farm.machine()
    first, second = api.createClientGroup("eins"), api.createClientGroup("zwei-ü")
    api.addClientToGroup(second, machine.id)
    # "If it is not specified or is set to None, then attributes for all registered client groups are returned."
    every = [{"clients": [], "id": first, "name": "eins"}, {"clients": [machine.id], "id": second, "name": "zwei-ü"}]
    assert api.getClientGroups() == api.getClientGroups(None) == api.getClientGroups([first, second]) == every
    # "each dictionary contains the attributes for a client group specified in group_ids"
    assert api.getClientGroups([second]) == every[1:]
    assert api.getClientGroups([987654321]) == []
    # "You can optionally set the attribs argument to a list of client group attributes"
    for name in ("clients", "id", "name"):
        assert api.getClientGroups(None, [name]) == [{name: each[name]} for each in every]


def test_doc12_getClients(api):
    machine, other = api.farm.machine("farm-ü", cpus=8), api.farm.machine("farm-ö")
    # "client_ids must be a list of client id numbers. If it is not specified or is set to None, then attributes for
    # all registered clients are returned."
    assert [each["id"] for each in api.getClients()] == [machine.id, other.id]
    assert api.getClients() == api.getClients(None) == api.getClients([machine.id, other.id])
    assert [each["id"] for each in api.getClients([other.id])] == [other.id]
    # "You can optionally set the attribs argument to a list of client attributes that will be returned."
    assert api.getClients(None, ["id", "hostname"]) == [
        {"id": machine.id, "hostname": "farm-ü"},
        {"id": other.id, "hostname": "farm-ö"},
    ]
    client = api.getClients([machine.id])[0]
    assert set(client) >= CLIENT_ATTRIBUTES
    for name in CLIENT_ATTRIBUTES:
        assert api.getClients([machine.id], [name]) == [{name: client[name]}]
    assert client["available"] is True
    assert client["availabilityRules"] == []
    assert client["cpus"] == 8
    assert client["cpuSpeed"] == 3000.0
    assert client["disabled"] is False
    assert client["groups"] == []
    assert client["hostname"] == "farm-ü"
    assert client["id"] == machine.id
    assert client["idleTime"] == -1  # "Is set to -1 if the idle time is unknown."
    assert client["ip"] == "127.0.0.1"
    assert client["lastHeartbeat"].tzinfo is UTC  # "The time is in UTC."
    assert client["latestNote"] == ""  # "An empty string is returned if there is no corresponding thread."
    assert client["load"] == 0.0
    assert client["memory"] == 2**40
    assert client["needsUpgrade"] is True
    assert client["platform"] == "linux-x86_64"
    assert client["runningJobs"] == []
    assert client["threadId"] is None  # "null is returned if there is no corresponding thread."
    assert client["version"] == "1.0.0"
    api.setdisabled("farm-ü", 1)
    group = api.createClientGroup("g")
    api.addClientToGroup(group, machine.id)
    api.addNote("alt", None, None, machine.id)
    api.addNote("neu", None, None, machine.id)
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.run(job_id, machine)
    api.beat(machine, idle_minutes=12, load=3.5)
    names = ["available", "disabled", "groups", "idleTime", "latestNote", "load", "runningJobs", "threadId"]
    assert api.getClient(machine.id, names) == {
        "available": False,
        "disabled": True,
        "groups": [group],
        "idleTime": 12,
        "latestNote": "neu",
        "load": 3.5,
        "runningJobs": [job_id],
        "threadId": 1,
    }


def test_doc12_getClientsByHostname(api):
    first, second = api.farm.machine("farm-ü"), api.farm.machine("farm-ö")
    # "If it is not specified or is set to None, then attributes for all registered clients are returned."
    assert api.getClientsByHostname() == api.getClientsByHostname(None) == api.getClients()
    assert api.getClientsByHostname(["farm-ö", "farm-ü"], ["id"]) == [{"id": second.id}, {"id": first.id}]
    assert api.getClientsByHostname(["niemand"]) == []


def test_doc12_getclientinfo(api):
    machine = api.farm.machine("farm-ü")
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.run(job_id, machine)
    assert api.getclientinfo("farm-ü") == {"disabled": False, "jobs": [job_id]}
    api.setdisabled("farm-ü", 1)
    assert api.getclientinfo("farm-ü") == {"disabled": True, "jobs": [job_id]}
    # "Return None if the specified hostname is not registered on the farm."
    assert api.getclientinfo("niemand") is None


def test_doc12_getConfig(api):
    # "Returns the configuration value for the given key or None if the key does not exists"
    assert api.getConfig("hqserver.port") == "5000"
    assert api.getConfig("hqserver.sharedNetwork.mount.linux") == "/mnt/hq"
    assert api.getConfig("gibt.es.nicht") is None


def test_doc12_getFailedJobStatusNames(api):
    assert api.getFailedJobStatusNames() == ["failed", "cancelled", "abandoned"]


def test_doc12_getFinishedJobStatusNames(api):
    assert api.getFinishedJobStatusNames() == ["succeeded", "failed", "cancelled", "abandoned"]


def finished_and_unfinished(api):
    """Submit roots in every kind of status; return the finished ones and the unfinished ones."""
    machine = api.farm.machine(cpus=9)
    succeeded, failed, cancelled, abandoned, running, runnable, paused, queued, _ = api.newjob(
        [
            {"name": "a"},
            *[{"name": "b", "command": "c"}] * 6,
            {"name": "q", "children": [{"name": "k", "command": "c"}]},
        ],
    )
    api.run(failed, machine)
    machine.end(failed, 1)
    api.cancelJobs([cancelled])
    api.pauseJobs([paused])
    api.run(abandoned, machine)
    machine.vanish()
    api.run(running, api.farm.machine("farm-ö"))
    return [succeeded, failed, cancelled, abandoned], [running, runnable, paused, queued]


def test_doc12_getFinishedRootJobIds(api):
    # "Return a list of job ids for all finished, root jobs. Root jobs are ones that have no parent."
    assert api.getFinishedRootJobIds() == []
    finished, _ = finished_and_unfinished(api)
    assert api.getFinishedRootJobIds() == finished


def test_doc12_getHQRoot(sqlite_store, clock, tmp_path):
    api = Api(sqlite_store, clock, tmp_path, {"sharedNetwork.host": "filer", "sharedNetwork.path.windows": "hq"})
    # "platform must be either "linux", "windows" or "macosx"."
    assert api.getHQRoot("linux") == "/mnt/hq"
    assert api.getHQRoot("macosx") == "/Volumes/HQShared"
    # "Return None if platform is none of those values."
    assert api.getHQRoot("irix") is api.getHQRoot(None) is None
    # "Returns the UNC path if platform is "windows" and is_client is True."
    assert api.getHQRoot("windows") == r"\\filer\hq"
    assert api.call("getHQRoot", "windows", 0) == "H:/"


def test_doc12_getinfo(api):
    machine = api.farm.machine()
    parent, job_id = api.newjob({"name": "p", "children": [{"name": "x", "command": "c", "priority": 4, "host": "a"}]})
    api.run(job_id, machine)
    machine.end(job_id, 0)
    info = api.getinfo(job_id)
    expected = api.getJob(
        job_id, ["startTime", "endTime", "cmdStartTime", "cmdEndTime", "status", "progress", "root", "children",
                 "parents", "priority", "conditions"],
    )  # fmt: skip
    assert info == expected
    assert (info["root"], info["parents"], info["children"], info["priority"]) == (parent, [parent], [], 4)
    assert None not in {info["startTime"], info["endTime"], info["cmdStartTime"], info["cmdEndTime"]}
    # "Return None if id is not a valid job id."
    assert api.getinfo(987654321) is None


def test_doc12_getJob(api):
    job_id = api.newjob({"name": "x"})[0]
    # "Convenience function for getJobs(). Return a dictionary of attributes for the specified job."
    assert api.getJob(job_id) == api.getJobs([job_id])[0]
    assert api.getJob(job_id, ["name"]) == {"name": "x"}
    assert api.getJob(987654321) is None


def test_doc12_getJobHistory(api):
    machine = api.farm.machine()
    ids = api.newjob([{"name": "x", "command": "c"}] * 7)
    for job_id in ids:
        api.run(job_id, machine)
        api.clock.advance(1)
        machine.end(job_id, 0)
    # "with the job that last finished on the client appearing first"; "The default limit value is 5."
    assert api.getJobHistory(machine.id) == ids[::-1][:5]
    assert api.getJobHistory(machine.id, 7) == ids[::-1]
    assert api.getJobHistory(machine.id, 1) == ids[-1:]


def test_doc12_getJobIdsBySatus(api):
    _, (running, runnable, paused, queued) = finished_and_unfinished(api)
    # "Returns a list of ids of the jobs that have a status in the list of given statuses."
    assert api.getJobIdsBySatus(["running"]) == [running]
    assert api.getJobIdsBySatus(["paused", "queued"]) == [paused, queued]
    assert api.getJobIdsBySatus(["waiting"]) == api.getJobIdsBySatus(["runnable"])
    assert runnable in api.getJobIdsBySatus(["runnable"])
    names = ["abandoned", "cancelled", "failed", "succeeded", "paused", "pausing", "queued", "resuming", "running",
             "runnable", "waiting"]  # fmt: skip
    every = sorted({job_id for name in names for job_id in api.getJobIdsBySatus([name])})
    assert every == api.getJobIdsBySatus(names) == list(range(1, 10))
    with pytest.raises(errors.InvalidArgumentError, match=r"'fertig'; valid ones are abandoned"):
        api.getJobIdsBySatus(["fertig"])


def test_doc12_getJobOutput(api):
    machine = api.farm.machine()
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.run(job_id, machine, "Bild 1: größer\n")
    # "Return the output log of the given job."
    assert api.getJobOutput(job_id) == "Bild 1: größer\n"
    # "If max_last_chars is specified, then return at most the last so many characters of the log."
    assert api.getJobOutput(job_id, 7) == "größer\n"
    assert api.getJobOutput(job_id, 1000) == "Bild 1: größer\n"
    # "If max_last_chars is less than one or is not specified, then the entire output log is returned."
    assert api.getJobOutput(job_id, 0) == api.getJobOutput(job_id, -5) == "Bild 1: größer\n"
    assert api.getJobOutput(987654321) is None


def test_doc12_getJobs(api):
    machine = api.farm.machine("farm-ü")
    parent, first, second = api.newjob(
        {
            "name": "Wurzel",
            "children": [
                {"name": "Kind-ä", "command": "c", "priority": 3, "tags": ["single", "x"], "host": "farm-ü"},
                {"name": "Kind-ö", "command": "c"},
            ],
        },
    )
    # "each dictionary contains the attributes for a job specified in job_ids"
    assert [job["id"] for job in api.getJobs([second, parent])] == [second, parent]
    assert api.getJobs([]) == []
    # "You can optionally set the attribs argument to a list of job attributes that will be returned."
    assert api.getJobs([first, second], ["name"]) == [{"name": "Kind-ä"}, {"name": "Kind-ö"}]
    job = api.getJobs([first])[0]
    assert set(job) >= JOB_ATTRIBUTES
    for name in JOB_ATTRIBUTES:
        assert api.getJobs([first], [name]) == [{name: job[name]}]
    assert job["availabilityRules"] == []
    assert job["children"] == []
    assert job["clients"] == []
    assert job["clientsOnHold"] == []
    assert job["conditions"] == [{"type": "client", "name": "hostname", "op": "==", "value": "farm-ü"}]
    assert job["endTime"] is None  # "Is set to None if the job has not finished."
    assert (job["ETA"], type(job["ETA"])) == (-1.0, float)  # "Is set to -1 if the ETA cannot be determined."
    assert job["id"] == first
    assert [text for text, _ in job["logs"]] == ["submitted"]
    assert job["name"] == "Kind-ä"
    assert job["latestNote"] == ""  # "An empty string is returned if there is no corresponding thread."
    assert job["overallProgress"] == 0.0
    assert job["parents"] == [parent]
    assert job["priority"] == 3
    assert job["progress"] == 0.0
    assert api.clock.now() - job["queueTime"] < timedelta(seconds=1)  # "The time is in UTC."
    assert job["startTime"] is None
    assert job["status"] == "runnable"
    assert job["threadId"] is None  # "null is returned if there is no corresponding thread."
    assert job["tags"] == ["single", "x"]
    assert (
        job["uiStatus"] == "waiting for machine"
    )  # ""runnable" is the equivalent of the "waiting for machine" UI status."

    api.run(first, machine)
    api.clock.advance(10)
    api.live_farm.report_progress(first, 1, 2)
    api.addNote("schaut gut aus", None, first)
    names = ["clients", "latestNote", "overallProgress", "progress", "status", "uiStatus", "threadId"]
    assert api.getJob(first, names) == {
        "clients": [{"id": machine.id, "clientId": machine.id, "hostname": "farm-ü", "name": "", "master": True}],
        "latestNote": "schaut gut aus",
        "overallProgress": 0.5,
        "progress": 0.5,
        "status": "running",
        "uiStatus": "running",
        "threadId": 1,
    }
    assert api.getJob(first, ["ETA"])["ETA"] > 0
    # ""queued" indicates that the job is waiting for descedent jobs to finish before it can run."
    root = api.getJob(parent)
    assert (root["status"], root["uiStatus"]) == ("queued", "running (1 clients assigned)")
    assert root["children"] == [first, second]
    assert root["overallProgress"] == 0.25  # "of the job and its descendents"
    assert root["startTime"] == api.getJob(first, ["startTime"])["startTime"]  # "or one of its descedents"
    assert (
        root["progress"] == 0.0
    )  # "If the job has no command to execute, then the progress will always be set to 0.0."
    machine.end(first, 0)
    api.run(second, machine)
    machine.end(second, 0)
    ended = api.getJob(parent, ["endTime", "status", "overallProgress", "progress", "ETA"])
    assert api.clock.now() - ended.pop("endTime") < timedelta(seconds=1)
    assert ended == {"status": "succeeded", "overallProgress": 1.0, "progress": 0.0, "ETA": 0}


def test_doc12_getLatestNotes(api):
    machine = api.farm.machine("farm-ü")
    job_id = api.newjob({"name": "x"})[0]
    api.addNote("alt", None, job_id)
    api.addNote("neu", None, job_id)
    api.addNote("Rechner", None, None, machine.id)
    # "If it is null then the latest notes for all of the jobs are returned."
    assert [note["text"] for note in api.getLatestNotes()] == ["neu", "Rechner"]
    assert api.getLatestNotes() == api.getLatestNotes(None)
    # "the latest note of a thread specified in thread_ids"
    notes = api.getLatestNotes([2])
    assert set(notes[0]) >= NOTE_ATTRIBUTES
    # "You can optionally set the attribs argument to a list of note attributes that will be returned."
    assert api.getLatestNotes([2, 1], ["clientHostname", "clientId", "jobId", "text"]) == [
        {"clientHostname": "farm-ü", "clientId": machine.id, "jobId": None, "text": "Rechner"},
        {"clientHostname": None, "clientId": None, "jobId": job_id, "text": "neu"},
    ]
    assert api.clock.now() - notes[0]["date"] < timedelta(seconds=1)


def test_doc12_getNoteThreadIds(api):
    assert api.getNoteThreadIds() == []
    api.addNote("a")
    api.addNote("b")
    assert api.getNoteThreadIds() == [1, 2]


def test_doc12_getNoteThreads(api):
    machine = api.farm.machine("farm-ü")
    job_id = api.newjob({"name": "x"})[0]
    api.addNote("eins", None, job_id)
    api.addNote("zwei", None, job_id)
    api.addNote("Rechner", None, None, machine.id)
    # "in thread_ids unless thread_ids is null in which case the dictionaries for all of the jobs are returned"
    threads = api.getNoteThreads()
    assert threads == api.getNoteThreads(None) == api.getNoteThreads([1, 2])
    assert set(threads[0]) >= {"clientHostname", "clientId", "jobId", "notes"}
    assert set(threads[0]["notes"][0]) >= NOTE_ATTRIBUTES
    # "The thread_attribs may be set to a list of thread attributes that will be retured."
    assert api.getNoteThreads([2], ["clientHostname", "clientId", "jobId"]) == [
        {"clientHostname": "farm-ü", "clientId": machine.id, "jobId": None},
    ]
    # "If the notes attribute is to be returned, then note_attribs may be set to a list of note attributes"
    assert api.getNoteThreads([1], ["notes"], ["text", "jobId"]) == [
        {"notes": [{"text": "eins", "jobId": job_id}, {"text": "zwei", "jobId": job_id}]},
    ]


def test_doc12_getoutput(api):
    machine = api.farm.machine()
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.run(job_id, machine, "Ausgabe")
    assert api.getoutput(job_id) == "Ausgabe"
    # "Return None if id is not a valid job id."
    assert api.getoutput(987654321) is None


def test_doc12_getPausedJobStatusNames(api):
    assert api.getPausedJobStatusNames() == ["paused"]


def test_doc12_getPriorityChangedEventNames(api):
    assert api.getPriorityChangedEventNames() == ["priority changed"]
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.setJobPriority([job_id], 3)
    assert api.getJob(job_id, ["history"])["history"][-1]["event"] in api.getPriorityChangedEventNames()


def test_doc12_getprogress(api):
    machine = api.farm.machine()
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    # "If the returned numerator is None, then the progress is 0.0."
    assert api.getprogress(job_id) == [None, None]
    api.run(job_id, machine)
    api.live_farm.report_progress(job_id, 3, 8)
    # "i.e. progress = numerator / denominator"
    numerator, denominator = api.getprogress(job_id)
    assert numerator / denominator == api.getJob(job_id, ["progress"])["progress"] == 0.375
    machine.end(job_id, 0)
    numerator, denominator = api.getprogress(job_id)
    assert numerator / denominator == 1.0
    # "Return None if id is not a valid job id."
    assert api.getprogress(987654321) is None


def test_doc12_getRescheduledEventNames(api):
    assert api.getRescheduledEventNames() == ["rescheduled"]
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.cancelJobs([job_id])
    api.rescheduleJobs([job_id])
    assert api.getJob(job_id, ["history"])["history"][-1]["event"] == "rescheduled"


def test_doc12_getResumedEventNames(api):
    assert api.getResumedEventNames() == ["resumed"]
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.pauseJobs([job_id])
    api.resumeJobs([job_id])
    assert api.getJob(job_id, ["history"])["history"][-1]["event"] == "resumed"


def test_doc12_getRunningJobStatusNames(api):
    assert api.getRunningJobStatusNames() == ["running", "pausing", "resuming", "ejecting"]


def test_doc12_getServerTime(api):
    # "Return the current time reported by the HQueue server. The time is in UTC."
    assert api.getServerTime() == api.clock.now()
    assert api.getServerTime().utcoffset() == timedelta(0)
    assert isinstance(api.getServerTime(), datetime)


def test_doc12_getStartedJobEventNames(api):
    assert api.getStartedJobEventNames() == ["running"]
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    api.run(job_id, api.farm.machine())
    assert api.getJob(job_id, ["history"])["history"][-1]["event"] == "running"


def test_doc12_getstatus(api):
    job_id = api.newjob({"name": "x", "command": "c"})[0]
    assert api.getstatus(job_id) == "runnable"
    # "Return None if id is not a valid job id."
    assert api.getstatus(987654321) is None


def test_doc12_getSucceededStatusNames(api):
    assert api.getSucceededStatusNames() == ["succeeded"]


def test_doc12_getUnfinishedJobStatusNames(api):
    names = api.getUnfinishedJobStatusNames()
    assert sorted(names + api.getFinishedJobStatusNames()) == api.getAllJobStatusNames()


def test_doc12_getUnfinishedRootJobIds(api):
    assert api.getUnfinishedRootJobIds() == []
    _, unfinished = finished_and_unfinished(api)
    assert api.getUnfinishedRootJobIds() == unfinished


def test_doc12_getVersion(api):
    assert len(api.getVersion().split(".")) >= 3
    assert all(part.isdigit() for part in api.getVersion().split(".")[:3])


def test_doc12_getWaitingJobStatusNames(api):
    assert api.getWaitingJobStatusNames() == ["queued", "runnable", "waiting"]


def test_doc12_newjob(api):
    spec = {"name": "Render My Image", "shell": "bash", "command": "cd $HQROOT/houdini_distros/hfs; mantra"}
    # "jobspec can be either a JSON string, a dictionary or a list of dictionaries"; "A list of job ids is returned."
    assert api.newjob(json.dumps(spec)) == [1]
    assert api.newjob(spec) == [2]
    assert api.newjob([spec, spec]) == [3, 4]
    # "parent_id is an optional argument which takes the id of a job that the new job should be a child of."
    child = api.newjob(spec, 1)[0]
    assert api.getJob(1, ["children"]) == {"children": [child]}
    # "child_ids is an optional argument which takes a list of ids for jobs that should be children of the new job."
    parent = api.newjob(spec, None, [2, 3])[0]
    assert api.getJob(parent, ["children", "parents"]) == {"children": [2, 3], "parents": []}
    with pytest.raises(errors.UnknownJobError):
        api.newjob(spec, 987654321)


def test_doc12_ping(api):
    # "Always return True."
    assert api.ping() is True


def thread_of_three(api):
    api.addNote("eins")
    api.addNote("zwei", 1)
    api.addNote("drei", 1)


def test_doc12_removeNotes(api):
    thread_of_three(api)
    # "An array of note ids that could not be deleted is returned."
    assert api.removeNotes([987654321]) == [987654321]
    # "you must put the note id of the first note in a thread after the note ids of all the other notes"
    assert api.removeNotes([1, 2]) == [1]
    assert api.removeNotes([3, 1]) == []
    assert api.getNoteThreads() == []


def test_doc12_removeSingleNote(api):
    thread_of_three(api)
    assert api.removeSingleNote(2) is True
    assert [note["text"] for note in api.getNoteThreads()[0]["notes"]] == ["eins", "drei"]
    assert api.removeSingleNote(987654321) is False


def test_doc12_removeSingleThread(api):
    thread_of_three(api)
    # "Removes the thread with the specified thread id, and all of the notes belonging to that thread"
    assert api.removeSingleThread(1) is True
    assert api.getNoteThreadIds() == api.getLatestNotes() == []
    assert api.removeSingleThread(1) is False


def test_doc12_removeThreads(api):
    thread_of_three(api)
    api.addNote("anderer")
    # "An array of thread ids that could not be deleted is returned."
    assert api.removeThreads([1, 987654321]) == [987654321]
    assert api.getNoteThreadIds() == [2]


def test_doc12_runcmd(api):
    # "creating a new anonymous job with its command property set to cmd"; "The id of the anonymous job is returned."
    job_id = api.runcmd("render -f 1")
    assert api.getJob(job_id, ["command", "status"]) == {"command": "render -f 1", "status": "runnable"}
    # "The job is assigned to a client machine and processed."
    machine = api.farm.machine()
    api.farm.tick()
    machine.beat()
    assert api.getJob(job_id, ["status"]) == {"status": "running"}


def test_doc12_setdisabled(api):
    api.farm.machine("farm-ü")
    # "Disables or enables the given client machine depending on the value of disabled."
    for value in (True, False):
        # "Return True if the method succeeds."
        assert api.setdisabled("farm-ü", value) is True
        assert api.getClientByHostname("farm-ü", ["disabled"]) == {"disabled": value}
    # "Return None otherwise."
    assert api.setdisabled("niemand", 1) is None


def test_doc12_threadExists(api):
    api.addNote("a")
    # "Returns a boolean representing whether a thread with the given thread_id exits or not."
    assert api.threadExists(1) is True
    assert api.threadExists(2) is False
    # "If there are errors while attempting this, a null value (e.g. None for python) is returned instead."
    assert api.threadExists("kein Faden") is None
