"""How much waits to be delivered and how much is parked: looked at by one process, told by its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from bigmarket.outbox.task import Backlog
from bigmarket.storage.deliveries import delivery_backlog


class BacklogStore(Protocol):
    """What is needed of a shard."""

    def backlog(self) -> Backlog:
        """How many tasks wait, since when, and how many are parked."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """One read transaction."""
        ...


class Sample(NamedTuple):
    """Tasks and deliveries by shard, in order; ``queues`` are messages ready in the broker; all at ``at_ms``."""

    at_ms: int
    shards: Sequence[Backlog]
    queues: Mapping[str, int]
    deliveries: Sequence[Backlog]


class BacklogWatch:
    """Counts now and then; ``queue_depths`` asks the broker."""

    def __init__(
        self,
        shards: Sequence[BacklogStore],
        *,
        queue_depths: Callable[[], Mapping[str, int]],
        now_ms: Callable[[], int],
    ) -> None:
        self._shards = shards
        self._queue_depths = queue_depths
        self._now_ms = now_ms
        self.latest: Sample | None = None

    def look(self, _fencing: int) -> None:
        """Count everything. Raises ``Trouble``; what was counted by then is kept."""
        shards = [shard.backlog() for shard in self._shards]
        deliveries = [self._deliveries(shard) for shard in self._shards]
        self.latest = Sample(self._now_ms(), shards, {}, deliveries)
        self.latest = self.latest._replace(queues=self._queue_depths())

    def _deliveries(self, shard: BacklogStore) -> Backlog:
        with shard.reading() as connection:
            return delivery_backlog(connection)
