"""Runs consumers: the effects of a batch of messages are one transaction of one shard.

Embedded, the relay hands its tasks straight to the consumers, and the same transaction finishes them. With a broker
in between the tasks are finished when it has confirmed them, and its consumers only run the effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from bigmarket.award.records import DeliveryTx, SeedOf
from bigmarket.errors import NotFound
from bigmarket.outbox.task import Task


class Consumer(Protocol):
    """What happens to the messages (JSON bodies) of one topic."""

    def __call__(self, tx: DeliveryTx, messages: Sequence[bytes], *, now_ms: int, seed_of: SeedOf) -> None:
        """Write the effects inside ``tx``; whatever is raised rolls them back."""
        ...


class DeliveryStore(Protocol):
    """What the bus needs of the store."""

    def delivering(self) -> AbstractContextManager[DeliveryTx]:
        """One write transaction: committed when the block ends, rolled back when it raises."""
        ...


class InProcessBus:
    """``consumers`` maps topics to functions."""

    def __init__(
        self,
        store: DeliveryStore,
        consumers: Mapping[str, Consumer],
        *,
        now_ms: Callable[[], int],
        seed_of: SeedOf,
    ) -> None:
        self._store = store
        self._consumers = consumers
        self._now_ms = now_ms
        self._seed_of = seed_of

    def deliver(self, tasks: Sequence[Task]) -> None:
        """Run the consumers and finish the tasks, all or nothing. Raises as ``consume``."""
        self._run(tasks, finish=True)

    def consume(self, tasks: Sequence[Task]) -> None:
        """Run the consumers for tasks that left the outbox before, all or nothing.

        Raises NotFound for a topic without a consumer, a ``Trouble`` of the store, or what a consumer raises.
        """
        self._run(tasks, finish=False)

    def _run(self, tasks: Sequence[Task], *, finish: bool) -> None:
        now_ms = self._now_ms()
        topics: dict[str, list[bytes]] = {}
        for task in tasks:
            topics.setdefault(task.topic, []).append(task.message)
        with self._store.delivering() as tx:
            for topic, messages in topics.items():
                self._consumer_of(topic)(tx, messages, now_ms=now_ms, seed_of=self._seed_of)
            if finish:
                tx.finish_tasks([task.message_id for task in tasks])

    def _consumer_of(self, topic: str) -> Consumer:
        try:
            return self._consumers[topic]
        except KeyError:
            raise NotFound(f"No consumer for topic {topic!r}.") from None
