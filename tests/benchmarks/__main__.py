"""All benchmarks, as a table: `python -m tests.benchmarks [--scale 0.1] [NAME …]`.

Absolute figures drift with the machine; what can be compared are the ratios, whose baselines are measured in the
same run.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks import bench_api, bench_bulk, bench_farm, bench_ping, bench_scheduler
from tests.benchmarks.rows import table

PARTS = {
    "api": bench_api.run,
    "bulk": bench_bulk.run,
    "farm": bench_farm.run,
    "ping": bench_ping.run,
    "scheduler": bench_scheduler.run,
}


def main() -> None:
    """Run the parts asked for and print their rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", default=sorted(PARTS), help=f"which ones: {', '.join(sorted(PARTS))}")
    parser.add_argument("--scale", type=float, default=1.0, help="0.01 only shows that they work, 1 takes a minute")
    arguments = parser.parse_args()
    rows = [row for part in arguments.parts for row in PARTS[part](arguments.scale)]
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
