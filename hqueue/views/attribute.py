"""What callers are shown of a job or of a client under one name; each attribute is declared once, as one of these."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hqueue.clock import from_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    import sqlalchemy as sa

B = TypeVar("B")  # the rows of one call, and what other tables say of all of them


class Shape(Enum):
    """How a column is shown in which nearly every row has another value."""

    NUMBER = auto()
    MOMENT = auto()  # ms since 1970
    TEXT = auto()
    LOG = auto()  # no column: the lines of each job


@dataclass(frozen=True, slots=True)
class Attribute(Generic[B]):
    """What makes a value for one row of a batch, and what the value depends on.

    by: rows that agree in these columns have the same value.
    own: a row that holds something in one of these columns has a value of its own.
    also: columns that making the value takes besides.
    related: what there is for some rows, by id; the rows for which there is nothing have the same value.
    key: what of that decides the value.
    apart: whether every row of a batch has a value of its own.
    elsewhere: making the value may take another statement.
    """

    make: Callable[[Any, B], Any]
    by: tuple[sa.Column[Any], ...] = ()
    own: tuple[sa.Column[Any], ...] = ()
    also: tuple[sa.Column[Any], ...] = ()
    related: Callable[[B], Mapping[int, Any]] | None = None
    key: Callable[[Any], tuple[Any, ...]] = tuple
    apart: Callable[[B], object] | None = None
    shape: Shape | None = None
    elsewhere: bool = False

    @property
    def columns(self) -> tuple[sa.Column[Any], ...]:
        """Return the columns that a statement has to read for it."""
        return self.by + self.own + self.also

    def stands_in(self, table: sa.Table) -> bool:
        """Tell whether the value is made of one row of a table, without another statement."""
        return not self.elsewhere and self.related is None and all(each.table is table for each in self.columns)


def columns_of(attributes: Mapping[str, Attribute[Any]], names: Iterable[str]) -> Sequence[sa.Column[Any]]:
    """Return the columns that some attributes need, each once."""
    return list(dict.fromkeys(column for name in names for column in attributes[name].columns))


def plain(column: sa.Column[Any], shape: Shape | None = None) -> Attribute[Any]:
    """Return the attribute that shows a column as it is."""
    name = column.name
    return Attribute(lambda row, _batch: getattr(row, name), (column,), shape=shape)


def date(column: sa.Column[Any]) -> Attribute[Any]:
    """Return the attribute that shows a column in ms since 1970 as a date."""
    name = column.name
    return Attribute(lambda row, _batch: optional_date(getattr(row, name)), (column,), shape=Shape.MOMENT)


def from_json(column: sa.Column[Any]) -> Attribute[Any]:
    """Return the attribute that shows what a column holds as JSON."""
    name = column.name

    def make(row: Any, _batch: object) -> Any:
        text = getattr(row, name)
        return None if text is None else json.loads(text)

    return Attribute(make, (column,))


def optional_date(milliseconds: int | None) -> datetime | None:
    """Return a moment of the store for the wire; None where it is unset."""
    return None if milliseconds is None else from_ms(milliseconds)
