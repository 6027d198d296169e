"""``code``: a redemption code out of a pool that operators fill; each code is won once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery, Gives, Outside, Roll
from bigmarket.award.message import SendAward
from bigmarket.errors import BadInput

_POOL = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Code:
    """``config`` is the name of the pool."""

    name: str = "code"
    delivery: Delivery = "task"
    gives: Gives = "code"

    def check(self, config: str) -> str | None:
        """The name of a pool, which may be filled later."""
        try:
            read_pool(config, name="config must be the name of a pool, which")
        except BadInput as bad:
            return str(bad)
        return None

    def effect(self, won: SendAward, *, roll: Roll) -> Outside:  # noqa: ARG002  nothing is rolled
        """A code of the pool."""
        return Outside(self.place_of(won.award_config))

    def place_of(self, config: str) -> str:
        """The pool. Raises BadInput."""
        return read_pool(config, name="config must be the name of a pool, which")


def read_pool(text: str, *, name: str) -> str:
    """The name of a pool. Raises BadInput."""
    pool = text.strip()
    if _POOL.fullmatch(pool) is None:
        raise BadInput(f"{name} has 1 to 32 small letters, digits, hyphens and underscores, the first no hyphen")
    return pool
