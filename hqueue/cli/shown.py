"""The attributes of jobs and clients in the words people read; pure, and forgiving about what is missing."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from hqueue.cli.screen import Cell
from hqueue.config import client_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COLOURS: Final[Mapping[str, str]] = {
    "succeeded": "green",
    "failed": "red",
    "abandoned": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "pausing": "yellow",
    "ejecting": "yellow",
    "running": "cyan",
    "resuming": "cyan",
}
ASSIGNED: Final = re.compile(r" \((\d+) clients? assigned\)")
LOG_LINES: Final = 20


def one_line(text: Any) -> str:
    """Return text without line breaks and control characters, which would tear a table apart."""
    return " ".join("".join(each if each.isprintable() else " " for each in str(text)).split())


def status(job: Mapping[str, Any]) -> Cell:
    """Return a job's status as the pages show it, without the number of its clients."""
    words = str(job.get("uiStatus") or job.get("status") or "?")
    return Cell(ASSIGNED.sub("", words), COLOURS.get(words.split(" ", maxsplit=1)[0], ""))


def percent(fraction: Any) -> str:
    """Return a fraction in whole percent, 100 only when nothing is left to do."""
    return f"{math.floor(100 * fraction)}%" if isinstance(fraction, int | float) else ""


def clients(job: Mapping[str, Any]) -> str:
    """Return on how many clients the jobs below are, or the client that runs or ran this one."""
    assigned = ASSIGNED.search(str(job.get("uiStatus", "")))
    if assigned is not None:
        return "1 client" if assigned[1] == "1" else f"{assigned[1]} clients"
    return label(job["clients"][0]) if job.get("clients") else ""


def label(client: Mapping[str, Any]) -> str:
    """Return what a client is called, in one line."""
    return one_line(client_label(client["hostname"], client.get("name", "")))


def moment(value: Any) -> str:
    """Return a date of the wire, which is UTC, in this machine's zone."""
    if not isinstance(value, datetime):
        return ""
    return value.replace(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return seconds in the two largest units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def kilobytes(value: Any) -> str:
    """Return kilobytes in gigabytes, as machines are sold."""
    return f"{value / (1 << 20):.1f} GiB" if isinstance(value, int | float) and value > 0 else ""


def job_fields(job: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    """Return all that is worth reading about a job, by name; what is empty or as usual is left out."""
    found: list[tuple[str, Cell]] = [
        ("job", Cell(f"{job.get('id')}  {one_line(job.get('name', ''))}", "bold")),
        ("status", Cell(_whole_status(job), status(job).style)),
    ]
    texts = {
        "waiting for": one_line(job.get("waitingFor") or "").removeprefix("waits for "),
        "progress": _progress(job),
        "exit code": "" if job.get("exitCode") is None else str(job["exitCode"]),
        "client": ", ".join(label(each) for each in job.get("clients") or ()),
        "command": _command(job.get("command")),
        "shell": str(job.get("shell") or ""),
        "environment": "\n".join(f"{name}={text}" for name, text in sorted((job.get("environment") or {}).items())),
        "description": str(job.get("description") or ""),
        "submitted": " ".join(filter(None, (moment(job.get("queueTime")), _by(job.get("submittedBy"))))),
        "started": moment(job.get("startTime")),
        "ended": _ended(job),
        "priority": str(job.get("priority", "")),
        "CPUs": str(job.get("cpus", "")),
        "tags": ", ".join(map(one_line, job.get("tags") or ())),
        "conditions": "\n".join(_conditions(job.get("conditions") or ())),
        "resources": ", ".join(f"{one_line(name)}: {n}" for name, n in sorted((job.get("resources") or {}).items())),
        "time limit": duration(job["maxTime"]) if job.get("maxTime") else "",
        "tries left": str(job["triesLeft"]) if job.get("triesLeft") else "",
        "parents": _numbers(job.get("parents") or ()),
        "children": _children(job),
        "latest note": one_line(job.get("latestNote") or ""),
    }
    return found + [(name, Cell(text)) for name, text in texts.items() if text]


def reason_rows(explained: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    """Return what keeps a job from the machines: how many, why, and some of them; first those that have room."""
    clients = explained["clients"]
    free = clients["free"]
    rows: list[tuple[Cell, ...]] = []
    if free:
        rows.append((Cell(str(free)), Cell("has room" if free == 1 else "have room", "green"), Cell("")))
    for each in clients["reasons"]:
        more = ", …" if each["count"] > len(each["examples"]) else ""
        rows.append(
            (Cell(str(each["count"])), Cell(one_line(each["reason"])), Cell(", ".join(each["examples"]) + more))
        )
    return rows


def log_rows(job: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    """Return the last lines of a job's log: when, what happened, what was said."""
    return [
        (
            Cell(moment(entry.get("date")), "dim"),
            Cell(one_line(entry.get("event") or ""), COLOURS.get(str(entry.get("status")), "")),
            Cell(one_line(entry.get("message") or "")),
        )
        for entry in (job.get("history") or [])[-LOG_LINES:]
    ]


def _whole_status(job: Mapping[str, Any]) -> str:
    own, words = str(job.get("status") or "?"), str(job.get("uiStatus") or "")
    return f"{own}: {words}" if words and words != own else own


def _progress(job: Mapping[str, Any]) -> str:
    overall = percent(job.get("overallProgress"))
    eta = job.get("ETA")
    left = (
        f", about {duration(eta)} left"
        if isinstance(eta, int | float) and eta >= 0 and job.get("endTime") is None
        else ""
    )
    return f"{overall}{left}" if overall else ""


def _command(command: Any) -> str:
    if isinstance(command, dict):
        return "\n".join(f"{platform}: {text}" for platform, text in sorted(command.items()))
    return str(command or "")


def _by(user: Any) -> str:
    return f"by {one_line(user)}" if user else ""


def _ended(job: Mapping[str, Any]) -> str:
    start, end = job.get("startTime"), job.get("endTime")
    if isinstance(start, datetime) and isinstance(end, datetime):
        return f"{moment(end)} after {duration((end - start).total_seconds())}"
    return moment(end)


def _conditions(conditions: Iterable[Mapping[str, Any]]) -> list[str]:
    return [one_line(f"{each.get('name')} {each.get('op')} {each.get('value')}") for each in conditions]


def _children(job: Mapping[str, Any]) -> str:
    children = job.get("children") or ()
    counts = job.get("childCounts") or {}
    if not children:
        return ""
    parts = [f"{counts[key]} {key}" for key in ("finished", "failed") if counts.get(key)]
    return f"{len(children)}" + (f", {', '.join(parts)}" if parts else "") + f" ({_numbers(children)})"


def _numbers(ids: Sequence[int]) -> str:
    """Return ids with those in a row as a range, at most a dozen of either."""
    ranges: list[tuple[int, int]] = []
    for each in sorted(ids):
        if ranges and ranges[-1][1] + 1 == each:
            ranges[-1] = (ranges[-1][0], each)
        else:
            ranges.append((each, each))
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
    return ", ".join([*texts[:12], "…"] if len(texts) > 12 else texts)
