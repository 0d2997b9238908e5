"""hqserver.ini, in our style and in the original's, and network_folders.ini beside it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hqueue.config.folders import PLATFORMS, NetworkFolder, read_network_folders
from hqueue.config.ini import HERE, IniFile, find_ini, read_ini, state_folder
from hqueue.config.kinds import (
    DATABASE_URL,
    FLAG,
    FOLDER,
    GIB,
    KIB,
    MAIL_ADDRESS,
    choice,
    hide,
    hide_in_url,
    number,
    several,
    size,
    text_line,
    whole,
)
from hqueue.config.settings import (
    Given,
    did_you_mean,
    find_setting,
    read_flags,
    read_strictly,
    read_values,
    setting,
    settings_of,
)
from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Sections of an old-style file that hold settings of ours; where two give the same, the first of these wins.
OLD_SECTIONS = ("main", "app:main", "server:main", "default")
OLD_SECTION = re.compile(r"default|loggers|handlers|formatters|(logger|handler|formatter)_.*|[a-z-]+:.*", re.IGNORECASE)


_LATER = ("expire_jobs_days", "expire_clients_days", "changes_days")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The settings that decide what becomes of jobs; the defaults stand here. It travels on every `Session`."""

    rescue_abandoned_minutes: float = 15  # 0: never
    max_rescues: int = 2
    max_client_failures: int = 3  # of a root's jobs, before a client is blocked for them; 0: no limit
    forgive_failures_hours: float = 24  # after which a client's failures count no more
    max_refusals: int = 10  # of one job by as many clients, before it fails
    hook_max_minutes: float = 60  # that a hook may run
    smtp_server: str = ""  # "": no mail is written
    email_to: tuple[str, ...] = ()  # who hears of the farm's errors
    email_domains: tuple[str, ...] = ()  # that jobs may write to; none: all
    webhook_url: str = ""  # the farm's own
    webhook_hosts: tuple[str, ...] = ()  # that jobs may call


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What hqserver.ini says, with the defaults filled in; hqserver.ini as shipped explains every key.

    Units: names ending in `_s` are seconds, `_bytes` bytes, others as the name says.
    """

    port: int = setting("5000", whole(0, 65535), old=("hqserver.port",))
    host: str = setting("127.0.0.1", text_line("an address to listen on, such as 0.0.0.0", r"[^\s/]+"))
    allowed_hosts: tuple[str, ...] = setting(
        "", several("host names separated by commas, such as farm.example.com", r"[^\s,/:@]+")
    )
    public_url: str = setting(
        "", text_line("nothing, or a URL such as https://farm.example.com", r"(https?://[^\s?#@]+)?")
    )
    active_timeout_s: float = setting(
        "2", number(0.01, 10080, "minutes", 60), key="active_timeout", old=("hqserver.activeTimeout",)
    )
    heartbeat_s: float = setting("5", number(0.05, 3600, "seconds"))
    kill_grace_s: float = setting("10", number(0.05, 600, "seconds"))
    reported_version: str = setting(
        "", text_line("nothing, or three numbers such as 20.5.332", r"([0-9]+(\.[0-9]+){2,})?")
    )
    debug: bool = setting("false", FLAG)

    database_url: str = setting(
        f"sqlite:///{HERE}/hqserver.db", DATABASE_URL, old=("sqlalchemy.default.url",), mask=hide_in_url
    )
    pool_size: int = setting("20", whole(1, 10_000), old=("sqlalchemy.default.pool_size",))
    max_overflow: int = setting("20", whole(-1, 10_000), old=("sqlalchemy.default.max_overflow",))

    job_logs_dir: Path = setting(f"{HERE}/job_logs", FOLDER)  # noqa: RUF009 - setting() makes a field
    max_output_bytes: int = setting("1 GiB", size(64 * KIB, 1024 * GIB))
    max_output_answer_bytes: int = setting("64 MiB", size(64 * KIB, GIB), old=("max_output_answer",))

    expire_jobs_days: int = setting("30", whole(0, 36500), old=("hqserver.expireJobsDays",))
    expire_clients_days: int = setting("30", whole(0, 36500))
    changes_days: int = setting("7", whole(1, 3650))

    upgrade_priority: int = setting("100", whole(0, 2**31 - 1), old=("hqserver.upgradePriority",))
    rescue_abandoned_minutes: float = setting(f"{Policy.rescue_abandoned_minutes:g}", number(0, 525600, "minutes"))
    max_rescues: int = setting(f"{Policy.max_rescues}", whole(0, 1000))
    max_client_failures: int = setting(f"{Policy.max_client_failures}", whole(0, 1_000_000))
    forgive_failures_hours: float = setting(f"{Policy.forgive_failures_hours:g}", number(0.01, 87600, "hours"))
    max_refusals: int = setting(f"{Policy.max_refusals}", whole(1, 1_000_000))
    hold_after_s: float = setting("60", number(0, 86400, "seconds"))
    hook_max_minutes: float = setting(f"{Policy.hook_max_minutes:g}", number(0.01, 525600, "minutes"))

    max_request_bytes: int = setting("64 MiB", size(64 * KIB, 2 * GIB))
    max_spec_depth: int = setting("1000", whole(1, 10_000))
    request_timeout_s: float = setting("60", number(0.05, 3600, "seconds"))
    max_connections: int = setting("4096", whole(8, 1_000_000))
    max_received_bytes: int = setting("256 MiB", size(256 * KIB, 1024 * GIB))
    max_unsent_bytes: int = setting("512 MiB", size(256 * KIB, 1024 * GIB))

    email_to: tuple[str, ...] = setting(
        "", several("mail addresses separated by commas, such as farm@example.com", MAIL_ADDRESS)
    )
    error_email_from: str = setting("", text_line("one mail address, such as farm@example.com", rf"({MAIL_ADDRESS})?"))
    smtp_server: str = setting("", text_line("the host name of a mail server", r"[^\s/]*"))
    smtp_port: int = setting("25", whole(1, 65535))
    smtp_user: str = setting("", text_line())
    smtp_password: str = setting("", text_line(), mask=hide)
    smtp_tls: str = setting("off", choice("off", "starttls", "tls"))
    email_domains: tuple[str, ...] = setting(
        "", several("domains separated by commas, such as example.com", r"[^\s,/:@]+")
    )
    webhook_url: str = setting(
        "", text_line("nothing, or a URL such as https://chat.example.com/hook", r"(https?://[^\s@]+)?"), mask=hide
    )
    webhook_secret: str = setting("", text_line(), mask=hide)
    webhook_hosts: tuple[str, ...] = setting(
        "", several("hosts, addresses or networks separated by commas, such as chat.example.com", r"[^\s,@]+")
    )

    shared_network_host: str = setting("", text_line(), key="sharedNetwork.host", old=("hqserver.sharedNetwork.host",))
    shared_network_path: str = setting("", text_line(), key="sharedNetwork.path", old=("hqserver.sharedNetwork.path",))
    shared_network_path_linux: str = setting(
        "", text_line(), key="sharedNetwork.path.linux", old=("hqserver.sharedNetwork.path.linux",)
    )
    shared_network_path_windows: str = setting(
        "", text_line(), key="sharedNetwork.path.windows", old=("hqserver.sharedNetwork.path.windows",)
    )
    shared_network_path_macosx: str = setting(
        "", text_line(), key="sharedNetwork.path.macosx", old=("hqserver.sharedNetwork.path.macosx",)
    )
    shared_network_mount_linux: str = setting(
        "/mnt/hq", text_line(), key="sharedNetwork.mount.linux", old=("hqserver.sharedNetwork.mount.linux",)
    )
    shared_network_mount_windows: str = setting(
        "H:/", text_line(), key="sharedNetwork.mount.windows", old=("hqserver.sharedNetwork.mount.windows",)
    )
    shared_network_mount_macosx: str = setting(
        "/Volumes/HQShared", text_line(), key="sharedNetwork.mount.macosx", old=("hqserver.sharedNetwork.mount.macosx",)
    )

    network_folders: tuple[NetworkFolder, ...]
    folder: Path
    path: Path | None = field(compare=False)
    warnings: tuple[str, ...] = field(compare=False)
    texts: Mapping[str, str] = field(repr=False)

    @property
    def policy(self) -> Policy:
        """Return the settings that decide what becomes of jobs."""
        return Policy(**{each.name: getattr(self, each.name) for each in fields(Policy)})

    @property
    def hqroot(self) -> NetworkFolder:
        """Return the main network folder, which is $HQROOT."""
        return next(one for one in self.network_folders if one.main)

    def value_of(self, key: str) -> str | None:
        """Return the value in force of a key, in either spelling, as a file would write it; None for an unknown key.

        Passwords are shown as ``***``.
        """
        one = find_setting(ServerConfig, key)
        return None if one is None else one.shown(self.texts[one.key])


def load_server_config(
    path: Path | None = None, overrides: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> ServerConfig:
    """Read hqserver.ini and what stands beside it; without a path, from where one is found, else the defaults.

    Shapes: `overrides` maps keys in any spelling to text, as flags of the command line give them; they win.
    Errors: ConfigError, one sentence with the place, the key, what was found and what was expected.
    """
    environ = os.environ if environ is None else environ
    path = path or find_ini("hqserver.ini", environ, folder=Path.cwd())
    warnings: list[str] = []
    given: dict[str, Given] = {}
    if path is None:
        folder = state_folder(environ)
    else:
        ini = read_ini(path)
        path, folder = ini.path, ini.folder
        given = _read_old_style(ini, warnings) if _is_old_style(ini) else read_strictly(ini, ServerConfig)[0]
    given |= read_flags(ServerConfig, overrides or {})
    if "sharedNetwork.path" in given:
        for platform in PLATFORMS:
            given.setdefault(f"sharedNetwork.path.{platform}", given["sharedNetwork.path"])
    values, texts = read_values(ServerConfig, given, folder)
    folders = _network_folders(folder / "network_folders.ini", given, values, texts, warnings)
    _check_together(given, values, texts, warnings)
    return ServerConfig(
        **values,
        network_folders=folders,
        folder=folder,
        path=path,
        warnings=tuple(warnings),
        texts=MappingProxyType(texts),
    )


def _check_together(
    given: Mapping[str, Given], values: Mapping[str, Any], texts: Mapping[str, str], warnings: list[str]
) -> None:
    if values["active_timeout_s"] < 2 * values["heartbeat_s"]:
        both = [given[key].origin for key in ("active_timeout", "heartbeat_s") if key in given]
        raise ConfigError(
            f"{both[0]}: active_timeout is {texts['active_timeout']} minutes and heartbeat_s is {texts['heartbeat_s']} "
            f"seconds; expected a time-out of at least two heartbeats, or every client is lost again and again."
        )
    warnings += _not_yet(given, texts)
    if values["email_to"] and not values["smtp_server"]:
        warnings.append(f"{given['email_to'].origin}: email_to is set but smtp_server is not; no mail will be sent.")
    unsigned = [name for name in ("webhook_url", "webhook_hosts") if values[name] and not values["webhook_secret"]]
    warnings += [
        f"{given[name].origin}: {name} is set but webhook_secret is not; calls are not signed." for name in unsigned
    ]


def _not_yet(given: Mapping[str, Given], texts: Mapping[str, str]) -> list[str]:
    """Return a line for each setting that somebody has changed and nothing goes by yet."""
    defaults = {each.key: each.default for each in settings_of(ServerConfig)}
    changed = [key for key in _LATER if key in given and texts[key] != defaults[key]]
    return [f"{given[key].origin}: {key} is kept, but nothing goes by it yet." for key in changed]


def _is_old_style(ini: IniFile) -> bool:
    dotted = any(entry.key.lower().startswith("hqserver.") for entry in ini.entries)
    return dotted or any(OLD_SECTION.fullmatch(section) for section in ini.sections)


def _read_old_style(ini: IniFile, warnings: list[str]) -> dict[str, Given]:
    for section, line in ini.sections.items():
        if section.lower() not in OLD_SECTIONS:
            warnings.append(f"{ini.place(line)}: [{section}] is none of our sections; it is ignored.")
        elif section != "main":
            warnings.append(
                f"{ini.place(line)}: [{section}] belongs to the original's web framework; "
                f"the settings in it are in force, but belong under [main]."
            )
    given: dict[str, Given] = {}
    ranks: dict[str, int] = {}
    for entry in ini.entries:
        place, section = ini.place(entry.line), entry.section.lower()
        if not section:
            raise ConfigError(f"{place}: {entry.key} stands above the first section; expected [main] before it.")
        if section not in OLD_SECTIONS:
            continue
        one = find_setting(ServerConfig, entry.key)
        if one is None or entry.value is None:
            near = did_you_mean(ServerConfig, entry.key) if one is None else "; expected key = value"
            warnings.append(f"{place}: {entry.key} is not known here{near}; it is ignored.")
            continue
        rank, before = OLD_SECTIONS.index(section), given.get(one.key)
        if before is not None and before.text != entry.value:
            winner = place if rank <= ranks[one.key] else before.origin
            warnings.append(f"{place}: {one.key} is given here and in {before.origin}; what {winner} says is in force.")
        if before is None or rank <= ranks[one.key]:
            given[one.key], ranks[one.key] = Given(entry.value, place, ini.folder), rank
    return given


def _network_folders(
    path: Path, given: Mapping[str, Given], values: dict[str, Any], texts: dict[str, str], warnings: list[str]
) -> tuple[NetworkFolder, ...]:
    """Return the folders of network_folders.ini, which then are in force in values and texts too, or $HQROOT alone."""
    if not path.exists():
        paths = {platform: values[f"shared_network_mount_{platform}"] for platform in PLATFORMS}
        return (NetworkFolder("HQROOT", **paths, main=True),)
    folders = read_network_folders(read_ini(path))
    main = next(one for one in folders if one.main)
    for platform in PLATFORMS:
        mount = given.get(f"sharedNetwork.mount.{platform}")
        if mount is not None and mount.text != main.on(platform):
            warnings.append(f"{mount.origin}: sharedNetwork.mount.{platform} is not in force, for there is {path}.")
        values[f"shared_network_mount_{platform}"] = texts[f"sharedNetwork.mount.{platform}"] = main.on(platform) or ""
    return folders
