"""The README as the tests read it: its blocks, its tables, and the sections that are written from the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hqueue import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hqueue.rpc.dispatch import MethodTable

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


class Block(NamedTuple):
    """A fenced block, and the heading it stands under."""

    heading: str
    language: str
    text: str


def blocks(path: Path = README) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    heading, language, lines = "", None, []
    for line in path.read_text(encoding="utf-8").splitlines():
        fence = re.fullmatch(r"```(\w*)", line)
        if language is not None:
            if fence:
                found.append(Block(heading, language, "\n".join(lines) + "\n"))
                language, lines = None, []
            else:
                lines.append(line)
        elif fence:
            language = fence[1]
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert language is None, f"{path.name}: a block is not closed"
    return found


def section(heading: str) -> str:
    """Return the text under a heading of the second level."""
    text = README.read_text(encoding="utf-8")
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert match is not None, f"the README has no section {heading!r}"
    return match[1]


def generated(name: str) -> str:
    """Return what stands between the marks of a generated section."""
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None, f"the README has no marks for {name!r}"
    return match[1]


def replace_generated(name: str, text: str) -> None:
    """Write a generated section anew."""
    whole = README.read_text(encoding="utf-8")
    before, after = (f"<!-- {name} -->\n{each}<!-- end -->" for each in (generated(name), text))
    README.write_text(whole.replace(before, after, 1), encoding="utf-8")


def methods(table: MethodTable) -> str:
    """Return the section about the methods: each with its arguments and the first line of its docstring."""
    users = [table.find(name) for name in table.names() if not name.startswith("farm.")]
    farm = [name for name in table.names() if name.startswith("farm.")]
    rows = [(f"`{method.shown()}`", _first_line(method.help)) for method in users]
    rows.append((", ".join(f"`{name}`" for name in farm), "What the clients of the farm call; not for scripts."))
    return _table(("method", "does"), rows)


def faults() -> str:
    """Return the section about the faults: each code with the sentence its error has when nothing better is known."""
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.HQueueError)]
    rows = sorted((each.code, each().message.replace("\n", " ")) for each in classes)
    return _table(("code", "meaning"), [(str(code), text) for code, text in rows])


def _table(titles: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [titles, ("---", "---"), *rows]
    return (
        "\n"
        + "".join(f"| {left.replace('|', '&#124;')} | {right.replace('|', '&#124;')} |\n" for left, right in lines)
        + "\n"
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
