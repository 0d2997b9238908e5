"""What callers may ask about the methods themselves, and several calls in one.

Source: the introspection and multicall proposals for XML-RPC, as in the standard library's SimpleXMLRPCServer.
"""

from __future__ import annotations

import inspect
import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Protocol

from hqueue import wire
from hqueue.errors import HQueueError, InternalError, InvalidArgumentError, LimitExceededError
from hqueue.rpc.method import Method, Where, exposed

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger(__name__)

_WIRE_TYPES: Final = {
    "bool": "boolean",
    "bytes": "base64",
    "datetime": "dateTime.iso8601",
    "dict": "struct",
    "float": "double",
    "int": "int",
    "list": "array",
    "Mapping": "struct",
    "None": "nil",
    "Sequence": "array",
    "str": "string",
    "tuple": "array",
}


class _Table(Protocol):
    """The table, as far as it is needed here."""

    def find(self, name: str) -> Method: ...
    def names(self) -> list[str]: ...
    def dispatch(self, name: str, params: Iterable[Any], peer: str = ...) -> Any: ...


class System:
    """The methods whose names begin with `system.`."""

    def __init__(self, table: _Table, multicall_bytes: int) -> None:
        self._table = table
        self._multicall_bytes = multicall_bytes

    @exposed(Where.LOOP, name="listMethods")
    def list_methods(self) -> list[str]:
        """Return the names of all methods."""
        return self._table.names()

    @exposed(Where.LOOP, name="methodHelp")
    def method_help(self, name: str) -> str:
        """Return what a method does, what it takes and what it returns.

        Errors: UnknownMethodError.
        """
        method = self._table.find(name)
        return f"{method.shown()}\n\n{method.help}"

    @exposed(Where.LOOP, name="methodSignature")
    def method_signature(self, name: str) -> list[list[str]]:
        """Return a list per number of arguments a method takes: the type it returns, then those of its arguments.

        Shapes: the names of XML-RPC types, `nil`, and `any` where several are taken.
        Errors: UnknownMethodError.
        """
        return signatures(self._table.find(name))

    @exposed(name="multicall")
    def multicall(self, calls: list[Any], *, peer: str) -> list[Any]:
        """Make several calls in order.

        Shapes: each call is {methodName, params}; each result is a list with the value in it, or the struct
        {faultCode, faultString}, and a fault does not stop the calls after it. Once the answers are larger together
        than one answer may be, every further call is such a fault, and is not made.
        """
        if not isinstance(calls, list):
            raise InvalidArgumentError(f"system.multicall takes a list of calls, not {type(calls).__name__}")
        results: list[Any] = [None] * len(calls)
        room = self._multicall_bytes
        pending: list[tuple[int, str, Future[Any]]] = []
        for index, call in enumerate(calls):
            name, params = read_call(call)
            # Calls of one method in a row share their commit; what comes next has to see what they did.
            if pending and pending[-1][1] != name:
                room -= _collect(pending, results)
            if room < 0:
                results[index] = _TOO_MUCH
                continue
            try:
                value = self._call(name, params, peer)
            except HQueueError as error:
                results[index] = _fault(error)
                continue
            if isinstance(value, Future):
                pending.append((index, name, value))
            else:
                results[index] = [value]
                room -= _size(value)
        _collect(pending, results)
        return results

    def _call(self, name: str, params: list[Any], peer: str) -> Any:
        if name == "system.multicall":
            raise InvalidArgumentError("system.multicall cannot be called by system.multicall")
        if not name:
            raise InvalidArgumentError("a call in system.multicall is {methodName: text, params: list}")
        return self._table.dispatch(name, params, peer)


def read_call(call: Any) -> tuple[str, list[Any]]:
    """Return the method and the arguments of one of several calls, "" for what is none."""
    """Return name and arguments of one entry; no name if it is none."""
    if isinstance(call, dict):
        name, params = call.get("methodName"), call.get("params", [])
        if isinstance(name, str) and isinstance(params, list):
            return name, params
    return "", []


def _collect(pending: list[tuple[int, str, Future[Any]]], results: list[Any]) -> int:
    """Wait for calls, and return about how large their answers are."""
    size = 0
    for index, name, future in pending:
        try:
            results[index] = [future.result()]
            size += _size(results[index])
        except BaseException as error:  # noqa: BLE001 - becomes the fault of this entry
            results[index] = _fault(as_fault(name, error))
    pending.clear()
    return size


def _size(value: Any) -> int:
    """Return about how many bytes a value is in an answer."""
    if isinstance(value, wire.Raw):
        return len(value.xml)
    if isinstance(value, str | bytes):
        return 20 + len(value)
    if isinstance(value, dict):
        return 20 + sum(40 + _size(each) for each in value.values())
    return 20 + (sum(map(_size, value)) if isinstance(value, list | tuple) else 0)


def _fault(error: HQueueError) -> dict[str, Any]:
    return {"faultCode": error.code, "faultString": error.message}


_TOO_MUCH: Final = _fault(
    LimitExceededError("the answers before fill this system.multicall, so this call was not made; make fewer at once")
)


def as_fault(name: str, error: BaseException) -> HQueueError:
    """Return what the caller is told about an error; one of ours is written to the log with its traceback."""
    if isinstance(error, HQueueError):
        return error
    _log.error("%s failed", name, exc_info=error)
    return InternalError()


def signatures(method: Method) -> list[list[str]]:
    """Return the type names of the result and of the arguments, for each number of arguments."""
    types = [_wire_type(method.signature.return_annotation)]
    found = []
    for parameter in method.parameters():
        if parameter.default is not parameter.empty or parameter.kind is parameter.VAR_POSITIONAL:
            found.append(list(types))
        types.append(_wire_type(parameter.annotation))
    return [*found, types]


def _wire_type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "any"
    text = annotation.strip("\"'") if isinstance(annotation, str) else inspect.formatannotation(annotation)
    # The annotations are read as text: what they name may be imported for type checkers only.
    outer, _, inner = text.partition("[")
    name = outer.strip().rpartition(".")[2]
    if name == "Future":
        return _wire_type(inner.removesuffix("]"))
    alternatives = [each.strip() for each in _split_union(text) if each.strip() != "None"]
    if len(alternatives) > 1:
        return "any"
    if alternatives and alternatives[0] != text:
        return _wire_type(alternatives[0])
    return _WIRE_TYPES.get(name, "any")


def _split_union(text: str) -> list[str]:
    """Split an annotation at the bars that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
