"""Jobs page by page, and the feed of what changes: together a picture of the farm that stays right."""
# ruff: noqa: N802 - methods have the names that they have on the wire

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from hqueue.api import statusnames
from hqueue.api.jobs import names_of
from hqueue.clock import from_ms
from hqueue.context import Chapter
from hqueue.database import listed
from hqueue.errors import InvalidArgumentError
from hqueue.rpc import arguments
from hqueue.rpc.method import MANY, exposed
from hqueue.schema import counter, event, job, job_edge, job_spec, run
from hqueue.views import jobxml
from hqueue.views.failures import digest

DEFAULT_LIMIT: Final = 1_000
MOST: Final = 10_000
_BIGGEST: Final = 2**63 - 1
# Databases refuse longer patterns, and each star multiplies what a long name may cost.
_MOST_CHARACTERS: Final = 1_000
_MOST_STARS: Final = 16
_CURSOR: Final = re.compile(r"(id|-id):([0-9]{1,18}):([0-9]{1,18})\Z")
_KEYS: Final = (
    "status",
    "name",
    "submittedBy",
    "tag",
    "root",
    "parent",
    "rootsOnly",
    "client",
    "order",
    "attribs",
    "limit",
    "cursor",
)

_SEARCHED: Final = ("name", "submittedBy", "tag")  # every job may have to be looked at for them


@dataclass(frozen=True, slots=True)
class _Query:
    """What listJobs was asked for."""

    statement: sa.Select[Any]
    descending: bool
    name: str | None
    submitted_by: str | None
    tag: str | None
    names: list[str]
    limit: int
    after: int  # the last id of the page before
    seq: int | None  # of the first page

    def matches(self, row: Any) -> bool:
        """Tell whether a job is one that was asked for, exactly; the database knows that only nearly."""
        if self.name is not None and not fnmatch.fnmatchcase(row.name, self.name):
            return False
        if self.submitted_by is not None and row.submitted_by != self.submitted_by:
            return False
        return self.tag is None or self.tag in json.loads(row.tags_json)


class Listing(Chapter):
    """The methods for those who keep a picture of the queue."""

    @exposed()
    def getFailures(self, job_id: Any, limit: Any = 10) -> dict[str, Any] | None:
        """Return what failed in a tree and why, None for an unknown id.

        Shapes: {failed, failures: [{id, name, exitCode, signal, text, clientId, clientHostname, date, line}], causes:
        [{line, count, example}]}. failed: how many jobs failed by themselves, not because of what is below them;
        failures: the first of them; line: of its output, the one that tells most. causes: those lines, the most
        frequent first, with digits and hexadecimal numbers as `#`; example: the id of a job.
        Errors: InvalidArgumentError for a limit that is not 0 to 1,000.
        Source: ours.
        """
        key, most = arguments.one_id(job_id, "job_id"), arguments.integer(limit, "limit")
        if not 0 <= most <= DEFAULT_LIMIT:
            raise InvalidArgumentError(f"limit is {most}, but 0 to {DEFAULT_LIMIT} was expected")
        with self._store.reading() as connection:
            found = digest(connection, key, most)
        if found is None:
            return None
        return {"failed": found.failed, "failures": found.failures, "causes": found.causes}

    @exposed(big=lambda params: not _is_small(params))
    def listJobs(self, query: Any = None) -> dict[str, Any]:
        """Return a page of the jobs that meet all that the query says.

        Shapes: query is a dict: status (names), name (glob of at most 1,000
        characters, 16 of them *), submittedBy, tag, root, parent, client (ids), rootsOnly,
        order ("id" or "-id"), attribs (as getJobs), limit (1,000; at most 10,000), cursor. Returns {jobs, next, seq}:
        `next` is the cursor of the next page, None after the last one; `seq` the place in the change feed at which
        the first page was made: getChanges from there tells everything that has changed since.
        Errors: InvalidArgumentError, UnknownAttributeError.
        Source: ours.
        """
        wanted = _read(query)
        with self._store.reading() as connection:
            seq = wanted.seq
            if seq is None:
                seq = connection.execute(_LAST_EVENT).scalar_one()
            ids, more = _page(connection, wanted)
            jobs = jobxml.answer(self._attributes, connection, ids, wanted.names)
        order = "-id" if wanted.descending else "id"
        return {
            "jobs": jobs,
            "next": f"{order}:{ids[-1]}:{seq}" if more else None,
            "seq": seq,
        }

    @exposed(big=lambda params: len(params) > 1 and params[1] != DEFAULT_LIMIT and not _is_at_most(params[1], MANY))
    def getChanges(self, since: Any, limit: Any = DEFAULT_LIMIT) -> dict[str, Any]:
        """Return what has happened to jobs after a place in the feed, in the order in which it was stored.

        Shapes: {changes: [{seq, date, jobId, count, event, status}], next, reset}: ask again from `next`. reset is
        True where the feed does not go back so far, or not yet so far: list the jobs again. A submission is one change:
        `count` jobs from jobId on; count is 1 in all others.
        Errors: InvalidArgumentError for a limit below 1.
        Source: ours.
        """
        start, most = arguments.integer(since, "since"), _limit(limit)
        with self._store.reading() as connection:
            last = connection.execute(_LAST_EVENT).scalar_one()
            forgotten = connection.execute(_LAST_FORGOTTEN_EVENT).scalar() or 0
            if not forgotten <= start <= last:
                return {"changes": [], "next": last, "reset": True}
            columns = (event.c.seq, event.c.at, event.c.job_id, event.c.jobs, event.c.event, event.c.status)
            rows = connection.execute(
                sa.select(*columns).where(event.c.seq > start, event.c.jobs > 0).order_by(event.c.seq).limit(most),
            ).all()
        names = ("seq", "date", "jobId", "count", "event", "status")
        changes = [dict(zip(names, (row.seq, from_ms(row.at), *row[2:]), strict=True)) for row in rows]
        # The end of the feed may be numbers that no event has: a failed transaction leaves them out.
        return {"changes": changes, "next": rows[-1].seq if len(rows) == most else last, "reset": False}


