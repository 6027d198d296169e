"""Topic -> function: who does what a message asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from bigmarket.activity import message as activity
from bigmarket.activity.delivery import DeliveryTx, Facts, complete_paid_orders, deliver_awards
from bigmarket.activity.rebates import deliver_rebates
from bigmarket.activity.stock import SKUS, StockKey, StockShort
from bigmarket.award.message import SEND_AWARD, decode
from bigmarket.bus.in_process import Consumer
from bigmarket.credit import message as credit
from bigmarket.rebate.message import SEND_REBATE
from bigmarket.rebate.message import decode as decode_rebate

log = structlog.get_logger(__name__)


def send_award(tx: DeliveryTx, messages: Sequence[bytes], *, now_ms: int, facts: Facts) -> None:
    """Give the winners what they won."""
    deliver_awards(tx, [decode(message) for message in messages], now_ms=now_ms, facts=facts)


def send_rebate(tx: DeliveryTx, messages: Sequence[bytes], *, now_ms: int, facts: Facts) -> None:
    """Give users what their behavior earned."""
    deliver_rebates(tx, [decode_rebate(message) for message in messages], now_ms=now_ms, facts=facts)


def credit_adjust_success(tx: DeliveryTx, messages: Sequence[bytes], *, now_ms: int, facts: Facts) -> None:
    """Complete the orders that these movements of credits paid for, if they did."""
    trades = [credit.decode(message) for message in messages]
    payers = {trade.user_id for trade in trades if trade.amount < 0}
    if payers:
        complete_paid_orders(tx, payers, now_ms=now_ms, facts=facts)


def activity_sku_stock_zero(tx: DeliveryTx, messages: Sequence[bytes], *, now_ms: int, facts: Facts) -> None:  # noqa: ARG001
    """Tell operators of skus that are sold out: a line in the log, to be matched by an alarm, and a count.

    There is nothing to tell when units are left or have come back. Where other shards may have some, they are fetched
    first (``StockShort``). Nothing is written to the database: a repeated message is told again, which does no harm.
    """
    told = [activity.decode(message) for message in messages]
    skus = {one.sku: one.activity_id for one in told}
    left = tx.units_left(dict.fromkeys(skus, 1))
    empty = [sku for sku in sorted(skus) if not left.get(sku)]
    elsewhere: dict[StockKey, list[str]] = {
        (SKUS, sku): [one.message_id for one in told if one.sku == sku]
        for sku in empty
        if not facts.sold_out((SKUS, sku), 0)
    }
    if elsewhere:
        raise StockShort(elsewhere)
    for sku in empty:
        log.warning("sku sold out", sku=sku, activity_id=skus[sku])
        facts.note_sold_out()


CONSUMERS: Mapping[str, Consumer] = {
    SEND_AWARD: send_award,
    SEND_REBATE: send_rebate,
    credit.CREDIT_ADJUST_SUCCESS: credit_adjust_success,
    activity.ACTIVITY_SKU_STOCK_ZERO: activity_sku_stock_zero,
}
