"""The runner: one small process per client that starts commands, waits for them, and outlives the daemon.

It knows nothing of the farm. It does what the daemon says over the socket in the state folder, keeps a journal of what
it started and how that ended, and goes when it holds nothing and no daemon is there. It imports little, for it stays in
memory as long as the machine works.
"""

from __future__ import annotations

import errno
import os
import selectors
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

from hqueue.client import platforms
from hqueue.client.channel import PROTOCOL, Channel, Message
from hqueue.client.journal import Journal
from hqueue.clock import Clock, SystemClock

JOURNAL_NAME = "runner.jsonl"
LOCK_NAME = "runner.lock"
IDLE_S = 10.0
STARTS_BETWEEN_LOOKS = 4  # a start takes most of a millisecond: what ended meanwhile should not wait for sixty of them


class Runner:
    """The runner's loop and what it holds."""

    def __init__(self, folder: Path, key: str, clock: Clock, idle_s: float = IDLE_S) -> None:
        self._key = key
        self._clock = clock
        self._idle_s = idle_s
        platforms.hear_signals()
        self._children = platforms.Children()
        # What an earlier runner wrote has been read by the daemon that started this one.
        (folder / JOURNAL_NAME).unlink(missing_ok=True)
        self._journal = Journal(folder / JOURNAL_NAME)
        self._listener = platforms.listen_in(folder)
        self._listener.settimeout(0)
        self._daemon: Channel | None = None
        self._to_do: deque[Message] = deque()
        self._popens: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self._being_killed: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._children, selectors.EVENT_READ)

    def serve(self) -> None:
        """Work until nothing is held and no daemon has been there for a while."""
        alone_since = self._clock.monotonic()
        while True:
            self._wait(0.0 if self._to_do else self._idle_s)
            for _ in range(min(len(self._to_do), STARTS_BETWEEN_LOOKS)):
                self._obey(self._to_do.popleft())
            self._reap()
            self._write_down()
            if self._daemon is not None:
                self._daemon.flush()
                self._watch_daemon()
            if self._daemon is not None or self._popens or self._to_do:
                alone_since = self._clock.monotonic()
            elif self._clock.monotonic() - alone_since >= self._idle_s:
                return

    def _wait(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                self._welcome()
            elif key.fileobj is self._children:
                self._children.drain()
            elif key.fileobj is self._daemon:
                self._listen()

    def _welcome(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        # The daemon that comes has the state folder's lock: the one before it is dead. What that one said is carried
        # out first, so that the list below is the whole truth.
        if self._daemon is not None:
            self._listen()
        while self._to_do:
            self._obey(self._to_do.popleft())
        self._hang_up()
        self._reap()
        self._daemon = Channel(connection)
        self._selector.register(self._daemon, selectors.EVENT_READ)

    def _listen(self) -> None:
        if self._daemon is None:
            return
        try:
            messages = self._daemon.receive()
        except ValueError:
            self._hang_up()
            return
        for message in messages:
            if message.get("order") == "spare":
                self._spare(message["token"])
            else:
                self._to_do.append(message)
        if self._daemon.closed:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._daemon is not None:
            self._selector.unregister(self._daemon)
            self._daemon.close()
            self._daemon = None

    def _watch_daemon(self) -> None:
        if self._daemon is None:
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._daemon.wants_to_write else 0)
        if self._selector.get_key(self._daemon).events != wanted:
            self._selector.modify(self._daemon, wanted)

    def _obey(self, message: Message) -> None:
        order = message.get("order")
        if order == "hello":
            self._say_hello(message)
        elif order == "start":
            self._start(message)
        elif order == "forget":
            self._journal.drop(message["token"])

    def _say_hello(self, message: Message) -> None:
        if message.get("key") != self._key:
            self._hang_up()
            return
        runs = [{"token": token, **entry} for token, entry in self._journal.entries.items()]
        self._tell({"event": "hello", "protocol": PROTOCOL, "pid": os.getpid(), "runs": runs})

    def _spare(self, token: str) -> None:
        """Leave a run's process group alone when its leader ends: the daemon has begun to kill it, with patience."""
        pid = self._journal.entries.get(token, {}).get("pid")
        if pid in self._popens:
            self._being_killed.add(pid)

    def _start(self, message: Message) -> None:
        token = message["token"]
        if (known := self._journal.entries.get(token)) is not None:
            self._tell({"event": "known", "token": token, **known})
            return
        try:
            child = _popen(message)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            fault = _fault(error, message)
            self._tell({"event": "failed", "token": token, "message": reason, "fault": fault})
            return
        self._children.watch(child)
        self._popens[child.pid] = token, child
        facts: Message = {"pid": child.pid, "started": platforms.child_start(child.pid)}
        facts["at"] = self._clock.monotonic()
        self._journal.put(token, **facts)
        self._tell({"event": "started", "token": token, **facts})

    def _reap(self) -> None:
        for ended in self._children.reap(self._spares):
            token, child = self._popens.pop(ended.pid, ("", None))
            self._being_killed.discard(ended.pid)
            if child is None:
                continue  # somebody's orphan
            child.returncode = ended.exit_code  # waited for behind Popen's back
            # `status` is for a daemon of version 0.1.0, which may come after this one.
            facts: Message = {
                "exit_code": ended.exit_code,
                "status": ended.exit_code,
                "signal": ended.signal,
                "peak": ended.peak_kb,
            }
            facts["ended_at"] = self._clock.monotonic()
            self._journal.put(token, **facts)
            self._tell({"event": "ended", "token": token, **facts})

    def _spares(self, pid: int) -> bool:
        # The daemon says so before its first signal, so the word is here when a child has died of that.
        self._listen()
        return pid in self._being_killed

    def _write_down(self) -> None:
        try:
            self._journal.flush()
            if self._daemon is None:
                # With a daemon there the result goes into its journal, which is synced before the server hears of it.
                self._journal.sync()
        except OSError as error:
            sys.stderr.write(f"{self._clock.now():%Y-%m-%d %H:%M:%S} the runner's journal cannot be written: {error}\n")
            sys.stderr.flush()

    def _tell(self, message: Message) -> None:
        if self._daemon is not None:
            self._daemon.send(message)


def _fault(error: Exception, message: Message) -> str:
    """Return whose fault it is that a command did not start: the job brings the environment and names the program."""
    if not isinstance(error, OSError):
        return "job" if isinstance(error, ValueError) else "machine"
    if error.errno in {errno.E2BIG, errno.ENOEXEC}:
        return "job"
    # A program that was found a moment ago: its interpreter is not there, or is none.
    missing = error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
    return "job" if missing and os.path.isdir(message["cwd"]) and os.path.exists(message["output"]) else "machine"  # noqa: PTH110, PTH112 - pathlib costs memory


def _popen(message: Message) -> subprocess.Popen[bytes]:
    options: dict[str, Any] = platforms.start_options()
    if os.name == "posix":
        options["umask"] = message["umask"]
    output = os.open(message["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - running what it is given is what a runner is for
            message["argv"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=message["cwd"],
            env=message["environment"],
            **options,
        )
    finally:
        os.close(output)


def main(folder_name: str, key_name: str, idle_s: str = str(IDLE_S)) -> None:
    """Be the runner of a state folder, unless there is one already.

    `key_name` is the file with the key that a daemon must know.
    """
    folder = Path(folder_name)
    lock = platforms.lock_file(folder / LOCK_NAME)
    if lock is None:
        sys.exit("another runner works in this folder")
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()} {platforms.process_start(os.getpid()) or 0.0}\n".encode("ascii"))
    runner = Runner(folder, Path(key_name).read_text(encoding="ascii").strip(), SystemClock(), float(idle_s))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the pipe of the daemon, which may be gone by the next word
    runner.serve()
