"""Recharge an account: one unit of a sku becomes draws, once per ``out_business_no``.

An order may also be placed now and paid later (exchange.py): it holds a unit until it is paid or expires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from bigmarket.activity.admission import open_activity
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Account, Bundle, Counts, Period, credit, empty_account, period_of, roll_over
from bigmarket.credit.model import clean_number
from bigmarket.errors import (
    BadInput,
    Contention,
    Duplicate,
    NotArmed,
    NotFound,
    SkuSoldOut,
)
from bigmarket.text import KEY_MAX, clean_text

SKU_MAX = 2**63 - 1
ATTEMPTS_MAX = 3  # to credit an account that others change at the same time

OrderState = Literal["wait_pay", "completed", "expired"]


@dataclass(frozen=True, slots=True)
class QuotaOrder:
    """One recharge; ``repeated`` when it was answered from an earlier request with the same ``out_business_no``."""

    order_id: str
    user_id: str
    activity_id: int
    sku: int
    counts: Counts
    pay_cents: int
    state: OrderState
    out_business_no: str
    order_time_ms: int
    repeated: bool = False


class RechargeTx(Protocol):
    """One write transaction of a user shard, as a recharge needs it. Each guard is part of its statement."""

    def find_order(self, out_business_no: str) -> QuotaOrder | None:
        """The order that used this ``out_business_no``."""
        ...

    def has_stock_row(self, sku: int) -> bool:
        """Whether units of the sku were ever put into this shard (armory does that)."""
        ...

    def insert_order(self, order: QuotaOrder) -> bool:
        """Write the order; False when its ``out_business_no`` was used meanwhile."""
        ...

    def load_account(self, user_id: str, *, activity_id: int) -> Account | None:
        """The account, locked until the transaction ends."""
        ...

    def find_waiting(self, user_id: str, *, sku: int) -> QuotaOrder | None:
        """The user's order of this sku that waits for its payment."""
        ...

    def insert_waiting(self, order: QuotaOrder, *, expire_at_ms: int) -> bool:
        """Write down that the order waits; False when another one of that user and sku does."""
        ...

    def is_traded(self, out_business_no: str) -> bool:
        """Whether a credit order used this ``out_business_no``."""
        ...

    def insert_account(self, account: Account, *, user_id: str, activity_id: int) -> bool:
        """Open the account; False when it was opened meanwhile."""
        ...

    def update_account(self, account: Account, *, before: Account, user_id: str, activity_id: int) -> bool:
        """Write the account; False when its row was no longer as ``before``."""
        ...

    def take_unit(self, order: QuotaOrder) -> bool:
        """Take one unit of the order's sku; False when none is left. Of the last one a task tells (message.py)."""
        ...


def recharge(
    tx: RechargeTx,
    *,
    user_id: str,
    sku: int,
    out_business_no: str,
    now_ms: int,
    order_id: str,
    live: Mapping[int, LiveActivity],
    bundle_of: Callable[[int], Bundle | None],
) -> QuotaOrder:
    """Take one unit of ``sku`` and credit its draws to the user; the caller commits, or rolls back what is raised.

    ``bundle_of`` says what a sku credits. The same ``out_business_no`` gives the same order again. Raises, in this
    order: BadInput; Duplicate (it was used for another user or sku); NotFound (sku, activity); ActivityClosed;
    OutOfWindow; NotArmed; SkuSoldOut; Contention.
    """
    user_id, out_business_no = _cleaned(user_id, sku, out_business_no)
    earlier = tx.find_order(out_business_no)
    if earlier is not None:
        return _repeat(earlier, user_id=user_id, sku=sku)
    bundle = bundle_of(sku)
    if bundle is None:
        raise NotFound(f"There is no sku {sku}.")
    activity = _ordered_from(tx, bundle, live=live, now_ms=now_ms)
    order = QuotaOrder(
        order_id,
        user_id,
        bundle.activity_id,
        sku,
        bundle.counts,
        0,
        "completed",
        out_business_no,
        now_ms,
    )
    return _complete(tx, order, period=period_of(now_ms, zone=activity.zone))


