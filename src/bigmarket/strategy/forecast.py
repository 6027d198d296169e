"""The exact odds of one draw before it is made: every roll of the table, walked through the same tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

from bigmarket.strategy.chain import Pick, judge
from bigmarket.strategy.rules.base import Entry
from bigmarket.strategy.tree import walk
from bigmarket.strategy.wheel import Wheel


class Chance(NamedTuple):
    """With ``chance``, ``rolled_award_id`` is rolled and ``award_id`` won; ``path`` says why (strategy/tree.py)."""

    rolled_award_id: int
    award_id: int
    chance: Fraction
    path: str


def forecast(
    wheel: Wheel, entry: Entry, *, ordinal_today: int, wins: Mapping[int, int], has_unit: Callable[[int], bool]
) -> tuple[Chance, ...]:
    """What the draw ``entry`` would give: one line per award that can be rolled; the chances sum to 1.

    ``wins`` tells how often the user won each award that has a limit.
    """
    judged = judge(wheel, entry)
    if isinstance(judged, Pick):
        return (Chance(judged.award_id, judged.award_id, Fraction(1), judged.table),)
    lines = []
    for award_id, chance in wheel.tables[judged.table].odds().items():
        rolled = Pick(award_id, None, judged.table, 0)
        won = walk(wheel, rolled, ordinal_today=ordinal_today, won_before=wins.get(award_id, 0), take_unit=has_unit)
        lines.append(Chance(award_id, won.award_id, chance, won.path))
    return tuple(lines)


def odds_of(lines: tuple[Chance, ...]) -> dict[int, Fraction]:
    """The chance of winning each award; they sum to 1."""
    odds: dict[int, Fraction] = {}
    for line in lines:
        odds[line.award_id] = odds.get(line.award_id, Fraction(0)) + line.chance
    return odds
