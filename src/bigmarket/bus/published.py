"""The way to a broker: a task is finished in the outbox once the broker has confirmed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bigmarket.outbox.task import Task


class Publisher(Protocol):
    """What is used of a broker's client; for one thread."""

    def publish(self, tasks: Sequence[Task]) -> None:
        """Returns when every task is confirmed. Raises a ``Trouble`` when the broker does not take them."""
        ...

    def close(self) -> None:
        """Close the connection, if there is one."""
        ...


class FinishingStore(Protocol):
    """What is needed of the store."""

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete tasks that are done."""
        ...


class PublishedBus:
    """Publishes a shard's tasks, then deletes them; a task that is published twice has its effects once."""

    def __init__(self, store: FinishingStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher

    def deliver(self, tasks: Sequence[Task]) -> None:
        """Publish the tasks, then finish them. Raises what the publisher and the store raise."""
        self._publisher.publish(tasks)
        self._store.finish_tasks([task.message_id for task in tasks])

    def close(self) -> None:
        """Close the publisher's connection; call it when nobody delivers any more."""
        self._publisher.close()
