"""Start, stop and death, once for every kind of service and every user of one."""

from __future__ import annotations

import http.client
import logging
import threading
import xmlrpc.client
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from hqueue.client.conversation import Call
from hqueue.client.link import ServerLink
from hqueue.client.listener import Listener
from hqueue.clock import SystemClock
from hqueue.context import make_context
from hqueue.durability import Flusher
from hqueue.errors import HQueueError, InternalError, OutcomeUnknownError, StoreUnavailableError
from hqueue.farm.calls import FarmMethods
from hqueue.farm.heartbeats import Heartbeat
from hqueue.groupcommit import GroupCommit
from hqueue.lifecycle.incoming import Incoming, _Call
from hqueue.live import LiveClient, LiveFarm
from hqueue.outbox.delivery import Post
from hqueue.rpc.dispatch import Method, MethodTable, Where
from hqueue.rpc.handler import RequestHandler
from hqueue.rpc.http import Limits, parse_head
from hqueue.service import Consumer, Loop, PeriodicService
from hqueue.wakeups import Wakeups
from tests.fakes import PATIENCE_S, FakeClock
from tests.storefarm import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hqueue.store import Store

    Step = Callable[[], object]

NAME = "prüfer"
SOON_S = 2.0  # SPEC 13: whoever waits for a service that died hears of it by then


class Deaths(list[BaseException]):
    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def __call__(self, error: BaseException) -> None:
        self.append(error)
        self.came.set()


class Case:
    """A service, and how to have a step done in its thread.

    `do` returns what the caller waits for, or None where nobody waits for an answer.
    """

    name = NAME
    threads = 1
    lives_once = False
    refused: int | None = StoreUnavailableError.code  # what who comes after the end is told; None: he gets an answer
    told: int | None = OutcomeUnknownError.code  # what who waits when the service dies is told
    dies_of_any = False  # error; otherwise an ordinary one is the affair of its item

    def __init__(self, store: Store, folder: Path) -> None:
        self.deaths = Deaths()
        self.steps: SimpleQueue[Step] = SimpleQueue()
        self._before = set(threading.enumerate())
        self.service: Any = self.build(store, folder)

    def build(self, store: Store, folder: Path) -> Any:
        raise NotImplementedError

    def do(self, step: Step) -> Future[Any] | None:
        raise NotImplementedError

    def do_next(self) -> None:
        self.steps.get()()

    def stop(self) -> None:
        self.service.stop()

    def alive(self) -> list[str]:
        return [each.name for each in set(threading.enumerate()) - self._before if each.name.startswith(self.name)]


class Ticking(Case):
    dies_of_any = True

    def build(self, store: Store, folder: Path) -> Any:
        return PeriodicService(NAME, self.tick, SystemClock(), self.deaths)

    def tick(self) -> None:
        while not self.steps.empty():
            self.steps.get()()

    def do(self, step: Step) -> None:
        self.steps.put(step)
        self.service.wake()


class Looping(Case):
    lives_once = True
    dies_of_any = True

    def build(self, store: Store, folder: Path) -> Any:
        return Loop(NAME, self.run, self.deaths, interrupt=lambda: self.steps.put(lambda: None))

    def run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self.steps.get()()

    def do(self, step: Step) -> None:
        self.steps.put(step)


class One(Case):
    """A consumer that takes one item at a time and drops what it has not begun."""

    finish = False

    def build(self, store: Store, folder: Path) -> Any:
        return Consumer(NAME, self.deaths, each=handle, fail=fail, threads=self.threads, finish=self.finish)

    def do(self, step: Step) -> Future[Any]:
        future: Future[Any] = Future()
        self.service.put((step, future))
        return future


class Three(One):
    threads = 3


class Finishing(One):
    threads = 2
    finish = True


class Grouping(One):
    dies_of_any = True

    def build(self, store: Store, folder: Path) -> Any:
        return Consumer(NAME, self.deaths, group=self.handle_all, fail=fail, finish=True)

    @staticmethod
    def handle_all(arrived: Iterator[tuple[Step, Future[Any]]]) -> None:
        for item in arrived:
            handle(item)


def handle(item: tuple[Step, Future[Any]]) -> None:
    item[0]()
    item[1].set_result(None)


def fail(item: tuple[Step, Future[Any]], error: HQueueError) -> None:
    if not item[1].done():
        item[1].set_exception(error)


