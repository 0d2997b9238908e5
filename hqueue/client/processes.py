"""The processes of a run: found wherever they went, signalled together, proved dead."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Protocol

from hqueue.client import platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hqueue.client.platforms import ProcessRow

MARKER = "HQ_RUN"  # the environment variable every process of a run inherits
GENTLE_STEPS = (platforms.INTERRUPT, platforms.TERMINATE, platforms.KILL)
FIRM_STEPS = (platforms.KILL,)
LOOK_EVERY_S = 0.25  # for proof, while processes are on their way out
LOOK_RARELY_S = 2.0  # for proof, once nothing more can be done
STOP_ROUNDS = 3


def mark(key: str, token: str) -> str:
    """Return what the marker says for a run: nothing that a run of another client or farm could have."""
    return hashlib.sha256(f"{key}/{token}".encode("utf-8", "replace")).hexdigest()[:32]


class System(Protocol):
    """The machine's processes, as far as a run needs them."""

    def rows(self) -> Iterable[ProcessRow]:
        """Return all processes, as they were at some moment since the last `refresh`."""
        ...

    def refresh(self) -> None:
        """Have the next `rows` look again."""
        ...

    def alive(self, pid: int, started: float) -> bool:
        """Tell whether this very process runs still (a zombie does not)."""
        ...

    def carries(self, pid: int, mark: str) -> bool:
        """Tell whether a process was started in an environment with this mark."""
        ...

    def signal(self, pid: int, number: int) -> None:
        """Send one process a signal; OSError when that cannot be done."""
        ...

    def signal_group(self, group: int, number: int) -> None:
        """Send a whole group a signal; OSError when that cannot be done."""
        ...


class LocalProcesses:
    """The real processes of this machine.

    One look serves all runs of one turn of the daemon's loop. For a proof of death an older look is as good: a run that
    had no process left then cannot have got one since.
    """

    def __init__(self) -> None:
        self._rows: list[ProcessRow] | None = None

    def rows(self) -> list[ProcessRow]:
        """Return all processes but this one."""
        if self._rows is None:
            self._rows = [row for row in platforms.processes() if row.pid != os.getpid()]
        return self._rows

    def refresh(self) -> None:
        """Have the next `rows` look again."""
        self._rows = None

    def alive(self, pid: int, started: float) -> bool:
        """Compare the start time, for numbers are used again."""
        return platforms.process_start(pid) == started

    def carries(self, pid: int, mark: str) -> bool:
        """Look for the marker in a process's environment."""
        return platforms.carries(pid, MARKER, mark)

    def signal(self, pid: int, number: int) -> None:
        """Send one process a signal."""
        platforms.send_signal(pid, number)

    def signal_group(self, group: int, number: int) -> None:
        """Send a whole group a signal."""
        platforms.send_group_signal(group, number)


class Pack:
    """All processes of one run.

    Who belongs to it: the leader (the shell), its session and group, descendants of any member, and whoever carries the
    run's mark, which finds those that went into a session of their own and lost their parent. Who was seen once is
    remembered by pid and start time.
    """

    def __init__(self, mark: str, pid: int, started: float, system: System) -> None:
        self.mark = mark
        self.pid = pid  # 0: never known; the mark alone finds its processes
        self.started = started
        self._system = system
        self._seen: set[tuple[int, float]] = set()

    def members(self) -> list[ProcessRow]:
        """Find the living members."""
        rows = [row for row in self._system.rows() if not row.zombie]
        # A number given to another process since: its session and group are no business of ours.
        recycled = any(row.pid == self.pid and row.started != self.started for row in rows)
        inside: dict[int, ProcessRow] = {}
        outside: list[ProcessRow] = []
        for row in rows:
            mine = (row.pid, row.started) in self._seen or (row.pid == self.pid and not recycled)
            if not mine and self.pid and not recycled:
                mine = self.pid in {row.session, row.group}
            if not mine and row.started >= self.started:
                mine = self._system.carries(row.pid, self.mark)
            if mine:
                inside[row.pid] = row
            else:
                outside.append(row)
        grown = bool(inside)
        while grown:
            grown = False
            for row in outside:
                if row.pid not in inside and row.parent in inside and row.started >= inside[row.parent].started:
                    inside[row.pid] = row
                    grown = True
        self._seen.update((row.pid, row.started) for row in inside.values())
        return list(inside.values())

    def signal(self, number: int, *then: int) -> list[ProcessRow]:
        """Signal all members, first the leader's group at one stroke; return those there were."""
        numbers = (number, *then)
        whole_group = self.pid > 0 and self._system.alive(self.pid, self.started)
        if whole_group:
            for each in numbers:
                _try(self._system.signal_group, self.pid, each)
        members = self.members()
        for row in members:
            if whole_group and row.group == self.pid:
                continue
            if self._system.alive(row.pid, row.started):
                for each in numbers:
                    _try(self._system.signal, row.pid, each)
        return members

    def stop(self) -> None:
        """Halt all members, and those they started while they were being halted."""
        known: set[int] = set()
        for _ in range(STOP_ROUNDS):
            # A group is halted at one stroke; only who is outside of it can have started somebody meanwhile.
            outside = {row.pid for row in self.signal(platforms.STOP) if row.group != self.pid}
            if outside <= known:
                return
            known = outside
            self._system.refresh()

    def go_on(self) -> None:
        """Let halted members continue."""
        self.signal(platforms.CONTINUE)


def _try(act: Callable[[int, int], None], target: int, number: int) -> None:
    try:
        act(target, number)
    except OSError:
        # Gone meanwhile, or not ours to signal: the proof that follows sees which.
        return


class Kill:
    """The end of a run, by steps: a signal, patience, a stronger one; then proof that all are gone."""

    def __init__(self, pack: Pack, grace_s: float, *, gentle: bool, now: float) -> None:
        self._pack = pack
        self._grace_s = grace_s
        self._steps = list(GENTLE_STEPS if gentle else FIRM_STEPS)
        self._signal_at = now
        self.due = now
        self.gone = False  # proved: no member lives
        self.survivors: list[int] = []  # pids that lived through all of it

    def look_soon(self, now: float) -> None:
        """Look for proof at the next occasion: the leader has ended."""
        self.due = min(self.due, now)

    def advance(self, now: float) -> None:
        """Signal if it is time to, and look whether anybody is left; `due` says when to come again."""
        if now >= self._signal_at:
            number = self._steps.pop(0) if self._steps else None
            if number is None:
                self.survivors = [row.pid for row in self._pack.signal(platforms.KILL)]
                self.gone = not self.survivors
            else:
                self.gone = not self._pack.signal(number, platforms.CONTINUE)
            self._signal_at = now + self._grace_s
            self.due = now + min(LOOK_EVERY_S, self._grace_s)
        else:
            members = self._pack.members()
            self.gone = not members
            if self.gone or self.survivors:
                self.survivors = [row.pid for row in members]
            # While a shell takes its time to clean up, the runner tells of its end; this is for the others.
            self.due = min(self._signal_at, now + (LOOK_RARELY_S if self.survivors else LOOK_EVERY_S))
