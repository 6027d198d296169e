"""Which queues there are, on the default exchange.

::

    {prefix}{topic}             --reject, delivery limit-->  {prefix}{topic}.parked
    {prefix}{topic}.retry.{n}s  --after n seconds-->         {prefix}{topic}

All are durable quorum queues, bounded, and refuse what does not fit rather than drop it. Dead-lettering is at
least once: a message leaves its queue only when the next one has confirmed it. Declaring is idempotent; a queue of
that name with other arguments is an error, because a queue that is not replicated and flushed would break the promise
that what is confirmed is durable. The arguments are valid from RabbitMQ 3.10 to 4.x.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bigmarket.outbox.task import ATTEMPTS_MAX, BACKOFF_FACTOR, BACKOFF_MAX_MS, BACKOFF_MIN_MS

LENGTH_MAX = 1_000_000
DELIVERIES_MAX = 20  # a message that takes its consumer down with it ends up in the parking queue
LOOKS_MAX = 1_000_000  # of the parking queue: listing it delivers and returns its messages; 4.x would drop after 20

BACKOFF_MS = tuple(min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * BACKOFF_FACTOR**n) for n in range(ATTEMPTS_MAX - 1))

Arguments = Mapping[str, object]


def parked_queue(queue: str) -> str:
    """Where messages of ``queue`` go that cannot be understood or were delivered too often."""
    return f"{queue}.parked"


def retry_queue(queue: str, *, wait_ms: int) -> str:
    """Where a failed message of ``queue`` waits before it comes back."""
    return f"{queue}.retry.{wait_ms / 1000:g}s"


def queues(prefix: str, topics: Collection[str], *, backoff_ms: Sequence[int] = ()) -> dict[str, Arguments]:
    """Names and arguments of all queues; ``backoff_ms`` are the waits of the retry queues."""
    found: dict[str, Arguments] = {}
    for topic in topics:
        queue = f"{prefix}{topic}"
        parked = parked_queue(queue)
        found[parked] = _bounded() | {"x-delivery-limit": LOOKS_MAX}
        found[queue] = _bounded() | _dead_letters_to(parked) | {"x-delivery-limit": DELIVERIES_MAX}
        for wait_ms in backoff_ms:
            found[retry_queue(queue, wait_ms=wait_ms)] = (
                _bounded() | _dead_letters_to(queue) | {"x-message-ttl": wait_ms}
            )
    return found


def _bounded() -> dict[str, object]:
    return {"x-queue-type": "quorum", "x-max-length": LENGTH_MAX, "x-overflow": "reject-publish"}


def _dead_letters_to(queue: str) -> dict[str, object]:
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
    }
