"""What the calls that only read answer: what belongs to a revision is made once, what belongs to a user each time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bigmarket.activity.looking import AccountSeen, Kept, Offer
from bigmarket.activity.quota import Account, Bundle, Counts
from bigmarket.api.hot import Reply
from bigmarket.api.v1 import looking
from support import live_of, small_campaign

LIVE = live_of(small_campaign())
CAR = 4  # opens with the second draw of a day


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    for made in (looking._awards_after, looking._last_lock, looking._tiers, looking._skus_on):
        made.cache_clear()


def seen(*, today: int = 0, ever: int = 0) -> AccountSeen:
    return AccountSeen(LIVE, Account(100, 100 - ever, "2026-11", 100, 100, "2026-11-20", 100, 100 - today))


def data(reply: Reply) -> Any:
    assert b"content-length: %d\r\n" % len(reply.body) in reply.lines
    said = json.loads(reply.body)
    assert (reply.status, said["code"]) == (200, "0000")
    return said["data"]


@pytest.mark.parametrize("today", [0, 1, 2, 3, 99])
def test_an_award_is_locked_until_enough_draws_were_made_today(today: int) -> None:
    awards = data(looking._award_list(seen(today=today)))
    assert [award["sort"] for award in awards] == [1, 2, 3, 4]
    assert [award["waitUnLockCount"] for award in awards] == [0, 0, 0, max(0, 2 - today)]
    assert awards[-1] == {
        "awardId": CAR, "awardTitle": "car", "awardSubtitle": None, "sort": 4,
        "awardRuleLockCount": 2, "isAwardUnlock": today >= 2, "waitUnLockCount": max(0, 2 - today),
    }  # fmt: skip


def test_a_wheel_is_written_once_for_all_who_see_it_alike() -> None:
    for today in range(50):
        looking._award_list(seen(today=today))
    assert looking._awards_after.cache_info().misses == 3  # with 0, 1 and 2 draws; who made more sees the same


def test_a_wheel_that_was_armed_anew_is_told_anew() -> None:
    before = looking._award_list(seen()).body
    campaign = small_campaign()
    first, *others = campaign.strategy.awards
    renamed = [first.model_copy(update={"title": "coins"}), *others]
    changed = campaign.model_copy(
        update={"strategy": campaign.strategy.model_copy(update={"awards": tuple(renamed)})}
    )
    told = data(looking._award_list(AccountSeen(live_of(changed), seen().account)))
    assert told[0]["awardTitle"] == "coins"
    assert looking._award_list(seen()).body == before


def test_tiers_come_with_the_draws_that_the_user_made() -> None:
    for ever in (0, 3, 70):
        tiers = data(looking._rule_weight(seen(ever=ever)))
        assert [(tier["ruleWeightCount"], tier["userActivityAccountTotalUseCount"]) for tier in tiers] == [
            (3, ever),
            (5, ever),
        ]
        assert tiers[0]["strategyAwards"] == [
            {"awardId": 2, "awardTitle": "mug"},
            {"awardId": 3, "awardTitle": "lamp"},
        ]
    assert looking._tiers.cache_info().misses == 1


def test_a_wheel_without_tiers_or_locks_has_none() -> None:
    campaign = small_campaign()
    plain = tuple(award.model_copy(update={"tree": None}) for award in campaign.strategy.awards)
    strategy = campaign.strategy.model_copy(update={"chain": (), "awards": plain, "trees": ()})
    activity = replace(live_of(campaign.model_copy(update={"strategy": strategy})))
    assert data(looking._rule_weight(AccountSeen(activity, seen().account))) == []
    assert {award["isAwardUnlock"] for award in data(looking._award_list(AccountSeen(activity, seen().account)))} == {
        True
    }


def test_a_shelf_is_told_with_prices_in_credits() -> None:
    offer = Offer(Bundle(11, 1, Counts(10, 9, 8), 168), Kept(110, 1000), 998)
    assert data(looking._sku_list((offer,))) == [
        {
            "sku": 11, "activityId": 1, "activityCountId": 110, "stockCount": 1000, "stockCountSurplus": 998,
            "productAmount": 1.68, "activityCount": {"totalCount": 10, "dayCount": 8, "monthCount": 9},
        }
    ]  # fmt: skip
    sold = data(looking._sku_list((offer._replace(left=997),)))
    assert sold[0]["stockCountSurplus"] == 997
