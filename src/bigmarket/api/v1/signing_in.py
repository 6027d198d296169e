"""v1 of sign-ins: whether a user signed in today, and on which days of a month."""

from __future__ import annotations

import re

import msgspec

from bigmarket.activity.admission import live_activity
from bigmarket.activity.behavior import days_now
from bigmarket.activity.quota import period_of
from bigmarket.api.reader import Int64
from bigmarket.api.v1.asking import EXAMPLE_ACTIVITY, Calls, body_of, parameters_of
from bigmarket.app import World
from bigmarket.errors import BadInput
from bigmarket.storage.rebates_read import sign_ins, signed_in

calls = Calls()

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)


class SomeActivityIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """An activity, or all."""

    activity_id: Int64 | None = None


class MonthIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """A month of an activity, ``yyyy-mm``; by default this one."""

    activity_id: Int64
    month: str | None = None


class CalendarOut(msgspec.Struct, frozen=True, rename="camel"):
    """The days of ``month`` on which the user signed in, and days in a row up to today, or up to yesterday."""

    month: str
    days: list[int]
    streak: int
    today: str
    signed_today: bool


@calls.of_users(
    "/activity/is_calendar_sign_rebate",
    asks=SomeActivityIn,
    read=parameters_of,
    summary="Whether a user signed in today",
    data=bool,
    example=True,
    codes=("0001", "0002"),
)
def is_calendar_sign_rebate(world: World, user_id: str, asked: SomeActivityIn) -> bool:
    """In the activity, or in any if none is named; days begin by the activity's clock."""
    if asked.activity_id is not None:
        live_activity(asked.activity_id, live=world.live.current)
    days = days_now(world.live.current, now_ms=world.now_ms(), activity_id=asked.activity_id)
    with world.stores.of(user_id).reading() as connection:
        return signed_in(connection, user_id, days)


@calls.of_users(
    "/activity/query_sign_in_calendar",
    asks=MonthIn,
    read=body_of,
    body_example=EXAMPLE_ACTIVITY,
    summary="The days of a month on which a user signed in",
    data=CalendarOut,
    example={
        "month": "2026-11",
        "days": [1, 2, 19, 20, 21],
        "streak": 3,
        "today": "2026-11-21",
        "signedToday": True,
    },
    codes=("0001", "0002"),
)
def query_sign_in_calendar(world: World, user_id: str, asked: MonthIn) -> CalendarOut:
    """By the activity's clock. `streak` counts days in a row and includes today if the user has signed in."""
    today = period_of(world.now_ms(), zone=live_activity(asked.activity_id, live=world.live.current).zone)
    month = today.month if asked.month is None else asked.month
    if not _MONTH.fullmatch(month):
        raise BadInput("month must be written as yyyy-mm.")
    with world.stores.of(user_id).reading() as connection:
        found = sign_ins(connection, user_id, asked.activity_id, month=month, today=today.day)
    return CalendarOut(month, list(found.days), found.streak, today.day, found.signed_today)
