"""What users did and what it earned them, to be shown. Each works on the connection it is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, or_, select, tuple_

from bigmarket.rebate.behavior import SIGN, day_before, day_of, number_of
from bigmarket.storage import schema as t
from bigmarket.storage.routing import SplitTables

REBATES_MAX = 1_000  # shown at once


class SignIns(NamedTuple):
    """A user's sign-ins in a month: its days in order, and the days in a row that end today or yesterday."""

    days: tuple[int, ...]
    streak: int
    signed_today: bool


def sign_ins(connection: Connection, user_id: str, activity_id: int, *, month: str, today: str) -> SignIns:
    """The sign-ins of ``month`` (``yyyy-mm``); ``today`` is ``yyyy-mm-dd`` by the activity's clock."""
    b = t.user_behavior.c
    first, now = number_of(month), number_of(today)
    before = day_before(now)
    this = (b.user_id == user_id, b.activity_id == activity_id, b.behavior_type == SIGN)
    wanted = or_(b.out_business_no.between(f"{first}01", f"{first}31"), b.out_business_no.in_((now, before)))
    streaks: dict[str, int] = dict(
        connection.execute(select(b.out_business_no, b.streak).where(*this, wanted)).tuples().all()
    )
    days = [day for number in sorted(streaks) if (day := day_of(number)) is not None]
    return SignIns(
        tuple(day.day for day in days if day.isoformat()[:7] == month),
        streaks.get(now) or streaks.get(before or "", 0),
        now in streaks,
    )


def signed_in(connection: Connection, user_id: str, days: Collection[tuple[int, date]]) -> bool:
    """Whether the user signed in on any of these days, each of an activity."""
    b = t.user_behavior.c
    keys = [(user_id, activity_id, SIGN, number_of(day.isoformat())) for activity_id, day in days]
    if not keys:
        return False
    columns = tuple_(b.user_id, b.activity_id, b.behavior_type, b.out_business_no)
    return connection.execute(select(b.user_id).where(columns.in_(keys)).limit(1)).first() is not None


def rebate_orders(connection: Connection, split: SplitTables, user_id: str, *, limit: int) -> Sequence[Row[Any]]:
    """What the user's behavior earned, newest first, with ``state`` and ``reason``.

    Found by the unique ``biz_id``, which begins with the user's id.
    """
    order = split.table_of(t.user_behavior_rebate_order, user_id)
    mine = (order.c.biz_id > f"{user_id}_", order.c.biz_id < f"{user_id}`", order.c.user_id == user_id)
    newest = (order.c.create_time_ms.desc(), order.c.order_id.desc())
    return connection.execute(select(order).where(*mine).order_by(*newest).limit(limit)).all()
