"""Hand-written stand-ins for what the client's runs work with: the machine's processes and the runner."""

from __future__ import annotations

from typing import Any

from hqueue.client.platforms import ProcessRow


class FakeSystem:
    """Processes that live and die as a test says; `sent` lists the signals, a group as a negative number."""

    def __init__(self) -> None:
        self.processes: dict[int, ProcessRow] = {}
        self.marks: dict[int, str] = {}
        self.sent: list[tuple[int, int]] = []
        self.appear_on_refresh: list[ProcessRow] = []

    def add(
        self,
        pid: int,
        *,
        parent: int = 1,
        group: int = 0,
        session: int = 0,
        started: float = 10.0,
        zombie: bool = False,
        mark: str = "",
    ) -> None:
        self.processes[pid] = ProcessRow(pid, parent, group or pid, session or pid, started, zombie)
        self.marks[pid] = mark

    def remove(self, pid: int) -> None:
        del self.processes[pid]

    def rows(self) -> list[ProcessRow]:
        return list(self.processes.values())

    def refresh(self) -> None:
        for row in self.appear_on_refresh:
            self.processes[row.pid] = row
        self.appear_on_refresh = []

    def alive(self, pid: int, started: float) -> bool:
        row = self.processes.get(pid)
        return row is not None and row.started == started and not row.zombie

    def carries(self, pid: int, mark: str) -> bool:
        return self.marks.get(pid) == mark

    def signal(self, pid: int, number: int) -> None:
        if pid not in self.processes:
            raise ProcessLookupError
        self.sent.append((pid, number))

    def signal_group(self, group: int, number: int) -> None:
        if all(row.group != group for row in self.processes.values()):
            raise ProcessLookupError
        self.sent.append((-group, number))


class FakeStarter:
    """Remembers what the runner was asked."""

    def __init__(self) -> None:
        self.problem = ""
        self.there = True
        self.started: list[dict[str, Any]] = []
        self.spared: list[str] = []
        self.forgotten: list[str] = []

    def start(self, order: dict[str, Any]) -> bool:
        if self.there:
            self.started.append(order)
        return self.there

    def spare(self, token: str) -> None:
        self.spared.append(token)

    def forget(self, token: str) -> None:
        self.forgotten.append(token)
