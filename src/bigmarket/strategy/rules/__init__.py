"""The rules, one file each. A new rule is a new file and one line in one of these two unions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bigmarket.strategy.rules.rule_allowlist import RuleAllowlist
from bigmarket.strategy.rules.rule_blacklist import RuleBlacklist
from bigmarket.strategy.rules.rule_lock import RuleLock
from bigmarket.strategy.rules.rule_luck_award import RuleLuckAward
from bigmarket.strategy.rules.rule_stock import RuleStock
from bigmarket.strategy.rules.rule_user_limit import RuleUserLimit
from bigmarket.strategy.rules.rule_weight import RuleWeight, Tier

#: Judges before the roll: gives a fixed award, narrows the roll to some awards, or passes on.
ChainRule = Annotated[RuleAllowlist | RuleBlacklist | RuleWeight, Field(discriminator="rule")]

#: Judges after the roll: ALLOW or TAKE_OVER, along the lines of the award's tree.
TreeRule = Annotated[RuleLock | RuleUserLimit | RuleStock | RuleLuckAward, Field(discriminator="rule")]

__all__ = [
    "ChainRule",
    "RuleAllowlist",
    "RuleBlacklist",
    "RuleLock",
    "RuleLuckAward",
    "RuleStock",
    "RuleUserLimit",
    "RuleWeight",
    "Tier",
    "TreeRule",
]
