"""A signal that comes at any moment is heard."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.farm import PATIENCE_S, Farm, running_farm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="another system: signals")


def test_servers_that_are_told_to_end_as_soon_as_they_are_ready(tmp_path: Path) -> None:
    # Many at once: the moment in which a signal could be missed is longer on a busy machine.
    farms = []
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        farms.append(Farm(folder))
    try:
        for farm in farms:
            farm.server.start(says_ready=False)
        for farm in farms:
            farm.server.wait_ready()
            farm.server.signal()
        assert {farm.server.wait() for farm in farms} == {0}, f"not all ended within {PATIENCE_S:g} s"
    finally:
        for farm in farms:
            farm.close()


def test_a_crash_says_what_each_thread_was_doing(tmp_path: Path) -> None:
    with running_farm(tmp_path, {}) as farm:
        farm.server.signal(signal.SIGSEGV)
        assert farm.server.wait() == -signal.SIGSEGV
        said = farm.server.log.read_text()
    assert "Segmentation fault" in said
    assert "service.py" in said
