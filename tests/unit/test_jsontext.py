"""The JSON reader: what the standard library reads, it reads alike, and it takes what would overwhelm that one."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqueue.jobspec import jsontext
from hqueue.jobspec.jsontext import JsonDepthError, JsonTextError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("longest_piece", [0, 8, 16 * 1024])
@given(value=JSON_VALUES, indent=st.sampled_from([None, 0, "\t"]), ascii_only=st.booleans())
def test_reads_what_the_standard_library_reads(
    longest_piece: int, value: Any, indent: str | int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_PIECE", longest_piece)
        assert jsontext.parse(text, max_depth=100) == value


@pytest.mark.parametrize("longest_piece", [0, 16 * 1024])
@given(text=st.text(alphabet='{}[]",:\\ \n01-.eEtrufalsné\x00', max_size=30))
def test_accepts_exactly_what_the_standard_library_accepts(longest_piece: int, text: str) -> None:
    def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(members)) != len(members):
            raise ValueError
        return dict(members)

    try:
        expected = (json.loads(text, object_pairs_hook=unique),)
    except ValueError:
        expected = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_PIECE", longest_piece)
        try:
            found = (jsontext.parse(text, max_depth=100),)
        except JsonTextError:
            found = None
    assert found == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected a value, found the end of the text (line 1, column 1)"),
        ("\n\n nul", "expected a value, found 'nul' (line 3, column 2)"),
        ("{}\n{}", "expected the end of the text, found '{}' (line 2, column 1)"),
        ('{"a" 1}', "expected ':', found '1}' (line 1, column 6)"),
        ('{"a": 1,}', "expected a key in double quotes, found '}' (line 1, column 9)"),
        ('{"a": 1 "b"}', "expected ',' or '}', found '\"b\"}' (line 1, column 9)"),
        ("[1 2]", "expected ',' or ']', found '2]' (line 1, column 4)"),
        ("[1,]", "expected a value, found ']' (line 1, column 4)"),
        ('{"é": 1, "é": 2}', "expected another key, found 'é' for the second time (line 1, column 10)"),
        ('{"a\\n": 1, "a\\n": 2}', "expected another key, found 'a\\n' for the second time (line 1, column 12)"),
        ('"Straße', "expected the end of the string, found the end of the text (line 1, column 8)"),
        ('"a\nb"', "expected an allowed character or escape in the string, found '\\nb\"' (line 1, column 3)"),
        (r'"\x"', "expected an allowed character or escape in the string, found '\\\\x\"' (line 1, column 2)"),
        ("1" * 5000, "expected a number of at most 4000 characters, found one of 5000 (line 1, column 1)"),
    ],
)
def test_complaints_say_where_and_what(text: str, complaint: str) -> None:
    with pytest.raises(JsonTextError) as caught:
        jsontext.parse(text, max_depth=10)
    assert str(caught.value) == complaint


def test_a_mark_of_byte_order_is_passed_over() -> None:
    assert jsontext.parse("\ufeff {}", max_depth=1) == {}


def test_what_is_no_finite_number_is_read_as_the_standard_library_reads_it() -> None:
    nan, *others = jsontext.parse("[NaN, Infinity, -Infinity, 1e999]", max_depth=1)
    assert math.isnan(nan)
    assert others == [math.inf, -math.inf, math.inf]


@pytest.mark.parametrize("bracket", ["[", '{"a":', '{"a":['])
def test_a_million_brackets_are_a_complaint(bracket: str) -> None:
    with pytest.raises(JsonDepthError, match="more than 2000"):
        jsontext.parse(bracket * 1_000_000, max_depth=2000)


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_counted_exactly(opening: str, closing: str, padding: int) -> None:
    def nested(depth: int) -> str:
        return f"{opening * depth}{' ' * padding}0{closing * depth}"

    value = jsontext.parse(nested(2000), max_depth=2000)
    for _ in range(2000):
        value = value[0] if isinstance(value, list) else value["a"]
    assert value == 0
    with pytest.raises(JsonDepthError):
        jsontext.parse(nested(2001), max_depth=2000)
    assert jsontext.parse(nested(3), max_depth=3) is not None
    with pytest.raises(JsonDepthError):
        jsontext.parse(nested(4), max_depth=3)


def test_long_objects_inside_long_objects_are_tried_once_per_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Decoder:
        def raw_decode(self, piece: str) -> tuple[Any, int]:
            tried.append(len(piece))
            raise ValueError

    monkeypatch.setattr(jsontext, "_DECODER", Decoder())
    text = '{"a":' * 900 + '"' + "é" * (5 * jsontext._PIECE) + '"' + "}" * 900
    jsontext.parse(text, max_depth=900)
    assert len(tried) == 1


def test_other_threads_run_while_a_large_text_is_read() -> None:
    text = json.dumps([{"name": f"Bild {number}", "command": "x" * 100} for number in range(20_000)])
    assert len(text) > 2_000_000
    finished = threading.Event()
    turns_before_the_end = 0

    def read() -> None:
        jsontext.parse(text, max_depth=10)
        finished.set()

    reader = threading.Thread(target=read)
    reader.start()
    while not finished.wait(0.001):
        turns_before_the_end += 1
    reader.join()
    assert turns_before_the_end > 1
