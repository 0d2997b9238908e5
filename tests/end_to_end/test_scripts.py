"""What scripts in the field do, each fact by a script of its own: with Python 2.7 and with Python 3, on a real farm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.farm import PATIENCE_S, eventually, running_farm
from tests.pythons import python2

# What every script begins with; `say` hands a value to the test.
HEAD = """\
# -*- coding: utf-8 -*-
from __future__ import print_function
import json, os, re, sys, time
try:
    import xmlrpclib
except ImportError:
    import xmlrpc.client as xmlrpclib

def say(value):
    print(json.dumps(value))

def finished(hq, *ids):
    names = hq.getFinishedJobStatusNames()
    while any(hq.getJob(i, ["status"])["status"] not in names for i in ids):
        pass

URL = os.environ["HQSERVER"]
hq = xmlrpclib.ServerProxy(URL, allow_none=True)
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    with running_farm(tmp_path_factory.mktemp("farm"), {"werkstück": 16}) as farm:
        yield farm


@pytest.fixture(params=["python2.7", "python3"])
def python(request):
    """Return an interpreter and the environment it needs."""
    return python2() if request.param == "python2.7" else (sys.executable, dict(os.environ))


@pytest.fixture
def write(tmp_path, python):
    """Return what writes a script and returns the words that run it."""
    numbers = iter(range(100))

    def write(text: str) -> list[str]:
        path = tmp_path / f"skript{next(numbers)}.py"
        path.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
        return [python[0], str(path)]

    return write


