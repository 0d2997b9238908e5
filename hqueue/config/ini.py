"""Ini files as they stand: sections, keys and values, each with the line it was read from.

The standard library's parser forgets the lines, and a complaint without its line is half a complaint. The language:

- ``[section]``, ``key = value`` or ``key: value``; the first ``=`` or ``:`` separates, blanks around both are dropped
- a line that begins with ``#`` or ``;`` (after blanks) is a comment; anywhere else these are part of the value
- a line indented deeper than the key above it continues that key's value; an empty line ends it
- ``%(here)s`` is the folder of the file; nothing else is interpolated, and a ``%`` needs no doubling
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_FOLDER = Path("/etc/hqueue")
HERE = "%(here)s"


@dataclass(frozen=True)
class Entry:
    """One key as written; `value` is None on a line that has no separator, `section` is "" above the first one."""

    section: str
    key: str
    value: str | None
    line: int


@dataclass(frozen=True)
class IniFile:
    """One file as read; `sections` maps each name to the line it first stands on."""

    path: Path
    sections: Mapping[str, int]
    entries: tuple[Entry, ...]

    @property
    def folder(self) -> Path:
        """Return what %(here)s stands for, and what relative paths in the file are relative to."""
        return self.path.parent

    def place(self, line: int) -> str:
        """Return the words that lead a reader to a line."""
        return f"{self.path}, line {line}"


def read_ini(path: Path) -> IniFile:
    """Read one file; it need not hold anything.

    Errors: ConfigError when it cannot be read, is no UTF-8, or has a line that can be neither section nor key.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - like the original: symlinks are not followed
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8.") from None
    return _parse(path, text)


def _parse(path: Path, text: str) -> IniFile:
    sections: dict[str, int] = {}
    entries: list[Entry] = []
    section, depth = "", -1  # depth: how far the key that may be continued is indented; -1: none
    here = str(path.parent)
    # Not splitlines(): it also splits at characters that may well stand in a value.
    for number, raw_line in enumerate(text.split("\n"), 1):
        line = raw_line.strip()
        if "\0" in line:
            raise ConfigError(f"{path}, line {number}: this line holds a NUL character.")
        if not line:
            depth = -1
            continue
        if line[0] in "#;":
            continue
        indent = len(raw_line) - len(raw_line.lstrip())
        if 0 <= depth < indent:
            last = entries[-1]
            joined = line.replace(HERE, here) if last.value is None else f"{last.value}\n{line.replace(HERE, here)}"
            entries[-1] = Entry(last.section, last.key, joined, last.line)
        elif line[0] == "[":
            if line[-1] != "]" or not line[1:-1].strip():
                raise ConfigError(f"{path}, line {number}: found {line!r}, expected a section such as [main].")
            section, depth = line[1:-1].strip(), -1
            sections.setdefault(section, number)
        else:
            cut = min((at for at in (line.find("="), line.find(":")) if at >= 0), default=-1)
            if cut == 0:
                raise ConfigError(f"{path}, line {number}: found {line!r}, expected a key before the {line[0]!r}.")
            key = line if cut < 0 else line[:cut].rstrip()
            value = None if cut < 0 else line[cut + 1 :].lstrip().replace(HERE, here)
            entries.append(Entry(section, key, value, number))
            depth = indent
    return IniFile(path, sections, tuple(entries))


def find_ini(name: str, environ: Mapping[str, str], *, folder: Path, system: Path = SYSTEM_FOLDER) -> Path | None:
    """Return where a file is when nobody says: in this folder, else the user's configuration folder, else the system's.

    Source: the order is ours; a folder that may not be looked into counts as one without the file.
    """
    places = [folder, config_folder(environ), system]
    # os.path: its Path counterpart raises where a folder above may not be entered.
    return next((place / name for place in places if place and os.path.isfile(place / name)), None)  # noqa: PTH113


def config_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the user's configuration folder of this program (XDG); None when the user has no home."""
    return _user_folder(environ, "XDG_CONFIG_HOME", ".config")


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder where this program keeps what it must not lose when no other was given (XDG)."""
    folder = _user_folder(environ, "XDG_STATE_HOME", ".local/state")
    if folder is None:
        raise ConfigError("This user has no home folder to keep files in; give a configuration file, or set HOME.")
    return folder


def _user_folder(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    named = environ.get(variable, "")
    if os.path.isabs(named):  # noqa: PTH117 - the XDG rules: a relative one is ignored
        return Path(named) / "hqueue"
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises without a home
    return Path(home) / below_home / "hqueue" if os.path.isabs(home) else None  # noqa: PTH117 - same
