"""Many jobs as XML, column by column, where the values themselves would take seven times as long.

What a value is says `jobattributes`, and only that. Here stands how to get at its XML without making it for every job:
most attributes have few different values in an answer, or depend on few columns as long as a job is at rest. Each
different value is written once; then a template of the whole row takes them in. Attributes of which nothing is known
here are made job by job.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from hqueue import wire
from hqueue.clock import from_ms
from hqueue.views.jobattributes import JOB_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import sqlalchemy as sa

    from hqueue.views.jobattributes import Batch, JobAttributes

    # Returns the XML of an attribute of all the jobs, in the order of the batch.
    _Making = Callable[[str, "_Table"], list[bytes]]

# For fewer jobs the template costs more than it saves.
MANY: Final = 50
_DAY_S: Final = 86_400
_INT32: Final = 2**31
_NIL: Final = wire.dumps_value(None)
_EMPTY: Final = wire.dumps_value([])
_LIST: Final = _EMPTY.partition(b"</data>")


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
    table = _Table(batch)
    pieces = [b"<value><struct>"]
    varying: list[Sequence[bytes]] = []
    for name in names:
        cells = _MAKING.get(name, _each)(name, table)
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


class _Table:
    """The rows of a batch by column."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __getitem__(self, name: str) -> Sequence[Any]:
        return self.batch.columns[name]

    @cached_property
    def dates(self) -> _Dates:
        """The moments of this answer."""
        return _Dates()


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


# --- How to make a column --------------------------------------------------------------------------------------------


def _each(name: str, table: _Table) -> list[bytes]:
    """Make every job's value."""
    make, batch = JOB_ATTRIBUTES[name].make, table.batch
    values = [make(row, batch) for row in batch.rows]
    return [_EMPTY if value == [] else wire.dumps_value(value) for value in values]


def _by(*columns: str, own: tuple[str, ...] = ()) -> _Making:
    """Make the value once for all jobs that agree in some columns.

    own: columns of which one that holds something makes the job's value its own.
    """

    def cells(name: str, table: _Table) -> list[bytes]:
        make, batch = JOB_ATTRIBUTES[name].make, table.batch
        keys = table[columns[0]] if len(columns) == 1 else list(zip(*map(table.__getitem__, columns), strict=True))
        if not own:
            one_of_each = dict(zip(keys, batch.rows, strict=True))
            made = {key: wire.dumps_value(make(row, batch)) for key, row in one_of_each.items()}
            return list(map(made.__getitem__, keys))
        apart = list(map(any, zip(*map(table.__getitem__, own), strict=True)))
        alike = {key: row for key, row, alone in zip(keys, batch.rows, apart, strict=True) if not alone}
        made = {key: wire.dumps_value(make(row, batch)) for key, row in alike.items()}
        return [
            wire.dumps_value(make(row, batch)) if alone else made[key]
            for key, row, alone in zip(keys, batch.rows, apart, strict=True)
        ]

    return cells


def _number(column: str) -> _Making:
    """Make the value of a column of whole numbers that are mostly different ones."""

    def cells(_name: str, table: _Table) -> list[bytes]:
        numbers = table[column]
        if max(numbers) >= _INT32 or min(numbers) < 0:
            return list(map(wire.dumps_value, numbers))
        return [b"<value><int>%d</int></value>" % number for number in numbers]

    return cells


