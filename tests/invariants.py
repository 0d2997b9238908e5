"""What must hold of a store after every transaction, whatever happened before.

`check_invariants` runs at the end of every test that had a store, and after every step of the random ones.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue.matching import Requirement
from hqueue.schema import (
    bulk,
    bulk_job,
    client,
    counter,
    event,
    hook,
    job,
    job_edge,
    job_spec,
    requirement,
    reservation,
    resource,
    root_block,
    run,
)
from hqueue.states import HOLDS_RUN, SETTLED, UNSUCCESSFUL, JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hqueue.store import Store

PAUSE_WISHED = {JobStatus.PAUSED, JobStatus.PAUSING}  # always
MAY_WISH_PAUSE = {*PAUSE_WISHED, JobStatus.EJECTING, JobStatus.ABANDONED}


def check_invariants(store: Store) -> None:
    """Fail with every sentence that does not hold."""
    with store.reading() as connection:
        broken = list(Snapshot(connection).broken())
    assert not broken, "\n".join(["the store does not make sense:", *broken])


class Snapshot:
    """Everything that the sentences speak of, read at once."""

    def __init__(self, connection: sa.Connection) -> None:
        def rows(table: sa.Table, key: str) -> dict[int, Any]:
            return {getattr(row, key): row for row in connection.execute(sa.select(table).order_by(table.c[key]))}

        self.jobs = rows(job, "id")
        self.specs = rows(job_spec, "job_id")
        self.runs = rows(run, "id")
        self.ran_ms: dict[int, int] = defaultdict(int)  # by job: how long its command took, as the latest end says
        for each in self.runs.values():
            if each.outcome == "exited":
                self.ran_ms[each.job_id] = int((each.seconds or 0) * 1000)
        self.clients = rows(client, "id")
        self.hooks = rows(hook, "run_id")
        self.requirements = {key: Requirement.from_json(row.spec_json) for key, row in rows(requirement, "id").items()}
        self.resources = {row.name: row for row in connection.execute(sa.select(resource))}
        self.blocks = rows(root_block, "root_id")
        self.reserved: dict[int, list[int]] = defaultdict(list)  # runs that are open, by the client they reserve
        for row in connection.execute(sa.select(reservation)):
            if self.runs[row.run_id].closed_at is None:
                self.reserved[row.client_id].append(row.run_id)
        self.bulk = rows(bulk, "id")
        self.bulk_jobs = list(connection.execute(sa.select(bulk_job)))
        self.counters = {row.name: row.value for row in connection.execute(sa.select(counter))}
        self.events = list(connection.execute(sa.select(event).order_by(event.c.seq)))
        self.parents: dict[int, list[int]] = defaultdict(list)
        self.children: dict[int, list[int]] = defaultdict(list)
        for edge in connection.execute(sa.select(job_edge)):
            self.parents[edge.child_id].append(edge.parent_id)
            self.children[edge.parent_id].append(edge.child_id)
        self.being_deleted = self._below(
            row.job_id for row in self.bulk_jobs if self.bulk[row.bulk_id].action == "delete"
        )
        self.gone_roots = {row.job_id for row in self.bulk_jobs if row.state == "gone root"}
        self.held_back = {row.job_id for row in self.bulk_jobs if self.bulk[row.bulk_id].action == "reschedule"}

    def broken(self) -> Iterator[str]:
        """Yield a sentence for each thing that should not be."""
        for row in self.jobs.values():
            status = JobStatus(row.status)
            sentences = (*self._graph(row), *self._sums(row), *self._status(row, status), *self._run_of(row, status))
            for sentence in sentences:
                yield f"job {row.id} ({status}): {sentence}"
        for row in self.runs.values():
            for sentence in self._run(row):
                yield f"run {row.id} of job {row.job_id}: {sentence}"
        for client_id in self.clients:
            for sentence in self._capacity(client_id):
                yield f"client {client_id}: {sentence}"
        yield from self._history()
        if self._cyclic():
            yield "the graph of jobs has a cycle"

    def _graph(self, row: Any) -> Iterator[str]:
        below = [JobStatus(self.jobs[child].status) for child in self.children[row.id]]
        counted = (row.children_total, row.children_unsettled, row.children_unsuccessful)
        unsettled = sum(status not in SETTLED for status in below)
        unsuccessful = sum(status in UNSUCCESSFUL for status in below)
        if counted != (len(below), unsettled, unsuccessful):
            yield f"children are counted {counted}, but are {(len(below), unsettled, unsuccessful)}"
        if row.id not in self.specs:
            yield "it has no specification"
        if row.root_id not in self.jobs and row.root_id not in self.gone_roots:
            yield f"its root {row.root_id} does not exist, and no unfinished deletion sees to that"
        if row.id in self.being_deleted:
            return
        if row.is_root != (not self.parents[row.id]):
            yield f"is_root is {row.is_root}, parents are {self.parents[row.id]}"

    def _sums(self, row: Any) -> Iterator[str]:
        if not row.tree_exact or not self.children[row.id] or self.being_deleted:
            return
        tree = [self.jobs[job_id] for job_id in self._below([row.id])]
        done = [each for each in tree if each.status in SETTLED]
        won = [each for each in done if each.status == JobStatus.SUCCEEDED and each.has_command and each.started_at]
        right = {
            "tree_jobs": len(tree),
            "tree_settled": len(done),
            "tree_counted": sum(each.counted for each in tree),
            "tree_progress": sum(
                1.0 if each.status == JobStatus.SUCCEEDED else each.progress for each in done if each.counted
            ),
            "tree_waiting": sum(
                each.has_command and each.status not in SETTLED and not each.command_done and each.run_id is None
                for each in tree
            ),
            "tree_finished": len(won),
            "tree_finished_ms": sum(self.ran_ms[each.id] for each in won),
        }
        for name, value in right.items():
            if abs(getattr(row, name) - value) > 1e-6:
                yield f"{name} is {getattr(row, name)}, but should be {value}"
        starts = [each.started_at for each in tree if each.started_at is not None]
        if starts and (row.tree_started_at is None or row.tree_started_at > min(starts)):
            yield f"tree_started_at is {row.tree_started_at}, but something was started at {min(starts)}"

    def _status(self, row: Any, status: JobStatus) -> Iterator[str]:
        if (status in SETTLED) != (row.ended_at is not None):
            yield f"ended_at is {row.ended_at}"
        if status is JobStatus.QUEUED and not row.children_unsettled and not row.held_by_bulk:
            yield "it waits for children, but all are settled"
        if status is JobStatus.RUNNABLE:
            yield from self._blocked(row)
            if row.children_unsettled or row.children_unsuccessful:
                yield f"{row.children_unsettled} children unsettled, {row.children_unsuccessful} unsuccessful"
            if not row.has_command or row.command_done:
                yield "it has nothing to run"
        if status is JobStatus.SUCCEEDED and (row.children_unsettled or row.children_unsuccessful):
            yield f"{row.children_unsettled} children unsettled, {row.children_unsuccessful} unsuccessful"
        if not 0.0 <= row.progress <= 1.0:
            yield f"progress is {row.progress}"
        yield from self._wishes_of(row, status)

    def _wishes_of(self, row: Any, status: JobStatus) -> Iterator[str]:
        if row.held_by_bulk and row.id not in self.held_back:
            yield "it is held, but no unfinished action has it"
        if status in PAUSE_WISHED and not row.pause_wished:
            yield "nobody wishes the pause"
        if row.pause_wished and status not in MAY_WISH_PAUSE:
            yield "a pause is wished of it"

    def _run_of(self, row: Any, status: JobStatus) -> Iterator[str]:
        if status in HOLDS_RUN and row.run_id is None:
            yield "it has no run"
        if row.run_id is None:
            return
        if status not in HOLDS_RUN and status is not JobStatus.PAUSED:
            yield f"it still has run {row.run_id}"
        current = self.runs.get(row.run_id)
        if current is None or current.job_id != row.id or current.closed_at is not None:
            yield f"its run {row.run_id} is not an open one of it"
            return
        if (status is JobStatus.ABANDONED) != (current.abandoned_at is not None):
            yield f"its run's abandoned_at is {current.abandoned_at}"
        where = self.clients[current.client_id]
        if (where.lost or where.forgotten) and status is not JobStatus.ABANDONED:
            yield "its client is lost or forgotten, so that nobody would notice the end of its run"
        wanted = {JobStatus.PAUSING: "halt", JobStatus.RESUMING: "run", JobStatus.EJECTING: "die"}.get(status)
        if wanted is not None and current.wish != wanted:
            yield f"its run is wished to {current.wish}"
        if wanted in {"halt", "run"} and current.wish_confirmed >= current.wish_number:
            yield "its run's wish is confirmed, so that nothing moves it on"
        if status is JobStatus.PAUSED and current.wish != "halt":
            yield f"its run is wished to {current.wish}"

    def _run(self, row: Any) -> Iterator[str]:
        is_open = row.closed_at is None
        if is_open != (row.open_job_id is not None):
            yield f"closed_at is {row.closed_at}, open_job_id {row.open_job_id}"
        if row.open_job_id not in {None, -row.id if row.hook else row.job_id}:
            yield f"open_job_id is {row.open_job_id}"
        if row.fenced and is_open:
            yield "it is fenced, but open"
        if is_open != (row.outcome == ""):
            yield f"its outcome is {row.outcome!r}, closed_at {row.closed_at}"
        owner = self.jobs.get(row.job_id)
        if row.hook and is_open and row.wish != "die" and row.id not in self.hooks:
            yield f"nobody waits for the end of {row.hook}"
        if row.hook and not is_open and row.id in self.hooks:
            yield f"it is closed, but {row.hook} is said to run"
        useless = not row.hook and (owner is None or owner.run_id != row.id)
        if (is_open or row.fenced) and row.wish != "die" and useless:
            yield f"no job's current one, and told to {row.wish}"
        if row.wish_confirmed > row.wish_number:
            yield f"wish {row.wish_confirmed} of {row.wish_number} is confirmed"

    def _blocked(self, row: Any) -> Iterator[str]:
        block = self.blocks.get(row.root_id)
        if block is not None and block.pending:
            return
        blocked = self.requirements[row.requirement_id].blocked
        text = "[]" if block is None else block.blocked_json
        if list(blocked) != json.loads(text):
            yield f"its requirement blocks {blocked}, its root {text}"

    def on_client(self, client_id: int) -> list[Any]:
        """Return the runs that take a client: open ones, those that reserve it, and given-up ones not proved dead."""
        alive = [row for row in self.runs.values() if row.client_id == client_id and (not row.closed_at or row.fenced)]
        return alive + [self.runs[run_id] for run_id in self.reserved[client_id]]

    def _capacity(self, client_id: int) -> Iterator[str]:
        alive = [row for row in self.on_client(client_id) if not row.hook]
        used = sum(row.cpus for row in alive)
        if used > self.clients[client_id].cpus:
            yield f"{used} of {self.clients[client_id].cpus} CPUs are in use"
        tags = Counter(tag for row in alive for tag in self.requirements[row.requirement_id].singles)
        if tags["single"] and len(alive) > 1:
            yield f"{len(alive)} runs, but one is single"
        for tag, count in tags.items():
            if count > 1:
                yield f"{count} runs with the tag {tag!r}"

    def _history(self) -> Iterator[str]:
        last = {row.job_id: row for row in self.events}
        for row in self.jobs.values():
            if row.id not in last:
                yield f"job {row.id}: has no history"
            elif last[row.id].status != row.status:
                yield f"job {row.id} ({row.status}): its history ends with {last[row.id].status}"
        highest = {"job": max(self.jobs, default=0), "run": max(self.runs, default=0)}
        highest["event"] = self.events[-1].seq if self.events else 0
        for name, value in highest.items():
            if self.counters[name] < value:
                yield f"counter {name} is {self.counters[name]}, but {value} was given out"
        attempts = Counter((row.job_id, row.attempt) for row in self.runs.values() if not row.hook)
        for (job_id, attempt), count in attempts.items():
            if count > 1:
                yield f"job {job_id}: {count} runs are its attempt {attempt}"

    def _below(self, job_ids: Iterator[int]) -> set[int]:
        found: set[int] = set()
        stack = list(job_ids)
        while stack:
            current = stack.pop()
            if current not in found:
                found.add(current)
                stack.extend(self.children[current])
        return found

    def _cyclic(self) -> bool:
        waiting = {key: len(self.parents[key]) for key in self.jobs}
        free = [key for key, count in waiting.items() if count == 0]
        seen = 0
        while free:
            current = free.pop()
            seen += 1
            for child in self.children[current]:
                waiting[child] -= 1
                if waiting[child] == 0:
                    free.append(child)
        return seen < len(self.jobs)
