"""Servers, clients and runners are killed while jobs run; nothing is lost and nothing runs twice."""

from __future__ import annotations

import re
import xmlrpc.client
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.farm import Farm, eventually, running_farm

if TYPE_CHECKING:
    from pathlib import Path

LINES = 40
# Every start and every end leaves a line in a file of its own; the output is long enough to arrive in pieces.
COMMAND = r"""
echo "start $JOBID $$" >> {log}/$JOBID
i=0
while [ $i -lt {lines} ]; do
    i=$((i+1)); echo "job $JOBID line $i of ünïcode output ...............................................";
    [ $((i % 10)) = 0 ] && sleep 0.05
done
echo "end $JOBID $$" >> {log}/$JOBID
"""


def expected_output(job_id: int) -> str:
    filler = "." * 47
    return "".join(f"job {job_id} line {i} of ünïcode output {filler}\n" for i in range(1, LINES + 1))


def submit(farm: Farm, log: Path, count: int) -> list[int]:
    log.mkdir()
    command = COMMAND.format(log=log, lines=LINES)
    parent, *children = farm.proxy().newjob(
        {"name": "alle", "children": [{"name": f"Bild {i}", "command": command} for i in range(count)]}
    )
    assert len(children) == count
    return [parent, *children]


def finished(farm: Farm, job_ids: list[int]) -> int:
    try:
        with xmlrpc.client.ServerProxy(farm.url) as proxy:
            jobs = proxy.getJobs(job_ids, ["status"])
    except OSError:
        return -1
    return sum(job["status"] in {"succeeded", "failed", "cancelled"} for job in jobs)


def runner_pid(farm: Farm, name: str) -> int:
    """Return the process that holds a client's commands: started for its state folder, and not the daemon."""
    folder = str(farm.state_dir(name))
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any("hqueue.client.runner" in word for word in words) and any(folder in word for word in words):
            return process.pid
    raise AssertionError(f"client {name} has no runner")


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_two_server_deaths_and_one_client_death(tmp_path, count):
    log = tmp_path / "runs"
    with running_farm(tmp_path, {"eins": 4, "zwei": 4}) as farm:
        job_ids = submit(farm, log, count)
        eventually(lambda: finished(farm, job_ids) >= count // 10, "the first jobs end")
        farm.server.kill()
        farm.server.start()
        eventually(lambda: finished(farm, job_ids) >= count * 3 // 10, "jobs go on after the first death of the server")
        farm.clients["eins"].kill()
        held = [line.split()[1] for path in log.iterdir() for line in path.read_text().splitlines()[-1:]]
        assert held
        farm.clients["eins"].start()
        eventually(lambda: finished(farm, job_ids) >= count * 11 // 20, "jobs go on after the death of a client")
        farm.server.kill()
        farm.server.start()
        eventually(lambda: finished(farm, job_ids) == len(job_ids), "every job ends", 120)
        proxy = farm.proxy()
        jobs = proxy.getJobs(job_ids, ["id", "status"])
        assert Counter(job["status"] for job in jobs) == {"succeeded": len(job_ids)}
        for job_id in job_ids[1:]:
            assert proxy.getJobOutput(job_id) == expected_output(job_id)
        farm.check()
    # Adopted, not repeated: each command was started once and came to its end once, in the same process.
    for job_id in job_ids[1:]:
        lines = (log / str(job_id)).read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["start", "end"], lines
        assert lines[0].split()[2] == lines[1].split()[2]


def test_the_runners_death_is_proved_before_its_jobs_run_again(tmp_path):
    log = tmp_path / "runs"
    log.mkdir()
    # The second start says so if the process of the first is still there (and no mere zombie: not every init reaps).
    command = (
        f"first=$(head -n 1 {log}/$JOBID 2>/dev/null); "
        "if [ -n \"$first\" ] && grep -q '^State:.[^Z]' /proc/$first/status 2>/dev/null; then "
        "echo 'twice at the same time'; fi; "
        f"echo $$ >> {log}/$JOBID; "
        'if [ -z "$first" ]; then sleep 300; fi; echo done'
    )
    with running_farm(tmp_path, {"eins": 3}) as farm:
        job_ids = farm.proxy().newjob([{"name": f"Käfer {i}", "command": command} for i in range(3)])
        eventually(lambda: len(list(log.iterdir())) == 3, "all three jobs run")
        psutil.Process(runner_pid(farm, "eins")).kill()
        eventually(lambda: finished(farm, job_ids) == 3, "the jobs run again and end")
        proxy = farm.proxy()
        for job_id in job_ids:
            assert proxy.getJob(job_id, ["status"])["status"] == "succeeded"
            assert "twice at the same time" not in proxy.getJobOutput(job_id)
            assert len((log / str(job_id)).read_text().splitlines()) == 2
            messages = [entry["message"] for entry in proxy.getJob(job_id, ["history"])["history"]]
            assert any(re.search(r"lost", message) for message in messages), messages
        farm.check()