def _is_at_most(limit: Any, most: int) -> bool:
    return isinstance(limit, int) and limit <= most


def _is_small(params: list[Any]) -> bool:
    """Tell whether listJobs is called for a few jobs that indexes find."""
    query = params[0] if params else None
    return isinstance(query, dict) and query.keys().isdisjoint(_SEARCHED) and _is_at_most(query.get("limit"), MANY)


_LAST_EVENT: Final = sa.select(counter.c.value).where(counter.c.name == "event")
# The highest number that was removed from the feed; what tells the log of a job that is still there stays longer, so
# that the lowest number that is left says nothing.
_LAST_FORGOTTEN_EVENT: Final = sa.select(counter.c.value).where(counter.c.name == "event_forgotten")


def _page(connection: sa.Connection, wanted: _Query) -> tuple[list[int], bool]:
    """Return the ids of a page, and whether there is another."""
    found: list[int] = []
    after = wanted.after
    while True:
        bound = job.c.id < after if wanted.descending else job.c.id > after
        rows = connection.execute(wanted.statement.where(bound).limit(wanted.limit + 1)).all()
        for row in rows:
            after = row.id
            if wanted.matches(row):
                if len(found) == wanted.limit:
                    return found, True
                found.append(row.id)
        if len(rows) <= wanted.limit:
            return found, False


def _read(value: Any) -> _Query:
    """Return what a caller asks for.

    Errors: InvalidArgumentError, UnknownAttributeError.
    """
    query = {} if value is None or value == "" else value
    if not isinstance(query, dict):
        raise InvalidArgumentError(f"query is {arguments.shown(value)}, but a dict was expected")
    for key in query:
        if key not in _KEYS:
            raise InvalidArgumentError(
                f"query: there is no filter {arguments.shown(key)}; valid ones are {', '.join(_KEYS)}",
            )
    given = {key: each for key, each in query.items() if each is not None and each != ""}
    order, after, seq = _cursor(given)
    texts = {key: arguments.text(given[key], f"query.{key}") for key in ("name", "submittedBy", "tag") if key in given}
    _check_patterns(texts)
    statement = _statement(given, texts)
    descending = order == "-id"
    return _Query(
        statement=statement.order_by(job.c.id.desc() if descending else job.c.id),
        descending=descending,
        name=texts.get("name"),
        submitted_by=texts.get("submittedBy"),
        tag=texts.get("tag"),
        names=names_of(given.get("attribs")),
        limit=_limit(given.get("limit", DEFAULT_LIMIT), "query.limit"),
        after=after,
        seq=seq,
    )


