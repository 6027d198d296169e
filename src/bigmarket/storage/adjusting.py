"""Credits that somebody outside moves, and whether a user's may move at all. Each in its caller's transaction.

The credit account is locked first, as exchanges do, so that whoever pays for an order does it once.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from bigmarket.credit.message import CREDIT_ADJUST_SUCCESS, CreditAdjustSuccess, encode
from bigmarket.credit.model import AccountStatus, CreditAccountClosed, CreditOrder, CreditShort, in_credits
from bigmarket.errors import BadInput, Contention, Duplicate, NotFound
from bigmarket.outbox.task import Task
from bigmarket.storage.mysql_bulk import BY_KEY
from bigmarket.storage.routing import SplitTables
from bigmarket.storage.schema import (
    raffle_activity_order,
    unpaid_order,
    user_credit_account,
    user_credit_order,
)
from bigmarket.storage.tasks import write_task

CENTS = Decimal("0.01")
_account = user_credit_account.c


def adjust(connection: Connection, order: CreditOrder, *, split: SplitTables) -> CreditOrder:
    """Give or take points, once per ``out_business_no``, and leave the task that tells of it.

    Raises Duplicate (the number was used for something else), CreditAccountClosed, CreditShort, BadInput (an order
    with that number has another price) or Contention.
    """
    account = _locked(connection, order.user_id)
    earlier = _earlier(connection, order, split=split)
    if earlier is not None:
        return earlier
    if account is not None and account["account_status"] != "open":
        raise CreditAccountClosed("The user's credit account is not open; nothing was moved.")
    _match_order(connection, order, split=split)
    _write(connection, order, split=split)
    if order.amount_cents > 0:
        _give(connection, order, opened=account is not None)
    else:
        _take(connection, order, available_cents=account["available_cents"] if account else 0)
    return order


def set_status(connection: Connection, user_id: str, *, status: AccountStatus) -> None:
    """Open or close a user's credit account. Raises NotFound; an account is opened by the first points."""
    change = update(user_credit_account).where(_account.user_id == user_id).values(account_status=status)
    if _locked(connection, user_id) is None:
        raise NotFound(f"The user {user_id} has no credit account yet.")
    connection.execute(change)


def _locked(connection: Connection, user_id: str) -> RowMapping | None:
    query = select(_account.available_cents, _account.account_status).where(_account.user_id == user_id)
    return connection.execute(query.with_for_update()).mappings().one_or_none()


def _earlier(connection: Connection, order: CreditOrder, *, split: SplitTables) -> CreditOrder | None:
    """What the same number came to before. Raises Duplicate when that was something else."""
    table = split.table_of(user_credit_order, order.user_id)
    row = connection.execute(select(table).where(table.c.out_business_no == order.out_business_no)).one_or_none()
    if row is None:
        return None
    asked = (order.user_id, order.trade_name, order.amount_cents, order.reason)
    if (row.user_id, row.trade_name, row.amount_cents, row.reason) != asked:
        raise Duplicate("This out_business_no was used for another movement of credits; use a new one for each.")
    return replace(order, order_id=row.order_id, create_time_ms=row.create_time_ms, repeated=True)


def _match_order(connection: Connection, order: CreditOrder, *, split: SplitTables) -> None:
    """The number may be that of an order that waits, which is locked here: then this is its payment, exactly."""
    waiting, quota = unpaid_order.c, split.table_of(raffle_activity_order, order.user_id)
    lock = select(waiting.order_id).with_hint(unpaid_order, BY_KEY, "mysql").with_for_update()
    connection.execute(lock.where(waiting.user_id == order.user_id, waiting.out_business_no == order.out_business_no))
    columns = (quota.c.user_id, quota.c.state, quota.c.pay_cents)
    row = connection.execute(select(*columns).where(quota.c.out_business_no == order.out_business_no)).one_or_none()
    if row is None:
        return
    if row.user_id != order.user_id or row.state != "wait_pay":
        state = row.state if row.user_id == order.user_id else "another user's"
        raise Duplicate(f"This out_business_no is that of an order, which is {state}; use another number.")
    if order.amount_cents != -row.pay_cents:
        raise BadInput(
            f"An order with this out_business_no waits for {in_credits(row.pay_cents)} credits; take exactly so "
            "many, or use another number."
        )


def _write(connection: Connection, order: CreditOrder, *, split: SplitTables) -> None:
    """The order, which carries the idempotency key, and the task."""
    row = {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "trade_name": order.trade_name,
        "trade_type": "forward" if order.amount_cents > 0 else "reverse",
        "amount_cents": order.amount_cents,
        "out_business_no": order.out_business_no,
        "create_time_ms": order.create_time_ms,
        "reason": order.reason,
    }
    try:
        with connection.begin_nested():
            connection.execute(insert(split.table_of(user_credit_order, order.user_id)).values(row))
    except IntegrityError:
        raise Contention("Another request used this out_business_no; nothing was moved. Try again.") from None
    message = CreditAdjustSuccess(order.user_id, order.order_id, order.amount_cents * CENTS, order.out_business_no)
    told = Task(order.order_id, order.user_id, CREDIT_ADJUST_SUCCESS, encode(message))
    write_task(connection, told, due_ms=order.create_time_ms)


def _give(connection: Connection, order: CreditOrder, *, opened: bool) -> None:
    cents = order.amount_cents
    if not opened:
        row = {"user_id": order.user_id, "total_cents": cents, "available_cents": cents}
        try:
            with connection.begin_nested():
                connection.execute(insert(user_credit_account).values(row))
        except IntegrityError:
            raise Contention("The user's credit account was opened meanwhile. Try again.") from None
        return
    more = {"total_cents": _account.total_cents + cents, "available_cents": _account.available_cents + cents}
    this = (_account.user_id == order.user_id, _account.account_status == "open")
    if connection.execute(update(user_credit_account).where(*this).values(more)).rowcount != 1:
        raise Contention("The user's credit account changed meanwhile; nothing was moved. Try again.")


def _take(connection: Connection, order: CreditOrder, *, available_cents: int) -> None:
    cents = -order.amount_cents
    this = (
        _account.user_id == order.user_id,
        _account.account_status == "open",
        _account.available_cents >= cents,
    )
    change = update(user_credit_account).where(*this).values(available_cents=_account.available_cents - cents)
    if connection.execute(change).rowcount != 1:
        raise CreditShort(f"{in_credits(cents)} credits were to be taken; {in_credits(available_cents)} are left.")
