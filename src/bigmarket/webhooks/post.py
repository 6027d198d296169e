"""One POST to one URL: a connection of its own, to an address that was judged, with a bound on everything.

No redirect is followed and no proxy of the environment used: both would lead past the guard.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, NamedTuple

import httpcore

from bigmarket.webhooks.address import AddressRefused, Allowed, Resolve, Target, look_up, reachable

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
TOTAL_SECONDS = 15.0
BODY_BYTES_MAX = 4_096
EXCERPT_CHARACTERS = 120

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffd]+")


class Reply(NamedTuple):
    """What came back: ``excerpt`` is the beginning of its body, ``wait_ms`` what Retry-After asks for."""

    status: int
    excerpt: str
    wait_ms: int

    @property
    def phrase(self) -> str:
        """``503 Service Unavailable``."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)


class NoReply(Exception):
    """Nothing came back; whether the receiver took it is not known."""


class Poster:
    """Posts; for many threads at once. ``resolve`` looks names up."""

    def __init__(
        self,
        *,
        allowed: Allowed,
        resolve: Resolve = look_up,
        context: ssl.SSLContext | None = None,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        self.allowed = allowed
        self._resolve = resolve
        self._given_context = context
        self._total_seconds = total_seconds

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """Trusts what the system trusts, or SSL_CERT_FILE; reading that takes a while, so only who posts does."""
        return self._given_context or httpcore.default_ssl_context()

    def post(self, target: Target, *, headers: Mapping[str, str], body: bytes, now_ms: int) -> Reply:
        """Send it. Raises NoReply with the reason."""
        all_headers = [("host", target.netloc), ("content-length", str(len(body))), *headers.items()]
        give_up_at = time.monotonic() + self._total_seconds
        backend = _Guarded(self.allowed, self._resolve, give_up_at)
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        timeouts = {"connect": CONNECT_SECONDS, "read": READ_SECONDS, "write": READ_SECONDS}
        try:
            with (
                httpcore.HTTPConnection(url.origin, ssl_context=self._context, network_backend=backend) as connection,
                connection.stream(
                    "POST",
                    url,
                    headers=all_headers,
                    content=body,
                    extensions={"timeout": timeouts},
                ) as response,
            ):
                fields = {name.lower(): value for name, value in response.headers}
                wait_ms = _wait_ms(fields.get(b"retry-after", b""), now_ms)
                return Reply(response.status, _excerpt(response), wait_ms)
        except AddressRefused as refused:
            raise NoReply(str(refused)) from refused
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise NoReply(_told(error)) from error


class _Guarded(httpcore.NetworkBackend):
    """Connects to judged addresses only; nothing goes on after ``give_up_at``."""

    def __init__(self, allowed: Allowed, resolve: Resolve, give_up_at: float) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._give_up_at = give_up_at
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first of the host's addresses that answers."""
        addresses = reachable(host, port, allowed=self._allowed, resolve=self._resolve)
        for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
            try:
                seconds = _left(self._give_up_at, timeout, httpcore.ConnectTimeout)
                stream = self._sockets.connect_tcp(address, port, seconds, local_address, socket_options)
                return _Bounded(stream, self._give_up_at)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not left:
                    raise
        raise AssertionError("a name without address is refused")


class _Bounded(httpcore.NetworkStream):
    """A stream whose every step must end by ``give_up_at``: nobody can keep us by sending a byte at a time."""

    def __init__(self, stream: httpcore.NetworkStream, give_up_at: float) -> None:
        self._stream = stream
        self._give_up_at = give_up_at

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most ``max_bytes``."""
        return self._stream.read(max_bytes, _left(self._give_up_at, timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of it."""
        self._stream.write(buffer, _left(self._give_up_at, timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same stream, encrypted; the certificate is verified for the name that was asked for."""
        seconds = _left(self._give_up_at, timeout, httpcore.ConnectTimeout)
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, seconds), self._give_up_at)

    def get_extra_info(self, info: str) -> Any:
        """What the socket knows."""
        return self._stream.get_extra_info(info)


def _left(give_up_at: float, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
    """Seconds for the next step."""
    left = give_up_at - time.monotonic()
    if left <= 0:
        raise late("it took too long in all")
    return left if timeout is None else min(left, timeout)


def _excerpt(response: httpcore.Response) -> str:
    """The beginning of the body, as far as it came; the status counts even if the rest never comes."""
    body = b""
    try:
        for part in response.iter_stream():
            body += part
            if len(body) >= BODY_BYTES_MAX:
                break
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
        pass
    text = body[: EXCERPT_CHARACTERS * 4].decode(errors="replace")
    return _UNPRINTABLE.sub(" ", text).strip()[:EXCERPT_CHARACTERS]


def _wait_ms(retry_after: bytes, now_ms: int) -> int:
    """What a Retry-After asks for, as seconds or as a date; 0 when it says nothing."""
    text = retry_after.decode("ascii", errors="replace").strip()
    if text.isdecimal() and text.isascii():
        return int(text[:9]) * 1_000
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0
    moment_ms = int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000)
    return max(0, moment_ms - now_ms)


def _told(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, httpcore.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpcore.TimeoutException):
        return "no answer in time"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
