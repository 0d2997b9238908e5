"""Which line of an output is told to people, and how lines are counted."""

from __future__ import annotations

import pytest

from hqueue.views.failures import as_cause, telling_line


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        (" \n\n", ""),
        ("a\nfertig ü\n\n", "fertig ü"),
        ("ERROR one\nError: two\nbye\n", "Error: two"),
        ("No licenses could be found\nexit", "No licenses could be found"),
        ("sh: x: Not Found\r\nPROGRESS 1\rPROGRESS 2\r", "sh: x: Not Found"),
        ("\x1b[1;31mFatal\x1b[0m: \x1b]0;titel\x07 aus\x00\x08\n", "Fatal:  aus"),
        ("permission denied", "permission denied"),
        ("error " + "ä" * 300, "error " + "ä" * 293 + "…"),
        ("error " + "ä" * 294, "error " + "ä" * 294),
    ],
)
def test_telling_line(output: str, line: str) -> None:
    assert telling_line(output) == line
    assert len(line) <= 300


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("frame 0012 of 240", "frame # of #"),
        ("at 0x7FFE12 in deadbeef99", "at # in #"),
        ("facade added", "facade added"),
        ("v1.2a", "v#.#a"),
    ],
)
def test_as_cause(line: str, cause: str) -> None:
    assert as_cause(line) == cause
