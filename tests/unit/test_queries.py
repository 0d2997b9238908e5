"""Lists of ids go into statements through `hqueue.database.listed` alone, which knows no limit of parameters."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hqueue

PACKAGE = Path(hqueue.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def is_safe(argument: ast.expr) -> bool:
    """Tell whether what is given to `in_` is no list of any length: `listed(…)`, a sub-select, or all constants."""
    first = argument
    while isinstance(first, ast.Call | ast.Attribute):
        if isinstance(first, ast.Call) and ast.unparse(first.func) in {"listed", "sa.select"}:
            return True
        first = first.func if isinstance(first, ast.Call) else first.value
    names = {node.id for node in ast.walk(argument) if isinstance(node, ast.Name)} - {"sorted"}
    return all(name.isupper() for name in names)


def limited(source: str) -> list[str]:
    """Return the places of a module where a list of any length becomes parameters."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"in_", "not_in"} and not is_safe(node.args[0]):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if any(keyword.arg == "expanding" for keyword in node.keywords):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_list_of_any_length_becomes_parameters(path: Path) -> None:
    assert limited(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["x.in_(ids)", "x.not_in(sorted(ids))", "x.in_([1, *ids])", "x.in_(sa.bindparam('ids', expanding=True))"],
)
def test_the_rule_finds(source: str) -> None:
    assert limited(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "x.in_(listed('ids'))",
        "x.in_(sa.select(y).where(z == 1))",
        "x.in_(sorted(SETTLED))",
        "x.in_(_IDS)",
    ],
)
def test_the_rule_lets_pass(source: str) -> None:
    assert limited(source) == []
