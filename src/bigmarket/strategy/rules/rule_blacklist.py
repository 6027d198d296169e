"""``rule_blacklist``: listed users always get one fixed award."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bigmarket.strategy.rules.base import Entry, Given, Settings


class RuleBlacklist(Settings):
    """Gives ``award_id`` (with ``config``, if set, in place of the award's own) to every user in ``users``."""

    rule: Literal["rule_blacklist"] = "rule_blacklist"
    award_id: int = Field(description="The award a listed user gets; it must be unlimited.")
    config: str | None = Field(default=None, max_length=128, description="Replaces the award's own config.")
    users: frozenset[str] = Field(description="User ids on the list.")

    def judge(self, entry: Entry) -> Given | None:
        """The fixed award for a listed user, else nothing."""
        return Given(self.award_id, self.config) if entry.user_id in self.users else None
