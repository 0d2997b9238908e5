"""Makes commits survive a power cut: many with one flush, and without holding up the next writer meanwhile.

A commit takes tens of microseconds, a flush to the disk milliseconds. So SQLite only orders its writes (`synchronous
=NORMAL`), the write lock is free again at once, and this flushes the write-ahead log before anybody is told.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Final

from hqueue.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Told = Callable[[StoreUnavailableError | None], None]

log = logging.getLogger(__name__)

# Not every platform has the one that leaves out what is not needed to read the data back.
_flush: Final = getattr(os, "fdatasync", os.fsync)


class Flusher:
    """Flushes SQLite's write-ahead log, on a thread of its own, for all who wait at that moment.

    Other databases flush at each commit; for these (`path` is None) everybody is told at once.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._waiting: list[Told] = []
        self._arrived = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; do nothing if it runs or none is needed."""
        if self._path is None or self._thread is not None:
            return
        flush_folder(self._path.parent)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Flush for those who still wait, then stop."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def when_durable(self, told: Told) -> None:
        """Call back once all that is committed now survives a power cut, with the error if that cannot be."""
        with self._arrived:
            if self._thread is not None and not self._stopping:
                self._waiting.append(told)
                self._arrived.notify()
                return
        # Without a thread, before the start or at the end, whoever asks does it.
        told(self._flush_once())

    def wait(self) -> None:
        """Return once all that is committed now survives a power cut.

        Errors: StoreUnavailableError.
        """
        done = threading.Event()
        errors: list[StoreUnavailableError] = []

        def told(error: StoreUnavailableError | None) -> None:
            if error is not None:
                errors.append(error)
            done.set()

        self.when_durable(told)
        done.wait()
        if errors:
            raise errors[0]

    def _run(self) -> None:
        while True:
            with self._arrived:
                while not self._waiting and not self._stopping:
                    self._arrived.wait()
                waiting, self._waiting = self._waiting, []
                if not waiting:
                    return
            error = self._flush_once()
            for told in waiting:
                try:
                    told(error)
                except Exception:
                    log.exception("somebody who waited for the disk failed")

    def _flush_once(self) -> StoreUnavailableError | None:
        if self._path is None:
            return None
        try:
            # By its name each time: SQLite may have begun a new file since.
            fd = os.open(self._path.with_name(f"{self._path.name}-wal"), os.O_RDWR)
        except FileNotFoundError:
            return None  # the last connection has carried it over into the database, and flushed that
        except OSError as error:
            return _unavailable(error)
        try:
            _flush(fd)
        except OSError as error:
            return _unavailable(error)
        finally:
            os.close(fd)
        return None


def _unavailable(error: OSError) -> StoreUnavailableError:
    log.error("the write-ahead log cannot be flushed: %s", error)
    return StoreUnavailableError("the server's disk does not take what was written; look into the server's log")


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut; Windows needs nothing of the kind."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
