"""The reference system's rows as typed records, in both states of it that exist: S22 and UP.

Values arrive as text, whether from a dump or a live database. Columns that S22 does not have are optional; columns
that nothing here needs are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from bigmarket.errors import BadInput

Values = Mapping[str, str | None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the reference; ``create_time`` is set by its database, other times by its application."""

    create_time: str | None = None


R = TypeVar("R", bound=Row)

# --- configuration ------------------------------------------------------------------------------------------------


class AwardRow(Row, frozen=True):
    """What can be won, for all strategies."""

    award_id: int
    award_key: str
    award_config: str = ""
    award_desc: str | None = None


class RebateRow(Row, frozen=True):
    """What a behavior earns, for all activities."""

    behavior_type: str
    rebate_type: str
    rebate_config: str
    rebate_desc: str | None = None
    state: str = "open"


class ActivityRow(Row, frozen=True):
    """An activity."""

    activity_id: int
    activity_name: str
    begin_date_time: str
    end_date_time: str
    strategy_id: int
    activity_desc: str | None = None
    state: str = "create"


class CountRow(Row, frozen=True):
    """Draws in a sku."""

    activity_count_id: int
    total_count: int
    day_count: int
    month_count: int


class SkuRow(Row, frozen=True):
    """A bundle of draws; ``product_amount`` is its price in credits, unknown to S22."""

    sku: int
    activity_id: int
    activity_count_id: int
    stock_count: int
    stock_count_surplus: int
    product_amount: Decimal | None = None


class StageRow(Row, frozen=True):
    """Which activity a channel shows (UP)."""

    channel: str
    source: str
    activity_id: int
    state: str = "create"


class TreeRow(Row, frozen=True):
    """A tree and its root."""

    tree_id: str
    tree_node_rule_key: str
    tree_name: str | None = None


class NodeRow(Row, frozen=True):
    """A rule in a tree."""

    tree_id: str
    rule_key: str
    rule_value: str | None = None


class LineRow(Row, frozen=True):
    """Where a node's verdict leads."""

    tree_id: str
    rule_node_from: str
    rule_node_to: str
    rule_limit_value: str
    rule_limit_type: str = "EQUAL"


class StrategyRow(Row, frozen=True):
    """A wheel; ``rule_models`` names its chain."""

    strategy_id: int
    strategy_desc: str
    rule_models: str | None = None


class SectorRow(Row, frozen=True):
    """A sector of a wheel; ``rule_models`` names its tree."""

    strategy_id: int
    award_id: int
    award_title: str
    award_rate: Decimal
    award_count: int = 0
    award_count_surplus: int = 0
    sort: int = 0
    award_subtitle: str | None = None
    rule_models: str | None = None


class RuleRow(Row, frozen=True):
    """A rule's settings as text; ``rule_type`` 1 is a strategy's, 2 was an award's before there were trees."""

    strategy_id: int
    rule_model: str
    rule_value: str
    award_id: int | None = None
    rule_type: int = 1


# --- users --------------------------------------------------------------------------------------------------------


class UserRow(Row, frozen=True):
    """A row of one user."""

    user_id: str


class AccountRow(UserRow, frozen=True):
    """What a user may draw in an activity; day and month counts are what each new day and month begins with."""

    activity_id: int
    total_count: int
    total_count_surplus: int
    day_count: int
    month_count: int


class MonthRow(UserRow, frozen=True):
    """The counters of one month."""

    activity_id: int
    month: str
    month_count: int
    month_count_surplus: int


class DayRow(UserRow, frozen=True):
    """The counters of one day."""

    activity_id: int
    day: str
    day_count: int
    day_count_surplus: int


class QuotaOrderRow(UserRow, frozen=True):
    """A recharge; ``pay_amount`` is unknown to S22."""

    sku: int
    activity_id: int
    order_id: str
    order_time: str
    total_count: int
    day_count: int
    month_count: int
    out_business_no: str
    state: str = "completed"
    pay_amount: Decimal | None = None


class RaffleOrderRow(UserRow, frozen=True):
    """The right to draw once."""

    activity_id: int
    order_id: str
    order_time: str
    order_state: str = "create"


class RecordRow(UserRow, frozen=True):
    """What an order won."""

    activity_id: int
    strategy_id: int
    order_id: str
    award_id: int
    award_title: str
    award_time: str
    award_state: str = "create"


