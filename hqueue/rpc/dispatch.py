"""The table of methods the outside may call, and what a call becomes: a value, a fault, or something to wait for.

The table is closed: only methods marked with `exposed` get in, under the name they were registered with, and nothing
is ever looked up on an object because a caller named it.
"""

from __future__ import annotations

import difflib
import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from hqueue import wire
from hqueue.clock import SystemClock
from hqueue.errors import UnknownMethodError
from hqueue.rpc.introspection import System, as_fault, read_call
from hqueue.rpc.method import Method, Where, exposed, marked_methods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hqueue.clock import Clock

__all__ = ["Method", "MethodTable", "Where", "exposed"]

_log = logging.getLogger(__name__)
_SLOW_S: Final = 1.0


class MethodTable:
    """Every method the outside may call, by its name on the wire.

    local: the store is on this machine, so that calls which are `quick` need no worker.
    multicall_bytes: once the answers within a system.multicall are larger together, its other calls are not made.
    """

    def __init__(
        self, clock: Clock | None = None, *, local: bool = False, multicall_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._local = local
        self._clock = clock or SystemClock()
        self._methods: dict[str, Method] = {}
        self.get = self._methods.get
        self.add(System(self, multicall_bytes), prefix="system.")

    def add(self, instance: object, prefix: str = "") -> None:
        """Take in every marked method of an object, under `prefix` and its name.

        Errors: ValueError for a name that is taken, TypeError for a signature XML-RPC cannot call: both are bugs.
        """
        for method in marked_methods(instance, prefix, local=self._local):
            self.add_method(method)

    def add_method(self, method: Method) -> None:
        """Take in one method."""
        if method.name in self._methods:
            raise ValueError(f"there are two methods {method.name}")
        self._methods[method.name] = method

    def names(self) -> list[str]:
        """Return the names of all methods, in order."""
        return sorted(self._methods)

    def find(self, name: str) -> Method:
        """Return the method of that name.

        Errors: UnknownMethodError that names similar ones.
        """
        method = self._methods.get(name)
        if method is not None:
            return method
        shown = name if len(name) <= 60 else f"{name[:60]}…"
        near = difflib.get_close_matches(shown, self._methods, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "system.listMethods() tells which there are"
        raise UnknownMethodError(f"this server has no method {shown!r}; {hint}")

    def is_big(self, name: str, params: list[Any]) -> bool:
        """Tell whether a call is one that small ones must not wait for; one of several calls is as its largest."""
        method = self._methods.get(name)
        if method is None or method.is_big(params):
            return method is not None
        if name != "system.multicall" or not params or not isinstance(params[0], list):
            return False
        return any(inner != name and self.is_big(inner, given) for inner, given in map(read_call, params[0]))

    def dispatch(self, name: str, params: Iterable[Any], peer: str = "127.0.0.1") -> Any:
        """Call a method and return its value, or the Future it returned.

        Errors: HQueueError, and only that; what else went wrong is in the log and comes out as InternalError.
        """
        try:
            return self.find(name)(list(params), peer)
        except Exception as error:
            raise as_fault(name, error) from error

    def answer(
        self,
        name: str,
        params: list[Any],
        peer: str,
        deliver: Callable[[list[bytes]], None],
    ) -> None:
        """Call a method and deliver the document that answers it: at once, or when the Future it returned is done.

        Whatever happens, `deliver` is called exactly once, on this thread or on the one that completes the Future.
        """
        began = self._clock.monotonic()
        try:
            value = self.find(name)(params, peer)
        except Exception as error:  # noqa: BLE001 - as above
            deliver(self._fault(name, error, began))
            return
        if isinstance(value, Future):
            value.add_done_callback(lambda future: deliver(self._outcome(name, future, began)))
        else:
            deliver(self._document(name, value, began))

    def _outcome(self, name: str, future: Future[Any], began: float) -> list[bytes]:
        try:
            value = future.result()
        except BaseException as error:  # noqa: BLE001 - a cancelled future is one too
            return self._fault(name, error, began)
        return self._document(name, value, began)

    def _document(self, name: str, value: Any, began: float) -> list[bytes]:
        try:
            pieces = wire.response_pieces(value)
        except Exception as error:  # noqa: BLE001 - as above
            return self._fault(name, error, began)
        self._record(name, pieces, began, "")
        return pieces

    def _fault(self, name: str, error: BaseException, began: float) -> list[bytes]:
        fault = as_fault(name, error)
        pieces = [wire.dumps_fault(fault.code, fault.message)]
        self._record(name, pieces, began, f", fault {fault.code}")
        return pieces

    def _record(self, name: str, pieces: list[bytes], began: float, ending: str) -> None:
        seconds = self._clock.monotonic() - began
        level = logging.INFO if seconds > _SLOW_S else logging.DEBUG
        if _log.isEnabledFor(level):
            size = sum(map(len, pieces))
            _log.log(level, "%.60r took %.1f ms, %d bytes%s", name, seconds * 1000, size, ending)
