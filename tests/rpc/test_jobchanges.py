"""What can be changed of jobs that are in the queue."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hqueue import errors


def priorities(api, ids):
    return [job["priority"] for job in api.getJobs(ids, ["priority"])]


class TestPriority:
    def test_what_is_unsettled_below_follows(self, api_everywhere):
        api = api_everywhere
        shared = api.newjob({"name": "s", "command": "x"})[0]
        ids = api.newjob(
            {"name": "r", "children": [{"name": "a", "children": [{"name": "b", "command": "x"}]}, {"name": "done"}]},
            None,
            [shared],
        )
        other = api.newjob({"name": "o", "priority": 3})[0]
        assert api.setJobPriority([ids[0], 99], "7 (hoch)") is True
        assert priorities(api, [ids[0], ids[1]]) == [7, 0]
        api.farm.finish_bulk()
        assert priorities(api, [*ids, shared, other]) == [7, 7, 7, 0, 7, 3]
        log = api.getJob(ids[2], ["history"])["history"][-1]
        assert (log["event"], log["status"], log["message"]) == ("priority changed", "runnable", "0 > 7")
        before = len(api.getJob(ids[0], ["history"])["history"])
        api.setJobPriority([ids[0]], 7)
        assert len(api.getJob(ids[0], ["history"])["history"]) == before
        api.setJobPriority(other, -4)
        assert priorities(api, [other]) == [0]

    def test_it_changes_what_runs_next(self, api):
        machine = api.farm.machine(cpus=1)
        first, second = api.newjob([{"name": "x", "command": "c"}] * 2)
        api.setJobPriority([second], 1)
        api.farm.tick()
        assert api.getJob(second, ["status"]) == {"status": "running"}
        assert api.getJob(first, ["status"]) == {"status": "runnable"}
        machine.beat()

    @pytest.mark.parametrize("bad", ["hoch", {}, 2**40])
    def test_what_is_no_priority(self, api, bad):
        with pytest.raises(errors.InvalidSpecError, match="priority"):
            api.setJobPriority([1], bad)

    def test_no_priority_at_all(self, api):
        with pytest.raises(errors.InvalidArgumentError, match="priority is None"):
            api.setJobPriority([1], None)


class TestLargeTrees:
    """What goes down a tree goes in small steps, and the later word counts."""

    @pytest.fixture
    def tree(self, api):
        return api.newjob({"name": "r", "children": [{"name": "k", "command": "c"}] * 450})

    def test_a_step_changes_a_few_hundred_jobs(self, api, tree):
        api.setJobPriority(tree[:1], 5)
        seen = []
        while api.farm.step():
            seen.append(priorities(api, tree).count(5))
        steps = [after - before for before, after in pairwise([1, *seen])]
        assert sum(steps) == 450
        assert max(steps) == 200

    def test_the_later_word_counts(self, api, tree):
        for ids, priority in ((tree[:1], 5), (tree[:1], 6), ([tree[10]], 7)):
            api.setJobPriority(ids, priority)
            api.farm.step()
        api.farm.finish_bulk()
        assert priorities(api, tree[:12]) == [6] * 10 + [7, 6]
        assert api.farm.bulk_actions() == 0

    def test_an_older_word_on_its_way_does_not_come_last(self, api):
        ids = api.newjob({"name": "r", "children": [{"name": "k", "children": [{"name": "u", "command": "c"}]}]})
        api.setJobPriority(ids[:1], 5)
        api.setJobPriority(ids[1:2], 7)
        api.setJobPriority(ids[2:], 9)
        api.farm.finish_bulk()
        assert priorities(api, ids) == [5, 7, 9]

    def test_a_crash_in_between_loses_nothing(self, api, tree):
        api.setJobPriority(tree[:1], 5)
        api.farm.step()
        assert api.farm.repair() == []
        api.farm.finish_bulk()
        assert set(priorities(api, tree)) == {5}

    def test_a_priority_on_its_way_holds_nobody_up(self, api, tree):
        machine = api.farm.machine(cpus=3)
        api.setJobPriority(tree[:1], 5)
        api.farm.tick()
        machine.beat()
        assert len(machine.jobs) == 3

    def test_nothing_is_assigned_where_it_is_about_to_be_forbidden(self, api, tree):
        machine = api.farm.machine("farm-a")
        api.savePermittedClientsList(tree[0], ["farm-b"])
        api.farm.step()
        api.farm.tick()
        machine.beat()
        assert machine.jobs == []
        api.farm.finish_bulk()
        api.farm.tick()
        machine.beat()
        assert machine.jobs == []
        assert {str(job["conditions"]) for job in api.getJobs(tree, ["conditions"])} == {
            str(api.getJob(tree[0], ["conditions"])["conditions"])
        }

    def test_conditions_go_in_small_steps_and_the_later_ones_count(self, api, tree):
        def permitted():
            return [
                job["conditions"][0]["value"] if job["conditions"] else "" for job in api.getJobs(tree, ["conditions"])
            ]

        api.savePermittedClientsList(tree[0], ["farm-a"])
        api.farm.step()
        assert 0 < permitted().count("farm-a") <= 201
        api.savePermittedClientsList(tree[0], ["farm-b"])
        (late,) = api.newjob({"name": "spät", "command": "c"}, tree[0])
        api.farm.finish_bulk()
        assert set(permitted()) == {"farm-b"}
        assert api.getJob(late, ["conditions"])["conditions"][0]["value"] == "farm-b"


class TestProperties:
    def test_every_property(self, api_everywhere):
        api = api_everywhere
        properties = {
            "name": "Neu-ä",
            "command": {"windows": "b"},
            "shell": "sh",
            "conditions": [{"type": "client", "name": "os", "op": "==", "value": "windows"}],
            "host": "farm07",
            "cpus": 3,
            "tags": ["single:x", "ü"],
            "minHosts": 2,
            "maxHosts": 4,
            "priority": 9,
            "resources": {"nuke": 1},
            "maxTime": 60,
            "triesLeft": 2,
            "environment": {"A": "ä"},
            "description": "Text",
            "submittedBy": "jörg",
            "emailTo": "a@example.com",
            "emailReasons": "failed",
            "onError": "echo",
        }
        job_id, untouched = api.newjob([{"name": "x", "command": "a"}] * 2)
        kept = api.getJob(untouched)
        assert api.setJobProperties([job_id, 99], properties) is True
        job = api.getJob(
            job_id,
            ["name", "command", "shell", "cpus", "tags", "minHosts", "maxHosts", "priority", "resources", "maxTime",
             "triesLeft", "environment", "description", "submittedBy", "conditions", "inheritsConditions"],
        )  # fmt: skip
        conditions = job.pop("conditions")
        assert [(each["name"], each["value"]) for each in conditions] == [("os", "windows"), ("hostname", "farm07")]
        assert job.pop("inheritsConditions") is False
        assert job == {key: properties[key] for key in job}
        assert api.getJob(untouched) == kept
        log = api.getJob(job_id, ["history"])["history"]
        assert [line["event"] for line in log] == ["submitted", "note", "properties changed", "priority changed"]
        assert log[1]["message"] == "emailTo: no mail is sent, for the server has no smtp_server"
        assert "cpus, description" in log[2]["message"]
        assert "priority" not in log[2]["message"]

    def test_only_what_is_named_changes(self, api):
        job_id = api.newjob({"name": "x", "command": "c", "cpus": 2, "tags": ["single"], "maxTime": 5})[0]
        api.setJobProperties([job_id], {"maxTime": None})
        assert api.getJob(job_id, ["maxTime", "cpus", "tags", "name"]) == {
            "maxTime": None,
            "cpus": 2,
            "tags": ["single"],
            "name": "x",
        }

    def test_a_rescheduled_job_has_the_new_number_of_tries(self, api):
        machine = api.farm.machine()
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        api.setJobProperties([job_id], {"triesLeft": 1})
        for code in (1, 1):
            api.run(job_id, machine)
            machine.end(job_id, code)
        assert api.getJob(job_id, ["status", "triesLeft"]) == {"status": "failed", "triesLeft": 0}
        api.rescheduleJobs([job_id])
        assert api.getJob(job_id, ["triesLeft"]) == {"triesLeft": 1}

    def test_hooks_are_kept_apart(self, api):
        job_id = api.newjob({"name": "x", "command": "c", "onError": "a", "onSuccess": "b"})[0]
        api.setJobProperties([job_id], {"onError": "", "onCancel": "d"})
        with api.store.reading() as connection:
            text = connection.exec_driver_sql("select hooks_json from job_spec").scalar_one()
        assert text == '{"on_success":"b","on_cancel":"d"}'

    def test_the_scheduler_sees_them(self, api):
        machine = api.farm.machine(cpus=2)
        job_id = api.newjob({"name": "x", "command": "c", "cpus": 3})[0]
        api.farm.tick()
        assert api.getJob(job_id, ["status"]) == {"status": "runnable"}
        api.setJobProperties([job_id], {"cpus": 2})
        api.farm.tick()
        assert api.getJob(job_id, ["status"]) == {"status": "running"}
        machine.beat()

    @pytest.mark.parametrize(
        ("properties", "error", "words"),
        [
            ({"cpus": "viele"}, errors.InvalidSpecError, "cpus.*viele"),
            ({"name": ""}, errors.InvalidSpecError, "name"),
            ({"children": []}, errors.InvalidArgumentError, "'children' cannot be set"),
            ({"farbe": 1}, errors.InvalidArgumentError, "'farbe' cannot be set; these can: command, .*tags"),
            ({"maxHosts": 0, "minHosts": 9, "cpus": {}}, errors.InvalidSpecError, "cpus"),
            ({"command": ""}, errors.JobStateError, "job 1 has a command"),
            ([], errors.InvalidArgumentError, "properties is"),
            (None, errors.InvalidArgumentError, "properties is None"),
            ({"hostgroup": None}, errors.InvalidArgumentError, r"properties.hostgroup is None.*\[\] permits all"),
            ({"cpus": 2, "conditions": None}, errors.InvalidArgumentError, "properties.conditions is None"),
        ],
    )
    def test_what_cannot_be_set(self, api, properties, error, words):
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        before = api.getJob(job_id)
        with pytest.raises(error, match=words):
            api.setJobProperties([job_id], properties)
        assert api.getJob(job_id) == before

    def test_least_and_most_hosts_must_fit_together(self, api):
        job_id = api.newjob({"name": "x", "command": "c", "minHosts": 2, "maxHosts": 3})[0]
        api.setJobProperties([job_id], {"minHosts": 3})
        with pytest.raises(errors.InvalidArgumentError, match="minHosts would be 4"):
            api.setJobProperties([job_id], {"minHosts": 4})


class TestPermittedClients:
    def test_without_conditions_everybody_is(self, api):
        for name in ("", "zwei"):
            api.farm.machine("farm-ü", name=name)
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        assert api.getPermittedClientsList(job_id) == ["farm-ü", "farm-ü:zwei"]
        assert api.getPermittedClientsList(99) is None

    @pytest.mark.parametrize(
        ("saved", "found"),
        [
            (["farm-a"], ["farm-a", "farm-a:zwei"]),
            (["farm-a:"], ["farm-a:"]),
            ("farm-a:zwei", ["farm-a:zwei"]),
            (["farm-a:zwei", "FARM-B"], ["farm-a:zwei", "farm-b"]),
            ([], ["farm-a", "farm-a:zwei", "farm-b"]),
            (["niemand"], []),
        ],
    )
    def test_what_is_saved_comes_back(self, api, saved, found):
        for host, name in (("farm-a", ""), ("farm-a", "zwei"), ("farm-b", "")):
            api.farm.machine(host, name=name)
        job_id = api.newjob({"name": "x", "command": "c", "hostgroup": "nie"})[0]
        assert api.getPermittedClientsList(job_id) == []
        assert api.savePermittedClientsList(job_id, saved) is True
        assert api.getPermittedClientsList(job_id) == found
        if found:
            api.savePermittedClientsList(job_id, found)
            assert api.getPermittedClientsList(job_id) == found

    def test_groups_count(self, api_everywhere):
        api = api_everywhere
        machines = [api.farm.machine(host) for host in ("farm-a", "farm-b")]
        group = api.createClientGroup("sim, ü")
        api.addClientToGroup(group, machines[1].id)
        job_id = api.newjob({"name": "x", "command": "c", "hostgroup": ["sim, ü"]})[0]
        assert api.getPermittedClientsList(job_id) == ["farm-b"]
        assert api.savePermittedClientsList(job_id, ["farm-a"]) is True
        assert api.getPermittedClientsList(job_id) == ["farm-a"]

    def test_what_a_root_permits_its_heirs_permit_too(self, api):
        own = {"name": "own", "command": "c", "host": "farm-z"}
        root, heir, other, below = api.newjob(
            {
                "name": "r",
                "children": [{"name": "heir", "cpus": 2, "command": "c"}, {**own, "children": [{"name": "u"}]}],
            },
        )
        api.savePermittedClientsList(root, ["farm-a"])
        api.farm.finish_bulk()

        def hosts():
            return [[each["value"] for each in job["conditions"]] for job in api.getJobs([root, heir, other, below])]

        assert hosts() == [["farm-a"], ["farm-a"], ["farm-z"], ["farm-a"]]
        assert api.getJob(heir, ["cpus"]) == {"cpus": 2}
        api.savePermittedClientsList(heir, ["farm-b"])
        api.savePermittedClientsList(root, [])
        api.farm.finish_bulk()
        assert hosts() == [[], ["farm-b"], ["farm-z"], []]

    @pytest.mark.parametrize(
        "bad", [None, {}, 3, [3], [""], "", ["a,b", "c"], [":"], [":gpu"], ["a::gpu"], [","], ",:gpu"]
    )
    def test_what_is_no_list_of_names(self, api, bad):
        job_id = api.newjob({"name": "x", "command": "c"})[0]
        with pytest.raises(errors.InvalidArgumentError, match="clients"):
            api.savePermittedClientsList(job_id, bad)

    def test_an_unknown_job_is_a_fault(self, api):
        with pytest.raises(errors.UnknownJobError, match="job_id is '99'"):
            api.savePermittedClientsList("99", [])


def test_the_warning_can_be_switched_off(api):
    job_id = api.newjob({"name": "x"})[0]
    assert api.setShowBlockedClientsWarning(job_id, 0) is True
    assert api.getJob(job_id, ["showBlockedClientsWarning"]) == {"showBlockedClientsWarning": False}
    with pytest.raises(errors.UnknownJobError):
        api.setShowBlockedClientsWarning(99, 1)
