"""A soak as short as it can be and still have all of it; `.ci/run` has a longer one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.soak.soak import soak

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="another system: signals, /proc and file systems of Linux")
def test_nothing_is_lost_whatever_happens(tmp_path: Path) -> None:
    report = soak(tmp_path, 25.0, seed=9)
    assert report.counts["submissions acknowledged"] > 20
    assert report.counts["jobs succeeded"] > 20
    assert not report.complaints, "\n".join(report.complaints)
