"""Makes commits survive a power cut: many with one flush, and without holding up the next writer meanwhile.

A commit takes tens of microseconds, a flush to the disk milliseconds. So SQLite only orders its writes (`synchronous
=NORMAL`), the write lock is free again at once, and this flushes the write-ahead log before anybody is told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from hqueue.errors import BrokenPromiseError, HQueueError, OutcomeUnknownError, StoreUnavailableError
from hqueue.folders import flush_file, flush_folder
from hqueue.service import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hqueue.service import OnDeath

    Told = Callable[[BaseException | None], None]

log = logging.getLogger(__name__)

_flush: Final = flush_file
_RESERVE_BYTES: Final = 4 * 1024 * 1024
_ZEROS: Final = bytes(256 * 1024)


class Flusher:
    """Flushes SQLite's write-ahead log, on a thread of its own, for all who wait at that moment.

    Other databases flush at each commit; for these (`path` is None) everybody is told at once.
    A flush that fails is the death of the flusher, for ever: the kernel may have forgotten what was to be written, so
    that the next flush would succeed, and all that is acknowledged from then on stands behind a hole.
    """

    def __init__(self, path: Path | None, on_death: OnDeath) -> None:
        self._path = path
        self._on_death = on_death
        self._wal = None if path is None else path.with_name(f"{path.name}-wal")
        self._fd: int | None = None  # kept: a process that is out of descriptors can flush all the same
        self._lock = threading.Lock()
        self._broken = False
        self._service: Consumer[Future[None]] = Consumer(
            "flusher", on_death, group=self._flush_for, fail=self._refuse, finish=True
        )

    def start(self) -> None:
        """Start the thread; do nothing if it runs, none is needed, or a flush has failed."""
        if self._path is not None and not self._broken:
            flush_folder(self._path.parent)
            self._find_log()
            self._service.start()

    def stop(self) -> None:
        """Flush for those who still wait, then stop."""
        self._service.stop()
        self._close()

    def when_durable(self, told: Told) -> None:
        """Call back once all that is committed now survives a power cut, with the error if that is not known."""
        flushed: Future[None] = Future()
        flushed.add_done_callback(lambda _: told(flushed.exception()))
        self._service.put(flushed)

    def wait(self) -> None:
        """Return once all that is committed now survives a power cut.

        Errors: OutcomeUnknownError when the flusher dies.
        """
        flushed: Future[None] = Future()
        self._service.put(flushed)
        flushed.result()

    def _flush_for(self, arrived: Iterator[Future[None]]) -> None:
        waiting = list(arrived)
        self._flush_once()
        for flushed in waiting:
            flushed.set_result(None)

    def _refuse(self, flushed: Future[None], error: HQueueError) -> None:
        if flushed.done():
            return
        if not isinstance(error, StoreUnavailableError) or self._broken:
            flushed.set_exception(OutcomeUnknownError())
            return
        # Without a thread, before the start or at the end, whoever asks does it.
        try:
            self._flush_once()
        except BrokenPromiseError as broken:
            self._on_death(broken)
            flushed.set_exception(OutcomeUnknownError())
        else:
            flushed.set_result(None)

    def _flush_once(self) -> None:
        try:
            with self._lock:
                if self._find_log() and self._fd is not None:
                    _flush(self._fd)
        except OSError as error:
            self._broken = True
            raise BrokenPromiseError(f"the write-ahead log {self._wal} cannot be flushed: {error}") from error

    def _find_log(self) -> bool:
        """Have the descriptor of the log that SQLite writes now; tell whether there is one."""
        if self._wal is None:
            return False
        try:
            if self._fd is None or not os.path.samestat(os.fstat(self._fd), self._wal.stat()):
                self._close()
                self._fd = os.open(self._wal, os.O_RDWR)
        except FileNotFoundError:
            return False  # the last connection has carried it over into the database, and flushed that
        return True

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class Reserve:
    """Room on the disk of a SQLite store, held by a file: given up when the disk is full, for what has to go on then.

    Until there is room to make it again, nothing else is stored.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None else path.with_name(f"{path.name}-reserve")
        self.is_there = False
        self.is_given_up = False

    def give_up(self) -> None:
        """Let what is urgent have the room."""
        if self._path is None or self.is_given_up:
            return
        self.is_given_up, self.is_there = True, False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        log.error("the disk of the store is full: nothing new is taken until there is room; %s is given up", self._path)

    def renew(self) -> None:
        """Make the file where it is not there, if the disk has room for that and as much again."""
        if self._path is None or self.is_there:
            return
        try:
            if shutil.disk_usage(self._path.parent).free < 2 * _RESERVE_BYTES:
                return
            with self._path.open("wb", buffering=0) as file:
                for _ in range(0, _RESERVE_BYTES, len(_ZEROS)):
                    file.write(_ZEROS)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            return
        self.is_there = True
        if self.is_given_up:
            self.is_given_up = False
            log.warning("the disk of the store has room again")
