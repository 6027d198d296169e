"""How far a user is on the way to the guaranteed draws of ``rule_weight``."""

from __future__ import annotations

from typing import NamedTuple

from bigmarket.strategy.rules import RuleWeight
from bigmarket.strategy.wheel import Wheel


class GuaranteedDraw(NamedTuple):
    """A tier, passed or not: the user's ``draws_needed``-th draw rolls among ``awards`` (id, title)."""

    draws_needed: int
    awards: tuple[tuple[int, str], ...]


class Progress(NamedTuple):
    """All tiers, by draw; ``coming`` is the one that a user comes to, ``draws_missing`` draws from now.

    The draw that reaches it counts among those missing. After the last tier none is coming and nothing missing.
    """

    tiers: tuple[GuaranteedDraw, ...]
    coming: GuaranteedDraw | None
    draws_missing: int


def tier_progress(wheel: Wheel, *, drawn: int) -> Progress:
    """The tiers of a wheel, for a user who has made ``drawn`` draws on it."""
    tiers = tuple(
        GuaranteedDraw(tier.at_draw, tuple((award_id, wheel.sectors[award_id].title) for award_id in tier.awards))
        for rule in wheel.chain
        if isinstance(rule, RuleWeight)
        for tier in sorted(rule.tiers, key=lambda tier: tier.at_draw)
    )
    coming = next((tier for tier in tiers if tier.draws_needed > drawn), None)
    return Progress(tiers, coming, coming.draws_needed - drawn if coming else 0)
