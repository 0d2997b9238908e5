"""The method table: what gets in, how calls are bound, what becomes a fault."""

from __future__ import annotations

import logging
import threading
import xmlrpc.client
from concurrent.futures import Future
from typing import Any

import pytest

from hqueue.errors import InternalError, InvalidArgumentError, UnknownMethodError, WrongArgumentsError
from hqueue.rpc.dispatch import Method, MethodTable, Where, exposed
from tests.fakes import FakeClock


class Unknown(InvalidArgumentError):  # noqa: N818 - a class of its own, as methods may raise any
    """There is no Müller."""


class Api:
    """Methods of all kinds."""

    def __init__(self) -> None:
        self.secret = "geheim"
        self.futures: list[Future[Any]] = []
        self.seen: list[str] = []
        self.parked = threading.Semaphore(0)

    @exposed(Where.LOOP)
    def ping(self) -> bool:
        """Tell that the server is there."""
        return True

    @exposed(Where.FARM, name="add")
    def add_up(self, first: int, second: int = 2, /) -> int:
        """Add two numbers.

        Units: none.
        """
        return first + second

    @exposed()
    def collect(self, *values: int) -> list[int]:
        return list(values)

    @exposed(big=True)
    def whoami(self, greeting: str, *, peer: str) -> str:
        return f"{greeting} {peer}"

    @exposed()
    def fail(self, kind: str) -> None:
        if kind == "ours":
            raise Unknown
        if kind == "type":
            len(3)  # type: ignore[arg-type]
        if kind == "value":
            raise ValueError("C:\\secret\\path")
        raise RecursionError

    @exposed()
    def unsendable(self) -> Any:
        return {"x": object()}

    @exposed()
    def later(self, name: str) -> Future[str]:
        self.seen.append(name)
        future: Future[str] = Future()
        self.futures.append(future)
        self.parked.release()
        return future

    @exposed()
    def note(self, name: str) -> bool:
        self.seen.append(name)
        return True

    def hidden(self) -> str:
        return self.secret


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def table(api: Api, clock: FakeClock) -> MethodTable:
    table = MethodTable(clock)
    table.add(api)
    return table


def fault(table: MethodTable, name: str, *params: Any) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its type is what is looked at
        table.dispatch(name, params)
    return type(caught.value), str(caught.value)


def answer(table: MethodTable, name: str, *params: Any) -> list[list[bytes]]:
    delivered: list[list[bytes]] = []
    table.answer(name, list(params), "10.0.0.7", delivered.append)
    return delivered


def test_calls(table: MethodTable) -> None:
    assert table.dispatch("ping", []) is True
    assert table.dispatch("add", [1]) == 3
    assert table.dispatch("add", [1, 5]) == 6
    assert table.dispatch("collect", [1, 2, 3]) == [1, 2, 3]
    assert table.dispatch("whoami", ["hallo"], "10.0.0.7") == "hallo 10.0.0.7"


@pytest.mark.parametrize(
    "name",
    [
        "hidden",
        "add_up",
        "secret",
        "__init__",
        "ping.__self__",
        "__class__",
        "",
        "system",
        "system._table",
        "Ping",
        "ping ",
    ],
)
def test_only_what_is_marked_can_be_called(table: MethodTable, name: str) -> None:
    assert fault(table, name)[0] is UnknownMethodError


def test_an_unknown_method_is_named_with_its_neighbours(table: MethodTable) -> None:
    assert fault(table, "pinng") == (UnknownMethodError, "this server has no method 'pinng'; did you mean ping?")
    assert "system.listMethods" in fault(table, "x" * 5000)[1]
    assert len(fault(table, "x" * 5000)[1]) < 200


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("ping", (1,), "ping was called with 1 argument (int); it is ping()"),
        ("add", (), "add was called with 0 arguments; it is add(first, second=2)"),
        ("add", (1, None, "x"), "add was called with 3 arguments (int, nil, str); it is add(first, second=2)"),
        ("whoami", ("a", "b"), "whoami was called with 2 arguments (str, str); it is whoami(greeting)"),
        ("ping", tuple(range(99)), "99 arguments (int, int, int, int, int, int, int, int, int, int, …)"),
    ],
)
def test_the_wrong_number_of_arguments(table: MethodTable, name: str, params: tuple[Any, ...], said: str) -> None:
    kind, message = fault(table, name, *params)
    assert kind is WrongArgumentsError
    assert said in message


