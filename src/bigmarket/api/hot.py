"""The hot calls, from bytes to bytes: each is answered by the connection it came on, with no task and no framework.

``HotRequest`` is one request. Read it from top to bottom: ``begin`` when it is its turn, ``take`` what comes of its
body, ``finish`` when all of it is there, ``settle`` when its lane has answered, ``_send``. What tells one call from
another is a ``HotCall``; v1/hot.py has the table. connection.py says whose turn it is; waiting.py watches the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from bigmarket.api.asgi import Headers
from bigmarket.api.auth import ANYBODY, Caller, Callers
from bigmarket.api.errors import Degraded, Unreadable, broken, headers_of, refusal, status_of
from bigmarket.api.limits import Limits
from bigmarket.api.metrics import CallMeter
from bigmarket.api.reader import check_length, too_large
from bigmarket.api.waiting import HOT_BYTES_MAX, Waiting
from bigmarket.app import World
from bigmarket.errors import BigmarketError, OutcomeUnknown, Overloaded, Trouble
from bigmarket.lanes import LaneSet, late, overloaded

log = structlog.get_logger(__name__)

HEAD_END = b"\r\n\r\n"
KNOWN_MAX = 4096  # heads
KNOWN_BYTES_MAX = 2 << 10  # of such a head; a longer one is parsed every time
NOT_LEARNED = frozenset((b"transfer-encoding", b"upgrade", b"expect"))
EXPOSED = b"Bigmarket-Order-Id, Bigmarket-Outcome, Bigmarket-Next-Cursor, Retry-After"

Words = tuple[Any, ...]


class Reply(NamedTuple):
    """An HTTP answer; ``lines`` are its headers as HTTP writes them."""

    status: int
    lines: bytes
    body: bytes


#: What a hot call reads its words from: who calls, the headers, the query, the body.
Read = Callable[[Caller, Mapping[bytes, bytes], bytes, bytes], Words]


@dataclass(frozen=True, slots=True)
class HotCall:
    """One call: ``read`` makes the words that its lanes take, the user's id first, empty for nobody's; ``reply``
    answers what was made.

    ``repeatable`` tells of the words whether a repeat of the same request is known as one. Of a partner's call
    ``read`` checks the app; it has no limits. ``degrades``: refused while draws are switched off. ``refusals``: the
    data that go with an error of that type. ``methods``: the HTTP methods it is made with.
    """

    name: str
    lanes: LaneSet[Any]
    read: Read
    reply: Callable[[Any], Reply]
    repeatable: Callable[[Words], bool]
    degrades: bool = False
    of_partners: bool = False
    refusals: Mapping[type[BigmarketError], Any] = field(default_factory=dict)
    methods: Sequence[str] = ("POST",)
    meter: CallMeter = field(default_factory=CallMeter)


class Head(NamedTuple):
    """What comes before the body of a hot request: its call, its query, and its headers with lower-case names."""

    call: HotCall
    query: bytes
    headers: Headers
    fields: Mapping[bytes, bytes]  # the headers by name


class HotCalls:
    """The hot calls by path, what all of them share, and the heads that clients send again and again."""

    def __init__(
        self,
        calls: Mapping[str, HotCall],
        *,
        world: World,
        waiting: Waiting,
        callers: Callers,
        limits: Limits,
        origins: Sequence[str],
    ) -> None:
        self._calls = {
            (method.encode(), path.encode()): call for path, call in calls.items() for method in call.methods
        }
        self.live = world.live
        self.waiting = waiting
        self.callers = callers
        self.limits = limits
        self._origins = frozenset(origin.encode() for origin in origins)
        self._first_lines: dict[int, bytes] = {}
        self._first_lines_of: Headers = []
        self._known: dict[bytes, tuple[Head, int]] = {}  # with the length of the body

    def find(self, method: bytes, url: bytes) -> tuple[HotCall | None, bytes]:
        """The call that a request's first line names, and its query. Raises HttpParserError for a broken URL."""
        call = self._calls.get((method, url))  # mostly there is no query
        if call is not None:
            return call, b""
        parsed = httptools.parse_url(url)
        path = unquote_to_bytes(parsed.path) if parsed.path and b"%" in parsed.path else parsed.path
        return self._calls.get((method, path)), parsed.query or b""

    def recall(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and the body of one whole request, if its head was learned before."""
        end = data.find(HEAD_END) + len(HEAD_END)
        known = self._known.get(data[:end])
        if known is None or len(data) - end != known[1]:
            return None
        return known[0], data[end:]

    def learn(self, data: bytes, request: HotRequest) -> None:
        """Keep the head of a whole request, if that and its body are all that the parser found in ``data``.

        The parser would make the same of the same bytes again, as long as they begin a request; so they need not be
        given to it. A user's token is no part of what is kept: it is a secret, and each user has another.
        """
        head, body = request.head, request.body
        text, end, rest = data.partition(HEAD_END)
        if not end or rest != body or len(text) > KNOWN_BYTES_MAX:
            return
        if request.by_token or NOT_LEARNED & head.fields.keys():
            return
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[text + end] = head, len(body)

    def first_lines(self, status: int, always: Headers) -> bytes:
        """The first lines of an answer: its status, and the headers that uvicorn gives to all, the date."""
        if always is not self._first_lines_of:  # once a second
            self._first_lines_of = always
            self._first_lines.clear()
        lines = self._first_lines.get(status)
        if lines is None:
            lines = self._first_lines[status] = STATUS_LINE[status] + lines_of(always)
        return lines

    def cors(self, origin: bytes) -> Headers:
        """The headers that let a page of that origin read the answer."""
        if b"*" in self._origins:
            allowed: Headers = [(b"access-control-allow-origin", b"*")]
        elif origin in self._origins:
            allowed = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        else:
            return []
        return [*allowed, (b"access-control-expose-headers", EXPOSED)]


class Connection(Protocol):
    """What a request needs of the connection that it came on."""

    @property
    def peer(self) -> str | None:
        """Where it comes from."""
        ...

    @property
    def default_headers(self) -> Headers:
        """What every answer carries."""
        ...

    def write(self, data: bytes) -> None:
        """Send; to a client that is gone, nothing."""
        ...

    def answered(self, request: HotRequest) -> None:
        """That request's answer is written: whatever is next may begin."""
        ...

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Await it, beside everything else."""
        ...


class _Nobody:
    """uvicorn wakes the cycle of a connection that is lost; a hot request never sleeps."""

    def set(self) -> None:
        """Nothing to do."""


class HotRequest:
    """A hot request, and what its lane answers to. ``body`` is given where all of it is there.

    The last six fields are what uvicorn's protocol knows of the request that a connection is at, its ``cycle``.
    """

    __slots__ = (
        "_caller",
        "_calls",
        "_connection",
        "_expects",
        "_started",
        "_words",
        "body",
        "call",
        "deadline",
        "disconnected",
        "head",
        "keep_alive",
        "more_body",
        "response_complete",
        "sent",
    )
    message_event = _Nobody()

    def __init__(
        self,
        head: Head,
        calls: HotCalls,
        connection: Connection,
        *,
        body: bytes | None = None,
        keep_alive: bool = True,
        expects: bool = False,
    ) -> None:
        self.head = head
        self.call = head.call
        self.body = body or b""
        self._calls = calls
        self._connection = connection
        self._expects = expects
        self._caller = ANYBODY
        self._started = 0.0  # not its turn yet
        self.sent = False
        self.deadline = 0.0
        self.keep_alive = keep_alive
        self.more_body = body is None
        self.response_complete = False
        self.disconnected = False

    @property
    def by_token(self) -> bool:
        """Whether a user calls, with a token."""
        return self._caller.user_id is not None

    # --- what comes in ---

    def begin(self) -> None:
        """It is its turn: every earlier request of the connection is answered."""
        self._started = perf_counter()
        if self.call.lanes.crowded():  # nothing is done for those who would be refused in the end
            self.call.meter.refused[Overloaded.code] += 1
            self._send(_overloaded_reply(self.call.lanes.noun))
            return
        self._attempt(self._admit)
        if self.more_body and not self.sent:
            self._calls.waiting.read(self)
            if self._expects:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif not self.sent:
            self._attempt(self._ask)

    def _admit(self) -> None:
        call, fields = self.call, self.head.fields
        self._caller = (
            ANYBODY if call.of_partners else self._calls.callers.admit(call.name, fields.get(b"authorization"))
        )
        if self.more_body:
            check_length(fields.get(b"content-length"), bytes_max=HOT_BYTES_MAX)

    def take(self, chunk: bytes) -> None:
        """A part of the body; of one that is too large nothing is kept."""
        if self.sent or len(self.body) > HOT_BYTES_MAX:
            return
        self.body += chunk
        if len(self.body) > HOT_BYTES_MAX and self._started:
            self._calls.waiting.has_read(self)
            self._refuse(too_large(HOT_BYTES_MAX))

    def finish(self) -> None:
        """All of the body is there."""
        self.more_body = False
        if self._started and not self.sent:
            self._calls.waiting.has_read(self)
            self._attempt(self._ask)

    def too_slow(self) -> None:
        """The body did not come in time."""
        self._refuse(Unreadable(408, "The body did not come in time."))

    def _ask(self) -> None:
        """Read the body, count the call, and ask the lanes. Raises whatever refuses the request."""
        call, calls, head = self.call, self._calls, self.head
        if len(self.body) > HOT_BYTES_MAX:
            raise too_large(HOT_BYTES_MAX)
        words = self._words = call.read(self._caller, head.fields, head.query, self.body)
        switches = calls.live.switches
        if call.degrades and switches.degraded:
            raise Degraded("Draws are switched off for now; nothing was spent. Try again later.")
        if switches.limited and not call.of_partners:
            counted = words[0] if call.lanes.writes else None  # looking around is no user's limit
            asking = calls.limits.spend(switches, self._connection.peer, head.headers, self._caller, user_id=counted)
            if asking is not None:
                self._connection.run(self._ask_when(asking))
                return
        self._submit()

    async def _ask_when(self, asking: Awaitable[None]) -> None:
        """Where Redis counts: ask the lanes when it has answered."""
        try:
            await asking
        except BigmarketError as error:
            self._refuse(error)
        else:
            self._attempt(self._submit)

    def _submit(self) -> None:
        self.call.lanes.submit(*self._words, reply=self)
        self._calls.waiting.add(self)

    def _attempt(self, step: Callable[[], None]) -> None:
        """One step of it; what goes wrong is the answer."""
        try:
            step()
        except BigmarketError as error:
            self._refuse(error)
        except Exception as fault:  # noqa: BLE001  it is logged, and answered
            self._break(fault)

    # --- what goes out ---

    def settle(self, answer: Any) -> None:
        """Answer what its lane has answered, unless that comes too late; None: the deadline passed before."""
        if self.sent:
            return
        if answer is None:
            self._refuse(_late(self.call, self._words))
        elif isinstance(answer, BigmarketError):
            self._refuse(answer)
        else:
            try:
                reply = self.call.reply(answer)
            except Exception as fault:  # noqa: BLE001  it is logged, and answered
                self._break(fault)
            else:
                self._send(reply)

    def _refuse(self, error: BigmarketError) -> None:
        self.call.meter.refused[error.code] += 1
        self._send(error_reply(error, data=self.call.refusals.get(type(error))))

    def _break(self, fault: Exception) -> None:
        log.error("hot call broke", call=self.call.name, exc_info=fault)
        self._refuse(broken())

    def _send(self, reply: Reply) -> None:
        self.sent = True
        status, lines, body = reply
        origin = self.head.fields.get(b"origin")
        if origin is not None:
            lines += lines_of(self._calls.cors(origin))
        connection = self._connection
        connection.write(
            b"".join(
                (
                    self._calls.first_lines(status, connection.default_headers),
                    lines,
                    b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n",
                    body,
                )
            )
        )
        self.call.meter.answered(perf_counter() - self._started)
        connection.answered(self)


def lines_of(headers: Headers) -> bytes:
    """Headers as HTTP writes them."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def error_reply(error: BigmarketError, *, data: object = None) -> Reply:
    """The answer to a request that was refused or failed."""
    body = refusal(error, data=data)
    return Reply(status_of(error), lines_of(headers_of(error, body)), body)


@lru_cache(maxsize=64)
def _overloaded_reply(noun: str) -> Reply:
    """The one answer that is made before anything else is done for a request."""
    return error_reply(overloaded(noun))


def _late(call: HotCall, words: Words) -> Trouble:
    if not call.lanes.writes:
        return late(call.lanes.noun)
    said = f"The {call.lanes.noun} is late: whether it was made is not known yet."
    if call.repeatable(words):
        return OutcomeUnknown(f"{said} Repeat it as it was, with the same requestId if it has one, to learn it.")
    return OutcomeUnknown(
        f"{said} Look at the user's account before the next; with a requestId a repeat would be safe."
    )
