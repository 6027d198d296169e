"""The recharge's transaction on any engine: guards in the WHERE clause, lost insert races told by savepoints."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.activity.message import sold_out_task
from bigmarket.activity.orders import QuotaOrder
from bigmarket.activity.quota import Account, Counts
from bigmarket.storage.delivery_tx import SCARCE
from bigmarket.storage.routing import part_of
from bigmarket.storage.schema import raffle_activity_account as account_table
from bigmarket.storage.schema import raffle_activity_order, sku_stock, unpaid_order, user_credit_order
from bigmarket.storage.tasks import write_task

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
        self._trades = part_of(user_credit_order, suffix)

    def find_order(self, out_business_no: str) -> QuotaOrder | None:
        """The order that used this ``out_business_no``."""
        return self._order(self._orders.c.out_business_no == out_business_no)

    def find_waiting(self, user_id: str, *, sku: int) -> QuotaOrder | None:
        """The user's order of this sku that waits for its payment."""
        waiting = select(unpaid_order.c.order_id).where(unpaid_order.c.user_id == user_id, unpaid_order.c.sku == sku)
        return self._order(self._orders.c.order_id == waiting.scalar_subquery())

    def is_traded(self, out_business_no: str) -> bool:
        """Whether a credit order used this ``out_business_no``."""
        query = select(self._trades.c.order_id).where(self._trades.c.out_business_no == out_business_no)
        return self._connection.execute(query).first() is not None

    def has_stock_row(self, sku: int) -> bool:
        """Whether the sku has a stock row here; one of which few are left is locked now, as exchanges do."""
        query = select(sku_stock.c.alloc - sku_stock.c.sold).where(sku_stock.c.sku == sku)
        left = self._connection.execute(query).scalar_one_or_none()
        if left is not None and 0 < left <= SCARCE:
            self._connection.execute(query.with_for_update()).all()
        return left is not None

    def insert_order(self, order: QuotaOrder) -> bool:
        """Write the order; False when its ``out_business_no`` was used meanwhile."""
        counts = {f"{name}_count": number for name, number in order.counts._asdict().items()}
        values = {name: getattr(order, name) for name in _ORDER_FIELDS}
        return self._inserted(insert(self._orders).values(**counts, **values))

    def insert_waiting(self, order: QuotaOrder, *, expire_at_ms: int) -> bool:
        """Write down that the order waits; False when another one of that user and sku does."""
        values = {name: getattr(order, name) for name in ("user_id", "sku", "order_id", "out_business_no")}
        return self._inserted(insert(unpaid_order).values(**values, expire_at_ms=expire_at_ms))

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

    def take_unit(self, order: QuotaOrder) -> bool:
        """Take one unit of the order's sku; False when none is left. Of the last one a task tells."""
        stock, this = sku_stock.c, sku_stock.c.sku == order.sku
        change = update(sku_stock).where(this, stock.sold < stock.alloc).values(sold=stock.sold + 1)
        if self._connection.execute(change).rowcount != 1:
            return False
        if self._connection.execute(select(stock.sku).where(this, stock.sold == stock.alloc)).first():
            told = sold_out_task(
                order.sku, activity_id=order.activity_id, user_id=order.user_id, order_id=order.order_id
            )
            write_task(self._connection, told, due_ms=order.order_time_ms)
        return True

    def _order(self, this: ColumnElement[bool]) -> QuotaOrder | None:
        row = self._connection.execute(select(self._orders).where(this)).one_or_none()
        if row is None:
            return None
        counts = Counts(row.total_count, row.month_count, row.day_count)
        return QuotaOrder(counts=counts, **{name: getattr(row, name) for name in _ORDER_FIELDS})

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