@pytest.fixture
def script(farm, python, write):
    """Return what runs a script against the farm and returns what it said."""

    def run(text: str, **environment: str):
        done = subprocess.run(
            write(text),
            env={**python[1], "HQSERVER": farm.url, "PYTHONIOENCODING": "utf-8", **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def command(write, python):
    """Return what makes a script the command of a job; it runs with the environment of a job."""

    def make(text: str) -> str:
        return "PYTHONIOENCODING=utf-8 exec {} {}".format(*write(text))

    return make


def status_of(proxy, job_id):
    return proxy.getJob(job_id, ["status"])["status"]


def finish(proxy, *job_ids):
    """Wait until jobs are finished, and return their statuses."""
    names = set(proxy.getFinishedJobStatusNames())
    return eventually(
        lambda: (statuses := [status_of(proxy, job_id) for job_id in job_ids]) and set(statuses) <= names and statuses,
        f"jobs {job_ids} finish",
    )


def output_of(proxy, job_id):
    """Return what a job that succeeded said."""
    assert finish(proxy, job_id) == ["succeeded"], proxy.getJobOutput(job_id)
    return json.loads(proxy.getJobOutput(job_id))


def test_a_new_proxy_and_a_ping_before_every_call(script):
    answer = script("""
        def hq():
            proxy = xmlrpclib.ServerProxy(URL)
            proxy.ping()
            return proxy
        ids = hq().newjob({"name": "leer"})
        say([hq().getJob(ids[0], ["status"])["status"] for _ in range(50)])
    """)
    assert answer == ["succeeded"] * 50


@pytest.mark.parametrize("ending", ["", "/", "/RPC2"])
def test_urls_with_and_without_a_slash_at_the_end(script, farm, ending):
    assert script("say([hq.ping(), hq.getJobs([])])", HQSERVER=farm.url + ending) == [True, []]


def test_newjob_with_the_jobid_of_the_environment(script, farm, command):
    proxy = farm.proxy()
    # From outside there is none: the caller sends nil.
    assert "JOBID" not in os.environ
    (outside,) = script('say(hq.newjob({"name": "von außen"}, os.environ.get("JOBID")))')
    assert proxy.getJob(outside, ["parents"]) == {"parents": []}
    # From inside a running job it is a string: the new job becomes a child of the one that runs.
    inside = command("""
        ids = hq.newjob({"name": "von innen", "command": "true"}, os.environ.get("JOBID"))
        say([type(os.environ["JOBID"]) is str, hq.getJob(os.environ["JOBID"], ["status", "children"]), ids])
    """)
    (job_id,) = proxy.newjob({"name": "außen", "command": inside})
    is_text, job, ids = output_of(proxy, job_id)
    assert (is_text, job) == (True, {"status": "running", "children": ids})
    assert proxy.getJob(ids[0], ["parents"]) == {"parents": [job_id]}
    assert finish(proxy, *ids) == ["succeeded"]


def test_a_list_in_arbitrary_order_with_references_to_later_stubs(script, farm):
    names, children = script("""
        ids = hq.newjob([
            {"name": "Film", "command": "true", "childStubIds": ["bild1", "bild2"]},
            {"name": "Bild 2", "stubId": "bild2", "command": "true", "childStubIds": ["szene"]},
            {"name": "Szene", "stubId": "szene", "command": "true"},
            {"name": "Bild 1", "stubId": "bild1", "command": "true", "childStubIds": ["szene"]},
        ])
        finished(hq, *ids)
        jobs = hq.getJobs(ids, ["name", "children", "status"])
        say([[job["name"] + " " + job["status"] for job in jobs],
             [[ids.index(child) for child in job["children"]] for job in jobs]])
    """)
    assert names == ["Film succeeded", "Bild 2 succeeded", "Szene succeeded", "Bild 1 succeeded"]
    assert children == [[1, 3], [2], [], [2]]


def test_existing_jobs_become_children_of_many_new_parents(script, farm):
    ids, parents, children = script("""
        ids = hq.newjob([{"name": "Textur %d" % i, "command": "true"} for i in range(3)])
        new = hq.newjob([
            {"name": "Bild %d" % i, "command": "true", "childrenIds": ids if i % 2 else [str(each) for each in ids]}
            for i in range(10)
        ])
        say([new, [job["parents"] for job in hq.getJobs(ids, ["parents"])],
             [job["children"] == ids for job in hq.getJobs(new, ["children"])]])
    """)
    assert parents == [ids] * 3
    assert children == [True] * 10
    assert finish(farm.proxy(), *ids) == ["succeeded"] * 10


def test_a_waiting_parent_gains_children_several_times(farm, command):
    proxy = farm.proxy()
    inside = command("""
        parents = hq.getinfo(os.environ["JOBID"])["parents"]
        new = []
        for i in range(3):
            new += hq.newjob({"name": "Nachzügler %d" % i, "command": "true", "parentIds": parents})
            new += hq.newjob([{"name": "Wort", "command": "true", "parentIds": [str(each) for each in parents]}])
        say([hq.getJob(parents[0], ["status", "children"]), new])
    """)
    parent, child = proxy.newjob(
        {"name": "Warten-ä", "command": "echo zuletzt", "children": [{"name": "erster", "command": inside}]}
    )
    seen, new = output_of(proxy, child)
    assert (seen["status"], set(seen["children"])) == ("queued", {child, *new})
    assert len(new) == 6
    assert finish(proxy, parent, *new) == ["succeeded"] * 7
    assert proxy.getJobOutput(parent) == "zuletzt\n"
    ends = [job["endTime"].value for job in proxy.getJobs(new, ["endTime"])]
    assert proxy.getJob(parent, ["endTime"])["endTime"].value >= max(ends)


def test_getinfo_of_a_text_goes_into_new_specifications_verbatim(script, farm):
    same, jobs = script("""
        parent, child = hq.newjob({"name": "o", "command": "true", "priority": 7, "children": [
            {"name": "u", "command": "true", "host": u"gibt-es-nicht", "priority": 3, "hostgroup": u"größe"}]})
        info = hq.getinfo(str(child))
        new = hq.newjob({"name": "Kopie", "command": "true", "parentIds": info["parents"],
                         "conditions": info["conditions"], "priority": info["priority"]})
        again = hq.getinfo(str(new[0]))
        say([[info[key] == again[key] for key in ("parents", "conditions", "priority")],
             [hq.getJob(each, ["priority", "parents"]) for each in new] + [parent]])
        hq.cancelJobs([parent])
    """)
    assert same == [True, True, True]
    assert jobs[0] == {"priority": 3, "parents": [jobs[1]]}


def test_getclients_by_position(script, farm):
    (client,) = farm.proxy().getClients()
    assert client["hostname"]
    assert script('say(hq.getClients(None, ["id", "hostname"]))') == [
        {"id": client["id"], "hostname": client["hostname"]}
    ]


def test_getjobs_of_nothing(script):
    assert script("say([hq.getJobs([]), hq.getJobs([], ['status'])])") == [[], []]


def test_polling_without_a_pause(script):
    answers, calls, last = script("""
        (job_id,) = hq.newjob({"name": "Rendern", "shell": "bash", "command":
            "for i in 20 40 60 80; do echo ALF_PROGRESS $i%; read -t 0.3 x < <(sleep 1); done; true"})
        seen, calls = [], 0
        while True:
            job = hq.getJob(job_id, ["progress", "status"])
            calls += 1
            if not seen or seen[-1] != job:
                seen.append(job)
            if job["status"] in ("succeeded", "failed", "cancelled", "abandoned"):
                break
        say([seen, calls, job])
    """)
    progress = [job["progress"] for job in answers]
    assert last == {"status": "succeeded", "progress": 1.0}
    assert progress == sorted(progress)
    assert any(0 < each < 1 for each in progress), answers
    assert calls > len(answers)


def test_dates_parsed_from_their_text(script):
    order, values = script("""
        (job_id,) = hq.newjob({"name": "Datum", "command": "true"})
        finished(hq, job_id)
        job = hq.getJob(job_id)
        dates = [time.strptime(str(job[key]), "%Y%m%dT%H:%M:%S") for key in ("queueTime", "startTime", "endTime")]
        values = [job[key].value for key in ("queueTime", "startTime", "endTime")]
        server = time.strptime(hq.getServerTime().value, "%Y%m%dT%H:%M:%S")
        say([dates == sorted(dates) and dates[-1] <= server, values])
    """)
    assert order is True
    assert all(len(value) == len("20260102T03:04:05") for value in values)


def test_the_name_calls_joined_into_emailreasons(script, farm):
    (job_id, names) = script("""
        names = []
        for get in (hq.getStartedJobEventNames, hq.getSucceededStatusNames, hq.getFailedJobStatusNames,
                    hq.getPausedJobStatusNames, hq.getResumedEventNames, hq.getRescheduledEventNames,
                    hq.getPriorityChangedEventNames):
            names.append(",".join(get()))
        (job_id,) = hq.newjob({"name": "Post", "emailTo": "ich@studio", "emailReasons": ",".join(names)})
        say([job_id, names])
    """)
    assert all(names)
    assert status_of(farm.proxy(), job_id) == "succeeded"


def test_a_method_that_is_not_there_is_a_fault(script):
    code, text = script("""
        try:
            hq.getRunningJobIds()
        except xmlrpclib.Fault as fault:
            say([fault.faultCode, fault.faultString])
    """)
    assert code == -32601
    assert "getRunningJobIds" in text


def test_output_searched_while_the_job_runs(script, farm, tmp_path):
    gate = tmp_path / "weiter"
    os.mkfifo(gate)
    (job_id,) = farm.proxy().newjob(
        {
            "name": "bunt",
            "shell": "bash",
            "command": (
                r"printf '\033[31mFehler-ä 17\033[0m\000\377\xc3 Ende\n'; printf 'Rendering frame 12 of 48\r\n'; "
                f"read x < {gate}; printf 'Saved /out/bild.0012.exr\\n'"
            ),
        }
    )
    seen = script(f"""
        output, status = "", ""
        while "frame" not in output:
            output = hq.getJobOutput({job_id})
        status = hq.getJob({job_id}, ["status"])["status"]
        frame = re.search(r"Rendering frame (\\d+) of (\\d+)", output).groups()
        error = re.search(u"Fehler-ä (\\\\d+)", output).group(1)
        open({str(gate)!r}, "w").write("x\\n")
        finished(hq, {job_id})
        saved = re.findall(r"Saved (.*)", hq.getJobOutput({job_id}))
        say([status, frame, error, saved, u"\\x00" in output or u"\\x1b" in output])
    """)
    assert seen == ["running", ["12", "48"], "17", ["/out/bild.0012.exr"], False]


def test_the_container_of_running_children_is_queued_and_nothing_else(tmp_path, farm):
    proxy = farm.proxy()
    gate = tmp_path / "weiter"
    os.mkfifo(gate)
    children = [{"name": f"Bild {number}", "command": f"read x < {gate}"} for number in range(2)]
    container, *running = proxy.newjob({"name": "Szene-ä", "children": children})
    for job_id in running:
        eventually(lambda key=job_id: status_of(proxy, key) == "running", "a child runs")
    assert proxy.getJobIdsByStatus(["queued"]) == [container]
    assert proxy.getJobIdsBySatus(["queued"]) == [container]
    assert proxy.getJobIdsByStatus(["running"]) == running
    assert proxy.getJob(container, ["uiStatus"]) == {"uiStatus": "running (1 clients assigned)"}
    proxy.cancelJobs([container])
    assert finish(proxy, container, *running) == ["cancelled"] * 3
