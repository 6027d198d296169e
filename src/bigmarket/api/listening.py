"""The sockets to listen on."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from bigmarket.errors import Trouble
from bigmarket.settings import Settings

log = structlog.get_logger(__name__)

#: Elsewhere a second socket on a port gets all connections or none: workers share one instead.
SPREADS = sys.platform == "linux"


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket to listen on: the address is ours from now on, but nobody is let in before the server is ready.

    Raises ``Trouble``, with the fix, when the address cannot be listened on.
    """
    with bound(settings) as listener:
        yield listener


@contextmanager
def bound(settings: Settings, *, shared: bool = False) -> Iterator[socket.socket]:
    """A socket bound to the address; with ``shared`` others may be bound to it too. Raises ``Trouble``."""
    host, port = settings.host, settings.port
    try:
        listener = _bound(host, port, shared=shared)
    except OSError as error:
        raise Trouble(f"Cannot listen on {host}, port {port}: {error.strerror}. {_fix(error, port)}") from error
    with listener:
        yield listener


def url_of(settings: Settings) -> str:
    """Where clients find the server."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def warn_if_open(settings: Settings) -> None:
    """Say so when nobody needs a key."""
    if not settings.server_keys:
        log.warning(
            "THE API IS OPEN: anyone on this machine can draw for any user and arm activities. "
            "Set BIGMARKET_SERVER_KEYS to change that.",
            listens_on=settings.host,
        )


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _fix(error: OSError, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return "Set BIGMARKET_HOST to an address of this machine."
    if isinstance(error, PermissionError):
        return "Set BIGMARKET_PORT to a port above 1023."
    return f"Stop what uses it, or set BIGMARKET_PORT to another port, such as {port % 65_535 + 1}."
