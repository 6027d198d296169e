"""``user_credit_blacklist``: a fixed number of credits, the consolation of listed users."""

from __future__ import annotations

from dataclasses import dataclass

from bigmarket.award.kinds.amounts import read_cents
from bigmarket.award.kinds.base import Delivery, Gives, Roll
from bigmarket.award.message import SendAward
from bigmarket.credit.model import CreditTrade
from bigmarket.errors import BadInput


@dataclass(frozen=True, slots=True)
class UserCreditBlacklist:
    """``config`` is the amount in credits with at most two decimals, such as ``1``."""

    name: str = "user_credit_blacklist"
    delivery: Delivery = "task"
    gives: Gives = "credits"

    def check(self, config: str) -> str | None:
        """One amount."""
        try:
            _amount(config)
        except BadInput as bad:
            return str(bad)
        return None

    def effect(self, won: SendAward, *, roll: Roll) -> CreditTrade:  # noqa: ARG002  the amount is fixed
        """The configured amount."""
        return CreditTrade(won.order_id, won.user_id, "award", _amount(won.award_config), won.order_id)


def _amount(config: str) -> int:
    """The amount in hundredths."""
    if not config.strip():
        raise BadInput("config must be an amount of credits, such as `1`")
    return read_cents(config, name="config")
