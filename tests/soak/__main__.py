"""Run the soak: `python -m tests.soak [--seconds 120] [--seed 7] [--without disk,poison]`.

Prints what happened, a line for each kind, and what does not hold; ends with 1 when there is any of that. What things
happen is chosen by the seed; when exactly they meet is not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import WITHOUT, soak


def main() -> int:
    """Run as asked for; return how the process is to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long things go wrong; 3600 for an hour")
    parser.add_argument("--seed", type=int, default=None, help="what goes wrong; printed")
    parser.add_argument("--without", default="", help=f"kinds to leave out, of {','.join(WITHOUT)}")
    parser.add_argument("--keep", type=Path, help="an empty folder for all its files; without, they are removed")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    without = frozenset(filter(None, arguments.without.split(",")))
    if unknown := without - set(WITHOUT):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(WITHOUT)}")
    sys.stdout.write(f"seed {seed}, {arguments.seconds:g} s, without {', '.join(sorted(without)) or 'nothing'}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = soak(folder, arguments.seconds, seed, without)
    for kind, count in sorted(report.counts.items()):
        sys.stdout.write(f"{count:8}  {kind}\n")
    for complaint in report.complaints:
        sys.stdout.write(f"does not hold: {complaint}\n")
    sys.stdout.write(f"seed {seed}: {len(report.complaints) or 'no'} complaints\n")
    return 1 if report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
