"""``rule_stock``: the award is won if a unit of it can be taken."""

from __future__ import annotations

from typing import Literal

from bigmarket.strategy.rules.base import ALLOW, TAKE_OVER, NodeAnswer, Settings, Visit


class RuleStock(Settings):
    """TAKE_OVER (the award is won) when a unit was taken, ALLOW (go on to the fallback) when none is left."""

    rule: Literal["rule_stock"] = "rule_stock"

    def judge(self, visit: Visit) -> NodeAnswer:
        """Takes one unit of the rolled award."""
        return TAKE_OVER if visit.take_unit(visit.award_id) else ALLOW
