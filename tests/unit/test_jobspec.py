"""What `newjob` makes of its argument: every property, every coercion, every complaint with its path."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqueue import jobspec
from hqueue.errors import CyclicGraphError, HQueueError, InvalidSpecError, LimitExceededError
from hqueue.jobspec import JobSpec, SpecGraph, graph, values
from hqueue.matching import KINDS, OPS
from hqueue.wire import find_unencodable

HUGE = 1 << 20_000  # more digits than Python writes out
EVERYBODY = {"type": "client", "name": "hostname", "op": "!=", "value": ""}


def parse(argument: Any, max_depth: int = 1000) -> SpecGraph:
    return jobspec.parse(argument, max_depth=max_depth)


def attempt(argument: Any, max_depth: int = 1000) -> SpecGraph | HQueueError:
    try:
        return parse(argument, max_depth)
    except HQueueError as error:
        return error


def label(value: Any) -> str:
    return f"{value:.30}" if isinstance(value, str) else type(value).__name__


def one(**properties: Any) -> JobSpec:
    (job,) = parse({"name": "Straße 7", **properties}).jobs
    return job


def condition(name: str, op: str, value: str) -> dict[str, str]:
    return {"type": "client", "name": name, "op": op, "value": value}


def complaint(argument: Any, kind: type[HQueueError] = InvalidSpecError) -> str:
    with pytest.raises(kind) as caught:
        parse(argument)
    assert find_unencodable(caught.value.message) is None
    assert len(caught.value.message) < 1000
    return caught.value.message


def nested(levels: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": "Blatt"}
    for level in range(levels - 1):
        spec = {"name": f"Ebene {level}", "children": [spec]}
    return spec


def nested_json(levels: int) -> str:
    return '{"name": "é", "children": [' * (levels - 1) + '{"name": "Blatt"}' + "]}" * (levels - 1)


class TestForms:
    SPEC: dict[str, Any] = {"name": "Übung", "command": "echo 日本", "cpus": 2}  # noqa: RUF012 - never changed

    def test_defaults(self) -> None:
        assert one() == JobSpec(name="Straße 7")

    @pytest.mark.parametrize(
        "argument",
        [
            SPEC,
            json.dumps(SPEC),
            json.dumps(SPEC, ensure_ascii=False),
            "\ufeff " + json.dumps(SPEC),
            json.dumps(SPEC, ensure_ascii=False).encode(),
            bytearray(json.dumps(SPEC), "ascii"),
            [SPEC],
            (SPEC,),
            [json.dumps(SPEC)],
            [json.dumps(SPEC).encode()],
            json.dumps([SPEC]),
        ],
    )
    def test_one_specification_in_every_form(self, argument: Any) -> None:
        submitted = parse(argument)
        assert submitted.jobs == (JobSpec(name="Übung", command="echo 日本", cpus=2),)
        assert submitted.given == 1

    def test_mixed_list(self) -> None:
        submitted = parse([self.SPEC, '{"name": "zweiter"}'])
        assert [job.name for job in submitted.jobs] == ["Übung", "zweiter"]
        assert submitted.given == 2

    @pytest.mark.parametrize("argument", [[], (), "[]"])
    def test_an_empty_list_asks_for_nothing(self, argument: Any) -> None:
        submitted = parse(argument)
        assert submitted.jobs == ()
        assert submitted.given == 0

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            (None, "jobspec: expected a job specification (a dict or a JSON object), got None"),
            (7, "jobspec: expected a job specification (a dict or a JSON object), got 7"),
            ("7", "jobspec: expected a job specification (a dict or a JSON object), got 7"),
            ('"é"', "jobspec: expected a job specification (a dict or a JSON object), got 'é'"),
            ("", "jobspec: not a JSON text: expected a value, found the end of the text (line 1, column 1)"),
            ("echo hi", "jobspec: not a JSON text: expected a value, found 'echo hi' (line 1, column 1)"),
            (b'{"name": "\xff"}', "jobspec: expected text in UTF-8, got bytes that are not (at position 10)"),
            (
                '{"name": "a",\n "cpus": 1, "cpus": 2}',
                "jobspec: not a JSON text: expected another key, found 'cpus' for the second time (line 2, column 13)",
            ),
            ([{"name": "a"}, 3], "[1]: expected a job specification (a dict or a JSON object), got 3"),
            ([{"name": "a"}, []], "[1]: expected a job specification (a dict or a JSON object), got a list"),
            (["[{}]"], "[0]: expected a job specification (a dict or a JSON object), got a list"),
            (
                [{"name": "a"}, "{"],
                "[1]: not a JSON text: expected a key in double quotes, found the end of the text (line 1, column 2)",
            ),
            (
                HUGE,
                "jobspec: expected a job specification (a dict or a JSON object), got a number of more than 64 bits",
            ),
            (
                datetime(2026, 11, 23, tzinfo=UTC),
                "jobspec: expected a job specification (a dict or a JSON object), got a date",
            ),
            (
                object(),
                "jobspec: expected a job specification (a dict or a JSON object), got a value of another kind",
            ),
        ],
        ids=label,
    )
    def test_what_is_no_specification(self, argument: Any, message: str) -> None:
        assert complaint(argument) == message


class TestNesting:
    def test_given_first_then_nested_depth_first(self) -> None:
        submitted = parse(
            [
                {
                    "name": "A",
                    "children": [{"name": "A1", "children": [{"name": "A1a"}, {"name": "A1b"}]}, {"name": "A2"}],
                },
                {"name": "B"},
                {"name": "C", "children": [{"name": "C1"}]},
            ]
        )
        assert [job.name for job in submitted.jobs] == ["A", "B", "C", "A1", "A1a", "A1b", "A2", "C1"]
        assert [job.parent for job in submitted.jobs] == [None, None, None, 0, 3, 3, 0, 2]
        assert [job.children for job in submitted.jobs] == [(3, 6), (), (7,), (4, 5), (), (), (), ()]
        assert submitted.given == 3
        assert [submitted.path(index) for index in range(8)] == [
            "[0]",
            "[1]",
            "[2]",
            "[0].children[0]",
            "[0].children[0].children[0]",
            "[0].children[0].children[1]",
            "[0].children[1]",
            "[2].children[0]",
        ]

    def test_paths_below_a_single_specification(self) -> None:
        submitted = parse({"name": "A", "children": [{"name": "B", "children": [{"name": "C"}]}]})
        assert [submitted.path(index) for index in range(3)] == ["jobspec", "children[0]", "children[0].children[0]"]

    @pytest.mark.parametrize("children", ["", None, [], (), "[]"])
    def test_no_children(self, children: Any) -> None:
        assert one(children=children) == one()

    @pytest.mark.parametrize(
        "children",
        [
            [{"name": "子"}],
            ({"name": "子"},),
            {"name": "子"},
            ['{"name": "子"}'],
            '[{"name": "子"}]',
            '{"name": "子"}',
            b'[{"name": "\xe5\xad\x90"}]',
        ],
    )
    def test_a_child_in_every_form(self, children: Any) -> None:
        submitted = parse({"name": "A", "children": children})
        assert [job.name for job in submitted.jobs] == ["A", "子"]
        assert submitted.jobs[0].children == (1,)

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ({"name": "A", "children": 5}, "children: expected a list of job specifications, got 5"),
            (
                [{"name": "A", "children": [{"name": "B", "children": True}]}],
                "[0].children[0].children: expected a list of job specifications, got True",
            ),
            (
                {"name": "A", "children": [{"name": "B"}, 1]},
                "children[1]: expected a job specification (a dict or a JSON object), got 1",
            ),
            (
                {"name": "A", "children": "[{]"},
                "children: not a JSON text: expected a key in double quotes, found ']' (line 1, column 3)",
            ),
            (
                {"name": "A", "children": [{"name": "B"}, {"name": "C"}, {"name": "D", "cpus": "viele"}]},
                "children[2].cpus: expected a whole number, got 'viele'",
            ),
            (
                [{"name": "A"}, {"name": "B", "children": [{"command": "x"}]}],
                "[1].children[0].name: expected a name for the job, got nothing",
            ),
        ],
    )
    def test_complaints_name_the_path(self, argument: Any, message: str) -> None:
        assert complaint(argument) == message

    @pytest.mark.parametrize("argument", [nested(1000), nested_json(1000), [nested_json(1000)]], ids=label)
    def test_a_thousand_levels(self, argument: Any) -> None:
        submitted = parse(argument)
        assert len(submitted.jobs) == 1000
        assert submitted.jobs[-1].name == "Blatt"
        assert len(submitted.path(999)) < 200

    @pytest.mark.parametrize(
        "argument", [nested(1001), nested_json(1001), nested(100_000), nested_json(100_000)], ids=label
    )
    def test_more_levels_exceed_the_limit(self, argument: Any) -> None:
        message = complaint(argument, LimitExceededError)
        assert "expected at most 1000 levels of job specifications (max_spec_depth), got more" in message

    def test_the_limit_is_the_setting(self) -> None:
        assert len(parse(nested(3), max_depth=3).jobs) == 3
        with pytest.raises(LimitExceededError, match=r"^children\[0\]\.children\[0\]\.children: .* 3 levels"):
            parse(nested(4), max_depth=3)

    def test_the_last_level_may_have_all_properties(self) -> None:
        spec = {"name": "A", "conditions": [EVERYBODY], "environment": {"A": "1"}, "command": {"linux": "x"}}
        assert parse(json.dumps([spec]), max_depth=1).jobs[0].conditions == (EVERYBODY,)

    def test_a_million_brackets(self) -> None:
        assert "max_spec_depth" in complaint("[" * 1_000_000, LimitExceededError)

    def test_a_specification_inside_itself_is_too_deep(self) -> None:
        spec: dict[str, Any] = {"name": "Ouroboros"}
        spec["children"] = [spec]
        complaint(spec, LimitExceededError)

    def test_many_children(self) -> None:
        submitted = parse({"name": "A", "children": [{"name": f"Bild {number}"} for number in range(50_000)]})
        assert submitted.jobs[0].children == tuple(range(1, 50_001))


# property, value, field, what it becomes
COERCIONS: list[tuple[str, Any, str, Any]] = [
    ("name", "  日本 \n", "name", "  日本 \n"),
    ("name", 12, "name", "12"),
    ("name", 1.5, "name", "1.5"),
    ("name", b"Stra\xc3\x9fe", "name", "Straße"),
    ("name", bytearray(b"a"), "name", "a"),
    ("command", "echo 1\n\techo é\r\n\recho 2\r", "command", "echo 1\n\techo é\n\necho 2\n"),
    ("command", {"linux": "a\r\nb", "windows": "c\rd"}, "command", {"linux": "a\nb", "windows": "c\nd"}),
    ("command", "\r\n", "command", None),
    ("onError", "a\r\nb", "on_error", "a\nb"),
    ("webhook", " https://chat.example.com/ü ", "webhook", "https://chat.example.com/ü"),
    ("webhook", "", "webhook", None),
    ("command", b"echo \xc3\xa9", "command", "echo é"),
    ("command", "", "command", None),
    ("command", " \n", "command", None),
    ("command", None, "command", None),
    ("command", "x" * 3_000_000, "command", "x" * 3_000_000),
    (
        "command",
        {"linux": "a", "windows": "b", "macosx": "c"},
        "command",
        {"linux": "a", "windows": "b", "macosx": "c"},
    ),
    ("command", {"macos": "a"}, "command", {"macosx": "a"}),
    ("command", {"macos": "a", "macosx": "a", " Linux": b"b"}, "command", {"macosx": "a", "linux": "b"}),
    ("command", {"linux": "a", "windows": "", "macosx": None}, "command", {"linux": "a"}),
    ("command", {"linux": " "}, "command", None),
    ("command", {}, "command", None),
    ("shell", " /bin/zsh ", "shell", "/bin/zsh"),
    ("shell", "", "shell", ""),
    ("shell", "bash -l", "shell", "bash -l"),
    ("shell", "nice -n 5 bash -c", "shell", "nice -n 5 bash"),
    ("shell", " /bin/sh  -lc ", "shell", "/bin/sh"),
    ("shell", "bash -l -c", "shell", "bash -l"),
    ("shell", "bash -exc", "shell", "bash -ex"),
    ("shell", "cmd /C", "shell", "cmd"),
    ("shell", "-c", "shell", "-c"),
    ("shell", "/opt/tools-c", "shell", "/opt/tools-c"),
    ("shell", None, "shell", ""),
    ("childrenIds", [3, "4", 5.0, 3], "child_ids", (3, 4, 5)),
    ("childrenIds", 7, "child_ids", (7,)),
    ("childrenIds", "7", "child_ids", (7,)),
    ("childrenIds", b"7", "child_ids", (7,)),
    ("childrenIds", 2**63 - 1, "child_ids", (2**63 - 1,)),
    ("parentIds", (9, 8), "parent_ids", (9, 8)),
    *[("parentIds", nothing, "parent_ids", ()) for nothing in (None, "", 0, [])],
    ("submissionId", "ü" * 200, "submission_id", "ü" * 200),
    ("submissionId", "", "submission_id", None),
    ("stubId", "größe", "stub_id", "größe"),
    ("stubId", 5, "stub_id", "5"),
    ("stubId", "", "stub_id", None),
    ("cpus", 4, "cpus", 4),
    ("cpus", 0, "cpus", 1),
    ("cpus", None, "cpus", 1),
    ("cpus", "4", "cpus", 4),
    ("cpus", " +4 ", "cpus", 4),
    ("cpus", "4.0", "cpus", 4),
    ("cpus", "4 (viele)", "cpus", 4),
    ("cpus", "5 (Medium)", "cpus", 5),
    ("cpus", 4.0, "cpus", 4),
    ("cpus", 2**31 - 1, "cpus", 2**31 - 1),
    ("priority", "5 (Medium)", "priority", 5),
    ("priority", -3, "priority", 0),
    ("priority", "-3", "priority", 0),
    ("tags", ["single", " b ", "single", "", "  ", "日本"], "tags", ("single", "b", "日本")),
    ("tags", "single", "tags", ("single",)),
    ("tags", "a, b", "tags", ("a, b",)),
    ("tags", 3, "tags", ("3",)),
    ("tags", "", "tags", ()),
    (
        "resources",
        {"sidefx.license.render": "2", "größe": 1.0, "c": 0},
        "resources",
        {"sidefx.license.render": 2, "größe": 1},
    ),
    ("resources", {" nuke ": 1, "nuke": "2"}, "resources", {"nuke": 3}),
    *[("resources", nothing, "resources", None) for nothing in ("", None, {}, [], {"a": 0})],
    ("maxTime", 3600, "max_time_s", 3600),
    ("maxTime", "3600", "max_time_s", 3600),
    *[("maxTime", nothing, "max_time_s", None) for nothing in (0, -1, "0", -0.0, None)],
    ("triesLeft", "2", "tries", 2),
    (
        "environment",
        {"A": "1\n\"'{}", "B": 2, "C": 24.0, "Ü": b"\xc3\xbc"},
        "environment",
        {"A": "1\n\"'{}", "B": "2", "C": "24.0", "Ü": "ü"},
    ),
    *[("environment", nothing, "environment", {}) for nothing in ("", None, {}, [])],
    ("environment", {"A": True, "B": False, "C": 2.5}, "environment", {"A": "1", "B": "0", "C": "2.5"}),
    ("environment", {"A": "x" * (128 * 1024 - 3)}, "environment", {"A": "x" * (128 * 1024 - 3)}),
    ("description", "été \x1b[0m\ud800", "description", "été [0m\ufffd"),
    ("submittedBy", "zoë", "submitted_by", "zoë"),
    ("submittedBy", "", "submitted_by", None),
    ("emailTo", "a@b.c, d@e.f;;a@b.c ,", "email_to", ("a@b.c", "d@e.f")),
    ("emailTo", ["Zoë <z@b.c>", "d@e.f"], "email_to", ("Zoë <z@b.c>", "d@e.f")),
    ("emailTo", "", "email_to", ()),
    ("emailReasons", "failed, Priority  Changed", "email_reasons", ("failed", "priority changed")),
    ("emailReasons", ["waiting", "runnable"], "email_reasons", ("runnable",)),
    ("emailReasons", "", "email_reasons", ()),
    *[
        (f"on{name.title().replace('_', '')}", value, f"on_{name}", expected)
        for name in ("success", "error", "cancel", "child_error")
        for value, expected in [("echo é", "echo é"), ({"macos": "x"}, {"macosx": "x"}), ("", None)]
    ],
]


class TestProperties:
    @pytest.mark.parametrize(("name", "value", "field", "expected"), COERCIONS, ids=label)
    def test_coercions(self, name: str, value: Any, field: str, expected: Any) -> None:
        job = one(**{name: value})
        assert getattr(job, field) == expected
        assert type(getattr(job, field)) is type(expected)
        plain = {field: JobSpec("")._asdict()[field], "name": "Straße 7", "log": ()}  # which names hooks that never run
        assert job._replace(**plain) == one()

    @pytest.mark.parametrize("reason", values.EMAIL_REASONS)
    def test_every_reason_for_an_email(self, reason: str) -> None:
        assert one(emailReasons=reason).email_reasons == ("runnable" if reason == "waiting" else reason,)

    @pytest.mark.parametrize(
        ("given_hosts", "expected"),
        [
            ({"minHosts": 2}, (2, 2)),
            ({"maxHosts": 3}, (1, 3)),
            ({"minHosts": "2", "maxHosts": 3.0}, (2, 3)),
            ({"minHosts": 0, "maxHosts": 0}, (1, 1)),
            ({"minHosts": 4, "maxHosts": 0}, (4, 4)),
            ({"minHosts": None, "maxHosts": None}, (1, 1)),
        ],
    )
    def test_numbers_of_hosts(self, given_hosts: dict[str, Any], expected: tuple[int, int]) -> None:
        job = one(**given_hosts)
        assert (job.min_hosts, job.max_hosts) == expected

    def test_unknown_properties_are_named_in_the_log(self) -> None:
        job = one(max_time=3, Größe=1, **{"a\x00\ud800": 1})
        assert job.log == (
            "ignored, for no such property is known: 'max_time' (meant maxTime?), 'Größe', 'a\\x00\\ud800'",
        )

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("cpu", "cpus"), ("hosts", "host"), ("prority", "priority"), ("prioritty", "priority"), ("Tages", "tags"),
            ("conditoins", "conditions"), ("triesleft", "triesLeft"), ("evnironment", "environment"), ("nqme", "name"),
            ("kommandos", None), ("ost", "host"), ("", None), ("maxHots", "maxHosts"), ("minHostss", "minHosts"),
        ],
    )  # fmt: skip
    def test_a_known_property_one_edit_away_is_named_too(self, name: str, meant: str | None) -> None:
        (line,) = one(**{name: 1}).log
        assert line.partition(": ")[2] == (f"{name!r} (meant {meant}?)" if meant else repr(name))

    def test_hooks_that_never_run_are_named(self) -> None:
        hooks = {"onSuccess": "a", "onError": "b", "onCancel": {"linux": "c"}, "onChildError": "d"}
        assert one(**hooks).log == ("onCancel and onError: never run, for the job has no command",)
        assert one(command="x", **hooks).log == one(onError="").log == ()

    def test_of_many_unknown_properties_the_first_are_named(self) -> None:
        (line,) = one(**{f"x{number}": 1 for number in range(1000)}).log
        assert line.endswith("'x8', 'x9' and 990 more")
        (line,) = one(**{"y" * 100_000: 1}).log
        assert len(line) < 150

    def test_keys_that_are_no_text(self) -> None:
        (job,) = parse({"name": "a", 5: 1, None: 2, (1,): 3, HUGE: 4}).jobs
        assert job.log == ("ignored, for no such property is known: 5, None, a list, a number of more than 64 bits",)

    def test_nothing_is_shared_with_the_argument(self) -> None:
        spec = {"name": "a", "environment": {"A": "1"}, "command": {"linux": "x"}, "conditions": [dict(EVERYBODY)]}
        (job,) = parse(spec).jobs
        spec["environment"]["A"] = spec["command"]["linux"] = spec["conditions"][0]["value"] = "changed"  # type: ignore[index]
        assert job.environment == {"A": "1"}
        assert job.command == {"linux": "x"}
        assert job.conditions == (EVERYBODY,)

    def test_every_property_has_a_test(self) -> None:
        tested = {name for name, *_ in COERCIONS} | {"children", "childStubIds", "minHosts", "maxHosts"}
        assert set(graph._PROPERTIES) == tested | {"conditions", "host", "hostgroup"}

    def test_every_field_is_filled_by_a_property(self) -> None:
        filled = {field for field, _ in graph._PROPERTIES.values()} - {"child_stubs", "hosts", "groups"}
        assert filled | {"parent", "log"} == set(JobSpec._fields)


WHOLE = "expected a whole number"
ANY_TEXT = "expected text, got"

# property, value, the complaint behind "property"
COMPLAINTS: list[tuple[str, Any, str]] = [
    ("name", None, ": expected a name for the job, got nothing"),
    ("name", "", ": expected a name that is not blank, got ''"),
    ("name", "\t ", ": expected a name that is not blank, got '\\t '"),
    ("name", True, f": {ANY_TEXT} True"),
    ("name", ["a"], f": {ANY_TEXT} a list"),
    ("name", {"a": 1}, f": {ANY_TEXT} a dict"),
    ("name", datetime(2026, 1, 1, tzinfo=UTC), f": {ANY_TEXT} a date"),
    ("name", float("nan"), f": {ANY_TEXT} nan"),
    ("name", HUGE, f": {ANY_TEXT} a number of more than 64 bits"),
    ("name", "é\x1b[31m", ": expected text that XML can carry, got the character U+001B at position 1"),
    ("name", "a\ud800", ": expected text that XML can carry, got the character U+D800 at position 1"),
    ("name", "\uffff", ": expected text that XML can carry, got the character U+FFFF at position 0"),
    ("name", b"ab\xff", ": expected text in UTF-8, got bytes that are not (at position 2)"),
    ("command", "echo\n\x00", ": expected text that XML can carry, got the character U+0000 at position 5"),
    ("command", ["echo"], f": {ANY_TEXT} a list"),
    ("command", {"amiga": "x"}, ": expected the platforms linux, windows and macosx, got 'amiga'"),
    ("command", {7: "x"}, ": expected the platforms linux, windows and macosx, got 7"),
    ("command", {"linux": 1, "macos": []}, f".macosx: {ANY_TEXT} a list"),
    ("command", {"macos": "a", "macosx": "b"}, ": expected one command for macosx, got two"),
    ("submissionId", "x" * 201, ": expected at most 200 characters, got 201"),
    ("shell", "x" * 4097, ": expected at most 4096 characters, got 4097"),
    ("shell", {}, f": {ANY_TEXT} a dict"),
    ("childrenIds", [1, "x"], "[1]: expected the id of a job, got 'x'"),
    ("childrenIds", [1, None], "[1]: expected the id of a job, got None"),
    ("childrenIds", [""], "[0]: expected the id of a job, got ''"),
    ("childrenIds", "1,2", ": expected the id of a job, got '1,2'"),
    ("childrenIds", True, ": expected the id of a job, got True"),
    ("parentIds", [0], "[0]: expected the id of a job, 1 or more, got 0"),
    ("parentIds", -1, ": expected the id of a job, 1 or more, got -1"),
    ("parentIds", 2**63, ": expected the id of a job of at most 9223372036854775807, got 9223372036854775808"),
    ("parentIds", {"a": 1}, ": expected the id of a job, got a dict"),
    ("stubId", [], f": {ANY_TEXT} a list"),
    ("childStubIds", ["a", None], f"[1]: {ANY_TEXT} None"),
    ("childStubIds", {}, f": {ANY_TEXT} a dict"),
    (
        "conditions",
        "group == linux",
        ": expected a condition (a dict with type, name, op and value), got 'group == linux'",
    ),
    ("conditions", [EVERYBODY, 1], "[1]: expected a condition (a dict with type, name, op and value), got 1"),
    ("conditions", [{**EVERYBODY, "type": "server"}], "[0].type: expected 'client', got 'server'"),
    (
        "conditions",
        [{**EVERYBODY, "name": "cpu"}],
        "[0].name: expected one of hostname, hostname:name, group, os, got 'cpu'",
    ),
    (
        "conditions",
        {"op": "==", "value": "a"},
        ".name: expected one of hostname, hostname:name, group, os, got nothing",
    ),
    ("conditions", [{**EVERYBODY, "op": "<"}], "[0].op: expected one of ==, !=, in, not_in, any, got '<'"),
    ("conditions", [{**EVERYBODY, "op": ["=="]}], "[0].op: expected one of ==, !=, in, not_in, any, got a list"),
    ("conditions", [{**EVERYBODY, "value": None}], "[0].value: expected text or a list of it, got nothing"),
    ("conditions", [{**EVERYBODY, "value": {}}], f"[0].value: {ANY_TEXT} a dict"),
    ("conditions", [{**EVERYBODY, "value": ["a", []]}], f"[0].value[1]: {ANY_TEXT} a list"),
    (
        "conditions",
        [{**EVERYBODY, "value": ["a", "b,c"]}],
        "[0].value: expected names without ',' and ';' where there are several, got 'b,c'",
    ),
    ("host", {}, f": {ANY_TEXT} a dict"),
    ("host", ["a", "\x07"], "[1]: expected text that XML can carry, got the character U+0007 at position 0"),
    ("hostgroup", ["a", "b;c"], ": expected names without ',' and ';' where there are several, got 'b;c'"),
    *[
        ("cpus", value, f": {WHOLE}, got {value!r}")
        for value in ("viele", "", "1.5", "5 Medium", "\u0661", "0x10", 1.5, True)
    ],
    ("cpus", float("nan"), f": {WHOLE}, got nan"),
    ("cpus", float("inf"), f": {WHOLE}, got inf"),
    ("cpus", [1], f": {WHOLE}, got a list"),
    ("cpus", b"\xff", ": expected text in UTF-8, got bytes that are not (at position 0)"),
    ("cpus", "1" * 150, f": {WHOLE}, got '{'1' * 60}…'"),
    ("cpus", "1" * 5000, f": {WHOLE}, got '{'1' * 60}…'"),
    ("cpus", -1, f": {WHOLE}, 0 or more, got -1"),
    ("cpus", 2**31, f": {WHOLE} of at most 2147483647, got 2147483648"),
    ("cpus", 2**63, f": {WHOLE} of at most 2147483647, got 9223372036854775808"),
    ("cpus", HUGE, f": {WHOLE} of at most 2147483647, got a number of more than 64 bits"),
    ("cpus", -HUGE, f": {WHOLE}, 0 or more, got a number of more than 64 bits"),
    ("minHosts", -1, f": {WHOLE}, 0 or more, got -1"),
    ("maxHosts", "x", f": {WHOLE}, got 'x'"),
    ("priority", "hoch", f": {WHOLE}, got 'hoch'"),
    ("priority", -HUGE, f": {WHOLE}, -9223372036854775807 or more, got a number of more than 64 bits"),
    ("tags", ["a", ["b"]], f"[1]: {ANY_TEXT} a list"),
    ("tags", {"a": 1}, f": {ANY_TEXT} a dict"),
    ("resources", {"größe": -1}, f".größe: {WHOLE}, 0 or more, got -1"),
    ("resources", {"sidefx.license.render": "x"}, f"['sidefx.license.render']: {WHOLE}, got 'x'"),
    ("resources", {"a": None}, f".a: {WHOLE}, got None"),
    ("resources", {" ": 1}, ": expected the name of a resource, got ' '"),
    ("resources", ["a"], ": expected a dict of resources and amounts, got a list"),
    ("maxTime", "bald", ": expected a whole number of seconds, got 'bald'"),
    ("maxTime", 0.5, ": expected a whole number of seconds, got 0.5"),
    ("triesLeft", -1, f": {WHOLE}, 0 or more, got -1"),
    ("environment", "A=1", ": expected a dict of environment variables, got 'A=1'"),
    ("environment", {"A": None}, f".A: {ANY_TEXT} None"),
    ("environment", {"A": [True]}, f".A: {ANY_TEXT} a list"),
    ("environment", {"A": "\x00"}, ".A: expected text that XML can carry, got the character U+0000 at position 0"),
    ("environment", {"": "1"}, ": expected the name of an environment variable, got ''"),
    ("environment", {"A=B": "1"}, ": expected names of environment variables without '=', got 'A=B'"),
    ("environment", {None: "1"}, f": {ANY_TEXT} None"),
    (
        "environment",
        {"GRÖSSE": "é" * 65_536},
        ".GRÖSSE: expected at most 131072 bytes, as no platform carries a longer variable, got 131081",
    ),
    (
        "environment",
        {"A": "x" * (128 * 1024 - 2)},
        ".A: expected at most 131072 bytes, as no platform carries a longer variable, got 131073",
    ),
    ("description", [], f": {ANY_TEXT} a list"),
    ("submittedBy", "\x00", ": expected text that XML can carry, got the character U+0000 at position 0"),
    ("emailTo", "a@b.c\nBcc: all@b.c", ": expected e-mail addresses with commas between, got 'a@b.c\\nBcc: all@b.c'"),
    ("emailTo", ["a", {}], f"[1]: {ANY_TEXT} a dict"),
    (
        "emailReasons",
        "failed, traurig",
        f": expected some of {', '.join(values.EMAIL_REASONS)}, got 'traurig'",
    ),
    *[
        (name, 1j, f": {ANY_TEXT} a value of another kind")
        for name in ("onSuccess", "onError", "onCancel", "onChildError")
    ],
]


class TestComplaints:
    @pytest.mark.parametrize(("name", "value", "message"), COMPLAINTS, ids=label)
    def test_complaints(self, name: str, value: Any, message: str) -> None:
        assert complaint({"name": "Straße 7", name: value}) == name + message
        child = {"name": "Straße 7", name: value}
        assert complaint([{"name": "A", "children": [{"name": "B"}, child]}]) == f"[0].children[1].{name}{message}"

    def test_fewest_hosts_above_the_most(self) -> None:
        message = complaint({"name": "a", "minHosts": 3, "maxHosts": 2})
        assert message == "minHosts: expected at most maxHosts, which is 2, got 3"

    def test_long_values_are_shortened(self) -> None:
        assert len(complaint({"name": "a", "cpus": "é" * 1_000_000})) < 150
        assert len(complaint({"name": "a", "environment": {"K" * 1_000_000: []}})) < 150

    def test_deep_paths_are_shortened_in_the_middle(self) -> None:
        spec: dict[str, Any] = {"name": "Blatt", "cpus": "x"}
        for _ in range(500):
            spec = {"name": "A", "children": [{"name": "B"}, spec]}
        step = "children[1]."
        assert complaint(spec) == f"{step * 4}….{step * 4}cpus: expected a whole number, got 'x'"


class TestConditions:
    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("op", OPS)
    def test_every_name_and_op(self, name: str, op: str) -> None:
        job = one(conditions=[{"type": "client", "name": name, "op": op, "value": " é "}])
        assert job.conditions == (condition(name, "in" if op == "any" else op, "é"),)

    @pytest.mark.parametrize("nothing", [None, "", [], ()])
    def test_none(self, nothing: Any) -> None:
        assert one(conditions=nothing, host=nothing, hostgroup=nothing).conditions is None

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (EVERYBODY, (EVERYBODY,)),
            ([EVERYBODY, EVERYBODY], (EVERYBODY,)),
            ([{**EVERYBODY, "id": 7, "job": None}], (EVERYBODY,)),
            ([{"name": "group", "op": "==", "value": "a, b"}], (condition("group", "==", "a, b"),)),
            ([{"name": "group", "op": "in", "value": ["a", " b "]}], (condition("group", "in", "a,b"),)),
            ([{"name": "group", "op": "in", "value": ["a, b"]}], (condition("group", "in", "a, b"),)),
            ([{"name": "hostname", "op": "==", "value": 7}], (condition("hostname", "==", "7"),)),
            ([{"name": "os", "op": "in", "value": "Linux,macos"}], (condition("os", "in", "linux,macosx"),)),
            ([{"name": "os", "op": "==", "value": "macosx"}], (condition("os", "==", "macosx"),)),
        ],
    )
    def test_canonical_form(self, value: Any, expected: Any) -> None:
        assert one(conditions=value).conditions == expected

    @pytest.mark.parametrize(
        ("properties", "expected"),
        [
            ({"host": "farm07"}, condition("hostname", "==", "farm07")),
            ({"host": " a , b;;c,a,"}, condition("hostname", "in", "a,b,c")),
            ({"host": ["a", "b"]}, condition("hostname", "in", "a,b")),
            ({"host": ["a,b", " "]}, condition("hostname", "in", "a,b")),
            ({"host": "farm07:büro"}, condition("hostname:name", "==", "farm07:büro")),
            ({"host": ["farm07:", "b"]}, condition("hostname:name", "in", "farm07:,b")),
            ({"hostgroup": "Köln"}, condition("group", "==", "Köln")),
            ({"hostgroup": "Köln, Render"}, condition("group", "in", "Köln, Render")),
            ({"hostgroup": ["Köln, Render"]}, condition("group", "in", "Köln, Render")),
            ({"hostgroup": ["Köln", "Render"]}, condition("group", "in", "Köln,Render")),
        ],
    )
    def test_host_and_hostgroup(self, properties: dict[str, Any], expected: dict[str, str]) -> None:
        assert one(**properties).conditions == (expected,)

    @pytest.mark.parametrize("anybody", ["", " ", ",", [], [""], [" ", ""], None])
    def test_any_host(self, anybody: Any) -> None:
        assert one(host=anybody, hostgroup=anybody).conditions is None

    def test_all_together(self) -> None:
        job = one(hostgroup="g", conditions=[EVERYBODY], host="h")
        assert job.conditions == (EVERYBODY, condition("hostname", "==", "h"), condition("group", "==", "g"))


class TestStubs:
    def test_forward_and_backward_references(self) -> None:
        submitted = parse(
            [
                {"name": "comp", "childStubIds": ["sim", "render"], "children": [{"name": "eigen"}]},
                {"name": "render", "stubId": "render", "childStubIds": "sim"},
                {"name": "sim", "stubId": "sim"},
            ]
        )
        assert [job.children for job in submitted.jobs] == [(3, 2, 1), (2,), (), ()]
        assert [job.stub_id for job in submitted.jobs] == [None, "render", "sim", None]
        assert [job.parent for job in submitted.jobs] == [None, 0, 0, 0]

    def test_the_one_around_is_the_parent_and_else_the_first_that_names_it(self) -> None:
        submitted = parse(
            [
                {"name": "später", "stubId": "s"},
                {"name": "A", "childStubIds": ["s", "innen"]},
                {"name": "B", "childStubIds": ["s"], "children": [{"name": "innen", "stubId": "innen"}]},
            ]
        )
        assert [job.parent for job in submitted.jobs] == [1, None, None, 2]

    def test_a_stub_may_stand_at_any_depth(self) -> None:
        submitted = parse(
            {
                "name": "A",
                "children": [
                    {"name": "B", "childStubIds": ["x"]},
                    {"name": "C", "children": [{"name": "D", "stubId": "x"}]},
                ],
            }
        )
        assert [job.children for job in submitted.jobs] == [(1, 2), (3,), (3,), ()]

    def test_an_edge_counts_once(self) -> None:
        submitted = parse(
            {
                "name": "A",
                "childStubIds": ["x", "x", "y"],
                "children": [{"name": "B", "stubId": "x"}, {"name": "C", "stubId": "y"}],
            }
        )
        assert submitted.jobs[0].children == (1, 2)
        assert submitted.jobs[0].log == ()

    def test_numbers_name_stubs(self) -> None:
        assert parse([{"name": "A", "childStubIds": [1]}, {"name": "B", "stubId": "1"}]).jobs[0].children == (1,)

    def test_names_never_defined_are_a_line_in_the_log(self) -> None:
        submitted = parse([{"name": "A", "childStubIds": ["größe", "b", 3]}, {"name": "B", "stubId": "b"}])
        assert submitted.jobs[0].children == (1,)
        assert submitted.jobs[0].log == (
            "ignored in childStubIds, for no job of the submission has them as stubId: 'größe', '3'",
        )
        assert submitted.jobs[1].log == ()

    def test_a_stub_id_names_one_job(self) -> None:
        message = complaint([{"name": "A", "stubId": "x"}, {"name": "B", "children": [{"name": "C", "stubId": "x"}]}])
        assert message == "[1].children[0].stubId: expected a name of its own, got 'x', as at [0]"

    def test_a_ladder_of_diamonds(self) -> None:
        levels = 2000
        specs = [
            {"name": f"{level}{side}", "stubId": f"{level}{side}", "childStubIds": [f"{level + 1}a", f"{level + 1}b"]}
            for level in range(levels)
            for side in "ab"
        ]
        submitted = parse(specs)
        assert submitted.jobs[0].children == (2, 3)
        assert "'2000a', '2000b'" in submitted.jobs[-1].log[0]


class TestCycles:
    @pytest.mark.parametrize(
        ("argument", "way"),
        [
            ({"name": "é", "stubId": "x", "childStubIds": "x"}, "'é' (jobspec) > 'é' (jobspec)"),
            (
                {"name": "A", "stubId": "x", "children": [{"name": "B", "childStubIds": ["x"]}]},
                "'A' (jobspec) > 'B' (children[0]) > 'A' (jobspec)",
            ),
            (
                [
                    {"name": "A", "childStubIds": "b"},
                    {"name": "B", "stubId": "b", "childStubIds": "c"},
                    {"name": "C", "stubId": "c", "children": [{"name": "D", "childStubIds": "b"}]},
                ],
                "'B' ([1]) > 'C' ([2]) > 'D' ([2].children[0]) > 'B' ([1])",
            ),
            ({"name": "A", "childrenIds": 5, "parentIds": ["5"]}, "'A' (jobspec) > job 5 > 'A' (jobspec)"),
            (
                {"name": "A", "parentIds": [7], "children": [{"name": "B", "childrenIds": [6, 7]}]},
                "'A' (jobspec) > 'B' (children[0]) > job 7 > 'A' (jobspec)",
            ),
        ],
    )
    def test_the_complaint_names_the_way_round(self, argument: Any, way: str) -> None:
        assert complaint(argument, CyclicGraphError) == f"expected no job to be its own ancestor, got {way}"

    def test_a_long_way_round_is_shortened(self) -> None:
        count = 50_000
        specs = [
            {"name": f"S{number}", "stubId": str(number), "childStubIds": str((number + 1) % count)}
            for number in range(count)
        ]
        message = complaint(specs, CyclicGraphError)
        assert "'S3' ([3]) > … 49993 more … > 'S49997' ([49997])" in message

    def test_existing_jobs_alone_are_no_cycle(self) -> None:
        submitted = parse([{"name": "A", "childrenIds": [5, 6]}, {"name": "B", "childrenIds": [5], "parentIds": [7]}])
        assert [job.child_ids for job in submitted.jobs] == [(5, 6), (5,)]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(alphabet='{}[],:" 0a\x00\ud800\n')
    | st.binary()
    | st.datetimes()
    | st.builds(object)
    | st.sampled_from(
        [1 << 63, -(1 << 200), "", "single", "5 (Medium)", "9" * 400, "linux", "failed", '{"name": "é"}', 1j]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.sampled_from(["linux", "macos", "type", "op", "value"]), inner, max_size=4)
        | st.fixed_dictionaries(
            {"name": st.sampled_from(["hostname", "group", "os", "日本"]) | inner},
            optional=dict.fromkeys(graph._PROPERTIES.keys() - {"name"}, inner),
        )
        | st.fixed_dictionaries(
            {
                "name": st.sampled_from(["hostname", "os"]),
                "op": st.sampled_from(["==", "any"]),
                "value": inner,
            }
        )
    ),
    max_leaves=30,
)
SPECS = st.recursive(
    st.fixed_dictionaries(
        {"name": st.just("é") | st.text(min_size=1)},
        optional={
            "stubId": st.sampled_from("abc"),
            "childStubIds": st.lists(st.sampled_from("abcd")),
            "childrenIds": st.integers(1, 3),
            "parentIds": st.integers(1, 3),
            "cpus": st.integers(-1, 5) | st.sampled_from(["2", 2.0]),
            "größe": st.none(),
        },
    ),
    lambda inner: st.builds(
        lambda spec, children: {**spec, "children": children}, inner, st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


class TestAnything:
    @staticmethod
    def check(result: SpecGraph | HQueueError) -> None:
        if isinstance(result, HQueueError):
            assert find_unencodable(result.message) is None
            assert len(result.message) < 2000
            return
        count = len(result.jobs)
        assert 0 <= result.given <= count
        for index, job in enumerate(result.jobs):
            assert (job.parent is None) == (index < result.given)
            assert job.parent is None or index in result.jobs[job.parent].children
            assert all(0 <= child < count and child != index for child in job.children)
            assert len(set(job.children)) == len(job.children)
            assert 1 <= job.min_hosts <= job.max_hosts
            assert job.cpus >= 1
            # What the store keeps is JSON and what callers get back is XML.
            assert find_unencodable(json.dumps(job, ensure_ascii=False)) is None

    @given(argument=VALUES)
    def test_never_anything_but_a_graph_or_a_complaint(self, argument: Any) -> None:
        self.check(attempt(argument, max_depth=3))

    @settings(max_examples=20)
    @pytest.mark.parametrize("name", list(graph._PROPERTIES))
    @given(value=VALUES)
    def test_nor_for_any_property(self, name: str, value: Any) -> None:
        self.check(attempt({"name": "Straße 7", name: value}))

    @given(argument=SPECS | st.lists(SPECS, max_size=4))
    def test_json_and_dicts_mean_the_same(self, argument: Any) -> None:
        plain, from_json = attempt(argument), attempt(json.dumps(argument))
        self.check(plain)
        if isinstance(plain, HQueueError):
            assert isinstance(from_json, type(plain))
            assert from_json.message == plain.message
        else:
            assert isinstance(from_json, SpecGraph)
            assert from_json.jobs == plain.jobs

    @given(text=st.text() | st.text(alphabet='{}[],:"name \\u0d8'))
    def test_any_text(self, text: str) -> None:
        self.check(attempt(text))