class Flushing(Case):
    name = "flusher"
    refused = None  # who comes after the end flushes by himself

    def build(self, store: Store, folder: Path) -> Any:
        return Flusher(folder / "größe.db", self.deaths)

    def do(self, step: Step) -> Future[Any]:
        future: Future[Any] = Future()

        def told(error: BaseException | None) -> None:
            try:
                if error is None:
                    step()
            except ValueError:
                error = InternalError()
                raise
            except SystemExit:
                error = OutcomeUnknownError()
                raise
            finally:
                fail((step, future), error) if error else future.set_result(None)

        self.service.when_durable(told)
        return future


class Committing(Case):
    name = "group-commit"

    def build(self, store: Store, folder: Path) -> Any:
        return GroupCommit(partial(store.writing, durable=False), store.when_durable, SystemClock(), self.deaths)

    def do(self, step: Step) -> Future[Any]:
        return self.service.put(lambda _session: step(), durable=True)


class Working(Case):
    """The workers, with the test in the place of the transport."""

    name = "rpc"
    threads = 2
    limits = Limits(workers=2, farm_workers=1, big_workers=1)
    stopping = False
    unsent = 0

    def build(self, store: Store, folder: Path) -> Any:
        table = MethodTable()
        table.add_method(Method("do", self.do_next, Where.WORKER))
        return RequestHandler(table, self, None, self.deaths)

    def do(self, step: Step) -> Future[Any]:
        self.steps.put(step)
        peer = Peer()
        body = xmlrpc.client.dumps((), "do").encode()
        self.service.handle(peer, parse_head(b"POST /RPC2 HTTP/1.1\r\nContent-Length: %d" % len(body)), body)
        return peer.future

    def stop(self) -> None:
        self.service.stop(PATIENCE_S)

    def on_loop(self) -> bool:
        return False

    def post(self, connection: Peer, pieces: list[bytes], *, keep: bool) -> None:
        del keep
        try:
            connection.future.set_result(xmlrpc.client.loads(b"".join(pieces).partition(b"\r\n\r\n")[2])[0][0])
        except xmlrpc.client.Fault as fault:
            connection.future.set_exception(fault)


class Peer:
    peer = "127.0.0.1"

    def __init__(self) -> None:
        self.future: Future[Any] = Future()


class Beating(Case):
    name = "heartbeat"
    threads = 2
    refused = told = None  # a heartbeat counts all the same

    def build(self, store: Store, folder: Path) -> Any:
        self.context = make_context(store, settings(job_logs_dir=str(folder / "logs")), FakeClock(), self.deaths)
        return FarmMethods(self.context, self.deaths)

    def do(self, step: Step) -> Future[Any]:
        beat = Beat(step)
        self.service._pool.put(beat)
        return beat.reply


class Beat(Heartbeat):
    """A heartbeat whose step is the test's."""

    def __init__(self, step: Step) -> None:
        self.reply = Future()
        self._number, self._config = 1, settings()
        self._live = LiveClient(1, "schmiede-ß", "k", 1)
        self._step = step
        self._next_step = self.carry_out

    def carry_out(self) -> None:
        self._step()
        self.reply.set_result({})


class Waking(Case):
    name = "wakeups"
    threads = 4

    def build(self, store: Store, folder: Path) -> Any:
        self.live_farm = LiveFarm(FakeClock())
        self.number = 0
        return Wakeups(self.live_farm, self, self.deaths)

    def monotonic(self) -> float:
        """Be the clock, which says that every client is to be left alone for a while."""
        self.steps.get()()
        return -1.0

    def do(self, step: Step) -> None:
        self.steps.put(step)
        self.number += 1
        self.live_farm.enter(LiveClient(self.number, f"farm{self.number}", "k", 1, ip="127.0.0.1", port=1))
        self.service.wake(self.number)


