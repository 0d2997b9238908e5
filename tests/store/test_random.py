"""Anything, in any order: after every step the store makes sense, and in the end every job gets settled."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hqueue.errors import CyclicGraphError, JobStateError
from hqueue.lifecycle.bulk import Action
from hqueue.schema import client, job
from hqueue.states import SETTLED
from hqueue.store import Store
from tests.fakes import FakeClock
from tests.invariants import check_invariants
from tests.storefarm import Machine, StoreFarm
from tests.storefarm import settings as farm_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Databases

# HQ_TEST_EXAMPLES=500 searches on for some minutes.
EXAMPLES = int(os.environ.get("HQ_TEST_EXAMPLES") or settings().max_examples // 8)
# Making a failing example smaller takes minutes, and is worth them once there is one.
PHASES = [Phase.explicit, Phase.generate, *([Phase.shrink] if "HQ_TEST_SHRINK" in os.environ else [])]
OUTCOMES = ("well", "badly", "signal", "refused", "lost")

_leaf = st.fixed_dictionaries(
    {"name": st.sampled_from(["Bild", "影像", "κύβος"])},
    optional={
        "command": st.just("render"),
        "triesLeft": st.integers(1, 2),
        "cpus": st.integers(1, 2),
        "priority": st.integers(0, 2),
        "tags": st.sampled_from([["single"], ["single:x"], ["single:x", "nacht"]]),
    },
)
_tree = st.recursive(
    _leaf,
    lambda inner: st.tuples(_leaf, st.lists(inner, max_size=3)).map(lambda pair: {**pair[0], "children": pair[1]}),
    max_leaves=5,
)
_choice = st.integers(0, 10_000)


class AnyOrder(RuleBasedStateMachine):
    """A farm of two machines to which everything happens that can happen."""

    new_url: Callable[[], str]  # of a migrated store without a job

    def __init__(self) -> None:
        super().__init__()
        self.url = type(self).new_url()
        self.clock = FakeClock(auto=True)
        self.open()
        self.farm.machine("farm01", cpus=3)
        self.farm.machine("farm02", cpus=2)

    def open(self) -> None:
        self.store = Store(self.url, clock=self.clock)
        self.store.open()
        self.farm = StoreFarm(self.store, self.clock, farm_settings(rescue_abandoned_minutes="0.1"))

    def teardown(self) -> None:
        try:
            self.settle_everything()
        finally:
            self.store.close()

    # What there is

    def all_jobs(self) -> dict[int, str]:
        with self.store.reading() as connection:
            return {
                row.id: row.status for row in connection.execute(sa.select(job.c.id, job.c.status).order_by(job.c.id))
            }

    def pick(self, choices: list[int]) -> list[int]:
        known = list(self.all_jobs())
        return list(dict.fromkeys(known[-1 - choice % min(len(known), 12)] for choice in choices)) if known else []

    def known(self, machine: Machine) -> bool:
        with self.store.reading() as connection:
            row = connection.execute(sa.select(client.c.lost, client.c.key).where(client.c.id == machine.id)).one()
        return not row.lost and row.key == machine.key

    # What people do

    @initialize(spec=_tree)
    def first(self, spec: dict[str, Any]) -> None:
        self.farm.submit(spec)

    @rule(spec=st.one_of(_tree, st.lists(_tree, min_size=1, max_size=2)))
    def submit(self, spec: Any) -> None:
        self.farm.submit(spec)

    @rule(spec=_tree, parent=_choice, children=st.lists(_choice, max_size=2))
    def submit_into(self, spec: Any, parent: int, children: list[int]) -> None:
        parents = self.pick([parent])
        # Where it is refused, the invariants tell whether anything was left behind.
        with contextlib.suppress(JobStateError, CyclicGraphError):
            self.farm.submit(spec, parents[0] if parents else None, self.pick(children))

    @rule(spec=_leaf, parents=st.lists(_choice, min_size=1, max_size=3), children=st.lists(_choice, max_size=2))
    def submit_between(self, spec: Any, parents: list[int], children: list[int]) -> None:
        with contextlib.suppress(JobStateError, CyclicGraphError):
            self.farm.submit({**spec, "parentIds": self.pick(parents), "childrenIds": self.pick(children)})

    @rule(
        action=st.sampled_from([*Action, Action.PAUSE, Action.RESUME, Action.RESCHEDULE]),
        chosen=st.lists(_choice, min_size=1, max_size=2),
    )
    def act(self, action: Action, chosen: list[int]) -> None:
        self.farm.act(action, *self.pick(chosen), finish=False)

    # What the server does

    @rule()
    def step(self) -> None:
        self.farm.step()

    @rule()
    def all_steps(self) -> None:
        self.farm.finish_bulk(at_most=500)

    @rule()
    def tick(self) -> None:
        self.clock.advance(2)
        self.farm.tick()

    @rule()
    def rescue(self) -> None:
        for _ in range(5):
            self.tick()

    @rule()
    def crash(self) -> None:
        machines = self.farm.machines
        self.store.close()
        self.open()
        self.farm.machines = machines
        for machine in machines:
            machine.farm = self.farm
        assert self.farm.repair() == []

    # What clients do

    @rule(which=st.integers(0, 1))
    def beat(self, which: int) -> None:
        machine = self.farm.machines[which]
        if self.known(machine) and machine.id in self.farm.live_farm.clients:
            machine.beat()
        else:
            machine.come_back()

    @rule(which=st.integers(0, 1))
    def obey(self, which: int) -> None:
        machine = self.farm.machines[which]
        machine.obey(beat=False)
        self.beat(which)

    @precondition(lambda self: any(machine.held for machine in self.farm.machines))
    @rule(which=st.integers(0, 1), choice=_choice, outcome=st.sampled_from(OUTCOMES))
    def end(self, which: int, choice: int, outcome: str) -> None:
        machine = self.farm.machines[which]
        going = [job_id for job_id in machine.jobs if machine.held[machine.token(job_id)].state == "running"]
        if not going or not self.known(machine):
            return
        job_id = going[choice % len(going)]
        actions: dict[str, Callable[[], None]] = {
            "well": lambda: machine.end(job_id),
            "badly": lambda: machine.end(job_id, 2),
            "signal": lambda: machine.report(machine.token(job_id), "exited", signal=9),
            "refused": lambda: machine.refuse(job_id),
            "lost": lambda: machine.lose(job_id),
        }
        actions[outcome]()

    @rule(which=st.integers(0, 1))
    def vanish(self, which: int) -> None:
        if self.known(self.farm.machines[which]):
            self.farm.machines[which].vanish()

    @rule(which=st.integers(0, 1))
    def reboot(self, which: int) -> None:
        self.farm.machines[which].reboot()

    @precondition(lambda self: not self.known(self.farm.machines[1]))
    @rule(number=_choice)
    def replace(self, number: int) -> None:
        """Another machine comes under the same name."""
        machine = self.farm.machines[1]
        machine.key = f"key {number} {machine.incarnation}"
        machine.reboot()

    # What must hold

    @invariant()
    def makes_sense(self) -> None:
        check_invariants(self.store)

    def settle_everything(self) -> None:
        """Let everything that was begun come to its end: nothing may be stuck."""
        self.farm.finish_bulk()
        self.farm.act(Action.RESUME, *self.all_jobs())
        for _ in range(200):
            unsettled = {job_id: status for job_id, status in self.all_jobs().items() if status not in SETTLED}
            if not unsettled:
                break
            for machine in self.farm.machines:
                machine.come_back()
                machine.obey()
                machine.beat()
                for job_id in list(machine.jobs):
                    if machine.held[machine.token(job_id)].state == "running":
                        machine.end(job_id)
            self.clock.advance(400)
            self.farm.tick()
            check_invariants(self.store)
        assert not unsettled, f"stuck: {unsettled}"
        for machine in self.farm.machines:
            machine.obey()
            machine.beat()
        assert self.farm.repair() == []


@pytest.mark.timeout(1800)
def test_anything_in_any_order(
    backend: str,
    databases: Databases,
    migrated_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def new_url() -> str:
        if backend != "sqlite":
            found = databases.get(backend)
            found.close_store()
            return found.url
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(migrated_file, path)
        return f"sqlite:///{path}"

    numbers = itertools.count()
    AnyOrder.new_url = staticmethod(new_url)
    caplog.set_level(logging.CRITICAL, logger="hqueue.lifecycle")
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=EXAMPLES if backend == "sqlite" else max(EXAMPLES // 6, 1),
            stateful_step_count=40,
            derandomize="HQ_TEST_EXAMPLES" not in os.environ,
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
