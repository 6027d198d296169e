"""Takes messages from the queues and has them handled: a thread with one connection to consume, one for retries."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import structlog

from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from bigmarket.bus.rabbitmq.frames import Address, Arrival, NotUnderstood, deliveries_of, tasks_of
from bigmarket.bus.rabbitmq.link import Link
from bigmarket.bus.rabbitmq.publisher import Sender
from bigmarket.bus.rabbitmq.topology import BACKOFF_MS, queues, retry_queue
from bigmarket.errors import Trouble
from bigmarket.outbox.halving import isolate
from bigmarket.outbox.task import REASON_MAX, Task, failed

log = structlog.get_logger(__name__)

PREFETCH = 64  # messages, of as many tasks as share one
BATCH_MAX = 256  # tasks
HEARTBEAT_SECONDS = 60
UNFOLD_DELIVERIES = 3  # one of the tasks may be what its consumers die of; alone it harms no other
IDLE_SECONDS = 0.2  # how long a look for messages takes when there are none; ``stop`` waits for it
PAUSE_MIN_SECONDS = 0.05
PAUSE_MAX_SECONDS = 2.0

Handle = Callable[[Sequence[Task]], None]
Park = Callable[[Task, str], None]


class ConsumerStats(NamedTuple):
    """Counters since the start: messages handled, failed attempts, parked (here or by the broker), troubles."""

    consumed: int
    failed: int
    parked: int
    troubles: int


class Delivery(NamedTuple):
    """A task and the tag of its message, which is settled with ``last``, the last of its tasks."""

    tag: int
    task: Task
    last: bool


class RabbitConsumer:
    """Has tasks handled in batches of what has arrived, all topics mixed, at most ``prefetch`` messages in hand.

    ``handle`` returns when the effects of all tasks given are committed; it raises a ``Trouble`` when the machinery
    failed, which counts against no message, anything else when a message is at fault. ``park`` writes a task that
    failed too often, and why, to where a person finds it, or raises a ``Trouble``. Either may see a task again.

    A failed task waits in the retry queue of its attempt (``backoff_ms``, one wait per attempt but the last), in a
    message of its own. A message that cannot be understood, or was delivered too often because its consumer died,
    goes to the parking queue; one of several tasks is taken apart before that.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        topics: Collection[str],
        handle: Handle,
        park: Park,
        now_ms: Callable[[], int],
        prefetch: int = PREFETCH,
        name: str = "consumer",
        backoff_ms: Sequence[int] = BACKOFF_MS,
    ) -> None:
        self._endpoint = endpoint_of(url)
        self._name = f"bigmarket {name}"
        self._topics = {f"{prefix}{topic}": topic for topic in topics}
        self._queues = queues(prefix, topics, backoff_ms=backoff_ms)
        self._again = {topic: Address(queue, topic=topic) for queue, topic in self._topics.items()}
        self._retries = {
            topic: [Address(retry_queue(queue, wait_ms=wait_ms), topic=topic) for wait_ms in backoff_ms]
            for queue, topic in self._topics.items()
        }
        self._sender = Sender(self._endpoint, name=f"{self._name} retries", queues=self._queues, confirms=True)
        self._handle = handle
        self._park = park
        self._now_ms = now_ms
        self._prefetch = prefetch
        self._batch_max = BATCH_MAX
        self._pause_seconds = PAUSE_MIN_SECONDS
        self._link: Link | None = None
        self._inbox: deque[Delivery] = deque()
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._consumed = self._failed = self._parked = self._troubles = 0

    def start(self) -> None:
        """Begin to consume; the broker need not be there yet."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float) -> bool:
        """Finish the batch in hand and leave the rest to the broker; whether that was done in time."""
        self._halt.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def stats(self) -> ConsumerStats:
        """Counters for metrics."""
        return ConsumerStats(self._consumed, self._failed, self._parked, self._troubles)

    def _run(self) -> None:
        while not self._halt.is_set():
            try:
                self._turn()
            except Trouble as trouble:
                self._troubles += 1
                log.warning("consuming in trouble", code=trouble.code, reason=str(trouble))
                self._pause()
            except Exception:  # a fault of ours: the broker has the messages, so consuming goes on
                log.exception("consumer turn failed; its messages are delivered again")
                self._disconnect()
                self._pause()
        self._disconnect()
        self._sender.close()

    def _turn(self) -> None:
        link = self._connected()
        link.tick()
        link.read(0 if self._inbox else IDLE_SECONDS)
        self._sort(link)
        while len(self._inbox) < self._batch_max and link.read(0):
            self._sort(link)
        if self._inbox:
            self._serve(link, [self._inbox.popleft() for _ in range(min(self._batch_max, len(self._inbox)))])

    def _connected(self) -> Link:
        """The link in use, or a new one; what the old one delivered comes again and is forgotten here."""
        if self._link is None or not self._link.alive:
            self._disconnect()
            link = Link(self._endpoint, name=self._name, heartbeat_seconds=HEARTBEAT_SECONDS)
            self._link = link
            link.declare(self._queues)
            for queue in self._topics:
                link.consume(queue, tag=queue, prefetch=self._prefetch)
        return self._link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self._inbox.clear()

    def _sort(self, link: Link) -> None:
        """Put what is understood into the inbox, the rest aside."""
        while link.arrivals:
            arrival = link.arrivals.popleft()
            try:
                tasks = tasks_of(arrival, topic=self._topics[arrival.consumer_tag])
                suspect = len(tasks) > 1 and deliveries_of(arrival) >= UNFOLD_DELIVERIES
            except NotUnderstood as why:
                self._put_aside(link, arrival, why)
                continue
            if suspect:
                self._take_apart(link, arrival, tasks)
            else:
                last = len(tasks) - 1
                self._inbox += [Delivery(arrival.delivery_tag, task, n == last) for n, task in enumerate(tasks)]

    def _take_apart(self, link: Link, arrival: Arrival, tasks: Sequence[Task]) -> None:
        """Send each task again in a message of its own. Raises ``Trouble``; then the broker keeps them together."""
        self._sender.send([self._again[task.topic].pack(task) for task in tasks])
        link.ack(arrival.delivery_tag)
        log.warning("message taken apart after its consumers were lost", tasks=len(tasks), topic=tasks[0].topic)

    def _put_aside(self, link: Link, arrival: Arrival, why: NotUnderstood) -> None:
        link.reject(arrival.delivery_tag)
        self._parked += 1
        log.error("message not understood, parked in the broker", queue=arrival.consumer_tag, reason=str(why))

    def _serve(self, link: Link, batch: Sequence[Delivery]) -> None:
        """Have the batch handled, acknowledge what is settled, keep the rest in hand.

        Tasks are settled in order, so one acknowledgement covers the messages whose last task is. In trouble the rest
        is not returned to the broker, which would count that as a delivery and park innocent messages in a long
        outage.
        """
        settled = 0

        def deliver(part: Sequence[Delivery]) -> None:
            nonlocal settled
            self._handle([delivery.task for delivery in part])
            settled += len(part)
            self._consumed += len(part)

        def fail(delivery: Delivery, fault: Exception) -> None:
            nonlocal settled
            self._fail(delivery.task, fault)
            settled += 1

        try:
            isolate(batch, deliver=deliver, fail=fail)
        except Trouble as trouble:
            # Smaller from now on: should one message be what troubles the machinery, it ends up alone and is put off.
            self._batch_max = max(1, len(batch) // 2)
            if len(batch) == 1 and self._put_off(batch[0].task, trouble):
                settled = 1
            raise
        else:
            self._batch_max = min(BATCH_MAX, self._batch_max * 2)
            self._pause_seconds = PAUSE_MIN_SECONDS
        finally:
            self._inbox.extendleft(reversed(batch[settled:]))
            whole = next((delivery.tag for delivery in reversed(batch[:settled]) if delivery.last), None)
            if whole is not None:
                link.ack(whole, multiple=True)

    def _fail(self, task: Task, fault: Exception) -> None:
        failure = failed(task, reason=f"{type(fault).__name__}: {fault}", now_ms=self._now_ms())
        tried = task._replace(attempts=failure.attempts)
        told = {"message_id": task.message_id, "topic": task.topic, "reason": failure.reason}
        if failure.state == "parked":
            self._park(tried, failure.reason)
            self._parked += 1
            log.error("message parked", **told)
        else:
            self._retry(tried, wait=failure.attempts, reason=failure.reason)
            self._failed += 1
            log.warning("message failed", **told)

    def _put_off(self, task: Task, trouble: Trouble) -> bool:
        """Let a message that is in trouble all alone wait, no attempt counted; whether the broker took it."""
        try:
            self._retry(task, wait=task.attempts + 1, reason=f"{trouble.code}: {trouble}"[:REASON_MAX])
        except Trouble:
            return False
        return True

    def _retry(self, task: Task, *, wait: int, reason: str) -> None:
        """Have the task come back after the ``wait``-th wait (from 1), or the last there is."""
        addresses = self._retries[task.topic]
        address = addresses[min(wait, len(addresses)) - 1]
        self._sender.send([address.pack(task, reason=reason)])

    def _pause(self) -> None:
        """Wait a moment, longer each time in a row."""
        self._halt.wait(self._pause_seconds)
        self._pause_seconds = min(PAUSE_MAX_SECONDS, self._pause_seconds * 2)
