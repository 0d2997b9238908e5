"""Keeps web pages of strangers from using a farm's ports through the browsers of people who can reach them.

A browser sends what any page tells it to, and says so in headers that no page can change. Programs send none of those.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPES: Final = frozenset({"text/xml", "application/xml"})
_AUTHORITY: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(?::([0-9]{1,5}))?")
_USUAL_PORTS: Final = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Door:
    """What a port knows of itself.

    names: of this machine, besides `localhost`; its addresses need not be known.
    allowed_hosts: other names under which browsers reach it.
    public_url: where its own page is reached through a proxy, or nothing.
    ini: the file that has those two settings, or nothing where there are none.
    """

    names: frozenset[str] = frozenset()
    allowed_hosts: tuple[str, ...] = ()
    public_url: str = ""
    ini: str = ""


def names_of_this_machine() -> frozenset[str]:
    """Return the names under which other machines may know this one."""
    name = _plain(socket.gethostname())
    return frozenset({name, name.partition(".")[0], _plain(socket.getfqdn())})


def refusal(door: Door, method: str, path: str, header: Callable[[str], str]) -> str:
    """Return why a request is not taken, in one sentence; "" when it is.

    header: returns what the request says under a name, "" where it says nothing.
    """
    kind = header("content-type").partition(";")[0].strip().lower()
    if method == "POST" and kind not in _TYPES:
        return f"a call is posted as text/xml, not as {kind[:60] or 'nothing in particular'}"
    origin, site = header("origin"), header("sec-fetch-site").strip().lower()
    if not origin and not site:
        return ""  # no browser
    host = header("host")
    if (method == "POST" or path != "/health") and not _is_known(door, host):
        return _unknown_host(door, host)
    return _foreign_page(door, host, origin, site) if method == "POST" else ""


def _foreign_page(door: Door, host: str, origin: str, site: str) -> str:
    if site not in {"", "same-origin", "none"}:
        return f"this call comes from another site's page (Sec-Fetch-Site: {site[:60]})"
    own = {_origin(f"http://{host}"), _origin(door.public_url)} - {""}
    if origin and _origin(origin) not in own:
        hint = f"; public_url in {door.ini} says where its own page is behind a proxy" if door.ini else ""
        return f"this call comes from a page of {origin[:200]}, which is not this server{hint}"
    return ""


def _is_known(door: Door, host: str) -> bool:
    found = _AUTHORITY.fullmatch(host.strip())
    if found is None:
        return False
    name = _plain(found[1])
    allowed = {"localhost", *door.names, *map(_plain, door.allowed_hosts), _host_of(door.public_url)} - {""}
    return name in allowed or _is_address(name)


def _unknown_host(door: Door, host: str) -> str:
    sentence = f"this request is for {host[:200] or 'no host'}, which is none of this machine's names"
    found = _AUTHORITY.fullmatch(host.strip())
    if found is None or not door.ini:
        return sentence
    line = ", ".join([*door.allowed_hosts, _plain(found[1])])
    return f"{sentence}; if browsers are to use it, the line in {door.ini} is: allowed_hosts = {line[:500]}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    return name.strip("[]").removesuffix(".").lower()


def _host_of(url: str) -> str:
    return _origin(url).partition("://")[2].rpartition(":")[0].strip("[]")


def _origin(url: str) -> str:
    """Return scheme, host and port as browsers compare them, "" for what has none."""
    scheme, separator, rest = url.strip().lower().partition("://")
    found = _AUTHORITY.fullmatch(rest.partition("/")[0])
    if not separator or found is None or scheme not in _USUAL_PORTS:
        return ""
    return f"{scheme}://{found[1].removesuffix('.')}:{found[2] or _USUAL_PORTS[scheme]}"
