"""``rule_luck_award``: the fallback, given when the rolled award is locked or sold out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bigmarket.strategy.rules.base import NodeAnswer, Settings, Visit


class RuleLuckAward(Settings):
    """Puts ``award_id`` in place of the rolled award; the last resort cannot run out, so it must be unlimited."""

    rule: Literal["rule_luck_award"] = "rule_luck_award"
    award_id: int = Field(description="The award given instead; it must be unlimited.")
    config: str | None = Field(default=None, max_length=128, description="Replaces the award's own config.")

    def judge(self, visit: Visit) -> NodeAnswer:  # noqa: ARG002  every node is asked the same way
        """Always takes over with the fallback award."""
        return NodeAnswer("TAKE_OVER", self.award_id, self.config)
