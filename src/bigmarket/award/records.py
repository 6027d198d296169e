"""The consumer of ``send_award``: each award record is completed once, together with what its winner gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from bigmarket.award.kinds import TASK_KINDS
from bigmarket.award.message import SendAward
from bigmarket.credit.model import CreditTrade
from bigmarket.errors import NotFound
from bigmarket.strategy import dice

RecordKey = tuple[str, str]  # user_id, order_id
SeedOf = Callable[[int, int], bytes]  # the seed of an activity's epoch; raises NotFound


class DeliveryTx(Protocol):
    """One write transaction of a user shard, as consumers need it."""

    def complete_records(self, records: Sequence[RecordKey]) -> set[str]:
        """Turn ``create`` records into ``completed`` ones; the order ids of those that were ``create``.

        Only these may have effects, which is what makes a repeated message harmless. Raises NotFound for an order
        without a record.
        """
        ...

    def add_credits(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        """Write the orders and move the accounts, opening those that are missing.

        Raises CreditAccountClosed when an account is not open.
        """
        ...

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete the tasks, whatever state they are in."""
        ...


def deliver_awards(tx: DeliveryTx, messages: Sequence[SendAward], *, now_ms: int, seed_of: SeedOf) -> None:
    """Complete the records of ``messages`` and give the winners what they won; repeats change nothing.

    Raises NotFound (no such record, kind or seed), BadInput (a config that the kind cannot read) or
    CreditAccountClosed; then the caller rolls back.
    """
    owed = {message.order_id: message for message in messages}
    completed = tx.complete_records(sorted((message.user_id, message.order_id) for message in owed.values()))
    trades = [_effect(message, seed_of) for order_id, message in owed.items() if order_id in completed]
    if trades:
        tx.add_credits(trades, now_ms=now_ms)


def _effect(message: SendAward, seed_of: SeedOf) -> CreditTrade:
    kind = TASK_KINDS.get(message.award_key)
    if kind is None:
        raise NotFound(f"No kind {message.award_key!r} is delivered by a task.")
    seed = seed_of(message.activity_id, message.epoch)
    return kind.effect(message, roll=partial(roll_credit, seed, message.order_id))


def roll_credit(seed: bytes, order_id: str, faces: int) -> int:
    """The order's roll for its amount; whoever explains the order rolls it again."""
    return dice.roll(seed, order_id, purpose="credit", faces=faces)
