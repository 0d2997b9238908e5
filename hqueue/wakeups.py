"""Tells idle clients that there is something to fetch; their next heartbeat is the fallback."""

from __future__ import annotations

import http.client
import logging
from typing import TYPE_CHECKING, Final

from hqueue.deadline import response_within
from hqueue.service import Consumer

if TYPE_CHECKING:
    from hqueue.clock import Clock
    from hqueue.errors import HQueueError
    from hqueue.live import LiveFarm
    from hqueue.service import OnDeath

log = logging.getLogger(__name__)

_THREADS: Final = 4
_TIMEOUT_S: Final = 1.0
# A client that cannot be reached (a firewall, most often) is left to its heartbeats for this long.
_PAUSE_S: Final = 30.0
_ANSWER: Final = response_within(_TIMEOUT_S)
_ANSWER_BYTES: Final = 64 * 1024
_CALL: Final = b"<?xml version='1.0'?><methodCall><methodName>wakeup</methodName><params/></methodCall>"
_HEADERS: Final = {"Content-Type": "text/xml", "Connection": "close"}


class Wakeups:
    """Calls `wakeup()` on clients, from a few threads, each client once however often it is asked for."""

    def __init__(self, live_farm: LiveFarm, clock: Clock, on_death: OnDeath) -> None:
        self._live_farm = live_farm
        self._clock = clock
        self._waiting: set[int] = set()
        self._paused_until_s: dict[int, float] = {}
        self._service: Consumer[int] = Consumer(
            "wakeups", on_death, each=self._tell, fail=self._leave_to_heartbeats, threads=_THREADS
        )
        self.start = self._service.start
        self.stop = self._service.stop

    def wake(self, client_id: int) -> None:
        """Tell a client soon; any thread may call this."""
        live = self._live_farm.clients.get(client_id)
        if live is None or not live.port or live.parked:
            return  # it will ask, or is being answered
        if client_id not in self._waiting:  # two threads may both find this: that costs a call
            self._waiting.add(client_id)
            self._service.put(client_id)

    def _tell(self, client_id: int) -> None:
        # From here on a new wake-up is a new call: what it tells of may come after this one is answered.
        self._waiting.discard(client_id)
        if self._clock.monotonic() >= self._paused_until_s.get(client_id, 0.0):
            self._call(client_id)

    def _leave_to_heartbeats(self, client_id: int, _error: HQueueError) -> None:
        self._waiting.discard(client_id)

    def _call(self, client_id: int) -> None:
        live = self._live_farm.clients.get(client_id)
        if live is None or not live.port:
            return
        connection = http.client.HTTPConnection(live.ip, live.port, timeout=_TIMEOUT_S)
        connection.response_class = _ANSWER
        try:
            connection.request("POST", "/RPC2", _CALL, _HEADERS)
            connection.getresponse().read(_ANSWER_BYTES)
            self._paused_until_s.pop(client_id, None)
        except (OSError, http.client.HTTPException) as error:
            self._paused_until_s[client_id] = self._clock.monotonic() + _PAUSE_S
            log.info(
                "client %s cannot be called at %s:%d (%s): it hears of work by its heartbeats",
                live.label,
                live.ip,
                live.port,
                error,
            )
        finally:
            connection.close()
