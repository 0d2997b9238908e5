"""What must hold after every tick, in the plainest way, from what the world knows; none of it is `matching`."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue.schema import job, reservation, run
from tests.simulator.world import BERLIN, FAILURES, Kind, Node, World

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass
class Taken:
    """What is in use on a client."""

    cpus: int = 0
    jobs: int = 0
    tags: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)


class Use:
    """What is in use on the farm."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.clients: dict[int, Taken] = defaultdict(Taken)
        self.once: Counter[str] = Counter()

    def add(self, kind: Kind, client_ids: Iterable[int], *, fenced: bool = False) -> None:
        """Count a run."""
        wanted = {} if fenced else kind.get("resources", {})
        for client_id in client_ids:
            taken = self.clients[client_id]
            taken.cpus += kind.get("cpus", 1)
            taken.jobs += 1
            taken.tags.update(tag for tag in kind.get("tags", []) if tag.startswith("single"))
            for name, amount in wanted.items():
                taken.units[name] = max(taken.units[name], amount)
        for name, amount in wanted.items():
            self.once[name] += amount

    def used(self, name: str) -> int:
        """Return how much of a resource is in use."""
        if self._world.maxima[name][1]:
            return sum(taken.units[name] for taken in self.clients.values())
        return self.once[name]

    def has_units(self, kind: Kind, node: Node, more: int = 0) -> bool:
        """Tell whether there is enough of everything for a job on a client, when others take so much of it first."""
        for name, amount in kind.get("resources", {}).items():
            maximum, per_machine = self._world.maxima[name]
            wanted = max(0, amount - self.clients[node.id].units[name]) if per_machine else amount
            if self.used(name) + more + wanted > maximum:
                return False
        return True

    def has_room(self, kind: Kind, node: Node) -> bool:
        """Tell whether a client has room for a job."""
        taken = self.clients[node.id]
        tags = {tag for tag in kind.get("tags", []) if tag.startswith("single")}
        if taken.tags["single"] or ("single" in tags and taken.jobs) or any(taken.tags[tag] for tag in tags):
            return False
        return taken.cpus + kind.get("cpus", 1) <= node.cpus


