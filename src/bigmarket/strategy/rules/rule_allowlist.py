"""``rule_allowlist``: only listed users draw; all others always get one fixed award."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bigmarket.strategy.rules.base import Entry, Given, Settings


class RuleAllowlist(Settings):
    """Gives ``award_id`` (with ``config``, if set, in place of the award's own) to every user not in ``users``."""

    rule: Literal["rule_allowlist"] = "rule_allowlist"
    award_id: int = Field(description="The award a user gets who is not listed; it must be unlimited.")
    config: str | None = Field(default=None, max_length=128, description="Replaces the award's own config.")
    users: frozenset[str] = Field(description="User ids on the list.")

    def judge(self, entry: Entry) -> Given | None:
        """The fixed award for a user who is not listed, else nothing."""
        return None if entry.user_id in self.users else Given(self.award_id, self.config)
