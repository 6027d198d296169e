"""``POST /api/v1/raffle/activity/draw``, the hot route: raw ASGI in front of everything else.

Headers, body, lane, answer: one coroutine, no routing, no middleware, one future. The lanes answer from their own
threads, a whole batch with one call into the event loop; one sweeper, not a timer per request, ends what takes too
long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import structlog

from bigmarket.api.auth import ServerKeys
from bigmarket.api.errors import JSON, Unreadable, broken, headers_of, refusal, status_of, success
from bigmarket.api.metrics import DrawMeter
from bigmarket.api.reader import DRAW_BYTES_MAX, ClientGone, Int64, JsonReader, Receive, read_body
from bigmarket.app import World
from bigmarket.draw import Answer, Drawn
from bigmarket.errors import BigmarketError, OutcomeUnknown
from bigmarket.lanes import Settled
from bigmarket.text import clean_text

log = structlog.get_logger(__name__)

DRAW_PATH = "/api/v1/raffle/activity/draw"
READ_SECONDS = 10.0
SWEEP_SECONDS = 0.05
USER_ID_MAX = 128
REQUEST_ID_MAX = 64

Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class DrawIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, rename="camel"):
    """A draw. With a ``requestId`` of the caller's own choice a repeat gets the same answer and spends nothing."""

    user_id: str
    activity_id: Int64
    request_id: str | None = None


class DrawOut(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What was won; ``awardIndex`` is the award's place on the wheel, from 1."""

    award_id: int
    award_title: str
    award_index: int


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Headers
    body: bytes


_read_draw = JsonReader(DrawIn).decode

_LATE_WITH_ID = (
    "The draw is late: whether it was made is not known yet. Repeat it with the same requestId to learn it."
)
_LATE_WITHOUT_ID = (
    "The draw is late: whether it was made is not known yet. Look at the user's account before drawing again; "
    "with a requestId a repeat would be safe."
)


class Waiting:
    """Draws that wait for their lane, oldest first, and requests whose body is still on its way."""

    def __init__(self, *, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draws: deque[tuple[float, asyncio.Future[Answer | None]]] = deque()
        self._reading: dict[asyncio.Task[Any], float] = {}  # in order of arrival, as dicts are
        self._cut: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Begin to watch, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._sweep()

    def add(self) -> asyncio.Future[Answer | None]:
        """A new draw's future; its result is None when the deadline passed first."""
        loop = self._loop
        assert loop is not None, "start() was called"
        future: asyncio.Future[Answer | None] = loop.create_future()
        self._draws.append((loop.time() + self._deadline_seconds, future))
        return future

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """The body of a draw; ``Unreadable`` with 408 when it takes too long to come."""
        loop, task = self._loop, asyncio.current_task()
        assert loop is not None
        assert task is not None
        self._reading[task] = loop.time() + READ_SECONDS
        try:
            return await read_body(receive, headers, bytes_max=DRAW_BYTES_MAX)
        except asyncio.CancelledError:
            if task not in self._cut:
                raise
            task.uncancel()
            raise Unreadable(408, "The body did not come in time.") from None
        finally:
            del self._reading[task]
            self._cut.discard(task)

    def hand_over(self, settled: Settled) -> None:
        """Called in a lane's thread with a batch of answers: one call into the loop for all of them."""
        loop = self._loop
        assert loop is not None
        try:
            loop.call_soon_threadsafe(_resolve, settled)
        except RuntimeError:  # the loop is closed: the server stopped waiting for these
            log.warning("answers came after the server had stopped", draws=len(settled))

    def _sweep(self) -> None:
        loop = self._loop
        assert loop is not None
        now = loop.time()
        draws = self._draws
        while draws and (draws[0][1].done() or draws[0][0] <= now):
            future = draws.popleft()[1]
            if not future.done():
                future.set_result(None)
        for task, deadline in self._reading.items():
            if deadline > now:
                break
            if task not in self._cut:
                self._cut.add(task)
                task.cancel()
        loop.call_later(SWEEP_SECONDS, self._sweep)


def _resolve(settled: Settled) -> None:
    for future, answer in settled:
        if not future.done():  # not swept, not cancelled
            future.set_result(answer)


class DrawRoute:
    """ASGI: answers the draw itself and leaves every other request to ``app``."""

    def __init__(
        self,
        app: App,
        *,
        world: World,
        waiting: Waiting,
        keys: ServerKeys,
        meter: DrawMeter,
        origins: Sequence[str],
    ) -> None:
        self._app = app
        self._submit = world.lanes.submit
        self._waiting = waiting
        self._keys = keys
        self._meter = meter
        self._origins = frozenset(origin.encode() for origin in origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One request."""
        if scope["type"] == "http" and scope["path"] == DRAW_PATH and scope["method"] == "POST":
            return self._answer(scope, receive, send)
        return self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        headers = dict(scope["headers"])
        try:
            reply = drawn_reply(await self._draw(headers, receive))
        except ClientGone:
            return
        except BigmarketError as error:
            self._meter.refused[error.code] += 1
            reply = error_reply(error)
        except Exception:
            log.exception("draw request broke")
            fault = broken()
            self._meter.refused[fault.code] += 1
            reply = error_reply(fault)
        origin = headers.get(b"origin")
        if origin is not None:
            reply.headers.extend(self._cors(origin))
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})
        self._meter.answered(perf_counter() - started)

    async def _draw(self, headers: Mapping[bytes, bytes], receive: Receive) -> Drawn:
        """Read, submit, wait. Raises whatever refuses the draw."""
        self._keys.check(headers.get(b"authorization"))
        asked = _read_draw(await self._waiting.read(receive, headers))
        user_id = clean_text(asked.user_id, name="userId", max_length=USER_ID_MAX)
        request_id = asked.request_id
        if request_id is not None:
            request_id = clean_text(request_id, name="requestId", max_length=REQUEST_ID_MAX)
        future = self._waiting.add()
        try:
            self._submit(user_id, asked.activity_id, request_id, reply=future)
        except BigmarketError:
            future.cancel()
            raise
        answer = await future
        if type(answer) is Drawn:
            return answer
        if answer is None:
            raise OutcomeUnknown(_LATE_WITHOUT_ID if request_id is None else _LATE_WITH_ID)
        assert isinstance(answer, BigmarketError)
        raise answer

    def _cors(self, origin: bytes) -> Headers:
        if b"*" in self._origins:
            allowed: Headers = [(b"access-control-allow-origin", b"*")]
        elif origin in self._origins:
            allowed = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        else:
            return []
        return [*allowed, (b"access-control-expose-headers", EXPOSED)]


EXPOSED = b"Bigmarket-Order-Id, Bigmarket-Outcome, Retry-After"


def drawn_reply(drawn: Drawn) -> Reply:
    """The answer to a draw that was made."""
    body, length = _body_of(drawn.award_id, drawn.award_title, drawn.award_index)
    headers = [
        (b"content-type", JSON),
        (b"content-length", length),
        (b"bigmarket-order-id", drawn.order_id.encode()),
    ]
    return Reply(200, headers, body)


def error_reply(error: BigmarketError) -> Reply:
    """The answer to a request that was refused or failed."""
    body = refusal(error)
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode()), *headers_of(error)]
    return Reply(status_of(error), headers, body)


@lru_cache(maxsize=4096)
def _body_of(award_id: int, award_title: str, award_index: int) -> tuple[bytes, bytes]:
    """The encoded envelope and its length: there are only as many as there are awards."""
    body = success(DrawOut(award_id, award_title, award_index))
    return body, str(len(body)).encode()
