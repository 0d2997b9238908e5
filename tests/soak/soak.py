"""A farm under everything at once, and what must hold of it afterwards."""

from __future__ import annotations

import contextlib
import random
import threading
import xmlrpc.client
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from hqueue.clock import SystemClock
from tests.farm import Farm
from tests.faults.injections import SmallDisk, cannot_mount, small_disk
from tests.soak.commands import Commands, Meeting, Record, is_alive
from tests.soak.fates import HEARTBEAT_S, LOST_S, RESCUE_S, SETTINGS, Fates
from tests.soak.mischief import Network
from tests.soak.users import SETTLED, Expected, Submission, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

USERS = 20
CLIENTS = {"eins": 2, "zwei": 2, "drei": 2, "vier": 3}
# Longer than a client rests at the most.
CALM_S = 400.0
# A command that is told to die is given this long, twice (hqserver.ini: kill_grace_s); the rest is a busy machine.
DYING_S = 2 * HEARTBEAT_S + 2 * 1.0 + 5.0
# How much more the server may have at the end than at its beginning.
MORE_MIB = 96
MORE_DESCRIPTORS = 24
MOST_OF_A_KIND = 8
WITHOUT = ("server", "disk", "clients", "mischief", "poison", "repeats")


@dataclass
class Report:
    """What happened, and what does not hold."""

    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def complain(self, kind: str, sentences: list[str]) -> None:
        """Note what does not hold: a line for each of a kind, as many as one wants to read."""
        self.complaints += [f"{kind}: {sentence}" for sentence in sentences[:MOST_OF_A_KIND]]
        if len(sentences) > MOST_OF_A_KIND:
            self.complaints.append(f"{kind}: and {len(sentences) - MOST_OF_A_KIND} more")


def soak(folder: Path, seconds: float, seed: int, without: frozenset[str] = frozenset()) -> Report:
    """Run a farm under faults for so long, let it settle, and say what happened."""
    folder /= "farm"  # what ends all below it must not find the process that was told the folder above
    folder.mkdir()
    with contextlib.ExitStack() as opened:
        disk = opened.enter_context(_disk(folder / "disk", seconds, without))
        store = (disk.path if disk else folder) / "store"
        store.mkdir(parents=True)
        farm = Farm(
            folder,
            active_timeout_minutes=LOST_S / 60,
            database_url=f"sqlite:///{store}/hqserver.db",
            settings=f"{SETTINGS}job_logs_dir = {store}/logs\n",
        )
        opened.callback(farm.close)
        return _Soak(farm, disk, seconds, seed, without).run(opened)


@contextlib.contextmanager
def _disk(path: Path, seconds: float, without: frozenset[str]) -> Iterator[SmallDisk | None]:
    if "disk" in without or cannot_mount():
        yield None
        return
    with small_disk(path, 128 + int(seconds / 8)) as disk:
        yield disk