def test_our_errors_pass_and_bugs_tell_nothing(table: MethodTable, caplog: pytest.LogCaptureFixture) -> None:
    assert fault(table, "fail", "ours") == (Unknown, "There is no Müller.")
    assert not caplog.records
    for kind in ("type", "value", "recursion"):
        assert fault(table, "fail", kind) == (InternalError, InternalError().message)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert all(record.exc_info for record in caplog.records)
    assert "secret" in caplog.text


def test_answers_are_documents(table: MethodTable, caplog: pytest.LogCaptureFixture) -> None:
    ((pieces,),) = [answer(table, "add", 1)]
    assert xmlrpc.client.loads(b"".join(pieces))[0][0] == 3
    for name, params, code in (
        ("nope", (), -32601),
        ("add", (), -32602),
        ("fail", ("value",), -32603),
        ("unsendable", (), -32603),
        ("fail", ("ours",), 11),
    ):
        ((pieces,),) = [answer(table, name, *params)]
        with pytest.raises(xmlrpc.client.Fault) as caught:
            xmlrpc.client.loads(b"".join(pieces))
        assert caught.value.faultCode == code
        assert "secret" not in caught.value.faultString
    assert "cannot carry a object" in caplog.text


def test_parked_calls_are_answered_when_their_future_is_done(table: MethodTable, api: Api) -> None:
    first, second, third = answer(table, "later", "a"), answer(table, "later", "b"), answer(table, "later", "c")
    assert [first, second, third] == [[], [], []]
    api.futures[1].set_result("ß")
    api.futures[0].set_exception(Unknown())
    api.futures[2].cancel()
    api.futures[2].set_running_or_notify_cancel()
    assert xmlrpc.client.loads(b"".join(second[0]))[0][0] == "ß"
    for delivered, code in ((first, 11), (third, -32603)):
        assert len(delivered) == 1
        with pytest.raises(xmlrpc.client.Fault) as caught:
            xmlrpc.client.loads(b"".join(delivered[0]))
        assert caught.value.faultCode == code


def test_one_log_line_per_call(
    table: MethodTable, api: Api, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hqueue.rpc")
    answer(table, "ping")
    answer(table, "nope\nnope")
    answer(table, "later", "x")
    clock.advance(1.5)
    api.futures[0].set_result("y")
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert len(lines) == 3
    assert lines[0][0] == "DEBUG"
    assert lines[0][1].startswith("'ping' took 0.0 ms, ")
    assert lines[1][1].endswith("bytes, fault -32601")
    assert "\n" not in lines[1][1]
    assert lines[2][0] == "INFO"
    assert lines[2][1].startswith("'later' took 1500.0 ms, ")


def test_names_are_taken_once(table: MethodTable, api: Api) -> None:
    with pytest.raises(ValueError, match="two methods"):
        table.add(api)
    table.add(api, prefix="again.")
    assert table.dispatch("again.ping", []) is True


def test_a_parameter_nobody_can_give_is_refused_at_once() -> None:
    def keyword_only(*, colour: str) -> None: ...

    with pytest.raises(TypeError, match="colour"):
        Method("paint", keyword_only, Where.LOOP)


def test_where_methods_run(table: MethodTable) -> None:
    found = {name: table.find(name) for name in ("ping", "add", "collect", "whoami")}
    assert {name: method.where for name, method in found.items()} == {
        "ping": Where.LOOP,
        "add": Where.FARM,
        "collect": Where.WORKER,
        "whoami": Where.WORKER,
    }
    assert [name for name, method in found.items() if method.is_big([])] == ["whoami"]


# --- system.* ---


def test_list_methods(table: MethodTable) -> None:
    names = table.dispatch("system.listMethods", [])
    assert names == sorted(names)
    assert {"ping", "add", "system.multicall", "system.methodHelp"} <= set(names)
    assert not {"hidden", "add_up"} & set(names)


def test_method_help(table: MethodTable) -> None:
    assert table.dispatch("system.methodHelp", ["add"]) == "add(first, second=2)\n\nAdd two numbers.\n\nUnits: none."
    assert fault(table, "system.methodHelp", "nope")[0] is UnknownMethodError


class Signatures:
    @exposed()
    def many(self, ids: list[int], attribs: list[str] | None = None, extra: dict[str, Any] | None = None) -> list[Any]:
        return []

    @exposed()
    def mixed(self, value: int | str, rate: float) -> "Future[dict[str, int] | None]":  # noqa: UP037 - as is
        raise NotImplementedError

    @exposed()
    def bare(self, value, when: Any):  # type: ignore[no-untyped-def]
        return None


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("many", [["array", "array"], ["array", "array", "array"], ["array", "array", "array", "struct"]]),
        ("mixed", [["struct", "any", "double"]]),
        ("bare", [["any", "any", "any"]]),
        ("ping", [["boolean"]]),
        ("add", [["int", "int"], ["int", "int", "int"]]),
        ("whoami", [["string", "string"]]),
        ("collect", [["array"], ["array", "int"]]),
        ("system.multicall", [["array", "array"]]),
    ],
)
def test_method_signature(table: MethodTable, name: str, signature: list[list[str]]) -> None:
    table.add(Signatures())
    assert table.dispatch("system.methodSignature", [name]) == signature


