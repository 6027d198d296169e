"""A task: a message that must go out, written in the transaction of what caused it.

``create``, then ``fail`` (tried again at ``next_at_ms``) -> ``parked`` with a reason; a parked task waits for a
person, who redrives or drops it (parking.py). A task that is done is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar
from zlib import crc32

from bigmarket.errors import BigmarketError

T = TypeVar("T")

ATTEMPTS_MAX = 5  # then the task is parked
BACKOFF_MIN_MS = 1_000
BACKOFF_MAX_MS = 300_000
BACKOFF_FACTOR = 6  # 1 s, 6 s, 36 s, 3.6 min: a short outage is waited out, a poison is parked within five minutes
REASON_MAX = 255
GRACE_MS = 5_000  # a new task is left so long to the memory of the process that wrote it

_JITTER_SHARE = 4  # up to a quarter more


class Task(NamedTuple):
    """``message`` is the JSON body; ``attempts`` have failed so far."""

    message_id: str
    user_id: str
    topic: str
    message: bytes
    attempts: int = 0


class BatchResult(NamedTuple, Generic[T]):
    """An answer to each request of a batch, in order, and the tasks to hand to the relay after the commit."""

    answers: Sequence[T | BigmarketError]
    tasks: Sequence[Task]


class TaskFailure(NamedTuple):
    """What a failed attempt leaves behind: due again at ``next_at_ms``, or parked; ``attempts`` failed so far."""

    message_id: str
    state: Literal["fail", "parked"]
    attempts: int
    next_at_ms: int
    reason: str


class Backlog(NamedTuple):
    """Tasks not delivered: how many wait, since when the oldest is due (None: none waits), how many are parked."""

    waiting: int
    oldest_ms: int | None
    parked: int


def failed(task: Task, *, reason: str, now_ms: int) -> TaskFailure:
    """One more attempt failed: when to try again, or parked after ``ATTEMPTS_MAX``."""
    attempts = task.attempts + 1
    state: Literal["fail", "parked"] = "parked" if attempts >= ATTEMPTS_MAX else "fail"
    next_at_ms = now_ms + backoff_ms(attempts, message_id=task.message_id)
    return TaskFailure(task.message_id, state, attempts, next_at_ms, reason[:REASON_MAX])


def postponed(task: Task, *, reason: str, now_ms: int) -> TaskFailure:
    """The machinery had trouble, which is not the task's fault: try again later, no attempt counted."""
    next_at_ms = now_ms + backoff_ms(task.attempts + 1, message_id=task.message_id)
    return TaskFailure(task.message_id, "fail", task.attempts, next_at_ms, reason[:REASON_MAX])


def backoff_ms(attempts: int, *, message_id: str) -> int:
    """How long to wait after that many failed attempts (from 1).

    The jitter follows from the message id, so that tasks that failed together do not come back together.
    """
    exponent = min(attempts - 1, 16)  # far beyond the maximum; keeps the power small
    wait_ms: int = BACKOFF_MIN_MS * BACKOFF_FACTOR**exponent
    jitter_ms = crc32(f"{message_id}|{attempts}".encode()) % (wait_ms // _JITTER_SHARE)
    return min(BACKOFF_MAX_MS, wait_ms + jitter_ms)
