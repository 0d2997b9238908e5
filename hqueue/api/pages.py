"""What a GET is answered with, as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import __version__
from hqueue.clock import to_ms
from hqueue.config import client_label
from hqueue.context import Chapter, Context
from hqueue.errors import PASSING
from hqueue.rpc.method import Page
from hqueue.schema import job, run
from hqueue.states import JobStatus
from hqueue.views.clientattributes import fetch_clients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_BIGGEST_ID: Final = 2**63 - 1
_STATES: Final = ("idle", "running", "disabled", "condemned", "terminating", "lost")


class Pages(Chapter):
    """The pages: /, /jobs/view/<id>, /health, /metrics."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._started_at_s = self._clock.monotonic()

    def get(self, path: str) -> Page:
        """Return the page for a path.

        Shapes: 404 for an unknown one; 503 while the store cannot be used.
        """
        try:
            if path == "/":
                state = self._state()
                return Page(200 if state == "running" else 503, f"hqueue {__version__}, {state}\n")
            if path == "/health":
                return self._health()
            if path == "/metrics":
                return Page(200, self._metrics(), _PROMETHEUS)
            return self._job(path)
        except PASSING as error:
            return Page(503, f"{error.message}\n")

    def _state(self) -> str:
        """Return how the server is; the store is not asked, for it may not answer."""
        return self._store.trouble() or "running"

    def _health(self) -> Page:
        state = self._state()
        lines = [state, *sorted(set(self._farm.live_farm.undelivered().values()))]
        return Page(200 if state == "running" else 503, "".join(f"{line}\n" for line in lines))

    def _job(self, path: str) -> Page:
        before, _, text = path.removesuffix("/").rpartition("/")
        if before != "/jobs/view" or not (text.isascii() and text.isdigit()):
            return Page(404, "there is no such page; there are /, /jobs/view/<id>, /health and /metrics\n")
        job_id = int(text) if len(text) < 20 else 0
        names = ["name", "history", *(name for _, name, _ in _LINES)]
        with self._store.reading() as connection:
            found = self._attributes.fetch(connection, [job_id if job_id <= _BIGGEST_ID else 0], names)
        if job_id not in found:
            return Page(404, f"there is no job {text}\n")
        return Page(200, _job_text(job_id, found[job_id]))

    def _metrics(self) -> str:
        now_ms = to_ms(self._clock.now())
        with self._store.reading() as connection:
            statuses = dict.fromkeys(JobStatus, 0)
            counted = sa.select(job.c.status, sa.func.count()).group_by(job.c.status)
            statuses.update((JobStatus(status), count) for status, count in connection.execute(counted))
            oldest = sa.select(sa.func.min(job.c.runnable_at)).where(job.c.status == JobStatus.RUNNABLE)
            waiting_since = connection.execute(oldest).scalar()
            used = sa.select(sa.func.count(), sa.func.sum(run.c.cpus)).where(run.c.open_job_id > 0)
            runs, used_cpus = connection.execute(used).one()
            clients = fetch_clients(connection, self._farm, None, ["state", "cpus", "available"])
        states = dict.fromkeys(_STATES, 0)
        for each in clients:
            states[each["state"]] += 1
        waited_s = 0 if waiting_since is None else max(0, now_ms - waiting_since) / 1000
        return "".join(
            [
                _metric("hqueue_info", "gauge", "This server.", [({"version": __version__}, 1)]),
                _metric(
                    "hqueue_uptime_seconds",
                    "gauge",
                    "Since the server was started.",
                    [({}, self._clock.monotonic() - self._started_at_s)],
                ),
                _metric("hqueue_jobs", "gauge", "Jobs.", [({"status": key}, n) for key, n in statuses.items()]),
                _metric("hqueue_oldest_runnable_seconds", "gauge", "The longest a job waits.", [({}, waited_s)]),
                _metric("hqueue_runs", "gauge", "Runs that clients hold.", [({}, runs)]),
                _metric("hqueue_clients", "gauge", "Clients.", [({"state": key}, n) for key, n in states.items()]),
                _metric(
                    "hqueue_cpus",
                    "gauge",
                    "CPUs of clients that take work, and CPUs that runs hold.",
                    [
                        ({"kind": "available"}, sum(each["cpus"] for each in clients if each["available"])),
                        ({"kind": "used"}, int(used_cpus or 0)),
                    ],
                ),
            ],
        )


def _metric(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, Any], float]]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        shown = ",".join(f'{key}="{label}"' for key, label in labels.items())
        lines.append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}")
    return "\n".join(lines) + "\n"


def _job_text(job_id: int, attributes: Mapping[str, Any]) -> str:
    lines = [f"job {job_id}: {attributes['name']}", ""]
    for title, name, show in _LINES:
        value = attributes[name]
        shown = "" if value in _EMPTY else show(value)
        if shown:
            lines.append(f"{title + ':':15}{shown}")
    lines += ["", "log:"]
    for entry in attributes["history"]:
        message = f" ({entry['message']})" if entry["message"] else ""
        lines.append(f"  {_date(entry['date'])}  {entry['event']}{message}")
    return "\n".join(lines) + "\n"


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _children(counts: Mapping[str, int]) -> str:
    return f"{counts['total']}, {counts['finished']} finished, {counts['failed']} failed" if counts["total"] else ""


def _clients(clients: Iterable[Mapping[str, Any]]) -> str:
    return _list(client_label(each["hostname"], each["name"]) for each in clients)


def _command(command: str | Mapping[str, str]) -> str:
    if isinstance(command, str):
        return command
    return "; ".join(f"{platform}: {text}" for platform, text in command.items())


_EMPTY: Final[tuple[Any, ...]] = (None, "", [])
# What a job's page shows, a line each: title, attribute, and how its value is written.
_LINES: Final[tuple[tuple[str, str, Callable[[Any], str]], ...]] = (
    ("status", "uiStatus", str),
    ("waiting for", "waitingFor", str),
    ("progress", "overallProgress", "{:.0%}".format),
    ("priority", "priority", str),
    ("submitted", "queueTime", _date),
    ("started", "startTime", _date),
    ("ended", "endTime", _date),
    ("exit code", "exitCode", str),
    ("submitted by", "submittedBy", str),
    ("description", "description", str),
    ("tags", "tags", _list),
    ("parents", "parents", _list),
    ("children", "childCounts", _children),
    ("clients", "clients", _clients),
    ("command", "command", _command),
    ("latest note", "latestNote", str),
)
