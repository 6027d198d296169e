"""v1 of an activity: arm it, what it sells, what a user has in it."""

from __future__ import annotations

import msgspec

from bigmarket.api.v1.asking import (
    EXAMPLE_ACTIVITY,
    ActivityIn,
    Calls,
    NothingIn,
    account_now,
    armed,
    body_of,
    credits_of,
    live_activity,
    parameters_of,
)
from bigmarket.app import World
from bigmarket.storage import queries

calls = Calls()


class AccountOut(msgspec.Struct, frozen=True, rename="camel"):
    """A user's draws: credited, and left of them."""

    total_count: int
    total_count_surplus: int
    day_count: int
    day_count_surplus: int
    month_count: int
    month_count_surplus: int


class CountOut(msgspec.Struct, frozen=True, rename="camel"):
    """Draws that one unit of a sku credits."""

    total_count: int
    day_count: int
    month_count: int


class SkuOut(msgspec.Struct, frozen=True, rename="camel"):
    """A bundle of draws; ``productAmount`` is its price in credits, ``stockCountSurplus`` what is left of it."""

    sku: int
    activity_id: int
    activity_count_id: int
    stock_count: int
    stock_count_surplus: int
    product_amount: float
    activity_count: CountOut


@calls.of_operators(
    "/activity/armory",
    method="GET",
    asks=ActivityIn,
    read=parameters_of,
    summary="Arm an activity: check and compile its configuration, make it live",
    data=bool,
    example=True,
    codes=("0001", "0002"),
)
def armory(world: World, asked: ActivityIn) -> bool:
    """Draws follow the new configuration from the next batch on."""
    world.arm(asked.activity_id)
    return True


@calls.of_users(
    "/activity/query_user_activity_account",
    asks=ActivityIn,
    read=body_of,
    body_example=EXAMPLE_ACTIVITY,
    summary="A user's draws in an activity",
    data=AccountOut,
    example={
        "totalCount": 10000,
        "totalCountSurplus": 9999,
        "dayCount": 1000,
        "dayCountSurplus": 999,
        "monthCount": 1000,
        "monthCountSurplus": 999,
    },
    codes=("0001", "0002"),
)
def query_user_activity_account(world: World, user_id: str, asked: ActivityIn) -> AccountOut:
    """Zeros for a user who was never credited; days and months begin by the activity's clock."""
    a = account_now(world, user_id, live_activity(world, asked.activity_id))
    return AccountOut(a.total_count, a.total_left, a.day_count, a.day_left, a.month_count, a.month_left)


@calls.of_all(
    "/activity/query_sku_product_list_by_activity_id",
    methods=["GET", "POST"],
    asks=ActivityIn,
    read=parameters_of,
    summary="What an activity sells: bundles of draws, and what they cost in credits",
    data=list[SkuOut],
    example=[
        {
            "sku": 9011,
            "activityId": 100301,
            "activityCountId": 9011,
            "stockCount": 100000,
            "stockCountSurplus": 99998,
            "productAmount": 1.68,
            "activityCount": {"totalCount": 10, "dayCount": 10, "monthCount": 10},
        }
    ],
    codes=("0001", "0002", "ERR_BIZ_002"),
)
def query_sku_product_list_by_activity_id(world: World, asked: ActivityIn) -> list[SkuOut]:
    """By sku. Prices and counts are those that an exchange goes by now; the stock left is that of this moment."""
    activity = live_activity(world, asked.activity_id)
    bundles = armed(activity).bundles
    left = world.stores.sku_stock_left(list(bundles))
    with world.stores.config.reading() as connection:
        shelf = queries.shelf_of(connection, asked.activity_id)
    return [
        SkuOut(
            sku,
            bundle.activity_id,
            shelf[sku].activity_count_id if sku in shelf else sku,
            shelf[sku].stock_count if sku in shelf else left.get(sku, 0),
            left.get(sku, 0),
            credits_of(bundle.price_cents),
            CountOut(bundle.counts.total, bundle.counts.day, bundle.counts.month),
        )
        for sku, bundle in sorted(bundles.items())
    ]


@calls.of_users(
    "/activity/query_user_credit_account",
    asks=NothingIn,
    read=parameters_of,
    summary="A user's credits",
    data=float,
    example=19.97,
    codes=("0002",),
)
def query_user_credit_account(world: World, user_id: str, _: NothingIn) -> float:
    """What may be spent, with two decimals at most; 0 for a user who never earned any."""
    with world.stores.of(user_id).reading() as connection:
        return credits_of(queries.available_cents(connection, user_id))
