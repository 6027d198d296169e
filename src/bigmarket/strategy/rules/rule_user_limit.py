"""``rule_user_limit``: one user may win the award only so often."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bigmarket.strategy.rules.base import ALLOW, TAKE_OVER, NodeAnswer, Settings, Visit


class RuleUserLimit(Settings):
    """ALLOW while the user has won the award fewer than ``at_most`` times, else TAKE_OVER."""

    rule: Literal["rule_user_limit"] = "rule_user_limit"
    at_most: int = Field(ge=1, le=2**31 - 1, description="How often one user may win the award, ever.")

    def judge(self, visit: Visit) -> NodeAnswer:
        """Compares the user's earlier wins of the rolled award with the limit."""
        return ALLOW if visit.won_before < self.at_most else TAKE_OVER
