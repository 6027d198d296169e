"""``nothing``: better luck next time; the record is complete as soon as it is written."""

from __future__ import annotations

from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery


@dataclass(frozen=True, slots=True)
class Nothing:
    """Takes no config and delivers nothing."""

    name: str = "nothing"
    delivery: Delivery = "none"

    def check(self, config: str) -> str | None:
        """A config would have no meaning."""
        return "kind `nothing` takes no config" if config else None