class Listening(Case):
    name = "listener"
    lives_once = True
    refused = told = 0

    def build(self, store: Store, folder: Path) -> Any:
        self.callers = ThreadPoolExecutor(8, thread_name_prefix="caller")
        listener = Listener(
            0,
            "127.0.0.1",
            next_free=True,
            on_wakeup=lambda: None,
            on_terminate=lambda: None,
            on_death=self.deaths,
        )
        process, self.port = listener.process_request, listener.port

        def process_request(*request: Any) -> None:
            self.steps.get()()
            process(*request)

        listener.process_request = process_request  # type: ignore[method-assign]
        return listener

    def do(self, step: Step) -> Future[Any]:
        self.steps.put(step)
        return self.callers.submit(self.ring)

    def ring(self) -> Any:
        # Not a ServerProxy, which calls twice when the first connection breaks.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("POST", "/RPC2", xmlrpc.client.dumps((), "wakeup"), {"Content-Type": "text/xml"})
            return connection.getresponse().read()
        finally:
            connection.close()


class Linking(Case):
    """The client's link; that there is no server where it calls is the answer."""

    name = "link"

    def build(self, store: Store, folder: Path) -> Any:
        self.futures: dict[str, Future[Any]] = {}
        return ServerLink(
            "http://127.0.0.1:1",
            before=self.do_next,
            on_answer=lambda call, value: None,
            on_failure=self.failure,
            on_death=self.deaths,
        )

    def failure(self, call: Call, error: Exception) -> None:
        if isinstance(error, ConnectionRefusedError):
            self.futures[call.method].set_result(None)
        else:
            self.futures[call.method].set_exception(error)

    def do(self, step: Step) -> Future[Any]:
        self.steps.put(step)
        name = f"n{len(self.futures)}"
        self.futures[name] = Future()
        self.service.make(Call(name, ()))
        return self.futures[name]

    def stop(self) -> None:
        self.service.stop(PATIENCE_S)


class Arriving(Case):
    """Large submissions, with one lane."""

    name = "submissions"

    def build(self, store: Store, folder: Path) -> Any:
        class Lanes(Incoming):
            def _take(self, lane: int, call: Any) -> None:
                if call.graph is not None:
                    call.graph()
                call.future.set_result([])

        lanes = Lanes(store, FakeClock(), self.deaths)
        del lanes._lanes[1:]
        return lanes

    def do(self, step: Step) -> Future[Any]:
        call: Any = _Call(step)  # type: ignore[arg-type]
        self.service._lanes[0].put(call)
        return call.future  # type: ignore[no-any-return]


class Posting(Case):
    """A channel of the outbox, whose letters are the test's steps."""

    name = "mail"
    dies_of_any = True

    def build(self, store: Store, folder: Path) -> Any:
        sick: Any = self
        return Post("mail", sick, sick, store, SystemClock(), self.deaths)

    def make(self, _now_ms: int) -> None:
        while not self.steps.empty():
            self.steps.get()()

    def close(self) -> None:
        """Be the sender, too."""

    def do(self, step: Step) -> None:
        self.steps.put(step)
        self.service.wake()


