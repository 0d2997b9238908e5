"""A few threads that take work in order."""

from __future__ import annotations

import contextlib
import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)


class Workers:
    """A fixed number of threads over one queue.

    The standard library's executor makes a Future per task and keeps the process alive for a thread that hangs; neither
    is wanted here: answers are delivered by the task itself, and a stopping server waits for them, not for threads.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._count = threads
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads, once."""
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
                for number in range(1, self._count + 1)
            ]
            for thread in self._threads:
                thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done."""
        self._tasks.put(task)

    def stop(self) -> None:
        """Let each thread end after the task it has; what is still queued is dropped."""
        with contextlib.suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:  # noqa: BLE001 - a task's bug must not cost the thread that serves everybody after it
                _log.exception("a call could not be answered")
            del task  # and with it a body of tens of megabytes, while this thread waits for the next
