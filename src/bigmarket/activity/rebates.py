"""Giving rebates: what the messages of ``send_rebate`` come to, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bigmarket.activity.delivery import DeliveryTx, DrawGrant, Facts, SettledRebate
from bigmarket.activity.stock import SKUS, StockKey, StockShort
from bigmarket.credit.model import CreditTrade
from bigmarket.errors import BadInput, NotArmed
from bigmarket.rebate.message import SendRebate

CENTS = 100  # in a credit


def deliver_rebates(tx: DeliveryTx, messages: Sequence[SendRebate], *, now_ms: int, facts: Facts) -> None:
    """Complete the rebate orders of ``messages`` and give what they are for; repeats change nothing.

    An order whose sku is sold out, or whose user's credit account is not open, ends as ``fail`` with that reason.

    Raises StockShort (units are missing here that other shards may have), NotFound (no such order, activity or sku),
    NotArmed (the sku has no stock yet), BadInput (a type or config that nobody can read); then the caller rolls back.
    """
    owed = {message.order_id: message for message in messages}
    waiting = tx.waiting_rebates(sorted((message.user_id, message.order_id) for message in owed.values()))
    due = [message for order_id, message in owed.items() if order_id in waiting]
    refused: dict[str, str] = {}  # by order id: why
    trades = _trades(
        tx, [m for m in due if m.rebate_type != "sku"], refused
    )  # first, as exchanges lock credits first
    grants = _grants(tx, [m for m in due if m.rebate_type == "sku"], refused, now_ms=now_ms, facts=facts)
    settled = [SettledRebate(m.user_id, m.order_id, refused.get(m.order_id)) for m in due]
    if settled:
        tx.settle_rebates(settled)
    if trades:
        tx.add_credits(trades, now_ms=now_ms)
    if grants:
        tx.add_draws(grants, now_ms=now_ms)


def _grants(
    tx: DeliveryTx, messages: Sequence[SendRebate], refused: dict[str, str], *, now_ms: int, facts: Facts
) -> list[DrawGrant]:
    """The draws that these rebates give, as far as there are units."""
    if not messages:
        return []
    skus = [_number(message) for message in messages]
    left = tx.units_left(Counter(skus))
    taken: Counter[int] = Counter()
    missed: dict[StockKey, list[str]] = {}
    grants = []
    for sku, message in zip(skus, messages, strict=True):
        if sku not in left:
            raise NotArmed(f"Sku {sku} has no stock yet; run: bigmarket armory {message.activity_id}")
        if taken[sku] >= left[sku]:
            missed.setdefault((SKUS, sku), []).append(message.order_id)
            refused[message.order_id] = f"Sku {sku} is sold out."
            continue
        taken[sku] += 1
        bundle = facts.bundle_of(message.activity_id, sku)
        period = facts.period_of(message.activity_id, now_ms)
        grants.append(DrawGrant(message.order_id, message.user_id, bundle, period, message.out_business_no))
    short = {key: asked for key, asked in missed.items() if not facts.sold_out(key, taken[key[1]])}
    if short:
        raise StockShort(short)
    return grants


def _trades(tx: DeliveryTx, messages: Sequence[SendRebate], refused: dict[str, str]) -> list[CreditTrade]:
    """The credits that these rebates give, to those whose account takes them."""
    closed = tx.closed_accounts({message.user_id for message in messages}) if messages else set()
    trades = []
    for message in messages:
        if message.rebate_type != "integral":
            raise BadInput(f"No rebate is of the type {message.rebate_type!r}.")
        if message.user_id in closed:
            refused[message.order_id] = "The user's credit account is not open."
            continue
        cents = _number(message) * CENTS
        trades.append(CreditTrade(message.order_id, message.user_id, "rebate", cents, message.out_business_no))
    return trades


def _number(message: SendRebate) -> int:
    config = message.rebate_config
    if not (config.isascii() and config.isdigit() and int(config) > 0):
        raise BadInput(f"A rebate of the type {message.rebate_type!r} cannot give {config!r}.")
    return int(config)