def place(
    tx: RechargeTx,
    *,
    user_id: str,
    sku: int,
    out_business_no: str,
    now_ms: int,
    expire_at_ms: int,
    order_id: str,
    live: Mapping[int, LiveActivity],
    bundle_of: Callable[[int], Bundle | None],
) -> QuotaOrder:
    """Take one unit of ``sku`` for the user until ``expire_at_ms``; its draws come with the payment.

    A user has one order of a sku waiting at most: another one is answered with it. Raises as ``recharge``, BadInput
    for a sku that is not for sale, and Duplicate when a credit order has that number.
    """
    user_id, out_business_no = _cleaned(user_id, sku, out_business_no)
    earlier = tx.find_order(out_business_no)
    if earlier is not None:
        return _repeat(earlier, user_id=user_id, sku=sku)
    if tx.is_traded(out_business_no):
        raise Duplicate("This out_business_no was used for credits before; use a new one for each order.")
    waiting = tx.find_waiting(user_id, sku=sku)
    if waiting is not None:
        return replace(waiting, repeated=True)
    bundle = for_sale(sku, bundle_of(sku))
    _ordered_from(tx, bundle, live=live, now_ms=now_ms)
    price = bundle.price_cents
    order = QuotaOrder(
        order_id,
        user_id,
        bundle.activity_id,
        sku,
        bundle.counts,
        price,
        "wait_pay",
        out_business_no,
        now_ms,
    )
    if not (tx.insert_order(order) and tx.insert_waiting(order, expire_at_ms=expire_at_ms)):
        raise Contention("Another order of this user or number was placed meanwhile; nothing was spent. Try again.")
    if not tx.take_unit(order):
        raise SkuSoldOut(f"Sku {sku} is sold out.")
    return order


def for_sale(sku: int, bundle: Bundle | None) -> Bundle:
    """The bundle if it can be bought. Raises NotFound or BadInput.

    Without a price it is no gift: what a sign-in earns is a sku too, and nobody may help themselves to it.
    """
    if bundle is None:
        raise NotFound(f"There is no sku {sku} in any armed activity.")
    if not bundle.price_cents:
        raise BadInput(f"Sku {sku} is not for sale: it has no price.")
    return bundle


def _cleaned(user_id: str, sku: int, out_business_no: str) -> tuple[str, str]:
    user_id = clean_text(user_id, name="user_id", max_length=KEY_MAX)
    out_business_no = clean_number(out_business_no)
    if not 1 <= sku <= SKU_MAX:
        raise BadInput("sku must be a positive 64-bit number.")
    return user_id, out_business_no


def _ordered_from(tx: RechargeTx, bundle: Bundle, *, live: Mapping[int, LiveActivity], now_ms: int) -> LiveActivity:
    """The activity, if its skus can be ordered now."""
    activity, _ = open_activity(bundle.activity_id, live=live, now_ms=now_ms)
    if not tx.has_stock_row(bundle.sku):
        raise NotArmed(f"Sku {bundle.sku} has no stock yet; run: bigmarket armory {bundle.activity_id}")
    return activity


def _repeat(earlier: QuotaOrder, *, user_id: str, sku: int) -> QuotaOrder:
    if (earlier.user_id, earlier.sku) != (user_id, sku):
        raise Duplicate("This out_business_no was used for another user or sku; use a new one for each recharge.")
    return replace(earlier, repeated=True)


def _complete(tx: RechargeTx, order: QuotaOrder, *, period: Period) -> QuotaOrder:
    """Idempotency row first, hot stock row last."""
    if not tx.insert_order(order):
        earlier = tx.find_order(order.out_business_no)
        if earlier is None:  # whoever wrote it has rolled back since
            raise Contention("Another recharge used this out_business_no; nothing was spent. Try again.")
        return _repeat(earlier, user_id=order.user_id, sku=order.sku)
    _credit_account(tx, order, period=period)
    if not tx.take_unit(order):
        raise SkuSoldOut(f"Sku {order.sku} is sold out.")
    return order


def _credit_account(tx: RechargeTx, order: QuotaOrder, *, period: Period) -> None:
    """Open the account or roll it over, and add the draws; again when somebody else was faster."""
    user_id, activity_id = order.user_id, order.activity_id
    for _ in range(ATTEMPTS_MAX):
        before = tx.load_account(user_id, activity_id=activity_id)
        account = copy(before) if before else empty_account(period)
        roll_over(account, period)
        credit(account, order.counts)
        if before is None:
            written = tx.insert_account(account, user_id=user_id, activity_id=activity_id)
        else:
            written = tx.update_account(account, before=before, user_id=user_id, activity_id=activity_id)
        if written:
            return
    raise Contention("Others kept changing this account; nothing was spent. Try again.")
