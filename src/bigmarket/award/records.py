"""The consumer of ``send_award``: each award record is completed once, together with what its winner gets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from bigmarket.award.kinds import TASK_KINDS
from bigmarket.award.message import SendAward
from bigmarket.credit.model import CreditTrade
from bigmarket.errors import NotFound
from bigmarket.strategy import dice


class DeliveryTx(Protocol):
    """One write transaction of a user shard, as consumers need it."""

    def complete_records(self, order_ids: Sequence[str]) -> set[str]:
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

    def seed(self, activity_id: int, *, epoch: int) -> bytes:
        """The seed of the dice. Raises NotFound."""
        ...

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Turn the tasks into ``completed`` ones, whatever they were."""
        ...


def deliver_awards(tx: DeliveryTx, messages: Sequence[SendAward], *, now_ms: int) -> None:
    """Complete the records of ``messages`` and give the winners what they won; repeats change nothing.

    Raises NotFound (no such record, kind or seed), BadInput (a config that the kind cannot read) or
    CreditAccountClosed; then the caller rolls back.
    """
    owed = {message.order_id: message for message in messages}
    completed = tx.complete_records(sorted(owed))
    trades = [_effect(tx, message) for order_id, message in owed.items() if order_id in completed]
    if trades:
        tx.add_credits(trades, now_ms=now_ms)


def _effect(tx: DeliveryTx, message: SendAward) -> CreditTrade:
    kind = TASK_KINDS.get(message.award_key)
    if kind is None:
        raise NotFound(f"No kind {message.award_key!r} is delivered by a task.")
    seed = tx.seed(message.activity_id, epoch=message.epoch)
    return kind.effect(message, roll=partial(roll_credit, seed, message.order_id))


def roll_credit(seed: bytes, order_id: str, faces: int) -> int:
    """The order's roll for its amount; whoever explains the order rolls it again."""
    return dice.roll(seed, order_id, purpose="credit", faces=faces)
