"""Many jobs as XML, column by column, where the values themselves would take seven times as long.

What a value is, and what it depends on, is declared in `jobattributes`. Most attributes have few different values in an
answer, or depend on few columns as long as a job is at rest. Each different value is written once; then a template of
the whole row takes them in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hqueue import wire
from hqueue.clock import from_ms
from hqueue.views.attribute import Shape
from hqueue.views.jobattributes import JOB_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import sqlalchemy as sa

    from hqueue.views.attribute import Attribute
    from hqueue.views.jobattributes import Batch, JobAttributes

# For fewer jobs the template costs more than it saves.
MANY: Final = 50
_DAY_S: Final = 86_400
_INT32: Final = 2**31
_NIL: Final = wire.dumps_value(None)
_EMPTY: Final = wire.dumps_value([])
_LIST: Final = _EMPTY.partition(b"</data>")
_PAIR: Final = b"%b%%b%%b%b%b" % _LIST


def answer(
    attributes: JobAttributes,
    connection: sa.Connection,
    job_ids: Sequence[int],
    names: Sequence[str],
) -> list[Any]:
    """Return attributes of jobs in the order asked, unknown ids skipped: dicts, or their XML where these are many."""
    found: Mapping[int, Any]
    if len(job_ids) < MANY:
        found = attributes.fetch(connection, job_ids, names)
    else:
        found = rows_of(attributes.read(connection, job_ids, names), names)
    return [found[each] for each in job_ids if each in found]


def rows_of(batch: Batch, names: Sequence[str]) -> dict[int, wire.Raw]:
    """Return the attributes of all the jobs of a batch as XML, by id."""
    if not batch.rows:
        return {}
    columns = _Columns(batch)
    pieces = [b"<value><struct>"]
    varying: list[Sequence[bytes]] = []
    for name in names:
        cells = columns.cells(JOB_ATTRIBUTES[name])
        first = cells[0]
        constant = cells.count(first) == len(cells)
        pieces.append(b"<member><name>%b</name>" % name.encode())
        pieces.append(first.replace(b"%", b"%%") if constant else b"%b")
        pieces.append(b"</member>")
        if not constant:
            varying.append(cells)
    pieces.append(b"</struct></value>")
    template = b"".join(pieces)
    rows = map(template.__mod__, zip(*varying, strict=True)) if varying else [template % ()] * len(batch.rows)
    return dict(zip(batch.ids, map(wire.Raw, rows), strict=True))


class _Columns:
    """Makes the XML of an attribute of all the jobs of a batch, in their order."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._dates = _Dates()

    def cells(self, attribute: Attribute[Batch]) -> list[bytes]:
        """Return the XML of the values."""
        if attribute.shape is Shape.LOG:
            return self._logs()
        if attribute.apart is not None and attribute.apart(self._batch):
            return [self._made(attribute, row) for row in self._batch.rows]
        if attribute.related is not None:
            return self._related(attribute, attribute.related(self._batch))
        columns = [self._batch.columns[column.name] for column in attribute.by]
        alone = [self._batch.columns[column.name] for column in attribute.own]
        apart = list(map(any, zip(*alone, strict=True))) if alone else []
        if attribute.shape is None:
            return self._by(attribute, columns, apart)
        found = self._shaped(attribute.shape, columns[0])
        for place, row in enumerate(self._batch.rows if apart else ()):
            if apart[place]:
                found[place] = self._made(attribute, row)
        return found

    def _made(self, attribute: Attribute[Batch], row: Any) -> bytes:
        return wire.dumps_value(attribute.make(row, self._batch))

    def _by(self, attribute: Attribute[Batch], columns: Sequence[Sequence[Any]], apart: Sequence[bool]) -> list[bytes]:
        """Make the value once for all jobs that agree in the columns, and for each of those that stand apart."""
        rows = self._batch.rows
        if not columns:
            return [self._made(attribute, rows[0])] * len(rows)
        keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        if not apart:
            one_of_each = dict(zip(keys, rows, strict=True))
            made = {key: self._made(attribute, row) for key, row in one_of_each.items()}
            return list(map(made.__getitem__, keys))
        alike = {key: row for key, row, alone in zip(keys, rows, apart, strict=True) if not alone}
        made = {key: self._made(attribute, row) for key, row in alike.items()}
        return [
            self._made(attribute, row) if alone else made[key]
            for key, row, alone in zip(keys, rows, apart, strict=True)
        ]

    def _shaped(self, shape: Shape, values: Sequence[Any]) -> list[bytes]:
        """Write a column whose values are mostly different ones."""
        if shape is Shape.MOMENT:
            dates = self._dates
            return [_NIL if each is None else dates[each // 1000] for each in values]
        return numbers(values) if shape is Shape.NUMBER else list(map(wire.dumps_value, values))

    def _related(self, attribute: Attribute[Batch], having: Mapping[int, Any]) -> list[bytes]:
        """Make the value from what there is for some jobs; of those for which there is nothing it is the same."""
        rows, ids, key = self._batch.rows, self._batch.ids, attribute.key
        bare = next((row for job_id, row in zip(ids, rows, strict=True) if job_id not in having), None)
        found = [self._made(attribute, bare) if bare is not None else b""] * len(rows)
        if having:
            made: dict[Any, bytes] = {}
            for place, (job_id, row) in enumerate(zip(ids, rows, strict=True)):
                related = having.get(job_id)
                if related is not None:
                    same = key(related)
                    found[place] = made.get(same) or made.setdefault(same, self._made(attribute, row))
        return found

    def _logs(self) -> list[bytes]:
        dates, texts, lines = self._dates, _Texts(), self._batch.log.lines
        before, end, after = _LIST
        return [
            b"".join((before, *[_PAIR % (texts[text], dates[at // 1000]) for at, text in lines[job_id]], end, after))
            if job_id in lines
            else _EMPTY
            for job_id in self._batch.ids
        ]


def numbers(values: Sequence[int]) -> list[bytes]:
    """Write whole numbers."""
    if max(values) >= _INT32 or min(values) < 0:
        return list(map(wire.dumps_value, values))
    return [b"<value><int>%d</int></value>" % value for value in values]


class _Dates(dict[int, bytes]):
    """Moments by their second since 1970; those of an answer are mostly of the same few days."""

    def __init__(self) -> None:
        super().__init__()
        self._days: dict[int, bytes] = {}

    def __missing__(self, second: int) -> bytes:
        day, rest = divmod(second, _DAY_S)
        start = self._days.get(day)
        if start is None:
            start = self._days[day] = wire.dumps_value(from_ms(day * _DAY_S * 1000)).partition(b"T00:00:00")[0]
        minutes, seconds = divmod(rest, 60)
        text = b"%bT%02d:%02d:%02d</dateTime.iso8601></value>" % (start, *divmod(minutes, 60), seconds)
        self[second] = text
        return text


class _Texts(dict[str, bytes]):
    def __missing__(self, text: str) -> bytes:
        element = self[text] = wire.dumps_value(text)
        return element
