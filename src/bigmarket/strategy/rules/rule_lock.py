"""``rule_lock``: the award is unlocked from the user's N-th draw of the day."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bigmarket.strategy.rules.base import ALLOW, TAKE_OVER, NodeAnswer, Settings, Visit


class RuleLock(Settings):
    """ALLOW from the ``unlock_at_draw``-th draw of the day on (the present one counts), else TAKE_OVER."""

    rule: Literal["rule_lock"] = "rule_lock"
    unlock_at_draw: int = Field(ge=1, description="The draw of the user's day from which the award can be won.")

    def judge(self, visit: Visit) -> NodeAnswer:
        """Compares today's draws, the present one included, with the threshold."""
        return ALLOW if visit.ordinal_today >= self.unlock_at_draw else TAKE_OVER
