"""The load generator, a program: requests on a schedule (open loop), or one as soon as another is answered (closed).

Open loop: every request has a moment at which it is due, at a constant or a Poisson rate, and its latency counts from
that moment, also while it waits for a free connection. So a server that stalls is charged with every request that it
kept waiting, not just with those that a patient client had sent (coordinated omission). The time since it was sent is
counted apart. How late the generator itself looked at a due request is its lag; a run with too much of it says
nothing about the server and is not valid.

Raw sockets and epoll, one thread: whatever is due goes out in one sweep, at most ``SWEEP_SECONDS`` late by design.
A plan comes as JSON on standard input, the result goes as JSON to standard output.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count, cycle

from histogram import Histogram

SWEEP_SECONDS = 0.001
LAG_P99_MS_MAX = 20.0
ANSWER_BYTES_MAX = 1 << 20
KINDS_SHUFFLED = 10_000  # the mixture is dealt from a shuffled deck of so many cards
MARK = "%07d"  # where the number of the user goes, in the path or in the body


@dataclass(frozen=True)
class Ask:
    """A kind of request. ``weight`` is its share of the mixture; ``once`` gives each user one turn, from 0 on."""

    name: str
    path: str
    body: str = ""
    content_type: str = "application/json"
    weight: int = 1
    once: bool = False

    def halves(self) -> tuple[bytes, bytes]:
        """The request's bytes before and after the user's number; without one all are before it."""
        body = self.body.encode()
        length = len(self.body.replace(MARK, "0000000").encode())
        head = f"POST {self.path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {length}\r\n"
        if body:
            head += f"content-type: {self.content_type}\r\n"
        whole = head.encode() + b"\r\n" + body
        before, _, after = whole.partition(MARK.encode())
        return before, after

    @property
    def names_user(self) -> bool:
        """Whether it is about a user."""
        return MARK in self.path or MARK in self.body


@dataclass(frozen=True)
class Plan:
    """What one generator process does. ``rate`` is requests a second; 0: closed loop. Users are numbers from 0."""

    port: int
    asks: list[Ask]
    users: int
    connections: int
    seconds: float
    rate: float = 0.0
    poisson: bool = True
    warm_up: float = 0.0
    slice_seconds: float = 0.0  # when not 0, the answers are also told slice by slice
    seed: int = 7
    first_user: int = 0  # of those that have one turn each
    drain_seconds: float = 15.0  # for what is under way or due when the time is over

    @classmethod
    def read(cls, text: str) -> Plan:
        """From JSON."""
        found = json.loads(text)
        return cls(**{**found, "asks": [Ask(**ask) for ask in found["asks"]]})


@dataclass
class Tally:
    """What was answered: by kind, status and code of the envelope; the latencies by kind and status."""

    answers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    latencies: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    since_sent: dict[str, Histogram] = field(default_factory=dict)  # by status, of the same answers
    lag: Histogram = field(default_factory=Histogram)
    slices: dict[int, Histogram] = field(default_factory=dict)
    without_retry_after: int = 0  # 503s that do not say when to come again
    broken: int = 0  # connections that the server ended
    unanswered: int = 0  # under way when it was given up
    unsent: int = 0  # due, but no connection came free before the end; their wait until then is a latency too
    served: int = 0  # answers with status 200 that came while it was measured, whenever they were due
    drawn_outside: int = 0  # good answers of the warm-up and after the end
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Client:
    """One connection and what it waits for."""

    __slots__ = ("due", "expected", "kind", "received", "sent", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.due = self.sent = 0.0
        self.kind = 0
        self.received = b""
        self.expected = 0


class Generator:
    """Runs a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._halves = [ask.halves() for ask in plan.asks]
        self._kinds = cycle(self._deck())
        self._turns = [count(plan.first_user) for _ in plan.asks]
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._idle: list[Client] = []
        self._waiting: deque[float] = deque()
        self._measured_from = self._measured_to = 0.0
        self._closed = plan.rate == 0
        self._over = False
        self.tally = Tally()

    def run(self) -> Tally:
        """Ask for ``warm_up + seconds``, then wait for what is still open."""
        plan, tally = self._plan, self.tally
        for _ in range(plan.connections):
            self._idle.append(self._connect())
        cpu = time.process_time()
        started = time.perf_counter()
        self._measured_from = started + plan.warm_up
        self._measured_to = self._measured_from + plan.seconds
        if self._closed:
            self._closed_loop(started)
        else:
            self._open_loop(started)
        self._over = True
        self._drain()
        tally.seconds, tally.cpu_seconds = plan.seconds, time.process_time() - cpu
        tally.unanswered, tally.unsent = len(self._clients) - len(self._idle), len(self._waiting)
        ended = time.perf_counter()
        for due in self._waiting:
            self._latencies_of("any", "unsent").add(ended - due)
        for client in self._clients.values():
            client.sock.close()
        self._epoll.close()
        return tally

    def _closed_loop(self, started: float) -> None:
        while self._idle:
            self._send(self._idle.pop(), started)
        while time.perf_counter() < self._measured_to:
            self._receive(SWEEP_SECONDS)

    def _open_loop(self, started: float) -> None:
        schedule = self._schedule(started)
        due = next(schedule)
        end, idle, waiting = self._measured_to, self._idle, self._waiting
        while due < end:
            now = time.perf_counter()
            while due <= now and due < end:
                if due >= self._measured_from:
                    self.tally.lag.add(now - due)
                if idle:
                    self._send(idle.pop(), due)
                else:
                    waiting.append(due)
                due = next(schedule)
                now = time.perf_counter()
            self._receive(min(SWEEP_SECONDS, max(0.0, due - now)))

    def _drain(self) -> None:
        """Wait for the answers that are open, sending what was due and still waits."""
        give_up_at = time.perf_counter() + self._plan.drain_seconds
        while (self._waiting or len(self._idle) < len(self._clients)) and time.perf_counter() < give_up_at:
            self._receive(0.05)

    def _schedule(self, started: float) -> Iterator[float]:
        """The moments at which requests are due."""
        rate, due = self._plan.rate, started
        if not self._plan.poisson:
            yield from (started + number / rate for number in count())
        while True:
            yield due
            due += self._random.expovariate(rate)

    def _deck(self) -> list[int]:
        """Kinds in the shares of their weights, shuffled."""
        weights = [ask.weight for ask in self._plan.asks]
        deck = [kind for kind, weight in enumerate(weights) for _ in range(KINDS_SHUFFLED * weight // sum(weights))]
        self._random.shuffle(deck)
        return deck

    def _connect(self) -> Client:
        sock = socket.create_connection(("127.0.0.1", self._plan.port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        client = self._clients[sock.fileno()] = Client(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return client

    def _send(self, client: Client, due: float) -> None:
        kind = next(self._kinds)
        before, after = self._halves[kind]
        ask = self._plan.asks[kind]
        if ask.names_user:
            user = next(self._turns[kind]) if ask.once else int(self._random.random() * self._plan.users)
            before = b"%b%07d%b" % (before, user, after)
        client.due, client.sent = due, time.perf_counter()
        client.kind, client.expected, client.received = kind, 0, b""
        try:
            client.sock.send(before)  # a small request on an idle connection goes out whole
        except OSError:
            self._reconnect(client)

    def _receive(self, timeout: float) -> None:
        """Take the answers that are there, and send what waits for a connection."""
        for fd, _ in self._epoll.poll(timeout):
            client = self._clients[fd]
            try:
                data = client.sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._reconnect(client)
                continue
            if client.received:
                data = client.received + data
            if not client.expected:
                client.expected = _length_of(data)
            if not client.expected or len(data) < client.expected:
                assert len(data) < ANSWER_BYTES_MAX, "an answer without an end"
                client.received = data
                continue
            self._answered(client, data)
            self._next(client)

    def _next(self, client: Client) -> None:
        if self._waiting:
            self._send(client, self._waiting.popleft())
        elif self._closed and not self._over:
            self._send(client, time.perf_counter())
        else:
            self._idle.append(client)

    def _answered(self, client: Client, data: bytes) -> None:
        now = time.perf_counter()
        tally = self.tally
        status = data[9:12].decode()
        head, _, body = data.partition(b"\r\n\r\n")
        at = body.find(b'"code":"', 0, 40)
        code = body[at + 8 : body.find(b'"', at + 8)].decode() if at >= 0 else "-"
        tally.served += status == "200" and self._measured_from <= now < self._measured_to
        moment = now if self._closed else client.due
        if not self._measured_from <= moment < self._measured_to:
            tally.drawn_outside += code == "0000" and self._plan.asks[client.kind].name == "draw"
            return
        name = self._plan.asks[client.kind].name
        tally.answers[name, status, code] += 1
        if status == "503" and b"retry-after:" not in head.lower():
            tally.without_retry_after += 1
        self._latencies_of(name, status).add(now - client.due)
        self._since_sent(status).add(now - client.sent)
        if self._plan.slice_seconds:
            number = int((moment - self._measured_from) / self._plan.slice_seconds)
            tally.slices.setdefault(number, Histogram()).add(now - client.due)

    def _latencies_of(self, name: str, status: str) -> Histogram:
        histogram = self.tally.latencies.get((name, status))
        if histogram is None:
            histogram = self.tally.latencies[name, status] = Histogram()
        return histogram

    def _since_sent(self, status: str) -> Histogram:
        histogram = self.tally.since_sent.get(status)
        if histogram is None:
            histogram = self.tally.since_sent[status] = Histogram()
        return histogram

    def _reconnect(self, client: Client) -> None:
        """The server ended the connection: what was asked on it is lost, if anything; another takes its place."""
        idle = client in self._idle  # nobody asked for so long that the server gave it up
        self.tally.broken += not idle
        if idle:
            self._idle.remove(client)
        del self._clients[client.sock.fileno()]
        client.sock.close()
        self._next(self._connect())


def _length_of(data: bytes) -> int:
    """How long the answer that begins with ``data`` is; 0 while its head is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    at = data.find(b"content-length: ", 0, end)
    if at < 0:
        at = data[:end].lower().find(b"content-length: ")
        assert at >= 0, "an answer without a length"
    return end + 4 + int(data[at + 16 : data.index(b"\r", at)])


def dump(tally: Tally) -> dict[str, object]:
    """As JSON takes it."""
    return {
        **asdict(tally),
        "answers": [[*key, number] for key, number in tally.answers.items()],
        "latencies": [[*key, found.dump()] for key, found in tally.latencies.items()],
        "since_sent": [[status, found.dump()] for status, found in tally.since_sent.items()],
        "lag": tally.lag.dump(),
        "slices": [[number, found.dump()] for number, found in tally.slices.items()],
    }


def load(text: str) -> Tally:
    """What ``dump`` gave."""
    found = json.loads(text)
    answers = Counter({(name, status, code): number for name, status, code, number in found.pop("answers")})
    latencies = {(name, status): Histogram.load(it) for name, status, it in found.pop("latencies")}
    since_sent = {status: Histogram.load(it) for status, it in found.pop("since_sent")}
    slices = {number: Histogram.load(it) for number, it in found.pop("slices")}
    return Tally(answers, latencies, since_sent, Histogram.load(found.pop("lag")), slices, **found)


if __name__ == "__main__":
    with suppress(AttributeError, PermissionError):  # it would be late if it waited for a core that others hold
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    print(json.dumps(dump(Generator(Plan.read(sys.stdin.read())).run())))
