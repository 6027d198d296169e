"""``physical``: a thing that a person hands over; the record waits for an operator."""

from __future__ import annotations

from dataclasses import dataclass

from bigmarket.award.kinds.base import Delivery


@dataclass(frozen=True, slots=True)
class Physical:
    """``config`` is free text for whoever sends it, such as an article number."""

    name: str = "physical"
    delivery: Delivery = "operator"

    def check(self, config: str) -> str | None:  # noqa: ARG002  any text will do
        """Any config is fine."""
        return None