class RebateOrderRow(UserRow, frozen=True):
    """What a behavior earned; S22 has the behavior's number only inside ``biz_id``."""

    order_id: str
    behavior_type: str
    rebate_type: str
    rebate_config: str
    biz_id: str
    rebate_desc: str | None = None
    out_business_no: str | None = None


class CreditAccountRow(UserRow, frozen=True):
    """A user's points."""

    total_amount: Decimal
    available_amount: Decimal
    account_status: str = "open"


class CreditOrderRow(UserRow, frozen=True):
    """A movement of points, signed."""

    order_id: str
    trade_name: str
    trade_type: str
    trade_amount: Decimal
    out_business_no: str


class TaskRow(UserRow, frozen=True):
    """A message of the outbox."""

    topic: str
    message: str
    message_id: str | None = None
    state: str = "create"


CONFIGURATION: Mapping[str, type[Row]] = {
    "award": AwardRow,
    "daily_behavior_rebate": RebateRow,
    "raffle_activity": ActivityRow,
    "raffle_activity_count": CountRow,
    "raffle_activity_sku": SkuRow,
    "raffle_activity_stage": StageRow,
    "rule_tree": TreeRow,
    "rule_tree_node": NodeRow,
    "rule_tree_node_line": LineRow,
    "strategy": StrategyRow,
    "strategy_award": SectorRow,
    "strategy_rule": RuleRow,
}
WHOLE: Mapping[str, type[UserRow]] = {  # one table in each database of users
    "raffle_activity_account": AccountRow,
    "raffle_activity_account_month": MonthRow,
    "raffle_activity_account_day": DayRow,
    "user_credit_account": CreditAccountRow,
    "task": TaskRow,
}
SPLIT: Mapping[str, type[UserRow]] = {  # tables with the suffixes _000, _001 and so on
    "raffle_activity_order": QuotaOrderRow,
    "user_raffle_order": RaffleOrderRow,
    "user_award_record": RecordRow,
    "user_behavior_rebate_order": RebateOrderRow,
    "user_credit_order": CreditOrderRow,
}
TABLES: Mapping[str, type[Row]] = {**CONFIGURATION, **WHOLE, **SPLIT}

_SUFFIXED = re.compile(rf"({'|'.join(SPLIT)})_(\d{{3}})")


class Place(NamedTuple):
    """A table of the reference, and which part of it (``000``), if it is split."""

    table: str
    part: str | None


def place_of(name: str) -> Place | None:
    """The table that a database calls ``name``; None when it is none of the reference's that matter."""
    if (match := _SUFFIXED.fullmatch(name)) is not None:
        return Place(match[1], match[2])
    return Place(name, None) if name in TABLES else None


def read_row(kind: type[R], values: Values) -> R:
    """The record that ``values`` make. Raises BadInput with the column and what is wrong with it."""
    try:
        return msgspec.convert({k: v for k, v in values.items() if v is not None}, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadInput(str(error)) from error


# --- times --------------------------------------------------------------------------------------------------------

_SHIFT_STEP = timedelta(minutes=15)  # time zones differ by multiples of it
_SHIFT_MAX = timedelta(hours=14)
_SAME_MOMENT = timedelta(minutes=1)  # between a row's own time and the database's


class Moment(NamedTuple):
    """``ms`` since 1970; ``shift`` is how far the application's clock was behind the database's, when it was."""

    ms: int
    shift: timedelta


def moment_of(text: str, *, created: str | None = None, zone: ZoneInfo) -> Moment:
    """The moment that a DATETIME names on the clock of ``zone``.

    The reference's application often writes its own times by another clock (UTC) than its database does
    (``created``). Whole quarters of an hour between the two, and no more than a minute, are taken for that.
    Raises BadInput when it is no moment.
    """
    written = _wall_clock(text)
    shift = timedelta(0)
    if created is not None and not created.startswith("0000"):
        behind = _wall_clock(created) - written
        near = _SHIFT_STEP * round(behind / _SHIFT_STEP)
        if near and abs(near) <= _SHIFT_MAX and abs(behind - near) <= _SAME_MOMENT:
            shift = near
    when = (written + shift).replace(tzinfo=zone).astimezone(UTC)
    return Moment(round(when.timestamp() * 1000), shift)


def _wall_clock(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"`{text}` is no date and time") from None
    if when.tzinfo is not None:
        raise BadInput(f"`{text}` has an offset")
    return when


def plain_values(row: Mapping[str, Any]) -> dict[str, str | None]:
    """A row as a driver gives it, as a dump would write it."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return str(value)
