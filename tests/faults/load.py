"""Clients over raw keep-alive connections, and the log of what they were told.

A client that gets no answer, or a 503, repeats its request with the same id until it is answered. Some ids are sent
again on purpose, long after their answer or at the same time on another connection.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Self

DRAW_PATH = "/api/v1/raffle/activity/draw"
ACTIVITY = 1
ANSWER_SECONDS = 15.0
PAUSE_SECONDS = 0.02
POLL_SECONDS = 0.005
REPEATED_LATER = 0.1  # share of requests that repeat an id which was answered before
SENT_TWICE = 0.1  # share of ids that two connections send at about the same time
#: What a draw is told, unspent, when the machine stands still, as two cores do that start a broker or a server.
STALLS = ("waited too long for its turn", "kept the database")
STALLED_SHARE = 0.01  # of all answers, at most


class Ask(NamedTuple):
    """A request to draw."""

    user_id: str
    request_id: str


class Won(NamedTuple):
    """An acknowledged draw."""

    order_id: str
    award_id: int


class Reply(NamedTuple):
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of the v1 envelope."""
        return str(json.loads(self.body)["code"])

    @property
    def info(self) -> str:
        """The text of the v1 envelope."""
        return str(json.loads(self.body)["info"])

    @property
    def won(self) -> Won | None:
        """What was won; None when the draw was refused or failed."""
        if self.status != 200 or "bigmarket-order-id" not in self.headers:
            return None
        return Won(self.headers["bigmarket-order-id"], json.loads(self.body)["data"]["awardId"])


class Connection:
    """One keep-alive connection. Raises OSError, EOFError or TimeoutError when no answer comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to loopback."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def draw(self, ask: Ask) -> Reply:
        """Draw once."""
        document = {"userId": ask.user_id, "activityId": ACTIVITY, "requestId": ask.request_id}
        return await self.request("POST", DRAW_PATH, json.dumps(document).encode())

    async def request(self, method: str, path: str, body: bytes = b"") -> Reply:
        """One request, one answer."""
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(ANSWER_SECONDS):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
            content = await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(lines[0].split()[1]), headers, content)

    async def close(self) -> None:
        """Close, whatever state it is in."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection until the block ends."""
    connection = await Connection.open(port)
    try:
        yield connection
    finally:
        await connection.close()


@dataclass
class Log:
    """What the clients were told, over all servers and all their lives."""

    won: dict[Ask, Won] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    statuses: Counter[tuple[int, str]] = field(default_factory=Counter)  # HTTP status, what it says was spent
    changed: list[tuple[Ask, Won, Won]] = field(default_factory=list)
    repeats: int = 0  # further answers to an id that had its answer
    unanswered: int = 0  # connections that broke with a request on them
    seconds: list[float] = field(default_factory=list)  # that each answer under load took
    good_at: dict[int, float] = field(default_factory=dict)  # port: when the newest request that won there was sent

    @classmethod
    def of(cls, *logs: Log) -> Log:
        """What several groups of clients were told, none of which asked for another's draws."""
        together = cls()
        for log in logs:
            together.won |= log.won
            together.changed += log.changed
            together.seconds += log.seconds
            together.repeats += log.repeats
            together.unanswered += log.unanswered
            for name in ("refused", "troubles", "statuses"):
                getattr(together, name).update(getattr(log, name))
        return together

    def answered(self, port: int, ask: Ask, reply: Reply, *, sent_at: float) -> None:
        """Write an answer under load down, with the time it took."""
        self.note(ask, reply)
        self.seconds.append(time.monotonic() - sent_at)
        if reply.won is not None:
            self.good_at[port] = max(sent_at, self.good_at.get(port, 0.0))

    async def good_since(self, ports: Sequence[int], since: float, *, seconds: float) -> float:
        """Wait until a draw that was sent after ``since`` has won on every port. Returns the seconds since then."""
        while not all(self.good_at.get(port, 0.0) > since for port in ports):
            assert time.monotonic() < since + seconds, f"no good answer within {seconds} s: {self}"
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - since

    async def more_draws(self, more: int, *, seconds: float = 60) -> None:
        """Wait until so many more draws are acknowledged."""
        before = len(self.won)
        async with asyncio.timeout(seconds):
            while len(self.won) < before + more:
                await asyncio.sleep(POLL_SECONDS)

    @property
    def harm(self) -> Counter[str]:
        """The troubles, without those of a few draws that lost their turn while the machine stood still."""
        stalled = Counter({told: n for told, n in self.troubles.items() if any(stall in told for stall in STALLS)})
        few = stalled.total() <= STALLED_SHARE * len(self.seconds)
        return self.troubles - stalled if few else self.troubles

    def note(self, ask: Ask, reply: Reply) -> None:
        """Write an answer down; one that differs from the first answer to the same id goes into ``changed``."""
        won = reply.won
        self.statuses[reply.status, reply.headers.get("bigmarket-outcome", "done")] += 1
        if won is None:
            counter = self.refused if reply.status == 200 else self.troubles
            counter[f"{reply.code} {reply.info}"] += 1
            return
        first = self.won.setdefault(ask, won)
        self.repeats += first is not won
        if first != won:
            self.changed.append((ask, first, won))

    def __str__(self) -> str:
        return (
            f"{len(self.won)} draws, {self.repeats} repeats, {sum(self.refused.values())} refusals, "
            f"{self.unanswered} unanswered, troubles {dict(self.troubles)}"
        )


