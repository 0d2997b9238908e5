"""One run: what is known of it, and how the server is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hqueue.protocol import KILLED, Assignment, Listed, Report, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hqueue.client.output import Output
    from hqueue.client.processes import Kill, Pack
    from hqueue.protocol import Fault, Outcome, State


class Run:
    """The facts about one run; `Runs` decides what follows from them.

    Units: all times are the machine's monotonic seconds, which the runner and the next daemon share until it is
    restarted.
    """

    __slots__ = (
        "argv", "assignment", "boot", "ended_at", "environment", "exit_code", "halted_at", "halted_s", "job_id", "kill",
        "kill_reason", "lost", "lost_message", "max_s", "noted", "output", "output_turn", "pack", "peak_kb",
        "pid", "place", "report", "report_at", "sent", "signal", "start", "started_at", "token",
        "wants_halt", "wish_done", "wish_number",
    )  # fmt: skip

    def __init__(self, token: str, output: Output, *, boot: str, assignment: Assignment | None = None) -> None:
        self.token = token
        self.output = output
        self.noted = output.shift, output.lost  # what the journal says of the output
        self.boot = boot
        self.assignment = assignment  # until it is known to have been started
        self.job_id = assignment.job_id if assignment is not None else 0
        self.max_s = assignment.max_time_s if assignment is not None else 0.0
        self.argv: list[str] = []
        self.environment: dict[str, str] = {}
        self.place: dict[str, str] = {}  # shell, folder and a remark, for the head of its log; not kept on the disk
        self.sent = False  # a runner may have started it
        self.pid = 0  # the shell's; 0 until the runner has said it
        self.start = 0.0  # the shell's start time, which tells it from a later process of that number
        self.started_at = 0.0
        self.halted_at: float | None = None
        self.halted_s = 0.0
        self.ended_at: float | None = None  # when the shell ended; other processes may still have to die
        self.exit_code = self.signal = self.peak_kb = 0
        self.wants_halt = False
        self.wish_number = 0  # of the latest wish
        self.wish_done = 0  # of the latest wish carried out
        self.kill_reason = ""  # set: we have begun to kill it
        self.kill: Kill | None = None
        self.pack: Pack | None = None
        self.lost = False
        self.lost_message = ""
        self.report: Report | None = None  # set: all is over, and the server has not acknowledged it yet
        self.report_at = 0.0
        self.output_turn = 0

    @classmethod
    def from_entry(cls, token: str, entry: Mapping[str, Any], output: Output) -> Run:
        """Build a run from what the journal says of it."""
        run = cls(token, output, boot=str(entry.get("boot", "")))
        if "assignment" in entry:
            run.assignment = read(entry["assignment"], Assignment, "assignment")
        run.job_id = entry.get("job", 0)
        run.max_s = float(entry.get("max_s") or 0)
        run.sent = True  # nobody knows, and a command must not run twice
        if "at" in entry:
            run.started(entry.get("pid", 0), entry.get("started", 0.0), entry["at"])
        if "ended" in entry:
            run.ended(*entry["ended"])
        run.halted_at = entry.get("halted_at")
        run.halted_s = float(entry.get("halted_s", 0.0))
        run.wants_halt = run.halted_at is not None
        run.wish_done = entry.get("wish_done", 0)
        run.wish_number = entry.get("wish_number", run.wish_done)
        run.kill_reason = str(entry.get("kill", ""))
        if "report" in entry:
            run.report = read(entry["report"], Report, "report")
        return run

    def started(self, pid: int, start: float, at: float) -> None:
        """Note the process that executes the command."""
        self.pid, self.start, self.started_at = pid, start, at
        self.sent = self.output.begun = True
        self.assignment, self.argv, self.environment = None, [], {}

    def ended(self, exit_code: int, signal: int, peak_kb: int, at: float) -> None:
        """Note how that process ended."""
        self.exit_code, self.signal, self.peak_kb, self.ended_at = exit_code, signal, peak_kb, at

    @property
    def dying(self) -> bool:
        """Tell whether we have begun to kill it."""
        return bool(self.kill_reason) or self.lost

    @property
    def state(self) -> State:
        """Return the word a heartbeat has for it."""
        if self.report is not None:
            return "ended"
        if self.dying:
            return "dying"
        if self.halted_at is not None:
            return "halted"
        return "running" if self.pid else "held"

    def seconds(self, now: float) -> float:
        """Return how long it has been at work, without the time it was halted."""
        if not self.started_at:
            return 0.0
        until = now if self.ended_at is None else self.ended_at
        halted_s = self.halted_s + (max(0.0, until - self.halted_at) if self.halted_at is not None else 0.0)
        return max(0.0, until - self.started_at - halted_s)

    def overdue(self, now: float) -> bool:
        """Tell whether it has used up its time."""
        return bool(
            self.max_s and self.pid and not self.dying and self.ended_at is None and self.seconds(now) >= self.max_s
        )

    def deadline(self, now: float) -> float:
        """Return when its time will be used up."""
        if not self.max_s or not self.pid or self.dying or self.halted_at is not None or self.ended_at is not None:
            return float("inf")
        return now + max(0.0, self.max_s - self.seconds(now))

    def finish(self, outcome: Outcome, message: str, fault: Fault) -> None:
        """Write the end report."""
        killed = outcome == KILLED
        if killed:
            self.wish_done = max(self.wish_done, self.wish_number)
        self.report = Report(
            self.token,
            outcome,
            exit_code=128 + self.signal if self.signal else self.exit_code,
            signal=self.signal,
            kill_reason=self.kill_reason if killed else "",
            seconds=self.seconds(self.started_at if self.ended_at is None else self.ended_at),
            peak_memory_kb=self.peak_kb,
            message=message,
            fault=fault,
        )

    def final_report(self, report: Report) -> Report:
        """Return the end report with what is known once the output is handed over."""
        output = self.output
        return replace(report, output_bytes=output.sent, progress=output.progress, lost_output=output.lost)

    def listed(self, now: float) -> Listed:
        """Return the run as a heartbeat lists it."""
        return Listed(self.token, self.state, self.wish_done, self.seconds(now), self.pid, self.output.progress)
