"""The v1 API: the reference system's paths, fields, codes and envelope, so that its clients work as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Account, empty_account, period_of, roll_over
from bigmarket.activity.revision import Revision
from bigmarket.api.draw_route import READ_SECONDS, USER_ID_MAX, DrawIn, DrawOut
from bigmarket.api.errors import Unreadable, success
from bigmarket.api.openapi import operation
from bigmarket.api.reader import BODY_BYTES_MAX, Int64, JsonReader, int_of, read_body
from bigmarket.app import World
from bigmarket.draw import roll_award
from bigmarket.errors import NotArmed, NotFound
from bigmarket.storage.campaigns import activity_of_strategy
from bigmarket.storage.queries import account_of
from bigmarket.strategy.chain import pick
from bigmarket.strategy.rules import RuleLock
from bigmarket.strategy.rules.base import Entry
from bigmarket.strategy.tree import walk
from bigmarket.strategy.wheel import Node
from bigmarket.text import clean_text

router = APIRouter(prefix="/api/v1/raffle")

T = TypeVar("T", bound=msgspec.Struct)


class UserActivityIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A user in an activity."""

    user_id: str
    activity_id: Int64


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


class PickOut(msgspec.Struct, frozen=True, rename="camel"):
    """An award and its place on the wheel."""

    award_id: int
    award_index: int


class AccountOut(msgspec.Struct, frozen=True, rename="camel"):
    """A user's draws: credited, and left of them."""

    total_count: int
    total_count_surplus: int
    day_count: int
    day_count_surplus: int
    month_count: int
    month_count_surplus: int


#: Every Struct that the OpenAPI document names.
SCHEMAS = (UserActivityIn, StrategyIn, AwardOut, PickOut, AccountOut, DrawIn, DrawOut)

_USER_ACTIVITY_EXAMPLE = {"userId": "xiaofuge", "activityId": 100301}

DRAW_OPERATION = operation(
    summary="Draw: spend one of the user's draws, win one award",
    body=DrawIn,
    body_example={**_USER_ACTIVITY_EXAMPLE, "requestId": "spin-7f3a"},
    data=DrawOut,
    example={"awardId": 101, "awardTitle": "随机积分", "awardIndex": 1},
    codes=(
        "0001",
        "0002",
        "0003",
        "ERR_BIZ_002",
        "ERR_BIZ_003",
        "ERR_BIZ_004",
        "ERR_BIZ_006",
        "ERR_BIZ_007",
        "ERR_BIZ_008",
    ),
    response_headers={"Bigmarket-Order-Id": "The raffle order: what the award can be looked up and replayed by."},
)


async def _world(request: Request) -> World:
    world: World = request.app.state.world
    return world


WorldHere = Annotated[World, Depends(_world)]


