"""The recharge's transaction on any engine: guards in the WHERE clause, lost insert races told by savepoints."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.activity.orders import QuotaOrder
from bigmarket.activity.quota import Account, Counts
from bigmarket.storage.routing import part_of
from bigmarket.storage.schema import raffle_activity_account as account_table
from bigmarket.storage.schema import raffle_activity_order, sku_stock

_ORDER_FIELDS = (
    "order_id",
    "user_id",
    "activity_id",
    "sku",
    "pay_cents",
    "state",
    "out_business_no",
    "order_time_ms",
)

# Columns of the account's row by the attributes of Account.
_ACCOUNT_COLUMNS = {
    "total_count": account_table.c.total_count,
    "total_left": account_table.c.total_count_surplus,
    "month": account_table.c.month,
    "month_count": account_table.c.month_count,
    "month_left": account_table.c.month_count_surplus,
    "day": account_table.c.day,
    "day_count": account_table.c.day_count,
    "day_left": account_table.c.day_count_surplus,
}


class SqlRechargeTx:
    """``RechargeTx`` (activity/orders.py) of the users whose tables have ``suffix``, on an open transaction."""

    def __init__(self, connection: Connection, *, suffix: str = "") -> None:
        self._connection = connection
        self._orders = part_of(raffle_activity_order, suffix)

    def find_order(self, out_business_no: str) -> QuotaOrder | None:
        """The order that used this ``out_business_no``."""
        row = self._connection.execute(
            select(self._orders).where(self._orders.c.out_business_no == out_business_no)
        ).one_or_none()
        if row is None:
            return None
        counts = Counts(row.total_count, row.month_count, row.day_count)
        return QuotaOrder(counts=counts, **{name: getattr(row, name) for name in _ORDER_FIELDS})

    def has_stock_row(self, sku: int) -> bool:
        """Whether the sku has a stock row here."""
        return self._connection.execute(select(sku_stock.c.sku).where(sku_stock.c.sku == sku)).first() is not None

    def insert_order(self, order: QuotaOrder) -> bool:
        """Write the order; False when its ``out_business_no`` was used meanwhile."""
        counts = {f"{name}_count": number for name, number in order.counts._asdict().items()}
        values = {name: getattr(order, name) for name in _ORDER_FIELDS}
        return self._inserted(insert(self._orders).values(**counts, **values))

    def load_account(self, user_id: str, *, activity_id: int) -> Account | None:
        """The account, locked where the engine locks rows."""
        query = select(*_ACCOUNT_COLUMNS.values()).where(_of(user_id, activity_id)).with_for_update()
        row = self._connection.execute(query).one_or_none()
        return None if row is None else Account(*row)

    def insert_account(self, account: Account, *, user_id: str, activity_id: int) -> bool:
        """Open the account; False when it was opened meanwhile."""
        return self._inserted(insert(account_table).values(user_id=user_id, activity_id=activity_id, **_row(account)))

    def update_account(self, account: Account, *, before: Account, user_id: str, activity_id: int) -> bool:
        """Write the account; False when its row was no longer as ``before``."""
        unchanged = [column == getattr(before, name) for name, column in _ACCOUNT_COLUMNS.items()]
        change = update(account_table).where(_of(user_id, activity_id), *unchanged).values(_row(account))
        return self._connection.execute(change).rowcount == 1

    def take_unit(self, sku: int) -> bool:
        """Take one unit of the sku; False when none is left."""
        left = sku_stock.c.sold < sku_stock.c.alloc
        change = update(sku_stock).where(sku_stock.c.sku == sku, left).values(sold=sku_stock.c.sold + 1)
        return self._connection.execute(change).rowcount == 1

    def _inserted(self, statement: Insert) -> bool:
        """Run it; False when a unique key refuses, with the transaction as it was before."""
        try:
            with self._connection.begin_nested():
                self._connection.execute(statement)
        except IntegrityError:
            return False
        return True


def _of(user_id: str, activity_id: int) -> ColumnElement[bool]:
    return and_(account_table.c.user_id == user_id, account_table.c.activity_id == activity_id)


def _row(account: Account) -> dict[str, Any]:
    return {column.name: getattr(account, name) for name, column in _ACCOUNT_COLUMNS.items()}