KINDS = [
    Ticking, Looping, One, Three, Finishing, Grouping,
    Flushing, Committing, Arriving, Working, Beating, Waking, Listening, Linking, Posting,
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def case(request: pytest.FixtureRequest, sqlite_store: Store, tmp_path: Path) -> Iterator[Case]:
    made: Case = request.param(sqlite_store, tmp_path)
    yield made
    made.stop()
    if isinstance(made, Listening):
        made.callers.shutdown()
    if isinstance(made, Beating):
        made.context.logs.close()


def nothing() -> None:
    """Be a step that is soon done."""


def outcome(future: Future[Any] | None) -> int | None:
    """Return the fault code that the caller gets, None for an answer, 0 for an error without a code."""
    error = future.exception(SOON_S) if future is not None else None
    if error is None:
        return None
    return getattr(error, "faultCode", getattr(error, "code", 0))


class Blocker:
    """A step that stays in the service's thread until it is let go, and then ends or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.arrived, self.go_on = threading.Event(), threading.Event()
        self._error = error

    def __call__(self) -> None:
        self.arrived.set()
        assert self.go_on.wait(PATIENCE_S)
        if self._error is not None:
            raise self._error


def test_many_threads_start_and_stop_it(case: Case) -> None:
    together = threading.Barrier(3)

    def churn(*steps: Step) -> None:
        for _ in range(30):
            together.wait(PATIENCE_S)
            for step in steps:
                step()

    start, stop = case.service.start, case.stop
    with ThreadPoolExecutor(3, thread_name_prefix="churn") as pool:
        for each in [pool.submit(churn, *steps) for steps in ((start, stop), (stop, start), (start, start))]:
            each.result(PATIENCE_S * 3)
    case.stop()
    case.stop()
    assert case.alive() == []
    if not case.lives_once:
        case.service.start()
        blocker = Blocker()
        answer = case.do(blocker)
        assert blocker.arrived.wait(PATIENCE_S)
        blocker.go_on.set()
        case.stop()
        assert outcome(answer) is None
    assert case.deaths == []


def test_start_twice_is_as_once(case: Case) -> None:
    case.service.start()
    case.service.start()
    started = len(case.alive())
    assert started == {"rpc": 4}.get(case.name, case.threads)
    case.stop()
    assert case.alive() == []


def test_stop_waits_for_what_is_under_way(case: Case) -> None:
    case.service.start()
    blocker = Blocker()
    answers = [case.do(blocker)]
    assert blocker.arrived.wait(PATIENCE_S)
    answers += [case.do(nothing) for _ in range(5)]
    with ThreadPoolExecutor(3, thread_name_prefix="stopper") as pool:
        stops = [pool.submit(case.stop) for _ in range(3)]
        assert not wait(stops, 0.05).done
        blocker.go_on.set()
        for stop in stops:
            stop.result(PATIENCE_S)
    assert case.alive() == []
    assert outcome(answers[0]) is None
    assert {outcome(answer) for answer in answers} <= {None, case.refused}
    assert case.deaths == []


def test_it_can_be_stopped_from_inside(case: Case) -> None:
    case.service.start()
    over = threading.Event()

    def end() -> None:
        case.stop()
        over.set()

    case.do(end)
    assert over.wait(PATIENCE_S)
    case.stop()
    assert case.alive() == []
    assert case.deaths == []


def test_who_comes_after_the_end_is_told(case: Case) -> None:
    case.service.start()
    case.stop()
    answer = case.do(nothing)
    assert answer is None or outcome(answer) == case.refused


def test_death_is_heard_of_by_everybody(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.service.start()
    error = SystemExit("krank")
    dying, holding = Blocker(error), [Blocker() for _ in range(case.threads - 1)]
    doomed = case.do(dying)
    assert dying.arrived.wait(PATIENCE_S)
    held = []
    for blocker in holding:
        held.append(case.do(blocker))
        assert blocker.arrived.wait(PATIENCE_S)
    waiting = [case.do(nothing) for _ in range(5)]
    dying.go_on.set()
    assert case.deaths.came.wait(PATIENCE_S)
    codes = [outcome(answer) for answer in [doomed, *waiting] if answer is not None]
    assert set(codes) <= {case.told}
    late = case.do(nothing)
    assert late is None or outcome(late) == case.refused
    for blocker in holding:
        blocker.go_on.set()
    case.stop()
    assert [outcome(answer) for answer in held] == [None] * len(held)
    assert case.deaths == [error]
    assert case.alive() == []
    assert [record.exc_info[1] for record in caplog.records if record.exc_info and "died" in record.message] == [error]


def test_after_its_death_it_can_be_started_again(case: Case) -> None:
    case.service.start()
    case.do(raising(SystemExit("krank")))
    assert case.deaths.came.wait(PATIENCE_S)
    case.stop()
    case.service.start()
    assert bool(case.alive()) is not case.lives_once
    if not case.lives_once:
        blocker = Blocker()
        answer = case.do(blocker)
        assert blocker.arrived.wait(PATIENCE_S)
        blocker.go_on.set()
        assert outcome(answer) is None
    assert len(case.deaths) == 1


def test_an_ordinary_error_is_the_affair_of_one_item_or_a_death(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    case.service.start()
    answer = case.do(raising(ValueError("krank")))
    if case.dies_of_any:
        assert case.deaths.came.wait(PATIENCE_S)
        assert answer is None or outcome(answer) == OutcomeUnknownError.code
    else:
        blocker = Blocker()
        assert answer is None or outcome(answer) in {InternalError.code, 0}
        case.do(blocker)
        assert blocker.arrived.wait(PATIENCE_S)
        blocker.go_on.set()
        case.stop()
        assert case.deaths == []
    told = answer is not None and isinstance(answer.exception(SOON_S), ValueError)
    assert told or "ValueError: krank" in caplog.text


def raising(error: BaseException) -> Step:
    def step() -> None:
        raise error

    return step
