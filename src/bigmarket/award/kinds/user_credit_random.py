"""``user_credit_random``: a random number of credits between two bounds."""

from __future__ import annotations

from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery


@dataclass(frozen=True, slots=True)
class UserCreditRandom:
    """``config`` is ``min,max`` in credits with at most two decimals, such as ``1,100``."""

    name: str = "user_credit_random"
    delivery: Delivery = "task"

    def check(self, config: str) -> str | None:
        """Two amounts, the first not above the second."""
        return None if config else "config must be `min,max`, such as `1,100`"
