"""Lines, tables and JSON: on a terminal as wide as it is and in colour, in a pipe whole and plain."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, RenderableType

# In a pipe nothing is cut off: whoever reads it there searches it.
PIPE_WIDTH: Final = 10_000


class Column(NamedTuple):
    """A column of a table; a `flexible` one gives way when the terminal is narrow."""

    title: str
    right: bool = False
    flexible: bool = False


class Cell(NamedTuple):
    """A text with a colour of the terminal's."""

    text: str
    style: str = ""


class Screen:
    """Where a command's answers go: stdout for what was asked, stderr for what is said beside it."""

    def __init__(self, *, json_wanted: bool = False, width: int | None = None) -> None:
        self.json_wanted = json_wanted
        self._width = width

    @property
    def interactive(self) -> bool:
        """Tell whether somebody can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def terminal(self) -> bool:
        """Tell whether a person reads stdout."""
        return sys.stdout.isatty()

    def line(self, text: str) -> None:
        """Write a line to stdout."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """Write text to stdout as it is."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def aside(self, text: str) -> None:
        """Write a line to stderr, where no script takes it for the answer."""
        sys.stdout.flush()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def confirmed(self, question: str) -> bool:
        """Ask a question that y answers with yes."""
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    def json(self, value: Any) -> None:
        """Write a value as JSON."""
        self.line(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        """Write a table with a line of titles."""
        from rich.table import Table  # noqa: PLC0415 - takes longer to import than most commands take

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                overflow="ellipsis",
                # Columns that may wrap give way first; their texts do not, they are cut off.
                no_wrap=not column.flexible,
            )
        for row in rows:
            table.add_row(*(_rich(cell, no_wrap=True) for cell in row))
        self._render(table)

    def fields(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """Write names and values, a pair a line; long values go on below themselves."""
        from rich.table import Table  # noqa: PLC0415 - as above

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, cell in pairs:
            table.add_row(name, _rich(cell))
        self._render(table)

    def _render(self, renderable: RenderableType) -> None:
        console = self._console()
        with console.capture() as captured:
            console.print(renderable)
        text = captured.get()
        if not console.is_terminal:
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        sys.stdout.write(text)
        sys.stdout.flush()

    def _console(self) -> Console:
        from rich.console import Console  # noqa: PLC0415 - as above

        width = self._width
        if width is None and not self.terminal and not os.environ.get("COLUMNS", "").isdigit():
            width = PIPE_WIDTH
        return Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)


def _rich(cell: Cell, *, no_wrap: bool = False) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - as above

    return Text(cell.text, style=cell.style, no_wrap=no_wrap, overflow="ellipsis" if no_wrap else "fold")


def _plain(value: Any) -> Any:
    """Return a date as ISO 8601 with its zone: on the wire it is UTC, and does not say so."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no place in JSON")
