"""The daemon's view of its runs: take, follow, adopt, halt, kill, prove dead, report."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hqueue.client.environment import UnusableEnvironmentError
from hqueue.client.output import Output
from hqueue.client.processes import Kill, Pack, mark
from hqueue.client.reports import Account
from hqueue.client.run import Run
from hqueue.client.workspace import RefusedError, sentence
from hqueue.protocol import EXITED, KILLED, LOST, REFUSED, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hqueue.client.channel import Message
    from hqueue.client.environment import Environment
    from hqueue.client.journal import Journal
    from hqueue.client.processes import System
    from hqueue.client.runnerlink import Starter
    from hqueue.client.workspace import Workspaces
    from hqueue.protocol import Assignment, Fault, Outcome, Wish

log = logging.getLogger(__name__)

FOLLOW_EVERY_S = 0.4  # how often the output of running commands is looked at


class Runs:
    """Every run this client holds, from its assignment until the server has acknowledged its end.

    One thread works on it. `news` says that the server should hear something at once.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        workspaces: Workspaces,
        environment: Environment,
        starter: Starter,
        system: System,
        key: str,
        boot: str,
        umask: int,
    ) -> None:
        self._journal = journal
        self._workspaces = workspaces
        self._environment = environment
        self._starter = starter
        self._system = system
        self._key = key
        self._boot = boot
        self._umask = umask
        self._runs: dict[str, Run] = {}
        self.account = Account(self._runs)
        self._to_forget: list[str] = []
        self._follow_at = 0.0
        self._journal_failing = False
        self.kill_grace_s = 10.0
        self.terminating = False
        self.news = False

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    # -- from the disk and the runner ----------------------------------------------------------------------------------

    def load(self) -> None:
        """Take up what an earlier daemon left in the journal."""
        if self._journal.unreadable_lines:
            log.warning("%d lines of %s cannot be read", self._journal.unreadable_lines, self._journal.path)
        for token, entry in self._journal.entries.items():
            self._runs[token] = Run.from_entry(token, entry, self._output(token, entry))
        self._workspaces.remove_strangers(self._runs)

    def runner_there(self, entries: Iterable[Message], now: float) -> None:
        """Compare with what a runner says it holds, and have started what it has never heard of."""
        held = {str(entry["token"]): entry for entry in entries}
        for token, entry in held.items():
            if token not in self._runs:
                # Nothing on our disk knows it: the server shall say what is to become of it.
                self._runs[token] = Run(token, Output(self._path(token)), boot=self._boot)
                self._journal.put(token, boot=self._boot, job=0)
            self.runner_said({"event": "known", **entry}, now)
        for run in self._runs.values():
            if run.report is None and not run.lost and run.token not in held:
                self._start(run)

    def runner_died(self, entries: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """Kill what the dead runner had started, for nobody can learn any more how it ends; `entries`: its journal."""
        for run in list(self._runs.values()):
            if run.report is not None or run.lost:
                continue
            entry = entries.get(run.token, {})
            if "ended_at" in entry:
                self.runner_said({"event": "known", "token": run.token, **entry}, now)
            elif run.ended_at is not None:
                self._ended(run, now)
            elif run.boot != self._boot:
                self._finish(run, LOST, message="the machine was restarted while the command was running on it")
            elif run.sent:
                if not run.pid and "pid" in entry:
                    run.started(entry["pid"], entry["started"], entry["at"])
                self._lose(run, now)

    def runner_said(self, event: Message, now: float) -> None:
        """Take the runner's word on one run."""
        run = self._runs.get(str(event.get("token")))
        if run is None or run.report is not None:
            # Its result is in our journal, or acknowledged even: the runner need not keep it.
            self._to_forget.append(str(event.get("token")))
            return
        if event["event"] == "failed":
            message = f"the command could not be started: {event['message']}"
            # A runner of an earlier version does not say whose fault it is.
            self._finish(run, REFUSED, message=message, fault=event.get("fault", "machine"))
            return
        if "pid" in event:
            if not run.pid:
                log.info("Running job %s", run.job_id)
                run.started(event["pid"], event["started"], event["at"])
                self._journal.put(run.token, pid=run.pid, started=run.start, at=run.started_at, assignment=None)
            if "ended_at" not in event and run.kill is None:
                self._catch_up(run, now)
        if "ended_at" in event:
            # A runner of version 0.1.0, which may still be at work, calls it otherwise.
            exit_code = event["exit_code"] if "exit_code" in event else event["status"]
            run.ended(exit_code, event["signal"], event["peak"], event["ended_at"])
            self._journal.put(run.token, ended=[run.exit_code, run.signal, run.peak_kb, run.ended_at])
            self._ended(run, now)

    # -- from the server -----------------------------------------------------------------------------------------------

    def take(self, assignments: Iterable[Assignment]) -> None:
        """Put new assignments on the disk and start them; one that is known is only listed again."""
        prepared: list[Run] = []
        for assignment in assignments:
            token = assignment.token
            if token in self._runs:
                continue
            run = Run(token, Output(self._path(token)), boot=self._boot, assignment=assignment)
            self._runs[token] = run
            if self.terminating:
                self._finish(run, REFUSED, message="this client is about to stop")
            elif self._starter.problem:
                self._finish(run, REFUSED, message=self._starter.problem)
            elif self._prepare(run):
                fields = {"job": run.job_id, "boot": self._boot, "max_s": run.max_s, "assignment": write(assignment)}
                self._journal.put(token, **fields)
                prepared.append(run)
        try:
            self._journal.flush()
        except OSError as error:
            for run in prepared:
                self._journal.take_back(run.token)
                self._finish(run, REFUSED, message=sentence(error, str(self._journal.path.parent)))
            return
        for run in prepared:
            self._start(run)

    def wish(self, wishes: Iterable[Wish], now: float) -> None:
        """Carry out what the server wants of runs; wishes carried out before are passed over."""
        for wish in wishes:
            run = self._runs.get(wish.token)
            if run is None or run.report is not None or wish.number <= run.wish_done:
                continue
            if wish.wish == "die" or (wish.wish == "halt" and self.terminating):
                run.wish_number = wish.number
                self._kill(run, wish.reason or "cancelled", now)
            elif not run.dying:
                run.wish_number, run.wants_halt = wish.number, wish.wish == "halt"
                self._halt_or_go_on(run, now)

    def acknowledge(self, tokens: Iterable[str]) -> None:
        """Forget runs whose end the server has taken note of."""
        for token in tokens:
            run = self._runs.get(token)
            if run is not None and run.report is not None:
                del self._runs[token]
                self._journal.drop(token)
                self._workspaces.remove(token)
        if self.terminating and not self._runs:
            self.news = True

    def terminate(self, now: float) -> None:
        """Take no more runs, and cancel those that are halted; the others go on to their end."""
        self.terminating = self.news = True
        for run in list(self._runs.values()):
            if run.halted_at is not None or run.wants_halt:
                self._kill(run, "cancelled", now)

    def kill_all(self, reason: str, now: float) -> None:
        """Begin to kill every run."""
        for run in list(self._runs.values()):
            self._kill(run, reason, now)

    # -- as time goes by -----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due: follow output, end what took too long, go on with kills."""
        if now >= self._follow_at:
            self._follow_at = now + FOLLOW_EVERY_S
            at_work = [run for run in self._runs.values() if run.pid and run.report is None]
            disk_full = bool(at_work) and self._workspaces.disk_full()
            for run in at_work:
                run.output.look()
                self._note_output(run, disk_full=disk_full)
        for run in list(self._runs.values()):
            if run.report is not None:
                if 0.0 < run.report_at <= now:
                    run.report_at = 0.0
                    self.news = True
                continue
            if run.overdue(now):
                self._kill(run, "time", now)
            if run.kill is not None and now >= run.kill.due:
                self._go_on_killing(run, now)

    def next_due(self, now: float) -> float:
        """Return when `tick` has something to do next."""
        due = float("inf")
        for run in self._runs.values():
            if run.report is not None:
                due = min(due, run.report_at or due)
            else:
                kill_due = run.kill.due if run.kill is not None else due
                due = min(due, self._follow_at if run.pid else due, run.deadline(now), kill_due)
        return due

    def settle(self) -> None:
        """Write the journal; only then may the runner forget the results that are in it."""
        try:
            self._journal.flush()
        except OSError as error:
            if not self._journal_failing:
                log.error("%s; results wait in memory", sentence(error, str(self._journal.path.parent)))  # noqa: TRY400 - the sentence says it all
            self._journal_failing = True
            return
        self._journal_failing = False
        for token in self._to_forget:
            self._starter.forget(token)
        self._to_forget.clear()

    # -- one run -------------------------------------------------------------------------------------------------------

    def _path(self, token: str) -> str:
        return self._workspaces.output(token)

    def _output(self, token: str, entry: Mapping[str, Any]) -> Output:
        output = Output(self._path(token), shift=int(entry.get("shift", 0)))
        output.lost = str(entry.get("lost_output", ""))
        output.adopt()
        # What was there at its end, whether the file has grown since or is gone.
        output.size = int(entry.get("output_bytes", output.size))
        return output

    def _note_output(self, run: Run, *, disk_full: bool) -> None:
        """Have the next daemon know which part of the output is no longer in its file, and what is lost."""
        output = run.output
        if disk_full:
            output.lose(f"the disk of {self._workspaces.root} was full while it ran")
        if (output.shift, output.lost) != run.noted:
            run.noted = output.shift, output.lost
            self._journal.put(run.token, shift=output.shift, lost_output=output.lost)

    def _prepare(self, run: Run) -> bool:
        assignment, scratch = run.assignment, self._workspaces.scratch(run.token)
        if assignment is None:
            return False
        try:
            environment = self._environment.of(assignment, scratch, mark(self._key, run.token))
            run.argv, remark = self._workspaces.prepare(run.token, assignment.command, assignment.shell, environment)
        except UnusableEnvironmentError as error:
            self._finish(run, REFUSED, message=str(error), fault="job")
            return False
        except RefusedError as error:
            # A folder that all machines share is not mounted here.
            away = error.fault == "shell" and self._environment.shares(assignment.shell)
            self._finish(run, REFUSED, message=str(error), fault="machine" if away else error.fault)
            return False
        run.environment = environment
        run.place = {"shell": " ".join(run.argv[:-1]), "folder": scratch, "remark": remark}
        if remark:
            log.warning("job %s: %s", run.job_id, remark)
        return True

    def _start(self, run: Run) -> None:
        if not run.argv and not self._prepare(run):
            return
        order: Message = {"order": "start", "token": run.token, "argv": run.argv, "environment": run.environment}
        order |= {"cwd": self._workspaces.scratch(run.token), "output": self._path(run.token), "umask": self._umask}
        # Kept until the runner has said that it started it: the connection may break before it hears of it.
        run.sent = self._starter.start(order) or run.sent

    def _catch_up(self, run: Run, now: float) -> None:
        """Do what was wished before the run's process was known."""
        if run.kill_reason:
            self._begin_kill(run, now, gentle=True)
        elif run.wish_number > run.wish_done:
            self._halt_or_go_on(run, now)

    def _halt_or_go_on(self, run: Run, now: float) -> None:
        if not run.pid or run.ended_at is not None:
            return
        if run.wants_halt and run.halted_at is None:
            self._pack(run).stop()
            run.halted_at = now
        elif not run.wants_halt and run.halted_at is not None:
            run.halted_s += max(0.0, now - run.halted_at)
            run.halted_at = None
            self._pack(run).go_on()
        run.wish_done = run.wish_number
        self._journal.put(run.token, halted_at=run.halted_at, halted_s=run.halted_s, wish_done=run.wish_done)
        log.info("job %s %s", run.job_id, "halted" if run.halted_at is not None else "goes on")
        self.news = True

    def _kill(self, run: Run, reason: str, now: float) -> None:
        if run.dying or run.report is not None or run.ended_at is not None:
            return
        log.info("Cancelling job %s (%s)", run.job_id, reason)
        run.kill_reason = reason
        if not run.sent:
            self._finish(run, KILLED)
            return
        # On the disk before the first signal: however it ends from here on, it ended because of us.
        self._journal.put(run.token, kill=reason, wish_number=run.wish_number)
        self.settle()
        if run.pid:
            self._begin_kill(run, now, gentle=True)

    def _begin_kill(self, run: Run, now: float, *, gentle: bool) -> None:
        self._starter.spare(run.token)
        run.kill = Kill(self._pack(run), self.kill_grace_s, gentle=gentle, now=now)
        self._go_on_killing(run, now)

    def _go_on_killing(self, run: Run, now: float) -> None:
        kill = run.kill
        if kill is None:
            return
        before = bool(kill.survivors)
        kill.advance(now)
        if bool(kill.survivors) != before:
            self.news = True
            log.warning("job %s: processes that would not die: %s", run.job_id, kill.survivors or "none any more")
        if kill.gone and run.lost:
            self._finish(run, KILLED if run.kill_reason else LOST, message=run.lost_message)
        elif kill.gone and run.ended_at is not None:
            self._finish(run, KILLED)

    def _ended(self, run: Run, now: float) -> None:
        if not run.kill_reason:
            self._finish(run, EXITED)
        elif run.kill is None:
            # It ended while no daemon was there to see the kill through: what it left behind still has to go.
            self._begin_kill(run, now, gentle=True)
        else:
            run.kill.look_soon(now)

    def _lose(self, run: Run, now: float) -> None:
        run.lost = True
        run.lost_message = "the process that watched over the command was killed"
        self._journal.put(run.token, lost=True, pid=run.pid or None, started=run.start or None, at=run.started_at)
        self.settle()
        run.kill = Kill(self._pack(run), self.kill_grace_s, gentle=False, now=now)
        self._go_on_killing(run, now)

    def _pack(self, run: Run) -> Pack:
        if run.pack is None:
            run.pack = Pack(mark(self._key, run.token), run.pid, run.start, self._system)
        return run.pack

    def _finish(self, run: Run, outcome: Outcome, *, message: str = "", fault: Fault = "machine") -> None:
        if run.sent:
            run.output.look(closely=True)
            self._note_output(run, disk_full=bool(run.pid) and self._workspaces.disk_full())
        if run.output.lost:
            log.warning("job %s: output is lost: %s", run.job_id, run.output.lost)
        run.finish(outcome, message, fault)
        if outcome == REFUSED:
            log.warning("job %s refused: %s", run.job_id, message)
            self._workspaces.remove(run.token)
        else:
            log.info("Finished job %s", run.job_id)
            self._workspaces.clear_scratch(run.token)
        if run.report is not None and run.token in self._journal.entries:
            ended = {"report": write(run.report), "output_bytes": run.output.size, "wish_done": run.wish_done}
            self._journal.put(run.token, assignment=None, **ended)
        if run.sent:
            self._to_forget.append(run.token)
        if run.output.delivered:
            run.output.finish()
            self.news = True
