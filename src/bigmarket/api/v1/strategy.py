"""v1 of the wheel: arm it, try it."""

from __future__ import annotations

from functools import partial

import msgspec

from bigmarket.activity.admission import armed
from bigmarket.api.reader import Int64
from bigmarket.api.v1.asking import Calls, body_of, parameters_of
from bigmarket.app import World
from bigmarket.draw import roll_award
from bigmarket.errors import NotFound
from bigmarket.storage.campaigns import activity_of_strategy
from bigmarket.strategy.chain import pick
from bigmarket.strategy.rules.base import Entry
from bigmarket.strategy.tree import walk

calls = Calls()


class StrategyIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A strategy."""

    strategy_id: Int64


class PickOut(msgspec.Struct, frozen=True, rename="camel"):
    """An award and its place on the wheel."""

    award_id: int
    award_index: int


@calls.of_operators(
    "/strategy/strategy_armory",
    method="GET",
    asks=StrategyIn,
    read=parameters_of,
    summary="Arm the activity that has this strategy",
    data=bool,
    example=True,
    codes=("0001", "0002"),
)
def strategy_armory(world: World, asked: StrategyIn) -> bool:
    """As `activity/armory`, named by the strategy."""
    with world.stores.config.reading() as connection:
        activity_id = activity_of_strategy(connection, asked.strategy_id)
    if activity_id is None:
        raise NotFound(f"There is no strategy {asked.strategy_id}; load its campaign file with `bigmarket apply`.")
    world.arm(activity_id)
    return True


@calls.of_operators(
    "/strategy/random_raffle",
    method="POST",
    read=body_of,
    asks=StrategyIn,
    body_example={"strategyId": 100006},
    summary="Try the wheel: what a draw could give, for nothing",
    data=PickOut,
    example={"awardId": 101, "awardIndex": 1},
    codes=("0001", "0002", "ERR_BIZ_002"),
)
def random_raffle(world: World, asked: StrategyIn) -> PickOut:
    """A dry pick by the user "system": takes no stock and no quota, and nothing is won."""
    activity = next((a for a in world.live.current.values() if a.strategy_id == asked.strategy_id), None)
    if activity is None:
        raise NotFound(f"There is no strategy {asked.strategy_id}; load its campaign file with `bigmarket apply`.")
    wheel = armed(activity).wheel
    stock = world.stores.stock_left(asked.strategy_id)
    throw_away_id = world.ids.make(world.now_ms())
    picked = pick(wheel, Entry("system", 0), roll=partial(roll_award, activity.seed, throw_away_id))
    won = walk(wheel, picked, ordinal_today=0, won_before=0, take_unit=lambda award_id: stock.get(award_id, 0) != 0)
    return PickOut(won.award_id, wheel.sectors[won.award_id].sort)
