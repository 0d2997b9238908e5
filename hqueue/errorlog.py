"""The server's own errors, kept for `getServerErrors` until maintenance has stored them."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

_LONGEST: Final = 2_000
# Different messages between two passes of maintenance, or while the store is away; the log has them all.
_MOST: Final = 1_000


class ErrorLog(logging.Handler):
    """Counts what is logged as an error, by its text."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record; called by `logging`, with this handler's lock held."""
        try:
            text = _describe(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted; logging has its own way to say so
            self.handleError(record)
            return
        if text in self._counts or len(self._counts) < _MOST:
            self._counts[text] += 1

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def pending(self) -> dict[str, int]:
        """Return what has not been taken yet."""
        with self._held():
            return dict(self._counts)

    def take(self) -> dict[str, int]:
        """Return what has come together, and start anew."""
        with self._held():
            taken, self._counts = dict(self._counts), Counter()
        return taken

    def give_back(self, taken: Mapping[str, int]) -> None:
        """Count again what could not be stored."""
        with self._held():
            self._counts.update(taken)


def _describe(record: logging.LogRecord) -> str:
    """Return what happened, and of an exception its kind and its place, but not its text: that may hold anything."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        text += f" ({record.exc_info[0].__name__}{_place(record.exc_info[2])})"
    return text[:_LONGEST]


def _place(traceback: TracebackType | None) -> str:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    return f" in {PurePath(traceback.tb_frame.f_code.co_filename).name} line {traceback.tb_lineno}"
