"""Commits that share a flush: nobody is told before the disk has it, and a disk that fails is told to everybody."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hqueue import durability
from hqueue.durability import Flusher
from hqueue.errors import StoreUnavailableError
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
def flusher(tmp_path, disk):
    (tmp_path / "größe.db-wal").touch()
    flusher = Flusher(tmp_path / "größe.db", print)
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


def test_a_disk_that_fails_is_told_and_the_next_flush_is_tried(flusher, disk):
    disk.broken = True
    disk.go_on.release()
    with pytest.raises(StoreUnavailableError, match="disk"):
        flusher.wait()
    disk.broken = False
    disk.go_on.release()
    flusher.wait()
    assert len(disk.flushed) == 2


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
