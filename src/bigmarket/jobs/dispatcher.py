"""The dispatcher: carries out the deliveries of a shard that take more than a transaction.

One thread finds what is due and writes down how attempts ended; each attempt runs in a thread of its own. Attempts
that end while a transaction commits share the next one. What is due is never kept in memory: only what is under way.

A process that dies between an attempt and its commit leaves the delivery due, so it is repeated under the same id;
so do two processes that believe for a moment that they both hold the lease. Receivers know a repeat by its id.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import structlog
from sqlalchemy import Connection

from bigmarket.award.deliveries import ATTEMPTS_MAX, Answer, Attempt, AwardDelivery, Fulfilled, Fulfiller, Unfulfilled
from bigmarket.errors import Trouble
from bigmarket.storage.deliveries import due_deliveries, settle_deliveries
from bigmarket.storage.routing import SplitTables

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 32  # attempts under way in a shard
PLACE_MAX = 8  # of them at one place: four dead endpoints may hang before a fifth waits
SCAN_SECONDS = 0.25
PAUSE_MIN_SECONDS = 0.05
PAUSE_MAX_SECONDS = 2.0
PLACE_PAUSE_SECONDS = 1.0  # after trouble of our own, before the place is tried again
FAULT_PAUSE_SECONDS = 30.0  # when an attempt cannot be written down, for a fault of ours
LOG_SECONDS = 10.0


class DispatchStore(Protocol):
    """What is needed of a shard."""

    @property
    def split(self) -> SplitTables:
        """How its order tables are split."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """One read transaction."""
        ...

    def updating(self) -> AbstractContextManager[Connection]:
        """One short write transaction."""
        ...


class DispatchStats(NamedTuple):
    """Attempts since the start by how they ended, troubles of the machinery, and attempts under way now."""

    done: int
    failed: int
    parked: int
    troubles: int
    in_flight: int


def sum_of(dispatchers: Sequence[Dispatcher]) -> DispatchStats:
    """The counters of several dispatchers as one."""
    return DispatchStats(*map(sum, zip(*(one.stats() for one in dispatchers), strict=True)))


class Dispatcher:
    """``fulfillers`` are by award key; ``may_dispatch`` tells whether this process is the one that dispatches."""

    def __init__(
        self,
        store: DispatchStore,
        fulfillers: Mapping[str, Fulfiller],
        *,
        now_ms: Callable[[], int],
        may_dispatch: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._fulfillers = fulfillers
        self._now_ms = now_ms
        self._may_dispatch = may_dispatch
        self._lock = threading.Lock()
        self._ended: list[Attempt] = []  # not written down yet
        self._in_flight: dict[str, str] = {}  # order id: place; until the attempt is written down
        self._freed: set[str] = set()  # places where an attempt ended since the last scan
        self._paused: dict[str, float] = {}  # place: until when, by the monotonic clock
        self._wake = threading.Event()
        self._halt = threading.Event()
        self._stopping = False
        self._scan_at = 0.0
        self._log_again_at = 0.0
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._done = self._failed = self._parked = self._troubles = 0

    def start(self) -> None:
        """Begin, with whatever an earlier process left."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float) -> bool:
        """Begin no further attempt and write down those under way; whether all of them ended in time."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        self._halt.set()
        return not self._thread.is_alive()

    def stats(self) -> DispatchStats:
        """Counters for metrics."""
        return DispatchStats(self._done, self._failed, self._parked, self._troubles, len(self._in_flight))

    def _run(self) -> None:
        pause_seconds = PAUSE_MIN_SECONDS
        while not self._halt.is_set() and not (self._stopping and not self._in_flight):
            try:
                self._turn()
                pause_seconds = PAUSE_MIN_SECONDS
            except Trouble as trouble:
                self._in_trouble(trouble)
                self._halt.wait(pause_seconds)
                pause_seconds = min(PAUSE_MAX_SECONDS, pause_seconds * 2)
            except Exception:
                log.exception("deliveries not dispatched")
                self._halt.wait(PAUSE_MAX_SECONDS)
            else:
                self._wake.wait(max(0.0, self._scan_at - time.monotonic()) if not self._stopping else SCAN_SECONDS)
                self._wake.clear()

    def _turn(self) -> None:
        """Write down what ended, then begin what is due. Raises ``Trouble``."""
        self._settle()
        if self._stopping or not self._may_dispatch():
            self._scan_at = time.monotonic() + SCAN_SECONDS
            return
        whole = time.monotonic() >= self._scan_at
        if whole:
            self._scan_at = time.monotonic() + SCAN_SECONDS
        with self._lock:
            freed, self._freed = self._freed, set()
        if (whole or freed) and len(self._in_flight) < IN_FLIGHT_MAX:
            with self._store.reading() as connection:
                due = due_deliveries(
                    connection, now_ms=self._now_ms(), places=None if whole else freed, limit=PLACE_MAX
                )
            self._begin(due)

    def _begin(self, due: Sequence[AwardDelivery]) -> None:
        """Begin as many as there is room for, of every place some. Raises ``Trouble``."""
        with self._lock:
            in_flight = dict(self._in_flight)
        busy = Counter(in_flight.values())
        turns: Counter[str] = Counter()
        queue: list[tuple[int, int, AwardDelivery]] = []
        for number, delivery in enumerate(due):
            if delivery.order_id in in_flight or delivery.award_key not in self._fulfillers:
                continue  # a newer version may know the kind
            turns[delivery.place] += 1
            rank = turns[delivery.place] + busy[delivery.place]
            if rank <= PLACE_MAX and time.monotonic() >= self._paused.get(delivery.place, 0.0):
                queue.append((rank, number, delivery))
        for _, _, delivery in sorted(queue)[: IN_FLIGHT_MAX - len(in_flight)]:
            with self._lock:
                self._in_flight[delivery.order_id] = delivery.place
            try:
                threading.Thread(target=self._try, args=(delivery,), name="delivery", daemon=True).start()
            except RuntimeError as error:
                with self._lock:
                    self._release(delivery)
                raise Trouble(f"The system gives no thread for a delivery: {error}.") from error

    def _try(self, delivery: AwardDelivery) -> None:
        """One attempt, in a thread of its own."""
        began_ms, began = self._now_ms(), time.monotonic()
        answer: Answer | None = None
        try:
            answer = self._fulfillers[delivery.award_key](delivery, now_ms=began_ms)
        except Trouble as trouble:
            self._in_trouble(trouble)
        except Exception as fault:
            log.exception("delivery failed for a fault of ours", order_id=delivery.order_id)
            answer = Unfulfilled(f"{type(fault).__name__}: {fault}")
        took_ms = int((time.monotonic() - began) * 1_000)
        with self._lock:
            if answer is None:
                self._release(delivery, pause_seconds=PLACE_PAUSE_SECONDS)
            else:
                self._ended.append(Attempt(delivery, answer, began_ms, took_ms))
        self._wake.set()

    def _settle(self) -> None:
        """Write down the attempts that ended; what cannot be written down yet is kept. Raises ``Trouble``."""
        with self._lock:
            ended = list(self._ended)
        if not ended:
            return
        try:
            self._write(ended)
        except Trouble:
            raise
        except Exception:
            log.exception("attempts not written down together; one after the other now")
            for attempt in ended:
                self._settle_alone(attempt)

    def _settle_alone(self, attempt: Attempt) -> None:
        try:
            self._write([attempt])
        except Trouble:
            raise
        except Exception:
            log.exception("attempt not written down; it will be repeated", order_id=attempt.delivery.order_id)
            with self._lock:
                self._ended.remove(attempt)
                self._release(attempt.delivery, pause_seconds=FAULT_PAUSE_SECONDS)

    def _write(self, attempts: Sequence[Attempt]) -> None:
        with self._store.updating() as connection:
            settle_deliveries(connection, attempts, split=self._store.split)
        with self._lock:
            for attempt in attempts:
                self._ended.remove(attempt)
                self._release(attempt.delivery)
        for attempt in attempts:
            self._count(attempt)

    def _release(self, delivery: AwardDelivery, *, pause_seconds: float = 0.0) -> None:
        """Its place has room again."""
        self._in_flight.pop(delivery.order_id, None)
        self._freed.add(delivery.place)
        if pause_seconds:
            self._paused[delivery.place] = time.monotonic() + pause_seconds

    def _count(self, attempt: Attempt) -> None:
        delivery, answer = attempt.delivery, attempt.answer
        if isinstance(answer, Fulfilled):
            self._done += 1
            return
        told = {"order_id": delivery.order_id, "place": delivery.place, "reason": answer.reason}
        if answer.hopeless or delivery.attempts + 1 >= ATTEMPTS_MAX:
            self._parked += 1
            log.error("delivery parked", **told)
        else:
            self._failed += 1
            log.warning("delivery failed", attempts=delivery.attempts + 1, **told)

    def _in_trouble(self, trouble: Trouble) -> None:
        self._troubles += 1
        if time.monotonic() >= self._log_again_at:
            self._log_again_at = time.monotonic() + LOG_SECONDS
            log.warning("deliveries in trouble", code=trouble.code, reason=str(trouble))
