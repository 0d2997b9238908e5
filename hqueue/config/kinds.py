"""What the text of a setting can be: kinds of values, each with its range, its unit and the words for a complaint."""

from __future__ import annotations

import os.path
import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

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


class Kind(Protocol):
    """What the text of a setting must look like, and what it becomes."""

    @property
    def expected(self) -> str:
        """Return what belongs there, to follow the words "must be"."""
        ...

    def parse(self, text: str, folder: Path) -> Any:
        """Return the value; raise ValueError for anything that is not `expected`. Paths are relative to the folder."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number within a range."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        """Return the range in words."""
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, text: str, _folder: Path) -> int:
        """Return the number."""
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not self.low <= int(text) <= self.high:
            raise ValueError
        return int(text)


@dataclass(frozen=True)
class Number:
    """A number of some unit within a range, fractions allowed; the value is that number times `factor`."""

    low: float
    high: float
    unit: str
    factor: float = 1.0

    @property
    def expected(self) -> str:
        """Return unit and range in words."""
        return f"a number of {self.unit} from {self.low:g} to {self.high:g}"

    def parse(self, text: str, _folder: Path) -> float:
        """Return the number, converted."""
        if (
            not re.fullmatch(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)", text)
            or not self.low <= float(text) <= self.high
        ):
            raise ValueError
        return float(text) * self.factor


@dataclass(frozen=True)
class Size:
    """A number of bytes within a range, also in KiB, MiB or GiB."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        """Return the range and an example."""
        return f"a size in bytes, KiB, MiB or GiB from {size_text(self.low)} to {size_text(self.high)}, such as 64 MiB"

    def parse(self, text: str, _folder: Path) -> int:
        """Return the bytes."""
        match = re.fullmatch(r"([0-9]{1,18})\s*([KMG]iB)?", text, re.IGNORECASE)
        if match is None:
            raise ValueError
        size = int(match[1]) * SIZES[(match[2] or "").lower()]
        if not self.low <= size <= self.high:
            raise ValueError
        return size


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    expected = "true or false"

    def parse(self, text: str, _folder: Path) -> bool:
        """Return the truth."""
        if text.lower() in {"true", "yes", "on", "1"}:
            return True
        if text.lower() in {"false", "no", "off", "0"}:
            return False
        raise ValueError


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        """Return all of them."""
        return "one of " + ", ".join(self.words)

    def parse(self, text: str, _folder: Path) -> str:
        """Return the word."""
        if text.lower() not in self.words:
            raise ValueError
        return text.lower()


@dataclass(frozen=True)
class Text:
    """One line of text, which a pattern may restrict."""

    expected: str = "one line of text"
    pattern: str = ".*"

    def parse(self, text: str, _folder: Path) -> str:
        """Return the text as it stands."""
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text


@dataclass(frozen=True)
class Folder:
    """A folder; a relative one is below the folder of the file that names it, ``~`` is the user's home."""

    expected = "the path of a folder"

    def parse(self, text: str, folder: Path) -> Path:
        """Return the absolute path."""
        if not text or "\n" in text:
            raise ValueError
        return Path(os.path.abspath(folder / os.path.expanduser(text)))  # noqa: PTH100, PTH111 - symlinks stay


@dataclass(frozen=True)
class DatabaseUrl:
    """The URL of a database, with the driver this program uses; a relative SQLite file is below the ini's folder."""

    expected = (
        "a URL such as sqlite:////var/lib/hqueue/hqserver.db, postgresql://user:password@host/name or mysql://..."
    )

    def parse(self, text: str, folder: Path) -> str:
        """Return the URL as SQLAlchemy takes it."""
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
        return f"sqlite:///{Folder().parse(path[1:], folder)}{mark}{options}"


@dataclass(frozen=True)
class Several:
    """Texts separated by commas, each of which meets the pattern."""

    expected: str
    pattern: str

    def parse(self, text: str, _folder: Path) -> tuple[str, ...]:
        """Return the texts."""
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        if not all(re.fullmatch(self.pattern, part) for part in parts):
            raise ValueError
        return parts


class Address(NamedTuple):
    """Where a server is; the port is None when it was not said."""

    host: str
    port: int | None
    login: str = ""  # user:password, for a reverse proxy that asks for them; never shown

    @property
    def authorization(self) -> str:
        """Return the header that carries the login, "" without one."""
        return f"Basic {b64encode(self.login.encode()).decode()}" if self.login else ""


@dataclass(frozen=True)
class ServerAddress:
    """A server as host, host:port or URL; a login may stand before the host."""

    expected = "a host, host:port or a URL such as http://farmserver:5000"

    def parse(self, text: str, _folder: Path) -> Address:
        """Return host, port and login."""
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


@dataclass(frozen=True)
class Umask:
    """A file mode mask in octal, or nothing."""

    expected = "octal digits from 000 to 777, such as 002"

    def parse(self, text: str, _folder: Path) -> int | None:
        """Return the mask; None: keep the daemon's own."""
        if not re.fullmatch(r"(0o?)?[0-7]{1,3}|", text):
            raise ValueError
        return int(text.lower().replace("o", ""), 8) if text else None


def size_text(size: int) -> str:
    """Return bytes in the largest unit that divides them."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % SIZES[unit.lower()] == 0:
            return f"{size // SIZES[unit.lower()]} {unit}"
    return f"{size} bytes"


def hide(text: str) -> str:
    """Return asterisks for a text that is all secret."""
    return "***" if text else ""


def hide_in_url(text: str) -> str:
    """Return a database URL with asterisks for its password."""
    # To the last @: an unescaped one in the password must not leave half of it readable.
    text = re.sub(r"((?:^|//)[^:/@]*:)(?!//).*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*(?:password|passwd|pwd)=)[^&]*", r"\1***", text, flags=re.IGNORECASE)
