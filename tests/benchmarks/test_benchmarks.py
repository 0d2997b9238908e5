"""Each benchmark at a tiny size: only that it works; a test never asserts a time."""

from __future__ import annotations

import pytest

from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.rows import table


@pytest.mark.slow
@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_benchmark_runs(part):
    rows = PARTS[part](0.01)
    assert rows
    assert all(row.figure > 0 for row in rows)
    assert all(row.name in table(rows) for row in rows)
