from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqueue.client.output import LONGEST_LINE_BYTES, Progress


def read(*pieces: bytes, finish: bool = True) -> tuple[int, int] | None:
    progress = Progress()
    for piece in pieces:
        progress.feed(piece)
    if finish:
        progress.finish()
    return progress.latest


@pytest.mark.parametrize(
    ("output", "latest"),
    [
        (b"PROGRESS: 3/10\n", (3, 10)),
        (b"[12:01] PROGRESS: 3/10 tiles done\n", (3, 10)),
        (b"PROGRESS:3 / 10\n", (3, 10)),
        (b"PROGRESS: 3.7/10.0\n", (3, 10)),
        (b"ALF_PROGRESS 45%\n", (45, 100)),
        (b"ALF_PROGRESS 45.5 %\n", (45, 100)),
        (b"PROGRESS: 1/4\rPROGRESS: 2/4\r", (2, 4)),
        (b"ALF_PROGRESS 45%\nPROGRESS: 1/4\n", (1, 4)),
        (b"PROGRESS: 1/4 ALF_PROGRESS 45%\n", (45, 100)),
        (b"PROGRESS: 1/4\nPROGRESS: 5/0\n", (1, 4)),
        (b"PROGRESS: 9/4\n", (4, 4)),
        (b"PROGRESS: -1/4\n", (0, 4)),
        (b"ALF_PROGRESS 120%\n", (100, 100)),
        (b"no PROGRESS here: 1/4\n", None),
        (b"ALF_PROGRESS 45\n", None),
        (b"MYPROGRESS: 1/4\n", None),
        ("Größe PROGRESS: 1/4 日本\n".encode(), (1, 4)),
        (b"\xff\xfe PROGRESS: 1/4 \xff\n", (1, 4)),
        (b"PROGRESS: " + b"9" * 400 + b"/4\n", None),
        (b"PROGRESS: 1/4", (1, 4)),
        (b"", None),
    ],
)
def test_the_last_mark_counts(output: bytes, latest: tuple[int, int] | None) -> None:
    assert read(output) == latest


def test_a_line_that_has_not_ended_does_not_count_yet() -> None:
    assert read(b"PROGRESS: 5/1", finish=False) is None
    assert read(b"PROGRESS: 5/1", b"00\n", finish=False) == (5, 100)


@given(st.binary(max_size=20), st.lists(st.integers(1, 12), max_size=8))
def test_pieces_make_no_difference(noise: bytes, cuts: list[int]) -> None:
    output = b"x PROGRESS: 12/345\r" + noise + b"\nALF_PROGRESS 7%\r\n" + noise
    pieces, rest = [], output
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    assert read(*pieces, rest) == read(output)


def test_a_line_without_an_end_is_read_and_not_kept() -> None:
    progress = Progress()
    progress.feed(b"PROGRESS: 1/4 " + b"x" * (2 * LONGEST_LINE_BYTES))
    assert progress.latest == (1, 4)
    assert len(progress._tail) < LONGEST_LINE_BYTES
