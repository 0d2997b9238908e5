"""Group commit: small writes that arrive together share one transaction, each in a savepoint of its own."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from hqueue.errors import PASSING
from hqueue.service import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from hqueue.clock import Clock
    from hqueue.errors import HQueueError
    from hqueue.service import OnDeath

T = TypeVar("T")
log = logging.getLogger(__name__)

# A shared commit takes this many calls and this much time at the most: later ones wait for the next.
_MAX_BATCH: Final = 256
_MAX_BATCH_S: Final = 0.02


class Transaction(Protocol):
    """A write transaction, as far as it is needed here."""

    def attempt(self, function: Callable[[], object]) -> Exception | None:
        """Do something that alone is undone when it raises; return the error."""


S = TypeVar("S", bound=Transaction)


@dataclass(slots=True, eq=False)
class _Call(Generic[S]):
    function: Callable[[S], Any]
    durable: bool
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None

    def run(self, session: S) -> None:
        self.result = self.function(session)

    def waits_for_disk(self) -> bool:
        """Tell whether the caller is told only once all is flushed."""
        return self.durable and self.error is None

    def resolve(self, error: BaseException | None = None) -> None:
        """Tell the caller, with the error of the whole commit where there is one."""
        error = self.error or error
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.result)

    def fail(self, error: HQueueError) -> None:
        """Tell the caller that there will be no answer, unless there was one."""
        if not self.future.done():
            self.future.set_exception(error)


class GroupCommit(Generic[S]):
    """Runs small writes on a thread of its own; `writing` opens the transaction that those who wait share."""

    def __init__(
        self,
        writing: Callable[[], AbstractContextManager[S]],
        when_durable: Callable[[Callable[[BaseException | None], None]], None],
        clock: Clock,
        on_death: OnDeath,
    ) -> None:
        self._writing = writing
        self._when_durable = when_durable
        self._clock = clock
        self._service: Consumer[_Call[S]] = Consumer(
            "group-commit", on_death, group=self._write, fail=_Call.fail, finish=True
        )
        self.start = self._service.start
        self.stop = self._service.stop

    def put(self, function: Callable[[S], T], *, durable: bool) -> Future[T]:
        """Run a write soon; the future resolves once others see it, with `durable` once it survives a power cut."""
        call: _Call[S] = _Call(function, durable)
        self._service.put(call)
        return call.future

    def _write(self, arrived: Iterator[_Call[S]]) -> None:
        done: list[_Call[S]] = []
        try:
            with self._writing() as session:
                self._run(session, arrived, done)
        except Exception as error:  # whatever it was, it is the callers' to know; they wait for an answer
            if not isinstance(error, PASSING):
                log.exception("a shared commit failed")
            # Not even begun: those who wait are told, instead of trying again at once for ever.
            _resolve_all(done or list(arrived), error)
            return
        patient = [call for call in done if call.waits_for_disk()]
        if patient:
            self._when_durable(partial(_resolve_all, patient))
        _resolve_all([call for call in done if not call.waits_for_disk()], None)

    def _run(self, session: S, arrived: Iterator[_Call[S]], done: list[_Call[S]]) -> None:
        started = self._clock.monotonic()
        for call in arrived:
            done.append(call)
            call.error = session.attempt(partial(call.run, session))
            if len(done) >= _MAX_BATCH or self._clock.monotonic() - started >= _MAX_BATCH_S:
                return


def _resolve_all(calls: Sequence[_Call[Any]], error: BaseException | None) -> None:
    for call in calls:
        call.resolve(error)
