"""Deliveries that take more than a transaction: by HTTP, by code, by hand.

``due`` until it is ``done``, or ``parked`` with a reason after so many failures; a thing that is handed over is
``claimed`` in between, and what an operator takes back is ``void``. Every attempt is logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol
from zlib import crc32

from bigmarket.outbox.task import REASON_MAX

DeliveryState = Literal["due", "parked", "claimed", "done", "void"]
STATES: tuple[DeliveryState, ...] = ("due", "parked", "claimed", "done", "void")

#: How long to wait after each failed attempt; after one more the delivery is parked. Almost two days in all.
BACKOFF_SECONDS = (5, 30, 120, 600, 3_600, 6 * 3_600, 12 * 3_600, 24 * 3_600)
ATTEMPTS_MAX = len(BACKOFF_SECONDS) + 1
WAIT_MAX_MS = 24 * 3_600 * 1_000  # whatever a receiver asks for

_JITTER_SHARE = 4  # up to a quarter more


class AwardDelivery(NamedTuple):
    """What shall be delivered: ``message`` is the award's own (``SendAward``) as JSON; ``place`` is where it goes."""

    order_id: str
    user_id: str
    activity_id: int
    award_id: int
    award_key: str
    place: str
    message: bytes
    attempts: int = 0
    create_time_ms: int = 0


class Fulfilled(NamedTuple):
    """It was delivered; ``result`` is what the winner was given, for them to see; ``status`` is HTTP's."""

    result: Mapping[str, str] | None = None
    status: int | None = None


class Unfulfilled(NamedTuple):
    """It was not, for ``reason``; ``hopeless`` parks it at once, ``wait_ms`` is what the receiver asks us to wait."""

    reason: str
    status: int | None = None
    hopeless: bool = False
    wait_ms: int = 0


Answer = Fulfilled | Unfulfilled


class Fulfiller(Protocol):
    """Carries a kind's deliveries out; called by many threads at once."""

    def __call__(self, delivery: AwardDelivery, *, now_ms: int) -> Answer:
        """One attempt, which must be harmless when it is repeated: nobody knows of it until it is written down.

        Raises ``Trouble`` when our own machinery fails, which counts as no attempt.
        """
        ...


class Attempt(NamedTuple):
    """An attempt that was made at ``time_ms`` and took ``duration_ms``."""

    delivery: AwardDelivery
    answer: Answer
    time_ms: int
    duration_ms: int


class Next(NamedTuple):
    """How a delivery stands after an attempt: ``next_at_ms`` is when it is tried again, if it is ``due``."""

    state: Literal["due", "parked", "done"]
    attempts: int
    next_at_ms: int
    reason: str | None


def after(attempt: Attempt) -> Next:
    """What follows from an attempt."""
    delivery, answer = attempt.delivery, attempt.answer
    attempts = delivery.attempts + 1
    now_ms = attempt.time_ms + attempt.duration_ms
    if isinstance(answer, Fulfilled):
        return Next("done", attempts, now_ms, None)
    reason = answer.reason[:REASON_MAX]
    if answer.hopeless or attempts >= ATTEMPTS_MAX:
        return Next("parked", attempts, now_ms, reason)
    wait_ms = max(backoff_ms(attempts, order_id=delivery.order_id), min(answer.wait_ms, WAIT_MAX_MS))
    return Next("due", attempts, now_ms + wait_ms, reason)


def backoff_ms(attempts: int, *, order_id: str) -> int:
    """How long to wait after that many failed attempts (from 1).

    The jitter follows from the order id, so that deliveries that failed together do not come back together.
    """
    wait_ms = BACKOFF_SECONDS[min(attempts, len(BACKOFF_SECONDS)) - 1] * 1_000
    return wait_ms + crc32(f"{order_id}|{attempts}".encode()) % (wait_ms // _JITTER_SHARE)