class Load:
    """Clients on a connection each; they wait ``think_seconds`` between an answer and the next request."""

    def __init__(
        self,
        ports: Sequence[int],
        asks: Iterator[Ask],
        *,
        clients: int,
        rng: random.Random,
        think_seconds: float = 0.0,
    ) -> None:
        self.log = Log()
        self.ports = ports
        self._asks = asks
        self._rng = rng
        self._clients = clients
        self._think_seconds = think_seconds
        self._again: deque[Ask] = deque()
        self._settled: list[Ask] = []
        self._finishing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Log]:
        """Load until the block ends; then every request that was begun is answered before this returns."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._work(self.ports[number % len(self.ports)]))
            try:
                yield self.log
            finally:
                self._finishing = True

    async def _work(self, port: int) -> None:
        connection: Connection | None = None
        while (ask := self._next()) is not None:
            sent_at = time.monotonic()
            try:
                connection = connection or await Connection.open(port)
                reply = await connection.draw(ask)
            except (OSError, EOFError, TimeoutError):
                self._again.append(ask)
                self.log.unanswered += connection is not None
                connection = await _closed(connection)
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self.log.answered(port, ask, reply, sent_at=sent_at)
                self._remember(ask, reply)
                if reply.headers.get("connection") == "close":
                    connection = await _closed(connection)
                await asyncio.sleep(self._think_seconds if reply.status == 200 else PAUSE_SECONDS)
        await _closed(connection)

    def _remember(self, ask: Ask, reply: Reply) -> None:
        if reply.status == 503:
            self._again.append(ask)
        elif reply.won is not None:
            self._settled.append(ask)

    def _next(self) -> Ask | None:
        """What to send now; None when everything begun is answered, as far as this client can help."""
        if self._again:
            return self._again.popleft()
        if self._finishing:
            return None
        chance = self._rng.random()
        ask = None if chance < REPEATED_LATER and self._settled else next(self._asks, None)
        if ask is None:  # nothing new is left, either
            return self._rng.choice(self._settled) if self._settled else None
        if chance > 1 - SENT_TWICE:
            self._again.append(ask)
        return ask


async def _closed(connection: Connection | None) -> None:
    if connection is not None:
        await connection.close()


def asks_of(users: Sequence[str], *, each: int, rng: random.Random) -> Iterator[Ask]:
    """``each`` new request ids for every user, the users in random order."""
    order = [user for user in users for _ in range(each)]
    rng.shuffle(order)
    for number, user in enumerate(order):
        yield Ask(user, f"r{number}")


async def ask_again(log: Log, port: int, *, clients: int = 8) -> None:
    """Repeat every acknowledged draw; the answers go into the log, which knows the first ones."""
    waiting = iter(list(log.won))

    async def repeat() -> None:
        async with connected(port) as connection:
            for ask in waiting:
                reply = await connection.draw(ask)
                assert reply.won is not None, (ask, reply)
                log.note(ask, reply)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(repeat())


async def first_answer(port: int, ask: Ask, log: Log, *, seconds: float) -> float:
    """Ask until the draw is answered with an award. Returns the seconds that took."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        try:
            async with connected(port) as connection:
                reply = await connection.draw(ask)
        except (OSError, EOFError, TimeoutError):
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        log.note(ask, reply)
        if reply.won is not None:
            return time.monotonic() - started
    raise AssertionError(f"no answer within {seconds} s")
