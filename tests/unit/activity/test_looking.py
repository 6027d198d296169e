"""Looks decide nothing and change nothing: what is stored, seen as of now, with one question for all."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from bigmarket.activity.looking import (
    AccountKey,
    AccountLook,
    AccountSeen,
    Kept,
    ShelfLook,
    look_at_accounts,
    look_at_shelves,
)
from bigmarket.activity.quota import Account
from bigmarket.errors import NotArmed, NotFound
from support import DAY, HOUR, NOON, live_of, small_campaign

LIVE = {1: live_of(small_campaign()), 2: replace(live_of(small_campaign()), activity_id=2, revision=None)}
MIDNIGHT = NOON + 12 * HOUR  # where the activity is


class Tx:
    """One database; it notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Sequence[object]] = []

    def accounts_of(self, keys: Sequence[AccountKey]) -> dict[AccountKey, Account]:
        self.asked.append(keys)
        found = Account(10, 7, "2026-11", 10, 7, "2026-11-20", 5, 2)
        return {key: copy(found) for key in keys if key[0] == "ann"}

    def units_left(self, skus: Sequence[int]) -> dict[int, int]:
        self.asked.append(skus)
        return dict.fromkeys(skus, 3)

    def kept(self, activity_ids: Sequence[int]) -> dict[int, Kept]:
        self.asked.append(activity_ids)
        return {11: Kept(110, 1000)}


def look(user_id: str, activity_id: int = 1, *, of_armed: bool = True) -> AccountLook:
    return AccountLook("", user_id, activity_id, of_armed)


def seen(*looks: AccountLook, now_ms: int = NOON) -> list[object]:
    return list(look_at_accounts(Tx(), looks, live=LIVE, now_ms=now_ms).answers)


def account(answer: object) -> Account:
    assert isinstance(answer, AccountSeen)
    return answer.account


def test_all_looks_are_one_question_in_the_order_of_the_keys() -> None:
    tx = Tx()
    answers = look_at_accounts(tx, [look("bob"), look("ann"), look("bob")], live=LIVE, now_ms=NOON).answers
    assert tx.asked == [[("ann", 1), ("bob", 1)]]
    assert [account(answer).used for answer in answers] == [0, 3, 0]


def test_who_was_never_credited_has_zeros_of_today() -> None:
    assert account(*seen(look("bob"))) == Account(0, 0, "2026-11", 0, 0, "2026-11-20", 0, 0)


def test_a_day_begins_by_the_activitys_clock() -> None:
    assert account(*seen(look("ann"), now_ms=MIDNIGHT - 1)).used_today == 3
    assert account(*seen(look("ann"), now_ms=MIDNIGHT)).used_today == 0
    next_month = account(*seen(look("ann"), now_ms=MIDNIGHT + 10 * DAY))
    assert (next_month.month_left, next_month.total_left) == (10, 7)


def test_what_is_not_there_or_not_armed_is_refused_and_the_others_are_answered() -> None:
    found = seen(look("ann", 7), look("ann", 2), look("ann", 2, of_armed=False), look("ann"))
    assert [type(answer) for answer in found] == [NotFound, NotArmed, AccountSeen, AccountSeen]


def test_nobody_is_asked_about_activities_that_are_not_there() -> None:
    tx = Tx()
    look_at_accounts(tx, [look("ann", 7)], live=LIVE, now_ms=NOON)
    look_at_shelves(tx, [ShelfLook("", "", 7)], live=LIVE)
    assert tx.asked == []


def test_a_shelf_is_put_together_once_for_all_who_look() -> None:
    tx = Tx()
    looks = [ShelfLook("", "", activity_id) for activity_id in (1, 7, 2, 1)]
    first, absent, unarmed, again = look_at_shelves(tx, looks, live=LIVE).answers
    assert tx.asked == [[11, 12], [1]]
    assert (type(absent), type(unarmed)) == (NotFound, NotArmed)
    assert again is first
    assert isinstance(first, tuple)
    assert [(offer.bundle.sku, offer.kept, offer.left) for offer in first] == [
        (11, Kept(110, 1000), 3),
        (12, Kept(12, 3), 3),  # the configuration has dropped it since
    ]
