"""What befalls a farm: deaths of its server and clients, full disks, ways that are cut; all of it is over some time."""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from hqueue.clock import Clock
    from tests.farm import Farm
    from tests.faults.injections import SmallDisk
    from tests.soak.mischief import Network, Path

HEARTBEAT_S = 0.5
LOST_S = 6.0
RESCUE_S = 6.0
LONG_S = LOST_S + RESCUE_S + 4.0
SETTINGS = f"rescue_abandoned_minutes = {RESCUE_S / 60}\n"


@dataclass
class Machine:
    """A client, the way to it, and since when it has been out of reach (None: it is there)."""

    name: str
    path: Path
    gone_at: float | None = None
    absences: list[tuple[float, float]] = field(default_factory=list)


class Fates:
    """Chooses what happens next, and lets it be over again. Everything happens in one thread, `run`."""

    def __init__(
        self,
        farm: Farm,
        network: Network,
        disk: SmallDisk | None,
        chances: random.Random,
        clock: Clock,
        *,
        without: frozenset[str],
    ) -> None:
        self.farm = farm
        self.machines: dict[str, Machine] = {}
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.server_gone_at: float | None = None
        self._network = network
        self._disk = disk
        self._chances = chances
        self._clock = clock
        self._without = without
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._disk_is_full = False

    def add_client(self, name: str, cpus: int) -> None:
        """Start a client with a way of its own to the server."""
        path = self._network.path()
        self.machines[name] = Machine(name, path)
        self.farm.add_client(name, cpus=cpus, server=f"http://127.0.0.1:{path.port}")

    def run(self, seconds: float, watch: Callable[[], None]) -> None:
        """Let things happen for so long, then let all of them be over. `watch` is called a few times a second."""
        pause = threading.Event()
        end = self._clock.monotonic() + seconds
        next_at = self._clock.monotonic() + 2.0
        while (now := self._clock.monotonic()) < end:
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            if now >= next_at:
                self._choose(end - now)
                next_at = now + self._chances.uniform(0.7, 3.0)
            self._raise_server()
            watch()
            pause.wait(0.2)
        while self._due:
            heapq.heappop(self._due)[2]()
        self._raise_server()

    def keep_up(self) -> None:
        """Start the server again if it has ended by itself, as an init system does."""
        self._raise_server()

    def _choose(self, left_s: float) -> None:
        can: dict[Callable[[], None], int] = {}
        if "server" not in self._without and self.server_gone_at is None:
            can[self._kill_server] = 3
        if self._disk is not None and "disk" not in self._without and not self._disk_is_full:
            can[self._fill_disk] = 3
        if "clients" not in self._without:
            can |= {self._kill_client: 3, self._halt_client: 2, self._cut_client: 3, self._kill_runner: 1}
            # What is away for long is one machine at a time, and back before the end.
            if left_s > LONG_S and not any(each.gone_at for each in self.machines.values()):
                can[self._lose_client] = 4
        if can:
            (deed,) = self._chances.choices(list(can), list(can.values()))
            deed()

    def _in(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._clock.monotonic() + seconds, next(self._order), what))

    # -- the server --------------------------------------------------------------------------------------------------

    def _kill_server(self) -> None:
        self.counts["server killed"] += 1
        self.farm.server.kill()
        self.server_gone_at = self._clock.monotonic()
        self._in(self._chances.uniform(0.1, 4.0), self._start_server)

    def _start_server(self) -> None:
        try:
            self.farm.server.start()
        except AssertionError as error:
            self.counts["server did not start"] += 1
            self.complaints.append(f"the server did not start: {str(error).strip().splitlines()[-1]}")
            self._in(1.0, self._start_server)
            return
        self.server_gone_at = None

    def _raise_server(self) -> None:
        if self.server_gone_at is not None or self.farm.server.is_running():
            return
        self.counts["server ended by itself"] += 1
        said = [line for line in self.farm.server.log.read_text().splitlines() if line and line[0] != " "]
        self.complaints.append(f"the server ended by itself with {self.farm.server.wait()}: {said[-1][:300]}")
        self.server_gone_at = self._clock.monotonic()
        self._start_server()
        if self.server_gone_at is not None:
            threading.Event().wait(1.0)

    # -- the disk ----------------------------------------------------------------------------------------------------

    def _fill_disk(self) -> None:
        assert self._disk is not None
        self.counts["disk filled"] += 1
        self._disk.fill()
        self._disk_is_full = True
        # Longer than what is between two checkpoints, now and then.
        self._in(self._chances.uniform(0.5, 9.0), self._empty_disk)

    def _empty_disk(self) -> None:
        assert self._disk is not None
        self._disk.empty()
        self._disk_is_full = False

    # -- clients -----------------------------------------------------------------------------------------------------

    def _there(self) -> Machine | None:
        there = [each for each in self.machines.values() if each.gone_at is None]
        return self._chances.choice(there) if there else None

    def _leaves(self, machine: Machine, seconds: float, back: Callable[[], None]) -> None:
        machine.gone_at = self._clock.monotonic()

        def returns() -> None:
            back()
            assert machine.gone_at is not None
            machine.absences.append((machine.gone_at, self._clock.monotonic()))
            machine.gone_at = None

        self._in(seconds, returns)

    def _lose_client(self) -> None:
        self.counts["clients away for longer than lost and rescue"] += 1
        deed = self._chances.choice([self._kill_client, self._halt_client, self._cut_client])
        deed(LONG_S + self._chances.uniform(0.0, 5.0))

    def _kill_client(self, seconds: float | None = None) -> None:
        if machine := self._there():
            self.counts["client killed"] += 1
            daemon = self.farm.clients[machine.name]
            daemon.kill()
            self._leaves(machine, seconds or self._chances.uniform(0.1, LOST_S + 2.0), daemon.start)

    def _halt_client(self, seconds: float | None = None) -> None:
        if machine := self._there():
            self.counts["client halted"] += 1
            pid = self.farm.clients[machine.name].pid
            os.kill(pid, signal.SIGSTOP)
            self._leaves(machine, seconds or self._chances.uniform(0.5, LOST_S + 2.0), lambda: _continue(pid))

    def _cut_client(self, seconds: float | None = None) -> None:
        if machine := self._there():
            self.counts["client cut off"] += 1
            machine.path.cut = self._chances.choice(["refused", "silent"])

            def mend() -> None:
                machine.path.cut = ""

            self._leaves(machine, seconds or self._chances.uniform(0.5, LOST_S + 2.0), mend)

    def _kill_runner(self) -> None:
        machine = self._there()
        pid = machine and _runner_of(self.farm, machine.name)
        if pid:
            self.counts["runner killed"] += 1
            os.kill(pid, signal.SIGKILL)


def _continue(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def _runner_of(farm: Farm, name: str) -> int | None:
    """Return a process that holds a client's commands: it was started for its state folder, and is not the daemon."""
    folder = str(farm.state_dir(name))
    for process in psutil.process_iter(["cmdline"]):
        if folder in (process.info["cmdline"] or ()) and process.pid != farm.clients[name].pid:
            return int(process.pid)
    return None
