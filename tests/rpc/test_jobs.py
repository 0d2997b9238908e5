"""Attributes of jobs, their output, and what can be asked of lists of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hqueue import errors
from hqueue.protocol import Listed
from hqueue.views.jobattributes import DEFAULT_JOB_ATTRIBUTES, JOB_ATTRIBUTES
from hqueue.views.rollups import UNKNOWN_ETA


class TestAsking:
    def test_jobs_come_in_the_order_asked_and_unknown_ones_are_skipped(self, api):
        api.newjob([{"name": name} for name in "abc"])
        assert [job["name"] for job in api.getJobs([3, 99, "1", 3], ["name"])] == ["c", "a", "c"]
        assert api.getJobs([]) == []
        assert api.getJobs(2, ["id"]) == [{"id": 2}]
        assert api.getJobs([10**30, -5, 0]) == []
        assert api.getJob(99) is None
        assert api.getJob("2", ["id"]) == {"id": 2}

    def test_attributes_left_out_are_the_default_set(self, api):
        api.newjob({"name": "x"})
        for nothing in ([], None, ""):
            assert set(api.getJob(1, nothing)) == set(DEFAULT_JOB_ATTRIBUTES)
        assert set(api.getJob(1)) == set(DEFAULT_JOB_ATTRIBUTES)
        assert set(api.getJob(1, list(JOB_ATTRIBUTES))) == set(JOB_ATTRIBUTES)

    def test_an_unknown_attribute_is_a_fault_that_lists_the_valid_ones(self, api):
        for method in ("getJob", "getJobs"):
            with pytest.raises(errors.UnknownAttributeError, match=r"no attribute 'colour'.*overallProgress"):
                api.call(method, 1, ["name", "colour"])
            with pytest.raises(errors.InvalidArgumentError, match="attribs is 3"):
                api.call(method, 1, 3)

    @pytest.mark.parametrize("bad", [None, {}, "drei", [1, "x"], [None], 1.5])
    def test_what_is_no_id_is_a_fault(self, api, bad):
        with pytest.raises(errors.InvalidArgumentError, match="ids"):
            api.getJobs(bad)

    def test_a_narrow_question_is_one_narrow_statement(self, api):
        api.newjob([{"name": "x", "children": [{"name": "y"}] * 3}] * 4)
        for call in (lambda: api.getJob(1, ["progress", "status"]), lambda: api.getJobs([1, 2, 3], ["status"])):
            (only,) = api.statements(call)
            assert "job_spec" not in only
            assert "requirement.spec_json" not in only
            assert "JOIN" not in only

    def test_the_number_of_statements_does_not_depend_on_the_number_of_jobs(self, api):
        machine = api.farm.machine()
        ids = api.newjob([{"name": "x", "children": [{"name": "y", "command": "c"}]} for _ in range(20)])
        api.run(ids[20], machine)
        api.getJobs(ids)  # requirements are read once
        few = len(api.statements(lambda: api.getJobs(ids[:2] + ids[20:22])))
        assert len(api.statements(lambda: api.getJobs(ids))) <= few  # what requirements say is remembered
        assert len(api.statements(lambda: api.getJobs(ids * 2))) == few

    def test_every_attribute_of_a_plain_job(self, api):
        spec = {
            "name": "Szene ä 日本",
            "command": {"linux": "render", "windows": "render.exe"},
            "shell": "sh",
            "children": [],
            "conditions": [{"type": "client", "name": "os", "op": "==", "value": "linux"}],
            "host": "farm07,farm08",
            "hostgroup": "sim",
            "cpus": 2,
            "tags": ["single:gpu", "ü"],
            "minHosts": 2,
            "maxHosts": 3,
            "priority": 7,
            "resources": {"sidefx.license.render": 1},
            "maxTime": 60,
            "triesLeft": 4,
            "environment": {"A": "1\n2"},
            "description": "Beschreibung",
            "submittedBy": "jörg",
        }
        job_id = api.newjob(spec)[0]
        job = api.getJob(job_id, list(JOB_ATTRIBUTES))
        now = api.clock.now()
        ((text, date),) = job.pop("logs")
        assert (text, now - date < timedelta(seconds=1)) == ("submitted", True)
        assert job.pop("history") == [
            {"date": date, "event": "submitted", "status": "runnable", "message": "", "by": ""},
        ]
        for name in ("queueTime", "runnableTime"):
            assert now - job.pop(name) < timedelta(seconds=1)
        assert job == {
            "availabilityRules": [],
            "childCounts": {"total": 0, "finished": 0, "failed": 0},
            "children": [],
            "clients": [],
            "clientsOnHold": [],
            "conditions": [
                {"type": "client", "name": "os", "op": "==", "value": "linux"},
                {"type": "client", "name": "hostname", "op": "in", "value": "farm07,farm08"},
                {"type": "client", "name": "group", "op": "==", "value": "sim"},
            ],
            "cpus": 2,
            "description": "Beschreibung",
            "endTime": None,
            "ETA": UNKNOWN_ETA,
            "id": job_id,
            "latestNote": "",
            "name": "Szene ä 日本",
            "overallProgress": 0.0,
            "parents": [],
            "priority": 7,
            "progress": 0.0,
            "resources": {"sidefx.license.render": 1},
            "showBlockedClientsWarning": False,
            "startTime": None,
            "status": "runnable",
            "submittedBy": "jörg",
            "tags": ["single:gpu", "ü"],
            "threadId": None,
            "triesLeft": 4,
            "uiStatus": "waiting for machine",
            "waitingFor": "waits for 2 clients at once: the farm has none",
            "cmdEndTime": None,
            "cmdStartTime": None,
            "command": {"linux": "render", "windows": "render.exe"},
            "environment": {"A": "1\n2"},
            "exitCode": None,
            "inheritsConditions": False,
            "emailTo": "",
            "emailReasons": "",
            "webhook": None,
            "onSuccess": None,
            "onError": None,
            "onCancel": None,
            "onChildError": None,
            "maxHosts": 3,
            "maxTime": 60,
            "minHosts": 2,
            "root": job_id,
            "shell": "sh",
        }

    def test_times_and_clients_of_a_run(self, api):
        machine = api.farm.machine("farm-ü", name="zwei")
        job_id = api.newjob({"name": "x", "command": "c", "triesLeft": 1})[0]
        api.run(job_id, machine)
        started = api.clock.now()
        job = api.getJob(job_id, ["clients", "startTime", "cmdStartTime", "cmdEndTime", "endTime", "exitCode"])
        assert job["clients"] == [
            {"id": machine.id, "clientId": machine.id, "hostname": "farm-ü", "name": "zwei", "master": True}
        ]
        assert started - job["startTime"] < timedelta(seconds=1)
        assert job["cmdEndTime"] is job["endTime"] is job["exitCode"] is None
        api.clock.advance(100)
        machine.end(job_id, 3, seconds=100.0)
        assert api.getJob(job_id, ["status", "triesLeft", "exitCode"]) == {
            "status": "runnable",
            "triesLeft": 0,
            "exitCode": 3,
        }
        other = api.farm.machine("farm-ö")
        api.run(job_id, other)
        api.clock.advance(50)
        other.end(job_id, 0, seconds=50.0)
        times = ["startTime", "cmdStartTime", "cmdEndTime", "endTime"]
        job = api.getJob(job_id, ["clients", *times, "exitCode", "logs", "history"])
        assert [each["id"] for each in job["clients"]] == [other.id, machine.id]
        assert (
            job["endTime"]
            == job["cmdEndTime"]
            == datetime.fromtimestamp(int(api.clock.now().timestamp() * 1000) / 1000, UTC)
        )
        assert started - job["startTime"] < timedelta(seconds=1)
        assert timedelta(seconds=45) < job["endTime"] - job["cmdStartTime"] < timedelta(seconds=55)
        assert job["exitCode"] == 0
        assert [line["event"] for line in job["history"]] == [
            "submitted",
            "running",
            "rescheduled",
            "running",
            "succeeded",
        ]
        assert [text for text, _ in job["logs"]] == [
            "submitted",
            "Assigned to farm-ü:zwei",
            "setting status to running",
            "rescheduled: exit 3, client farm-ü:zwei; tries left: 0",
            "Assigned to farm-ö",
            "setting status to running",
            "setting status to succeeded: exit 0, client farm-ö",
        ]

    def test_reserved_clients_stay_among_those_of_the_job(self, api):
        first, second = (api.farm.machine(name) for name in ("farm-a", "farm-b"))
        job_id = api.newjob({"name": "x", "command": "c", "minHosts": 2, "maxHosts": 2, "triesLeft": 1})[0]
        api.farm.tick()
        expected = {
            "clients": [
                {"id": each.id, "clientId": each.id, "hostname": each.hostname, "name": "", "master": each is first}
                for each in (first, second)
            ]
        }
        assert api.getJob(job_id, ["clients"]) == expected
        assert api.getClient(second.id, ["runningJobs"]) == {"runningJobs": [job_id]}
        first.beat()
        first.end(job_id, 0)
        assert api.getJob(job_id, ["clients"]) == expected
        assert api.getJobs([job_id] * 60, ["clients"]) == [expected] * 60
        assert api.getClient(second.id, ["runningJobs"]) == {"runningJobs": []}
        second.vanish()
        assert api.getJob(job_id, ["clients"]) == expected

    def test_the_current_client_comes_first(self, api):
        first, second = api.farm.machine("farm-a"), api.farm.machine("farm-b")
        job_id = api.newjob({"name": "x", "command": "c", "triesLeft": 9})[0]
        for machine in (first, second):
            api.run(job_id, machine)
            machine.end(job_id, 1)
        api.run(job_id, first)
        assert [each["id"] for each in api.getJob(job_id, ["clients"])["clients"]] == [first.id, second.id]

    def test_a_reschedule_forgets_when_the_command_ran(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machine)
        machine.end(job_id, 3)
        api.rescheduleJobs([job_id])
        job = api.getJob(job_id, ["startTime", "cmdStartTime", "cmdEndTime", "exitCode", "clients"])
        assert job["startTime"] is job["cmdStartTime"] is job["cmdEndTime"] is job["exitCode"] is None
        assert [each["id"] for each in job["clients"]] == [machine.id]

    def test_children_and_parents_are_in_ascending_order(self, api):
        children = api.newjob([{"name": "c", "command": "x"}] * 3)
        parents = api.newjob([{"name": "p"}, {"name": "q"}], None, children[::-1])
        assert [job["children"] for job in api.getJobs(parents, ["children"])] == [children, children]
        assert [job["parents"] for job in api.getJobs(children, ["parents"])] == [parents] * 3

    def test_conditions_are_the_roots_where_a_job_has_none(self, api):
        condition = {"type": "client", "name": "hostname", "op": "!=", "value": "farm07"}
        parent, child = api.newjob({"name": "p", "conditions": [condition], "children": [{"name": "c"}]})
        wanted = ["conditions", "inheritsConditions", "root"]
        assert api.getJob(child, wanted) == {"conditions": [condition], "inheritsConditions": True, "root": parent}


class TestProgress:
    def test_progress_comes_from_memory_while_the_command_runs(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machine)
        assert api.getJob(job_id, ["progress", "status"]) == {"progress": 0.0, "status": "running"}
        api.live_farm.report_progress(job_id, 3, 4)
        assert api.getJob(job_id, ["progress", "overallProgress"]) == {"progress": 0.75, "overallProgress": 0.75}
        machine.end(job_id, 3, progress=(3.5, 4))
        assert api.getJob(job_id, ["progress", "status"]) == {"progress": 0.875, "status": "failed"}

    def test_progress_of_a_job_without_a_command_is_zero(self, api):
        assert api.getJob(api.newjob({"name": "x"})[0], ["progress", "status", "overallProgress"]) == {
            "progress": 0.0,
            "status": "succeeded",
            "overallProgress": 1.0,
        }

    def test_overall_progress_is_the_mean_over_commands_that_count(self, api):
        machine = api.farm.machine()
        counted = [{"name": "c", "command": "x"}] * 3
        hidden = {"name": "h", "command": "x", "tags": ["ü", "excludeProgress"]}
        almost = {"name": "a", "command": "x", "tags": ["excludeprogress", 'x"excludeProgress"']}
        root, *children = api.newjob({"name": "r", "children": [*counted, hidden, almost]})
        assert api.getJob(root, ["overallProgress"]) == {"overallProgress": 0.0}
        api.run(children[0], machine)
        machine.end(children[0], 0)
        api.run(children[1], machine)
        api.live_farm.report_progress(children[1], 1, 2)
        api.run(children[3], machine)
        api.live_farm.report_progress(children[3], 9, 10)
        assert api.getJob(root, ["overallProgress"]) == {"overallProgress": 1.5 / 4}
        assert api.getJob(children[3], ["overallProgress", "progress"]) == {"overallProgress": 0.0, "progress": 0.9}

    def test_a_job_with_two_parents_counts_once(self, api):
        machine = api.farm.machine()
        shared, other = api.newjob([{"name": "s", "command": "x"}, {"name": "o", "command": "x"}])
        middle = api.newjob([{"name": "m1"}, {"name": "m2"}], None, [shared])
        root = api.newjob({"name": "r"}, None, [*middle, other])[0]
        api.run(shared, machine)
        machine.end(shared, 0)
        assert api.getJob(root, ["overallProgress"]) == {"overallProgress": 0.5}

    def test_without_commands_it_is_the_fraction_settled(self, api):
        root, first, second = api.newjob({"name": "r", "children": [{"name": "a"}, {"name": "b"}]})
        assert api.getJob(root, ["overallProgress", "status"]) == {"overallProgress": 1.0, "status": "succeeded"}
        waiting = api.newjob({"name": "w", "command": "x", "tags": "excludeProgress"}, root)[0]
        assert api.getJob(root, ["overallProgress"]) == {"overallProgress": 0.5}
        assert waiting > second > first

    def test_a_deep_ladder_with_many_paths_is_answered_at_once(self, api):
        below = api.newjob({"name": "unten", "command": "x"})
        for _ in range(40):
            below = api.newjob([{"name": "a"}, {"name": "b"}], None, below)
        assert api.getJob(below[0], ["overallProgress", "ETA", "startTime", "uiStatus"]) == {
            "overallProgress": 0.0,
            "ETA": UNKNOWN_ETA,
            "startTime": None,
            "uiStatus": "waiting for machine",
        }


class TestEta:
    def test_a_running_job_by_its_progress_and_time(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        assert api.getJob(job_id, ["ETA"]) == {"ETA": UNKNOWN_ETA}
        api.run(job_id, machine)
        assert api.getJob(job_id, ["ETA"]) == {"ETA": UNKNOWN_ETA}
        api.clock.advance(9)  # one second of it ran before the first heartbeat
        api.live_farm.report_progress(job_id, 1, 4)
        assert 27 <= api.getJob(job_id, ["ETA"])["ETA"] <= 30
        machine.end(job_id, 0)
        assert api.getJob(job_id, ["ETA"]) == {"ETA": 0}

    def test_what_waits_takes_as_long_as_its_finished_siblings(self, api):
        first, second = api.farm.machine("farm-a"), api.farm.machine("farm-b")
        root, *children = api.newjob({"name": "r", "children": [{"name": "c", "command": "x"}] * 6})
        api.run(children[0], first)
        api.clock.advance(100)
        first.end(children[0], 0)
        assert api.getJob(root, ["ETA"]) == {"ETA": UNKNOWN_ETA}  # nobody works on it
        api.run(children[1], first)
        assert 499 <= api.getJob(root, ["ETA"])["ETA"] <= 501  # one has just begun, four wait
        api.run(children[2], second)
        assert 249 <= api.getJob(root, ["ETA"])["ETA"] <= 251  # two clients
        api.clock.advance(50)
        api.live_farm.report_progress(children[1], 1, 2)
        eta = api.getJob(root, ["ETA"])["ETA"]
        assert 195 <= eta <= 205  # 50 + 50 + 3 x 100, by two

    def test_the_last_command_of_a_tree_goes_by_all_that_is_finished(self, api):
        machine = api.farm.machine()
        root, first, second = api.newjob({"name": "r", "command": "e", "children": [{"name": "c", "command": "x"}] * 2})
        api.run(first, machine)
        api.clock.advance(10)
        machine.end(first, 0)
        api.run(second, machine)
        assert 19 <= api.getJob(root, ["ETA"])["ETA"] <= 21

    @pytest.mark.parametrize("jumped_s", [-3600, 3600])
    def test_a_wall_clock_that_jumps_changes_nothing(self, api, jumped_s):
        machine = api.farm.machine()
        root, first, second, _ = api.newjob({"name": "r", "children": [{"name": "c", "command": "x"}] * 3})
        api.run(first, machine)
        api.clock.advance(50)
        api.clock.jump(jumped_s)
        api.clock.advance(50)
        machine.end(first, 0)
        api.run(second, machine)
        assert 199 <= api.getJob(root, ["ETA"])["ETA"] <= 201
        api.clock.advance(50)
        api.live_farm.report_progress(second, 1, 2)
        api.clock.jump(jumped_s)
        assert 49 <= api.getJob(second, ["ETA"])["ETA"] <= 51
        assert 149 <= api.getJob(root, ["ETA"])["ETA"] <= 151

    def test_after_a_start_of_the_server_it_is_unknown_until_the_client_is_heard(self, api):
        """A clock that is wrong since the start says nothing of a run that began before."""
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machine)
        api.clock.advance(100)
        api.live_farm.report_progress(job_id, 1, 2)
        api.live_farm.times.clear()
        api.clock.jump(3600)
        assert api.getJob(job_id, ["ETA"]) == {"ETA": UNKNOWN_ETA}
        machine.beat()
        assert 99 <= api.getJob(job_id, ["ETA"])["ETA"] <= 101

    def test_the_time_in_which_it_is_halted_does_not_count(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machine)
        (token,) = machine.held
        live = api.live_farm.clients[machine.id]
        api.live_farm.note_times(live, [Listed(token, "halted", seconds=10.0)])
        api.clock.advance(100)
        assert api.live_farm.ran_s(job_id) == 10


class TestUiStatus:
    def test_a_container_of_running_children_is_queued(self, api):
        machine = api.farm.machine()
        root, *children = api.newjob({"name": "r", "children": [{"name": "c", "command": "x"}] * 3})
        assert api.getJob(root, ["uiStatus", "waitingFor"]) == {
            "uiStatus": "waiting for machine",
            "waitingFor": "waits for 3 of its 3 children to finish",
        }
        for child in children[:2]:
            api.run(child, machine)
        assert api.getJob(root, ["status", "uiStatus"]) == {
            "status": "queued",
            "uiStatus": "running (1 clients assigned)",
        }
        api.run(children[2], api.farm.machine("farm-ö"))
        assert api.getJob(root, ["uiStatus"]) == {"uiStatus": "running (2 clients assigned)"}
        assert api.getJobIdsByStatus(["queued"]) == [root]

    def test_the_first_start_below_is_the_start(self, api):
        machine = api.farm.machine()
        root, first, second = api.newjob({"name": "r", "command": "e", "children": [{"name": "c", "command": "x"}] * 2})
        assert api.getJob(root, ["startTime"]) == {"startTime": None}
        api.clock.advance(10)
        api.run(second, machine)
        began = api.getJob(second, ["startTime"])
        api.clock.advance(10)
        api.run(first, machine)
        assert api.getJob(root, ["startTime"]) == began

    def test_a_resource_that_nobody_created_is_waited_for(self, api):
        job_id = api.newjob({"name": "x", "command": "c", "resources": {"nuke": 1, "sidefx.license.render": 2}})[0]
        assert api.getJob(job_id, ["uiStatus", "waitingFor", "resources"]) == {
            "uiStatus": "waiting for resources",
            "waitingFor": "waits for a resource: nobody has created the resource nuke",
            "resources": {"nuke": 1, "sidefx.license.render": 2},
        }

    def test_every_other_status_is_shown_as_it_is(self, api):
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.pauseJobs([job_id])
        assert api.getJob(job_id, ["uiStatus", "waitingFor"]) == {
            "uiStatus": "paused",
            "waitingFor": "waits for somebody to resume it",
        }
        api.cancelJobs([job_id])
        assert api.getJob(job_id, ["uiStatus", "waitingFor"]) == {"uiStatus": "cancelled", "waitingFor": ""}

    def test_a_lost_clients_run_is_not_at_work(self, api):
        machine = api.farm.machine()
        root, child = api.newjob({"name": "r", "children": [{"name": "c", "command": "x"}]})
        api.run(child, machine)
        machine.vanish()
        assert api.getJob(child, ["uiStatus", "waitingFor"]) == {
            "uiStatus": "abandoned",
            "waitingFor": "waits for its client to come back",
        }
        assert api.getJob(root, ["uiStatus"]) == {"uiStatus": "waiting for machine"}


class TestLists:
    def test_every_root_is_in_exactly_one_list(self, api):
        machine = api.farm.machine()
        done, failed, waiting, lost, parent = api.newjob(
            [
                {"name": "done"},
                {"name": "failed", "command": "x"},
                {"name": "waiting", "command": "x"},
                {"name": "lost", "command": "x"},
                {"name": "parent", "children": [{"name": "child", "command": "x"}]},
            ],
        )[:5]
        api.run(failed, machine)
        machine.end(failed, 1)
        api.run(lost, machine)
        machine.vanish()
        assert api.getFinishedRootJobIds() == [done, failed, lost]
        assert api.getUnfinishedRootJobIds() == [waiting, parent]

    def test_by_status(self, api):
        runnable = api.newjob([{"name": "b", "command": "x", "priority": n, "cpus": n} for n in (1, 9, 5)])
        done = api.newjob({"name": "a"})
        assert api.getJobIdsByStatus(["runnable", "succeeded"]) == runnable + done
        for names in ("waiting", ["waiting"], ["runnable", "waiting"], "runnable"):
            assert api.getJobIdsByStatus(names) == api.getJobIdsBySatus(names) == runnable
        assert api.getJobIdsByStatus("ejected") == api.getJobIdsByStatus([]) == []
        for bad in ("gone", ["runnable", 3], None, {}):
            with pytest.raises(errors.InvalidArgumentError, match="statuses"):
                api.getJobIdsByStatus(bad)

    def test_how_many_wait(self, api):
        api.newjob([{"name": "x", "command": "c", "priority": n} for n in (0, 5, 10)])
        assert api.getNumWaitingJobs() == api.getNumWaitingJobs(-3) == api.getNumWaitingJobs("0") == 3
        assert api.getNumWaitingJobs(0, 5) == api.getNumWaitingJobs(0, -1, 5) == 2
        assert api.getNumWaitingJobs(0, 5, 5) == 1
        assert api.getNumWaitingJobs(0, 10**30, 10**30) == 0
        assert api.getNumWaitingJobs(1) == api.getNumWaitingJobs(10**30) == 0
        api.clock.advance(61)
        assert api.getNumWaitingJobs(1) == 3


class TestOutput:
    def test_output_of_a_running_job_and_its_end(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        assert api.getJobOutput(job_id) == ""
        api.run(job_id, machine, "Bild ä\n")
        assert api.getJobOutput(str(job_id)) == "Bild ä\n"
        api.print(job_id, "fertig\n")
        assert api.getJobOutput(job_id, 7) == "fertig\n"
        assert api.getJobOutput(job_id, 0) == api.getJobOutput(job_id, -1) == "Bild ä\nfertig\n"
        assert api.getJobOutput(job_id, None) == "Bild ä\nfertig\n"
        assert api.getJobOutput(job_id, 10**30) == "Bild ä\nfertig\n"
        assert api.getJobOutput(99) is None

    def test_several_runs_follow_each_other(self, api):
        machine = api.farm.machine("farm-ü")
        job_id = api.newjob({"name": "x", "command": "c", "triesLeft": 1})[0]
        api.run(job_id, machine, "eins\n")
        machine.end(job_id, 1)
        api.run(job_id, machine, "zwei\n")
        text = api.getJobOutput(job_id)
        assert text.startswith("eins\n")
        assert text.endswith("zwei\n")
        assert "attempt 2 on farm-ü" in text

    def test_following_a_log(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        assert api.readJobOutput(job_id) == {"text": "", "next": 0, "end": 0, "finished": False}
        api.run(job_id, machine)
        api.print(job_id, "grün".encode()[:3])  # in the middle of a character
        assert api.readJobOutput(job_id) == {"text": "gr", "next": 2, "end": 3, "finished": False}
        api.print(job_id, "grün".encode()[3:])
        assert api.readJobOutput(job_id, 2) == {"text": "ün", "next": 5, "end": 5, "finished": False}
        machine.end(job_id, 0)
        assert api.readJobOutput(job_id, "5") == {"text": "", "next": 5, "end": 5, "finished": True}
        assert api.readJobOutput(job_id, 0, 4) == {"text": "grü", "next": 4, "end": 5, "finished": False}
        assert api.readJobOutput(job_id, 10**30) == {"text": "", "next": 5, "end": 5, "finished": True}
        assert api.readJobOutput(99) is None

    def test_a_cancelled_job_is_not_finished_while_its_command_still_writes(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.run(job_id, machine, "a")
        api.cancelJobs([job_id])
        assert not api.readJobOutput(job_id)["finished"]
        machine.beat()
        machine.obey()
        assert api.readJobOutput(job_id)["finished"]

    @pytest.mark.parametrize(("offset", "most", "words"), [(-1, 5, "offset is -1"), (0, 0, "max_bytes is 0")])
    def test_impossible_pieces_are_faults(self, api, offset, most, words):
        job_id = api.newjob({"name": "x"})[0]
        with pytest.raises(errors.InvalidArgumentError, match=words):
            api.readJobOutput(job_id, offset, most)

    def test_attempts(self, api):
        machine = api.farm.machine("farm-ü", name="b")
        job_id = api.newjob({"name": "x", "command": "c", "triesLeft": 1})[0]
        assert api.getJobRuns(job_id) == api.getJobRuns(99) == []
        api.run(job_id, machine)
        machine.end(job_id, 3, seconds=2.5, peak_memory_kb=2048, output_bytes=10)
        api.run(job_id, machine)
        first, second = api.getJobRuns(job_id)
        assert first.pop("startTime") <= first.pop("endTime")
        assert first.pop("assignedTime") is not None
        assert first == {
            "id": first["id"],
            "attempt": 1,
            "hook": "",
            "clientId": machine.id,
            "client": "farm-ü:b",
            "seconds": 2.5,
            "exitCode": 3,
            "signal": None,
            "outcome": "exited",
            "message": "",
            "peakMemory": 2048,
            "outputBytes": 10,
            "line": "",
        }
        assert (second["attempt"], second["outcome"], second["endTime"]) == (2, "running", None)


class TestActions:
    @pytest.mark.parametrize(
        "method",
        ["cancelJobs", "pauseJobs", "resumeJobs", "rescheduleJobs", "ejectJobs", "deleteJobs"],
    )
    def test_unknown_ids_are_skipped_and_one_id_is_a_list(self, api, method):
        api.newjob({"name": "x", "command": "c"})
        assert api.call(method, [99, 10**30, -1]) is True
        assert api.call(method, []) is True
        assert api.call(method, "1") is True
        for bad in (None, {}, ["x"]):
            with pytest.raises(errors.InvalidArgumentError, match="ids"):
                api.call(method, bad)

    def test_the_whole_life(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]

        def status():
            return api.getJob(job_id, ["status"])["status"]

        assert api.pauseJobs([job_id]) is True
        assert status() == "paused"
        api.resumeJobs([job_id])
        assert status() == "runnable"
        api.run(job_id, machine)
        api.ejectJobs(job_id)
        assert status() == "ejecting"
        machine.beat()
        machine.obey()
        assert status() == "runnable"
        api.cancelJobs([str(job_id)])
        assert status() == "cancelled"
        api.rescheduleJobs([job_id])
        assert status() == "runnable"
        api.deleteJobs([job_id])
        assert status() == "runnable"  # only what is finished goes
        api.cancelJobs([job_id])
        api.deleteJobs([job_id])
        assert api.getJob(job_id) is None
        assert api.newjob({"name": "neu"}) == [job_id + 1]

    def test_what_is_below_follows(self, api):
        root, *children = api.newjob({"name": "r", "children": [{"name": "c", "command": "x"}] * 150})
        api.cancelJobs([root])
        assert api.getJob(root, ["status"]) == {"status": "cancelled"}
        api.farm.finish_bulk()
        assert {job["status"] for job in api.getJobs(children, ["status"])} == {"cancelled"}


def test_everything_works_on_each_database(api_everywhere):
    api = api_everywhere
    machine = api.farm.machine()
    root, *children = api.newjob({"name": "Wurzel-ä", "children": [{"name": "Kind-ö", "command": "x"}] * 4})
    api.run(children[0], machine)
    api.clock.advance(10)
    machine.end(children[0], 0)
    api.run(children[1], machine, "Ausgabe-ü\n")
    api.live_farm.report_progress(children[1], 1, 2)
    job = api.getJob(root, list(JOB_ATTRIBUTES))
    assert job["overallProgress"] == 0.375
    assert job["uiStatus"] == "running (1 clients assigned)"
    assert job["children"] == children
    assert job["ETA"] > 0
    assert job["startTime"] is not None
    assert type(job["ETA"]) is float
    assert [each["name"] for each in api.getJobs(children)] == ["Kind-ö"] * 4
    assert api.getJob(children[1], list(JOB_ATTRIBUTES))["clients"][0]["id"] == machine.id
    assert api.getJobIdsByStatus("runnable") == children[2:]
    assert api.getUnfinishedRootJobIds() == [root]
    assert api.getNumWaitingJobs(0, 0, 5) == 2
    assert api.getJobOutput(children[1]) == "Ausgabe-ü\n"
    assert len(api.getJobRuns(children[1])) == 1


def test_ten_thousand_ids_at_once(api):
    ids = api.newjob([{"name": "x", "command": "c"}] * 10_000)
    assert len(api.getJobs(ids, ["status"])) == 10_000
    assert isinstance(api.getJobs(ids, ["children", "logs", "clients", "threadId"]), list)
