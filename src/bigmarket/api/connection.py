"""Bounds on connections that uvicorn leaves open: how many, how long and how large a request's head may be."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bigmarket.api.asgi import Receive, Scope, Send
from bigmarket.api.hot import error_reply
from bigmarket.errors import Overloaded

SPARE = 256  # connections over the bound that are told so; the rest are dropped
HEAD_BYTES_MAX = 32 << 10
HEAD_SECONDS = 10.0  # for the first request's head to come


class BoundedConnection(HttpToolsProtocol):
    """A connection of ``bounded``."""

    connections_max: int
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve it, tell it that there are too many, or drop it."""
        super().connection_made(transport)
        too_many = len(self.connections) - self.connections_max
        if too_many > SPARE:
            transport.abort()
        elif too_many > 0:
            self.app = overfull
        self._timer = self.loop.call_later(HEAD_SECONDS, self._expect_a_request)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless it is a head without end."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def _expect_a_request(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def bounded(connections_max: int) -> type[BoundedConnection]:
    """Connections of which so many are served; each beyond them is answered ``overloaded`` and closed."""
    return type("Connection", (BoundedConnection,), {"connections_max": connections_max})


async def overfull(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI: what a connection is told that is one too many."""
    del scope, receive
    reply = error_reply(Overloaded("Too many connections are open; nothing was spent. Try again in a moment."))
    headers = [*reply.headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
