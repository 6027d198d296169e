"""v1's hot calls that only read: the wheel, its tiers and an account, by name or by token; and what is sold.

What a reply says of a revision alone is made once for it; what it says of the user is made from the account that the
lane read (activity/looking.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import msgspec

from bigmarket.activity.admission import armed
from bigmarket.activity.looking import AccountSeen, Offer, Shelf
from bigmarket.activity.revision import Revision
from bigmarket.api.auth import BY_TOKEN, Caller, user_of
from bigmarket.api.errors import success
from bigmarket.api.hot import HotCall, Reply, Words
from bigmarket.api.openapi import operation
from bigmarket.api.reader import JsonReader, check_content_type, int_of
from bigmarket.api.v1.asking import EXAMPLE_ACTIVITY, EXAMPLE_USER, ActivityIn, and_user, credits_of
from bigmarket.api.v1.hot import Headers, ok, parameters
from bigmarket.app import World
from bigmarket.strategy.locks import draws_missing, lock_count
from bigmarket.strategy.progress import tier_progress

_PREFIX = "/api/v1/raffle/"
_AWARD_LIST = f"{_PREFIX}strategy/query_raffle_award_list"
_RULE_WEIGHT = f"{_PREFIX}strategy/query_raffle_strategy_rule_weight"
_ACCOUNT = f"{_PREFIX}activity/query_user_activity_account"
_SKU_LIST = f"{_PREFIX}activity/query_sku_product_list_by_activity_id"

REVISIONS_MAX = 64  # whose texts are kept ready; a wheel may have many awards, so there are no more
SHELVES_MAX = 64


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


SCHEMAS: tuple[Any, ...] = (ActivityIn, and_user(ActivityIn), list[AwardOut], list[TierOut], AccountOut, list[SkuOut])


def hot_calls(world: World) -> dict[str, HotCall]:
    """The hot calls of ``world`` that only read, by path."""
    look = partial(HotCall, lanes=world.accounts, repeatable=_always)
    shelf = partial(HotCall, lanes=world.shelves, repeatable=_always)
    found = {_SKU_LIST: shelf(_name(_SKU_LIST), read=_read_shelf, reply=_sku_list, methods=("GET", "POST"))}
    for path, of_armed, reply in (
        (_AWARD_LIST, True, _award_list),
        (_RULE_WEIGHT, True, _rule_weight),
        (_ACCOUNT, False, _account),
    ):
        twin = path + BY_TOKEN
        found[path] = look(_name(path), read=partial(_read_named, of_armed), reply=reply)
        found[twin] = look(_name(twin), read=partial(_read_by_token, of_armed), reply=reply)
    return found


def _name(path: str) -> str:
    return path.rpartition("/")[2]


# --- what is asked ------------------------------------------------------------------------------------------------


_NAMED, _BY_TOKEN = JsonReader(and_user(ActivityIn)), JsonReader(ActivityIn)


def _read_named(of_armed: bool, caller: Caller, headers: Headers, _: bytes, body: bytes) -> Words:
    check_content_type(headers.get(b"content-type"), body)
    asked: Any = _NAMED.decode(body)
    return user_of(caller, asked.user_id), asked.activity_id, of_armed


def _read_by_token(of_armed: bool, caller: Caller, headers: Headers, _: bytes, body: bytes) -> Words:
    check_content_type(headers.get(b"content-type"), body)
    return caller.user_id, _BY_TOKEN.decode(body).activity_id, of_armed


def _read_shelf(_: Caller, headers: Headers, query: bytes, body: bytes) -> Words:
    return "", int_of(parameters(headers, query, body).get("activityId", []), name="activityId")


def _always(_: Words) -> bool:
    return True


# --- what is answered ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """A revision by its hash, so that what is told of it is made once however often it is loaded."""

    sha256: str
    revision: Revision = field(compare=False)


def _told(seen: AccountSeen) -> _Told:
    revision = armed(seen.activity)
    return _Told(revision.sha256, revision)


def _award_list(seen: AccountSeen) -> Reply:
    told = _told(seen)
    return ok(_awards_after(told, min(seen.account.used_today, _last_lock(told))))


@lru_cache(maxsize=REVISIONS_MAX)
def _last_lock(told: _Told) -> int:
    """The draw of a day from which on nothing is locked any more; users who have made more all see the same."""
    wheel = told.revision.wheel
    return max((lock_count(wheel, award_id) or 0 for award_id in wheel.sectors), default=0)


@lru_cache(maxsize=REVISIONS_MAX)
def _awards_after(told: _Told, drawn_today: int) -> bytes:
    wheel = told.revision.wheel
    awards = []
    for sector in sorted(wheel.sectors.values(), key=lambda award: award.sort):
        lock = lock_count(wheel, sector.award_id)
        wait = draws_missing(wheel, sector.award_id, drawn_today=drawn_today)
        awards.append(
            AwardOut(sector.award_id, sector.title, sector.subtitle, sector.sort, lock, wait == 0, wait),
        )
    return success(awards)


def _rule_weight(seen: AccountSeen) -> Reply:
    drawn = seen.account.used
    return ok(success([TierOut(draws_needed, drawn, awards) for draws_needed, awards in _tiers(_told(seen))]))


@lru_cache(maxsize=REVISIONS_MAX)
def _tiers(told: _Told) -> list[tuple[int, Any]]:
    """The draws that each tier needs, and its awards, written already."""
    return [
        (tier.draws_needed, msgspec.Raw(msgspec.json.encode([TierAwardOut(*award) for award in tier.awards])))
        for tier in tier_progress(told.revision.wheel, drawn=0).tiers
    ]


def _account(seen: AccountSeen) -> Reply:
    a = seen.account
    out = AccountOut(a.total_count, a.total_left, a.day_count, a.day_left, a.month_count, a.month_left)
    return ok(success(out))


def _sku_list(shelf: Shelf) -> Reply:
    return ok(_skus_on(shelf))


@lru_cache(maxsize=SHELVES_MAX)
def _skus_on(shelf: Shelf) -> bytes:
    """A batch's lookers all see the same shelf."""
    return success([_sku(offer) for offer in shelf])


