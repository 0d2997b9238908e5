"""Many callers at once, and stopping while they call."""

from __future__ import annotations

import gzip
import socket
import threading
import xmlrpc.client
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from hqueue.clock import SystemClock
from hqueue.rpc.dispatch import MethodTable
from hqueue.rpc.transport import FarmServer, Limits
from tests.benchmarks.loadgen import drive, same_body
from tests.fakes import PATIENCE_S, FakeClock
from tests.transport_rig import Peer, Rig, request, serving

if TYPE_CHECKING:
    from collections.abc import Callable


def in_parallel(*tasks: Callable[[], object]) -> list[object]:
    """Run tasks on a thread each, all at the same moment."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> object:
        barrier.wait(PATIENCE_S)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


def started_threads(rig: Rig) -> int:
    """Return how many threads there are once the server has started all of its own."""
    with rig.proxy() as proxy:
        assert proxy.ping() is True
    return threading.active_count()


# --- Many callers ---


def test_every_caller_gets_its_own_answers() -> None:
    def converse(rig: Rig, caller: int) -> None:
        with rig.proxy() as proxy:
            for turn in range(30):
                size = (caller * 7919 + turn * 104_729) % 90_000
                value = {"caller": f"Käufer {caller}", "turn": turn, "padding": "x" * size}
                method = (proxy.echo, proxy.loopEcho)[turn % 2]
                assert method(value) == value
                if turn % 10 == 0:
                    with pytest.raises(xmlrpc.client.Fault):
                        proxy.fail()

    with serving() as rig:
        in_parallel(*[lambda caller=caller: converse(rig, caller) for caller in range(16)])


def test_a_flood_of_connects_waits_in_the_backlog() -> None:
    api_free = threading.Event()
    with serving() as rig:
        rig.server.register_function(lambda: api_free.wait(PATIENCE_S), "hold_loop")
        rig.server.table.find("hold_loop").where = rig.server.table.find("ping").where
        with rig.peer() as holder:
            holder.send(request("hold_loop"))  # nobody accepts while all of them connect
            peers = [rig.peer() for _ in range(500)]
            for number, peer in enumerate(peers):
                peer.send(request("echo", number))
            api_free.set()
            assert [peer.answer().value for peer in peers] == list(range(500))
            assert holder.answer().value is True
        for peer in peers:
            peer.socket.close()
        rig.until(lambda: rig.connections() == 0)


def test_parked_calls_cost_no_thread() -> None:
    with serving() as rig:
        threads = started_threads(rig)
        peers = [rig.peer() for _ in range(200)]
        for number, peer in enumerate(peers):
            peer.send(request("park", str(number)))
        rig.api.await_calls(200)
        assert threading.active_count() <= threads
        with rig.proxy() as proxy:
            assert proxy.ping() is True
            assert proxy.echo("x") == "x"
        for future, name in zip(rig.api.parked, rig.api.calls, strict=True):
            future.set_result(name)
        assert [peer.answer().value for peer in peers] == [str(number) for number in range(200)]
        for peer in peers:
            peer.socket.close()


def test_workers_are_bounded_and_heartbeats_have_their_own() -> None:
    with serving(Limits(workers=3)) as rig:
        threads = started_threads(rig)
        peers = [rig.peer() for _ in range(20)]
        for number, peer in enumerate(peers):
            peer.send(request("block", str(number)))
        rig.api.await_calls(3)
        with rig.proxy() as proxy:
            assert proxy.ping() is True
            assert proxy.farm.echo("heartbeat")[0] == "heartbeat"
            assert proxy.big(10) == "ü" * 10
        assert len(rig.api.calls) == 3
        assert threading.active_count() <= threads
        rig.api.gate.set()
        assert [peer.answer().value for peer in peers] == [str(number) for number in range(20)]
        for peer in peers:
            peer.socket.close()


def test_small_calls_never_wait_for_big_ones() -> None:
    """What a call is called does not matter: how much it asks for does."""
    many = ["x"] * 300
    with serving(Limits(big_workers=2)) as rig:
        peers = [rig.peer() for _ in range(12)]
        for number, peer in enumerate(peers):
            packed = gzip.compress(xmlrpc.client.dumps((many,), "block").encode())
            peer.send(
                [
                    request("block", many),
                    request("block", "ü" * 100_000),
                    request("system.multicall", [{"methodName": "block", "params": [many]}]),
                    request("block", body=packed, headers="Content-Encoding: gzip\r\n"),
                ][number % 4]
            )
        rig.api.await_calls(2)
        with rig.proxy() as proxy:
            assert proxy.echo(["x"]) == ["x"]
            assert proxy.system.multicall([{"methodName": "echo", "params": [["x"]]}]) == [[["x"]]]
        assert len(rig.api.calls) == 2  # the others wait for each other
        rig.api.gate.set()
        assert [peer.answer().status for peer in peers] == [200] * 12
        for peer in peers:
            peer.socket.close()


def test_slow_and_half_open_peers_disturb_nobody() -> None:
    with serving() as rig:
        whole = request("echo", "ü" * 1000)
        slow = [rig.peer() for _ in range(200)]
        for number, peer in enumerate(slow):
            peer.send(whole[: number * 5])
        load = drive(rig.address, same_body("ping"), connections=8, calls=2000)
        assert (load.calls >= 2000, load.faults) == (True, 0)
        for number, peer in enumerate(slow):
            peer.send(whole[number * 5 :])
        assert {peer.answer().value for peer in slow} == {"ü" * 1000}
        for peer in slow:
            peer.socket.close()


def test_futures_completed_while_their_callers_leave() -> None:
    with serving() as rig:
        for _ in range(20):
            peers = [rig.peer() for _ in range(8)]
            for peer in peers:
                peer.send(request("park", "x"))
            rig.api.await_calls(8)
            futures = rig.api.parked[-8:]
            in_parallel(
                *[lambda future=future: future.set_result("y") for future in futures],
                *[peer.socket.close for peer in peers],
            )
        rig.until(lambda: rig.connections() == 0)


def test_the_load_generator_counts_faults() -> None:
    with serving() as rig:
        load = drive(rig.address, same_body("nope"), connections=4, calls=100)
        assert load.faults == load.calls >= 100
        assert "nope" in load.first_fault
        assert 0 < load.p50_ms <= load.p99_ms <= load.worst_ms


# --- Stopping ---


def test_shutdown_answers_what_was_handed_on() -> None:
    with serving() as rig, rig.peer() as idle, rig.peer() as partial, rig.peer() as parked, rig.peer() as blocked:
        idle.send(request())
        assert idle.answer().value is True
        partial.send(request()[:-1])
        parked.send(request("park", "a"), request("echo", "too late"))
        blocked.send(request("block", "b"))
        rig.api.await_calls(2)
        rig.until(lambda: sum(each._receiving for each in rig.server._connections) == 1)
        stopping = threading.Thread(target=rig.server.shutdown)
        stopping.start()
        assert idle.is_closed()
        assert partial.is_closed()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(rig.address, timeout=PATIENCE_S)
        assert stopping.is_alive()
        rig.api.parked[0].set_result("A")
        rig.api.gate.set()
        answers = [parked.answer(), blocked.answer()]
        assert [answer.value for answer in answers] == ["A", "b"]
        assert [answer.headers["connection"] for answer in answers] == ["close", "close"]
        assert parked.is_closed()
        stopping.join(PATIENCE_S)
        assert not stopping.is_alive()
        rig.thread.join(PATIENCE_S)
        assert not rig.thread.is_alive()


def test_shutdown_waits_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    with serving(Limits(shutdown_s=7), clock) as rig, rig.peer() as peer:
        peer.send(request("park", "never"))
        rig.api.await_calls()
        stopping = threading.Thread(target=rig.server.shutdown)
        stopping.start()
        rig.until(lambda: refuses(rig))  # it is waiting now
        clock.advance(6)
        stopping.join(0.05)
        assert stopping.is_alive()
        clock.advance(2)
        assert peer.is_closed()
        stopping.join(PATIENCE_S)
        assert not stopping.is_alive()
    assert "1 requests that could not be answered" in caplog.text


def refuses(rig: Rig) -> bool:
    try:
        rig.peer().socket.close()
    except ConnectionRefusedError:
        return True
    return False


def server() -> FarmServer:
    return FarmServer(("127.0.0.1", 0), MethodTable(), clock=SystemClock())


def test_shutdown_before_serving() -> None:
    early = server()
    early.shutdown()
    early.shutdown()
    early.serve_forever()  # returns at once
    early.server_close()
    early.server_close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(early.server_address, timeout=PATIENCE_S)


def test_shutdown_from_many_threads() -> None:
    stopped = server()
    serving_thread = threading.Thread(target=stopped.serve_forever)
    serving_thread.start()
    with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{stopped.server_address[1]}") as proxy:
        assert proxy.system.listMethods()
    in_parallel(*[stopped.shutdown] * 5, stopped.server_close)
    serving_thread.join(PATIENCE_S)
    assert not serving_thread.is_alive()


def test_shutdown_by_a_call() -> None:
    stopped = server()
    stopped.register_function(stopped.shutdown, "stop")
    stopped.table.find("stop").where = stopped.table.find("system.listMethods").where
    loop = threading.Thread(target=stopped.serve_forever)
    loop.start()
    with Peer(socket.create_connection(stopped.server_address, timeout=PATIENCE_S)) as peer:
        peer.send(request("stop"))
        assert peer.answer().value is None
        assert peer.is_closed()
    loop.join(PATIENCE_S)
    assert not loop.is_alive()
    stopped.server_close()


def test_starting_and_stopping_again_and_again() -> None:
    before = threading.active_count()
    for _ in range(30):
        short = server()
        loop = threading.Thread(target=short.serve_forever)
        in_parallel(loop.start, short.shutdown)
        loop.join(PATIENCE_S)
        assert not loop.is_alive()
        short.server_close()
    pause = threading.Event()
    for _ in range(1000):
        if threading.active_count() <= before:
            break
        pause.wait(0.01)
    assert threading.active_count() <= before
