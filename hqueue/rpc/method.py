"""One method the outside may call: how it is marked, which thread runs it, what its arguments are."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hqueue.errors import WrongArgumentsError

if TYPE_CHECKING:
    from collections.abc import Callable

_Function = TypeVar("_Function", bound="Callable[..., Any]")
_MARK: Final = "__hqueue_exposed__"


class Where(Enum):
    """Which thread runs a method."""

    LOOP = "loop"
    """The one that serves every connection: only for what takes microseconds and waits for nothing."""
    WORKER = "worker"
    """One of a few workers."""
    FARM = "farm"
    """One of a few workers of their own, so that heartbeats never queue behind users."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a GET is answered with."""

    status: int
    text: str
    content_type: str = "text/plain; charset=utf-8"


MANY: Final = 200
"""Items of a list, ids as a rule, up to which a call is small."""


def asks_for_many(params: list[Any]) -> bool:
    """Tell whether one of a call's arguments is a list of many items."""
    for each in params:  # noqa: SIM110 - any() takes four times as long, and every call comes by here
        if isinstance(each, (list, tuple)) and len(each) > MANY:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Mark:
    where: Where
    name: str | None
    big: bool | Callable[[list[Any]], bool]
    quick: Callable[[list[Any]], bool] | None


def exposed(
    where: Where = Where.WORKER,
    *,
    name: str | None = None,
    big: bool | Callable[[list[Any]], bool] = asks_for_many,
    quick: Callable[[list[Any]], bool] | None = None,
) -> Callable[[_Function], _Function]:
    """Mark a method as one that the outside may call.

    Its positional parameters are the arguments on the wire; a keyword-only `peer: str` receives the caller's address.
    It may return a Future: the call is then parked, and answered when that is done.

    where: which thread runs it; `LOOP` methods must be safe on any thread, for calls with large arguments run on a
    worker wherever the method belongs.
    name: the name on the wire, if it is not the method's own.
    big: tells of a call's arguments, whatever they are, that the answer may be large or long in the making; or says so
    of all calls. Such calls wait for each other, so that small ones never wait for them.
    quick: tells of a call's arguments, whatever they are, that it reads no more than some rows by their keys. Where the
    store is local that is a matter of microseconds, and the loop's own thread does it: the way to a worker and back
    would cost more.
    """

    def mark(function: _Function) -> _Function:
        setattr(function, _MARK, _Mark(where, name, big, quick))
        return function

    return mark


class Method:
    """One entry of the table."""

    __slots__ = (
        "_big",
        "_call",
        "_defaults",
        "_most",
        "_needs",
        "_quick",
        "_wants_peer",
        "help",
        "name",
        "signature",
        "where",
    )

    def __init__(
        self,
        name: str,
        call: Callable[..., Any],
        where: Where,
        *,
        big: bool | Callable[[list[Any]], bool] = asks_for_many,
        quick: Callable[[list[Any]], bool] | None = None,
    ) -> None:
        self.name = name
        self.where = where
        self._big = big
        self._quick = quick
        self.help = inspect.getdoc(call) or ""
        self.signature = inspect.signature(call)
        self._call = call
        self._needs = 0
        self._most: float = 0
        self._wants_peer = False
        self._defaults: list[tuple[int, Any]] = []
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._most = math.inf
            elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
                if parameter.default is not parameter.empty:
                    self._defaults.append((int(self._most), parameter.default))
                self._most += 1
                self._needs += parameter.default is parameter.empty
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.name == "peer":
                self._wants_peer = True
            else:
                raise TypeError(f"{name}: XML-RPC has positional arguments only, {parameter} can never be given")

    def __call__(self, params: list[Any], peer: str) -> Any:
        """Call it with what was sent; None and "" stand for the default, for many callers can leave out only the last.

        Errors: WrongArgumentsError, raised before the call; whatever the method raises.
        """
        if not self._needs <= len(params) <= self._most:
            raise self._wrong_arguments(params)
        for index, default in self._defaults[: len(params) - self._needs]:
            value = params[index]
            if value is None or (isinstance(value, str) and not value):
                params = [*params[:index], default, *params[index + 1 :]]
        if self._wants_peer:
            return self._call(*params, peer=peer)
        return self._call(*params)

    def place_of(self, params: list[Any]) -> Where:
        """Return which thread runs a call with these arguments."""
        return Where.LOOP if self._quick is not None and self._quick(params) else self.where

    def is_big(self, params: list[Any]) -> bool:
        """Tell whether a call with these arguments is one that small ones must not wait for."""
        return self._big if isinstance(self._big, bool) else self._big(params)

    def shown(self) -> str:
        """Return the name and the parameters, as a caller would write them."""
        parameters = [
            parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"
            for parameter in self.parameters()
        ]
        return f"{self.name}({', '.join(parameters)})"

    def parameters(self) -> list[inspect.Parameter]:
        """Return the parameters that are arguments on the wire."""
        return [each for each in self.signature.parameters.values() if each.kind is not each.KEYWORD_ONLY]

    def _wrong_arguments(self, params: list[Any]) -> WrongArgumentsError:
        given = ", ".join("nil" if param is None else type(param).__name__ for param in params[:10])
        if len(params) > 10:
            given += ", …"
        count = f"{len(params)} argument{'' if len(params) == 1 else 's'}"
        return WrongArgumentsError(
            f"{self.name} was called with {count}{f' ({given})' if params else ''}; it is {self.shown()}",
        )


def marked_methods(instance: object, prefix: str, *, local: bool) -> list[Method]:
    """Return every marked method of an object, named with the prefix.

    local: quick calls are, for the store is on this machine.
    Errors: TypeError for a signature that XML-RPC cannot call.
    """
    found = []
    for attribute, function in inspect.getmembers(type(instance), inspect.isfunction):
        mark: _Mark | None = getattr(function, _MARK, None)
        if mark is not None:
            name = prefix + (mark.name or attribute)
            quick = mark.quick if local else None
            found.append(Method(name, getattr(instance, attribute), mark.where, big=mark.big, quick=quick))
    return found
