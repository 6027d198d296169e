"""The broker's own parking queues, for a person: messages nobody understands or whose consumers died of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from bigmarket.bus.rabbitmq.frames import Address, Arrival, NotUnderstood, properties_of, tasks_of
from bigmarket.bus.rabbitmq.link import Link
from bigmarket.bus.rabbitmq.topology import BACKOFF_MS, DELIVERIES_MAX, parked_queue, queues

PARKED_MAX = 1_000
SCAN_MAX = 10_000  # messages that one call looks at in one queue
SETTLED_TOGETHER = 64  # messages
SILENCE_SECONDS = 2.0  # a queue that delivers nothing for so long has no more

_TAG = "parking"
_NOT_UNDERSTOOD = "not understood: "


class ParkedMessage(NamedTuple):
    """``message`` is the body as it came; ids are empty when the message has none."""

    message_id: str
    user_id: str
    topic: str
    message: bytes
    attempts: int
    reason: str

    @property
    def understood(self) -> bool:
        """Whether it is a task of ours."""
        return not self.reason.startswith(_NOT_UNDERSTOOD)


class RabbitParking:
    """Looks at the parking queues of ``topics``; every call opens its own connection and is bounded.

    While a call runs it holds the messages it looks at, so that a second call at the same time may not see them.
    All calls raise ``Trouble`` when the broker cannot be reached.
    """

    def __init__(self, url: str, *, prefix: str, topics: Collection[str]) -> None:
        self._endpoint = endpoint_of(url)
        self._queues = {topic: f"{prefix}{topic}" for topic in topics}
        self._declared = queues(prefix, topics)

    def count(self) -> int:
        """Messages parked."""
        with self._linked() as link:
            return sum(link.depth(parked_queue(queue)) or 0 for queue in self._queues.values())

    def list(self, limit: int = PARKED_MAX) -> Sequence[ParkedMessage]:
        """The first ``limit`` parked messages, each with its reason; they stay parked."""
        found: list[ParkedMessage] = []
        for topic in self._queues:
            left = limit - len(found)
            with self._linked() as link:
                for arrival in self._look(link, topic, limit=left):
                    found += _parked(arrival, topic=topic)
        return found[:limit]

    def redrive(self, message_id: str | None = None) -> int:
        """Send that parked message, or all (None), to its consumer again, no attempt counted; how many there were."""
        return sum(self._settle(topic, message_id, again=True) for topic in self._queues)

    def drop(self, message_id: str | None = None) -> int:
        """Delete that parked message, or all (None), for good; how many there were."""
        return sum(self._settle(topic, message_id, again=False) for topic in self._queues)

    def _settle(self, topic: str, message_id: str | None, *, again: bool) -> int:
        queue = self._queues[topic]
        lot = Address(parked_queue(queue), topic=topic)
        address = Address(queue, topic=topic) if again else None
        with self._linked() as link:
            chosen = [
                (arrival, count)
                for arrival in self._look(link, topic, limit=SCAN_MAX)
                if (count := _count(arrival, message_id, topic=topic))
            ]
            for start in range(0, len(chosen), SETTLED_TOGETHER):
                some = [arrival for arrival, _ in chosen[start : start + SETTLED_TOGETHER]]
                instead = [_instead_of(arrival, message_id, address, lot, topic=topic) for arrival in some]
                link.publish(list(chain.from_iterable(instead)))
                for arrival in some:
                    link.ack(arrival.delivery_tag)
        return sum(count for _, count in chosen)

    def _look(self, link: Link, topic: str, *, limit: int) -> Sequence[Arrival]:
        """Up to ``limit`` messages, unsettled: the broker takes them back when the link closes."""
        parked = parked_queue(self._queues[topic])
        wanted = min(limit, SCAN_MAX, link.depth(parked) or 0)
        if wanted <= 0:
            return ()
        link.consume(parked, tag=_TAG, prefetch=wanted)
        silent_at = time.monotonic() + SILENCE_SECONDS
        while len(link.arrivals) < wanted and time.monotonic() < silent_at:
            if link.read(silent_at - time.monotonic()):
                silent_at = time.monotonic() + SILENCE_SECONDS
        return list(link.arrivals)[:wanted]

    @contextmanager
    def _linked(self) -> Iterator[Link]:
        link = Link(self._endpoint, name="bigmarket parking", confirms=True)
        try:
            link.declare(self._declared)
            yield link
        finally:
            link.close()


def queue_depths(
    url: str, prefix: str, topics: Collection[str], *, backoff_ms: Sequence[int] = BACKOFF_MS
) -> dict[str, int]:
    """Messages ready in each queue that exists, by its name without the prefix. Raises ``Trouble``.

    Messages that a consumer holds are not counted.
    """
    link = Link(endpoint_of(url), name="bigmarket depths")
    try:
        depths = {name: link.depth(name) for name in queues(prefix, topics, backoff_ms=backoff_ms)}
    finally:
        link.close()
    return {name.removeprefix(prefix): depth for name, depth in depths.items() if depth is not None}


def _parked(arrival: Arrival, *, topic: str) -> list[ParkedMessage]:
    """A line for each of its tasks, or one for a message that is not understood."""
    try:
        properties = properties_of(arrival)
        headers = properties.get("application_headers") or {}
    except NotUnderstood as why:
        return [ParkedMessage("", "", topic, arrival.body, 0, f"{_NOT_UNDERSTOOD}{why}")]
    try:
        return [ParkedMessage(*task, _reason(headers)) for task in tasks_of(arrival, topic=topic)]
    except NotUnderstood as why:
        user_id, attempts = headers.get("user_id"), headers.get("attempts")
        return [
            ParkedMessage(
                properties.get("message_id", ""),
                user_id if isinstance(user_id, str) else "",
                topic,
                arrival.body,
                attempts if isinstance(attempts, int) else 0,
                f"{_NOT_UNDERSTOOD}{why}",
            )
        ]


def _reason(headers: dict[str, object]) -> str:
    deaths = headers.get("x-death")
    death = deaths[0].get("reason") if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else None
    if death == "delivery_limit":
        return f"delivered {DELIVERIES_MAX} times, and every time its consumer was lost"
    return str(headers.get("reason") or death or "unknown")


def _count(arrival: Arrival, message_id: str | None, *, topic: str) -> int:
    """How many of its tasks are meant: those of this id, or all (None)."""
    ids = [parked.message_id for parked in _parked(arrival, topic=topic)]
    return len(ids) if message_id is None else ids.count(message_id)


def _instead_of(
    arrival: Arrival, message_id: str | None, address: Address | None, lot: Address, *, topic: str
) -> list[bytes]:
    """What takes a message's place: the tasks that are meant go to ``address``, if anywhere; others to ``lot``."""
    try:
        tasks = tasks_of(arrival, topic=topic)
    except NotUnderstood:
        return [] if address is None else [address.repack(arrival)]
    messages = []
    for task in tasks:
        if message_id is not None and task.message_id != message_id:
            messages.append(lot.pack(task, reason=_reason(properties_of(arrival).get("application_headers") or {})))
        elif address is not None:
            messages.append(address.pack(task._replace(attempts=0)))
    return messages
