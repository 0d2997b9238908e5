"""One measured figure, and how it compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the benchmark's table.

    baseline: the same measured on something else in the same run, in the same unit; None where there is nothing to
    compare with. Absolute figures drift with the machine, ratios within one run do not.
    """

    name: str
    figure: float
    unit: str
    baseline: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the baseline the figure is."""
        return self.figure / self.baseline if self.baseline else None


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text."""
    cells = [("", "figure", "unit", "baseline", "ratio", "")]
    for row in rows:
        baseline = "" if row.baseline is None else f"{row.baseline:,.1f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cells.append((row.name, f"{row.figure:,.1f}", row.unit, baseline, ratio, row.note))
    widths = [max(len(line[column]) for line in cells) for column in range(6)]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}} {line[2]:<{widths[2]}}  "
        f"{line[3]:>{widths[3]}}  {line[4]:>{widths[4]}}  {line[5]}".rstrip()
        for line in cells
    )
