"""Run the simulator: `python -m tests.simulator [--seeds 1000] [--first 0]`.

Prints a line per seed that failed, with what does not hold, and ends with 1 when any did.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

from tests.simulator.simulation import TICKS, Folder, run_seed


def main() -> int:
    """Run the seeds asked for; return how the process is to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--ticks", type=int, default=TICKS, help="how long a seed lives before things calm down")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = Folder()
    failed, jobs, starts = [], 0, 0
    began = time.perf_counter()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            world = run_seed(seed, folder.url(), arguments.ticks)
        except Exception:  # noqa: BLE001 - it is printed, and the next seed has its turn
            failed.append(seed)
            sys.stdout.write(f"seed {seed} failed:\n{traceback.format_exc(limit=-3)}\n")
            sys.stdout.flush()
            continue
        if (seed - arguments.first) % 100 == 99:
            sys.stdout.write(f"{seed - arguments.first + 1} seeds so far\n")
            sys.stdout.flush()
        jobs += len(world.jobs)
        starts += sum(kind.starts for kind in world.jobs.values())
    folder.close()
    took = time.perf_counter() - began
    sys.stdout.write(
        f"{arguments.seeds} seeds, {jobs} jobs, {starts} runs in {took:.0f} s; failed: {failed or 'none'}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
