"""The work after the draw: relays, consumers, dispatchers, jobs, and the leases that say which process does what."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bigmarket.jobs.dispatcher import Dispatcher
from bigmarket.jobs.schedule import Schedule
from bigmarket.outbox.relay import Relay
from bigmarket.storage.leases import Leases


class ConsumerStats(Protocol):
    """Counters since the start."""

    @property
    def consumed(self) -> int:
        """Messages whose effects are committed."""
        ...

    @property
    def failed(self) -> int:
        """Attempts that failed."""
        ...

    @property
    def parked(self) -> int:
        """Messages parked."""
        ...

    @property
    def troubles(self) -> int:
        """Times that the machinery failed."""
        ...


class Part(Protocol):
    """Anything that runs in threads of its own."""

    def start(self) -> None:
        """Begin; what it depends on need not be there yet."""
        ...

    def stop(self, *, timeout_seconds: float) -> bool:
        """Finish what is in hand; whether that was done in time."""
        ...


class BrokerConsumer(Part, Protocol):
    """A broker's consumer."""

    def stats(self) -> ConsumerStats:
        """Counters for metrics."""
        ...


class Outgoing(Protocol):
    """What a relay delivers by."""

    def close(self) -> None:
        """Close its connection; call it when nobody delivers any more."""
        ...


class Work(NamedTuple):
    """``outgoing`` are the connections that the relays deliver by, where a broker is used."""

    relays: Sequence[Relay]
    consumers: Sequence[BrokerConsumer]
    dispatchers: Sequence[Dispatcher]
    schedule: Schedule
    leases: Leases
    outgoing: Sequence[Outgoing]

    def start(self, *, relays_only: bool = False) -> None:
        """Begin. Relays alone deliver what this process hands them; they hold no lease, so they scan nothing."""
        parts: list[Part] = [*self.relays]
        if not relays_only:
            self.leases.start()
            parts += [*self.consumers, *self.dispatchers, self.schedule]
        for part in parts:
            part.start()

    def stop(self, *, timeout_seconds: float) -> bool:
        """Drain: no new job, the consumers finish their batch, the relays deliver what they hold, leases are let go.

        Whether all of that was done in time. A call of a webhook may last longer; it is repeated at the next start.
        """
        give_up_at = time.monotonic() + timeout_seconds
        drained = True
        parts: list[Part] = [self.schedule, *self.consumers, *self.relays, *self.dispatchers]
        for part in parts:
            drained = part.stop(timeout_seconds=max(0.0, give_up_at - time.monotonic())) and drained
        self.leases.stop()
        if drained:
            for outgoing in self.outgoing:
                outgoing.close()
        return drained


def relay_lease(shard: int) -> str:
    """The lease of the process that scans a shard's outbox, and dispatches its deliveries."""
    return f"relay:{shard}"
