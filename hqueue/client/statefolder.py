"""The client's state folder: who this client is, and that nobody else is it.

hqnode.lock      locked while a daemon works on the folder
hqnode.log       the daemon's log
hqnode.pid       the daemon's process number
hqnode.port      the port it listens on
hqnode.key       the random key that tells this folder from any other
hqnode.incarnation  how often a daemon was started here
runs.jsonl       what runs are held, what was wished of them, how they ended
runs/TOKEN/      a run's working folder; TOKEN.script and TOKEN.output beside it
runner.*         the runner: socket, lock, journal, log
"""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING

from hqueue.client import platforms
from hqueue.errors import ConfigError
from hqueue.folders import flush_folder

if TYPE_CHECKING:
    from pathlib import Path


class StateFolder:
    """A state folder, locked for this process.

    Errors: ConfigError, a sentence, when another daemon works on it or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The runner's socket is in here, and with it the right to start processes as this user.
            path.chmod(0o700)
            lock = platforms.lock_file(path / "hqnode.lock")
        except OSError as error:
            raise ConfigError(f"the client cannot use its state folder {path}: {error.strerror or error}") from error
        if lock is None:
            raise ConfigError(
                f"another client works on the state folder {path} already; give this one a name or a state_dir "
                f"of its own"
            )
        self._lock = lock
        try:
            self.key_file = path / "hqnode.key"
            if not self.key_file.exists() or not self.key_file.read_text(encoding="ascii").strip():
                self._write("hqnode.key", secrets.token_hex(16))
            self.key = self.key_file.read_text(encoding="ascii").strip()
            self.incarnation = self._count_up()
            self._write("hqnode.pid", str(os.getpid()))
        except OSError as error:
            self.close()
            raise ConfigError(
                f"the client cannot write to its state folder {path}: {error.strerror or error}"
            ) from error

    def note_port(self, port: int) -> None:
        """Write down the port this client listens on."""
        self._write("hqnode.port", str(port))

    def close(self) -> None:
        """Let go of the folder."""
        for name in ("hqnode.pid", "hqnode.port"):
            (self.path / name).unlink(missing_ok=True)
        os.close(self._lock)

    def _count_up(self) -> int:
        try:
            before = int(json.loads((self.path / "hqnode.incarnation").read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError):
            before = 0
        self._write("hqnode.incarnation", str(before + 1))
        return before + 1

    def _write(self, name: str, text: str) -> None:
        """Replace a file so that it survives a power cut, and is never seen half written."""
        fresh = self.path / f"{name}.new"
        with fresh.open("w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path / name)
        flush_folder(self.path)
