"""v1 of the wheel: arm it, look at it, try it."""

from __future__ import annotations

from functools import partial

import msgspec

from bigmarket.api.reader import Int64
from bigmarket.api.v1.asking import (
    EXAMPLE_ACTIVITY,
    ActivityIn,
    Calls,
    account_now,
    armed,
    body_of,
    live_activity,
    parameters_of,
)
from bigmarket.app import World
from bigmarket.draw import roll_award
from bigmarket.errors import NotFound
from bigmarket.storage.campaigns import activity_of_strategy
from bigmarket.strategy.chain import pick
from bigmarket.strategy.locks import draws_missing, lock_count
from bigmarket.strategy.progress import tier_progress
from bigmarket.strategy.rules.base import Entry
from bigmarket.strategy.tree import walk

calls = Calls()


class StrategyIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A strategy."""

    strategy_id: Int64


class AwardOut(msgspec.Struct, frozen=True, rename="camel"):
    """A sector of the wheel as the user sees it; locked until ``waitUnLockCount`` more draws today."""

    award_id: int
    award_title: str
    award_subtitle: str | None
    sort: int
    award_rule_lock_count: int | None
    is_award_unlock: bool
    wait_un_lock_count: int


class TierAwardOut(msgspec.Struct, frozen=True, rename="camel"):
    """An award of a tier."""

    award_id: int
    award_title: str


class TierOut(msgspec.Struct, frozen=True, rename="camel"):
    """A guaranteed draw: the user's ``ruleWeightCount``-th in the activity, of which so many are made."""

    rule_weight_count: int
    user_activity_account_total_use_count: int
    strategy_awards: list[TierAwardOut]


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


@calls.of_users(
    "/strategy/query_raffle_award_list",
    asks=ActivityIn,
    read=body_of,
    body_example=EXAMPLE_ACTIVITY,
    summary="The wheel as a user sees it",
    data=list[AwardOut],
    example=[
        {
            "awardId": 107,
            "awardTitle": "暴走玩偶",
            "awardSubtitle": "抽奖1次后解锁",
            "sort": 7,
            "awardRuleLockCount": 1,
            "isAwardUnlock": False,
            "waitUnLockCount": 1,
        }
    ],
    codes=("0001", "0002", "ERR_BIZ_002"),
)
def query_raffle_award_list(world: World, user_id: str, asked: ActivityIn) -> list[AwardOut]:
    """Ordered by `sort`. An award is unlocked once the user has made `awardRuleLockCount` draws today."""
    activity = live_activity(world, asked.activity_id)
    wheel = armed(activity).wheel
    drawn_today = account_now(world, user_id, activity).used_today
    awards = []
    for sector in sorted(wheel.sectors.values(), key=lambda award: award.sort):
        lock = lock_count(wheel, sector.award_id)
        wait = draws_missing(wheel, sector.award_id, drawn_today=drawn_today)
        awards.append(
            AwardOut(sector.award_id, sector.title, sector.subtitle, sector.sort, lock, wait == 0, wait),
        )
    return awards


@calls.of_users(
    "/strategy/query_raffle_strategy_rule_weight",
    asks=ActivityIn,
    read=body_of,
    body_example=EXAMPLE_ACTIVITY,
    summary="The guaranteed draws, and how far the user is on the way to them",
    data=list[TierOut],
    example=[
        {
            "ruleWeightCount": 10,
            "userActivityAccountTotalUseCount": 7,
            "strategyAwards": [{"awardId": 102, "awardTitle": "5次使用"}, {"awardId": 103, "awardTitle": "10次使用"}],
        }
    ],
    codes=("0001", "0002", "ERR_BIZ_002"),
)
def query_raffle_strategy_rule_weight(world: World, user_id: str, asked: ActivityIn) -> list[TierOut]:
    """The nearest first. On the user's `ruleWeightCount`-th draw one of `strategyAwards` is rolled."""
    activity = live_activity(world, asked.activity_id)
    wheel = armed(activity).wheel
    drawn = account_now(world, user_id, activity).used
    return [
        TierOut(tier.draws_needed, drawn, [TierAwardOut(*award) for award in tier.awards])
        for tier in tier_progress(wheel, drawn=drawn).tiers
    ]


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
