from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hqueue.joblogs import JobLogs, RunLog

if TYPE_CHECKING:
    from pathlib import Path

JOBS, WRITERS, PIECES, PIECE_BYTES = 3, 4, 60, 100


def test_threads_that_send_the_same_output_write_it_once(tmp_path: Path) -> None:
    # One open file per lock, and the jobs share one: each append closes another's file.
    logs = JobLogs(tmp_path, max_output_bytes=1 << 30, max_open_files=1)
    jobs = [64 * number for number in range(1, JOBS + 1)]
    output = b"".join(f"{number:0{PIECE_BYTES - 1}}\n".encode() for number in range(PIECES))
    together = threading.Barrier(WRITERS + 1)
    done = threading.Event()

    def send() -> None:
        together.wait(10)
        at = dict.fromkeys(jobs, 0)
        while any(offset < len(output) for offset in at.values()):
            for job, offset in at.items():
                at[job] = logs.append(job, 1, offset, output[offset : offset + PIECE_BYTES + 7], lambda: "küche\n" * 9)
                logs.sync(job, 1)

    def follow() -> None:
        together.wait(10)
        while not done.is_set():
            for job in jobs:
                piece = logs.read(job, [RunLog(1, "x", open=True)], 0, len(output))
                assert output.startswith(piece.text.encode())

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        follower = pool.submit(follow)
        writers = [pool.submit(send) for _ in range(WRITERS)]
        try:
            for writer in writers:
                writer.result(60)
        finally:
            done.set()
        follower.result(10)
    for job in jobs:
        logs.finish(job, 1, lambda: "never", "exit 0")
        assert logs.path(job, 1).read_bytes().endswith("küche\n".encode() + output + b"exit 0\n")
    logs.close()


def test_jobs_that_are_deleted_while_others_are_read_and_written(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path, max_output_bytes=1 << 30, max_open_files=1)
    together = threading.Barrier(3)

    def write() -> None:
        together.wait(10)
        for job in range(64, 64 * 101, 64):
            assert logs.append(job, 1, 0, b"x" * 1000, lambda: "h") == 1000

    def delete() -> None:
        together.wait(10)
        for _ in range(3):
            for job in range(64 * 51, 64 * 101, 64):
                if logs.length(job, 1) == 1000:
                    logs.delete(job)

    def read() -> None:
        together.wait(10)
        for job in range(64, 64 * 101, 64):
            assert logs.tail_chars(job, [RunLog(1, "x")], 10, 1000) in {"", "x" * 10}

    with ThreadPoolExecutor(3) as pool:
        for thread in [pool.submit(write), pool.submit(delete), pool.submit(read)]:
            thread.result(60)
    assert all(logs.length(job, 1) == 1000 for job in range(64, 64 * 51, 64))
    logs.close()
