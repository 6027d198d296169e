"""The hot calls: raw ASGI in front of everything else, one function for all of them.

Headers, body, limits, lane, answer: one coroutine, no routing, no middleware, one future. What tells one call from
another is a ``HotCall``; v1/hot.py has the table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import structlog

from bigmarket.api.asgi import App, Headers, Receive, Scope, Send
from bigmarket.api.auth import ANYBODY, Caller, Callers
from bigmarket.api.errors import JSON, Degraded, broken, headers_of, refusal, status_of
from bigmarket.api.limits import Limits
from bigmarket.api.metrics import CallMeter
from bigmarket.api.reader import ClientGone
from bigmarket.api.waiting import Waiting
from bigmarket.app import World
from bigmarket.errors import BigmarketError, OutcomeUnknown
from bigmarket.lanes import LaneSet

log = structlog.get_logger(__name__)

EXPOSED = b"Bigmarket-Order-Id, Bigmarket-Outcome, Bigmarket-Next-Cursor, Retry-After"

Words = tuple[Any, ...]


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Headers
    body: bytes


#: What a hot call reads its words from: who calls, the headers, the query, the body.
Read = Callable[[Caller, Mapping[bytes, bytes], bytes, bytes], Words]


@dataclass(frozen=True, slots=True)
class HotCall:
    """One call: ``read`` makes the words that its lanes take, the user's id first; ``reply`` answers what was made.

    ``repeatable`` tells of the words whether a repeat of the same request is known as one. Of a partner's call
    ``read`` checks the app; it has no limits. ``degrades``: refused while draws are switched off. ``refusals``: the
    data that go with an error of that type.
    """

    name: str
    lanes: LaneSet[Any]
    read: Read
    reply: Callable[[Any], Reply]
    repeatable: Callable[[Words], bool]
    degrades: bool = False
    of_partners: bool = False
    refusals: Mapping[type[BigmarketError], Any] = field(default_factory=dict)
    meter: CallMeter = field(default_factory=CallMeter)


class HotCalls:
    """ASGI: answers the hot calls itself, by path, and leaves every other request to ``app``."""

    def __init__(
        self,
        app: App,
        calls: Mapping[str, HotCall],
        *,
        world: World,
        waiting: Waiting,
        callers: Callers,
        limits: Limits,
        origins: Sequence[str],
    ) -> None:
        self._app = app
        self._calls = calls
        self._live = world.live
        self._waiting = waiting
        self._callers = callers
        self._limits = limits
        self._origins = frozenset(origin.encode() for origin in origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            call = self._calls.get(scope["path"])
            if call is not None:
                return self._answer(call, scope, receive, send)
        return self._app(scope, receive, send)

    async def _answer(self, call: HotCall, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        headers = dict(scope["headers"])
        try:
            reply = call.reply(await self._made(call, scope, headers, receive))
        except ClientGone:
            return
        except BigmarketError as error:
            call.meter.refused[error.code] += 1
            reply = error_reply(error, data=call.refusals.get(type(error)))
        except Exception:
            log.exception("hot call broke", call=call.name)
            fault = broken()
            call.meter.refused[fault.code] += 1
            reply = error_reply(fault)
        origin = headers.get(b"origin")
        if origin is not None:
            reply.headers.extend(self._cors(origin))
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})
        call.meter.answered(perf_counter() - started)

    async def _made(self, call: HotCall, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> Any:
        """Admit, read, submit, wait. Raises whatever refuses the request."""
        caller = ANYBODY if call.of_partners else self._callers.admit(scope["path"], headers.get(b"authorization"))
        body = await self._waiting.read(receive, headers)
        words = call.read(caller, headers, scope["query_string"], body)
        switches = self._live.switches
        if call.degrades and switches.degraded:
            raise Degraded("Draws are switched off for now; nothing was spent. Try again later.")
        if switches.limited and not call.of_partners:
            await self._limits.spend(switches, scope, caller, user_id=words[0])
        future = self._waiting.add()
        try:
            call.lanes.submit(*words, reply=future)
        except BigmarketError:
            future.cancel()
            raise
        answer = await future
        if answer is None:
            raise _late(call, words)
        if isinstance(answer, BigmarketError):
            raise answer
        return answer

    def _cors(self, origin: bytes) -> Headers:
        if b"*" in self._origins:
            allowed: Headers = [(b"access-control-allow-origin", b"*")]
        elif origin in self._origins:
            allowed = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        else:
            return []
        return [*allowed, (b"access-control-expose-headers", EXPOSED)]


def error_reply(error: BigmarketError, *, data: object = None) -> Reply:
    """The answer to a request that was refused or failed."""
    body = refusal(error, data=data)
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode()), *headers_of(error)]
    return Reply(status_of(error), headers, body)


def _late(call: HotCall, words: Words) -> OutcomeUnknown:
    late = f"The {call.lanes.noun} is late: whether it was made is not known yet."
    if call.repeatable(words):
        return OutcomeUnknown(f"{late} Repeat it as it was, with the same requestId if it has one, to learn it.")
    return OutcomeUnknown(
        f"{late} Look at the user's account before the next; with a requestId a repeat would be safe."
    )