def entry(name: str, *params: Any) -> dict[str, Any]:
    return {"methodName": name, "params": list(params)}


def test_multicall(table: MethodTable) -> None:
    calls = [
        entry("add", 1),
        entry("nope"),
        entry("fail", "value"),
        {"methodName": "ping"},
        entry("system.multicall", []),
        "ping",
        {"params": []},
        {"methodName": "ping", "params": "x"},
        entry("whoami", "hi"),
    ]
    results = table.dispatch("system.multicall", [calls], "10.1.2.3")
    assert results[0] == [3]
    assert [result["faultCode"] for result in results[1:3]] == [-32601, -32603]
    assert results[3] == [True]
    assert [result["faultCode"] for result in results[4:8]] == [11, 11, 11, 11]
    assert "cannot be called by" in results[4]["faultString"]
    assert "{methodName: text, params: list}" in results[5]["faultString"]
    assert results[8] == ["hi 10.1.2.3"]
    assert fault(table, "system.multicall", "ping")[0] is InvalidArgumentError
    assert table.dispatch("system.multicall", [[]]) == []


def test_multicall_ends_when_its_answers_grow_too_large(api: Api) -> None:
    table = MethodTable(multicall_bytes=1000)
    table.add(api)
    table.add_method(Method("repeat", lambda text, times: [text] * times, Where.WORKER))
    calls = [entry("repeat", "ü" * 100, 5), entry("repeat", "x", 40), entry("note", "a"), entry("note", "b")]
    results = table.dispatch("system.multicall", [calls])
    assert [len(result[0]) for result in results[:2]] == [5, 40]
    assert [result["faultCode"] for result in results[2:]] == [10, 10]
    assert "this call was not made" in results[3]["faultString"]
    assert api.seen == []


def test_multicall_waits_before_another_method(table: MethodTable, api: Api) -> None:
    done: list[list[Any]] = []
    calls = [entry("later", "a"), entry("later", "b"), entry("note", "c"), entry("later", "d")]
    thread = threading.Thread(target=lambda: done.append(table.dispatch("system.multicall", [calls])))
    thread.start()
    assert all(api.parked.acquire(timeout=10) for _ in range(2))
    assert api.seen == ["a", "b"]
    api.futures[1].set_exception(Unknown())
    api.futures[0].set_result("A")
    assert api.parked.acquire(timeout=10)
    assert api.seen == ["a", "b", "c", "d"]
    api.futures[2].set_result("D")
    thread.join(10)
    assert done == [[["A"], {"faultCode": 11, "faultString": "There is no Müller."}, [True], ["D"]]]
