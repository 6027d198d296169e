"""Look and change nothing: users' accounts as they stand now, and what an activity sells.

A lane gives ``look_at_accounts`` or ``look_at_shelves`` all the looks that queued up; one read transaction serves
them. What is asked of it does not grow with the looks that ask for the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from bigmarket.activity.admission import armed, live_activity
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Account, Bundle, Period, empty_account, period_of, roll_over
from bigmarket.errors import BigmarketError
from bigmarket.outbox.task import BatchResult

AccountKey = tuple[str, int]  # user_id, activity_id


class AccountLook(NamedTuple):
    """Somebody wants to see a user's account; ``of_armed``: in an armed activity only."""

    order_id: str
    user_id: str
    activity_id: int
    of_armed: bool


class AccountSeen(NamedTuple):
    """The account as of now, zeros for a user who was never credited, and the activity that it is in."""

    activity: LiveActivity
    account: Account


class ShelfLook(NamedTuple):
    """Somebody wants to see what an armed activity sells, whoever they are."""

    order_id: str
    nobody: str
    activity_id: int


class Kept(NamedTuple):
    """How a sku is kept: the id of its counts, and the units there ever were."""

    activity_count_id: int
    stock_count: int


class Offer(NamedTuple):
    """A sku on an activity's shelf, and the units left of it."""

    bundle: Bundle
    kept: Kept
    left: int


Shelf = tuple[Offer, ...]  # by sku


class AccountsTx(Protocol):
    """One read transaction of a user shard."""

    def accounts_of(self, keys: Sequence[AccountKey]) -> dict[AccountKey, Account]:
        """The accounts as stored; those of users who were never credited are left out."""
        ...


class ShelvesTx(Protocol):
    """One read transaction of the configuration, and of stock wherever it is."""

    def units_left(self, skus: Sequence[int]) -> dict[int, int]:
        """Units of these skus left anywhere; one that was never armed is left out."""
        ...

    def kept(self, activity_ids: Sequence[int]) -> dict[int, Kept]:
        """The skus of these activities, as configured."""
        ...


class LookTx(AccountsTx, ShelvesTx, Protocol):
    """One read transaction of a database that holds users and configuration alike."""


def look_at_accounts(
    tx: AccountsTx, looks: Sequence[AccountLook], *, live: Mapping[int, LiveActivity], now_ms: int
) -> BatchResult[AccountSeen]:
    """Each look's account, rolled over to ``now_ms`` by the activity's clock; or NotFound, or NotArmed."""
    asked = {look.activity_id for look in looks} & live.keys()
    periods = {activity_id: period_of(now_ms, zone=live[activity_id].zone) for activity_id in asked}
    keys = sorted({(look.user_id, look.activity_id) for look in looks if look.activity_id in asked})
    accounts = tx.accounts_of(keys) if keys else {}
    return BatchResult([_account_seen(look, accounts, periods, live=live) for look in looks], [])


def look_at_shelves(
    tx: ShelvesTx, looks: Sequence[ShelfLook], *, live: Mapping[int, LiveActivity]
) -> BatchResult[Shelf]:
    """Each look's shelf, with the bundles that an exchange goes by now; or NotFound, or NotArmed."""
    seen: dict[int, Shelf | BigmarketError] = {}
    shelves: dict[int, list[Bundle]] = {}
    for activity_id in {look.activity_id for look in looks}:
        try:
            bundles = armed(live_activity(activity_id, live=live)).bundles
        except BigmarketError as error:
            seen[activity_id] = error
        else:
            shelves[activity_id] = [bundle for _, bundle in sorted(bundles.items())]
    if shelves:
        left = tx.units_left([bundle.sku for bundles in shelves.values() for bundle in bundles])
        kept = tx.kept(sorted(shelves))
        seen |= {number: tuple(_offer(bundle, left, kept) for bundle in shelves[number]) for number in shelves}
    return BatchResult([seen[look.activity_id] for look in looks], [])


def _account_seen(
    look: AccountLook,
    accounts: Mapping[AccountKey, Account],
    periods: Mapping[int, Period],
    *,
    live: Mapping[int, LiveActivity],
) -> AccountSeen | BigmarketError:
    try:
        activity = live_activity(look.activity_id, live=live)
        if look.of_armed:
            armed(activity)
    except BigmarketError as error:
        return error.with_traceback(None)
    period = periods[look.activity_id]
    account = accounts.get((look.user_id, look.activity_id)) or empty_account(period)
    roll_over(account, period)
    return AccountSeen(activity, account)


def _offer(bundle: Bundle, units: Mapping[int, int], kept: Mapping[int, Kept]) -> Offer:
    """A sku that the configuration has dropped since it was armed is its own count, and what is left is all."""
    left = units.get(bundle.sku, 0)
    return Offer(bundle, kept.get(bundle.sku) or Kept(bundle.sku, left), left)
