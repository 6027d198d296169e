"""A user's draw quota: total, this month's and today's. Pure arithmetic on a working copy of the account's row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from bigmarket.errors import BigmarketError, DayQuotaExhausted, MonthQuotaExhausted, QuotaExhausted


class Period(NamedTuple):
    """The month ``yyyy-mm`` and the day ``yyyy-mm-dd`` that a moment lies in, by an activity's clock."""

    month: str
    day: str


def period_of(now_ms: int, *, zone: ZoneInfo) -> Period:
    """The month and day of ``now_ms`` (epoch milliseconds) in ``zone``."""
    day = datetime.fromtimestamp(now_ms / 1000, tz=UTC).astimezone(zone).date().isoformat()
    return Period(day[:7], day)


class Counts(NamedTuple):
    """Draws a sku credits: to the total, and to the allowance per month and per day."""

    total: int
    month: int
    day: int


class Bundle(NamedTuple):
    """One unit of a sku: the draws that it credits in which activity, and its price in hundredths of a credit."""

    sku: int
    activity_id: int
    counts: Counts
    price_cents: int


class Account(msgspec.Struct, gc=False):
    """``*_count`` draws were credited, ``*_left`` of them are not used; month and day counters belong to a period."""

    total_count: int
    total_left: int
    month: str
    month_count: int
    month_left: int
    day: str
    day_count: int
    day_left: int

    @property
    def used(self) -> int:
        """Draws used in the activity."""
        return self.total_count - self.total_left

    @property
    def used_today(self) -> int:
        """Draws used on the account's day."""
        return self.day_count - self.day_left


def empty_account(period: Period) -> Account:
    """The account of a user who was never credited."""
    return Account(0, 0, period.month, 0, 0, period.day, 0, 0)


def roll_over(account: Account, period: Period) -> None:
    """Begin a new month or day if ``period`` is later than the account's.

    A clock that went back does not bring yesterday's quota back: the later period stays.
    """
    if period.month > account.month:
        account.month = period.month
        account.month_left = account.month_count
    if period.day > account.day:
        account.day = period.day
        account.day_left = account.day_count


def refusal(account: Account) -> BigmarketError | None:
    """Why the account (already rolled over) allows no draw, or None if it allows one."""
    if account.total_left <= 0:
        return QuotaExhausted("No draw left; earn or recharge some.")
    if account.month_left <= 0:
        return MonthQuotaExhausted(f"No draw left in {account.month}; all {account.month_count} are used.")
    if account.day_left <= 0:
        return DayQuotaExhausted(f"No draw left on {account.day}; all {account.day_count} are used.")
    return None


def spend(account: Account) -> None:
    """Use one draw of an account that ``refusal`` let pass."""
    account.total_left -= 1
    account.month_left -= 1
    account.day_left -= 1


def credit(account: Account, counts: Counts) -> None:
    """Add a sku's draws to an account that was rolled over."""
    account.total_count += counts.total
    account.total_left += counts.total
    account.month_count += counts.month
    account.month_left += counts.month
    account.day_count += counts.day
    account.day_left += counts.day
