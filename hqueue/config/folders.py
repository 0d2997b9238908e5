"""network_folders.ini: the folders that all machines of the farm share."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hqueue.config.kinds import FLAG
from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from hqueue.config.ini import IniFile

PLATFORMS = ("linux", "windows", "macosx")
# What hqueue itself puts into a job's environment: no network folder can have such a name.
TAKEN_VARIABLES = frozenset({"JOBID", "HQSERVER", "HQCLIENT", "HQCLIENTARCH", "HQHOSTS"})


@dataclass(frozen=True)
class NetworkFolder:
    """A folder all machines share, under the name of its environment variable; "" where a platform lacks it."""

    name: str
    linux: str
    windows: str
    macosx: str
    main: bool

    def on(self, platform: str) -> str | None:
        """Return the folder's path on `linux`, `windows` or `macosx`; None for another platform."""
        return {"linux": self.linux, "windows": self.windows, "macosx": self.macosx}.get(platform)


def read_network_folders(ini: IniFile) -> tuple[NetworkFolder, ...]:
    """Return the folders of a file, exactly one of them the main one.

    The main one is the one that says so, else the one called HQROOT, else the only one there is.
    """
    if not ini.sections:
        raise ConfigError(f"{ini.path} names no folder; expected a section such as [HQROOT].")
    folders = {name: _read_one(ini, name) for name in ini.sections}
    for entry in ini.entries:
        if not entry.section:
            raise ConfigError(f"{ini.place(entry.line)}: {entry.key} stands above the first section.")
    mains = [name for name, folder in folders.items() if folder.main]
    if not mains:
        mains = ["HQROOT"] if "HQROOT" in folders else list(folders)[:2]
    if len(mains) != 1 or (mains != ["HQROOT"] and "HQROOT" in folders):
        wanted = "HQROOT" if "HQROOT" in folders else "one folder"
        said = " and ".join(name for name, folder in folders.items() if folder.main) or "none"
        raise ConfigError(f"{ini.path}: the main folder is {said}, but must be {wanted}: it becomes $HQROOT.")
    return tuple(replace(folder, main=folder.name == mains[0]) for folder in folders.values())


def _read_one(ini: IniFile, name: str) -> NetworkFolder:
    place = ini.place(ini.sections[name])
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in TAKEN_VARIABLES:
        raise ConfigError(f"{place}: [{name}] cannot be the variable of a network folder.")
    keys: dict[str, str] = {}
    for entry in (one for one in ini.entries if one.section == name):
        here = ini.place(entry.line)
        if entry.key not in {*PLATFORMS, "main"} or entry.value is None:
            raise ConfigError(f"{here}: found {entry.key!r}, expected a value for {', '.join(PLATFORMS)} or main.")
        if entry.key in keys:
            raise ConfigError(f"{here}: {entry.key} of [{name}] is given again.")
        keys[entry.key] = entry.value
    main = keys.pop("main", "false")
    if not any(keys.values()):
        raise ConfigError(f"{place}: [{name}] has no path on any platform.")
    try:
        return NetworkFolder(name, **{one: keys.get(one, "") for one in PLATFORMS}, main=FLAG.parse(main, ini.folder))
    except ValueError:
        raise ConfigError(f"{place}: main of [{name}] is {main!r}, but must be {FLAG.expected}.") from None
