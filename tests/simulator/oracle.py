"""What must hold after every tick, in the plainest way, from what the world knows; none of it is `matching`."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue.schema import job, reservation, run
from tests.simulator.world import BERLIN, FAILURES, REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from tests.simulator.world import Kind, Node, World


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

    def has_units(self, kind: Kind, nodes: Sequence[Node], kept: Counter[str]) -> bool:
        """Tell whether there is enough of everything for a job on these clients, besides what is kept for others."""
        for name, amount in kind.get("resources", {}).items():
            maximum, per_machine = self._world.maxima[name]
            more = sum(max(0, amount - self.clients[node.id].units[name]) for node in nodes) if per_machine else amount
            if more and self.used(name) + kept[name] + more > maximum:
                return False
            if self.used(name) > maximum:  # it was lowered, and drains
                return False
        return True

    def best_supplied(self, kind: Kind, nodes: Iterable[Node]) -> list[Node]:
        """Return clients, first those that hold the most of what a job wants."""
        return sorted(
            nodes,
            key=lambda node: sum(
                max(0, amount - self.clients[node.id].units[name])
                for name, amount in kind.get("resources", {}).items()
                if self._world.maxima[name][1]
            ),
        )

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
        self._earlier: dict[int, set[int]] = {}  # where jobs that are placed have been before

    def judge(self) -> None:
        """Fail with every sentence that does not hold after a tick."""
        wrong = list(self._wrong())
        assert not wrong, "\n".join(wrong)

    def _wrong(self) -> Iterator[str]:
        alive, waiting = self._read()
        fresh = sorted((row for row in alive if row["id"] > self._seen), key=lambda row: row["rank"])
        self._seen = max((row["id"] for row in alive), default=self._seen)
        use, new = Use(self.world), {row["id"] for row in fresh}
        self._earlier = self._clients_before([row["job"] for row in fresh], new)
        for row in alive:
            if row["id"] not in new:
                use.add(row["kind"], row["clients"], fenced=row["fenced"])
        farm = self.working()
        yield from self._holds(farm, waiting)
        yield from self._in_order(use, farm, fresh, waiting)
        yield from self._limits(use)

    def _clients_before(self, job_ids: list[int], new: set[int]) -> dict[int, set[int]]:
        """Return the clients on which some jobs have had runs before."""
        found: dict[int, set[int]] = {job_id: set() for job_id in job_ids}
        if job_ids:
            with self.world.farm.store.reading() as connection:
                query = sa.select(run.c.id, run.c.job_id, run.c.client_id).where(run.c.job_id.in_(job_ids))
                for row in connection.execute(query):
                    if row.id not in new:
                        found[row.job_id].add(row.client_id)
        return found

    def _holds(self, farm: list[Node], waiting: list[Any]) -> Iterator[str]:
        """Look at what is kept: for jobs that wait, all the clients they need or none, each for one job."""
        ids = {row.id for row in waiting}
        held: set[int] = set()
        for job_id, hold in self.world.farm.live_farm.holds.items():
            kind = self.world.jobs[job_id]
            able = {node.id for node in self.able(farm, kind)}
            if job_id not in ids:
                yield f"something is kept for job {job_id}, which does not wait"
            elif hold.clients and (len(hold.clients) != kind.get("minHosts", 1) or not able.issuperset(hold.clients)):
                yield f"clients {hold.clients} are kept for job {job_id} {kind.spec}, of {able} that would do"
            if not held.isdisjoint(hold.clients):
                yield f"clients {hold.clients} are kept for job {job_id}, some of them for another, too"
            held.update(hold.clients)

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

    def _in_order(self, use: Use, farm: list[Node], fresh: list[dict[str, Any]], waiting: list[Any]) -> Iterator[str]:
        """Follow the queue: each job that was given a place could take it; each that waits found none in its turn."""
        holds = list(self.world.farm.live_farm.holds.values())
        line = [(row["rank"], row) for row in fresh]
        line += [((-row.priority, row.root_id, row.id), None) for row in waiting]
        for rank, row in sorted(line, key=lambda each: each[0]):
            kind = self.world.jobs[rank[2]]
            before = [hold for hold in holds if hold.rank < rank]
            held = {client_id for hold in before for client_id in hold.clients}
            kept: Counter[str] = Counter()
            for hold in before:
                kept.update(dict(hold.units))
            able = self.able(farm, kind)
            free = [node for node in able if use.has_room(kind, node) and node.id not in held]
            free = use.best_supplied(kind, [node for node in free if use.has_units(kind, [node], kept)])
            if len(kind.out) >= REFUSALS:
                yield f"job {rank[2]} goes on, but {len(kind.out)} clients said that they cannot run it"
            if row is None:
                yield from self._waits_rightly(rank[2], kind, use, free, kept)
                continue
            kind.starts += 1
            yield from self._placed_rightly(row, kind, use, able, free, kept)
            use.add(kind, row["clients"])

    def _waits_rightly(self, job_id: int, kind: Kind, use: Use, free: list[Node], kept: Counter[str]) -> Iterator[str]:
        least = kind.get("minHosts", 1)
        if len(free) >= least and use.has_units(kind, free[:least], kept):
            names = ", ".join(node.hostname for node in free)
            yield f"job {job_id} {kind.spec} waits, but {names} had room when it was its turn"

    def _placed_rightly(
        self, row: dict[str, Any], kind: Kind, use: Use, able: list[Node], free: list[Node], kept: Counter[str]
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
        if not use.has_units(kind, where, kept):
            yield f"job {row['job']} {kind.spec} was placed, but there is not enough of what it wants"
        if len(where) < min(most, len(free)) and use.has_units(kind, free[: len(where) + 1], kept):
            yield f"job {row['job']} got {len(where)} clients, but {len(free)} were free"
        yield from self._chosen_rightly(row["job"], kind, use, where[0], free)

    def _chosen_rightly(self, job_id: int, kind: Kind, use: Use, where: Node, free: list[Node]) -> Iterator[str]:
        """Say what is wrong with the one client that a job got, where it could have had others."""
        if kind.get("maxHosts", 1) > 1:
            return
        failures = self.world.failures_below(kind.root)
        if failures[where.id] >= FAILURES:
            best = min(free, key=lambda node: ((failures[node.id] // FAILURES).bit_length(), node.id))
            if where is not best:
                yield f"job {job_id} got {where.hostname}, but jobs of its root failed less often on {best.hostname}"
            return
        rivals = [node for node in free if node.id not in self._earlier[job_id]]
        if where not in rivals:
            wrong = self.world.failed.get((job_id, where.id)) or (job_id, where.id) in self.world.refused
            if rivals and wrong:
                names = ", ".join(node.hostname for node in rivals)
                yield f"job {job_id} got {where.hostname}, where it went wrong, but {names} had room"
            return
        if "single" in kind.get("tags", []):
            if where.cpus < max(node.cpus for node in rivals):
                yield f"job {job_id} got {where.hostname} to itself, but a larger one was idle"
        else:
            idle = {node.id: node.cpus - use.clients[node.id].cpus for node in rivals}
            if idle[where.id] > min(idle.values()):
                yield f"job {job_id} got {where.hostname}, but one had fewer idle CPUs: {idle}"

    def working(self) -> list[Node]:
        """Return the clients that take work."""
        local = self.world.clock.now().astimezone(BERLIN)
        now_s = self.world.now_s
        return [
            node
            for node in self.world.nodes.values()
            if not (node.lost or node.disabled or node.condemned or node.terminating or node.forgotten)
            and node.rests_until_s <= now_s
            and _open(node, local)
        ]

    def able(self, nodes: Iterable[Node], kind: Kind) -> list[Node]:
        """Return those of some clients that would take a job, were they idle.

        Failures count only while clients are left without too many, off as they may be.
        """
        failures, known = self.world.failures_below(kind.root), self._fit(kind)
        well = [node for node in known if failures[node.id] < FAILURES]
        able = {node.id for node in (well if len(well) >= kind.get("minHosts", 1) else known)}
        return [node for node in nodes if node.id in able]

    def _fit(self, kind: Kind) -> list[Node]:
        """Return the known clients that are what a job needs."""
        known = (node for node in self.world.nodes.values() if not node.forgotten and node.id not in kind.out)
        return [node for node in known if kind.get("cpus", 1) <= node.cpus and kind.allows(node)]

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


def _open(node: Node, local: datetime) -> bool:
    """Tell whether a client is to be used at this hour."""
    rules = [rule for rule in node.rules if rule["enabled"]]
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
