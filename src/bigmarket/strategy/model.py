"""The strategy as a campaign file writes it: the wheel's sectors, the rules before the roll, the trees after it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, StringConstraints

from bigmarket.strategy.rules import ChainRule, TreeRule
from bigmarket.strategy.rules.base import Settings, Verdict

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Id = Annotated[int, Field(ge=1, le=2**53 - 1)]


class StrategyAward(Settings):
    """One sector of the wheel."""

    award_id: Id
    title: Title
    subtitle: Title | None = None
    rate: Decimal = Field(gt=0, le=1, max_digits=13, decimal_places=12, description="Chance of being rolled, exact.")
    stock: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = Field(
        default=None, description="Units that may ever be won; leave out for an unlimited award."
    )
    sort: int = Field(ge=1, description="Place on the wheel, from 1; the API's awardIndex.")
    tree: Key | None = Field(
        default=None, description="Tree walked after the roll; none: the award is won as rolled."
    )


class TreeLine(Settings):
    """From a node to the next one, when the node's verdict is ``when``."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    when: Verdict


class RuleTree(Settings):
    """Nodes judged after the roll; a node without a line for its verdict ends the walk."""

    tree_id: Key
    name: Title | None = None
    root: str = Field(description="The rule judged first.")
    nodes: tuple[TreeRule, ...] = Field(min_length=1, description="At most one node per rule.")
    lines: tuple[TreeLine, ...] = ()


class Strategy(Settings):
    """The wheel and its rules."""

    strategy_id: Id
    name: Title
    chain: tuple[ChainRule, ...] = Field(default=(), description="Judged before the roll, in this order.")
    awards: tuple[StrategyAward, ...] = Field(min_length=1)
    trees: tuple[RuleTree, ...] = ()
