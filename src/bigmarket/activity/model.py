"""The activity and its skus as a campaign file writes them, and the activity as it runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from bigmarket.activity.revision import Revision
from bigmarket.strategy.model import Id, Title
from bigmarket.strategy.rules.base import Settings

ActivityState = Literal["create", "open", "close"]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Activity(Settings):
    """A campaign: its window, time zone and state. Begin and end are wall-clock times of ``time_zone``."""

    activity_id: Id
    name: Title
    description: Title | None = None
    time_zone: str = Field(default="UTC", description="IANA name; days and months of quotas begin by its clock.")
    begin: datetime = Field(description="First moment draws are taken; local to time_zone unless it has an offset.")
    end: datetime = Field(description="First moment draws are no longer taken.")
    state: ActivityState = "open"


class Sku(Settings):
    """A bundle of draws. Counts add to the account's total, and to its allowance per month and per day."""

    sku: Id
    name: Title | None = None
    stock: Count = Field(description="Units that may ever be ordered.")
    price: Decimal = Field(default=Decimal(0), ge=0, max_digits=10, decimal_places=2, description="In credits.")
    total_count: Annotated[int, Field(ge=1, le=2**31 - 1)]
    month_count: Count
    day_count: Count


@dataclass(frozen=True, slots=True)
class LiveActivity:
    """An activity as lanes see it: admission facts, the live revision and the open seed epoch.

    Times are epoch milliseconds; ``revision`` is None until the activity is armed.
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
    seed: bytes
