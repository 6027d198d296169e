"""After the roll: the rolled award's tree decides whether it is won, or what is given instead."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bigmarket.strategy.chain import Pick
from bigmarket.strategy.rules.base import Visit
from bigmarket.strategy.wheel import Wheel


class Won(msgspec.Struct, frozen=True, gc=False):
    """The award that is won, the config that replaces its own, and the path: ``table|rule:VERDICT|...``."""

    award_id: int
    config: str | None
    path: str


def walk(wheel: Wheel, pick: Pick, *, ordinal_today: int, won_before: int, take_unit: Callable[[int], bool]) -> Won:
    """Follow the verdicts from the root of the picked award's tree to where no line leads on.

    An award given by the chain, or without a tree, is won as it is; ``take_unit`` is not asked for it. Trees have no
    cycle (armory refuses them), so a walk visits each node once at most.
    """
    award_id, config, table = pick.award_id, pick.config, pick.table
    tree_id = wheel.sectors[award_id].tree
    if pick.rolled is None or tree_id is None:
        return Won(award_id, config, table)
    visit = Visit(award_id, ordinal_today, won_before, take_unit)
    node = wheel.roots.get(tree_id)
    path = table
    while node is not None:
        verdict, instead, instead_config = node.rule.judge(visit)
        path = f"{path}|{node.rule.rule}:{verdict}"
        if instead is not None:
            award_id, config = instead, instead_config
        node = node.ways.get(verdict)
    return Won(award_id, config, path)
