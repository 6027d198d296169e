"""Rebates as a campaign file writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bigmarket.strategy.model import Id, Key, Title
from bigmarket.strategy.rules.base import Settings

STREAK_MAX = 366


def _every_time_or_more(days: int | None) -> int | None:
    """0 says the same as nothing, so that it is kept as nothing."""
    if days == 1:
        raise ValueError("must be at least 2; leave it out for a rebate that is earned every time")
    return days or None


StreakDays = Annotated[
    Annotated[int, Field(ge=0, le=STREAK_MAX)] | None,
    AfterValidator(_every_time_or_more),
    Field(description="Earned on every n-th day in a row only; leave it out for every time."),
]


class SkuRebate(Settings):
    """The behavior earns one unit of a sku: more draws."""

    behavior: Key
    type: Literal["sku"]
    sku: Id
    streak_days: StreakDays = None
    description: Title | None = None

    @property
    def config(self) -> str:
        """What it gives, as rows and messages say it: the sku."""
        return str(self.sku)


class IntegralRebate(Settings):
    """The behavior earns credits."""

    behavior: Key
    type: Literal["integral"]
    credits: Annotated[int, Field(ge=1, le=10**9)]
    streak_days: StreakDays = None
    description: Title | None = None

    @property
    def config(self) -> str:
        """What it gives, as rows and messages say it: whole credits."""
        return str(self.credits)


Rebate = Annotated[SkuRebate | IntegralRebate, Field(discriminator="type")]
