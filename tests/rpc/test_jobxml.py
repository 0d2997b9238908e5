"""Answers for many jobs are made as XML at once; what they say is what each job's own values say."""

from __future__ import annotations

import pytest

from hqueue import wire
from hqueue.views import jobxml
from hqueue.views.jobattributes import DEFAULT_JOB_ATTRIBUTES, JOB_ATTRIBUTES
from tests.storefarm import put

SITUATIONS = (
    "queued", "runnable", "running", "pausing", "paused, no run", "paused, run", "resuming", "ejecting", "abandoned",
    "succeeded", "failed", "cancelled",
)  # fmt: skip
SPEC = {
    "name": '100 % <ä> & "日本" \U0001f680',
    "command": {"linux": "render %d"},
    "shell": "sh",
    "cpus": 2,
    "tags": ["single:gpu", "100%b", "ü"],
    "resources": {"sidefx.license.render": 1, "gibt-es-nicht": 2},
    "host": "farm07",
    "maxTime": 60,
    "triesLeft": 4,
    "priority": 7,
    "environment": {"A": "1\n2", "%s": "%b"},
    "description": "50 % \\ \t\n",
    "submittedBy": "jörg",
}


@pytest.fixture
def busy(api_everywhere):
    """Return a farm with jobs in every situation, trees, notes, and progress that is not stored yet."""
    api = api_everywhere
    machine = api.farm.machine("farm-ü", cpus=64)
    api.farm.machine("farm-ö", name="zwei")
    for situation in SITUATIONS:
        job_id = put(api.farm, situation, machine)
        api.clock.advance(61.5)
        if situation in {"running", "failed"}:
            api.addNote("Notiz mit %b", None, job_id)
    root, *_ = api.newjob({**SPEC, "children": [SPEC, {**SPEC, "children": [{"name": "k", "command": "c"}]}]})
    api.newjob({"name": "zwei Eltern", "command": "c", "parentIds": [root, 1]})
    api.newjob({"name": "leer", "tags": "excludeProgress"})
    api.live_farm.report_progress(3 + 1, 1, 3)
    return api


def told_by_each(api, ids, names):
    """Return what the jobs say one by one, as it arrives at a caller."""
    return wire.loads_response(wire.dumps_response([api.getJob(each, names) for each in ids]))


def test_every_attribute_is_what_each_job_says_of_itself(busy):
    ids = [job["id"] for job in busy.listJobs({"attribs": ["id"]})["jobs"]]
    every = list(JOB_ATTRIBUTES)
    many = (ids * (jobxml.MANY // len(ids) + 1))[::-1]
    assert busy.getJobs(many, every) == told_by_each(busy, many, every)
    assert busy.getJobs(many) == told_by_each(busy, many, list(DEFAULT_JOB_ATTRIBUTES))
    for name in every:
        assert busy.getJobs(many, [name]) == told_by_each(busy, many, [name]), name


def test_pages_say_the_same(api):
    api.newjob([{**SPEC, "name": f"Bild {number} %"} for number in range(jobxml.MANY + 5)])
    page = api.listJobs({"limit": jobxml.MANY + 1})
    assert [job["id"] for job in page["jobs"]] == list(range(1, jobxml.MANY + 2))
    assert page["jobs"] == told_by_each(api, range(1, jobxml.MANY + 2), None)
    assert page["next"] is not None


def test_unknown_and_repeated_ids(api):
    api.newjob([{"name": "x"}] * 3)
    found = api.getJobs([3, 99, 1, 3, 0] * 20, ["id"])
    assert [job["id"] for job in found] == [3, 1, 3] * 20
    assert api.getJobs(list(range(100, 300))) == []


def test_an_answer_is_written_and_not_taken_apart(api):
    api.newjob([{"name": "x"}] * jobxml.MANY)
    answer = api.table.dispatch("getJobs", [list(range(1, jobxml.MANY + 1))])
    assert all(type(job) is wire.Raw for job in answer)


def test_one_narrow_statement_for_one_narrow_attribute(api):
    api.newjob([{"name": "x"}] * 200)
    (statement,) = api.statements(lambda: api.getJobs(list(range(1, 201)), ["status"]))
    chosen = statement.partition("FROM")[0]
    assert [word.strip(" \n,") for word in chosen.split() if "." in word] == ["visible_job.id", "visible_job.status"]
    assert "event" not in statement
    assert "job_spec" not in statement


def test_moments_at_the_edge_of_days(api):
    (first,) = api.newjob({"name": "x"})
    for moment in (0, 999, 86_399_999, 86_400_000, 1_709_164_799_999, 4_102_444_800_000):
        api.farm.change(first, queued_at=moment)
        assert api.getJobs([first] * 100, ["queueTime"]) == told_by_each(api, [first] * 100, ["queueTime"])


def test_ids_beyond_32_bits():
    assert jobxml.numbers((1, 2**40)) == [wire.dumps_value(1), wire.dumps_value(2**40)]