class Oracle:
    """Judges ticks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._seen = 0  # runs up to this one have been judged
        self._used_before = dict.fromkeys(world.maxima, 0)

    def judge(self) -> None:
        """Fail with every sentence that does not hold after a tick."""
        wrong = list(self._wrong())
        assert not wrong, "\n".join(wrong)

    def _wrong(self) -> Iterator[str]:
        alive, waiting = self._read()
        fresh = sorted((row for row in alive if row["id"] > self._seen), key=lambda row: row["rank"])
        self._seen = max((row["id"] for row in alive), default=self._seen)
        use = Use(self.world)
        for row in alive:
            if row not in fresh:
                use.add(row["kind"], row["clients"], fenced=row["fenced"])
        yield from self._in_order(use, fresh, waiting)
        yield from self._limits(use)

    def _read(self) -> tuple[list[dict[str, Any]], list[Any]]:
        with self.world.farm.store.reading() as connection:
            others = defaultdict(list)
            for run_id, client_id in connection.execute(sa.select(reservation)):
                others[run_id].append(client_id)
            query = (
                sa.select(run, job.c.priority, job.c.root_id)
                .outerjoin(job, job.c.id == run.c.job_id)
                .where(sa.or_(run.c.closed_at.is_(None), run.c.fenced))
            )
            alive = [
                {
                    "id": row.id,
                    "job": row.job_id,
                    "kind": self.world.jobs[row.job_id],
                    "clients": [row.client_id, *others[row.id]] if row.closed_at is None else [row.client_id],
                    "fenced": row.fenced,
                    "rank": (-row.priority, row.root_id, row.job_id),
                }
                for row in connection.execute(query)
            ]
            query = sa.select(job.c.id, job.c.priority, job.c.root_id).where(
                job.c.status == "runnable",
                ~sa.select(run.c.id).where(run.c.open_job_id == job.c.id).exists(),
            )
            return alive, sorted(connection.execute(query).all(), key=lambda row: (-row.priority, row.root_id, row.id))

    def _in_order(self, use: Use, fresh: list[dict[str, Any]], waiting: list[Any]) -> Iterator[str]:
        """Follow the queue: each job that was given a place could take it; each that waits found none in its turn."""
        held_for = list(self.world.farm.roster.holds.values())
        scarce: set[str] = set()  # resources that a waiting job before may have had kept for it
        line = [(row["rank"], row) for row in fresh]
        line += [((-row.priority, row.root_id, row.id), None) for row in waiting]
        for rank, row in sorted(line, key=lambda each: each[0]):
            kind = self.world.jobs[rank[2]]
            held = {client_id for before, client_ids in held_for if before < rank for client_id in client_ids}
            able = [node for node in self.world.nodes.values() if self.takes(node, rank[2], kind)]
            free = [node for node in able if use.has_room(kind, node) and node.id not in held]
            if row is None:
                yield from self._waits_rightly(rank[2], kind, use, free, scarce)
                scarce.update(kind.get("resources", {}))
                continue
            kind.starts += 1
            yield from self._placed_rightly(row, kind, use, able, free)
            use.add(kind, row["clients"])

    def _waits_rightly(self, job_id: int, kind: Kind, use: Use, free: list[Node], scarce: set[str]) -> Iterator[str]:
        if scarce & kind.get("resources", {}).keys():
            return
        least = kind.get("minHosts", 1)
        names = [node.hostname for node in free if use.has_units(kind, node)]
        if least == 1 and names:
            yield f"job {job_id} waits, but {', '.join(names)} had room when it was its turn"
        elif len(names) >= least and not kind.get("resources"):
            yield f"job {job_id} waits for {least} clients, but {', '.join(names)} had room when it was its turn"

    def _placed_rightly(
        self, row: dict[str, Any], kind: Kind, use: Use, able: list[Node], free: list[Node]
    ) -> Iterator[str]:
        where = [self.world.nodes[client_id] for client_id in row["clients"]]
        least, most = kind.get("minHosts", 1), kind.get("maxHosts", 1)
        if len(set(row["clients"])) != len(where) or not least <= len(where) <= max(least, most):
            yield f"job {row['job']} wants {least} to {most} clients and got {row['clients']}"
        for node in where:
            if node not in able:
                yield f"job {row['job']} {kind.spec} was placed on {node}, which does not take it"
            elif node not in free:
                yield f"job {row['job']} {kind.spec} was placed on {node.hostname}, which is full or held"
        if not kind.get("resources") and len(where) < min(most, len(free)):
            yield f"job {row['job']} got {len(where)} clients, but {len(free)} were free"

    def takes(self, node: Node, job_id: int, kind: Kind) -> bool:
        """Tell whether a client would take a job, were it idle."""
        return (
            not node.lost
            and not node.disabled
            and self._open(node)
            and node.rests_until_s <= self.world.now_s
            and kind.allows(node)
            and kind.get("cpus", 1) <= node.cpus
            and not self.blocked(node, kind.root)
        )

    def blocked(self, node: Node, root: int) -> bool:
        """Tell whether too many jobs of a root failed on a client."""
        count = 0
        for (job_id, client_id), failures in self.world.failed.items():
            if client_id == node.id and self.world.jobs[job_id].root == root:
                count += failures
        return count >= FAILURES

    def _open(self, node: Node) -> bool:
        rules = [rule for rule in node.rules if rule["enabled"]]
        local = self.world.clock.now().astimezone(BERLIN)
        minute, today = f"{local:%H:%M}", local.weekday()
        for rule in rules:
            if rule["type"] == "anytime":
                return True
            if rule["type"] == "idle" and node.idle_minutes >= rule["minutes"]:
                return True
            if rule["type"] == "time":
                tonight = rule["end"] <= rule["start"] and today in rule["days"] and minute >= rule["start"]
                last_night = rule["end"] <= rule["start"] and (today - 1) % 7 in rule["days"] and minute < rule["end"]
                if tonight or last_night or (today in rule["days"] and rule["start"] <= minute < rule["end"]):
                    return True
        return not rules

    def _limits(self, use: Use) -> Iterator[str]:
        for client_id, taken in use.clients.items():
            node = self.world.nodes[client_id]
            if taken.cpus > node.cpus:
                yield f"{taken.cpus} CPUs of {node} are in use"
            if taken.tags["single"] and taken.jobs > 1:
                yield f"{node.hostname} runs {taken.jobs} jobs, one of which wants it alone"
            for tag, count in taken.tags.items():
                if count > 1:
                    yield f"{node.hostname} runs {count} jobs tagged {tag}"
        for name, (maximum, _) in self.world.maxima.items():
            used = use.used(name)
            if used > maximum and used > self._used_before[name]:
                yield f"{used} of {maximum} {name} are in use, after {self._used_before[name]}"
            self._used_before[name] = used
