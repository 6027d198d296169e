"""Hot requests in flight: those whose body is on its way, and those that wait for their lane.

The lanes answer from their own threads, a whole batch with one call into the event loop; one sweeper, not a timer per
request, ends what takes too long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

import structlog

from bigmarket.api.asgi import Receive
from bigmarket.api.errors import Unreadable
from bigmarket.api.reader import read_bytes
from bigmarket.lanes import Settled

log = structlog.get_logger(__name__)

HOT_BYTES_MAX = 4 << 10
READ_SECONDS = 10.0
SWEEP_SECONDS = 0.05


class Waiting:
    """Requests that wait for their lane, oldest first, and those whose body is still on its way."""

    def __init__(self, *, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queued: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._reading: dict[asyncio.Task[Any], float] = {}  # in order of arrival, as dicts are
        self._cut: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Begin to watch, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._sweep()

    def add(self) -> asyncio.Future[Any]:
        """A new request's future: what a lane answers, or None when the deadline passed first."""
        loop = self._loop
        assert loop is not None, "start() was called"
        future: asyncio.Future[Any] = loop.create_future()
        self._queued.append((loop.time() + self._deadline_seconds, future))
        return future

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """A request's body; ``Unreadable`` with 408 when it takes too long to come."""
        loop, task = self._loop, asyncio.current_task()
        assert loop is not None
        assert task is not None
        self._reading[task] = loop.time() + READ_SECONDS
        try:
            return await read_bytes(receive, headers, bytes_max=HOT_BYTES_MAX)
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
            log.warning("answers came after the server had stopped", answers=len(settled))

    def _sweep(self) -> None:
        loop = self._loop
        assert loop is not None
        now = loop.time()
        queued = self._queued
        while queued and (queued[0][1].done() or queued[0][0] <= now):
            future = queued.popleft()[1]
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
