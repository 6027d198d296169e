"""Recharge an account: one unit of a sku becomes draws, once per ``out_business_no``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from bigmarket.activity.admission import open_activity
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Account, Counts, Period, credit, empty_account, period_of, roll_over
from bigmarket.errors import (
    BadInput,
    Contention,
    Duplicate,
    NotArmed,
    NotFound,
    SkuSoldOut,
)
from bigmarket.text import clean_text

KEY_MAX = 128  # characters of a user id or an out_business_no
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


class Bundle(NamedTuple):
    """What one unit of a sku credits, and in which activity."""

    sku: int
    activity_id: int
    counts: Counts


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

    def insert_account(self, account: Account, *, user_id: str, activity_id: int) -> bool:
        """Open the account; False when it was opened meanwhile."""
        ...

    def update_account(self, account: Account, *, before: Account, user_id: str, activity_id: int) -> bool:
        """Write the account; False when its row was no longer as ``before``."""
        ...

    def take_unit(self, sku: int) -> bool:
        """Take one unit of the sku; False when none is left."""
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
    user_id = clean_text(user_id, name="user_id", max_length=KEY_MAX)
    out_business_no = clean_text(out_business_no, name="out_business_no", max_length=KEY_MAX)
    if not 1 <= sku <= SKU_MAX:
        raise BadInput("sku must be a positive 64-bit number.")
    earlier = tx.find_order(out_business_no)
    if earlier is not None:
        return _repeat(earlier, user_id=user_id, sku=sku)
    bundle = bundle_of(sku)
    if bundle is None:
        raise NotFound(f"There is no sku {sku}.")
    activity, _ = open_activity(bundle.activity_id, live=live, now_ms=now_ms)
    if not tx.has_stock_row(sku):
        raise NotArmed(f"Sku {sku} has no stock yet; run: bigmarket armory {bundle.activity_id}")
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
    if not tx.take_unit(order.sku):
        raise SkuSoldOut(f"Sku {order.sku} is sold out.")
    return order


def _credit_account(tx: RechargeTx, order: QuotaOrder, *, period: Period) -> None:
    """Open the account or roll it over, and add the draws; again when somebody else was faster."""
    user_id, activity_id = order.user_id, order.activity_id
    for _ in range(ATTEMPTS_MAX):
        before = tx.load_account(user_id, activity_id=activity_id)
        account = replace(before) if before else empty_account(period)
        roll_over(account, period)
        credit(account, order.counts)
        if before is None:
            written = tx.insert_account(account, user_id=user_id, activity_id=activity_id)
        else:
            written = tx.update_account(account, before=before, user_id=user_id, activity_id=activity_id)
        if written:
            return
    raise Contention("Others kept changing this account; nothing was spent. Try again.")
