"""``openai_use_count``: calls of a model service; the service's own system adds them to the winner's quota."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery, Gives, Outside, Roll
from bigmarket.award.message import SendAward

_COUNT = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class OpenaiUseCount:
    """``config`` is how many calls to add, such as ``5``; it goes to the endpoint of the kind's name."""

    name: str = "openai_use_count"
    delivery: Delivery = "task"
    gives: Gives = "webhook"

    def check(self, config: str) -> str | None:
        """A positive number."""
        if _COUNT.fullmatch(config.strip()):
            return None
        return f"config must be a whole number from 1 to 999999999, not `{config.strip()}`"

    def effect(self, won: SendAward, *, roll: Roll) -> Outside:  # noqa: ARG002  nothing is rolled
        """A call of the endpoint."""
        return Outside(self.place_of(won.award_config))

    def place_of(self, config: str) -> str:  # noqa: ARG002  one endpoint for all
        """The endpoint of this name."""
        return self.name
