"""A farm without a network: a store, a scheduler, and clients that the test plays step by step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hqueue import jobspec
from hqueue.config import ServerConfig, load_server_config
from hqueue.lifecycle import bulk as actions
from hqueue.lifecycle import clients
from hqueue.lifecycle.bulk import Action
from hqueue.lifecycle.repair import repair
from hqueue.lifecycle.runs import Placement, assign, lose_client
from hqueue.lifecycle.status import apply
from hqueue.lifecycle.submission import submit
from hqueue.live import LiveClient, LiveFarm, LiveRun
from hqueue.protocol import Identity, Listed, Report
from hqueue.scheduler import Scheduler
from hqueue.schema import bulk, bulk_job, client, event, job, job_edge, job_row, resource, run
from hqueue.states import Cause, JobEvent
from hqueue.views.farmview import FarmReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hqueue.protocol import Orders, Wish
    from hqueue.scheduler import TickCounts
    from hqueue.store import Session, Store
    from tests.fakes import FakeClock


@functools.cache
def settings(**overrides: str) -> ServerConfig:
    """Return a configuration: the defaults, and what is given as in the ini file."""
    return load_server_config(None, overrides, environ={})


class StoreFarm:
    """What a test does with a store."""

    def __init__(
        self,
        store: Store,
        clock: FakeClock,
        config: ServerConfig | None = None,
        reader: FarmReader | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.config = config or settings()
        store.policy = self.config.policy
        self.reader = reader or FarmReader(LiveFarm(clock), clock)
        self.live_farm = self.reader.live_farm
        self.scheduler = Scheduler(store, self.reader, clock, self.config)
        self.machines: list[Machine] = []

    # Jobs

    def submit(self, spec: Any, parent_id: int | None = None, child_ids: Sequence[int] = ()) -> list[int]:
        """Submit jobs and return their ids."""
        graph = jobspec.parse(spec, max_depth=1000)
        with self.store.writing() as session:
            return submit(session, graph, parent_id, child_ids)

    def add(self, name: str = "Szene-ä", parent: int | None = None, children: Sequence[int] = (), **more: Any) -> int:
        """Submit one job with a command and return its id; `command=None` leaves it without one."""
        command = more.pop("command", "render")
        spec = {"name": name, **more} | ({"command": command} if command else {})
        return self.submit(spec, parent, children)[0]

    def apply(self, event: JobEvent, *job_ids: int, cause: Cause | None = None) -> int:
        """Let something happen to jobs."""
        with self.store.writing() as session:
            return apply(session, event, job_ids, cause)

    def act(self, action: Action, *job_ids: int, finish: bool = True) -> None:
        """Ask something of jobs, and of what is below them when `finish` is true."""
        with self.store.writing() as session:
            actions.act(session, action, job_ids)
        if finish:
            self.finish_bulk()

    def step(self) -> bool:
        """Carry the oldest wish a step on."""
        with self.store.writing() as session:
            return actions.step(session)

    def finish_bulk(self, at_most: int = 100_000) -> int:
        """Carry all wishes out; return how many steps that took."""
        for steps in range(at_most):
            if not self.step():
                return steps
        raise AssertionError(f"wishes are not done after {at_most} steps")

    def repair(self) -> list[str]:
        """Do what a start does."""
        with self.store.writing() as session:
            return repair(session)

    def write(self, function: Callable[[Session], Any]) -> Any:
        """Do something in a transaction."""
        with self.store.writing() as session:
            return function(session)

    def job(self, job_id: int) -> Any:
        """Return a job's row."""
        with self.store.reading() as connection:
            return connection.execute(sa.select(job).where(job.c.id == job_id)).one()

    def exists(self, job_id: int) -> bool:
        """Tell whether there is such a job."""
        with self.store.reading() as connection:
            return connection.execute(sa.select(job.c.id).where(job.c.id == job_id)).first() is not None

    def status(self, job_id: int) -> str:
        """Return a job's status."""
        return str(self.job(job_id).status)

    def statuses(self, *job_ids: int) -> list[str]:
        """Return jobs' statuses."""
        return [self.status(job_id) for job_id in job_ids]

    def parents(self, job_id: int) -> list[int]:
        """Return the ids of a job's parents."""
        with self.store.reading() as connection:
            query = sa.select(job_edge.c.parent_id).where(job_edge.c.child_id == job_id)
            return sorted(connection.execute(query).scalars())

    def log(self, job_id: int) -> list[tuple[str, str, str]]:
        """Return a job's log: event, status, message."""
        with self.store.reading() as connection:
            query = sa.select(event.c.event, event.c.status, event.c.message).where(event.c.job_id == job_id)
            return [tuple(row) for row in connection.execute(query.order_by(event.c.seq))]

    def events(self, job_id: int) -> list[str]:
        """Return the names of what happened to a job."""
        return [name for name, _, _ in self.log(job_id)]

    def change(self, job_id: int, **values: Any) -> None:
        """Damage a job by hand, or put it into a state that would take long to reach."""
        with self.store.writing() as session:
            session.connection.execute(sa.update(job_row).where(job_row.c.id == job_id).values(**values))

    def runs(self, job_id: int) -> list[Any]:
        """Return a job's runs, oldest first."""
        with self.store.reading() as connection:
            return list(connection.execute(sa.select(run).where(run.c.job_id == job_id).order_by(run.c.id)))

    def run(self, job_id: int) -> Any:
        """Return a job's latest run."""
        return self.runs(job_id)[-1]

    def bulk_actions(self) -> int:
        """Return how many wishes are unfinished."""
        with self.store.reading() as connection:
            if connection.execute(sa.select(sa.func.count()).select_from(bulk)).scalar_one() == 0:
                assert connection.execute(sa.select(sa.func.count()).select_from(bulk_job)).scalar_one() == 0
                return 0
            return int(connection.execute(sa.select(sa.func.count()).select_from(bulk)).scalar_one())

    # Clients

    def machine(self, hostname: str = "farm-ü", cpus: int = 4, *, silent: bool = False, **more: Any) -> Machine:
        """Return a new client, registered unless it is to be silent."""
        made = Machine(self, hostname, cpus, **more)
        self.machines.append(made)
        if not silent:
            made.register()
        return made

    def client(self, client_id: int) -> Any:
        """Return a client's row."""
        with self.store.reading() as connection:
            return connection.execute(sa.select(client).where(client.c.id == client_id)).one()

    def resource(self, name: str, maximum: int | None, *, per_machine: bool = False) -> None:
        """Create a resource."""
        values = {"name": name, "maximum": maximum, "per_machine": per_machine}
        self.write(lambda session: session.connection.execute(sa.insert(resource).values(values)))

    def used(self) -> dict[str, int]:
        """Return what is in use of the resources, without those of which nothing is."""
        with self.store.reading() as connection:
            used = self.reader.read(connection).units.used
        return {name: count for name, count in used.items() if count}

    def tick(self) -> TickCounts:
        """Let the scheduler do what is due."""
        return self.scheduler.tick()

    def later(self, minutes: float, step_s: float = 9.0) -> int:
        """Let time pass while the server ticks, without a stall; return how many jobs were rescued."""
        rescued, left_s = self.tick().rescued, minutes * 60
        while left_s > 0:
            self.clock.advance(min(step_s, left_s))
            left_s -= step_s
            rescued += self.tick().rescued
        return rescued

    def start(self, job_id: int, machine: Machine) -> None:
        """Let a runnable job run on a machine, whatever the queue's order."""
        row = self.job(job_id)
        place = Placement(job_id, machine.id, row.requirement_id, 1)
        with self.store.writing() as session:
            assert assign(session, [place]) == 1
        machine.beat()


