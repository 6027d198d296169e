"""Unpaid orders whose time is over: they expire, and their units come back. Each in its caller's transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from bigmarket.errors import Contention
from bigmarket.storage.routing import SplitTables
from bigmarket.storage.schema import raffle_activity_order, sku_stock, unpaid_order, user_credit_order


class Unpaid(NamedTuple):
    """A row of ``unpaid_order``."""

    user_id: str
    sku: int
    order_id: str


def overdue(connection: Connection, *, now_ms: int, limit: int) -> list[Unpaid]:
    """Up to ``limit`` orders whose time is over, the oldest first."""
    waiting = unpaid_order.c
    query = select(waiting.user_id, waiting.sku, waiting.order_id).where(waiting.expire_at_ms <= now_ms)
    rows = connection.execute(query.order_by(waiting.expire_at_ms).limit(limit))
    return [Unpaid(*row) for row in rows]


def expire(connection: Connection, orders: Sequence[Unpaid], *, split: SplitTables) -> int:
    """Expire those that still wait and were not paid; how many. Raises Contention."""
    returned: Counter[int] = Counter()
    for order in sorted(orders):  # as exchanges lock them
        if _still_waits(connection, order) and not _is_paid(connection, order, split=split):
            _end(connection, order, split=split)
            returned[order.sku] += 1
    for sku, units in sorted(returned.items()):  # hot rows last
        _give_back(connection, sku, units)
    return returned.total()


def _give_back(connection: Connection, sku: int, units: int) -> None:
    """Sold units become fewer; of a sku without stock here, which only an import may bring, none were counted."""
    stock = sku_stock.c
    change = update(sku_stock).where(stock.sku == sku, stock.sold >= units).values(sold=stock.sold - units)
    if (
        connection.execute(change).rowcount != 1
        and connection.execute(select(stock.sku).where(stock.sku == sku)).first()
    ):
        raise Contention(f"Sku {sku} has fewer units sold than orders that expire; nothing was changed.")


def _still_waits(connection: Connection, order: Unpaid) -> bool:
    """Whether it does; then nobody can pay for it until the transaction ends."""
    waiting = unpaid_order.c
    query = select(waiting.order_id).where(waiting.user_id == order.user_id, waiting.sku == order.sku)
    return connection.execute(query.with_for_update()).scalar_one_or_none() == order.order_id


def _is_paid(connection: Connection, order: Unpaid, *, split: SplitTables) -> bool:
    """Whether its payment came by itself; then it is to be completed (activity/delivery.py)."""
    quota = split.table_of(raffle_activity_order, order.user_id).c
    trade = split.table_of(user_credit_order, order.user_id).c
    query = select(trade.order_id).where(
        quota.order_id == order.order_id,
        trade.out_business_no == quota.out_business_no,
        trade.user_id == quota.user_id,
        trade.amount_cents == -quota.pay_cents,
    )
    return connection.execute(query).first() is not None


def _end(connection: Connection, order: Unpaid, *, split: SplitTables) -> None:
    """``wait_pay`` -> ``expired``, and it waits no more."""
    quota, waiting = split.table_of(raffle_activity_order, order.user_id), unpaid_order.c
    this = (quota.c.order_id == order.order_id, quota.c.state == "wait_pay")
    ended = connection.execute(update(quota).where(*this).values(state="expired")).rowcount
    row = (waiting.user_id == order.user_id, waiting.sku == order.sku, waiting.order_id == order.order_id)
    if ended != 1 or connection.execute(delete(unpaid_order).where(*row)).rowcount != 1:
        raise Contention("A waiting order changed although it was locked; nothing was changed.")
