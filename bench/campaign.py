"""What the benches draw on: the demo campaign with prizes that do not run out, and users with draws to spend."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from bigmarket.activity.campaign import Campaign, load_campaign
from bigmarket.activity.orders import recharge
from bigmarket.app import KIND_CHECKS, new_seed, now_ms
from bigmarket.award.kinds import OUTSIDE_KINDS
from bigmarket.credit.model import CreditTrade
from bigmarket.ids import Ids
from bigmarket.storage.campaigns import arm, load_live, write_campaign
from bigmarket.storage.contract import Store
from bigmarket.storage.queries import bundle_of

ACTIVITY = 100301
SKU = 9001
STOCK = 2_000_000_000
PRICE = Decimal(1)
CREDIT_CENTS = 100_000  # of each user who shall buy
ORDERS_PER_TRANSACTION = 1000


def bench_campaign() -> Campaign:
    """The demo campaign; every limited prize and sku holds two billion units, a unit of a sku costs one credit.

    What others deliver is nothing here: there are no codes, and nobody to call.
    """
    campaign = load_campaign(Path(__file__).parents[1] / "examples" / "100301.yaml", kinds=KIND_CHECKS)
    awards = tuple(
        award if award.stock is None else award.model_copy(update={"stock": STOCK})
        for award in campaign.strategy.awards
    )
    return campaign.model_copy(
        update={
            "strategy": campaign.strategy.model_copy(update={"awards": awards}),
            "awards": tuple(
                award.model_copy(update={"kind": "nothing", "config": ""}) if award.kind in OUTSIDE_KINDS else award
                for award in campaign.awards
            ),
            "skus": tuple(sku.model_copy(update={"stock": STOCK, "price": PRICE}) for sku in campaign.skus),
        }
    )


def prepare(store: Store, users: Sequence[str]) -> None:
    """Install the campaign and credit each user with 10,000 draws (a quota order each, so that doctor agrees)."""
    campaign = bench_campaign()
    with store.writing() as connection:
        write_campaign(connection, campaign)
        arm(connection, ACTIVITY, kinds=KIND_CHECKS, now_ms=now_ms(), new_seed=new_seed)
    with store.reading() as connection:
        live = load_live(connection, {})
    ids = Ids()
    with store.reading() as connection:
        bundle = bundle_of(connection, SKU)
    for start in range(0, len(users), ORDERS_PER_TRANSACTION):
        print(f"\rcrediting users: {start:,} of {len(users):,}", end="", file=sys.stderr)
        with store.recharging(users[start]) as tx:
            for user in users[start : start + ORDERS_PER_TRANSACTION]:
                now = now_ms()
                recharge(
                    tx,
                    user_id=user,
                    sku=SKU,
                    out_business_no=f"bench-{user}",
                    now_ms=now,
                    order_id=ids.make(now),
                    live=live,
                    bundle_of=lambda _: bundle,
                )
    print(f"\rcredited {len(users):,} users            ", file=sys.stderr)


def give_credits(store: Store, users: Sequence[str]) -> None:
    """Give each user a thousand credits."""
    ids = Ids()
    for start in range(0, len(users), ORDERS_PER_TRANSACTION):
        now = now_ms()
        some = [(ids.make(now), user) for user in users[start : start + ORDERS_PER_TRANSACTION]]
        with store.delivering() as tx:
            tx.add_credits(
                [CreditTrade(i, user, "award", CREDIT_CENTS, f"bench-{i}") for i, user in some], now_ms=now
            )


def user_names(count: int) -> list[str]:
    """``count`` user ids."""
    return [f"user{number:07}" for number in range(count)]
