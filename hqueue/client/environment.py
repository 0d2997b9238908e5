"""The environment a command is started with."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hqueue.client import platforms
from hqueue.client.processes import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hqueue.protocol import Assignment, NetworkFolder

CLIENT_FOLDER = Path(__file__).parent
PACKAGE_ROOT = CLIENT_FOLDER.parent.parent

# What speaks of the daemon's own process: its Python, its service manager, the shell it was started from.
_OWN_NAMES = frozenset(
    {
        "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONEXECUTABLE", "PYTHONSTARTUP", "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONWARNINGS", "PYTHONDEVMODE", "__PYVENV_LAUNCHER__",
        "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
        "INVOCATION_ID", "JOURNAL_STREAM", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID", "PWD", "OLDPWD", "SHLVL", "_",
        MARKER,
    }
)  # fmt: skip
_PATH_LISTS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class UnusableEnvironmentError(ValueError):
    """A variable that no process can be given; the message says which."""


def inherited(own: Mapping[str, str], prefixes: Iterable[str]) -> dict[str, str]:
    """Return the daemon's environment without what belongs to its Python.

    `prefixes`: folders of that Python. Entries of the path lists below one of them go, the others stay: a program of
    its virtual environment would otherwise be found before the machine's.
    """
    roots = tuple(os.path.join(os.path.normpath(prefix), "") for prefix in prefixes)  # noqa: PTH118 - compared as text
    kept = {name: value for name, value in own.items() if name not in _OWN_NAMES}
    for name in _PATH_LISTS:
        original = kept.pop(f"{name}_ORIG", None)  # where a bundled Python keeps what it found
        if original is not None:
            kept[name] = original
        if name not in kept:
            continue
        entries = [
            entry
            for entry in kept[name].split(os.pathsep)
            if not os.path.join(os.path.normpath(entry), "").startswith(roots)  # noqa: PTH118 - compared as text
        ]
        if entries:
            kept[name] = os.pathsep.join(entries)
        else:
            del kept[name]
    return kept


def own_prefixes() -> list[str]:
    """Return the folders that belong to this Python alone: its virtual environment, and the checkout it runs from."""
    prefixes = [str(PACKAGE_ROOT)]
    if sys.prefix != sys.base_prefix:
        prefixes.append(sys.prefix)
    return prefixes


@dataclass
class Environment:
    """What all commands of this client have in common."""

    base: Mapping[str, str]
    job_environment: Mapping[str, str]
    server_url: str
    root_override: str = ""  # `sharedNetwork.mount` of this machine
    folders: dict[str, str] = field(default_factory=dict)  # variable of a network folder → its path here

    def set_folders(self, network_folders: Iterable[NetworkFolder]) -> None:
        """Take the network folders as the server names them."""
        self.folders = {}
        for folder in network_folders:
            here = str(getattr(folder, platforms.NAME))
            names = {folder.name}
            if folder.main:
                here = self.root_override or here
                names.add("HQROOT")
            if here:
                self.folders.update(dict.fromkeys(names, here))

    def shares(self, path: str) -> bool:
        """Tell whether a path is at or below a network folder."""
        folders = {os.path.normpath(folder) for folder in self.folders.values()}
        path = os.path.normpath(path)
        return any(path == folder or path.startswith(os.path.join(folder, "")) for folder in folders)  # noqa: PTH118 - compared as text

    def of(self, assignment: Assignment, scratch: str, mark: str) -> dict[str, str]:
        """Return the whole environment of a run.

        Errors: UnusableEnvironmentError.
        """
        environment = dict(self.base)
        for name in ("TMPDIR",) if platforms.NAME != "windows" else ("TMPDIR", "TEMP", "TMP"):
            environment[name] = scratch
        environment.update(self.job_environment)
        environment.update(assignment.environment)
        environment["JOBID"] = str(assignment.job_id)
        if assignment.root_id:
            environment["ROOTJOBID"] = str(assignment.root_id)
        environment["HQSERVER"] = self.server_url
        environment["HQCLIENT"] = str(CLIENT_FOLDER)
        environment["HQCLIENTARCH"] = platforms.architecture()
        environment["HQHOSTS"] = ",".join(assignment.hosts)
        environment.update(self.folders)
        environment[MARKER] = mark
        for name, value in environment.items():
            if not name or "=" in name or "\0" in name:
                raise UnusableEnvironmentError(f"{name!r} cannot be the name of an environment variable")
            if "\0" in value:
                raise UnusableEnvironmentError(f"the environment variable {name} holds a NUL character")
        return environment
