"""v1 of an activity: arm it, what it sells, what a user has in it."""

from __future__ import annotations

from bigmarket.api.v1.asking import (
    ActivityIn,
    Calls,
    NothingIn,
    credits_of,
    parameters_of,
)
from bigmarket.app import World
from bigmarket.storage import queries

calls = Calls()


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
