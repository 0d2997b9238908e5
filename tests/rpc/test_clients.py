"""The clients, as scripts see and change them."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from hqueue import __version__, errors
from hqueue.lifecycle.clients import forget
from hqueue.schema import client
from hqueue.views.clientattributes import CLIENT_ATTRIBUTES, UNKNOWN

LABELS = ["farm-ü", "farm-ü:zwei", "farm-ü:drei", "farm08.studio.lan"]


@pytest.fixture
def machines(api):
    """Four clients, three of them on one machine."""
    return [
        api.farm.machine("farm-ü"),
        api.farm.machine("farm-ü", name="zwei"),
        api.farm.machine("farm-ü", name="drei"),
        api.farm.machine("farm08.studio.lan"),
    ]


def labels(found):
    return [each["label"] for each in found]


class TestAsking:
    def test_all_or_those_asked_for_in_that_order(self, api, machines):
        assert labels(api.getClients()) == labels(api.getClients(None, ["label"])) == LABELS
        assert labels(api.getClients([machines[3].id, 987654321, str(machines[0].id)], ["label"])) == [
            LABELS[3],
            LABELS[0],
        ]
        assert api.getClients([]) == []
        assert api.getClient(machines[1].id, ["label", "id"]) == {"label": LABELS[1], "id": machines[1].id}
        assert api.getClient(987654321) is api.getClient(10**30) is None
        assert set(api.getClient(machines[0].id)) == set(CLIENT_ATTRIBUTES)

    def test_a_forgotten_client_is_hidden(self, api, machines):
        with api.store.writing() as session:
            forget(session, machines[0].id)
        assert labels(api.getClients()) == LABELS[1:]
        assert api.getClient(machines[0].id) is None
        assert api.getClientByHostname("farm-ü:") is None

    def test_unknown_attributes_are_faults(self, api):
        for call in (
            lambda: api.getClients(None, ["farbe"]),
            lambda: api.getClient(1, ["farbe"]),
            lambda: api.getClientsByHostname(None, ["farbe"]),
            lambda: api.getClientByName("x", ["farbe"]),
        ):
            with pytest.raises(errors.UnknownAttributeError, match=r"'farbe'.*cpuSpeed"):
                call()

    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["farm-ü"], LABELS[:3]),
            ("FARM-ü", LABELS[:3]),
            (["farm-ü:"], LABELS[:1]),
            (["farm-ü:zwei", "farm-ü"], [LABELS[1], LABELS[0], LABELS[2]]),
            (["farm08", "farm-ü:fünf", "niemand"], LABELS[3:]),
            (["farm-ü.studio.lan"], LABELS[:3]),
            ([], []),
            (None, LABELS),
        ],
    )
    def test_by_name(self, api, machines, names, found):
        assert labels(api.getClientsByHostname(names, ["label"])) == found
        assert labels(api.getClientsByName(names, ["label"])) == found

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("farm-ü", LABELS[0]),
            ("farm-ü:", LABELS[0]),
            ("farm-ü:drei", LABELS[2]),
            ("farm08", LABELS[3]),
            ("farm08:zwei", None),
            ("niemand", None),
            ("", None),
        ],
    )
    def test_one_by_name(self, api, machines, name, found):
        for method in ("getClientByHostname", "getClientByName"):
            assert api.call(method, name, ["label"]) == (found and {"label": found})

    def test_one_of_named_clients_is_the_lowest(self, api):
        for name in ("b", "a"):
            api.farm.machine("farm09", name=name)
        assert api.getClientByHostname("farm09", ["label"]) == {"label": "farm09:b"}
        assert api.getClientByHostname("farm09:", ["label"]) is None

    @pytest.mark.parametrize("bad", [[3], {}, 3, [None]])
    def test_names_are_texts(self, api, bad):
        with pytest.raises(errors.InvalidArgumentError, match="hostnames"):
            api.getClientsByHostname(bad)
        with pytest.raises(errors.InvalidArgumentError, match="name is"):
            api.getClientByName(bad)

    def test_a_narrow_question_is_one_statement(self, api, machines):
        (only,) = api.statements(lambda: api.getClients(None, ["id", "hostname"]))
        assert "machine_json" not in only


class TestAttributes:
    def test_every_attribute_of_an_idle_client(self, api):
        machine = api.farm.machine("farm-ü", name="zwei", cpus=8)
        group = api.createClientGroup("Gruppe")
        api.addClientToGroup(group, machine.id)
        found = api.getClient(machine.id)
        assert api.clock.now() - found.pop("lastHeartbeat") < timedelta(seconds=1)
        assert found == {
            "available": True,
            "availabilityRules": [],
            "cpus": 8,
            "cpuSpeed": 3000.0,
            "description": "",
            "disabled": False,
            "diskCapacity": 0,
            "freeDisk": UNKNOWN,
            "freeMemory": UNKNOWN,
            "gpus": [],
            "groups": [group],
            "hostname": "farm-ü",
            "id": machine.id,
            "idleTime": UNKNOWN,
            "installLocation": "/opt/Häuser",
            "ip": "127.0.0.1",
            "label": "farm-ü:zwei",
            "latestNote": "",
            "load": 0.0,
            "memory": 2**40,
            "name": "zwei",
            "needsUpgrade": True,
            "platform": "linux-x86_64",
            "port": 5001,
            "runningJobs": [],
            "state": "idle",
            "stateReason": "it runs nothing and takes jobs",
            "threadId": None,
            "version": "1.0.0",
        }
        assert __version__ != "1.0.0"

    def test_a_client_of_our_version_needs_no_upgrade(self, api):
        machine = api.farm.machine()
        with api.store.writing() as session:
            session.connection.execute(sa.update(client).values(version=__version__))
        assert api.getClient(machine.id, ["needsUpgrade", "version"]) == {"needsUpgrade": False, "version": __version__}

    def test_a_heartbeat_is_seen_at_once(self, api):
        machine = api.farm.machine()
        api.clock.advance(100)
        api.beat(machine, load=3.25, idle_minutes=17, free_memory_kb=5, free_disk_kb=6)
        names = ["load", "idleTime", "freeMemory", "freeDisk", "lastHeartbeat"]
        found = api.getClient(machine.id, names)
        assert api.clock.now() - found.pop("lastHeartbeat") < timedelta(seconds=1)
        assert found == {"load": 3.25, "idleTime": 17, "freeMemory": 5, "freeDisk": 6}

    def test_running_jobs(self, api):
        machine = api.farm.machine()
        ids = api.newjob([{"name": "x", "command": "c"}] * 3)
        for job_id in reversed(ids):
            api.run(job_id, machine)
        machine.end(ids[1])
        names = ["runningJobs", "state", "stateReason", "available"]
        assert api.getClient(machine.id, names) == {
            "runningJobs": [ids[0], ids[2]],
            "state": "running",
            "stateReason": "it runs 2 jobs",
            "available": True,
        }
        assert api.getJobIdsAssignedToClient(machine.id) == [ids[0], ids[2]]
        assert api.getJobIdsAssignedToClient(987654321) == []

    @pytest.mark.parametrize(
        ("change", "state", "words"),
        [
            (lambda api, machine: api.setdisabled("farm-ü", 1), "disabled", "somebody has disabled it"),
            (lambda api, machine: api.beat(machine, terminating=True), "terminating", "told to end"),
            (lambda api, machine: api.beat(machine, condemned="pid 7 lebt"), "condemned", "pid 7 lebt"),
            (lambda api, machine: api.beat(machine, unheard="unverständlich"), "condemned", "unverständlich"),
            (lambda api, machine: machine.vanish(), "lost", "has not reported since 2026-"),
        ],
    )
    def test_who_takes_no_work_says_why(self, api, change, state, words):
        machine = api.farm.machine("farm-ü")
        change(api, machine)
        found = api.getClient(machine.id, ["available", "state", "stateReason"])
        assert (found["available"], found["state"]) == (False, state)
        assert words in found["stateReason"]

    def test_notes_of_a_client(self, api):
        machine = api.farm.machine()
        api.addNote("alt", None, None, machine.id)
        api.addNote("neu", None, None, machine.id)
        assert api.getClient(machine.id, ["latestNote", "threadId"]) == {"latestNote": "neu", "threadId": 1}


class TestHistory:
    def test_last_ended_first_each_once(self, api):
        machine, other = api.farm.machine("a"), api.farm.machine("b")
        ids = api.newjob([{"name": "x", "command": "c", "triesLeft": 9}] * 4)
        for job_id, code in ((ids[0], 1), (ids[1], 0), (ids[0], 1), (ids[2], 0), (ids[0], 0)):
            api.clock.advance(1)
            api.run(job_id, machine)
            machine.end(job_id, code)
        api.run(ids[3], other)
        assert api.getJobHistory(machine.id) == [ids[0], ids[2], ids[1]]
        assert api.getJobHistory(machine.id, 2) == [ids[0], ids[2]]
        assert api.getJobHistory(machine.id, 0) == api.getJobHistory(machine.id, -1) == []
        assert api.getJobHistory(machine.id, 10**30) == [ids[0], ids[2], ids[1]]
        assert api.getJobHistory(other.id) == api.getJobHistory(987654321) == []

    def test_five_without_a_limit(self, api):
        machine = api.farm.machine(cpus=99)
        ids = api.newjob([{"name": "x", "command": "c"}] * 7)
        for job_id in ids:
            api.clock.advance(1)
            api.run(job_id, machine)
            machine.end(job_id)
        assert api.getJobHistory(machine.id) == ids[:1:-1]
        api.deleteJobs([ids[6]])
        assert api.getJobHistory(machine.id, 2) == [ids[5], ids[4]]


class TestChanging:
    def test_disabling(self, api, machines):
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machines[0])
        assert api.setdisabled("farm-ü", True) is True  # noqa: FBT003 - positional on the wire
        assert [each["disabled"] for each in api.getClients(None, ["disabled"])] == [True, True, True, False]
        assert api.getJob(job_id, ["status"]) == {"status": "running"}
        assert api.setdisabled("farm-ü:zwei", 0) is True
        assert [each["disabled"] for each in api.getClients(None, ["disabled"])] == [True, False, True, False]
        assert api.setdisabled("niemand", 1) is None
        with pytest.raises(errors.InvalidArgumentError, match="disabled is 'ja'"):
            api.setdisabled("farm-ü", "ja")

    def test_describing(self, api, machines):
        assert api.setClientDescription(machines[0].id, "Fenster\x07platz") is True
        assert api.getClient(machines[0].id, ["description"]) == {"description": "Fensterplatz"}
        with pytest.raises(errors.UnknownClientError, match="client_id is 987654321"):
            api.setClientDescription(987654321, "x")

    def test_only_lost_clients_can_be_removed(self, api, machines):
        with pytest.raises(errors.InvalidArgumentError, match=r"client 1 \(farm-ü\) still reports"):
            api.removeClients([machines[0].id])
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machines[0])
        api.addNote("x", None, None, machines[0].id)
        machines[0].vanish()
        group = api.createClientGroup("g")
        api.addClientToGroup(group, machines[0].id)
        with pytest.raises(errors.InvalidArgumentError):
            api.removeClients([machines[0].id, machines[1].id])
        assert api.getClient(machines[0].id, ["id"]) is not None
        assert api.removeClients([machines[0].id, 987654321]) is True
        assert api.getClient(machines[0].id) is None
        assert api.getJob(job_id, ["status"]) == {"status": "runnable"}
        (thread,) = api.getNoteThreads()
        assert (thread["jobId"], thread["clientId"]) == (job_id, None)
        machines[0].come_back()
        assert api.getClient(machines[0].id, ["groups", "label"]) == {"groups": [], "label": "farm-ü"}
        machines[0].obey()

    def test_everything_works_on_each_database(self, api_everywhere):
        api = api_everywhere
        machine = api.farm.machine("farm-ü")
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machine)
        api.addNote("ä", None, None, machine.id)
        assert api.getClients()[0]["runningJobs"] == [job_id]
        assert api.getClient(machine.id)["latestNote"] == "ä"
        assert api.getClientsByHostname(["farm-ü"], ["id"]) == [{"id": machine.id}]
        assert api.setdisabled("farm-ü", 1) is True
        machine.end(job_id)
        assert api.getJobHistory(machine.id) == [job_id]
        machine.vanish()
        assert api.removeClients([machine.id]) is True
