"""``parked``: what failed too often, wherever it lies: the stores' parking lots, and the broker's dead letters.

A dead letter that owes an award is brought into its user's store before it is dropped, so that dropping means the
same in both places: the award record ends as ``fail``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from bigmarket.app import BrokerParking, DeadLetter
from bigmarket.errors import NotFound, Trouble
from bigmarket.outbox.parking import PARKED_MAX, ParkedTask, parked
from bigmarket.outbox.task import REASON_MAX
from bigmarket.storage.installation import Stores


class Found(NamedTuple):
    """A parked task and where it lies: a shard's store, or the broker's queues of that shard."""

    where: Literal["store", "broker"]
    shard: int
    task: ParkedTask


class Count(NamedTuple):
    """How many were dealt with, and what kept the rest from it."""

    done: int
    trouble: Trouble | None = None


def in_stores(stores: Stores) -> list[Found]:
    """What lies in the stores, by shard, oldest first."""
    return [Found("store", index, task) for index, shard in enumerate(stores.shards) for task in parked(shard)]


def in_broker(brokers: Sequence[BrokerParking]) -> list[Found]:
    """What lies in the broker, by shard. Raises ``Trouble``."""
    return [
        Found("broker", index, ParkedTask(x.message_id, x.user_id, x.topic, x.message, x.attempts, x.reason))
        for index, broker in enumerate(brokers)
        for x in broker.list(PARKED_MAX)
    ]


def redrive(stores: Stores, brokers: Sequence[BrokerParking], *, message_id: str | None, now_ms: int) -> Count:
    """Send that task, or all (None), out again. Raises NotFound when ``message_id`` is parked nowhere."""
    done = sum(shard.redrive_tasks(message_id=message_id, now_ms=now_ms) for shard in stores.shards)
    return _and_in_broker(done, message_id, (broker.redrive(message_id) for broker in brokers))


def drop(stores: Stores, brokers: Sequence[BrokerParking], *, message_id: str | None, now_ms: int) -> Count:
    """Give that task up, or all (None). Raises NotFound when ``message_id`` is parked nowhere."""
    done = 0
    for shard in stores.shards:
        while dropped := shard.drop_tasks(message_id=message_id, limit=PARKED_MAX):
            done += dropped
    return _and_in_broker(done, message_id, (_drop(stores, broker, message_id, now_ms) for broker in brokers))


def _and_in_broker(done: int, message_id: str | None, counts: Iterator[int]) -> Count:
    """The broker is asked only for what the stores do not have."""
    if message_id is None or not done:
        try:
            done += sum(counts)
        except Trouble as trouble:
            return Count(done, trouble)
    if message_id is not None and not done:
        raise NotFound(f"No task {message_id} is parked.")
    return Count(done)


def _drop(stores: Stores, broker: BrokerParking, message_id: str | None, now_ms: int) -> int:
    for letter in broker.list(PARKED_MAX):
        if letter.understood and message_id in (None, letter.message_id):
            _give_up(stores, letter, now_ms)
    return broker.drop(message_id)


def _give_up(stores: Stores, letter: DeadLetter, now_ms: int) -> None:
    """Let the store note that the task is not done."""
    task = ParkedTask(
        letter.message_id,
        letter.user_id,
        letter.topic,
        letter.message,
        letter.attempts,
        letter.reason[:REASON_MAX],
    )
    store = stores.of(task.user_id)
    store.park_task(task, now_ms=now_ms)
    store.drop_tasks(message_id=task.message_id, limit=1)
