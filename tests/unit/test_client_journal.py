from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from hqueue.client import journal as journal_module
from hqueue.client.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "läufe.jsonl"


def reopened(path: Path) -> dict[str, dict[str, object]]:
    journal = Journal(path)
    journal.close()
    assert journal.unreadable_lines == 0
    return journal.entries


def test_what_was_flushed_is_there_again(path: Path) -> None:
    journal = Journal(path)
    journal.put("a", job=1, name="Würfel\n日本 \udcff")
    journal.put("b", job=2)
    journal.put("a", pid=7, job=None)
    journal.drop("b")
    journal.flush()
    journal.put("c", job=3)
    assert reopened(path) == {"a": {"name": "Würfel\n日本 \udcff", "pid": 7}}
    journal.close()


def test_a_line_cut_short_is_passed_over(path: Path) -> None:
    journal = Journal(path)
    journal.put("a", job=1)
    journal.put("b", job=2)
    journal.flush()
    journal.close()
    path.write_bytes(path.read_bytes()[:-5] + b'\n\0\0\0\n[1]\n{"token": "c"}\n')
    journal = Journal(path)
    journal.close()
    assert journal.entries == {"a": {"job": 1}, "c": {}}
    assert journal.unreadable_lines == 3
    assert reopened(path) == {"a": {"job": 1}, "c": {}}


def test_it_does_not_grow_with_what_has_been(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SPARE_BYTES", 1000)
    journal = Journal(path)
    journal.put("stays", job=1)
    for number in range(500):
        journal.put(f"t{number}", job=number)
        journal.drop(f"t{number}")
        journal.flush()
    assert path.stat().st_size < 2000
    journal.sync()
    journal.close()
    assert reopened(path) == {"stays": {"job": 1}}


def test_a_full_disk_leaves_no_half_line_and_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path)
    journal.put("a", job=1)
    journal.flush()
    really_write = os.write
    room = [10]

    def write(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = really_write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)
    journal.put("b", job=2)
    journal.put("c", job=3)
    with pytest.raises(OSError, match="space"):
        journal.flush()
    assert reopened(path) == {"a": {"job": 1}}
    journal.take_back("b")
    room[0] = 10_000
    # The file was replaced by reading it above; this one's descriptor is the one that counts.
    journal._rewrite()
    journal.flush()
    assert reopened(path) == {"a": {"job": 1}, "c": {"job": 3}}
    journal.close()
