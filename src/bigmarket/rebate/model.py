"""Rebates as a campaign file writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bigmarket.strategy.model import Id, Key, Title
from bigmarket.strategy.rules.base import Settings


class SkuRebate(Settings):
    """The behavior earns one unit of a sku: more draws."""

    behavior: Key
    type: Literal["sku"]
    sku: Id
    description: Title | None = None


class IntegralRebate(Settings):
    """The behavior earns credits."""

    behavior: Key
    type: Literal["integral"]
    credits: Annotated[int, Field(ge=1, le=10**9)]
    description: Title | None = None


Rebate = Annotated[SkuRebate | IntegralRebate, Field(discriminator="type")]
