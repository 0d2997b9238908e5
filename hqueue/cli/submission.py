"""From the options of "hq submit" to a job specification."""

from __future__ import annotations

import json
import re
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hqueue.cli.program import EXIT_USAGE, ComplaintError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping

MAX_FRAME_JOBS: Final = 100_000
NAME_LENGTH: Final = 80
MAX_AMOUNT: Final = 1 << 31
RECURSION_LIMIT: Final = 5_000
# Not after a $: ${start} is the shell's.
PLACEHOLDER: Final = re.compile(r"(?<!\$)\{(start|end)\}")
FRAMES: Final = re.compile(r"(-?\d{1,9})(?:-(-?\d{1,9}))?(?::(\d{1,9}))?", re.ASCII)

# Option of the command line → property of the specification, for those that are taken as they are.
PROPERTIES: Final[Mapping[str, str]] = {
    "name": "name",
    "priority": "priority",
    "cpus": "cpus",
    "group": "hostgroup",
    "host": "host",
    "tag": "tags",
    "resource": "resources",
    "tries": "triesLeft",
    "max_time": "maxTime",
    "description": "description",
    "shell": "shell",
    "env": "environment",
}
# What a range of frames says once, about all of it; the rest is said of each of its jobs.
OF_THE_WHOLE: Final = frozenset({"name", "priority", "description", "submittedBy"})


def specifications(options: argparse.Namespace, user: str) -> list[Any]:
    """Return what the options describe, as a list of specifications that can be written as JSON.

    Errors: ComplaintError for options that contradict each other, or a file that cannot be read.
    """
    given = _given(options)
    source = _file_named(options)
    if source is None:
        command = _command(options)
        spec = {"name": _first_line(command), "command": command, "submittedBy": user} | given
        return [_by_frames(spec, options.frames) if options.frames else spec]
    if options.frames:
        raise ComplaintError("--frames goes with a command, not with a file of specifications.", EXIT_USAGE)
    specs = _read(source)
    return [_with(spec, given, source) for spec in specs] if given else specs


def as_json(specs: list[Any]) -> str:
    """Return specifications as one JSON text; only ASCII, so that nothing in it can break the request around it."""
    with _nested_deeply():
        return json.dumps(specs)


def parse_frames(text: str) -> list[tuple[int, int]]:
    """Return first and last frame of each job: ``1-240:10`` is 24 jobs of 10 frames, ``1-3,7`` four of one.

    Errors: ComplaintError, a sentence.
    """
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        match = FRAMES.fullmatch(part.strip())
        if match is None:
            raise ComplaintError(
                f"--frames: {part.strip()!r} is no range of frames; expected one such as 1-240, 1-240:10 or 7.",
                EXIT_USAGE,
            )
        first, last, size = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or not size:
            raise ComplaintError(
                f"--frames: {part.strip()!r} holds no frames; the last comes after the first, and :N is at least 1.",
                EXIT_USAGE,
            )
        if len(found) + (last - first) // size >= MAX_FRAME_JOBS:
            raise ComplaintError(f"--frames: {text!r} is more than {MAX_FRAME_JOBS:,} jobs.", EXIT_USAGE)
        found += [(start, min(start + size - 1, last)) for start in range(first, last + 1, size)]
    return found


