"""Settings declared as fields of a dataclass: one line each says name, old spellings, default, kind, range and unit."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hqueue.config.ini import HERE, Entry, IniFile
from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hqueue.config.kinds import Kind


@dataclass(frozen=True)
class Setting:
    """One declared setting; `mask` turns its text into what may be shown to others."""

    field: str
    key: str
    default: str
    kind: Kind
    old: tuple[str, ...]
    variable: str
    mask: Callable[[str], str] | None

    @property
    def spellings(self) -> tuple[str, ...]:
        """Return every name a file may use for it."""
        return (self.key, *self.old)

    def shown(self, text: str) -> str:
        """Return the text without its secrets."""
        return text if self.mask is None else self.mask(text)


@dataclass(frozen=True)
class Given:
    """A setting's text as somebody gave it: where, and what relative paths in it are relative to."""

    text: str
    origin: str
    folder: Path


def setting(
    default: str,
    kind: Kind,
    *,
    key: str = "",
    old: tuple[str, ...] = (),
    variable: str = "",
    mask: Callable[[str], str] | None = None,
) -> Any:
    """Declare a dataclass field as a setting; without `key`, the field's own name is its name in the file.

    `default` is written as in a file and may hold %(here)s. `variable` is the environment variable that sets it.
    """
    declared = {"default": default, "kind": kind, "key": key, "old": old, "variable": variable, "mask": mask}
    return field(metadata={"setting": declared}, repr=mask is None)


def settings_of(config: type[Any]) -> tuple[Setting, ...]:
    """Return the settings a dataclass declares, in order."""
    declared = [(one.name, one.metadata["setting"]) for one in fields(config) if "setting" in one.metadata]
    return tuple(Setting(field=name, **{**how, "key": how["key"] or name}) for name, how in declared)


def find_setting(config: type[Any], spelling: str) -> Setting | None:
    """Return the setting with this name, old or new; upper and lower case do not matter."""
    wanted = spelling.lower()
    return next((one for one in settings_of(config) if wanted in (name.lower() for name in one.spellings)), None)


def read_values(config: type[Any], given: Mapping[str, Given], here: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values by field and the texts in force by key; what is not in `given` (by key) has its default."""
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for one in settings_of(config):
        found = given.get(one.key) or Given(one.default.replace(HERE, str(here)), "the default", here)
        try:
            values[one.field] = one.kind.parse(found.text, found.folder)
        except ValueError as error:
            raise ConfigError(complaint(one, found, str(error))) from None
        # What is in force is the whole path and the URL with its driver; of a number, what people wrote and read.
        value = values[one.field]
        texts[one.key] = str(value) if isinstance(value, Path | str) else found.text
    return values, texts


def complaint(one: Setting, found: Given, expected: str = "") -> str:
    """Return the sentence about a value that cannot be used: where it stands, what it is, what was expected."""
    shown = one.shown(found.text)
    shown = shown if len(shown) <= 100 else shown[:97] + "..."
    comment = " A comment needs a line of its own." if re.search(r"\s[#;]", found.text) else ""
    return f"{found.origin}: {one.key} is {shown!r}, but must be {expected or one.kind.expected}.{comment}"


def read_strictly(
    ini: IniFile, config: type[Any], *, free: tuple[str, ...] = ()
) -> tuple[dict[str, Given], dict[str, dict[str, str]]]:
    """Return what [main] of a file gives, by key, and the sections named in `free`, which may hold any key.

    Errors: ConfigError at the first thing that is not known, not a setting, or said twice.
    """
    for section, line in ini.sections.items():
        if section not in {"main", *free}:
            raise ConfigError(f"{ini.place(line)}: there is no section [{section}]; expected {_sections(free)}.")
    given: dict[str, Given] = {}
    others: dict[str, dict[str, str]] = {name: {} for name in free}
    lines: dict[tuple[str, str], int] = {}
    for entry in ini.entries:
        place = ini.place(entry.line)
        if not entry.section:
            raise ConfigError(f"{place}: {entry.key} stands above the first section; expected [main] before it.")
        if entry.value is None:
            raise ConfigError(f"{place}: found {entry.key!r}, expected key = value.")
        key = entry.key if entry.section in free else _known(entry, place, config).key
        if (entry.section, key) in lines:
            raise ConfigError(f"{place}: {key} is given again; line {lines[entry.section, key]} gave it before.")
        lines[entry.section, key] = entry.line
        if entry.section in free:
            others[entry.section][key] = entry.value
        else:
            given[key] = Given(entry.value, place, ini.folder)
    return given, others


def read_flags(config: type[Any], flags: Mapping[str, str]) -> dict[str, Given]:
    """Return what the command line gives, by key; relative paths there are relative to the current folder."""
    given: dict[str, Given] = {}
    for name, text in flags.items():
        origin = f"option --{name.replace('_', '-')}"
        given[_known(Entry("main", name, text, 0), origin, config).key] = Given(text, origin, Path.cwd())
    return given


def read_variables(config: type[Any], environ: Mapping[str, str]) -> dict[str, Given]:
    """Return what the environment gives, by key; an empty variable is none."""
    return {
        one.key: Given(environ[one.variable], f"environment variable {one.variable}", Path.cwd())
        for one in settings_of(config)
        if one.variable and environ.get(one.variable)
    }


def _known(entry: Entry, place: str, config: type[Any]) -> Setting:
    one = find_setting(config, entry.key)
    if one is None:
        raise ConfigError(f"{place}: there is no key {entry.key!r}{did_you_mean(config, entry.key)}.")
    return one


def did_you_mean(config: type[Any], word: str) -> str:
    """Return the end of a complaint: the known key most like this word, "" when none is."""
    names = {name.lower(): name for one in settings_of(config) for name in one.spellings}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"; the nearest known key is {names[close[0]]!r}" if close else ""


def _sections(free: tuple[str, ...]) -> str:
    return " or ".join(f"[{name}]" for name in ("main", *free))
