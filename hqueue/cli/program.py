"""What the three programs have in common: complaints, exit codes, log lines."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130  # what a shell reports for Ctrl-C
EXIT_BROKEN_PIPE: Final = 141  # what a shell reports for a program that writes to one that has ended


class ComplaintError(Exception):
    """What a user has to be told in one sentence; the program then ends."""

    def __init__(self, sentence: str, exit_code: int = EXIT_FAILED) -> None:
        self.exit_code = exit_code
        super().__init__(sentence)


def run_program(name: str, body: Callable[[], int]) -> int:
    """Run a program's body and return its exit code; what users can cause becomes one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        # A name that this terminal's encoding lacks must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = body()
        sys.stdout.flush()
    except ComplaintError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return error.exit_code
    except ConfigError as error:
        sys.stderr.write(f"{name}: {error.message}\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return code


def log_to_stderr(*, debug: bool = False) -> None:
    """Send the program's log lines to stderr, where init systems and terminals expect them."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    # It announces itself at every start; that it is there is no news.
    logging.getLogger("alembic").setLevel(logging.INFO if debug else logging.WARNING)
