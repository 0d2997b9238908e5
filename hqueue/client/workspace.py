"""What a run has on the disk: its script, its output, its scratch folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
from typing import TYPE_CHECKING

from hqueue.client import platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from hqueue.protocol import Fault

log = logging.getLogger(__name__)

FULL_BYTES = 64 * 1024  # less room than this, and the next line of output may not fit
MOST_SHELLS = 64  # remembered, for every job may bring a PATH of its own
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}")


class RefusedError(Exception):
    """This machine cannot run the command; the message is the sentence people read."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


class Workspaces:
    """The folder `runs`: of each run a scratch folder, TOKEN, and beside it the files TOKEN.script and TOKEN.output.

    One folder per run, not two: making and removing one costs more than all that is done with files. `sweep` removes a
    path in another thread, for a frame's temporary files can take minutes.
    """

    def __init__(self, root: Path, sweep: Callable[[str], None]) -> None:
        self.root = str(root)
        self._sweep = sweep
        self._shells: dict[tuple[str, str | None], platforms.Shell] = {}
        root.mkdir(mode=0o700, exist_ok=True)

    def scratch(self, token: str) -> str:
        """Return the path of a run's working folder, whatever the server made its token of."""
        name = token if _PLAIN_NAME.fullmatch(token) else hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        return f"{self.root}{os.sep}{name}"

    def output(self, token: str) -> str:
        """Return the path of a run's output file."""
        return f"{self.scratch(token)}.output"

    def prepare(self, token: str, command: str, shell: str, environment: Mapping[str, str]) -> tuple[list[str], str]:
        """Make the folder and the script; return the program to start with its arguments, and a remark for the log.

        Errors: RefusedError with a sentence.
        """
        found = self._find_shell(shell, environment)
        if found is None:
            if not shell:
                raise RefusedError("this machine has no shell", "machine")
            raise RefusedError(f"there is no shell named {shell!r} on this machine", "shell")
        lines = f"{command}\n"
        if found.suffix == ".cmd":
            lines = lines.replace("\n", "\r\n")  # cmd misses labels in a file with other line ends
        scratch = self.scratch(token)
        script = f"{scratch}{found.suffix}"
        left = memoryview(lines.encode("utf-8", "surrogateescape"))
        try:
            self._make(scratch)
            descriptor = os.open(script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RefusedError(sentence(error, self.root), "machine") from error
        return [*found.argv, script], found.remark

    def _make(self, scratch: str) -> None:
        try:
            os.mkdir(scratch, 0o700)  # noqa: PTH102 - one style with the calls around it
        except FileExistsError:
            return  # an attempt to start it was cut short by a crash
        except FileNotFoundError:
            log.warning("%s is gone and is made again", self.root)
            os.makedirs(os.path.dirname(self.root), 0o700, exist_ok=True)  # noqa: PTH103, PTH120 - as above
            os.mkdir(self.root, 0o700)  # noqa: PTH102 - as above
            os.mkdir(scratch, 0o700)  # noqa: PTH102 - as above

    def disk_full(self) -> bool:
        """Tell whether a command can hardly write any more: what it prints may be lost."""
        try:
            return platforms.free_bytes(self.root) < FULL_BYTES
        except OSError:
            return False

    def clear_scratch(self, token: str) -> None:
        """Remove a run's scratch folder; its output stays."""
        scratch = self.scratch(token)
        try:
            os.rmdir(scratch)  # noqa: PTH106 - as above
        except FileNotFoundError:
            return
        except OSError:
            self._sweep(scratch)

    def remove(self, token: str) -> None:
        """Remove all that a run has here; what cannot be removed goes with the strangers of the next start."""
        self.clear_scratch(token)
        scratch = self.scratch(token)
        for suffix in (*platforms.SCRIPT_SUFFIXES, ".output"):
            with contextlib.suppress(OSError):
                os.unlink(f"{scratch}{suffix}")  # noqa: PTH108 - as above

    def remove_strangers(self, tokens: Iterable[str]) -> None:
        """Remove what belongs to no known run."""
        known: set[str] = set()
        for token in tokens:
            scratch = self.scratch(token)
            known.update((scratch, *(f"{scratch}{suffix}" for suffix in (*platforms.SCRIPT_SUFFIXES, ".output"))))
        for entry in os.scandir(self.root):
            if entry.path not in known:
                self._sweep(entry.path)

    def _find_shell(self, wanted: str, environment: Mapping[str, str]) -> platforms.Shell | None:
        """Find a shell; once found, at the price of one look."""
        key = wanted, environment.get("PATH")
        found = self._shells.get(key)
        if found is None or not os.access(found.argv[0], os.X_OK):
            found = platforms.find_shell(wanted, environment)
            if found is not None and len(self._shells) < MOST_SHELLS:
                self._shells[key] = found
        return found


def sentence(error: OSError, folder: str) -> str:
    """Say in words why the disk would not take something."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"the disk of {folder} is full"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"the client may not write to {folder}"
    return f"the client cannot write to {folder}: {error.strerror or error}"


def remove_tree(path: str) -> None:
    """Remove a folder and all in it, also what a command left read-only.

    Errors: OSError for what cannot be removed even so.
    """
    if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114 - as above
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as above
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        os.chmod(path, stat.S_IRWXU)  # noqa: PTH101 - as above
        for folder, names, _ in os.walk(path):
            for name in names:
                below = f"{folder}{os.sep}{name}"
                if not os.path.islink(below):  # noqa: PTH114 - as above
                    os.chmod(below, stat.S_IRWXU)  # noqa: PTH101 - as above
        shutil.rmtree(path)