def parse_variables(pairs: Iterable[str]) -> dict[str, str]:
    """Return the variables of ``--env NAME=VALUE``.

    Errors: ComplaintError for one without a name or an equals sign.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise ComplaintError(f"--env: {pair!r} is no variable; expected NAME=VALUE.", EXIT_USAGE)
        found[name] = value
    return found


def parse_resources(texts: Iterable[str]) -> dict[str, int]:
    """Return the amounts of ``--resource NAME=N``, 1 where none is given.

    Errors: ComplaintError for one without a name, or with something else than a number.
    """
    found: dict[str, int] = {}
    for text in texts:
        name, _, amount = text.rpartition("=") if "=" in text else (text, "", "1")
        if not name.strip() or not amount.isascii() or not amount.isdecimal() or not 0 < int(amount) < MAX_AMOUNT:
            raise ComplaintError(
                f"--resource: {text!r} is no resource; expected NAME or NAME=N, N being how many.", EXIT_USAGE
            )
        found[name] = int(amount)
    return found


def _given(options: argparse.Namespace) -> dict[str, Any]:
    given = {key: value for name, key in PROPERTIES.items() if (value := getattr(options, name)) not in (None, [])}
    if "environment" in given:
        given["environment"] = parse_variables(given["environment"])
    if "resources" in given:
        given["resources"] = parse_resources(given["resources"])
    for key in ("host", "hostgroup"):
        # Given once it is taken as the server takes text: as one name with a comma in it, or as several.
        if len(given.get(key, ())) == 1:
            given[key] = given[key][0]
    return given


def _file_named(options: argparse.Namespace) -> str | None:
    words: list[str] = options.words
    named: str | None = options.spec
    if (
        named is None
        and options.literal is None
        and len(words) == 1
        and (words[0] == "-" or words[0].endswith(".json"))
    ):
        return words[0]
    if named is not None and (words or options.literal):
        raise ComplaintError("give a command or --spec FILE, not both.", EXIT_USAGE)
    return named


def _command(options: argparse.Namespace) -> str:
    words: list[str] = [*options.words, *(options.literal or ())]
    if not words or not any(word.strip() for word in words):
        raise ComplaintError(
            'nothing to submit: give a command after --, such as "hq submit -- echo hello", or a file of '
            "specifications, such as job.json.",
            EXIT_USAGE,
        )
    # One word is a line for the shell, as in sh -c; several are the exact words of one command.
    return words[0] if len(words) == 1 else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Return a word as the shell has to see it; the braces of a placeholder alone need no quotes."""
    bare = PLACEHOLDER.sub("0", word)
    return word if shlex.quote(bare) == bare else shlex.quote(word)


def _first_line(command: str) -> str:
    line = next(line.strip() for line in command.splitlines() if line.strip())
    return line if len(line) <= NAME_LENGTH else line[: NAME_LENGTH - 1] + "…"


def _by_frames(spec: dict[str, Any], frames: str) -> dict[str, Any]:
    """Return a job without a command, with one child for each piece of the range."""
    ranges = parse_frames(frames)
    if not PLACEHOLDER.search(spec["command"]):
        raise ComplaintError(
            f"--frames: the command names neither {{start}} nor {{end}}, so all {len(ranges)} jobs would do the same.",
            EXIT_USAGE,
        )
    whole = {key: value for key, value in spec.items() if key in OF_THE_WHOLE}
    piece = {key: value for key, value in spec.items() if key not in OF_THE_WHOLE}
    if "priority" in spec:
        piece["priority"] = spec["priority"]
    return whole | {"children": [_one_piece(spec["name"], piece, start, end) for start, end in ranges]}


def _one_piece(name: str, piece: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    numbers = {"start": str(start), "end": str(end)}

    def filled(text: str) -> str:
        return PLACEHOLDER.sub(lambda match: numbers[match[1]], text)

    if PLACEHOLDER.search(name):
        name = filled(name)
    else:
        name += f" {start}" if start == end else f" {start}-{end}"
    spec = piece | {"name": name, "command": filled(piece["command"])}
    if "environment" in piece:
        spec["environment"] = {key: filled(value) for key, value in piece["environment"].items()}
    return spec


def _read(source: str) -> list[Any]:
    shown = "standard input" if source == "-" else source
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ComplaintError(f"{source} cannot be read: {(error.strerror or str(error)).lower()}.") from None
    try:
        with _nested_deeply():
            value = json.loads(raw)
    except UnicodeDecodeError:
        raise ComplaintError(f"{shown} is not UTF-8 text.") from None
    except ValueError as error:
        raise ComplaintError(f"{shown} is not JSON: {error}; expected one specification or a list of them.") from None
    return value if isinstance(value, list) else [value]


def _with(spec: Any, given: dict[str, Any], source: str) -> Any:
    if not isinstance(spec, dict):
        shown = "standard input" if source == "-" else source
        raise ComplaintError(f"{shown} holds something that is no specification, so no option can be applied to it.")
    return spec | given


@contextmanager
def _nested_deeply() -> Iterator[None]:
    """Let the standard library's JSON go as deep as the server: 1,000 levels of specification are 2,000 brackets."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, RECURSION_LIMIT))
    try:
        yield
    except RecursionError:
        raise ComplaintError("the specification is nested too deeply; the server takes 1,000 levels.") from None
    finally:
        sys.setrecursionlimit(before)
