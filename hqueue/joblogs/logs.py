"""All logs below one folder. Writers of one job wait for each other; reading takes no lock and changes nothing."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hqueue.errors import Kind, StoreFullError, StoreUnavailableError
from hqueue.failures import of_errno
from hqueue.folders import flush_file, flush_folder
from hqueue.joblogs.runfile import RunFile, read_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# Jobs share these locks by their ids, so that the number of locks and of open files is bounded.
SHELVES = 64
LONGEST_CHARACTER = 4


@dataclass(frozen=True)
class RunLog:
    """One run of a job, for reading; `title` is what the line above its output says ("attempt 2 on farm07").

    `open` says that more output may come: the first bytes of an unfinished character then wait for the rest.
    """

    run_id: int
    title: str
    open: bool = False


@dataclass(frozen=True)
class LogPiece:
    """A piece of a job's output.

    Units: `next` is the offset of what follows it, `end` that of the end at the moment; both in bytes.
    """

    text: str
    next: int
    end: int


@dataclass
class _Shelf:
    lock: threading.Lock = field(default_factory=threading.Lock)
    files: OrderedDict[tuple[int, int], RunFile] = field(default_factory=OrderedDict)
    # Unfinished runs whose file this process has looked through for what a power cut leaves.
    checked: set[tuple[int, int]] = field(default_factory=set)
    # Files that a failed flush has left, and the length to which they are cut back before anybody uses them.
    doubtful: dict[tuple[int, int], int] = field(default_factory=dict)

    def put(self, key: tuple[int, int], file: RunFile, most: int) -> None:
        while len(self.files) >= most:
            self.drop(next(iter(self.files)))
        self.files[key] = file

    def drop(self, key: tuple[int, int]) -> None:
        file = self.files.pop(key, None)
        if file is not None:
            file.close()


@dataclass(frozen=True)
class _Segment:
    """A part of what a job's output is put together from: bytes of a file, or of `text`."""

    path: Path | None
    start: int
    length: int
    text: bytes = b""


