"""hqnode.ini, with environment variables and flags above it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from hqueue.config.ini import find_ini, read_ini, state_folder
from hqueue.config.kinds import FLAG, FOLDER, SERVER_ADDRESS, UMASK, Address, hide_in_url, text_line, whole
from hqueue.config.settings import Given, read_flags, read_strictly, read_values, read_variables, setting
from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVER_PORT = 5000
# Part of a label (host:name), of lists split at commas and semicolons, and of a folder's name.
CLIENT_NAME = text_line(
    "a name of at most 64 characters without : , ; / \\ or control characters",
    r"(?!\.{1,2}$)[^:,;/\\\x00-\x1f\x7f]{0,64}",
)


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """What hqnode.ini, the environment and the flags of the command line say of one client.

    Shapes: `cpus` 0 means as many as the machine has; `umask` None the daemon's own; `network_mount` "" what the server
    says; `next_free_port`: when `listen_port` is taken, the next free one will do.
    """

    server: Address = setting("127.0.0.1", SERVER_ADDRESS, variable="HQUEUE_SERVER", mask=hide_in_url)  # noqa: RUF009 - setting() makes a field
    port: int = setting(str(SERVER_PORT), whole(1, 65535))
    listen_port: int = setting("5001", whole(0, 65535), variable="HQUEUE_LISTEN_PORT")
    name: str = setting("", CLIENT_NAME, variable="HQUEUE_NAME")
    cpus: int = setting("0", whole(0, 4096), variable="HQUEUE_CPUS")
    auto_upgrade: bool = setting("false", FLAG, variable="HQUEUE_AUTO_UPGRADE")
    umask: int | None = setting("", UMASK, variable="HQUEUE_UMASK")
    state_dir: Path = setting("", FOLDER, variable="HQUEUE_STATE_DIR")  # noqa: RUF009 - setting() makes a field
    network_mount: str = setting("", text_line(), key="sharedNetwork.mount")

    next_free_port: bool
    job_environment: Mapping[str, str]
    path: Path | None = field(compare=False)
    warnings: tuple[str, ...] = field(compare=False)

    @property
    def server_port(self) -> int:
        """Return the server's port: the one said with its name, else `port`."""
        return self.server.port or self.port

    @property
    def server_url(self) -> str:
        """Return where the server answers, without a slash at the end."""
        return address_url(self.server, self.server_port)


def load_client_config(
    path: Path | None = None, overrides: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> ClientConfig:
    """Read hqnode.ini; without a path, from where one is found. A flag beats a variable, a variable beats the file.

    Shapes: `overrides` maps keys to text, as flags of the command line give them.
    Errors: ConfigError, one sentence with the place, the key, what was found and what was expected.
    """
    environ = os.environ if environ is None else environ
    path = path or find_ini("hqnode.ini", environ, folder=Path.cwd())
    given: dict[str, Given] = {}
    job_environment: dict[str, str] = {}
    if path is not None:
        ini = read_ini(path)
        path = ini.path
        given, others = read_strictly(ini, ClientConfig, free=("job_environment",))
        job_environment = others["job_environment"]
    given |= read_variables(ClientConfig, environ)
    given |= read_flags(ClientConfig, overrides or {})
    if not given.get("state_dir", Given("", "", Path())).text:
        given["state_dir"] = _default_state_dir(given.get("name"), environ)
    values, _ = read_values(ClientConfig, given, path.parent if path else Path.cwd())
    warnings: list[str] = []
    said = values["server"].port
    if said is not None and "port" in given and said != values["port"]:
        warnings.append(
            f"{given['port'].origin}: port is {values['port']}, but {given['server'].origin} says port {said} "
            f"with the server's name, and that is in force."
        )
    return ClientConfig(
        **values,
        next_free_port=bool(values["name"]) and "listen_port" not in given,
        job_environment=MappingProxyType(job_environment),
        path=path,
        warnings=tuple(warnings),
    )


def _default_state_dir(name: Given | None, environ: Mapping[str, str]) -> Given:
    # The host is part of it, for farm machines often share their users' homes, and two daemons must never share this.
    host = socket.gethostname().lower() or "localhost"
    folder = host if name is None or not name.text else f"{host}.{name.text}"
    return Given(str(state_folder(environ) / "client" / folder), "the default", Path.cwd())


def client_label(hostname: str, name: str) -> str:
    """Return what people call a client: `hostname`, or `hostname:name`."""
    return f"{hostname}:{name}" if name else hostname


def server_address(text: str) -> Address:
    """Return where a server is that was given as host, host:port or URL.

    Errors: ConfigError, which shows no password.
    """
    try:
        address: Address = SERVER_ADDRESS.parse(text, Path())
    except ValueError:
        raise ConfigError(f"The server is {hide_in_url(text)!r}, but must be {SERVER_ADDRESS.expected}.") from None
    return address


def address_url(address: Address, port: int = SERVER_PORT) -> str:
    """Return the URL of an address, without its login and without a slash at the end; `port`: where none was said."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"http://{host}:{address.port or port}"
