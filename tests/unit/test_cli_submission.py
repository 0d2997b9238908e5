from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hqueue.cli import hq, jobs
from hqueue.cli.program import EXIT_USAGE, ComplaintError
from hqueue.cli.submission import (
    MAX_FRAME_JOBS,
    as_json,
    parse_frames,
    parse_resources,
    parse_variables,
    specifications,
)
from hqueue.jobspec import parse

if TYPE_CHECKING:
    from pathlib import Path


def specs(*words: str, literal: list[str] | None = None) -> list[Any]:
    options = hq.parser().parse_args(["submit", *words])
    options.literal = literal
    return specifications(options, "jürgen")


def submitted(capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    """What the whole program would submit."""
    assert hq.main(["submit", "--dry-run", *words]) == 0
    found: list[Any] = json.loads(capsys.readouterr().out)
    return found


class TestCommand:
    def test_one_word_is_a_line_for_the_shell(self) -> None:
        assert specs("cd $HQROOT; render würfel") == [
            {"name": "cd $HQROOT; render würfel", "command": "cd $HQROOT; render würfel", "submittedBy": "jürgen"}
        ]

    def test_several_words_arrive_exactly(self, capsys: pytest.CaptureFixture[str]) -> None:
        (spec,) = submitted(capsys, "--", "echo", "a  b", "$HOME", "it's", "--wait", "-f")
        assert spec["command"] == "echo 'a  b' '$HOME' 'it'\"'\"'s' --wait -f"

    def test_after_the_dashes_everything_is_the_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        (spec,) = submitted(capsys, "--name", "x", "--", "job.json")
        assert spec["command"] == "job.json"
        (spec,) = submitted(capsys, "--", "--name", "--", "x")
        assert spec["command"] == "--name -- x"

    def test_words_before_and_after_the_dashes_are_one_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        (spec,) = submitted(capsys, "render", "--", "-s", "1")
        assert spec["command"] == "render -s 1"

    def test_name_is_the_first_line(self) -> None:
        assert specs("\n  set -e\nrender")[0]["name"] == "set -e"
        assert len(specs("x" * 500)[0]["name"]) == 80

    @pytest.mark.parametrize("words", [[], [""], ["  \n"]])
    def test_nothing_is_a_complaint(self, words: list[str]) -> None:
        with pytest.raises(ComplaintError, match="nothing to submit"):
            specs(*words)

    def test_option_of_the_command_without_dashes(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            hq.main(["submit", "render", "-s", "1"])
        assert end.value.code == EXIT_USAGE
        assert "goes after --" in capsys.readouterr().err

    def test_every_option_arrives_under_its_property(self) -> None:
        (spec,) = specs(
            *("--name", "Würfel_日本", "--priority", "5", "--cpus", "4", "--group", "gpu", "--host", "farm07"),
            *("--tag", "single", "--tag", "a,b", "--tries", "2", "--max-time", "60", "--env", "A=1", "--env", "B=x=y"),
            *("--description", "für Kim", "--shell", "sh", "--resource", "größe=2", "--resource", "a=b=3", "echo"),
        )
        assert spec == {
            "name": "Würfel_日本",
            "command": "echo",
            "submittedBy": "jürgen",
            "priority": 5,
            "cpus": 4,
            "hostgroup": "gpu",
            "host": "farm07",
            "tags": ["single", "a,b"],
            "triesLeft": 2,
            "maxTime": 60,
            "environment": {"A": "1", "B": "x=y"},
            "description": "für Kim",
            "shell": "sh",
            "resources": {"größe": 2, "a=b": 3},
        }

    def test_several_hosts_are_a_list(self) -> None:
        (spec,) = specs("--host", "farm07", "--host", "farm08", "echo")
        assert spec["host"] == ["farm07", "farm08"]

    def test_zero_is_said_and_nothing_is_not(self) -> None:
        (spec,) = specs("--priority", "0", "echo")
        assert spec["priority"] == 0
        assert "cpus" not in spec


class TestVariables:
    def test_values_may_hold_anything(self) -> None:
        assert parse_variables(["A=", "B=x=y\nz"]) == {"A": "", "B": "x=y\nz"}

    @pytest.mark.parametrize("pair", ["A", "=x", ""])
    def test_others_are_complaints(self, pair: str) -> None:
        with pytest.raises(ComplaintError, match="expected NAME=VALUE"):
            parse_variables([pair])


class TestResources:
    def test_one_unless_it_says_more(self) -> None:
        assert parse_resources(["nuke", "sidefx.license.render=2"]) == {"nuke": 1, "sidefx.license.render": 2}

    @pytest.mark.parametrize(
        "text", ["", "=2", " =2", "nuke=", "nuke=0", "nuke=-1", "nuke=viele", "nuke=1.5", "nuke=²"]
    )
    def test_others_are_complaints(self, text: str) -> None:
        with pytest.raises(ComplaintError, match="expected NAME or NAME=N"):
            parse_resources([text])


class TestFrames:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("7", [(7, 7)]),
            ("1-3", [(1, 1), (2, 2), (3, 3)]),
            ("1-25:10", [(1, 10), (11, 20), (21, 25)]),
            ("1-3:100", [(1, 3)]),
            ("-5--3", [(-5, -5), (-4, -4), (-3, -3)]),
            ("1-4:2, 9", [(1, 2), (3, 4), (9, 9)]),
        ],
    )
    def test_ranges(self, text: str, expected: list[tuple[int, int]]) -> None:
        assert parse_frames(text) == expected

    def test_every_frame_is_rendered_once(self) -> None:
        found = parse_frames("1-240:7")
        assert [frame for first, last in found for frame in range(first, last + 1)] == list(range(1, 241))

    @pytest.mark.parametrize("text", ["", "x", "1-", "1-10:0", "10-1", "1-10:x", "1..5", "1,,2", "٣"])
    def test_others_are_complaints(self, text: str) -> None:
        with pytest.raises(ComplaintError, match="--frames") as error:
            parse_frames(text)
        assert error.value.exit_code == EXIT_USAGE

    def test_too_many_are_refused_before_they_are_counted_out(self) -> None:
        with pytest.raises(ComplaintError, match="100,000"):
            parse_frames("1-999999999")
        assert len(parse_frames(f"1-{MAX_FRAME_JOBS}")) == MAX_FRAME_JOBS

    def test_children_have_their_frames(self) -> None:
        (spec,) = specs("--frames", "1-20:10", "--name", "shot", "--cpus", "2", "--env", "S={start}", "r {start} {end}")
        assert spec == {
            "name": "shot",
            "submittedBy": "jürgen",
            "children": [
                {"name": "shot 1-10", "command": "r 1 10", "cpus": 2, "environment": {"S": "1"}},
                {"name": "shot 11-20", "command": "r 11 20", "cpus": 2, "environment": {"S": "11"}},
            ],
        }

    def test_name_may_hold_frames_and_variables_of_the_shell_stay(self) -> None:
        (spec,) = specs("--frames", "4", "--name", "s_{start}", "for start in 1; do r ${start} {start}; done")
        assert spec["children"][0]["name"] == "s_4"
        assert spec["children"][0]["command"] == "for start in 1; do r ${start} 4; done"

    def test_placeholders_need_no_quotes(self) -> None:
        (spec,) = specs("--frames", "4", "r", "f.{start}.exr", "a b", literal=None)
        assert spec["children"][0]["command"] == "r f.4.exr 'a b'"

    def test_command_without_frames_is_a_complaint(self) -> None:
        with pytest.raises(ComplaintError, match=r"neither \{start\} nor \{end\}, so all 3 jobs"):
            specs("--frames", "1-3", "render")


