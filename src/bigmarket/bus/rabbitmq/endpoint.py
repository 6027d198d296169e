"""Where the broker is, from a URL that holds a password."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from bigmarket.errors import BadInput

_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``str()`` and ``repr()`` leave the password out."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool

    def __str__(self) -> str:
        return f"{self.address}, vhost {self.vhost}"

    @property
    def address(self) -> str:
        """``host:port``, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint_of(url: str) -> Endpoint:
    """Read ``amqp://user:password@host:port/vhost``; ``amqps`` is TLS, no vhost is ``/``.

    Raises BadInput, which never repeats the URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise BadInput("The broker's URL must read amqp://user:password@host:port/vhost (amqps:// for TLS).")
    return Endpoint(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        tls=parts.scheme == "amqps",
    )
