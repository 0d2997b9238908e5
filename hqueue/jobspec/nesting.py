"""Which specification stands inside which, numbered in the order of submission.

Nothing here recurses: depth is limited by a setting, not by the stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hqueue.errors import InvalidSpecError, LimitExceededError
from hqueue.jobspec import jsontext
from hqueue.jobspec.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator


class Places:
    """Where each specification stands; paths are made when asked for, for that of a deep one is long."""

    __slots__ = ("_parents", "_positions")

    def __init__(self) -> None:
        self._parents: list[int] = []  # -1: given
        self._positions: list[int] = []  # among its siblings; -1: given alone, not in a list

    def add(self, parent: int, position: int) -> None:
        """Append a place."""
        self._parents.append(parent)
        self._positions.append(position)

    def parent(self, index: int) -> int | None:
        """Return the index of the specification around one."""
        parent = self._parents[index]
        return None if parent < 0 else parent

    def path(self, index: int) -> str:
        """Return the path of a specification; "" for one given alone. The middle of a deep one is left out."""
        steps: list[str] = []
        while (parent := self._parents[index]) >= 0:
            steps.append(f"children[{self._positions[index]}]")
            index = parent
        if self._positions[index] >= 0:
            steps.append(f"[{self._positions[index]}]")
        steps.reverse()
        if len(steps) > 10:
            steps[4:-4] = ["…"]
        return ".".join(steps)


class Nesting:
    """Which specification stands inside which."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self.specs: list[dict[Any, Any]] = []
        self.children: list[list[int]] = []
        self.places = Places()
        self.given = 0

    def add_given(self, argument: Any) -> None:
        """Take up the argument itself."""
        if isinstance(argument, str | bytes | bytearray):
            argument = self._from_json(argument, "jobspec")
            if isinstance(argument, str):
                raise _no_specification(argument, "jobspec")
        if isinstance(argument, list | tuple):
            for position, spec in enumerate(argument):
                self._add(spec, -1, position)
        else:
            self._add(argument, -1, -1)
        self.given = len(self.specs)

    def add_nested(self) -> None:
        """Number what stands inside the given specifications, depth first."""
        for given in range(self.given):
            if "children" not in self.specs[given]:
                continue
            open_lists: list[tuple[int, Iterator[tuple[int, Any]]]] = [(given, self._inside(given, 1))]
            while open_lists:
                parent, siblings = open_lists[-1]
                for position, spec in siblings:
                    index = self._add(spec, parent, position)
                    if "children" in self.specs[index]:
                        open_lists.append((index, self._inside(index, len(open_lists) + 1)))
                        break
                else:
                    open_lists.pop()

    def _add(self, spec: Any, parent: int, position: int) -> int:
        """Give a specification its number."""
        index = len(self.specs)
        self.places.add(parent, position)
        if type(spec) is not dict:
            spec = self._dict(spec, self.places.path(index) or "jobspec")
        self.specs.append(spec)
        self.children.append([])
        if parent >= 0:
            self.children[parent].append(index)
        return index

    def _inside(self, index: int, level: int) -> Iterator[tuple[int, Any]]:
        """Return the numbered children in a specification that stands on this level; the given ones are on level 1."""
        children = self.specs[index]["children"]
        if isinstance(children, str | bytes | bytearray) and children:
            children = self._from_json(children, join(self.places.path(index), "children"))
        if isinstance(children, dict):
            children = [children]
        if children is None or children == "":
            children = []
        if not isinstance(children, list | tuple):
            path = join(self.places.path(index), "children")
            raise InvalidSpecError(f"{path}: expected a list of job specifications, got {shown(children)}")
        if children and level >= self._max_depth:
            path = self.places.path(index)
            raise LimitExceededError(
                f"{join(path, 'children')}: expected at most {self._max_depth} levels of job specifications"
                " (max_spec_depth), got more",
            )
        return iter(enumerate(children))

    def _dict(self, spec: Any, path: str) -> dict[Any, Any]:
        """Return the dict that a specification is given as."""
        if isinstance(spec, str | bytes | bytearray):
            spec = self._from_json(spec, path)
        if isinstance(spec, dict):
            return spec
        raise _no_specification(spec, path)

    def _from_json(self, text: str | bytes | bytearray, path: str) -> Any:
        """Return what a JSON text stands for."""
        if not isinstance(text, str):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                message = f"{path}: expected text in UTF-8, got bytes that are not (at position {error.start})"
                raise InvalidSpecError(message) from None
        try:
            # Each level is an object in a list; a property adds a few levels below the last one.
            return jsontext.parse(text, max_depth=2 * self._max_depth + 8)
        except jsontext.JsonTextError as error:
            raise InvalidSpecError(f"{path}: not a JSON text: {error}") from None
        except jsontext.JsonDepthError as error:
            message = f"{path}: expected at most {self._max_depth} levels of job specifications (max_spec_depth), got"
            raise LimitExceededError(f"{message} {error}") from None


def _no_specification(found: Any, path: str) -> InvalidSpecError:
    """Return the complaint about something that stands in the place of a specification."""
    return InvalidSpecError(f"{path}: expected a job specification (a dict or a JSON object), got {shown(found)}")


def join(path: str, step: str) -> str:
    """Return the path of something inside what stands at a path."""
    return f"{path}.{step}" if path else step
