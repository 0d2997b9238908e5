"""Who may be told: the domains that mail goes to, and the hosts and addresses that jobs' webhooks call."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from hqueue.config import Policy

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # how networks with IPv6 alone reach IPv4


def complaints(policy: Policy, email_to: str, webhook: str | None) -> list[str]:
    """Return a line for each address of a job that will not be told anything, whatever happens to the job."""
    lines = []
    addresses = email_to.split(",") if email_to else []
    if addresses and not policy.smtp_server:
        lines.append("emailTo: no mail is sent, for the server has no smtp_server")
    elif refused := [each for each in addresses if not takes_mail(policy, each)]:
        lines.append(f"emailTo: no mail to {', '.join(refused)}, whose domain is not in email_domains")
    if webhook and (why := refuses_webhook(policy, webhook)):
        lines.append(f"webhook: not called, {why}")
    return lines


def takes_mail(policy: Policy, address: str) -> bool:
    """Tell whether mail may go to an address."""
    domain = address.rpartition("@")[2].strip(" >").lower()
    return not policy.email_domains or domain in {each.lower() for each in policy.email_domains}


def refuses_webhook(policy: Policy, url: str) -> str:
    """Return why a job's webhook is not called, "" where it is."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "for it is no URL"
    if parts.scheme not in {"http", "https"} or not host or "@" in parts.netloc or not url.isprintable() or " " in url:
        return "for it is no plain http or https URL"
    if host.lower() in {each.lower() for each in policy.webhook_hosts}:
        return ""
    named = _address(host)
    if named is not None and _is_named(policy, named):
        return ""
    return f"for {host} is not in webhook_hosts"


def may_call(policy: Policy, address: str) -> bool:
    """Tell whether a job's webhook may be called at an address: never inside, unless the address is named."""
    found = _address(address)
    if found is None:
        return False
    return _is_named(policy, found) or all(each.is_global and not each.is_multicast for each in _meant(found))


def _is_named(policy: Policy, address: Address) -> bool:
    return any(address in network for network in _networks(policy.webhook_hosts))


def _meant(address: Address) -> list[Address]:
    """Return an IPv6 address and the IPv4 address that it stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address, *filter(None, [address.sixtofour, *(address.teredo or ())])]


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _networks(names: tuple[str, ...]) -> tuple[Network, ...]:
    """Return those of the names that are addresses or networks."""
    found: list[Network] = []
    for name in names:
        try:
            found.append(ipaddress.ip_network(name, strict=False))
        except ValueError:
            continue
    return tuple(found)
