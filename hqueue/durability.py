"""Makes commits survive a power cut: many with one flush, and without holding up the next writer meanwhile.

A commit takes tens of microseconds, a flush to the disk milliseconds. So SQLite only orders its writes (`synchronous
=NORMAL`), the write lock is free again at once, and this flushes the write-ahead log before anybody is told.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from hqueue.errors import HQueueError, StoreUnavailableError
from hqueue.folders import flush_folder
from hqueue.service import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hqueue.service import OnDeath

    Told = Callable[[BaseException | None], None]

log = logging.getLogger(__name__)

# Not every platform has the one that leaves out what is not needed to read the data back.
_flush: Final = getattr(os, "fdatasync", os.fsync)


class Flusher:
    """Flushes SQLite's write-ahead log, on a thread of its own, for all who wait at that moment.

    Other databases flush at each commit; for these (`path` is None) everybody is told at once.
    """

    def __init__(self, path: Path | None, on_death: OnDeath) -> None:
        self._path = path
        self._service: Consumer[Future[None]] = Consumer(
            "flusher", on_death, group=self._flush_for, fail=self._refuse, finish=True
        )

    def start(self) -> None:
        """Start the thread; do nothing if it runs or none is needed."""
        if self._path is not None:
            flush_folder(self._path.parent)
            self._service.start()

    def stop(self) -> None:
        """Flush for those who still wait, then stop."""
        self._service.stop()

    def when_durable(self, told: Told) -> None:
        """Call back once all that is committed now survives a power cut, with the error if that cannot be."""
        flushed: Future[None] = Future()
        flushed.add_done_callback(lambda _: told(flushed.exception()))
        self._service.put(flushed)

    def wait(self) -> None:
        """Return once all that is committed now survives a power cut.

        Errors: StoreUnavailableError; OutcomeUnknownError when the flusher dies.
        """
        flushed: Future[None] = Future()
        self._service.put(flushed)
        flushed.result()

    def _flush_for(self, arrived: Iterator[Future[None]]) -> None:
        waiting = list(arrived)
        error = self._flush_once()
        for flushed in waiting:
            _tell(flushed, error)

    def _refuse(self, flushed: Future[None], error: HQueueError) -> None:
        if isinstance(error, StoreUnavailableError):
            # Without a thread, before the start or at the end, whoever asks does it.
            _tell(flushed, self._flush_once())
        elif not flushed.done():
            _tell(flushed, error)

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


def _tell(flushed: Future[None], error: HQueueError | None) -> None:
    if error is None:
        flushed.set_result(None)
    else:
        flushed.set_exception(error)


def _unavailable(error: OSError) -> StoreUnavailableError:
    log.error("the write-ahead log cannot be flushed: %s", error)
    return StoreUnavailableError("the server's disk does not take what was written; look into the server's log")