@dataclass
class Held:
    """A run as its client knows it."""

    job_id: int
    state: str = "running"
    wish: int = 0
    asked: Wish | None = None  # the wish to carry out next
    began_s: float = 0.0


@dataclass
class Machine:
    """A client; it carries wishes out only when the test says so."""

    farm: StoreFarm
    hostname: str
    cpus: int
    name: str = ""
    key: str = "schlüssel"
    incarnation: int = 1
    platform: str = "linux-x86_64"
    speed: float = 3000.0
    id: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    ended: dict[str, Report] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return what people call it."""
        return f"{self.hostname}:{self.name}" if self.name else self.hostname

    @property
    def jobs(self) -> list[int]:
        """Return the ids of the jobs that run here."""
        return sorted(held.job_id for held in self.held.values())

    def identity(self) -> Identity:
        """Return what it says of itself."""
        return Identity(
            hostname=self.hostname,
            name=self.name,
            key=self.key,
            incarnation=self.incarnation,
            port=5001,
            cpus=self.cpus,
            platform=self.platform,
            version="1.0.0",
            cpu_speed_mhz=self.speed,
            memory_kb=2**40,
            install_location="/opt/Häuser",
        )

    def register(self) -> int:
        """Register, as a starting or returning daemon does."""
        with self.farm.store.writing() as session:
            self.id = clients.register(session, self.identity(), "127.0.0.1")
        self.farm.live_farm.enter(LiveClient(self.id, self.label, self.key, self.incarnation))
        return self.id

    def listing(self) -> list[Listed]:
        """Return the runs it says it holds."""
        return [
            Listed(token, held.state, held.wish, self.ran_s(held), 4711, None)
            for token, held in sorted(self.held.items())
        ]

    def ran_s(self, held: Held) -> float:
        """Return how long a run has been at work."""
        return self.farm.clock.monotonic() - held.began_s

    def beat(self) -> Orders:
        """Send a heartbeat with what it holds and what ended; take what the answer brings, and list that at once."""
        reports = list(self.ended.values())
        with self.farm.store.writing() as session:
            clients.take_reports(session, self.id, self.label, reports)
            clients.take_listing(session, self.id, self.label, self.listing())
            orders = clients.orders(session.connection, self.id, self.listing())
        live = self.farm.live_farm.clients.get(self.id)
        if live is not None:
            live.seen_at_s = self.farm.clock.monotonic()
            for token, held in self.held.items():
                live.runs.setdefault(token, LiveRun(0, held.job_id))
            self.farm.live_farm.note_times(live, self.listing())
        self.ended.clear()
        for order in orders.wishes:
            if order.token in self.held:
                self.held[order.token].asked = order
        for order in orders.assignments:
            self.held[order.token] = Held(order.job_id, began_s=self.farm.clock.monotonic())
        if orders.assignments:
            self.beat()
        return orders

    def token(self, job_id: int) -> str:
        """Return the token of the run of a job that it holds."""
        return next(token for token, held in self.held.items() if held.job_id == job_id)

    def end(self, job_id: int, exit_code: int = 0, **more: Any) -> None:
        """Report that a command ended by itself."""
        self.report(self.token(job_id), "exited", exit_code=exit_code, **more)

    def refuse(self, job_id: int) -> None:
        """Report that it will not run a job."""
        self.report(self.token(job_id), "refused", message="the disk is full")

    def lose(self, job_id: int) -> None:
        """Report that it has lost a run."""
        self.report(self.token(job_id), "lost", message="the machine was restarted")

    def report(self, token: str, outcome: str, **more: Any) -> None:
        """Report how a run ended."""
        held = self.held.pop(token, None)
        seconds = self.ran_s(held) if held else 0.0
        self.ended[token] = Report(token, outcome, **{"seconds": seconds, **more})
        self.beat()

    def obey(self, *, beat: bool = True) -> None:
        """Carry out what it was asked, and confirm it."""
        for token, held in list(self.held.items()):
            if held.asked is None:
                continue
            order, held.asked = held.asked, None
            if order.wish == "die":
                del self.held[token]
                self.ended[token] = Report(token, "killed", kill_reason=order.reason, exit_code=0)
            else:
                held.state = "halted" if order.wish == "halt" else "running"
                held.wish = order.number
        if beat:
            self.beat()

    def vanish(self) -> int:
        """Let the server lose it."""
        self.farm.live_farm.leave(self.id)
        with self.farm.store.writing() as session:
            return lose_client(session, self.id, self.label)

    def come_back(self) -> None:
        """Register again after having been lost, with everything it holds."""
        self.incarnation += 1
        self.register()
        self.beat()

    def reboot(self) -> None:
        """Come back without any run."""
        self.held.clear()
        self.ended.clear()
        self.come_back()


def put(farm: StoreFarm, situation: str, machine: Machine) -> int:
    """Return a new job in a situation, as SPEC 4.2 names the columns of its table; settled ones by their status."""
    if situation == "queued":
        parent, _ = farm.submit({"name": "Eltern", "command": "encode", "children": [{"name": "K", "command": "x"}]})
        return parent
    job_id = farm.add(situation)
    if situation == "runnable":
        return job_id
    if situation == "paused, no run":
        farm.act(Action.PAUSE, job_id)
        return job_id
    farm.start(job_id, machine)
    _ON_ITS_WAY[situation](farm, machine, job_id)
    return job_id


def _apply(farm: StoreFarm, event: JobEvent, job_id: int) -> None:
    farm.apply(event, job_id)


def _halted(farm: StoreFarm, machine: Machine, job_id: int) -> None:
    farm.apply(JobEvent.PAUSE, job_id)
    machine.beat()
    machine.obey()


def _resuming(farm: StoreFarm, machine: Machine, job_id: int) -> None:
    _halted(farm, machine, job_id)
    farm.apply(JobEvent.RESUME, job_id)


def _abandoned(farm: StoreFarm, machine: Machine, job_id: int) -> None:
    token = machine.token(job_id)
    with farm.store.writing() as session:
        session.connection.execute(sa.update(run).where(run.c.token == token).values(abandoned_at=session.now_ms))
        apply(session, JobEvent.CLIENT_LOST, [job_id])


def _cancelled(farm: StoreFarm, machine: Machine, job_id: int) -> None:
    farm.apply(JobEvent.CANCEL, job_id)
    machine.beat()
    machine.obey()


_ON_ITS_WAY: dict[str, Callable[[StoreFarm, Machine, int], None]] = {
    "running": lambda farm, machine, job_id: None,
    "pausing": lambda farm, machine, job_id: _apply(farm, JobEvent.PAUSE, job_id),
    "paused, run": _halted,
    "resuming": _resuming,
    "ejecting": lambda farm, machine, job_id: _apply(farm, JobEvent.EJECT, job_id),
    "abandoned": _abandoned,
    "succeeded": lambda farm, machine, job_id: machine.end(job_id, 0),
    "failed": lambda farm, machine, job_id: machine.end(job_id, 3),
    "cancelled": _cancelled,
}
