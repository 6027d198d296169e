"""Which addresses may be called: public ones, and those of the operator's own network only where he says so.

Where a name leads is decided by whoever runs that name. So it is looked up once, all its addresses are judged, and
the connection goes to one of those very addresses: a second look-up could lead elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from bigmarket.errors import BadInput, BigmarketError

URL_CHARACTERS_MAX = 512
ADDRESSES_MAX = 8  # of a name, tried one after the other

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_METADATA = frozenset(map(ipaddress.ip_address, ("168.63.129.16",)))  # public by number; the rest are link-local


class AddressRefused(BigmarketError):
    """The name leads to an address that may not be called; nothing was sent."""

    code = "address_refused"


class Allowed(NamedTuple):
    """What may be called although it is private: ``hosts`` by name, ``networks`` by address."""

    hosts: Collection[str] = ()
    networks: Collection[Network] = ()


class Target(NamedTuple):
    """A URL in parts; ``path`` has the query with it."""

    scheme: str
    host: str
    port: int
    path: str
    netloc: str


def read_url(url: str, *, allowed: Allowed) -> Target:
    """An endpoint's URL. Raises BadInput with the reason when it is none that may be called."""
    if len(url) > URL_CHARACTERS_MAX or _VISIBLE.fullmatch(url) is None:
        raise BadInput(
            f"The URL must have 1 to {URL_CHARACTERS_MAX} ASCII characters and no space; "
            "write an international name in its xn-- form."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadInput(f"The URL cannot be read: {error}.") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise BadInput("The URL must begin with https://.")
    if not host or _HOST.fullmatch(host) is None:
        raise BadInput("The URL must name a host.")
    if "@" in parts.netloc:
        raise BadInput("The URL must hold no user name or password; calls are signed instead.")
    if parts.fragment:
        raise BadInput("The URL must have no fragment (#...); it would never be sent.")
    if parts.scheme == "http" and not _may_be_plain(host, allowed):
        raise BadInput(f"The URL must begin with https://; for http, list {host} in BIGMARKET_WEBHOOK_ALLOW.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path, parts.netloc)


def _may_be_plain(host: str, allowed: Allowed) -> bool:
    if host in allowed.hosts:
        return True
    try:
        return _listed(ipaddress.ip_address(host), allowed)
    except ValueError:
        return False


def reachable(host: str, port: int, *, allowed: Allowed, resolve: Resolve) -> Sequence[str]:
    """The addresses of ``host`` to connect to, each judged. Raises AddressRefused, or OSError of the look-up."""
    found = list(dict.fromkeys(resolve(host, port)))[:ADDRESSES_MAX]
    if not found:
        raise AddressRefused(f"{host} has no address.")
    for text in found:
        address = ipaddress.ip_address(text)
        if _listed(address, allowed):
            continue
        if (fault := fault_of(address, private_ok=host in allowed.hosts)) is not None:
            raise AddressRefused(
                f"{host} leads to {address}, which is {fault}; list the host or network in BIGMARKET_WEBHOOK_ALLOW "
                "if it is meant."
            )
    return found


def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system resolves it. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host} is no name") from error
    return [str(sockaddr[0]) for *_, sockaddr in found]


def fault_of(address: Address, *, private_ok: bool = False) -> str | None:
    """Why an address may not be called; None when it may. ``private_ok``: an operator's own network is meant."""
    if (inner := _embedded(address)) is not None:
        fault = fault_of(inner, private_ok=private_ok)
        return None if fault is None else f"a form of {inner}, {fault}"
    if address.is_loopback or (address.is_private and not any(met(address) for _, met in _NEVER)):
        return None if private_ok else "loopback" if address.is_loopback else "private"
    return next((fault for fault, met in _NEVER if met(address)), None)


#: What only a listed network makes right.
_NEVER: Sequence[tuple[str, Callable[[Address], bool]]] = (
    ("a cloud's metadata service", lambda address: address in _METADATA),
    ("no address at all", lambda address: address.is_unspecified),
    ("multicast", lambda address: address.is_multicast),
    ("link-local", lambda address: address.is_link_local),
    ("reserved", lambda address: address.is_reserved),
    ("site-local", lambda address: getattr(address, "is_site_local", False)),
    ("not public", lambda address: not address.is_global and not address.is_private),
)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for, by whatever mechanism would carry it there."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _listed(address: Address, allowed: Allowed) -> bool:
    return any(address in network for network in allowed.networks)