def _body(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads the JSON body as ``kind``."""
    reader = JsonReader(kind)

    async def read(request: Request) -> T:
        headers = dict(request.scope["headers"])
        try:
            async with asyncio.timeout(READ_SECONDS):
                raw = await read_body(request.receive, headers, bytes_max=BODY_BYTES_MAX)
        except TimeoutError:
            raise Unreadable(408, "The body did not come in time.") from None
        return reader.decode(raw)

    return read


def _query(name: str) -> Callable[[Request], Awaitable[int]]:
    """A dependency that reads the query parameter ``name`` as a whole number."""

    async def read(request: Request) -> int:
        return int_of(request.query_params.getlist(name), name=name)

    return read


def _reply(data: object) -> Response:
    return Response(success(data), media_type="application/json")


@router.get(
    "/activity/armory",
    openapi_extra=operation(
        summary="Arm an activity: check and compile its configuration, make it live",
        query={"activityId": "The activity."},
        data=bool,
        example=True,
        codes=("0001", "0002"),
    ),
)
def armory(world: WorldHere, activity_id: Annotated[int, Depends(_query("activityId"))]) -> Response:
    """Draws follow the new configuration from the next batch on."""
    world.arm(activity_id)
    return _reply(True)


@router.get(
    "/strategy/strategy_armory",
    openapi_extra=operation(
        summary="Arm the activity that has this strategy",
        query={"strategyId": "The strategy."},
        data=bool,
        example=True,
        codes=("0001", "0002"),
    ),
)
def strategy_armory(world: WorldHere, strategy_id: Annotated[int, Depends(_query("strategyId"))]) -> Response:
    """As `activity/armory`, named by the strategy."""
    with world.stores.config.reading() as connection:
        activity_id = activity_of_strategy(connection, strategy_id)
    if activity_id is None:
        raise NotFound(f"There is no strategy {strategy_id}; load its campaign file with `bigmarket apply`.")
    world.arm(activity_id)
    return _reply(True)


@router.post(
    "/strategy/query_raffle_award_list",
    openapi_extra=operation(
        summary="The wheel as a user sees it",
        body=UserActivityIn,
        body_example=_USER_ACTIVITY_EXAMPLE,
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
    ),
)
def query_raffle_award_list(
    world: WorldHere, asked: Annotated[UserActivityIn, Depends(_body(UserActivityIn))]
) -> Response:
    """Ordered by `sort`. An award is unlocked once the user has made `awardRuleLockCount` draws today."""
    user_id = clean_text(asked.user_id, name="userId", max_length=USER_ID_MAX)
    activity = _activity(world, asked.activity_id)
    wheel = _armed(activity).wheel
    drawn_today = _account(world, user_id, activity).used_today
    awards = []
    for sector in sorted(wheel.sectors.values(), key=lambda award: award.sort):
        lock = lock_count(wheel.roots.get(sector.tree) if sector.tree else None)
        wait = max(0, (lock or 0) - drawn_today)
        awards.append(
            AwardOut(sector.award_id, sector.title, sector.subtitle, sector.sort, lock, wait == 0, wait),
        )
    return _reply(awards)


@router.post(
    "/strategy/random_raffle",
    openapi_extra=operation(
        summary="Try the wheel: what a draw could give, for nothing",
        body=StrategyIn,
        body_example={"strategyId": 100006},
        data=PickOut,
        example={"awardId": 101, "awardIndex": 1},
        codes=("0001", "0002", "ERR_BIZ_002"),
    ),
)
def random_raffle(world: WorldHere, asked: Annotated[StrategyIn, Depends(_body(StrategyIn))]) -> Response:
    """A dry pick by the user "system": takes no stock and no quota, and nothing is won."""
    activity = next((a for a in world.live.current.values() if a.strategy_id == asked.strategy_id), None)
    if activity is None:
        raise NotFound(f"There is no strategy {asked.strategy_id}; load its campaign file with `bigmarket apply`.")
    wheel = _armed(activity).wheel
    stock = world.stores.stock_left(asked.strategy_id)
    throw_away_id = world.ids.make(world.now_ms())
    picked = pick(wheel, Entry("system", 0), roll=partial(roll_award, activity.seed, throw_away_id))
    won = walk(wheel, picked, ordinal_today=0, take_unit=lambda award_id: stock.get(award_id, 0) != 0)
    return _reply(PickOut(won.award_id, wheel.sectors[won.award_id].sort))


@router.post(
    "/activity/query_user_activity_account",
    openapi_extra=operation(
        summary="A user's draws in an activity",
        body=UserActivityIn,
        body_example=_USER_ACTIVITY_EXAMPLE,
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
    ),
)
def query_user_activity_account(
    world: WorldHere, asked: Annotated[UserActivityIn, Depends(_body(UserActivityIn))]
) -> Response:
    """Zeros for a user who was never credited; days and months begin by the activity's clock."""
    user_id = clean_text(asked.user_id, name="userId", max_length=USER_ID_MAX)
    a = _account(world, user_id, _activity(world, asked.activity_id))
    return _reply(AccountOut(a.total_count, a.total_left, a.day_count, a.day_left, a.month_count, a.month_left))


def lock_count(node: Node | None) -> int | None:
    """The draw of the day from which the tree's award can be won; None when the tree has no lock."""
    if node is None:
        return None
    if isinstance(node.rule, RuleLock):
        return node.rule.unlock_at_draw
    found = (lock_count(following) for following in node.ways.values())
    return next((lock for lock in found if lock is not None), None)


def _activity(world: World, activity_id: int) -> LiveActivity:
    activity = world.live.current.get(activity_id)
    if activity is None:
        raise NotFound(f"There is no activity {activity_id}; load its campaign file with `bigmarket apply`.")
    return activity


def _armed(activity: LiveActivity) -> Revision:
    if activity.revision is None:
        number = activity.activity_id
        raise NotArmed(f"Activity {number} is not armed; run: bigmarket armory {number}")
    return activity.revision


def _account(world: World, user_id: str, activity: LiveActivity) -> Account:
    """The account as of now."""
    period = period_of(world.now_ms(), zone=activity.zone)
    with world.stores.of(user_id).reading() as connection:
        account = account_of(connection, user_id, activity.activity_id) or empty_account(period)
    roll_over(account, period)
    return account


def operations() -> dict[str, Any]:
    """Operations that are served outside this router, by path."""
    return {"/api/v1/raffle/activity/draw": {"post": DRAW_OPERATION}}