class _Soak:
    def __init__(self, farm: Farm, disk: SmallDisk | None, seconds: float, seed: int, without: frozenset[str]) -> None:
        chances = random.Random(seed)
        self.farm = farm
        self.report = Report()
        self.seconds = seconds
        self.without = without
        self.clock = SystemClock()
        self.commands = Commands(farm.folder)
        self.network = Network(farm.port, random.Random(chances.random()))
        self.fates = Fates(farm, self.network, disk, random.Random(chances.random()), self.clock, without=without)
        self.doorway = self.network.path()  # of the scripts that repeat what they do not know
        self.users = [self._user(number, random.Random(chances.random())) for number in range(USERS)]
        self.meetings: dict[Meeting, float] = {}  # that must end, and since when their client can know of it

    def _user(self, number: int, chances: random.Random) -> User:
        repeats = number % 2 == 0 and "repeats" not in self.without
        url = f"http://127.0.0.1:{self.doorway.port}" if repeats else self.farm.url
        return User(number, url, chances, self.commands, repeats=repeats, poison="poison" not in self.without)

    def run(self, opened: contextlib.ExitStack) -> Report:
        opened.callback(self.network.close)
        self.farm.server.start()
        for name, cpus in CLIENTS.items():
            self.fates.add_client(name, cpus)
        if "mischief" in self.without:
            self.network.calm.set()
        began = self._used()
        for user in self.users:
            user.start()
        self.fates.run(self.seconds, self._watch)
        self._calm_down()
        self._look_at_server(began)
        jobs = self._jobs()
        self._restart()
        for user in self.users:
            self._judge(user, jobs)
        self._judge_strangers(jobs)
        self._sum_up()
        return self.report

    # -- while it goes on ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """See to it that what runs twice may, and ends in time."""
        now = self.clock.monotonic()
        for meeting in self.commands.meetings():
            self.report.counts["commands that met an older one of their job"] += 1
            self.meetings[meeting] = now
            if not self._may_run_twice(meeting, now):
                absences = self.fates.machines[meeting.client].absences
                text = f"job {meeting.key} while it still ran on {meeting.client}, whose absences were {absences}"
                self.report.complaints.append(f"twice at the same time: {text}, at {now:.1f}")
        for meeting, since in list(self.meetings.items()):
            machine = self.fates.machines[meeting.client]
            if not is_alive(meeting.pid, meeting.born):
                del self.meetings[meeting]
            elif machine.gone_at is not None or self.fates.server_gone_at is not None:
                self.meetings[meeting] = now
            elif now - since > DYING_S:
                del self.meetings[meeting]
                text = f"job {meeting.key} on {meeting.client} still runs {DYING_S:g} s after it came back"
                self.report.complaints.append(f"not told to die: {text}")

    def _may_run_twice(self, meeting: Meeting, now: float) -> bool:
        machine = self.fates.machines[meeting.client]
        absences = [*machine.absences, *([(machine.gone_at, now)] if machine.gone_at is not None else [])]
        return any(end - start >= LOST_S + RESCUE_S and end >= now - DYING_S for start, end in absences)

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        self.network.calm.set()
        for user in self.users:
            user.finish()
        for user in self.users:
            user.join(60)
            if user.is_alive():
                self.report.complaints.append(f"no answer: {user.name} still waits for {user.waits_for}")
        left = self._eventually(self._unsettled, CALM_S)
        if left:
            described = [f"job {job['id']} ({job['name']}) is {job['status']}: {job['waitingFor']}" for job in left]
            self.report.complain("never settled", described)
        for meeting in self.meetings:
            if is_alive(meeting.pid, meeting.born):
                self.report.complaints.append(f"twice for ever: job {meeting.key} on {meeting.client}")

    def _eventually(self, what_is_left: Callable[[], list[Any]], seconds: float) -> list[Any]:
        """Return what is left when nothing is, or when the time is over."""
        pause = threading.Event()
        end = self.clock.monotonic() + seconds
        while True:
            left = what_is_left()
            if not left or self.clock.monotonic() > end:
                return left
            self._watch()
            self.fates.keep_up()
            pause.wait(0.5)

    def _unsettled(self) -> list[Any]:
        try:
            with xmlrpc.client.ServerProxy(self.farm.url, allow_none=True) as proxy:
                ids = proxy.getJobIdsByStatus([*proxy.getUnfinishedJobStatusNames(), "abandoned"])
                proxy.resumeJobs(proxy.getJobIdsByStatus(["paused", "pausing"]))
                return proxy.getJobs(ids[:100], ["id", "name", "status", "waitingFor"])
        except (OSError, xmlrpc.client.Error) as error:
            return [{"id": 0, "name": "", "status": "unknown", "waitingFor": repr(error)}]

    def _used(self) -> tuple[float, int]:
        """Return the server's memory in MiB and its descriptors."""
        process = psutil.Process(self.farm.server.pid)
        with xmlrpc.client.ServerProxy(self.farm.url) as proxy:
            proxy.ping()
        return process.memory_info().rss / (1 << 20), process.num_fds()

    def _look_at_server(self, began: tuple[float, int]) -> None:
        memory, descriptors = self._used()
        counts = self.report.counts
        counts["server's MiB at the beginning"], counts["server's MiB at the end"] = int(began[0]), int(memory)
        counts["server's descriptors at the beginning"] = began[1]
        counts["server's descriptors at the end"] = descriptors
        if memory > began[0] + MORE_MIB:
            self.report.complaints.append(f"memory: {began[0]:.0f} MiB at the beginning, {memory:.0f} at the end")
        if descriptors > began[1] + MORE_DESCRIPTORS:
            self.report.complaints.append(f"descriptors: {began[1]} at the beginning, {descriptors} at the end")

    def _restart(self) -> None:
        code = self.farm.server.stop()
        if code:
            self.report.complaints.append(f"the server ended with {code} when it was asked to stop")
        self.farm.server.start()
        log = self.farm.server.log.read_text().splitlines()
        self.report.complain("mended at a start", [line for line in log if "mended" in line])
        self.report.counts["tracebacks in the server's log"] = sum(line.startswith("Traceback") for line in log)
        try:
            self.farm.check()
        except AssertionError as error:
            self.report.complain("invariants", str(error).splitlines()[1:])

    def _jobs(self) -> dict[str, list[dict[str, Any]]]:
        """Return all jobs by their names."""
        found: dict[str, list[dict[str, Any]]] = {}
        query: dict[str, Any] = {"attribs": ["id", "name", "status", "parents"], "limit": 1000}
        with xmlrpc.client.ServerProxy(self.farm.url, allow_none=True) as proxy:
            while True:
                page: Any = proxy.listJobs(query)
                for job in page["jobs"]:
                    found.setdefault(job["name"], []).append(job)
                if not page["next"]:
                    return found
                query["cursor"] = page["next"]

    # -- what must hold ------------------------------------------------------------------------------------------------

    def _judge(self, user: User, jobs: dict[str, list[dict[str, Any]]]) -> None:
        self.report.counts += user.counts
        self.report.complain(f"{user.name} was surprised", user.surprises)
        wrong: list[str] = []
        with xmlrpc.client.ServerProxy(self.farm.url, allow_none=True) as proxy:
            for submission in user.submissions:
                there = [len(jobs.get(expected.name, ())) for expected in submission.jobs]
                if sentence := _number_is_wrong(submission, there):
                    wrong.append(f"{submission.jobs[0].name}: {sentence}")
                for expected in submission.jobs:
                    for job in jobs.get(expected.name, ()):
                        self.report.counts[f"jobs {job['status']}"] += 1
                        if sentence := self._end_is_wrong(proxy, submission, expected, job):
                            wrong.append(f"job {job['id']} ({expected.name}, {job['status']}): {sentence}")
        self.report.complain(user.name, wrong)

    def _judge_strangers(self, jobs: dict[str, list[dict[str, Any]]]) -> None:
        known = {expected.name for user in self.users for one in user.submissions for expected in one.jobs}
        self.report.complain("jobs that nobody submitted", sorted(set(jobs) - known))

    def _end_is_wrong(self, proxy: Any, submission: Submission, expected: Expected, job: dict[str, Any]) -> str:
        """Return what is wrong with how a job ended; "" when it ended as its command did, or says why not."""
        if job["status"] not in SETTLED:
            return ""  # that was said when the time to settle was over
        if job["status"] == "cancelled":
            return "" if submission.touched else "nobody cancelled it"
        if expected.exit_code is None:
            return ""  # by its children: the invariants have looked at that
        record = self.commands.record(expected.name)
        if job["status"] == "failed":
            return self._failure_is_wrong(_last_words(proxy, job["id"]), expected, record)
        if expected.exit_code or 0 not in record.ended.values():
            return f"its command was to end with {expected.exit_code}, and did with {record.ended}"
        whole = self.commands.output(expected.name) in proxy.getJobOutput(job["id"])
        return "" if whole else "its output is not whole"

    def _failure_is_wrong(self, said: str, expected: Expected, record: Record) -> str:
        self.report.counts[f"failed: {_kind_of(said)}"] += 1
        if expected.impossible:
            return "" if "shell" in said else f"no machine has its shell, but it says {said!r}"
        as_its_command = expected.exit_code and expected.exit_code in record.ended.values()
        return "" if as_its_command or "lost" in said else f"its command did not fail, and it says {said!r}"

    def _sum_up(self) -> None:
        counts = self.report.counts
        counts += self.fates.counts
        counts += self.network.counts
        self.report.complain("server", self.fates.complaints)
        text = self.farm.server.log.read_text()
        self.report.complain("bugs", [line for line in text.splitlines() if " CRITICAL " in line or "a bug" in line])


def _number_is_wrong(submission: Submission, there: list[int]) -> str:
    """Return what is wrong with how many there are of each of a submission's jobs."""
    if any(count > 1 for count in there):
        return "it was stored more than once"
    if len(set(there)) > 1:
        return f"{there.count(1)} of its {len(there)} jobs are there"
    if submission.deleted and there[0] and not submission.rescheduled:
        return "it was deleted, and is there"
    if submission.acknowledged and not submission.delete_asked and not there[0]:
        return "it was acknowledged, and is not there"
    if submission.refused and not submission.acknowledged and there[0]:
        return "nothing was changed, it was said, and it is there"
    return ""


def _last_words(proxy: Any, job_id: int) -> str:
    """Return what a job's history says of its last failure."""
    messages = [
        entry["message"] for entry in proxy.getJob(job_id, ["history"])["history"] if entry["status"] == "failed"
    ]
    return str(messages[-1]) if messages else ""


def _kind_of(sentence: str) -> str:
    return " ".join("#" if word[:1].isdigit() else word for word in sentence.split())[:60]
