"""Whoever lists the jobs once and follows the feed from there ends with the picture that listing again gives."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hqueue.errors import CyclicGraphError, HQueueError, JobStateError, StoreUnavailableError
from hqueue.lifecycle.bulk import Action
from tests.fakes import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from tests.rpc.conftest import Api

Picture = dict[int, str]  # the status of each job


class Follower:
    """A script that keeps a picture of the queue: pages first, then the feed, in pieces of any size."""

    def __init__(self, api: Api, meanwhile: Callable[[], None], limit: int) -> None:
        self._api = api
        self._limit = limit
        self.picture: Picture = {}
        cursor, self._since = None, None
        while True:
            page = api.listJobs({"attribs": ["id", "status"], "limit": limit, "cursor": cursor})
            self.picture |= {job["id"]: job["status"] for job in page["jobs"]}
            self._since = page["seq"] if self._since is None else self._since
            assert page["seq"] == self._since
            cursor = page["next"]
            meanwhile()
            if cursor is None:
                return

    def follow(self) -> bool:
        """Take the next piece of the feed; tell whether there was any."""
        found = self._api.getChanges(self._since, self._limit)
        assert found["reset"] is False
        seqs = [change["seq"] for change in found["changes"]]
        assert seqs == sorted(set(seqs))
        assert all(seq > self._since for seq in seqs)
        for change in found["changes"]:
            if change["event"] == "deleted":
                self.picture.pop(change["jobId"], None)
            elif change["event"] == "submitted":
                ids = range(change["jobId"], change["jobId"] + change["count"])
                new = self._api.getJobs(list(ids), ["id", "status"])
                self.picture |= {job["id"]: job["status"] for job in new}
            else:
                self.picture[change["jobId"]] = change["status"]
        self._since = found["next"]
        return bool(found["changes"])

    def catch_up(self) -> Picture:
        """Follow to the end."""
        while self.follow():
            pass
        return self.picture


def listed_again(api: Api) -> Picture:
    found: Picture = {}
    cursor = None
    while True:
        page = api.listJobs({"attribs": ["id", "status"], "limit": 7, "cursor": cursor, "order": "-id" * (not cursor)})
        found |= {job["id"]: job["status"] for job in page["jobs"]}
        cursor = page["next"]
        if cursor is None:
            return found


# --- One thing after the other ---------------------------------------------------------------------------------------

_number = st.integers(0, 30)
_spec = st.fixed_dictionaries(
    {"name": st.sampled_from(["Bild-ä", "影像"])},
    optional={
        "command": st.just("render"),
        "children": st.lists(
            st.fixed_dictionaries({"name": st.just("k")}, optional={"command": st.just("c")}), max_size=3
        ),
    },
)
_step = st.one_of(
    st.tuples(st.just("submit"), _spec, _number),
    st.tuples(st.just("act"), st.sampled_from(list(Action)), _number),
    st.tuples(st.just("priority"), st.integers(0, 9), _number),
    st.tuples(st.just("run"), st.sampled_from(["well", "badly", "refused"]), _number),
    st.tuples(st.just("wishes"), st.integers(1, 5), _number),
)


def empty(api: Api) -> None:
    """Let nothing be left of the example before."""
    if not api.farm.machines:
        api.farm.machine(cpus=3)
    api.cancelJobs(list(listed_again(api)))
    api.farm.finish_bulk()
    api.farm.machines[0].beat()
    api.farm.machines[0].obey()
    api.deleteJobs(list(listed_again(api)))
    api.farm.finish_bulk()
    assert listed_again(api) == {}


def do(api: Api, step: tuple[str, Any, int]) -> None:
    """Let one thing happen to the queue, as far as it is possible."""
    kind, what, number = step
    known = [job["id"] for job in api.listJobs({"attribs": ["id"], "order": "-id", "limit": 10})["jobs"]]
    chosen = known[number % len(known)] if known else 0
    if kind == "submit":
        with contextlib.suppress(JobStateError, CyclicGraphError):
            api.newjob(what, chosen if number % 2 else None)
    elif kind == "act":
        api.call(f"{what.value}Jobs", [chosen])
    elif kind == "priority":
        api.setJobPriority([chosen], what)
    elif kind == "wishes":
        for _ in range(what):
            api.farm.step()
    else:
        machine = api.farm.machines[0]
        api.farm.tick()
        machine.beat()
        for job_id in machine.jobs:
            if machine.held[machine.token(job_id)].asked is None:
                ends = {"well": machine.end, "badly": lambda each: machine.end(each, 3), "refused": machine.refuse}
                ends[what](job_id)
        machine.obey()


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(before=st.lists(_step, max_size=8), between=st.lists(_step, max_size=20), limit=st.integers(1, 4))
def test_the_feed_ends_where_listing_again_does(api, before, between, limit):
    empty(api)
    for step in before:
        do(api, step)
    steps = iter(between)
    follower = Follower(api, lambda: do(api, next(steps, ("wishes", 1, 0))), limit)
    for step in steps:
        do(api, step)
        follower.follow()
    api.farm.finish_bulk()
    assert follower.catch_up() == listed_again(api)


@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(between=st.lists(_step, min_size=1, max_size=12), limit=st.integers(1, 4), backwards=st.booleans())
def test_pages_have_every_job_that_was_there_all_the_time_once(api, between, limit, backwards):
    empty(api)
    api.newjob([{"name": "x", "command": "c"}] * 6)
    there = set(listed_again(api))
    steps, seen, cursor = iter(between), [], None
    while True:
        query = {"attribs": ["id"], "limit": limit, "cursor": cursor} | ({} if cursor else {"order": "-id" * backwards})
        page = api.listJobs(query)
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            break
        do(api, next(steps, ("wishes", 1, 0)))
        there &= set(listed_again(api))
    assert seen == sorted(set(seen), reverse=backwards)
    assert there <= set(seen)


# --- Many at once ----------------------------------------------------------------------------------------------------


def test_while_many_callers_share_commits(api_everywhere):
    api = api_everywhere
    api.newjob([{"name": "x", "command": "c"}] * 5)
    started, ended = threading.Barrier(5), []

    def call(number: int) -> None:
        started.wait(PATIENCE_S)
        for turn in range(12):
            ids = api.newjob([{"name": f"Bild {number}-{turn}", "command": "c"}, {"name": "leer"}])
            parked = [api.table.dispatch(name, [ids]) for name in ("cancelJobs", "deleteJobs", "rescheduleJobs")]
            for answer in parked[: 1 + turn % 3]:
                answer.result(PATIENCE_S)
        ended.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for each in callers:
        each.start()
    started.wait(PATIENCE_S)
    follower = Follower(api, lambda: None, 3)
    while len(ended) < len(callers):
        follower.follow()
    for each in callers:
        each.join(PATIENCE_S)
    api.farm.finish_bulk()
    assert follower.catch_up() == listed_again(api)


# --- A connection that breaks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def breaking_commit(engine: sa.Engine, *, stored: bool) -> Iterator[None]:
    """Let the next COMMIT break the connection: before it is carried out, or when only its answer is missing."""
    broken = []

    def break_it(connection: sa.Connection) -> None:
        if broken:
            return
        broken.append(True)
        raw: Any = connection.connection.dbapi_connection
        if stored:
            raw.commit()
        ends = {
            "postgresql": lambda: f"SELECT pg_terminate_backend({raw.info.backend_pid})",
            "mysql": lambda: f"KILL {raw.thread_id()}",
        }
        if engine.dialect.name in ends:
            with engine.connect() as other:
                other.exec_driver_sql(ends[engine.dialect.name]())
            if not stored:
                return  # the COMMIT itself finds out
        raise sa.exc.OperationalError("COMMIT", {}, OSError("the connection is gone"), connection_invalidated=True)

    sa.event.listen(engine, "commit", break_it)
    try:
        yield
    finally:
        sa.event.remove(engine, "commit", break_it)
    assert broken


@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "with only the answer missing"])
def test_when_a_connection_breaks_during_commit(api_everywhere, stored):
    api = api_everywhere
    (first,) = api.newjob({"name": "vorher", "command": "c"})
    follower = Follower(api, lambda: None, 2)
    with breaking_commit(api.store.engine, stored=stored):
        parked = [api.table.dispatch("newjob", [{"name": f"Bild {number}", "command": "c"}]) for number in range(5)]
        outcomes = [outcome(future) for future in parked]
    # A COMMIT over the network is looked up: what is stored after all gets its answer.
    answered = stored and not api.store.is_local
    failed = {type(each) for each in outcomes if isinstance(each, Exception)}
    assert failed == (set() if answered else {StoreUnavailableError})
    follower.follow()
    for _ in range(20):  # the database may take a moment to let the new connection in
        with contextlib.suppress(StoreUnavailableError):
            api.cancelJobs([first])
            break
    after = api.newjob([{"name": "nachher"}] * 3)
    picture = follower.catch_up()
    assert picture == listed_again(api)
    assert set(after) < set(picture)
    told = {job_id for each in outcomes if isinstance(each, list) for job_id in each}
    assert told <= set(picture)
    names = [job["name"] for job in api.getJobs(list(picture), ["name"])]
    assert len(set(names) - {"nachher"}) == len([name for name in names if name != "nachher"])


def outcome(future: Future[Any]) -> Any:
    """Return what a parked call came to."""
    try:
        return future.result(PATIENCE_S)
    except HQueueError as error:
        return error
