"""What the three programs have in common: complaints, exit codes, log lines."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_STDERR: Final = 2
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130  # what a shell reports for Ctrl-C
EXIT_BROKEN_PIPE: Final = 141  # what a shell reports for a program that writes to one that has ended


class ComplaintError(Exception):
    """What a user has to be told in one sentence; the program then ends."""

    def __init__(self, sentence: str, exit_code: int = EXIT_FAILED) -> None:
        self.exit_code = exit_code
        super().__init__(sentence)


class _Output:
    """A standard stream. What cannot be written ends a command with a sentence, and is dropped by a daemon."""

    def __init__(self, stream: TextIO, *, may_fail: bool) -> None:
        self._stream = stream
        self._may_fail = may_fail

    def write(self, text: str) -> int:
        """Write a text."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if self._may_fail:
                return
            if isinstance(error, BrokenPipeError):
                raise
            _silence_stdout()
            raise ComplaintError(f"cannot write to standard output: {error.strerror}") from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_program(name: str, body: Callable[[], int], *, daemon: bool = False) -> int:
    """Run a program's body and return its exit code; what users can cause becomes one sentence on stderr.

    daemon: the program goes on where its standard output cannot be written, and may be process 1 of a container.
    """
    if daemon and os.getpid() == 1:
        _go_on_in_a_child()
    _prepare_streams(daemon=daemon)
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
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    return code


def _go_on_in_a_child() -> None:
    """Return in a child; process 1 stays behind, hands signals on, and reaps the orphans that land on it.

    It ends with the child, and the container with it.
    """
    handed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)  # process 1 loses a signal that has no handler
    child = os.fork()
    if child:
        for number in handed_on:
            signal.signal(number, lambda number, _frame: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
    while child:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _prepare_streams(*, daemon: bool) -> None:
    # Where a standard stream is closed, the next file that is opened would take its place: the store, for one.
    for number, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    for stream in ("stdin", "stdout", "stderr"):
        if getattr(sys, stream) is None:
            # For as long as the program runs.
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if stream == "stdin" else "w"))
    for output in (sys.stdout, sys.stderr):
        # A name that this terminal's encoding lacks must not end the program.
        if hasattr(output, "reconfigure"):
            output.reconfigure(errors="replace")
    sys.stderr = cast("TextIO", _Output(sys.stderr, may_fail=True))
    sys.stdout = cast("TextIO", _Output(sys.stdout, may_fail=daemon))


def _silence_stdout() -> None:
    # The interpreter flushes once more at its end, and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log_to_stderr(*, debug: bool = False) -> None:
    """Send the program's log lines to stderr, where init systems and terminals expect them.

    A crash in a library's own code says there, too, what each thread was doing.
    """
    faulthandler.enable(_STDERR)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    # It announces itself at every start; that it is there is no news.
    logging.getLogger("alembic").setLevel(logging.INFO if debug else logging.WARNING)
