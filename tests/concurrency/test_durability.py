"""Commits that share a flush: nobody is told before the disk has it, and a disk that fails is told to everybody."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from pathlib import Path

import pytest

from hqueue import durability
from hqueue.durability import Flusher
from hqueue.errors import BrokenPromiseError, OutcomeUnknownError
from tests.fakes import PATIENCE_S


class Disk:
    """Stands in for the call that flushes: counts, and holds the flusher until it is let go."""

    def __init__(self) -> None:
        self.flushed: list[str] = []
        self.arrived = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.broken = False

    def __call__(self, fd: int) -> None:
        self.flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        self.arrived.release()
        assert self.go_on.acquire(timeout=PATIENCE_S)
        if self.broken:
            raise OSError(5, "Input/output error")


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(durability, "_flush", disk)
    return disk


@pytest.fixture
def deaths():
    return []


@pytest.fixture
def flusher(tmp_path, disk, deaths):
    (tmp_path / "größe.db-wal").touch()
    flusher = Flusher(tmp_path / "größe.db", deaths.append)
    flusher.start()
    yield flusher
    for _ in range(10):
        disk.go_on.release()
    flusher.stop()


def test_nobody_is_told_before_the_flush_and_all_who_waited_meanwhile_share_the_next(flusher, disk, tmp_path):
    told: list[int] = []
    everybody = threading.Barrier(2)
    flusher.when_durable(lambda _: told.append(0))
    assert disk.arrived.acquire(timeout=PATIENCE_S)
    for number in range(1, 50):
        flusher.when_durable(lambda _, number=number: told.append(number))
    flusher.when_durable(lambda _: everybody.wait(PATIENCE_S))
    assert told == []
    disk.go_on.release()
    assert disk.arrived.acquire(timeout=PATIENCE_S)
    assert told == [0]
    disk.go_on.release()
    everybody.wait(PATIENCE_S)
    assert told == list(range(50))
    assert disk.flushed == [str(tmp_path / "größe.db-wal")] * 2


def test_after_a_flush_that_failed_nothing_is_called_durable_any_more(flusher, disk, deaths):
    """The kernel may have forgotten what was to be written: a later flush would succeed, and stand behind a hole."""
    told: list[BaseException | None] = []
    disk.broken = True
    flusher.when_durable(told.append)
    assert disk.arrived.acquire(timeout=PATIENCE_S)
    flusher.when_durable(told.append)
    disk.go_on.release()
    with pytest.raises(OutcomeUnknownError, match="not known"):
        flusher.wait()
    disk.broken = False
    for _ in range(3):
        disk.go_on.release()
    flusher.start()  # nobody revives it
    with pytest.raises(OutcomeUnknownError):
        flusher.wait()
    flusher.stop()
    with pytest.raises(OutcomeUnknownError):
        flusher.wait()
    assert [type(error) for error in told] == [OutcomeUnknownError] * 2
    assert [type(error) for error in deaths] == [BrokenPromiseError]
    assert len(disk.flushed) == 1


def test_without_a_descriptor_left_it_still_flushes(flusher, disk):
    """The log is opened once; only another file under its name is opened anew."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 10, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        done = threading.Event()
        flusher.when_durable(lambda error: error or done.set())
        assert disk.arrived.acquire(timeout=PATIENCE_S)
        disk.go_on.release()
        assert done.wait(PATIENCE_S)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_another_file_under_the_name_is_the_one_that_is_flushed(flusher, disk, tmp_path):
    disk.go_on.release()
    flusher.wait()
    (tmp_path / "neu").write_text("")
    (tmp_path / "neu").rename(tmp_path / "größe.db-wal")
    disk.go_on.release()
    flusher.wait()
    assert disk.flushed == [str(tmp_path / "größe.db-wal")] * 2


def test_one_who_fails_when_told_holds_up_nobody(flusher, disk, caplog):
    def fail(_error):
        raise ValueError("ärgerlich")

    flusher.when_durable(fail)
    disk.go_on.release()
    disk.go_on.release()
    flusher.wait()
    assert "ärgerlich" in caplog.text


def test_the_last_ones_are_flushed_at_the_end(tmp_path, disk):
    (tmp_path / "a.db-wal").touch()
    flusher = Flusher(tmp_path / "a.db", print)
    flusher.start()
    told = []
    flusher.when_durable(told.append)
    disk.go_on.release()
    disk.go_on.release()
    flusher.stop()
    assert told == [None]
    flusher.wait()  # without a thread whoever asks does it
    assert len(disk.flushed) == 2


def test_without_a_log_there_is_nothing_to_flush(tmp_path, disk):
    Flusher(tmp_path / "nothing.db", print).wait()
    Flusher(None, print).wait()
    assert disk.flushed == []
