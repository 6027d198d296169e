"""Draws credited by consumers, set-based: the same rows as a recharge one by one, on every backend."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from bigmarket.activity.delivery import DrawGrant
from bigmarket.activity.quota import Account, Bundle, Counts, Period, period_of
from bigmarket.errors import Contention
from bigmarket.ids import Ids
from bigmarket.storage.contract import Store
from bigmarket.storage.queries import account_of, bundle_of
from support import NOON, assert_healthy, count, give, install, small_campaign

IDS = Ids()
SKU = 11
TODAY = period_of(NOON, zone=ZoneInfo("Asia/Shanghai"))
YESTERDAY = Period("2024-01", "2024-01-31")


def bundle(store: Store) -> Bundle:
    with store.reading() as connection:
        found = bundle_of(connection, SKU)
    assert found is not None
    return found


def grants(store: Store, *users: str, period: Period = TODAY) -> list[DrawGrant]:
    unit = bundle(store)
    return [DrawGrant(IDS.make(NOON), user, unit, period, f"no-{IDS.make(NOON)}") for user in users]


def account(store: Store, user: str) -> Account:
    with store.reading() as connection:
        found = account_of(connection, user, 1)
    assert found is not None
    return found


def test_units_become_draws_whether_the_account_was_open_or_not(store: Store) -> None:
    install(store, small_campaign())
    give(store, "ann")
    before = account(store, "ann")
    each = bundle(store).counts
    with store.delivering() as tx:
        left = tx.units_left({SKU: 4, 99: 1})[SKU]
        tx.add_draws(grants(store, "ann", "bob", "ann", "cid"), now_ms=NOON)
    after = account(store, "ann")
    assert after.total_count == before.total_count + 2 * each.total
    assert (after.day_left, after.month_left) == (before.day_left + 2 * each.day, before.month_left + 2 * each.month)
    assert account(store, "bob").total_left == each.total
    with store.delivering() as tx:
        assert tx.units_left({SKU: 1}) == {SKU: left - 4}
    assert_healthy(store)


def test_a_later_period_begins_anew_and_an_earlier_one_changes_no_stamp(store: Store) -> None:
    install(store, small_campaign())
    each = bundle(store).counts
    with store.delivering() as tx:
        tx.add_draws(grants(store, "ann", period=YESTERDAY), now_ms=NOON)
    with store.delivering() as tx:
        tx.add_draws(grants(store, "ann"), now_ms=NOON)
    with store.delivering() as tx:
        tx.add_draws(grants(store, "ann", period=YESTERDAY), now_ms=NOON)
    found = account(store, "ann")
    assert Period(found.month, found.day) == TODAY
    assert Counts(found.total_left, found.month_left, found.day_left) == Counts(*(3 * number for number in each))


def test_more_units_than_there_are_credit_nobody(store: Store) -> None:
    install(store, small_campaign())
    with store.delivering() as tx:
        left = tx.units_left({SKU: 1})[SKU]
    with pytest.raises(Contention), store.delivering() as tx:
        tx.add_draws(grants(store, *(f"u{n}" for n in range(left + 1))), now_ms=NOON)
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 0
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_account") == 0
    assert_healthy(store)