def _sku(offer: Offer) -> SkuOut:
    bundle, kept, left = offer
    return SkuOut(
        bundle.sku,
        bundle.activity_id,
        kept.activity_count_id,
        kept.stock_count,
        left,
        credits_of(bundle.price_cents),
        CountOut(bundle.counts.total, bundle.counts.day, bundle.counts.month),
    )


# --- the document -------------------------------------------------------------------------------------------------


def operations() -> dict[str, Any]:
    """These calls' operations, by path: FastAPI does not route them."""
    of_users: dict[str, dict[str, Any]] = {
        _AWARD_LIST: {
            "summary": "The wheel as a user sees it",
            "description": "Ordered by `sort`. An award is unlocked once the user has made `awardRuleLockCount` draws"
            " today.",
            "data": list[AwardOut],
            "example": [
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
            "codes": ("0001", "0002", "ERR_BIZ_002"),
        },
        _RULE_WEIGHT: {
            "summary": "The guaranteed draws, and how far the user is on the way to them",
            "description": "The nearest first. On the user's `ruleWeightCount`-th draw one of `strategyAwards` is"
            " rolled.",
            "data": list[TierOut],
            "example": [
                {
                    "ruleWeightCount": 10,
                    "userActivityAccountTotalUseCount": 7,
                    "strategyAwards": [
                        {"awardId": 102, "awardTitle": "5次使用"},
                        {"awardId": 103, "awardTitle": "10次使用"},
                    ],
                }
            ],
            "codes": ("0001", "0002", "ERR_BIZ_002"),
        },
        _ACCOUNT: {
            "summary": "A user's draws in an activity",
            "description": "Zeros for a user who was never credited; days and months begin by the activity's clock.",
            "data": AccountOut,
            "example": {
                "totalCount": 10000,
                "totalCountSurplus": 9999,
                "dayCount": 1000,
                "dayCountSurplus": 999,
                "monthCount": 1000,
                "monthCountSurplus": 999,
            },
            "codes": ("0001", "0002"),
        },
    }
    found: dict[str, Any] = {_SKU_LIST: dict.fromkeys(("get", "post"), _sku_list_operation())}
    for path, described in of_users.items():
        found[path] = {"post": _named(described)}
        found[path + BY_TOKEN] = {"post": _by_token(described)}
    return found


def _named(described: Mapping[str, Any]) -> dict[str, Any]:
    return operation(
        **described, body=and_user(ActivityIn), body_example={"userId": EXAMPLE_USER, **EXAMPLE_ACTIVITY}
    )


def _by_token(described: Mapping[str, Any]) -> dict[str, Any]:
    told = {**described, "summary": f"{described['summary']}: the token's user"}
    return operation(**told, body=ActivityIn, body_example=EXAMPLE_ACTIVITY, by_token=True)


def _sku_list_operation() -> dict[str, Any]:
    return operation(
        summary="What an activity sells: bundles of draws, and what they cost in credits",
        description="By sku. Prices and counts are those that an exchange goes by now; the stock left is that of this"
        " moment.",
        query=ActivityIn,
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
