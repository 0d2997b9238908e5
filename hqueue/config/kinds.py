"""What the text of a setting can be: kinds of values, each with its range, its unit and the words for a complaint."""

from __future__ import annotations

import os.path
import re
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZES = {"": 1, "kib": KIB, "mib": MIB, "gib": GIB}
MAIL_ADDRESS = r"[^\n@]*[^\s@]@[^\s@]+"
DRIVERS = {
    "sqlite": "sqlite",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}


class Kind(NamedTuple):
    """What the text of a setting must look like, and what it becomes.

    expected: what belongs there, to follow the words "must be".
    parse: makes the value, and raises ValueError for what is not `expected`; paths are relative to the folder.
    """

    expected: str
    parse: Callable[[str, Path], Any]


def whole(low: int, high: int) -> Kind:
    """Return the kind of a whole number within a range."""

    def parse(text: str, _folder: Path) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind(f"a whole number from {low} to {high}", parse)


def number(low: float, high: float, unit: str, factor: float = 1.0) -> Kind:
    """Return the kind of a number of some unit, fractions allowed; the value is that number times `factor`."""

    def parse(text: str, _folder: Path) -> float:
        if not re.fullmatch(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)", text) or not low <= float(text) <= high:
            raise ValueError
        return float(text) * factor

    return Kind(f"a number of {unit} from {low:g} to {high:g}", parse)


def size(low: int, high: int) -> Kind:
    """Return the kind of a number of bytes within a range, also in KiB, MiB or GiB."""

    def parse(text: str, _folder: Path) -> int:
        match = re.fullmatch(r"([0-9]{1,18})\s*([KMG]iB)?", text, re.IGNORECASE)
        if match is None:
            raise ValueError
        found = int(match[1]) * SIZES[(match[2] or "").lower()]
        if not low <= found <= high:
            raise ValueError
        return found

    return Kind(f"a size in bytes, KiB, MiB or GiB from {size_text(low)} to {size_text(high)}, such as 64 MiB", parse)


def choice(*words: str) -> Kind:
    """Return the kind of one of a few words."""

    def parse(text: str, _folder: Path) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return Kind("one of " + ", ".join(words), parse)


def text_line(expected: str = "one line of text", pattern: str = ".*") -> Kind:
    """Return the kind of one line of text, which a pattern may restrict."""

    def parse(text: str, _folder: Path) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Kind(expected, parse)


def several(expected: str, pattern: str) -> Kind:
    """Return the kind of texts separated by commas, each of which meets the pattern."""

    def parse(text: str, _folder: Path) -> tuple[str, ...]:
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        if not all(re.fullmatch(pattern, part) for part in parts):
            raise ValueError
        return parts

    return Kind(expected, parse)


def _flag(text: str, _folder: Path) -> bool:
    if text.lower() in {"true", "yes", "on", "1"}:
        return True
    if text.lower() in {"false", "no", "off", "0"}:
        return False
    raise ValueError


def _folder(text: str, folder: Path) -> Path:
    """Return an absolute path; a relative one is below the file that names it, ``~`` is the user's home."""
    if not text or "\n" in text:
        raise ValueError
    return Path(os.path.abspath(folder / os.path.expanduser(text)))  # noqa: PTH100, PTH111 - symlinks stay


def _database_url(text: str, folder: Path) -> str:
    """Return the URL with the driver this program uses; a relative SQLite file is below the ini's folder."""
    scheme, separator, rest = text.partition("://")
    dialect, _, driver = scheme.lower().partition("+")
    if not separator or dialect not in DRIVERS or "\n" in text:
        raise ValueError
    if dialect != "sqlite":
        # Another driver in the URL is replaced too: the original's were Python 2's, and only ours is tested.
        if not rest.strip("/"):
            raise ValueError
        return f"{DRIVERS[dialect]}://{rest}"
    path, mark, options = rest.partition("?")
    if driver not in {"", "pysqlite"} or not path.startswith("/") or path[1:] in {"", ":memory:"}:
        raise ValueError("the URL of a database file, such as sqlite:////var/lib/hqueue/hqserver.db")
    return f"sqlite:///{_folder(path[1:], folder)}{mark}{options}"


def _umask(text: str, _folder: Path) -> int | None:
    """Return a file mode mask; None: keep the daemon's own."""
    if not re.fullmatch(r"(0o?)?[0-7]{1,3}|", text):
        raise ValueError
    return int(text.lower().replace("o", ""), 8) if text else None


class Address(NamedTuple):
    """Where a server is; the port is None when it was not said."""

    host: str
    port: int | None
    login: str = ""  # user:password, for a reverse proxy that asks for them; never shown

    @property
    def authorization(self) -> str:
        """Return the header that carries the login, "" without one."""
        return f"Basic {b64encode(self.login.encode()).decode()}" if self.login else ""


def _server_address(text: str, _folder: Path) -> Address:
    scheme, separator, rest = text.partition("://")
    if not separator:
        rest = text
    elif scheme.lower() != "http":
        raise ValueError
    login, _, rest = re.sub(r"(/RPC2)?/*$", "", rest).rpartition("@")
    match = (
        re.fullmatch(r"\[([0-9A-Fa-f:.]+(?:%\w+)?)\](?::([0-9]{1,5}))?", rest)
        or re.fullmatch(r"([^\s/@:\[\]]+)(?::([0-9]{1,5}))?", rest)
        # an IPv6 address without brackets
        or re.fullmatch(r"([0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)()", rest)
    )
    if match is None or not 0 < int(match[2] or 1) <= 65535:
        raise ValueError
    return Address(match[1], int(match[2]) if match[2] else None, unquote(login))


FLAG: Final = Kind("true or false", _flag)
FOLDER: Final = Kind("the path of a folder", _folder)
DATABASE_URL: Final = Kind(
    "a URL such as sqlite:////var/lib/hqueue/hqserver.db, postgresql://user:password@host/name or mysql://...",
    _database_url,
)
UMASK: Final = Kind("octal digits from 000 to 777, such as 002", _umask)
SERVER_ADDRESS: Final = Kind("a host, host:port or a URL such as http://farmserver:5000", _server_address)


def size_text(count: int) -> str:
    """Return bytes in the largest unit that divides them."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % SIZES[unit.lower()] == 0:
            return f"{count // SIZES[unit.lower()]} {unit}"
    return f"{count} bytes"


def hide(text: str) -> str:
    """Return asterisks for a text that is all secret."""
    return "***" if text else ""


def hide_in_url(text: str) -> str:
    """Return a database URL with asterisks for its password."""
    # To the last @: an unescaped one in the password must not leave half of it readable.
    text = re.sub(r"((?:^|//)[^:/@]*:)(?!//).*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*(?:password|passwd|pwd)=)[^&]*", r"\1***", text, flags=re.IGNORECASE)
