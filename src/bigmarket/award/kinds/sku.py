"""``sku``: more draws; the prize is one unit of a sku of the same campaign."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery, Gives, Roll, SkuUnit
from bigmarket.award.message import SendAward
from bigmarket.errors import BadInput

_NUMBER = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Sku:
    """``config`` is the sku's number; each prize takes a unit of its stock."""

    name: str = "sku"
    delivery: Delivery = "task"
    gives: Gives = "draws"

    def check(self, config: str) -> str | None:
        """The number of a sku; whether there is one, armory looks."""
        try:
            read_sku(config)
        except BadInput as bad:
            return str(bad)
        return None

    def effect(self, won: SendAward, *, roll: Roll) -> SkuUnit:  # noqa: ARG002  nothing is rolled
        """A unit of that sku."""
        return SkuUnit(read_sku(won.award_config))


def read_sku(config: str) -> int:
    """The number of a sku. Raises BadInput."""
    if _NUMBER.fullmatch(config.strip()) is None:
        raise BadInput(f"config must be the number of a sku, not `{config.strip()}`")
    return int(config)
