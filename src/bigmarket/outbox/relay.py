"""The relay: one thread that delivers the tasks that draws left behind.

Lanes hand it what they just committed (``offer``), so the usual task is delivered within milliseconds and never read
back. A scan finds what memory does not hold: tasks of a process that died or does not relay, tasks that did not fit,
failed tasks that are due again. A new task is due for the scan only after ``GRACE_MS``, when the process that wrote
it relays itself. Both ways may deliver a task twice; consumers make that harmless.

One task that breaks its batch is found by halving and fails alone, with back-off and at last parked. Trouble of the
machinery counts against no task: the relay waits a moment and tries again with a smaller batch, down to single tasks.
One that is in trouble even alone is set aside until another is delivered, which shows that the trouble is its own; it
is then put off in the store. In an outage none is delivered, so none is put off, the store is left in peace, and
everything goes out within seconds once the machinery is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import structlog

from bigmarket.errors import Trouble
from bigmarket.outbox.halving import isolate
from bigmarket.outbox.held import Held
from bigmarket.outbox.task import Task, TaskFailure, failed, postponed

log = structlog.get_logger(__name__)

BATCH_MAX = 256
HELD_MAX = 20_000
SCAN_SECONDS = 1.0
ASK_SECONDS = 0.2  # who may not scan looks so often whether it may now
ASIDE_MAX = 16  # so many tasks in trouble one after the other are an outage, not faults of their own
LOG_SECONDS = 10.0  # an outage is told once in this time
LINGER_SECONDS = 0.05  # a batch that is not full waits for more this long, so that the draws see fewer commits
PAUSE_MIN_SECONDS = 0.05
PAUSE_MAX_SECONDS = 2.0

Deliver = Callable[[Sequence[Task]], None]


class RelayStore(Protocol):
    """What the relay needs of the store."""

    def due_tasks(self, now_ms: int, *, limit: int) -> Sequence[Task]:
        """Up to ``limit`` tasks that are due, oldest first."""
        ...

    def fail_task(self, failure: TaskFailure) -> None:
        """Write a failed attempt down, unless the task was delivered or parked meanwhile."""
        ...


class RelayStats(NamedTuple):
    """Counters since the start, and what waits in memory; ``lag_ms`` is the age of the oldest task there.

    ``stalled`` is 1 from a delivery that ended in trouble until one succeeds.
    """

    delivered: int
    failed: int
    parked: int
    troubles: int
    overflows: int
    waiting: int
    lag_ms: int
    stalled: int


def total_of(relays: Sequence[Relay]) -> RelayStats:
    """The counters of several relays as one; the lag is the longest."""
    stats = [relay.stats() for relay in relays]
    totals = {name: sum(getattr(one, name) for one in stats) for name in RelayStats._fields}
    return RelayStats(**totals | {"lag_ms": max(one.lag_ms for one in stats)})


class Relay:
    """Delivers batches by ``deliver``, which returns only when no task of the batch is left in the store.

    ``deliver`` raises a ``Trouble`` when the machinery failed, anything else when a task of the batch is at fault; in
    both cases it may be called again with any of the tasks. ``may_scan`` tells whether this process is the one that
    scans, which it does every ``scan_seconds``, and again at once while there is a full batch.
    """

    def __init__(
        self,
        store: RelayStore,
        *,
        deliver: Deliver,
        now_ms: Callable[[], int],
        may_scan: Callable[[], bool] = lambda: True,
        held_max: int = HELD_MAX,
        scan_seconds: float = SCAN_SECONDS,
    ) -> None:
        self._store = store
        self._deliver_batch = deliver
        self._now_ms = now_ms
        self._may_scan = may_scan
        self._held = Held(tasks_max=held_max)
        self._scan_seconds = scan_seconds
        self._aside: dict[str, tuple[Task, Trouble]] = {}  # in trouble even alone, oldest first
        self._outage = False  # more were in trouble than are set aside
        self._stalled = False
        self._log_again_at = 0.0
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._wake = threading.Event()
        self._full = threading.Event()  # memory holds a whole batch
        self._halt = threading.Event()  # the time to drain is over
        self._stopping = False
        self._scan_at = 0.0
        self._batch_max = BATCH_MAX
        self._pause_seconds = PAUSE_MIN_SECONDS
        self.delivered = self.failed = self.parked = self.troubles = self.overflows = 0

    def start(self) -> None:
        """Begin to deliver, with whatever an earlier process left."""
        self._thread.start()

    def offer(self, tasks: Sequence[Task]) -> None:
        """Take tasks that were just committed. Never waits; what does not fit is left to the scan."""
        if not self._held.put(tasks, now_ms=self._now_ms()):
            self.overflows += 1
        if not self._full.is_set() and len(self._held) >= BATCH_MAX:
            self._full.set()
        if not self._wake.is_set():
            self._wake.set()

    def stop(self, *, timeout_seconds: float) -> bool:
        """Deliver what memory holds, then end; whether that was done in time. The store keeps the rest."""
        self._stopping = True
        self._full.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        self._halt.set()
        return not self._thread.is_alive() and not self.waiting

    @property
    def waiting(self) -> int:
        """Tasks in memory now."""
        return len(self._held) + len(self._aside)

    @property
    def lag_ms(self) -> int:
        """Age of the oldest task in memory; 0 when there is none."""
        oldest_ms = self._held.oldest_ms
        return 0 if oldest_ms is None else max(0, self._now_ms() - oldest_ms)

    def stats(self) -> RelayStats:
        """Counters for metrics."""
        return RelayStats(
            self.delivered,
            self.failed,
            self.parked,
            self.troubles,
            self.overflows,
            self.waiting,
            self.lag_ms,
            int(self._stalled),
        )

    def _run(self) -> None:
        while not self._halt.is_set() and not (self._stopping and not self._held):
            try:
                if not self._turn() and not self._stopping:
                    self._wake.wait(max(0.0, self._scan_at - time.monotonic()))
                    self._wake.clear()
            except Exception:  # a fault of ours: the tasks are in the store, so serving goes on
                log.exception("relay turn failed; its tasks are left to the scan")
                self._pause()

    def _turn(self) -> bool:
        """Deliver one batch that the scan found and one from memory; whether there was any."""
        found = self._scan()
        if found and not self._served(found):
            self._scan_at = 0.0
        if self._held:
            self._full.wait(LINGER_SECONDS)
        since_ms, held = self._held.take(self._batch_max)
        if len(self._held) < BATCH_MAX and not self._stopping:
            self._full.clear()
        if held and not self._served(held):
            self._held.put_back(held, since_ms=since_ms)
        if not found and not held:
            self._take_back(list(self._aside))
        return bool(found or held or self._held)

    def _scan(self) -> Sequence[Task]:
        """Tasks that are due in the store: every ``scan_seconds``, and again at once until nothing is due."""
        lagging = len(self._held) > BATCH_MAX  # a scan would mostly find what memory holds
        if self._stopping or lagging or time.monotonic() < self._scan_at:
            return ()
        if not self._may_scan():
            self._scan_at = time.monotonic() + min(self._scan_seconds, ASK_SECONDS)
            return ()
        self._scan_at = time.monotonic() + self._scan_seconds
        limit = self._batch_max + len(self._aside)
        try:
            due = self._store.due_tasks(self._now_ms(), limit=limit)
        except Trouble as trouble:
            log.warning("due tasks not read", code=trouble.code, reason=str(trouble))
            return ()
        if len(due) >= limit:
            self._scan_at = 0.0
        return [task for task in due if task.message_id not in self._aside][: self._batch_max]

    def _served(self, tasks: Sequence[Task]) -> bool:
        """Deliver; False after trouble, when the tasks must be tried again."""
        try:
            isolate(tasks, deliver=self._deliver, fail=self._fail)
        except Trouble as trouble:
            self._in_trouble(trouble)
            # Smaller from now on: should one task be what troubles the machinery, it ends up alone and is set aside.
            self._batch_max = max(1, len(tasks) // 2)
            if len(tasks) == 1:
                self._set_aside(tasks[0], trouble)
            self._pause()
            return len(tasks) == 1
        self._batch_max = min(BATCH_MAX, self._batch_max * 2)
        self._pause_seconds = PAUSE_MIN_SECONDS
        self._out_of_trouble()
        return True

    def _deliver(self, tasks: Sequence[Task]) -> None:
        self._deliver_batch(tasks)
        self.delivered += len(tasks)

    def _fail(self, task: Task, fault: Exception) -> None:
        failure = failed(task, reason=f"{type(fault).__name__}: {fault}", now_ms=self._now_ms())
        self._store.fail_task(failure)
        if failure.state == "parked":
            self.parked += 1
            log.error("task parked", message_id=task.message_id, topic=task.topic, reason=failure.reason)
        else:
            self.failed += 1
            log.warning("task failed", message_id=task.message_id, topic=task.topic, reason=failure.reason)

    def _in_trouble(self, trouble: Trouble) -> None:
        self.troubles += 1
        if not self._stalled or time.monotonic() >= self._log_again_at:
            log.warning("delivery in trouble", code=trouble.code, waiting=self.waiting, reason=str(trouble))
            self._log_again_at = time.monotonic() + LOG_SECONDS
        self._stalled = True

    def _out_of_trouble(self) -> None:
        """Something was delivered: what is set aside is at fault itself, unless so much was that it was an outage."""
        if self._stalled:
            log.info("delivery goes on", waiting=self.waiting)
        self._stalled = False
        for message_id, (task, trouble) in list(self._aside.items()):
            if self._outage or not self._put_off(task, trouble):
                self._take_back([message_id])
            else:
                del self._aside[message_id]
        self._outage = False

    def _set_aside(self, task: Task, trouble: Trouble) -> None:
        """Let others have their try; in an outage the first that was set aside goes back to the end of the queue."""
        self._aside[task.message_id] = (task, trouble)
        if len(self._aside) > ASIDE_MAX:
            self._outage = True
            self._take_back([next(iter(self._aside))])

    def _take_back(self, message_ids: Sequence[str]) -> None:
        """Return tasks that were set aside to the end of memory; when there is no room the scan finds them."""
        for message_id in message_ids:
            task, _ = self._aside.pop(message_id)
            self._held.put([task], now_ms=self._now_ms())

    def _put_off(self, task: Task, trouble: Trouble) -> bool:
        """Let a task that is in trouble all alone wait in the store; whether that could be written."""
        try:
            self._store.fail_task(postponed(task, reason=f"{trouble.code}: {trouble}", now_ms=self._now_ms()))
        except Trouble:
            return False
        return True

    def _pause(self) -> None:
        """Wait a moment, longer each time in a row."""
        self._halt.wait(self._pause_seconds)
        self._pause_seconds = min(PAUSE_MAX_SECONDS, self._pause_seconds * 2)