def _check_patterns(texts: dict[str, str]) -> None:
    """Refuse what would become a pattern that no database takes."""
    for key in ("name", "tag"):
        length = len(texts.get(key, ""))
        if length > _MOST_CHARACTERS:
            raise InvalidArgumentError(
                f"query.{key} is {arguments.shown(texts[key])}, of {length} characters, but at most "
                f"{_MOST_CHARACTERS} were expected"
            )
    stars = texts.get("name", "").count("*")
    if stars > _MOST_STARS:
        raise InvalidArgumentError(
            f"query.name is {arguments.shown(texts['name'])}, with {stars} stars, but at most {_MOST_STARS} are taken"
        )


def _cursor(given: dict[str, Any]) -> tuple[str, int, int | None]:
    """Return the order, the id to go on after, and the seq of the first page."""
    order = given.get("order", "id")
    if order not in {"id", "-id"}:
        raise InvalidArgumentError(f"query.order is {arguments.shown(order)}, but 'id' or '-id' was expected")
    if "cursor" not in given:
        return order, 0 if order == "id" else _BIGGEST, None
    found = _CURSOR.match(arguments.text(given["cursor"], "query.cursor"))
    if found is None or ("order" in given and found[1] != order):
        shown = arguments.shown(given["cursor"])
        raise InvalidArgumentError(f"query.cursor is {shown}, but what the page before returned as next was expected")
    return found[1], int(found[2]), int(found[3])


def _statement(given: dict[str, Any], texts: dict[str, str]) -> sa.Select[Any]:
    """Return the ids of the jobs that may match, with what is needed to tell whether they do."""
    statement = sa.select(job.c.id, job.c.name)
    if "submittedBy" in texts or "tag" in texts:
        statement = statement.add_columns(job_spec.c.submitted_by, job_spec.c.tags_json)
        statement = statement.join(job_spec, job_spec.c.job_id == job.c.id)
    if "status" in given:
        statement = statement.where(job.c.status.in_(listed("statuses", texts=True)))
        statement = statement.params(statuses=statusnames.read(given["status"], "query.status"))
    if "root" in given:
        statement = statement.where(job.c.root_id == arguments.one_id(given["root"], "query.root"))
    if "parent" in given:
        parent = arguments.one_id(given["parent"], "query.parent")
        statement = statement.where(job.c.id.in_(sa.select(job_edge.c.child_id).where(job_edge.c.parent_id == parent)))
    if "client" in given:
        this = run.c.client_id == arguments.one_id(given["client"], "query.client")
        statement = statement.where(job.c.id.in_(sa.select(run.c.job_id).where(this, run.c.hook == "")))
    if "rootsOnly" in given and arguments.flag(given["rootsOnly"], "query.rootsOnly"):
        statement = statement.where(job.c.is_root)
    if "name" in texts:
        statement = statement.where(job.c.name.like(_like(texts["name"]), escape="/"))
    if "submittedBy" in texts:
        statement = statement.where(job_spec.c.submitted_by == texts["submittedBy"])
    if "tag" in texts:
        encoded = json.dumps(texts["tag"], ensure_ascii=False)
        statement = statement.where(job_spec.c.tags_json.contains(encoded, autoescape=True))
    return statement


def _like(glob: str) -> str:
    """Return a LIKE pattern that every name meets that meets the glob; others may, too."""
    literal = re.sub(r"([/%_])", r"/\1", re.sub(r"\[[^\]]*\].*", "*", glob))
    return literal.replace("*", "%").replace("?", "_")


def _limit(value: Any, name: str = "limit") -> int:
    limit = arguments.integer(value, name)
    if limit < 1:
        raise InvalidArgumentError(f"{name} is {limit}, but at least 1 was expected")
    return min(limit, MOST)