def _moment(column: str, own: str | None = None) -> _Making:
    """Make the value of a column in ms since 1970.

    own: as above.
    """

    def cells(name: str, table: _Table) -> list[bytes]:
        dates = table.dates
        found = [_NIL if each is None else dates[each // 1000] for each in table[column]]
        if own is not None:
            make, batch = JOB_ATTRIBUTES[name].make, table.batch
            for place, (row, alone) in enumerate(zip(batch.rows, table[own], strict=True)):
                if alone:
                    found[place] = wire.dumps_value(make(row, batch))
        return found

    return cells


def _related(
    relation: Callable[[Batch], Mapping[int, Any]],
    key: Callable[[Any], tuple[Any, ...]] = tuple,
) -> _Making:
    """Make the value from what there is for some jobs; of those for which there is nothing it is the same.

    key: what the value depends on, of what there is.
    """

    def cells(name: str, table: _Table) -> list[bytes]:
        make, batch = JOB_ATTRIBUTES[name].make, table.batch
        having = relation(batch)
        bare = next((row for job_id, row in zip(batch.ids, batch.rows, strict=True) if job_id not in having), None)
        found = [wire.dumps_value(make(bare, batch)) if bare is not None else b""] * len(batch.rows)
        if having:
            made: dict[Any, bytes] = {}
            for place, (job_id, row) in enumerate(zip(batch.ids, batch.rows, strict=True)):
                related = having.get(job_id)
                if related is not None:
                    same = key(related)
                    found[place] = made.get(same) or made.setdefault(same, wire.dumps_value(make(row, batch)))
        return found

    return cells


def _unless_held(making: _Making) -> _Making:
    """Make the value job by job while clients are kept for some jobs: then it depends on the place in the queue."""
    return lambda name, table: (_each if table.batch.live_farm.holds else making)(name, table)


def _unless_told_apart(making: _Making) -> _Making:
    """Make the value job by job also while some jobs wait for the end of a run of their own."""
    return lambda name, table: (_each if table.batch.explainer.earlier_runs else _unless_held(making))(name, table)


def _logs(_name: str, table: _Table) -> list[bytes]:
    dates, texts = table.dates, _Texts()
    lines: dict[int, list[bytes]] = defaultdict(list)
    for job_id, at, event, status, message in table.batch.log_lines:
        lines[job_id].append(_LOG_LINE % (dates[at // 1000], texts[event], texts[status], texts[message]))
    before, end, after = _LIST
    return [b"".join((before, *lines[job_id], end, after)) if job_id in lines else _EMPTY for job_id in table.batch.ids]


class _Texts(dict[str, bytes]):
    def __missing__(self, text: str) -> bytes:
        element = self[text] = wire.dumps_value(text)
        return element


_LOG_LINE: Final = b"<value><struct>%b</struct></value>" % b"".join(
    [b"<member><name>%b</name>%%b</member>" % name for name in (b"date", b"event", b"status", b"message")],
)
_REQUIREMENT: Final = _by("spec_json")
_MAKING: Final[dict[str, _Making]] = {
    "childCounts": _by("children_total", "children_unsettled", "children_unsuccessful"),
    "children": _related(lambda batch: batch.children),
    "clients": _related(lambda batch: batch.clients, key=lambda ran: tuple([each["id"] for each in ran])),
    "clientsOnHold": _related(lambda batch: batch.live_farm.holds),
    "command": _by("command_json"),
    "conditions": _REQUIREMENT,
    "cpus": _REQUIREMENT,
    "description": _by("description"),
    "endTime": _moment("ended_at"),
    "environment": _by("environment_json"),
    "ETA": _by("status", own=("children_total", "run_id")),
    "exitCode": _by("exit_code"),
    "id": _number("id"),
    "inheritsConditions": _by("inherits_conditions"),
    "latestNote": _related(lambda batch: batch.notes),
    "logs": _logs,
    "maxHosts": _REQUIREMENT,
    "maxTime": _by("max_time_s"),
    "minHosts": _REQUIREMENT,
    "name": lambda _name, table: list(map(wire.dumps_value, table["name"])),
    "overallProgress": _by("status", "counted", "progress", own=("children_total", "run_id")),
    "parents": _related(lambda batch: batch.parents),
    "priority": _by("priority"),
    "progress": _by("progress", own=("run_id",)),
    "queueTime": _moment("queued_at"),
    "resources": _REQUIREMENT,
    "root": _number("root_id"),
    "runnableTime": _moment("runnable_at"),
    "shell": _by("shell"),
    "showBlockedClientsWarning": _by("show_blocked_warning"),
    "startTime": _moment("started_at", own="children_total"),
    "status": _by("status"),
    "submittedBy": _by("submitted_by"),
    "tags": _by("tags_json"),
    "threadId": _related(lambda batch: batch.notes),
    "triesLeft": _by("tries_left"),
    "uiStatus": _unless_held(_by("status", "requirement_id", own=("children_total",))),
    "waitingFor": _unless_told_apart(_by("status", "requirement_id", "children_total", "children_unsettled")),
}
