"""A random farm: clients with faults, jobs of every kind, and what people do to both. Time is turned by hand.

What it keeps of clients and jobs is what the oracle judges the scheduler by; none of it comes from `matching`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from hqueue.api import jobchanges
from hqueue.lifecycle import clients
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.runs import lose_client
from hqueue.live import LiveClient, LiveFarm
from hqueue.protocol import Identity, Listed, Orders, Report
from hqueue.schema import client, client_group, client_group_member, job, resource, run
from hqueue.views.farmview import FarmReader
from tests.storefarm import StoreFarm, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.store import Store
    from tests.fakes import FakeClock

TICK_S = 5
HOLD_AFTER_S = 60
FAILURES = 3
REFUSALS = 3
BERLIN = ZoneInfo("Europe/Berlin")
GROUPS = ("sim", "licht", "fx, nachts")
OVER = {"succeeded", "failed", "cancelled", "abandoned"}
PLATFORMS = ("linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-arm64")


@dataclass
class Held:
    """A run on a client."""

    job_id: int
    ends_at_s: float
    end: str  # exited well, exited badly, refused, unfit (refused for what the job asks), lost
    state: str = "running"
    wish: int = 0


@dataclass
class Node:
    """A client, as the oracle knows it."""

    id: int
    hostname: str
    cpus: int
    platform: str
    incarnation: int = 1
    groups: set[str] = field(default_factory=set)
    disabled: bool = False
    lost: bool = False
    condemned: bool = False
    terminating: bool = False
    forgotten: bool = False  # it has terminated
    idle_minutes: int = -1
    rules: list[dict[str, Any]] = field(default_factory=list)
    rests_until_s: float = 0.0
    rests: int = 0
    held: dict[str, Held] = field(default_factory=dict)

    @property
    def os(self) -> str:
        """Return its operating system."""
        return {"linux": "linux", "windows": "windows", "macos": "macosx"}[self.platform.split("-", maxsplit=1)[0]]


@dataclass
class Kind:
    """What a job was submitted with."""

    spec: dict[str, Any]
    allows: Callable[[Node], bool]
    root: int = 0
    starts: int = 0
    out: set[int] = field(default_factory=set)  # clients that cannot run it, and said so
    fails: float = 0.0  # how likely a run of it fails, more than others do
    is_unfit: bool = False  # no client can run it

    def get(self, name: str, default: Any = None) -> Any:
        """Return a property."""
        return self.spec.get(name, default)


class World:
    """A farm and its people; each of its `happen` methods is one thing that may happen between two ticks."""

    def __init__(self, store: Store, clock: FakeClock, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = clock
        config = settings(
            hold_after_s=str(HOLD_AFTER_S),
            rescue_abandoned_minutes="1",
            max_client_failures=str(FAILURES),
            max_refusals=str(REFUSALS),
        )
        self.farm = StoreFarm(store, clock, config, FarmReader(LiveFarm(clock), clock, BERLIN))
        self.nodes: dict[int, Node] = {}
        self.jobs: dict[int, Kind] = {}
        self.maxima: dict[str, tuple[int, bool]] = {}
        self.failed: dict[tuple[int, int], int] = {}  # by job and client, since the job was last rescheduled
        self.refused: set[tuple[int, int]] = set()  # likewise
        self.longest_s = self.chance.choice([20, 60, 200])
        self.calm = False  # nothing fails any more
        self.broken = 1 if seed % 5 == 3 else 0  # a client on which most jobs fail
        self.is_troubled = seed % 4 == 2  # clients are blocked for scenes, and asked in vain
        for number in range(max(self.chance.randint(2, 7), 4 if self.is_troubled else 0)):
            self.add_node(number)
        for name, per_machine in (("nuke", False), ("render", True)):
            self.maxima[name] = (self.chance.randint(1, 4), per_machine)
            self.farm.resource(name, self.maxima[name][0], per_machine=per_machine)
        self.farm.write(
            lambda session: session.connection.execute(sa.insert(client_group), [{"name": name} for name in GROUPS])
        )
        for node in self.nodes.values():
            for name in GROUPS:
                if self.chance.random() < 0.5:
                    self.join(node, name)

    @property
    def now_s(self) -> float:
        """Return the time."""
        return self.clock.monotonic()

    def statuses(self) -> dict[int, str]:
        """Return the status of every job."""
        with self.farm.store.reading() as connection:
            return {row.id: row.status for row in connection.execute(sa.select(job.c.id, job.c.status))}

    # Clients

    def add_node(self, number: int) -> None:
        """Let a machine join."""
        node = Node(0, f"host{number}", self.chance.choice([1, 2, 4, 4, 8]), self.chance.choice(PLATFORMS))
        self.register(node)
        self.nodes[node.id] = node

    def register(self, node: Node) -> None:
        """Let a client say that it is there."""
        identity = Identity(
            hostname=node.hostname,
            key=f"key-{node.hostname}",
            incarnation=node.incarnation,
            port=5001,
            cpus=node.cpus,
            platform=node.platform,
            version="1",
            cpu_speed_mhz=3000.0,
        )
        with self.farm.store.writing(durable=False) as session:
            node.id = clients.register(session, identity, "127.0.0.1")
        node.lost = node.condemned = node.terminating = node.forgotten = False
        self.farm.live_farm.enter(LiveClient(node.id, node.hostname, identity.key, node.incarnation))

    def join(self, node: Node, group: str) -> None:
        """Make a client a member of a group."""
        key = sa.select(client_group.c.id).where(client_group.c.name == group).scalar_subquery()
        values = {"group_id": key, "client_id": node.id}
        self.farm.write(lambda session: session.connection.execute(sa.insert(client_group_member).values(values)))
        node.groups.add(group)

    def leave(self, node: Node, group: str) -> None:
        """Take a client out of a group."""
        key = sa.select(client_group.c.id).where(client_group.c.name == group).scalar_subquery()
        member = client_group_member.c
        gone = sa.delete(client_group_member).where(member.group_id == key, member.client_id == node.id)
        self.farm.write(lambda session: session.connection.execute(gone))
        node.groups.discard(group)

    def change(self, node: Node, **values: Any) -> None:
        """Change a client's row."""
        query = sa.update(client).where(client.c.id == node.id).values(values)
        self.farm.write(lambda session: session.connection.execute(query))

    def vanish(self, node: Node) -> None:
        """Let the server lose a client."""
        node.lost = True
        self.farm.live_farm.leave(node.id)
        self.farm.write(lambda session: lose_client(session, node.id, node.hostname))

    def come_back(self, node: Node) -> None:
        """Let a client start anew."""
        node.incarnation += 1
        self.register(node)

    def beat(self) -> None:
        """Let every client report what it has to report, and take what it is told."""
        with self.farm.store.writing(durable=False) as session:
            for node in self.nodes.values():
                if not node.lost and not node.forgotten:
                    self._beat(session, node)
                    if node.terminating and not node.held:
                        clients.forget(session, node.id)
                        self.farm.live_farm.leave(node.id)
                        node.forgotten = True
        for node in self.nodes.values():
            live = self.farm.live_farm.clients.get(node.id)
            if live is not None:
                live.seen_at_s, live.idle_minutes = self.now_s, node.idle_minutes

    def _beat(self, session: Any, node: Node) -> None:
        reports = []
        for token, held in list(node.held.items()):
            if held.state == "running" and held.ends_at_s <= self.now_s:
                reports.append(self._ended(session, node, token, held))
        for _ in range(3):
            clients.take_reports(session, node.id, node.hostname, reports)
            listing = [Listed(token, held.state, held.wish, 1.0, 1, None) for token, held in sorted(node.held.items())]
            clients.take_listing(session, node.id, node.hostname, listing)
            orders = clients.orders(session.connection, node.id, listing)
            if not (orders.assignments or orders.wishes):
                return
            reports = self._obey(node, orders)

    def _obey(self, node: Node, orders: Orders) -> list[Report]:
        reports = []
        for order in orders.wishes:
            held = node.held.get(order.token)
            if held is None:
                continue
            held.wish = order.number
            if order.wish == "die":
                del node.held[order.token]
                reports.append(Report(order.token, "killed", kill_reason=order.reason, exit_code=0))
            else:
                held.state = "halted" if order.wish == "halt" else "running"
        for order in orders.assignments:
            node.held[order.token] = self._begin(node, order.job_id)
        return reports

    def _begin(self, node: Node, job_id: int) -> Held:
        lasts_s = self.chance.uniform(1, self.longest_s)
        if node.id == self.broken and not self.calm and self.chance.random() < 0.8:
            return Held(job_id, self.now_s + min(lasts_s, 10), "exited badly")
        kind = self.jobs[job_id]
        if (kind.is_unfit or (kind.fails and self.chance.random() < kind.fails)) and not self.calm:
            return Held(job_id, self.now_s + min(lasts_s, 10), "unfit" if kind.is_unfit else "exited badly")
        ends = ["exited well"] * 17 + (
            [] if self.calm else ["exited badly", "exited badly", "refused", "unfit", "lost"]
        )
        return Held(job_id, self.now_s + lasts_s, self.chance.choice(ends))

    def _ended(self, session: Any, node: Node, token: str, held: Held) -> Report:
        del node.held[token]
        # A run that its job was taken from meanwhile says nothing of the job.
        query = sa.select(job.c.id).join(run, run.c.id == job.c.run_id).where(run.c.token == token)
        current = session.connection.execute(query).first() is not None
        if held.end == "refused" and self.now_s >= node.rests_until_s:
            node.rests = 1 if self.now_s > node.rests_until_s + 300 else node.rests + 1
            node.rests_until_s = self.now_s + min(10 * 2 ** (node.rests - 1), 300)
        if held.end == "exited badly" and current:
            key = (held.job_id, node.id)
            self.failed[key] = self.failed.get(key, 0) + 1
        if held.end == "refused" and current:
            self.refused.add((held.job_id, node.id))
        if held.end == "unfit":
            if current:
                self.jobs[held.job_id].out.add(node.id)
            return Report(token, "refused", fault="job", message="Argument list too long")
        word, _, how = held.end.partition(" ")
        return Report(token, word, exit_code=1 if how == "badly" else 0, seconds=2.0)

    # Jobs

    def kind(self, **fixed: Any) -> Kind:
        """Return a random job."""
        chance = self.chance
        spec: dict[str, Any] = {"name": "Bild", "command": "x", "priority": chance.choice([0, 0, 0, 1, 2, 5])}
        allows: list[Callable[[Node], bool]] = []
        roll = chance.random()
        if roll < 0.15:
            group = chance.choice(GROUPS)
            spec["hostgroup"] = group
            allows.append(lambda node: group in node.groups)
        elif roll < 0.25:
            names = chance.sample([f"HOST{number}" for number in range(8)], 3)
            op = chance.choice(["in", "not_in"])
            spec["conditions"] = [{"type": "client", "name": "hostname", "op": op, "value": ",".join(names)}]
            allows.append(lambda node: (node.hostname.upper() in names) == (op == "in"))
        elif roll < 0.3:
            spec["conditions"] = [{"type": "client", "name": "os", "op": "!=", "value": "macos"}]
            allows.append(lambda node: node.os != "macosx")
        if chance.random() < 0.1:
            systems = chance.sample(["linux", "windows", "macosx"], chance.randint(1, 2))
            spec["command"] = dict.fromkeys(systems, "x")
            allows.append(lambda node: node.os in systems)
        if chance.random() < 0.2:
            spec["cpus"] = chance.choice([2, 2, 3, 4, 8])
        if chance.random() < 0.15:
            spec["tags"] = [chance.choice(["single", "single:x", "single:y", "nacht"])]
        if chance.random() < 0.15:
            name = chance.choice(["nuke", "render"])
            spec["resources"] = {name: chance.randint(1, 3)}
        if chance.random() < 0.07:
            spec["minHosts"] = chance.randint(1, 3)
            spec["maxHosts"] = spec["minHosts"] + chance.randint(0, 2)
        if chance.random() < 0.3:
            spec["triesLeft"] = chance.randint(1, 3)
        return Kind(spec | fixed, lambda node: all(each(node) for each in allows))

    def submit(self, *kinds: Kind, under: int | None = None) -> list[int]:
        """Submit jobs."""
        ids = self.farm.submit([kind.spec for kind in kinds], under)
        for job_id, kind in zip(ids, kinds, strict=True):
            kind.root = self.jobs[under].root if under else job_id
            self.jobs[job_id] = kind
        return ids

    # What may happen

    def happen_submission(self) -> None:
        """Submit some jobs alike, or below one."""
        kind = self.kind()
        kinds = [Kind(kind.spec, kind.allows) for _ in range(self.chance.randint(1, 6))]
        if self.chance.random() < 0.5:
            self._submit_scene(kinds)
        else:
            self.submit(*kinds)

    def happen_troubled_scene(self) -> None:
        """Submit a scene whose frames fail so often that clients are blocked for it, with some that nobody can run."""
        frame = {"name": "Bild", "command": "x", "triesLeft": 3}
        fails = self.chance.choice([0.5, 0.8])
        kinds = [Kind(frame, lambda _: True, fails=fails) for _ in range(self.chance.randint(6, 12))]
        self._submit_scene([Kind(frame, lambda _: True, is_unfit=True), *kinds])

    def _submit_scene(self, kinds: list[Kind]) -> None:
        """Submit jobs below one, all together: a job without children would be done before they come."""
        parent = Kind({"name": "Szene"}, lambda _: True)
        ids = self.farm.submit(parent.spec | {"children": [each.spec for each in kinds]})
        for job_id, each in zip(ids, [parent, *kinds], strict=True):
            each.root = ids[0]
            self.jobs[job_id] = each

    def happen_late_frame(self) -> None:
        """Submit a frame below a scene that is there."""
        statuses = self.statuses()
        roots = [key for key, kind in self.jobs.items() if kind.root == key and statuses[key] == "queued"]
        if roots:
            root = self.chance.choice(roots)
            kind = self.kind()
            kind.spec.setdefault("conditions", [{"type": "client", "name": "hostname", "op": "!=", "value": ""}])
            if "hostgroup" in kind.spec:
                del kind.spec["conditions"]
            self.submit(kind, under=root)

    def happen_switch(self) -> None:
        """Disable or enable a client."""
        node = self.chance.choice(list(self.nodes.values()))
        node.disabled = not node.disabled and self.chance.random() < 0.6
        self.change(node, disabled=node.disabled)

    def happen_group(self) -> None:
        """Change who is in a group."""
        node, group = self.chance.choice(list(self.nodes.values())), self.chance.choice(GROUPS)
        (self.leave if group in node.groups else self.join)(node, group)

    def happen_rules(self) -> None:
        """Give a client hours, or none."""
        node = self.chance.choice(list(self.nodes.values()))
        local = self.clock.now().astimezone(BERLIN)
        start, end = (local + timedelta(minutes=self.chance.randint(-3, 4)) for _ in range(2))
        rule = self.chance.choice(
            [
                {"type": "anytime", "enabled": self.chance.random() < 0.5},
                {"type": "idle", "minutes": 5, "enabled": self.chance.random() < 0.7},
                {
                    "type": "time",
                    "days": sorted(self.chance.sample(range(7), 4)),
                    "start": f"{start:%H:%M}",
                    "end": f"{end:%H:%M}",
                    "enabled": self.chance.random() < 0.7,
                },
            ]
        )
        node.rules = self.chance.choice([[], [rule]])
        self.change(node, rules_json=json.dumps(node.rules))

    def happen_somebody_sits_down(self) -> None:
        """Change how long nobody has touched a machine."""
        self.chance.choice(list(self.nodes.values())).idle_minutes = self.chance.choice([-1, 0, 5, 60])

    def happen_loss(self) -> None:
        """Lose a client, or let it come back, with what it held or without."""
        node = self.chance.choice(list(self.nodes.values()))
        if node.lost:
            if self.chance.random() < 0.5:
                node.held.clear()
            self.come_back(node)
        elif not node.forgotten and self.chance.random() < 0.4:
            self.vanish(node)

    def happen_condemnation(self) -> None:
        """Let a process refuse to die on a client, or die after all."""
        node = self.chance.choice(list(self.nodes.values()))
        if not node.lost and not node.forgotten:
            node.condemned = not node.condemned and self.chance.random() < 0.4
            why = "a process would not die" if node.condemned else ""
            self.farm.write(lambda session: clients.condemn(session, node.id, node.hostname, why))

    def happen_termination(self) -> None:
        """Let a client finish what it runs and go, or start it again."""
        node = self.chance.choice(list(self.nodes.values()))
        if node.forgotten:
            self.come_back(node)
        elif not node.lost and not node.terminating and self.chance.random() < 0.4:
            node.terminating = True
            self.change(node, terminating=True)

    def happen_resource(self) -> None:
        """Set a maximum."""
        name = self.chance.choice(list(self.maxima))
        self.maxima[name] = (self.chance.randint(1, 5), self.maxima[name][1])
        query = sa.update(resource).where(resource.c.name == name).values(maximum=self.maxima[name][0])
        self.farm.write(lambda session: session.connection.execute(query))

    def happen_priority(self) -> None:
        """Change a priority."""
        if self.jobs:
            job_id, priority = self.chance.choice(list(self.jobs)), self.chance.choice([0, 1, 3, 7])
            self.farm.write(lambda session: jobchanges._set_priority(session, [job_id], priority))

    def happen_action(self) -> None:
        """Do something to a job, and what is below it."""
        if not self.jobs:
            return
        job_id = self.chance.choice(list(self.jobs)[-40:])
        action = self.chance.choice([Action.CANCEL, Action.PAUSE, Action.RESUME, Action.EJECT, Action.RESCHEDULE])
        before = self.statuses()
        self.farm.act(action, job_id)
        if action is Action.RESCHEDULE:
            after = self.statuses()
            for key, status in before.items():
                if status in OVER and after[key] not in OVER:
                    self.forget(key)

    def forget(self, job_id: int) -> None:
        """Forget where a job failed."""
        for node_id in self.nodes:
            self.failed.pop((job_id, node_id), None)
            self.refused.discard((job_id, node_id))
        self.jobs[job_id].out.clear()

    def failures_below(self, root: int) -> Counter[int]:
        """Return how often jobs of a root failed, by client."""
        found: Counter[int] = Counter()
        for (job_id, client_id), count in self.failed.items():
            if self.jobs[job_id].root == root:
                found[client_id] += count
        return found

    def until_next_end_s(self) -> float:
        """Return how long it is until the next run ends by itself."""
        ends = [held.ends_at_s for node in self.nodes.values() for held in node.held.values()]
        return max(0.0, min(ends, default=self.now_s) - self.now_s)

    def settle_down(self) -> None:
        """Let everything be well from now on."""
        self.calm = True
        for node in self.nodes.values():
            node.rules, node.disabled = [], False
            self.change(node, rules_json="[]", disabled=False)
            if node.lost or node.condemned or node.terminating:
                self.come_back(node)
            for held in node.held.values():
                held.end = "exited well"
        self.farm.act(Action.RESUME, *self.jobs)
