"""Before the roll: the chain of rules, then the roll itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bigmarket.strategy.rules.base import Entry, Given
from bigmarket.strategy.wheel import ALL_AWARDS, Wheel


class Pick(NamedTuple):
    """What the chain came to: an award given outright (``rolled`` is None), or rolled from ``table``."""

    award_id: int
    config: str | None
    table: str
    rolled: int | None


def pick(wheel: Wheel, entry: Entry, *, roll: Callable[[int], int]) -> Pick:
    """Ask each rule in order; the first that answers decides, else the roll is among all awards.

    ``roll(faces)`` answers a number in ``[0, faces)``.
    """
    name = ALL_AWARDS
    for rule in wheel.chain:
        answer = rule.judge(entry)
        if answer is None:
            continue
        if isinstance(answer, Given):
            return Pick(answer.award_id, answer.config, rule.rule, None)
        name = answer.table
        break
    table = wheel.tables[name]
    rolled = roll(table.total)
    return Pick(table.pick(rolled), None, name, rolled)
