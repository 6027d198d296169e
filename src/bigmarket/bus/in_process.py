"""Runs consumers: the effects of a batch of messages are one transaction of one shard.

Embedded, the relay hands its tasks straight to the consumers, and the same transaction finishes them. With a broker
in between the tasks are finished when it has confirmed them, and its consumers only run the effects.

Messages that miss units which other shards may have wait for the others of their batch, until units are fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from bigmarket.activity.delivery import DeliveryTx, Facts
from bigmarket.activity.stock import StockKey, StockShort
from bigmarket.errors import Contention, NotFound
from bigmarket.outbox.task import Task

FETCHES_MAX = 5  # for a batch; each may bring units that others are faster to take


class Consumer(Protocol):
    """What happens to the messages (JSON bodies) of one topic."""

    def __call__(self, tx: DeliveryTx, messages: Sequence[bytes], *, now_ms: int, facts: Facts) -> None:
        """Write the effects inside ``tx``; whatever is raised rolls them back.

        Raises ``StockShort``, with the messages' ids, for units that other shards may have.
        """
        ...


class DeliveryStore(Protocol):
    """What the bus needs of the store."""

    def delivering(self) -> AbstractContextManager[DeliveryTx]:
        """One write transaction: committed when the block ends, rolled back when it raises."""
        ...


def nothing_to_fetch(wanted: Mapping[StockKey, int]) -> None:
    """With one shard there is no other to fetch units from, and no consumer is short."""
    raise AssertionError(f"no other shard has units to give ({len(wanted)} items asked for)")


class InProcessBus:
    """``consumers`` maps topics to functions; ``fetch_stock`` brings units from other shards."""

    def __init__(
        self,
        store: DeliveryStore,
        consumers: Mapping[str, Consumer],
        *,
        now_ms: Callable[[], int],
        facts: Facts,
        fetch_stock: Callable[[Mapping[StockKey, int]], None] = nothing_to_fetch,
    ) -> None:
        self._store = store
        self._consumers = consumers
        self._now_ms = now_ms
        self._facts = facts
        self._fetch_stock = fetch_stock

    def deliver(self, tasks: Sequence[Task]) -> None:
        """Run the consumers and finish the tasks. Raises as ``consume``."""
        self._run(tasks, finish=True)

    def consume(self, tasks: Sequence[Task]) -> None:
        """Run the consumers for tasks that left the outbox before.

        Raises NotFound for a topic without a consumer, a ``Trouble`` of the store, or what a consumer raises; nothing
        is done then, or where units were missing, what was not short of any.
        """
        self._run(tasks, finish=False)

    def _run(self, tasks: Sequence[Task], *, finish: bool) -> None:
        for _ in range(FETCHES_MAX):
            try:
                return self._run_once(tasks, finish=finish)
            except StockShort as short:
                ready = [task for task in tasks if task.message_id not in short.asked_as]
                if ready:
                    self._run(ready, finish=finish)
                tasks = [task for task in tasks if task.message_id in short.asked_as]
                self._fetch_stock(short.wanted)
        raise Contention("Others kept taking the last units of a sku; nothing was given. Try again.")

    def _run_once(self, tasks: Sequence[Task], *, finish: bool) -> None:
        now_ms = self._now_ms()
        topics: dict[str, list[bytes]] = {}
        for task in tasks:
            topics.setdefault(task.topic, []).append(task.message)
        with self._store.delivering() as tx:
            for topic, messages in topics.items():
                self._consumer_of(topic)(tx, messages, now_ms=now_ms, facts=self._facts)
            if finish:
                tx.finish_tasks([task.message_id for task in tasks])

    def _consumer_of(self, topic: str) -> Consumer:
        try:
            return self._consumers[topic]
        except KeyError:
            raise NotFound(f"No consumer for topic {topic!r}.") from None
