"""Hooks: commands that follow what happens to a job, each as a run of its own that takes nothing and changes no job.

A hook waits in its table until a client can take it; `hqueue.waiting` says which. From the moment it is given to a
client it is never given to another, unless the first says that it never started it.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.lifecycle.properties import PROPERTIES, encode
from hqueue.schema import client, hook, job, job_spec, run
from hqueue.store import Session, WakeClient, WakeScheduler

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hqueue.states import Hook

_SPECS: Final = sa.select(job_spec.c.job_id, job_spec.c.hooks_json).where(
    job_spec.c.job_id.in_(listed("jobs")), job_spec.c.hooks_json.is_not(None)
)
_DROP: Final = sa.delete(hook).where(hook.c.job_id.in_(listed("jobs")), hook.c.run_id.is_(None))
_OF_RUNS: Final = hook.c.run_id.in_(listed("runs"))
_LINES: Final = sa.select(
    hook.c.id, hook.c.run_id, hook.c.name, hook.c.refused_json, job.c.id.label("job"), job.c.status
)
_OPEN: Final = _LINES.join(job, job.c.id == hook.c.job_id).where(_OF_RUNS)
_THESE: Final = _LINES.join(job, job.c.id == hook.c.job_id).where(
    hook.c.id.in_(listed("hooks")), hook.c.run_id.is_(None)
)
_PENDING: Final = sa.select(hook.c.id, hook.c.job_id, hook.c.name, hook.c.max_time_s, job.c.requirement_id).where(
    hook.c.id.in_(listed("hooks")), hook.c.run_id.is_(None)
)
_GIVE: Final = sa.update(hook).where(hook.c.id == sa.bindparam("key_id")).values(run_id=sa.bindparam("given_to"))
_TAKE_BACK: Final = (
    sa.update(hook)
    .where(hook.c.id == sa.bindparam("key_id"))
    .values(run_id=None, refused_json=sa.bindparam("new_refused"))
)
_TAKING: Final = sa.select(client.c.id).where(~client.c.lost, ~client.c.terminating, ~client.c.forgotten)


class Start(NamedTuple):
    """A hook that is to run, and where."""

    hook_id: int
    client_id: int


def queue(session: Session, wanted: Sequence[tuple[int, Hook]]) -> None:
    """Have hooks run, of those of the jobs that have them.

    Writes: hook.
    """
    if not wanted:
        return
    specs = session.connection.execute(_SPECS, {"jobs": sorted({job_id for job_id, _ in wanted})})
    given = {row.job_id: json.loads(row.hooks_json) for row in specs}
    rows = [
        {
            "job_id": job_id,
            "name": name.value,
            "command_json": encode(command),
            "max_time_s": session.policy.hook_max_minutes * 60,
            "refused_json": "[]",
        }
        for job_id, name in wanted
        if (command := given.get(job_id, {}).get(field_of(name)))
    ]
    if rows:
        session.connection.execute(sa.insert(hook), rows)
        session.after_commit(WakeScheduler())


def field_of(name: Hook) -> str:
    """Return under which name a job's specification keeps a hook."""
    return PROPERTIES[name.value][0].name


def drop(session: Session, job_ids: Collection[int]) -> None:
    """Forget the hooks of jobs that have not been started."""
    if job_ids:
        session.connection.execute(_DROP, {"jobs": job_ids})


def give_up(session: Session, hook_ids: Collection[int]) -> None:
    """Forget hooks for which no client was found, with a line in their jobs' logs."""
    for row in session.connection.execute(_THESE, {"hooks": hook_ids}).all():
        _say(session, row, "not run: there was no client that could run it")
        session.connection.execute(sa.delete(hook).where(hook.c.id == row.id))


def start(session: Session, starts: Sequence[Start]) -> int:
    """Give hooks to clients, as far as both are still there; return how many were given.

    Writes: run, hook.
    """
    taking = set(session.connection.execute(_TAKING).scalars())
    wanted = {each.hook_id: each.client_id for each in starts if each.client_id in taking}
    query = _PENDING.join(job, job.c.id == hook.c.job_id)
    rows = session.connection.execute(query, {"hooks": list(wanted)}).all() if wanted else ()
    if not rows:
        return 0
    first = session.allocate("run", len(rows))
    runs = [_run(session, run_id, row, wanted[row.id]) for run_id, row in enumerate(rows, first)]
    session.connection.execute(sa.insert(run), runs)
    given = [{"key_id": row.id, "given_to": run_id} for run_id, row in enumerate(rows, first)]
    session.connection.execute(_GIVE, given)
    for client_id in dict.fromkeys(each["client_id"] for each in runs):
        session.after_commit(WakeClient(client_id))
    return len(rows)


def _run(session: Session, run_id: int, row: Any, client_id: int) -> dict[str, Any]:
    return {
        "id": run_id,
        "token": f"{run_id:x}-{secrets.token_hex(8)}",
        "job_id": row.job_id,
        "open_job_id": -run_id,
        "client_id": client_id,
        "requirement_id": row.requirement_id,
        "attempt": 0,
        "cpus": 0,
        "hosts": 1,
        "fenced": False,
        "wish": "run",
        "wish_number": 0,
        "wish_confirmed": 0,
        "wish_reason": "",
        "assigned_at": session.now_ms,
        "outcome": "",
        "message": "",
        "hook": row.name,
    }


def close(session: Session, ends: Mapping[int, str]) -> None:
    """Note how the runs of hooks ended, by run: a line in their jobs' logs.

    Writes: hook.
    """
    if not ends:
        return
    for row in session.connection.execute(_OPEN, {"runs": list(ends)}).all():
        _say(session, row, ends[row.run_id])
    session.connection.execute(sa.delete(hook).where(_OF_RUNS), {"runs": list(ends)})


def refuse(session: Session, refused: Mapping[int, int], label: str) -> None:
    """Let hooks wait for another client than the one that did not start them: the client's id by the run's.

    Writes: hook.
    """
    if not refused:
        return
    rows = session.connection.execute(_OPEN, {"runs": list(refused)}).all()
    for row in rows:
        _say(session, row, f"refused by {label}")
    back = [
        {"key_id": row.id, "new_refused": encode([*json.loads(row.refused_json), refused[row.run_id]])} for row in rows
    ]
    if back:
        session.connection.execute(_TAKE_BACK, back)
        session.after_commit(WakeScheduler())


def _say(session: Session, row: Any, text: str) -> None:
    session.record(row.job, "note", row.status, f"{row.name}: {text}")
