"""``user_credit_blacklist``: a fixed number of credits, the consolation of listed users."""

from __future__ import annotations

from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery


@dataclass(frozen=True, slots=True)
class UserCreditBlacklist:
    """``config`` is the amount in credits with at most two decimals, such as ``1``."""

    name: str = "user_credit_blacklist"
    delivery: Delivery = "task"

    def check(self, config: str) -> str | None:
        """One amount."""
        return None if config else "config must be an amount of credits, such as `1`"