class JobLogs:
    """The output of all jobs; any thread may call anything.

    `max_output_bytes` is the cap per run; it is only noted so far: all output is kept.
    Errors: StoreFullError or StoreUnavailableError, with the folder and the reason.
    """

    def __init__(self, root: Path, *, max_output_bytes: int, max_open_files: int = 4 * SHELVES) -> None:
        self.root = root
        self.max_output_bytes = max_output_bytes
        self._open_per_shelf = max(1, max_open_files // SHELVES)
        self._shelves = tuple(_Shelf() for _ in range(SHELVES))
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailableError(
                f"The folder for job output, {root}, cannot be used: {error.strerror}."
            ) from error

    def path(self, job_id: int, run_id: int) -> Path:
        """Return where a run's log is."""
        return self._folder(job_id) / f"{run_id}.log"

    def append(self, job_id: int, run_id: int, offset: int, data: bytes, header: Callable[[], str]) -> int:
        """Store output that begins at an offset of the run's output; return how many bytes of output there are now.

        What is there already is skipped. Past the end (a gap) nothing is stored: the answer is where to send from.
        `header` is called for the first output, while the log is locked. Output of a finished run takes its last line
        away; finish() writes it again.
        """
        shelf, key = self._shelf(job_id), (job_id, run_id)
        with shelf.lock, self._complaining(job_id, "written"):
            file = self._find(shelf, key)
            if file is None:
                if offset != 0 or not data:
                    return 0
                file = self._create(shelf, key, header)
            if 0 <= offset <= file.output_bytes < offset + len(data):
                file.append(memoryview(data)[file.output_bytes - offset :])
                shelf.checked.add(key)
            return file.output_bytes

    def length(self, job_id: int, run_id: int) -> int:
        """Return how many bytes of output a run has; 0 for one without a log."""
        shelf = self._shelf(job_id)
        with shelf.lock, self._complaining(job_id, "read"):
            file = self._find(shelf, (job_id, run_id))
            return 0 if file is None else file.output_bytes

    def sync(self, job_id: int, run_id: int) -> None:
        """Return once the run's output survives a power cut.

        When that fails, the output is cut back to what is surely on disk, so that the client sends the rest again.
        """
        shelf, key = self._shelf(job_id), (job_id, run_id)
        with self._complaining(job_id, "written"):
            with shelf.lock:
                file = self._find(shelf, key)
                if file is None or (file.folders_synced and file.synced_bytes == file.output_bytes):
                    return
                # A descriptor of its own: the disk may take long, and the others on the shelf should not wait for it.
                fd, written, with_folders = os.dup(file.fd), file.output_bytes, not file.folders_synced
            try:
                flush_file(fd)
                if with_folders:
                    for folder in (self._folder(job_id), self._folder(job_id).parent, self.root):
                        flush_folder(folder)
            except OSError:
                # A failed fsync can make the kernel forget that the pages never got there: the next one would succeed.
                with shelf.lock:
                    shelf.drop(key)
                    shelf.doubtful[key] = file.header_bytes + file.synced_bytes
                    with contextlib.suppress(OSError):
                        self._cut_back(shelf, key)
                raise
            finally:
                os.close(fd)
            with shelf.lock:
                file.synced_bytes, file.folders_synced = max(file.synced_bytes, written), True

    def finish(self, job_id: int, run_id: int, header: Callable[[], str], end_line: str, *, least: int = 0) -> int:
        """Write the line about a run's end, unless there is one; return how many bytes of output there are.

        Where there are less than `least`, nothing is written: somebody has cut the output back meanwhile. A run without
        output gets a log, too.
        """
        shelf, key = self._shelf(job_id), (job_id, run_id)
        with shelf.lock, self._complaining(job_id, "written"):
            file = self._find(shelf, key)
            length = 0 if file is None else file.output_bytes
            if length >= least:
                file = file or self._create(shelf, key, header)
                file.finish(end_line)
                shelf.drop(key)
                shelf.checked.discard(key)
            return length

    def delete(self, job_id: int) -> None:
        """Remove all logs of a job. Whoever is reading one gets what was left to read, or less."""
        shelf = self._shelf(job_id)
        with shelf.lock:
            for key in [key for key in shelf.files if key[0] == job_id]:
                shelf.drop(key)
            shelf.checked -= {key for key in shelf.checked if key[0] == job_id}
            shelf.doubtful = {key: length for key, length in shelf.doubtful.items() if key[0] != job_id}
        with self._complaining(job_id, "removed"), contextlib.suppress(FileNotFoundError):
            # Outside the lock: to remove a file of gigabytes takes its time.
            shutil.rmtree(self._folder(job_id))

    def close(self) -> None:
        """Close every file; the next call opens what it needs."""
        for shelf in self._shelves:
            with shelf.lock:
                for key in list(shelf.files):
                    shelf.drop(key)

    def read(self, job_id: int, runs: Sequence[RunLog], offset: int, max_bytes: int) -> LogPiece:
        """Return the piece of a job's output that begins at an offset.

        The output is that of its runs, in the order given, without headers and last lines, with a line that names the
        run above every one but the first. It only grows at the end while only the last run still writes.
        Units: bytes; at least four are read, so that every piece gets on. A character is never cut in two.
        """
        with self._complaining(job_id, "read"):
            segments = self._segments(job_id, runs)
            end = sum(one.length for one in segments)
            offset = min(max(offset, 0), end)
            data = _gather(segments, offset, offset + max(max_bytes, LONGEST_CHARACTER))
        more = offset + len(data) < end or (bool(runs) and runs[-1].open)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data, final=not more)
        unfinished = len(decoder.getstate()[0])
        return LogPiece(text, offset + len(data) - unfinished, end)

    def tail_chars(self, job_id: int, runs: Sequence[RunLog], chars: int | None, max_bytes: int) -> str:
        """Return the last characters of a job's output (see read); None or less than one: all of it.

        At most `max_bytes` are read, the newest; when that leaves out some that were asked for, the first line says so.
        The cost depends on what is asked for, not on the length of the output.
        """
        wanted = max_bytes if chars is None or chars < 1 else min(max_bytes, chars * LONGEST_CHARACTER)
        with self._complaining(job_id, "read"):
            segments = self._segments(job_id, runs)
            end = sum(one.length for one in segments)
            start = max(0, end - wanted)
            data = _gather(segments, start, end)
        if start > 0:
            # The rest of a character that begins before; at most three bytes, or it is no UTF-8 anyway.
            whole = re.sub(rb"\A[\x80-\xbf]{1,3}", b"", data)
            start, data = start + len(data) - len(whole), whole
        text = data.decode("utf-8", "replace")
        if chars is not None and 1 <= chars <= len(text):
            return text[-chars:]
        return text if start == 0 else f"[{start} bytes of output before this are left out]\n{text}"

    def _folder(self, job_id: int) -> Path:
        return self.root / f"{job_id // 1000:06d}" / str(job_id)

    def _shelf(self, job_id: int) -> _Shelf:
        return self._shelves[job_id % SHELVES]

    @contextlib.contextmanager
    def _complaining(self, job_id: int, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            kind = StoreFullError if of_errno(error.errno) is Kind.FULL else StoreUnavailableError
            raise kind(f"The output of job {job_id} cannot be {done} in {self.root}: {reason}.") from error

    def _find(self, shelf: _Shelf, key: tuple[int, int]) -> RunFile | None:
        """Return the open file; None where there is none, or none with a whole header."""
        file = shelf.files.get(key)
        if file is not None and os.fstat(file.fd).st_nlink:
            shelf.files.move_to_end(key)
            return file
        # Not open, or removed by somebody: then the client, which keeps all of it until the end, sends it again.
        shelf.drop(key)
        self._cut_back(shelf, key)
        file = RunFile.open(self.path(*key), writing=True)
        if file is not None:
            shelf.put(key, file, self._open_per_shelf)
            if not file.finished and key not in shelf.checked:
                file.cut_zeros()
                shelf.checked.add(key)
        return file

    def _cut_back(self, shelf: _Shelf, key: tuple[int, int]) -> None:
        length = shelf.doubtful.get(key)
        if length is not None:
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self.path(*key), length)
            del shelf.doubtful[key]

    def _create(self, shelf: _Shelf, key: tuple[int, int], header: Callable[[], str]) -> RunFile:
        file = RunFile.create(self.path(*key), header())
        shelf.put(key, file, self._open_per_shelf)
        shelf.checked.add(key)
        return file

    def _segments(self, job_id: int, runs: Sequence[RunLog]) -> list[_Segment]:
        segments: list[_Segment] = []
        within_a_line = False
        for place, run in enumerate(runs):
            if place > 0:
                line = ("\n" * within_a_line + f"--- {run.title} ---\n").encode("utf-8", "replace")
                segments.append(_Segment(None, 0, len(line), line))
                within_a_line = False
            path = self.path(job_id, run.run_id)
            file = RunFile.open(path, writing=False)
            if file is None:
                continue
            with contextlib.closing(file):
                within_a_line = file.ends_within_a_line
                segments.append(_Segment(path, file.header_bytes, file.output_bytes))
        return segments


def _gather(segments: Sequence[_Segment], start: int, stop: int) -> bytes:
    """Return the bytes between two offsets of the whole; fewer when a file has got shorter meanwhile."""
    parts: list[bytes] = []
    begin = 0
    for one in segments:
        low, high = max(start - begin, 0), min(stop - begin, one.length)
        begin += one.length
        if low >= high:
            continue
        part = one.text[low:high] if one.path is None else read_part(one.path, one.start + low, high - low)
        parts.append(part)
        if len(part) < high - low:
            break
    return b"".join(parts)
