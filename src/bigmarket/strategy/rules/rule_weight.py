"""``rule_weight``: a guaranteed tier. On exactly the N-th draw the roll is among the tier's awards only."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field

from bigmarket.strategy.rules.base import Entry, Narrowed, Settings


class Tier(Settings):
    """One tier: reached on the user's ``at_draw``-th draw in the activity."""

    at_draw: int = Field(ge=1, description="The draw of the user, counted from 1, on which this tier is rolled.")
    awards: tuple[int, ...] = Field(min_length=1, description="Award ids rolled among, by their usual rates.")

    @property
    def table(self) -> str:
        """Name of the tier's roll table."""
        return f"tier:{self.at_draw}"


class RuleWeight(Settings):
    """Narrows the roll on the draws its tiers name; every other draw passes on."""

    rule: Literal["rule_weight"] = "rule_weight"
    tiers: tuple[Tier, ...] = Field(min_length=1, description="The guaranteed draws.")

    def judge(self, entry: Entry) -> Narrowed | None:
        """The tier's table if this very draw reaches one."""
        return self._answers.get(entry.ordinal)

    @cached_property
    def _answers(self) -> dict[int, Narrowed]:
        return {tier.at_draw: Narrowed(tier.table) for tier in self.tiers}
