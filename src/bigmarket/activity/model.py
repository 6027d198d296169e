"""The activity and its skus as a campaign file writes them, and the activity as it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from bigmarket.activity.revision import Revision
from bigmarket.award.model import Award
from bigmarket.rebate.model import Rebate
from bigmarket.strategy.model import Id, Strategy, Title
from bigmarket.strategy.rules.base import Settings

_FIRST_YEAR, _LAST_YEAR = 1971, 9998  # a year from where conversions between zones overflow

ActivityState = Literal["create", "open", "close"]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


_MOMENT_PATTERN = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{3})?)?(Z|[+-]\d{2}:\d{2})?$"


def _moment(value: object) -> object:
    """A written date and time; pydantic's own reader would also take "1710000000" for one."""
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value) if re.match(_MOMENT_PATTERN, value, re.ASCII) else None
    except ValueError:  # a 30th of February
        return None


Moment = Annotated[datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "pattern": _MOMENT_PATTERN})]


class Activity(Settings):
    """A campaign: its window, time zone and state.

    Begin and end are written as wall-clock times of ``time_zone`` (or with an offset of their own) and kept in UTC;
    only when the zone is unknown do they stay as written.
    """

    activity_id: Id
    name: Title
    description: Title | None = None
    time_zone: str = Field(
        default="UTC",
        min_length=1,
        max_length=64,
        description="IANA name, such as Asia/Shanghai; days and months of quotas begin by its clock.",
    )
    begin: Moment = Field(description="First moment draws are taken; local to time_zone unless it has an offset.")
    end: Moment = Field(description="First moment draws are no longer taken; local to time_zone like begin.")
    state: ActivityState = Field(default="open", description="Draws are taken only while it is open.")

    @field_validator("begin", "end")
    @classmethod
    def _in_utc(cls, value: datetime, info: ValidationInfo) -> datetime:
        if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
            raise ValueError(f"must lie in the years {_FIRST_YEAR} to {_LAST_YEAR}")
        if value.microsecond % 1000:
            raise ValueError("must not be finer than milliseconds")
        if value.tzinfo is None:
            value = value.replace(tzinfo=zone_of(info.data.get("time_zone", "")))
        return value if value.tzinfo is None else value.astimezone(UTC)


class Sku(Settings):
    """A bundle of draws. Counts add to the account's total, and to its allowance per month and per day."""

    sku: Id
    name: Title | None = None
    stock: Count = Field(description="Units that may ever be ordered.")
    price: Decimal = Field(default=Decimal(0), ge=0, max_digits=10, decimal_places=2, description="In credits.")
    total_count: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(description="Draws in one unit.")
    month_count: Count = Field(description="How many draws one unit adds to what may be used per month.")
    day_count: Count = Field(description="How many draws one unit adds to what may be used per day.")


class Campaign(Settings):
    """One campaign file: an activity, what sells or earns its draws, its wheel, and what can be won."""

    activity: Activity
    skus: tuple[Sku, ...] = Field(description="Bundles of draws.")
    strategy: Strategy
    awards: tuple[Award, ...] = Field(description="The catalogue: how each award is delivered.")
    rebates: tuple[Rebate, ...] = Field(default=(), description="What a user's behavior earns.")


@dataclass(frozen=True, slots=True)
class LiveActivity:
    """An activity as lanes see it: admission facts, the live revision and the open seed epoch.

    Times are epoch milliseconds; ``revision`` is None until the activity is armed. The open epoch began
    when it came to run by that revision.
    """

    activity_id: int
    name: str
    strategy_id: int
    state: ActivityState
    begin_ms: int
    end_ms: int
    zone: ZoneInfo
    revision: Revision | None
    epoch: int
    epoch_open_ms: int
    seed: bytes


def zone_of(name: str) -> ZoneInfo | None:
    """The time zone of that IANA name, or None if there is none."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):  # OSError: the name is that of a folder, such as "America"
        return None
