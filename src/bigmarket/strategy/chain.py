"""Before the roll: the chain of rules, then the roll itself."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bigmarket.strategy.rules.base import Entry, Given, Narrowed
from bigmarket.strategy.wheel import ALL_AWARDS, Wheel


class Pick(msgspec.Struct, frozen=True, gc=False):
    """What the chain came to: an award given outright (``rolled`` is None), or rolled from ``table``."""

    award_id: int
    config: str | None
    table: str
    rolled: int | None


def judge(wheel: Wheel, entry: Entry) -> Pick | Narrowed:
    """Ask each rule in order; the first that answers decides: an award outright, or the table to roll with."""
    for rule in wheel.chain:
        answer = rule.judge(entry)
        if isinstance(answer, Given):
            return Pick(answer.award_id, answer.config, rule.rule, None)
        if answer is not None:
            return answer
    return _NOT_NARROWED


def pick(wheel: Wheel, entry: Entry, *, roll: Callable[[int], int]) -> Pick:
    """The award that the chain gives, else the one that is rolled; ``roll(faces)`` answers in ``[0, faces)``."""
    judged = judge(wheel, entry)
    if isinstance(judged, Pick):
        return judged
    table = wheel.tables[judged.table]
    rolled = roll(table.total)
    return Pick(table.pick(rolled), None, judged.table, rolled)


_NOT_NARROWED = Narrowed(ALL_AWARDS)
