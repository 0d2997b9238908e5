"""Run the simulator: `python -m tests.simulator [--seeds 1000] [--first 0] [--seconds 120]`.

Prints each seed that failed, with what does not hold, and ends with 1 when any did.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

from tests.simulator.processes import Outcome, in_processes, try_seed
from tests.simulator.simulation import TICKS


def main() -> int:
    """Run the seeds asked for; return how the process is to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--ticks", type=int, default=TICKS, help="how long a seed lives before things calm down")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after so long")
    arguments = parser.parse_args()
    began = time.perf_counter()
    done: list[Outcome] = []
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for outcome in in_processes(partial(try_seed, arguments.ticks), seeds, arguments.seconds):
        done.append(outcome)
        if outcome.complaint:
            sys.stdout.write(f"seed {outcome.seed} failed:\n{outcome.complaint}\n")
        if len(done) % 100 == 0:
            sys.stdout.write(f"{len(done)} seeds so far\n")
        sys.stdout.flush()
    failed = sorted(outcome.seed for outcome in done if outcome.complaint)
    jobs, runs = sum(outcome.jobs for outcome in done), sum(outcome.runs for outcome in done)
    took = time.perf_counter() - began
    sys.stdout.write(f"{len(done)} seeds, {jobs} jobs, {runs} runs in {took:.0f} s; failed: {failed or 'none'}\n")
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
