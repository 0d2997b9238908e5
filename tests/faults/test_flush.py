"""A flush that fails once: nobody can know what the disk has, so the process ends, and what it promised is there."""

from __future__ import annotations

import threading
import xmlrpc.client
from typing import TYPE_CHECKING

from tests.farm import eventually
from tests.faults.calls import is_unknown, names, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.farm import Farm
    from tests.faults.injections import FailingFlush

CALLERS = 8


def test_the_server_ends_and_nothing_it_acknowledged_is_lost(
    make_farm: Callable[..., Farm], failing_flush: FailingFlush
) -> None:
    farm = make_farm(prefix=failing_flush.prefix)
    told: list[str] = []
    faults: list[xmlrpc.client.Fault] = []
    go_on = threading.Event()

    def submit(caller: int) -> None:
        with xmlrpc.client.ServerProxy(farm.url) as proxy:
            for number in range(100_000):
                name = f"Bild {caller}.{number}"
                try:
                    answer = outcome(lambda name=name: proxy.newjob({"name": name}))
                except (OSError, xmlrpc.client.ProtocolError):
                    return  # the server is gone
                if isinstance(answer, xmlrpc.client.Fault):
                    faults.append(answer)
                    return
                told.append(name)
                if number == 5:
                    go_on.set()

    callers = [threading.Thread(target=submit, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    assert go_on.wait(60)
    failing_flush.next_one()
    eventually(failing_flush.has_failed, "a flush fails", 10)
    eventually(lambda: not farm.server.is_running(), "the server ends", 10)
    for caller in callers:
        caller.join(10)
        assert not caller.is_alive()
    assert farm.server.wait() not in {0, 2}
    assert faults
    assert all(map(is_unknown, faults)), faults
    farm.server.start()
    stored = names(farm)
    assert len(stored) == len(set(stored))
    assert set(told) <= set(stored)
    assert "mended" not in farm.server.log.read_text()
