"""hqserver: runs the server in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hqueue import __version__
from hqueue.cli.program import log_to_stderr, run_program

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTINGS = ("host", "port")


def parser() -> argparse.ArgumentParser:
    """Return the options of hqserver."""
    found = argparse.ArgumentParser(
        prog="hqserver",
        description="Run the server of a farm until Ctrl-C or SIGTERM. It prints one line when it is ready, "
        "and its log on stderr.",
        epilog="Without --config: hqserver.ini in the current folder, else in ~/.config/hqueue, else in /etc/hqueue; "
        "without any, the defaults, with store and logs in ~/.local/state/hqueue.",
        allow_abbrev=False,
    )
    found.add_argument("--config", metavar="FILE", type=Path, help="the settings, such as /etc/hqueue/hqserver.ini")
    found.add_argument("--host", help="address to listen on; 127.0.0.1: only this machine can connect; 0.0.0.0: all")
    found.add_argument("--port", metavar="N", help="port to listen on; 0: any free one")
    found.add_argument("--with-client", action="store_true", help="run a client on this machine too: a farm of one")
    found.add_argument("--version", action="version", version=f"hqserver {__version__}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = parser().parse_args(argv)
    return run_program("hqserver", lambda: _run(options), daemon=True)


def _run(options: argparse.Namespace) -> int:
    from hqueue.config import load_server_config  # noqa: PLC0415 - --help and bad usage answer at once
    from hqueue.server import run  # noqa: PLC0415 - same

    flags = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    config = load_server_config(options.config, flags)
    log_to_stderr(debug=config.debug)
    return run(config, with_client=options.with_client)


if __name__ == "__main__":
    sys.exit(main())
