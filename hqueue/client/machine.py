"""The machine as the server is told of it: what it is, and how busy it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from hqueue import __version__
from hqueue.client import platforms
from hqueue.protocol import Identity

if TYPE_CHECKING:
    from hqueue.clock import Clock

SAMPLE_EVERY_S = 1.0  # a busy client heartbeats far more often than these figures change
IDLE_EVERY_S = 20.0


class Load:
    """How busy the machine is, measured once a second at most."""

    def __init__(self, state_dir: Path, cpus: int, clock: Clock) -> None:
        self._state_dir = state_dir
        self._cpus = cpus
        self._clock = clock
        self._sampled_at = self._idle_at = float("-inf")
        self._sample: dict[str, Any] = {"idle_minutes": -1}
        psutil.cpu_percent(None)  # the first one measures nothing

    def __call__(self) -> dict[str, Any]:
        """Return what a heartbeat says of it; the load goes from 0 to the number of CPUs."""
        now = self._clock.monotonic()
        if now - self._sampled_at >= SAMPLE_EVERY_S:
            self._sampled_at = now
            self._sample["load"] = round(psutil.cpu_percent(None) / 100.0 * self._cpus, 2)
            self._sample["free_memory_kb"] = psutil.virtual_memory().available // 1024
            self._sample["free_disk_kb"] = _disk_kb(self._state_dir, "free")
        if now - self._idle_at >= IDLE_EVERY_S:
            self._idle_at = now
            self._sample["idle_minutes"] = _idle_minutes(self._clock)
        return self._sample


def cpu_count() -> int:
    """Return the CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def identity(state_dir: Path, *, name: str, key: str, incarnation: int, cpus: int, port: int) -> Identity:
    """Return what registers this client."""
    return Identity(
        hostname=socket.gethostname(),
        name=name,
        key=key,
        incarnation=incarnation,
        port=port,
        cpus=cpus,
        platform=platforms.architecture(),
        version=__version__,
        memory_kb=psutil.virtual_memory().total // 1024,
        cpu_speed_mhz=_cpu_mhz(),
        install_location=str(Path(__file__).parent.parent),
        disk_kb=_disk_kb(state_dir, "total"),
    )


def _cpu_mhz() -> int:
    with contextlib.suppress(OSError, NotImplementedError, AttributeError):  # virtual machines often do not tell
        frequency = psutil.cpu_freq()
        if frequency is not None:
            return int(frequency.max or frequency.current)
    return 0


def _disk_kb(folder: Path, which: str) -> int:
    try:
        return int(getattr(shutil.disk_usage(folder), which)) // 1024
    except OSError:
        return 0


def _idle_minutes(clock: Clock) -> int:
    """Return how long nobody has typed at this machine's terminals; since its start when nobody is logged in.

    -1 for somebody at a graphical screen, whose keyboard cannot be asked from here.
    """
    wall_clock = clock.now().timestamp()
    latest = psutil.boot_time()
    for user in psutil.users():
        try:
            latest = max(latest, (Path("/dev") / (user.terminal or ":0")).stat().st_atime)
        except OSError:
            return -1
    return max(0, int(wall_clock - latest) // 60)
