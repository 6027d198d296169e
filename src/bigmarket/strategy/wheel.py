"""A strategy compiled for drawing: roll tables, sectors and trees, ready to be asked a million times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bigmarket.strategy.model import StrategyAward
from bigmarket.strategy.odds import Table
from bigmarket.strategy.rules import ChainRule, TreeRule

#: Name of the roll table that holds every award.
ALL_AWARDS = "all"


@dataclass(frozen=True, slots=True)
class Node:
    """A tree's node and where each verdict leads; a verdict without a way ends the walk."""

    rule: TreeRule
    ways: Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class Wheel:
    """``tables`` by name (``ALL_AWARDS`` and one per tier), ``sectors`` by award id, tree roots by tree id.

    ``limits``: how often one user may win an award; those that anyone may win any number of times are left out.
    """

    strategy_id: int
    chain: tuple[ChainRule, ...]
    tables: Mapping[str, Table]
    sectors: Mapping[int, StrategyAward]
    roots: Mapping[str, Node]
    limits: Mapping[int, int]
