"""The exchange's transaction on any engine: the order of its statements, which an engine's own file words.

Guards stay in the statements although the credit accounts are locked: they are what the promise rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigmarket.activity.exchange import Exchanged, ExchangeRequest, ExchangeSnapshot, Purchases
from bigmarket.activity.quota import Counts
from bigmarket.activity.stock import GuardMissed
from bigmarket.credit.model import CreditAccount, CreditTrade
from bigmarket.storage.bulk import Bulk, Row
from bigmarket.storage.delivery_tx import DeliveryStatements, SqlDeliveryTx
from bigmarket.storage.routing import SplitTables, at, user_first


@dataclass(frozen=True, slots=True)
class ExchangeStatements:
    """The templates of one engine (bulk.py) that a delivery has not. ``load_credit_accounts`` locks."""

    load_credit_accounts: str
    load_purchases: str
    find_payments: str
    pay: str


class SqlExchangeTx(SqlDeliveryTx):
    """``ExchangeTx`` (activity/exchange.py) on an open transaction."""

    def __init__(
        self, bulk: Bulk, delivery: DeliveryStatements, statements: ExchangeStatements, *, split: SplitTables
    ) -> None:
        super().__init__(bulk, delivery, split=split)
        self._own = statements

    def load(self, requests: Sequence[ExchangeRequest]) -> ExchangeSnapshot:
        """Credit accounts, waiting orders and earlier purchases of the batch's users."""
        users = sorted({request.user_id for request in requests})  # everybody locks in this order
        found = self._bulk.select(self._own.load_credit_accounts, [(user_id,) for user_id in users])
        accounts = {user_id: CreditAccount(cents, status) for user_id, cents, status in found}
        waiting = {(order.user_id, order.sku): order for order in self.waiting_orders(users)}
        repeats = sorted({(r.user_id, r.out_business_no) for r in requests if r.request_id is not None})
        earlier: dict[str, Exchanged | None] = {}
        for suffix, some in self._split.parts(repeats, user_first):
            numbers = [(number,) for _, number in some]
            rows = self._bulk.select(at(self._own.load_purchases, suffix), numbers)
            earlier |= {row[0]: _purchase(row) for row in rows}
        return ExchangeSnapshot(accounts, waiting, earlier)

    def apply(self, purchases: Purchases) -> None:
        """Idempotency rows first, hot stock rows last."""
        now_ms = purchases.now_ms
        self._insert_trades(purchases.payments, now_ms=now_ms)
        self._insert_orders(purchases.bought, now_ms=now_ms)
        self._settle_orders(purchases.paid)
        self._pay(purchases.payments)
        self._credit_draws([*purchases.bought, *purchases.paid])
        self._take_units(purchases.bought, now_ms=now_ms)

    def find_payments(self, purchases: Sequence[Exchanged]) -> Mapping[str, str]:
        """The out_business_no of each payment that is written, by order id."""
        found: dict[str, str] = {}
        for suffix, some in self._split.parts(purchases, lambda made: made.user_id):
            keys = sorted({(made.order_id,) for made in some})
            found |= dict(self._bulk.select(at(self._own.find_payments, suffix), keys))
        return found

    def _pay(self, payments: Sequence[CreditTrade]) -> None:
        """Each account once."""
        prices: dict[str, int] = {}
        for payment in payments:
            prices[payment.user_id] = prices.get(payment.user_id, 0) - payment.amount_cents
        rows: Sequence[Row] = sorted(prices.items())
        if self._bulk.write(self._own.pay, rows) != len(rows):
            raise GuardMissed("user_credit_account")


def _purchase(row: list[Any]) -> Exchanged | None:
    """The quota order of a payment; None when that paid for something else."""
    number, order_id, user_id, activity_id, sku, total, month, day, pay_cents = row
    if order_id is None:
        return None
    return Exchanged(order_id, user_id, activity_id, sku, Counts(total, month, day), pay_cents, number)
