"""Hooks as public scripts have them: they ask the server about their job, post its output, submit what follows."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import psutil

from tests.end_to_end.test_nothing_lost import runner_pid
from tests.farm import Farm, eventually, running_farm

if TYPE_CHECKING:
    from pathlib import Path

# What a studio hangs on its jobs: the licence error of the output to a chat (here: a file), and a follow-up job.
SCRIPT = """\
import json, os, sys
import xmlrpc.client

hq = xmlrpc.client.ServerProxy(os.environ["HQSERVER"])
job_id = os.environ["JOBID"]
job = hq.getJob(int(job_id), ["id", "name", "status", "progress", "children"])
output = hq.getJobOutput(job_id)
reason = [line for line in output.splitlines() if "license" in line.lower()]
new = hq.newjob({"name": "Nachfolger von %s" % job_id, "command": "true", "onSuccess": ""})
with open(sys.argv[1], "a", encoding="utf-8") as posted:
    posted.write(json.dumps([sys.argv[2], job["status"], reason, job["name"], new]) + "\\n")
print("posted", sys.argv[2], flush=True)
sys.exit(int(sys.argv[3]))
"""


class Chat:
    """Where the hooks of a test post."""

    def __init__(self, folder: Path) -> None:
        self.posted = folder / "chat"
        self.script = folder / "hook.py"
        self.script.write_text(SCRIPT)

    def hook(self, name: str, exit_code: int = 0) -> str:
        words = [sys.executable, str(self.script), str(self.posted), name, str(exit_code)]
        return " ".join(shlex.quote(word) for word in words)

    def hooks(self) -> dict[str, str]:
        return {name: self.hook(name) for name in ("onSuccess", "onError", "onCancel", "onChildError")}

    def lines(self) -> list[Any]:
        text = self.posted.read_text("utf-8") if self.posted.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


def end_of(hq: Any, job_id: int, name: str) -> str:
    """Return the line of a job's log about the end of a hook, once it is there."""

    def line() -> str:
        texts = [text for text, _ in hq.getJob(job_id, ["logs"])["logs"]]
        return next((text for text in texts if text.startswith(f"{name}: ")), "")

    return str(eventually(line, f"the end of {name} of job {job_id}"))


def test_scripts_on_every_end(tmp_path: Path) -> None:
    chat = Chat(tmp_path)
    with running_farm(tmp_path, {"eins": 4}) as farm:
        hq: Any = farm.proxy()
        failing = "echo 'No licenses could be found: Köln'; exit 3"
        good = hq.newjob({"name": "gut ä", "command": "echo License ok", **chat.hooks()})[0]
        bad = hq.newjob({"name": "schlecht", "command": failing, "triesLeft": 1, **chat.hooks()})[0]
        late = hq.newjob({"name": "lange", "command": "echo license; sleep 600", "maxTime": 1, **chat.hooks()})[0]
        away = hq.newjob({"name": "weg", "command": "echo license; sleep 600", **chat.hooks()})[0]
        child = {"name": "Kind", "command": "exit 1"}
        parent = hq.newjob({"name": "Eltern", "command": "true", "children": [child], **chat.hooks()})[0]
        eventually(lambda: "license" in hq.getJobOutput(away), "its output")
        hq.cancelJobs([away])
        expected = {
            good: ("onSuccess", "succeeded", ["License ok"]),
            bad: ("onError", "failed", ["No licenses could be found: Köln"] * 2),
            late: ("onCancel", "cancelled", ["license"]),
            away: ("onCancel", "cancelled", ["license"]),
            parent: ("onChildError", "failed", []),
        }
        for job_id, (name, _, _) in expected.items():
            assert end_of(hq, job_id, name).startswith(f"{name}: exit 0, client ")
            output = hq.getJobOutput(job_id)
            assert output.endswith(f"posted {name}\n"), output
            runs = [each["hook"] for each in hq.getJobRuns(job_id)]
            assert runs[-1] == name
            assert set(runs[:-1]) <= {""}
        names = {job["id"]: job["name"] for job in hq.getJobs(list(expected), ["id", "name"])}
        posted = {line[3]: (line[0], line[1], line[2]) for line in chat.lines()}
        assert posted == {names[job_id]: told for job_id, told in expected.items()}
        assert len(chat.lines()) == len(expected)
        follow_ups = [line[4][0] for line in chat.lines()]
        assert hq.getJobs(follow_ups, ["id"]) == [{"id": each} for each in follow_ups]
        farm.check()


def test_a_failing_hook_is_a_line_and_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    chat = Chat(tmp_path)
    with running_farm(tmp_path, {"eins": 2}, settings="hook_max_minutes = 0.02") as farm:
        hq: Any = farm.proxy()
        bad = hq.newjob({"name": "a", "command": "true", "onSuccess": chat.hook("x", 5)})[0]
        slow = hq.newjob({"name": "b", "command": "true", "onSuccess": "echo begun; sleep 600"})[0]
        assert end_of(hq, bad, "onSuccess").startswith("onSuccess: exit 5, client ")
        assert end_of(hq, slow, "onSuccess").startswith("onSuccess: killed: took longer than hook_max_minutes, client ")
        assert [job["status"] for job in hq.getJobs([bad, slow], ["status"])] == ["succeeded", "succeeded"]
        assert hq.getJobOutput(slow).endswith("begun\n")


def test_a_hook_runs_once_whatever_is_killed(tmp_path: Path) -> None:
    """Server, daemon and runner die while a hook waits or runs."""
    log = tmp_path / "hooks"
    log.mkdir()
    hook = f"echo begun >> {log}/$JOBID; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo over >> {log}/$JOBID"
    with running_farm(tmp_path, {"eins": 4}) as farm:
        kept = submit(farm, hook)
        eventually(lambda: all((log / str(job_id)).exists() for job_id in kept), "the hooks begin")
        farm.server.kill()
        farm.clients["eins"].kill()
        farm.server.start()
        farm.clients["eins"].start()
        farm.server.kill()
        farm.server.start()
        (tmp_path / "go").touch()
        hq: Any = farm.proxy()
        for job_id in kept:
            assert end_of(hq, job_id, "onSuccess").startswith("onSuccess: exit 0")
            assert (log / str(job_id)).read_text().split() == ["begun", "over"]
        (tmp_path / "go").unlink()
        lost = submit(farm, hook)
        eventually(lambda: all((log / str(job_id)).exists() for job_id in lost), "the hooks begin")
        psutil.Process(runner_pid(farm, "eins")).kill()
        for job_id in lost:
            assert end_of(hq, job_id, "onSuccess").startswith("onSuccess: lost: ")
        (tmp_path / "go").touch()
        for job_id in lost:
            assert (log / str(job_id)).read_text().split() == ["begun"]
        farm.check()


def test_a_hook_outlives_the_end_of_the_server_before_it_began(tmp_path: Path) -> None:
    """No client is there when the job settles; the server dies; the hook runs when a client comes."""
    log = tmp_path / "log"
    with running_farm(tmp_path, {}) as farm:
        job_id = farm.proxy().newjob({"name": "x", "onSuccess": f"echo $JOBID $ROOTJOBID >> {log}"})[0]
        farm.server.kill()
        farm.server.start()
        farm.add_client("eins")
        end_of(farm.proxy(), job_id, "onSuccess")
        assert log.read_text().split() == [str(job_id)] * 2


def submit(farm: Farm, hook: str) -> list[int]:
    hq: Any = farm.proxy()
    return [hq.newjob({"name": f"Job {i}", "command": "echo da", "onSuccess": hook})[0] for i in range(3)]
