"""What can be made to fail, and mended again, from outside of the processes under test."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MIB = 1 << 20

# The n-th flush is not interesting, the next one after somebody asked for it is: a file asks.
_FLUSH_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int asked(void) {
    const char *path = getenv("TEST_FLUSH_FAILS");
    return path != NULL && unlink(path) == 0;
}

int fdatasync(int fd) {
    static int (*real)(int) = NULL;
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (asked()) { errno = EIO; return -1; }
    return real(fd);
}
"""

_LIMIT_PY = """
import sqlite3, sqlite3.dbapi2

_connect = sqlite3.dbapi2.connect

def connect(*arguments, **options):
    connection = _connect(*arguments, **options)
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, {limit})
    return connection

sqlite3.connect = sqlite3.dbapi2.connect = connect
"""


class SmallDisk:
    """A file system of its own that can be filled to the last byte, and emptied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Take all the room there is."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def is_full(self) -> bool:
        """Tell whether not even a page is free."""
        return shutil.disk_usage(self.path).free < 4096


def cannot_mount() -> str:
    """Return why no small file system can be had here; "" when it can."""
    if sys.platform != "linux":
        return "another system: a small file system is a tmpfs of Linux"
    if os.geteuid() != 0:
        return "not installable: only root may mount a small file system"
    return ""


@contextlib.contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[SmallDisk]:
    """Mount a file system of so many MiB for the length of a block."""
    path.mkdir(parents=True, exist_ok=True)
    size = f"size={size_mib}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"not installable: a small file system: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


class FailingFlush:
    """Lets the next fdatasync of a process fail, once; the process is started with `prefix`."""

    def __init__(self, folder: Path) -> None:
        self._asks = folder / "flush-fails"
        library = folder / "flush.so"
        source = folder / "flush.c"
        source.write_text(_FLUSH_C)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self.prefix = ("env", f"LD_PRELOAD={library}", f"TEST_FLUSH_FAILS={self._asks}")

    def next_one(self) -> None:
        """Ask for it."""
        self._asks.touch()

    def has_failed(self) -> bool:
        """Tell whether it came to that."""
        return not self._asks.exists()


def few_parameters(folder: Path, limit: int) -> Sequence[str]:
    """Return the prefix of a process whose SQLite takes at most so many parameters in a statement."""
    (folder / "sitecustomize.py").write_text(_LIMIT_PY.format(limit=limit))
    return ("env", f"PYTHONPATH={folder}")


def few_descriptors(limit: int) -> Sequence[str]:
    """Return the prefix of a process that may have at most so many descriptors."""
    return ("sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh")


class TcpPath:
    """A path to a server that can be cut after something was said on it, or fall silent without being closed."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[_Pair] = []
        self._changed = threading.Condition()
        self._awaited: list[bytes] = []
        self._before = self._refuses = False
        self.was_cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, *said: bytes) -> None:
        """Cut the connection that says these things one after the other, once the last has been answered.

        The answer is not passed on.
        """
        self._cut_at(said, before=False)

    def cut_before(self, *said: bytes) -> None:
        """Cut the connection that says these things one after the other; the last is not passed on."""
        self._cut_at(said, before=True)

    def refuse(self, *, refused: bool = True) -> None:
        """Take no new connections, or take them again."""
        self._refuses = refused

    def _cut_at(self, said: tuple[bytes, ...], *, before: bool) -> None:
        with self._changed:
            self._awaited, self._before = list(said), before
            self.was_cut.clear()

    def fall_silent(self) -> None:
        """Forward nothing more on the connections there are, for ever; new ones work."""
        with self._changed:
            for pair in self._pairs:
                pair.silent = True

    def close(self) -> None:
        """End it and all its connections."""
        with self._changed:
            pairs, self._pairs = self._pairs, []
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in pairs:
            pair.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                if self._refuses:
                    raise ConnectionRefusedError
                pair = _Pair(near, socket.create_connection(self._target))
            except OSError as error:
                if error.errno in {errno.EBADF, errno.EINVAL}:
                    return
                near.close()
                continue
            with self._changed:
                self._pairs.append(pair)
            for upwards in (True, False):
                threading.Thread(target=self._pump, args=(pair, upwards), daemon=True).start()

    def _pump(self, pair: _Pair, upwards: bool) -> None:
        source, target = (pair.near, pair.far) if upwards else (pair.far, pair.near)
        while True:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            with self._changed:
                if pair.silent:
                    if not data:
                        return  # whoever is on the other side is not told either
                    continue
                if upwards and self._heard(pair, data):
                    pair.doomed = True
                doomed = pair.doomed and upwards is self._before
            if doomed:  # on the way back the answer is there: what was asked for is done
                pair.close()
                self.was_cut.set()
                return
            try:
                if not data:
                    raise ConnectionError
                target.sendall(data)
            except OSError:
                pair.close()
                return

    def _heard(self, pair: _Pair, data: bytes) -> bool:
        """Tell whether this connection has now said all that is waited for; nobody else is waited for then."""
        if not self._awaited:
            return False
        while pair.heard < len(self._awaited) and self._awaited[pair.heard] in data:
            pair.heard += 1
        if pair.heard < len(self._awaited):
            return False
        self._awaited = []
        return True


class _Pair:
    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.silent = self.doomed = False
        self.heard = 0

    def close(self) -> None:
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
