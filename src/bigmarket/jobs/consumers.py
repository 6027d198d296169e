"""Topic -> function: who does what a message asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bigmarket.award.message import SEND_AWARD, decode
from bigmarket.award.records import DeliveryTx, SeedOf, deliver_awards
from bigmarket.bus.in_process import Consumer


def send_award(tx: DeliveryTx, messages: Sequence[bytes], *, now_ms: int, seed_of: SeedOf) -> None:
    """Give the winners what they won."""
    deliver_awards(tx, [decode(message) for message in messages], now_ms=now_ms, seed_of=seed_of)


CONSUMERS: Mapping[str, Consumer] = {SEND_AWARD: send_award}
