"""hqclient: runs a client in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hqueue import __version__
from hqueue.cli.program import log_to_stderr, run_program

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTINGS = ("server", "name", "cpus", "listen_port", "state_dir")


def parser() -> argparse.ArgumentParser:
    """Return the options of hqclient."""
    found = argparse.ArgumentParser(
        prog="hqclient",
        description="Run jobs on this machine until Ctrl-C or SIGTERM; what is running then goes on, and the next "
        "hqclient takes it over. It prints one line when it is ready, and its log on stderr.",
        epilog="An option beats an environment variable (HQUEUE_SERVER, HQUEUE_NAME, HQUEUE_CPUS, HQUEUE_LISTEN_PORT, "
        "HQUEUE_STATE_DIR), and that beats hqnode.ini. Without --config: hqnode.ini in the current folder, else in "
        "~/.config/hqueue, else in /etc/hqueue.",
        allow_abbrev=False,
    )
    found.add_argument("--config", metavar="FILE", type=Path, help="the settings, such as /etc/hqueue/hqnode.ini")
    found.add_argument("--server", metavar="URL", help="the farm's server as host, host:port or URL")
    found.add_argument("--name", help="tells this client from others on the same machine")
    found.add_argument("--cpus", metavar="N", help="CPUs it may use; 0, the default: all of the machine")
    found.add_argument("--listen-port", metavar="N", help="port on which the server wakes it; default: 5001")
    found.add_argument("--state-dir", metavar="DIR", help="folder for its log, its key and what it runs")
    found.add_argument("--version", action="version", version=f"hqclient {__version__}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = parser().parse_args(argv)
    return run_program("hqclient", lambda: _run(options), daemon=True)


def _run(options: argparse.Namespace) -> int:
    from hqueue.client import daemon  # noqa: PLC0415 - --help and bad usage answer at once
    from hqueue.config import load_client_config  # noqa: PLC0415 - same

    flags = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    config = load_client_config(options.config, flags)
    log_to_stderr()
    return daemon.main(config)


if __name__ == "__main__":
    sys.exit(main())
