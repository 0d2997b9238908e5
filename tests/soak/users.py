"""The scripts of a soak: each has a thread, a stock ServerProxy and jobs of its own, and remembers what it was told."""

from __future__ import annotations

import threading
import xmlrpc.client
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.soak.commands import Commands

SETTLED = ("succeeded", "failed", "cancelled")
NOBODYS_SHELL = "fisch-die-niemand-hat"
MOST_UNSETTLED = 60


@dataclass
class Expected:
    """A job as its script wants it. exit_code: of its command; None: it has none."""

    name: str
    exit_code: int | None = None
    impossible: bool = False  # no machine has its shell


@dataclass
class Submission:
    """Jobs that were submitted together. Each of the words is about what the script was told."""

    jobs: list[Expected]
    ids: list[int] = field(default_factory=list)  # of those submitted at the top
    acknowledged: bool = False
    refused: bool = False  # "nothing was changed"; by the only call that there was
    rescheduled: bool = False  # perhaps later than its delete found its jobs settled: that leaves them alone then
    touched: bool = False  # a cancel was asked for, so its jobs may end otherwise than their commands
    delete_asked: bool = False
    deleted: bool = False
    stays: bool = False


class User(threading.Thread):
    """One script. `repeats`: it marks what it submits, and submits it again as long as it does not know."""

    def __init__(
        self, number: int, url: str, chances: random.Random, commands: Commands, *, repeats: bool, poison: bool
    ) -> None:
        super().__init__(name=f"script {number}", daemon=True)
        self.submissions: list[Submission] = []
        self.counts: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.waits_for = ""  # the call under way
        self._number = number
        self._url = url
        self._chances = chances
        self._commands = commands
        self._repeats = repeats
        self._poison = poison
        self._ended = threading.Event()
        self._jobs = 0

    def finish(self) -> None:
        """Ask it to end after the call under way."""
        self._ended.set()

    def run(self) -> None:
        """Do one thing after the other until asked to end."""
        deeds: dict[Callable[[], None], int] = {
            self._submit: 9,
            self._look: 6,
            self._act("pauseJobs"): 2,
            self._act("resumeJobs"): 4,
            self._act("rescheduleJobs"): 2,
            self._act("ejectJobs"): 1,
            self._act("cancelJobs"): 2,
            self._delete: 3,
        }
        while not self._ended.wait(self._chances.uniform(0.1, 1.2)):
            (deed,) = self._chances.choices(list(deeds), list(deeds.values()))
            deed()
        for _ in range(30):
            if self._call("resumeJobs", [job_id for one in self.submissions for job_id in one.ids]) is not None:
                return
            self._pause()

    # -- what it does ------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        unsettled = self._call("getJobs", self._mine(), ["status"])
        if unsettled is None or sum(job["status"] not in SETTLED for job in unsettled) > MOST_UNSETTLED:
            return
        make = self._chances.choices([self._few, self._wide, self._deep, self._impossible], [12, 2, 2, 1])[0]
        submission = Submission([])
        specs = make(submission)
        submission.stays = len(submission.jobs) < 10 and self._chances.random() < 0.2
        if self._repeats:
            specs[0]["submissionId"] = f"{self._number}/{len(self.submissions)}"
        self.submissions.append(submission)
        while True:
            ids = self._call("newjob", specs, of=submission)
            if ids is not None or not self._repeats:
                break
            if self._ended.is_set() and self.counts["repeats in vain at the end"] > 60:
                return
            self.counts["submissions repeated"] += 1
            self.counts["repeats in vain at the end"] += self._ended.is_set()
            self._pause()
        if ids is not None:
            submission.acknowledged, submission.ids = True, ids[: len(specs)]
            self.counts["submissions acknowledged"] += 1
            self.counts["jobs acknowledged"] += len(submission.jobs)
            if len(ids) != len(submission.jobs):
                self.surprises.append(f"{len(submission.jobs)} jobs were submitted, {len(ids)} ids came")

    def _act(self, method: str) -> Callable[[], None]:
        def act() -> None:
            known = [one for one in self.submissions[-8:] if one.ids and not one.delete_asked]
            if known:
                chosen = self._chances.choice(known)
                chosen.touched |= method == "cancelJobs"
                chosen.rescheduled |= method == "rescheduleJobs"
                self._call(method, chosen.ids)

        return act

    def _delete(self) -> None:
        # Some stay, so that there is something to look at in the end; large ones go, so that an hour's fit the disk.
        for one in self.submissions:
            if one.ids and not one.delete_asked and not one.stays:
                jobs = self._call("getJobs", one.ids, ["status"])
                if jobs and all(job["status"] in SETTLED for job in jobs):
                    one.delete_asked = True
                    one.deleted = self._call("deleteJobs", one.ids) is True
                    self.counts["trees deleted"] += one.deleted

    def _look(self) -> None:
        mine = self._mine()
        if mine:
            self._call("getJobOutput", self._chances.choice(mine))
            self._call("getJobs", mine)
        self._call("listJobs", {"limit": 50, "order": "-id"})

    def _mine(self) -> list[int]:
        return [job_id for one in self.submissions if not one.delete_asked for job_id in one.ids]

    # -- what it submits ---------------------------------------------------------------------------------------------

    def _expect(self, submission: Submission, **more: Any) -> Expected:
        self._jobs += 1
        job = Expected(f"{self._number}-{self._jobs}", **more)
        submission.jobs.append(job)
        return job

    def _leaf(self, submission: Submission) -> dict[str, Any]:
        code = self._chances.choices([0, 3], [12, 1])[0]
        job = self._expect(submission, exit_code=code)
        command = self._commands.command(job.name, code, self._chances.uniform(0.0, 1.5))
        return {"name": job.name, "shell": "bash", "command": command, "triesLeft": self._chances.choice([0, 0, 2])}

    def _container(self, submission: Submission, children: list[dict[str, Any]]) -> dict[str, Any]:
        return {"name": self._expect(submission).name, "children": children}

    def _few(self, submission: Submission) -> list[dict[str, Any]]:
        return [self._leaf(submission) for _ in range(self._chances.choice([1, 1, 1, 2, 5]))]

    def _wide(self, submission: Submission) -> list[dict[str, Any]]:
        empty = [self._container(submission, []) for _ in range(self._chances.choice([20, 60, 400]))]
        second = self._container(submission, [*empty, *(self._leaf(submission) for _ in range(4))])
        return [self._container(submission, [second, self._leaf(submission)])]

    def _deep(self, submission: Submission) -> list[dict[str, Any]]:
        spec = self._leaf(submission)
        for _ in range(self._chances.choice([5, 20, 80])):
            spec = self._container(submission, [spec])
        return [spec]

    def _impossible(self, submission: Submission) -> list[dict[str, Any]]:
        if not self._poison:
            return self._few(submission)
        spec = self._leaf(submission)
        submission.jobs[-1].impossible = True
        return [spec | {"shell": NOBODYS_SHELL, "triesLeft": 0, "priority": 5}]

    # -- how it calls ------------------------------------------------------------------------------------------------

    def _call(self, method: str, *params: Any, of: Submission | None = None) -> Any:
        """Return the answer; None when there was none, or a fault."""
        self.waits_for = method
        try:
            with xmlrpc.client.ServerProxy(self._url, allow_none=True) as proxy:
                answer = getattr(proxy, method)(*params)
        except xmlrpc.client.Fault as fault:
            self.counts[f"faults {fault.faultCode}"] += 1
            if "nothing was changed" in fault.faultString:
                # Of a repeated submission an earlier call may be stored, or one that the network repeats.
                if of is not None:
                    of.refused = not self._repeats
            elif "not known" not in fault.faultString:
                self.surprises.append(f"{method}: fault {fault.faultCode}: {fault.faultString[:200]}")
        except (OSError, xmlrpc.client.ProtocolError) as error:
            self.counts[f"calls without an answer ({type(error).__name__})"] += 1
        except Exception as error:  # noqa: BLE001 - whatever a stock script trips over is what a soak is to find
            self.surprises.append(f"{method}: {type(error).__name__}: {error}")
        else:
            self.counts["calls answered"] += 1
            return answer
        finally:
            self.waits_for = ""
        return None

    def _pause(self) -> None:
        threading.Event().wait(self._chances.uniform(0.3, 1.5))
