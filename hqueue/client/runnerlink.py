"""The runner seen from the daemon: found or started, spoken to, known to be dead."""

from __future__ import annotations

import contextlib
import logging
import select
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from hqueue.client import platforms
from hqueue.client.channel import PROTOCOL, Channel, Message
from hqueue.client.environment import PACKAGE_ROOT
from hqueue.client.journal import Journal
from hqueue.client.runner import IDLE_S, JOURNAL_NAME, LOCK_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from hqueue.clock import Clock

log = logging.getLogger(__name__)

READY_S = 10.0  # for a new runner to be there
ANSWER_S = 60.0  # for a runner on a swapping machine to answer; then it is killed, and with it all it started
# Only the standard library and this package: the runner needs nothing else, and each import stays in memory for months.
_CODE = "import sys; sys.path.append(sys.argv[1]); from hqueue.client.runner import main; main(*sys.argv[2:])"


class Starter(Protocol):
    """What runs ask of the runner."""

    @property
    def problem(self) -> str:
        """Return why no command can be started at present, as a sentence; "" if one can."""
        ...

    def start(self, order: Message) -> bool:
        """Have a command started; False while there is no runner."""
        ...

    def spare(self, token: str) -> None:
        """Have a run's group left alone when its leader ends; on its way when this returns."""
        ...

    def forget(self, token: str) -> None:
        """Let go of a result that is in the daemon's journal."""
        ...


class RunnerLink:
    """The connection to the runner of a state folder."""

    def __init__(self, folder: Path, key_file: Path, clock: Clock, *, idle_s: float = IDLE_S) -> None:
        self._folder = folder
        self._key_file = key_file
        self._clock = clock
        self._idle_s = idle_s
        self._child: subprocess.Popen[bytes] | None = None
        self.channel: Channel | None = None
        self.pid = 0
        self.problem = ""

    def find(self) -> list[Message] | None:
        """Connect to a runner that works already: what it holds; None when there is none (any more).

        One that does not answer is killed: its runs are then as good as lost.
        """
        try:
            return self._connect(2.0)
        except (OSError, ValueError) as error:
            pid, started = self._lock_holder()
            if pid and platforms.process_start(pid) == started:
                log.warning("the runner (process %d) does not answer and is killed: %s", pid, error)
                self._kill(pid, started)
        if self._child is not None:
            self._child.wait()
            self._child = None
        return None

    def remains(self) -> dict[str, dict[str, Any]]:
        """Return what the journal of a dead runner says."""
        path = self._folder / JOURNAL_NAME
        if not path.exists():
            return {}
        journal = Journal(path)
        journal.close()
        return journal.entries

    def start_new(self) -> bool:
        """Start a runner and connect to it; False, with `problem` set, when that does not work."""
        argv = [sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", _CODE, str(PACKAGE_ROOT), str(self._folder)]
        argv += [str(self._key_file), str(self._idle_s)]
        try:
            with (self._folder / "runner.log").open("ab") as errors:
                child = subprocess.Popen(  # noqa: S603 - our own runner
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=self._folder,
                    **platforms.start_options(),
                )
            assert child.stdout is not None  # noqa: S101 - for the type checker; a pipe was asked for
            with child.stdout as pipe:
                ready = (
                    pipe.readline() if platforms.NAME == "windows" or select.select([pipe], [], [], READY_S)[0] else b""
                )
            if not ready:
                child.kill()
                child.wait()
                raise OSError("it did not get ready; runner.log in the state folder may say why")  # noqa: TRY301 - one way out
            self._child = child
            self._connect(READY_S)
        except (OSError, ValueError) as error:
            self.problem = f"the client cannot start the process that runs commands: {error}"
            return False
        self.problem = ""
        return True

    def receive(self) -> list[Message]:
        """Return what the runner says; after `lost` there is nothing more.

        Errors: ValueError for what is no message; the connection is of no use then.
        """
        return self.channel.receive() if self.channel is not None else []

    @property
    def lost(self) -> bool:
        """Tell whether the connection is gone."""
        return self.channel is None or self.channel.closed

    def start(self, order: Message) -> bool:
        """Have a command started; False while there is no runner."""
        if self.channel is None or self.channel.closed:
            return False
        self.channel.send(order)
        return True

    def spare(self, token: str) -> None:
        """Have a run's group left alone when its leader ends; said before this returns."""
        if self.channel is not None:
            self.channel.send({"order": "spare", "token": token})
            self.channel.flush()

    def forget(self, token: str) -> None:
        """Let go of a result."""
        if self.channel is not None:
            self.channel.send({"order": "forget", "token": token})

    def flush(self) -> None:
        """Send what was said."""
        if self.channel is not None:
            self.channel.flush()

    def leave(self) -> None:
        """Leave the runner to itself, for a later daemon to find."""
        self.hang_up()
        if self._child is not None:
            self._child.returncode = 0  # or Popen complains of a child that outlives it, which this one is meant to

    def hang_up(self) -> None:
        """Close the connection."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def _connect(self, seconds: float) -> list[Message]:
        self.hang_up()
        connection = platforms.connect_in(self._folder, seconds)
        channel = Channel(connection)
        channel.send({"order": "hello", "key": self._key_file.read_text(encoding="ascii").strip()})
        channel.flush()
        until = self._clock.monotonic() + ANSWER_S
        messages: list[Message] = []
        while not messages and not channel.closed:
            left = until - self._clock.monotonic()
            if left <= 0 or not select.select([channel], [], [], left)[0]:
                break
            messages = channel.receive()
        if not messages or messages[0].get("event") != "hello" or messages[0].get("protocol") != PROTOCOL:
            channel.close()
            raise OSError("the runner gave no answer that this version understands")
        self.channel = channel
        self.pid = int(messages[0]["pid"])
        runs: list[Message] = messages[0]["runs"]
        return runs

    def _lock_holder(self) -> tuple[int, float]:
        try:
            pid, started = (self._folder / LOCK_NAME).read_text(encoding="ascii").split()
            return int(pid), float(started)
        except (OSError, ValueError):
            return 0, 0.0

    def _kill(self, pid: int, started: float) -> None:
        with contextlib.suppress(OSError):
            platforms.send_signal(pid, platforms.KILL)
        never = threading.Event()
        until = self._clock.monotonic() + READY_S
        while platforms.process_start(pid) == started and self._clock.monotonic() < until:
            self._clock.wait(never, 0.01)
