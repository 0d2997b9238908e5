"""The commands about jobs: submit, jobs, job, and the actions on them."""

from __future__ import annotations

import getpass
import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hqueue.cli import following, shown
from hqueue.cli.program import ComplaintError
from hqueue.cli.screen import Cell, Column
from hqueue.cli.submission import as_json, specifications
from hqueue.clock import SystemClock

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from hqueue.cli.connection import Farm
    from hqueue.cli.screen import Screen
    from hqueue.clock import Clock

LISTED: Final = ["id", "name", "status", "uiStatus", "overallProgress", "clients"]
ON_REQUEST: Final = ["command", "shell", "environment", "maxTime", "exitCode", "history"]
# More than so many at once are asked about, unless --yes was given.
ASK_ABOVE: Final = 10
OVER: Final = dict.fromkeys(("succeeded", "failed", "cancelled"), "it is over")
NOT_OVER: Final = ("queued", "runnable", "running", "pausing", "paused", "resuming", "ejecting")


class Action(NamedTuple):
    """A method that is called with ids, and the statuses in which it has nothing to do."""

    method: str
    does: str
    useless: Mapping[str, str]


ACTIONS: Final[Mapping[str, Action]] = {
    "cancel": Action("cancelJobs", "cancel", OVER),
    "pause": Action("pauseJobs", "pause", OVER),
    "resume": Action("resumeJobs", "resume", OVER),
    "eject": Action("ejectJobs", "eject", OVER),
    "reschedule": Action("rescheduleJobs", "run again", dict.fromkeys(NOT_OVER, "it is not over")),
    "delete": Action("deleteJobs", "delete", dict.fromkeys(NOT_OVER, "it is not over; cancel it first")),
}


def submit(options: argparse.Namespace, farm: Farm, screen: Screen, clock: Clock | None = None) -> int:
    """Submit what the options describe; print the ids."""
    specs = specifications(options, _user())
    if options.dry_run:
        screen.json(specs)
        return 0
    if specs and isinstance(specs[0], dict):
        key = specs[0].get("submissionId") or secrets.token_hex(16)
        text = as_json([specs[0] | {"submissionId": key}, *specs[1:]])
        ids = following.submit(text, options.parent, farm, screen, clock or SystemClock())
    else:
        ids = farm.call("newjob", as_json(specs), options.parent)
    given = ids[: len(specs)]
    if screen.json_wanted:
        screen.json({"ids": given, "all": ids})
    elif screen.terminal:
        for job_id, spec in zip(given, specs, strict=True):
            screen.line(f"submitted job {job_id}: {shown.one_line(spec.get('name', ''))}")
        if len(ids) > len(given):
            screen.line(f"with {len(ids) - len(given)} children")
    else:
        for job_id in given:
            screen.line(str(job_id))
    return following.wait_for(given, farm, screen, clock) if options.wait else 0


def jobs(options: argparse.Namespace, farm: Farm, screen: Screen) -> int:
    """List root jobs, or all jobs of some statuses, newest first."""
    if options.status:
        ids = farm.call("getJobIdsByStatus", [part for text in options.status for part in text.split(",")])
    else:
        ids = farm.call("getUnfinishedRootJobIds")
        if options.all:
            ids += farm.call("getFinishedRootJobIds")
    total = len(ids)
    ids = sorted(ids, reverse=True)[: options.limit or None]
    found: list[dict[str, Any]] = farm.call("getJobs", ids, LISTED) if ids else []
    if screen.json_wanted:
        screen.json(found)
        return 0
    if not found:
        screen.aside("no such jobs" if options.status else "no jobs" if options.all else "no unfinished jobs")
        return 0
    columns = (
        Column("ID", right=True),
        Column("STATUS"),
        Column("DONE", right=True),
        Column("NAME", flexible=True),
        Column("CLIENTS"),
    )
    screen.table(columns, map(_row, found))
    if len(ids) < total:
        screen.aside(f"the newest {len(ids)} of {total}; --limit 0 shows all")
    return 0


def job(options: argparse.Namespace, farm: Farm, screen: Screen) -> int:
    """Print all about one job."""
    found = farm.call("getJob", options.id)
    if found is None:
        raise ComplaintError(f"there is no job {options.id}.")
    found |= farm.call("getJob", options.id, ON_REQUEST) or {}
    if screen.json_wanted:
        screen.json(found)
        return 0
    screen.fields(shown.job_fields(found))
    rows = shown.log_rows(found)
    if rows:
        screen.line("")
        screen.table((Column("TIME"), Column("EVENT"), Column("MESSAGE", flexible=True)), rows)
    return 0


def why(options: argparse.Namespace, farm: Farm, screen: Screen) -> int:
    """Print why a job waits: in a sentence, and counted over the machines."""
    found = farm.call("explainJob", options.id)
    if found is None:
        raise ComplaintError(f"there is no job {options.id}.")
    if screen.json_wanted:
        screen.json(found)
        return 0
    screen.line(f"job {options.id} {shown.one_line(found['summary'])}")
    rows = shown.reason_rows(found)
    if rows:
        screen.line("")
        columns = (Column("CLIENTS", right=True), Column("BECAUSE", flexible=True), Column("SUCH AS", flexible=True))
        screen.table(columns, rows)
    if found["ahead"]:
        screen.line("")
        screen.line(f"{found['ahead']} waiting {'jobs come' if found['ahead'] > 1 else 'job comes'} before it.")
    return 0


def act(options: argparse.Namespace, farm: Farm, screen: Screen) -> int:
    """Call an action on jobs and say what became of each; the code is 1 when it could not be done for one of them."""
    action = ACTIONS[options.command]
    ids: list[int] = list(dict.fromkeys(options.ids))
    if len(ids) > ASK_ABOVE and not options.yes:
        if not screen.interactive:
            raise ComplaintError(f"{len(ids)} jobs are many; give --yes to {action.does} them without being asked.")
        if not screen.confirmed(f"{action.does} {len(ids)} jobs?"):
            raise ComplaintError("nothing was done.")
    before = _by_id(farm, ids)
    farm.call(action.method, ids)
    after = _by_id(farm, ids)
    results = [_result(each, action, before.get(each), after.get(each)) for each in ids]
    if screen.json_wanted:
        screen.json([{"id": each, "status": after.get(each, {}).get("status"), "done": ok} for each, ok, _ in results])
    for _, ok, sentence in results:
        if not ok:
            screen.aside(f"hq: {sentence}")
        elif not screen.json_wanted:
            screen.line(sentence)
    return 0 if all(ok for _, ok, _ in results) else 1


def _row(found: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        Cell(str(found["id"])),
        shown.status(found),
        Cell(shown.percent(found["overallProgress"])),
        Cell(shown.one_line(found["name"])),
        Cell(shown.clients(found)),
    )


def _by_id(farm: Farm, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    return {found["id"]: found for found in farm.call("getJobs", ids, ["id", "name", "status"])}


def _result(
    job_id: int, action: Action, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[int, bool, str]:
    if before is None:
        return job_id, False, f"there is no job {job_id}."
    title = f"job {job_id} ({shown.one_line(before['name'])})"
    status = before["status"]
    if after is None:
        return job_id, True, f"{title} is deleted"
    if status in action.useless:
        return job_id, False, f"cannot {action.does} {title}, which is {status}: {action.useless[status]}."
    if action.method == "deleteJobs":
        return job_id, False, f"{title} was {status} and is {after['status']}, so it was not deleted."
    if after["status"] == status:
        return job_id, True, f"{title} is {status}"
    return job_id, True, f"{title} was {status}, is {after['status']}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return ""