class TestFile:
    def test_file_is_taken_as_it_stands(self, tmp_path: Path) -> None:
        path = tmp_path / "Höhle.json"
        path.write_text('\ufeff{"name": "Würfel", "neu": [1]}', encoding="utf-8")
        assert specs(str(path)) == [{"name": "Würfel", "neu": [1]}]

    def test_other_names_need_the_option(self, tmp_path: Path) -> None:
        path = tmp_path / "job"
        path.write_text('[{"name": "a"}, {"name": "b"}]', encoding="utf-8")
        assert specs("--spec", str(path)) == [{"name": "a"}, {"name": "b"}]

    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"name": "a"}')))
        assert specs("-") == [{"name": "a"}]

    def test_options_apply_to_each(self, tmp_path: Path) -> None:
        path = tmp_path / "jobs.json"
        path.write_text('[{"name": "a", "priority": 1}, {"name": "b"}]', encoding="utf-8")
        assert specs("--priority", "7", str(path)) == [{"name": "a", "priority": 7}, {"name": "b", "priority": 7}]

    def test_thousand_levels(self, tmp_path: Path) -> None:
        path = tmp_path / "deep.json"
        path.write_text('{"name":"x","children":[' * 999 + '{"name":"x"}' + "]}" * 999, encoding="utf-8")
        before = sys.getrecursionlimit()
        assert len(parse(as_json(specs(str(path))), max_depth=1000).jobs) == 1000
        assert sys.getrecursionlimit() == before

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"{", "is not JSON"),
            (b"", "is not JSON"),
            (b'{"name": "\xff"}', "is not UTF-8"),
            (b"[" * 1_000_000, "nested too deeply"),
        ],
    )
    def test_bad_ones_are_complaints(self, tmp_path: Path, content: bytes, complaint: str) -> None:
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(ComplaintError, match=complaint):
            specs(str(path))

    def test_missing_one_is_a_complaint(self, tmp_path: Path) -> None:
        with pytest.raises(ComplaintError, match="cannot be read: no such file"):
            specs(str(tmp_path / "x.json"))

    def test_option_for_what_is_no_specification(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        path.write_text("[1]", encoding="utf-8")
        assert specs(str(path)) == [1]  # the server says what is wrong with it
        with pytest.raises(ComplaintError, match="no specification"):
            specs("--cpus", "2", str(path))

    def test_contradictions_are_complaints(self, tmp_path: Path) -> None:
        with pytest.raises(ComplaintError, match="not both"):
            specs("--spec", "x", "echo")
        with pytest.raises(ComplaintError, match="--frames goes with a command"):
            specs("--frames", "1-3", "x.json")


def test_json_is_ascii_so_that_nothing_breaks_the_request() -> None:
    text = as_json([{"name": "Würfel \x1b\udcff"}])
    assert text.isascii()
    assert text.isprintable()


def test_properties_are_those_of_a_specification() -> None:
    spec = specs(
        *("--priority", "5", "--cpus", "4", "--group", "gpu", "--host", "h", "--tag", "t", "--tries", "2"),
        *("--max-time", "60", "--env", "A=1", "--description", "d", "--shell", "sh", "--name", "n"),
        *("--resource", "nuke=2", "echo"),
    )
    (job,) = parse(as_json(spec), max_depth=10).jobs
    assert not job.log
    assert (job.name, job.priority, job.cpus, job.tries, job.max_time_s) == ("n", 5, 4, 2, 60)


def test_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "jürgen")
    assert jobs._user() == "jürgen"
