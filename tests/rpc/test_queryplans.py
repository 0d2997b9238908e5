"""No question about a few jobs, or about a page of them, goes through the whole table of jobs."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue import database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOBS = 100_000
# What ANALYZE finds in a store of that size: a tree of most of them, few requirements, most of them succeeded.
STATISTICS = {
    ("job", "ix_job_schedule"): f"{JOBS} 20000 2000 500 5 1",
    ("job", "ix_job_roots"): f"{JOBS} 50000 15000 1",
    ("job", "ix_job_root_id"): f"{JOBS} 10 1",
    ("job_spec", None): f"{JOBS}",
    ("job_edge", "ix_job_edge_child_id"): f"{JOBS} 1 1",
    ("job_edge", "sqlite_autoindex_job_edge_1"): f"{JOBS} 9000 1",
    ("event", "ix_event_job_id"): f"{4 * JOBS} 4 1",
    ("run", "ix_run_job_id"): f"{JOBS} 1 1",
    ("run", "ix_run_client_closed"): f"{JOBS} 2000 1",
    ("requirement", None): "50",
    ("client", None): "50",
}
QUESTIONS: dict[str, Callable[[Any], object]] = {
    "getJobs of 1,000, all attributes": lambda api: api.getJobs(list(range(1, 1001))),
    "getJobs of a few": lambda api: api.getJobs([1, 2, 3]),
    "getJobs, status alone": lambda api: api.getJobs(list(range(1, 1001)), ["status"]),
    "getJob": lambda api: api.getJob(1),
    "roll-ups of a root": lambda api: api.getJob(1, ["uiStatus", "overallProgress", "ETA", "startTime"]),
    "getUnfinishedRootJobIds": lambda api: api.getUnfinishedRootJobIds(),
    "getFinishedRootJobIds": lambda api: api.getFinishedRootJobIds(),
    "getJobIdsByStatus": lambda api: api.getJobIdsByStatus(["queued", "running"]),
    "getNumWaitingJobs": lambda api: api.getNumWaitingJobs(5, 1, 9),
    "getJobIdsAssignedToClient": lambda api: api.getJobIdsAssignedToClient(1),
    "getJobHistory": lambda api: api.getJobHistory(1, 50),
    "getFailures": lambda api: api.getFailures(2),
    "getJobRuns": lambda api: api.getJobRuns(2),
    "listJobs": lambda api: api.listJobs({"limit": 1000}),
    "listJobs from a cursor, backwards": lambda api: api.listJobs({"cursor": "-id:50000:0"}),
    "listJobs of a status": lambda api: api.listJobs({"status": ["queued"]}),
    "listJobs of roots": lambda api: api.listJobs({"rootsOnly": True}),
    "listJobs of unfinished roots": lambda api: api.listJobs({"rootsOnly": True, "status": ["queued", "running"]}),
    "listJobs below a root": lambda api: api.listJobs({"root": 1}),
    "listJobs below a parent": lambda api: api.listJobs({"parent": 1}),
    "listJobs on a client": lambda api: api.listJobs({"client": 1}),
    "listJobs of a user": lambda api: api.listJobs({"submittedBy": "jörg"}),
    "listJobs of a tag": lambda api: api.listJobs({"tag": "nacht"}),
    "getChanges": lambda api: api.getChanges(0),
}


@pytest.fixture
def farm_of_jobs(api):
    """Return a farm in which each question finds something to do."""
    machine = api.farm.machine()
    ids = api.newjob({"name": "r", "submittedBy": "jörg", "children": [{"name": "k", "command": "c"}] * 3})
    api.run(ids[1], machine)
    machine.end(ids[1])
    api.run(ids[2], machine)
    return api


@pytest.fixture(params=["without statistics, as the server leaves it", "with those of 100,000 jobs"])
def planner(farm_of_jobs, request):
    """Return a connection that plans as for such a store."""
    path = database.sqlite_path(farm_of_jobs.store.engine)
    if request.param.startswith("with "):
        with farm_of_jobs.store.writing() as session:
            session.connection.exec_driver_sql("ANALYZE")
            session.connection.exec_driver_sql("DELETE FROM sqlite_stat1")
            for (table, index), numbers in STATISTICS.items():
                session.connection.exec_driver_sql(
                    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", (table, index, numbers)
                )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection


@contextlib.contextmanager
def listening(engine: sa.Engine) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that are executed meanwhile, with their values."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_goes_through_all_jobs(farm_of_jobs, planner, question):
    with listening(farm_of_jobs.store.engine) as asked:
        QUESTIONS[question](farm_of_jobs)
    queries = [(text, values) for text, values in asked if text.startswith(("SELECT", "WITH"))]
    assert queries
    for text, values in queries:
        plan = [row[3] for row in planner.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        scans = [step for step in plan if re.match(r"SCAN (job|event|run|job_spec|job_edge)\b", step)]
        assert scans == [], (text, plan)


def test_a_scan_would_be_seen(planner):
    (row,) = planner.execute("EXPLAIN QUERY PLAN SELECT id FROM job WHERE name LIKE '%x%'")
    assert re.match(r"SCAN job\b", row[3])
