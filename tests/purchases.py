"""What tests of exchanges and orders need: skus that cost credits, users who have some, lanes to buy in."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from bigmarket.activity.campaign import Campaign, parse_campaign
from bigmarket.activity.exchange import Exchanged
from bigmarket.activity.orders import QuotaOrder, place
from bigmarket.app import KIND_CHECKS
from bigmarket.credit.model import CreditOrder, CreditTrade, adjustment
from bigmarket.desks import ExchangeDesk
from bigmarket.errors import BigmarketError
from bigmarket.lanes import LaneSet, LaneSettings, LaneShard
from bigmarket.storage.adjusting import adjust
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from support import IDS, NOON, SMALL, bundles

WAIT = 20.0
PLENTY, FEW, GIFT = 11, 12, 13  # 1000 units for 1.00; 5 units for 2.50; no price
PRICE, FEW_PRICE, FEW_UNITS = 100, 250, 5
MINUTE = 60_000
SOLD = SMALL.replace("{sku: 11, stock: 1000,", "{sku: 11, stock: 1000, price: 1,").replace(
    "{sku: 12, stock: 5,", "{sku: 13, stock: 9, total_count: 1, month_count: 1, day_count: 1}\n"
    '  - {sku: 12, stock: 5, price: "2.5",'
)  # fmt: skip


def shop(told: str = SOLD) -> Campaign:
    """The small campaign with prices."""
    return parse_campaign(told, kinds=KIND_CHECKS)


def earn(store: Store, user_id: str, cents: int) -> None:
    """Give the user so many credits."""
    number = IDS.make(NOON)
    with store.delivering() as tx:
        tx.add_credits([CreditTrade(number, user_id, "award", cents, number)], now_ms=NOON)


def lanes_on(store: Any, *, now_ms: int = NOON, lanes: int = 1) -> LaneSet[Exchanged]:
    """Lanes that exchange on ``store``."""
    with store.reading() as connection:
        live = load_live(connection, {})
    return LaneSet(
        [LaneShard(ExchangeDesk(store, live=lambda: live), lambda _: None)],
        shard_of=lambda _: 0,
        now_ms=lambda: now_ms,
        ids=IDS,
        settings=LaneSettings(lanes=lanes, queue_seconds=WAIT),
    )


Asked = tuple[str, int, str | None]  # user, sku, request id


def submit(lanes: LaneSet[Exchanged], asked: Sequence[Asked]) -> list[Future[Exchanged | BigmarketError]]:
    """Queue the requests, all at once."""
    futures: list[Future[Exchanged | BigmarketError]] = [Future() for _ in asked]
    for one, future in zip(asked, futures, strict=True):
        lanes.submit(*one, reply=future)
    return futures


def exchange(store: Any, *asked: Asked, now_ms: int = NOON) -> list[Exchanged | BigmarketError]:
    """Make the requests in one lane, all at once; their answers."""
    lanes = lanes_on(store, now_ms=now_ms)
    futures = submit(lanes, asked)
    lanes.start()
    answers = [future.result(WAIT) for future in futures]
    assert lanes.stop(timeout_seconds=WAIT)
    return answers


def placed(
    store: Store, user_id: str = "ann", *, sku: int = PLENTY, no: str = "order-1", minutes: int = 15
) -> QuotaOrder:
    """Place an order that waits so long."""
    with store.reading() as connection:
        live = load_live(connection, {})
    bundle_of = bundles(store)
    with store.recharging(user_id) as tx:
        return place(
            tx,
            user_id=user_id,
            sku=sku,
            out_business_no=no,
            now_ms=NOON,
            expire_at_ms=NOON + minutes * MINUTE,
            order_id=IDS.make(NOON),
            live=live,
            bundle_of=bundle_of,
        )


def trade(store: Store, user_id: str, cents: int, *, no: str, reason: str = "test") -> CreditOrder:
    """Move credits from outside."""
    order = adjustment(
        order_id=IDS.make(NOON),
        user_id=user_id,
        amount_cents=cents,
        reason=reason,
        out_business_no=no,
        now_ms=NOON,
    )
    with store.updating() as connection:
        return adjust(connection, order, split=store.split)
