"""A connection: hot requests answered at once, all others by ASGI, answers in the order of the requests.

And bounds that uvicorn leaves open: how many connections, how long and how large a request's head may be, how much of
what a client sends ahead is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bigmarket.api.asgi import Headers, Receive, Scope, Send
from bigmarket.api.errors import send_error
from bigmarket.api.hot import Head, HotCalls, HotRequest
from bigmarket.errors import Overloaded

SPARE = 256  # connections over the bound that are told so; the rest are dropped
HEAD_BYTES_MAX = 32 << 10
HEAD_SECONDS = 10.0  # for the first request's head to come


class BoundedConnection(HttpToolsProtocol):
    """A connection of ``bounded``.

    uvicorn's ``cycle`` is the request that was read last, and its ``pipeline`` those that wait for their turn, the
    next one rightmost: here a cycle may also be a ``HotRequest``.
    """

    connections_max: int
    hot: HotCalls | None
    _between = True  # requests: what comes next begins one
    _begun_with = b""  # what was read last, if it began a request
    _in_head = True
    _head_bytes = 0
    _stalled: HotRequest | None = None  # answered, but the client does not take its answers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve it, tell it that there are too many, or drop it."""
        super().connection_made(transport)
        self.flow = _InTurn(transport, self)
        too_many = len(self.connections) - self.connections_max
        if too_many > SPARE:
            transport.abort()
        elif too_many > 0:
            self.app, self.hot = overfull, None
        self._idle_since = self.loop.time()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._timer.cancel()
        if isinstance(self.cycle, HotRequest) and self.hot is not None:
            self.hot.waiting.has_read(self.cycle)
        super().connection_lost(exc)

    # --- what is read ---

    def data_received(self, data: bytes) -> None:
        """Read on, unless it is a head without end. A hot request whose head is known goes past the parser."""
        hot = self.hot
        if self._between and hot is not None:
            known = hot.recall(data)
            if known is not None:
                head, body = known
                self._arrive(HotRequest(head, hot, self, body=body))
                return
        self._begun_with = data if self._between else b""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        """A head begins. What ASGI needs of it is made when it turns out to be for ASGI."""
        self._in_head, self._between = True, False
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head, self._head_bytes = False, 0
        hot = self.hot
        call, query = (None, b"") if hot is None else hot.find(self.parser.get_method(), self.url)
        if hot is None or call is None:
            self._by_asgi()
            return
        head = Head(call, query, self.headers, dict(self.headers))
        self._arrive(HotRequest(head, hot, self, keep_alive=self._keeps_alive, expects=self.expect_100_continue))

    def _arrive(self, request: HotRequest) -> None:
        """Begin it, unless an earlier one is not answered yet."""
        former: Any = self.cycle
        self.cycle = request  # type: ignore[assignment]
        if former is None or former.response_complete:
            request.begin()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((request, self.app))  # type: ignore[arg-type]

    @property
    def _keeps_alive(self) -> bool:
        """Whether the connection is to live on after the request that was parsed last."""
        return self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"

    def _by_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if isinstance(self.cycle, HotRequest):
            self.cycle.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        self._between = self._keeps_alive and not self.parser.should_upgrade()
        if isinstance(self.cycle, HotRequest):
            if self._between and self.hot is not None:
                self.hot.learn(self._begun_with, self.cycle)
                self._begun_with = b""
            self.cycle.finish()
        else:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; but never in the place of an answer that an earlier request waits for."""
        last: Any = self.cycle
        if last is None or last.response_complete or (last.more_body and not self.pipeline):
            super().send_400_response(msg)
        elif last.more_body:
            self.transport.close()
        else:
            last.keep_alive = False
            self.flow.pause_reading()

    # --- whose turn it is ---

    def on_response_complete(self) -> None:
        """A request is answered: the next one's turn comes, or the connection is idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        if self.pipeline:
            request, app = self.pipeline.pop()
            if isinstance(request, HotRequest):
                self.loop.call_soon(self._begin, request)  # not at once: thousands may have been sent ahead
            else:
                self._start_asgi_task(request, app)
        self.flow.resume_reading()

    def _begin(self, request: HotRequest) -> None:
        if not self.transport.is_closing():
            request.begin()

    def _watch(self) -> None:
        """Close the connection when a request's head has not come in time; one timer serves for all its requests."""
        cycle: Any = self.cycle
        if self.transport.is_closing():
            return
        seconds = HEAD_SECONDS if cycle is None else self.timeout_keep_alive
        if cycle is None or cycle.response_complete:
            seconds -= self.loop.time() - self._idle_since
        if seconds > 0:
            self._timer = self.loop.call_later(seconds, self._watch)
        else:
            self.transport.close()

    # --- what hot requests need of it ---

    @property
    def peer(self) -> str | None:
        """The address it comes from."""
        return self.client[0] if self.client else None

    @property
    def default_headers(self) -> Headers:
        """What uvicorn puts in every answer."""
        return self.server_state.default_headers

    def write(self, data: bytes) -> None:
        """Send; to a client that is gone, nothing."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def answered(self, request: HotRequest) -> None:
        """That request's answer is written; the next one's turn comes when the client takes what was written."""
        if not request.keep_alive:
            self.transport.close()
        elif self.flow.write_paused:
            self._stalled = request
            self.flow.pause_reading()
            return
        request.response_complete = True
        self.on_response_complete()

    def resume_writing(self) -> None:
        """The client has taken what was written."""
        super().resume_writing()
        request, self._stalled = self._stalled, None
        if request is not None:
            self.answered(request)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Await it beside everything else; a server that stops waits for it."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class _InTurn(FlowControl):
    """Reads nothing more while requests that were sent ahead wait for their turn."""

    def __init__(self, transport: asyncio.Transport, connection: BoundedConnection) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read on, if none waits."""
        if not self._connection.pipeline:
            super().resume_reading()


def bounded(connections_max: int, hot: HotCalls | None) -> type[BoundedConnection]:
    """Connections of which so many are served; each beyond them is answered ``overloaded`` and closed.

    ``hot`` are the calls that they answer themselves.
    """
    return type("Connection", (BoundedConnection,), {"connections_max": connections_max, "hot": hot})


async def overfull(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI: what a connection is told that is one too many."""
    del scope, receive
    full = Overloaded("Too many connections are open; nothing was spent. Try again in a moment.")
    await send_error(full, send, (b"connection", b"close"))
