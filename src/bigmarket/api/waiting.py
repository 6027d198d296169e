"""Hot requests in flight: those whose body is on its way, and those that wait for their lane.

The lanes answer from their own threads, a whole batch with one call into the event loop; one sweeper, not a timer per
request, ends what takes too long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Any, Protocol

import structlog

from bigmarket.lanes import Settled

log = structlog.get_logger(__name__)

HOT_BYTES_MAX = 4 << 10
READ_SECONDS = 10.0
SWEEP_SECONDS = 0.05


class InFlight(Protocol):
    """A request, as far as its time is concerned. ``deadline`` is by ``time.monotonic()``."""

    deadline: float
    sent: bool  # an answer

    def too_slow(self) -> None:
        """Its body did not come in time."""
        ...

    def settle(self, answer: Any) -> None:
        """What its lane answers, or None when the deadline passed first; whatever comes second does not count."""
        ...


class Waiting:
    """Requests that wait for their lane, oldest first, and those whose body is still on its way."""

    def __init__(self, *, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queued: deque[InFlight] = deque()
        self._reading: dict[InFlight, None] = {}  # in order of arrival, as dicts are

    def start(self) -> None:
        """Begin to watch, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._sweep()

    def read(self, request: InFlight) -> None:
        """Watch for a request's body until ``has_read``."""
        request.deadline = monotonic() + READ_SECONDS
        self._reading[request] = None

    def has_read(self, request: InFlight) -> None:
        """The body is there, or of no interest any more."""
        self._reading.pop(request, None)

    def add(self, request: InFlight) -> None:
        """Watch for a lane's answer."""
        request.deadline = monotonic() + self._deadline_seconds
        self._queued.append(request)

    def hand_over(self, settled: Settled) -> None:
        """Called in a lane's thread with a batch of answers: one call into the loop for all of them."""
        loop = self._loop
        assert loop is not None
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:  # the loop is closed: the server stopped waiting for these
            log.warning("answers came after the server had stopped", answers=len(settled))

    def give_up(self) -> None:
        """Tell all who wait for their lane that it is late: the server stops."""
        while self._queued:
            self._queued.popleft().settle(None)

    def _sweep(self) -> None:
        loop = self._loop
        assert loop is not None
        now = monotonic()
        queued, reading = self._queued, self._reading
        while queued and (queued[0].sent or queued[0].deadline <= now):
            request = queued.popleft()
            if not request.sent:
                request.settle(None)
        while reading and (first := next(iter(reading))).deadline <= now:
            del reading[first]
            first.too_slow()
        loop.call_later(SWEEP_SECONDS, self._sweep)


def _settle(settled: Settled) -> None:
    for request, answer in settled:
        request.settle(answer)
