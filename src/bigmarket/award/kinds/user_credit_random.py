"""``user_credit_random``: a random number of credits between two bounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from bigmarket.award.kinds.amounts import read_cents
from bigmarket.award.kinds.base import Delivery, Gives, Roll
from bigmarket.award.message import SendAward
from bigmarket.credit.model import CreditTrade
from bigmarket.errors import BadInput


@dataclass(frozen=True, slots=True)
class UserCreditRandom:
    """``config`` is ``min,max`` in credits with at most two decimals, such as ``1,100``."""

    name: str = "user_credit_random"
    delivery: Delivery = "task"
    gives: Gives = "credits"

    def check(self, config: str) -> str | None:
        """Two amounts, the first not above the second."""
        try:
            _bounds(config)
        except BadInput as bad:
            return str(bad)
        return None

    def effect(self, won: SendAward, *, roll: Roll) -> CreditTrade:
        """Every hundredth from min to max is equally likely."""
        low, high = _bounds(won.award_config)
        return CreditTrade(won.order_id, won.user_id, "award", low + roll(high - low + 1), won.order_id)


@lru_cache(maxsize=256)
def _bounds(config: str) -> tuple[int, int]:
    """Both bounds in hundredths."""
    parts = config.split(",")
    if len(parts) != 2:
        raise BadInput("config must be `min,max`, such as `1,100`")
    low, high = read_cents(parts[0], name="min"), read_cents(parts[1], name="max")
    if low > high:
        raise BadInput(f"min {parts[0].strip()} must not be above max {parts[1].strip()}")
    return low, high
