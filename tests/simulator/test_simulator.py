"""Seeds of the simulator that fit the time of a run of all tests, and those that have failed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulator.simulation import Folder, run_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seeds that failed once, and why.
FAILED_ONCE = {
    1: "a licence was kept for a job that no client would have taken",
    5: "a licence per machine was kept for a job that no client would have taken",
    347: "a client that others had left less idle meanwhile was not the first that a rescued job was given",
    39: "a failure that blocked nothing made its job miss a tick when another root's jobs had failed too",
    113: "one root's jobs moved in a tick, and what came behind another root's took their place",
}
# 0 and 4 are endless streams.
SEEDS = [0, *FAILED_ONCE, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4, 6, 7))]


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    made = Folder()
    yield made
    made.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed(folder: Folder, seed: int) -> None:
    world = run_seed(seed, folder.url())
    assert sum(kind.starts for kind in world.jobs.values()) > 20
