"""The parking lot: tasks that failed too often, each with its reason, until a person redrives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bigmarket.errors import NotFound

PARKED_MAX = 1_000


class ParkedTask(NamedTuple):
    """``message`` is the JSON body, ``attempts`` have failed, the last for ``reason``."""

    message_id: str
    user_id: str
    topic: str
    message: bytes
    attempts: int
    reason: str


class ParkingStore(Protocol):
    """What the parking lot needs of the store."""

    def parked_tasks(self, *, limit: int) -> Sequence[ParkedTask]:
        """The first parked tasks by message id."""
        ...

    def redrive_tasks(self, *, message_id: str | None, now_ms: int) -> int:
        """Make that parked task, or all (None), due now with no attempt counted; how many there were."""
        ...

    def drop_tasks(self, *, message_id: str | None, limit: int) -> int:
        """Give that parked task up, or the first ``limit`` (None); how many. Awards they owed end as ``fail``."""
        ...


def parked(store: ParkingStore, *, limit: int = PARKED_MAX) -> Sequence[ParkedTask]:
    """The first ``limit`` parked tasks, oldest first."""
    return store.parked_tasks(limit=limit)


def redrive(store: ParkingStore, *, message_id: str | None = None, now_ms: int) -> int:
    """Send a parked task out again, or all of them; how many. The relay finds them within a second.

    Raises NotFound when ``message_id`` is not parked.
    """
    count = store.redrive_tasks(message_id=message_id, now_ms=now_ms)
    if message_id is not None and not count:
        raise NotFound(f"No task {message_id} is parked.")
    return count
