"""What the parts of one server share; made once by `server`, given to the chapters of `api`, the pages and `farm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hqueue.errorlog import ErrorLog
from hqueue.joblogs import JobLogs
from hqueue.lifecycle.incoming import Incoming
from hqueue.live import LiveFarm
from hqueue.views.farmview import FarmReader
from hqueue.views.jobattributes import JobAttributes

if TYPE_CHECKING:
    from hqueue.clock import Clock
    from hqueue.config import ServerConfig
    from hqueue.service import OnDeath
    from hqueue.store import Store


@dataclass(frozen=True, slots=True)
class Context:
    """One server's store, memory, settings and readers."""

    store: Store
    live_farm: LiveFarm
    logs: JobLogs
    errors: ErrorLog
    config: ServerConfig
    clock: Clock
    farm: FarmReader
    attributes: JobAttributes
    incoming: Incoming


class Chapter:
    """The methods of one subject that callers may call, with what a chapter may use of its server."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._live_farm = context.live_farm
        self._logs = context.logs
        self._errors = context.errors
        self._config = context.config
        self._clock = context.clock
        self._farm = context.farm
        self._attributes = context.attributes
        self._incoming = context.incoming


def make_context(store: Store, config: ServerConfig, clock: Clock, on_death: OnDeath) -> Context:
    """Return what the parts of the server of a store share; `on_death` hears of threads that die.

    Errors: StoreUnavailableError when the folder for job output cannot be used.
    """
    live_farm = LiveFarm(clock)
    logs = JobLogs(config.job_logs_dir, max_output_bytes=config.max_output_bytes)
    farm = FarmReader(live_farm, clock)
    incoming = Incoming(store, clock, on_death)
    return Context(store, live_farm, logs, ErrorLog(), config, clock, farm, JobAttributes(farm), incoming)
