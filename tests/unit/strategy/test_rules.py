"""Each rule at its boundary, and that every rule and award kind is registered and documented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from bigmarket.award import kinds
from bigmarket.strategy import rules
from bigmarket.strategy.rules import (
    RuleAllowlist,
    RuleBlacklist,
    RuleLock,
    RuleLuckAward,
    RuleStock,
    RuleUserLimit,
    RuleWeight,
    Tier,
)
from bigmarket.strategy.rules.base import ALLOW, TAKE_OVER, Entry, Given, Narrowed, NodeAnswer, Visit
from support import EXAMPLES

GUIDE = (EXAMPLES.parent / "docs" / "campaign-file.md").read_text(encoding="utf-8")


def visit(
    *, ordinal_today: int = 1, won_before: int = 0, take_unit: Callable[[int], bool] = lambda _: False
) -> Visit:
    return Visit(7, ordinal_today, won_before, take_unit)


@pytest.mark.parametrize(("ordinal_today", "answer"), [(1, TAKE_OVER), (2, TAKE_OVER), (3, ALLOW), (4, ALLOW)])
def test_a_lock_opens_with_exactly_the_draw_it_names(ordinal_today: int, answer: NodeAnswer) -> None:
    assert RuleLock(unlock_at_draw=3).judge(visit(ordinal_today=ordinal_today)) == answer


@pytest.mark.parametrize(("won_before", "answer"), [(0, ALLOW), (1, ALLOW), (2, TAKE_OVER), (7, TAKE_OVER)])
def test_a_limit_allows_exactly_so_many_wins(won_before: int, answer: NodeAnswer) -> None:
    assert RuleUserLimit(at_most=2).judge(visit(won_before=won_before)) == answer


@pytest.mark.parametrize(("taken", "answer"), [(True, TAKE_OVER), (False, ALLOW)])
def test_stock_asks_for_one_unit_of_the_rolled_award(taken: bool, answer: NodeAnswer) -> None:
    asked: list[int] = []

    def take_unit(award_id: int) -> bool:
        asked.append(award_id)
        return taken

    assert RuleStock().judge(visit(take_unit=take_unit)) == answer
    assert asked == [7]


def test_the_luck_award_always_takes_over() -> None:
    assert RuleLuckAward(award_id=1, config="1,5").judge(visit()) == NodeAnswer("TAKE_OVER", 1, "1,5")


@pytest.mark.parametrize(("user", "answer"), [("mallory", Given(1, "0.5")), ("mallory2", None), ("Mallory", None)])
def test_the_blacklist_names_users_exactly(user: str, answer: Given | None) -> None:
    rule = RuleBlacklist(award_id=1, config="0.5", users=frozenset({"mallory"}))
    assert rule.judge(Entry(user, 1)) == answer


@pytest.mark.parametrize(("user", "answer"), [("ann", None), ("Ann", Given(1, "0.5")), ("ann2", Given(1, "0.5"))])
def test_the_allowlist_lets_exactly_its_users_draw(user: str, answer: Given | None) -> None:
    rule = RuleAllowlist(award_id=1, config="0.5", users=frozenset({"ann"}))
    assert rule.judge(Entry(user, 1)) == answer


@pytest.mark.parametrize(("ordinal", "answer"), [(9, None), (10, Narrowed("tier:10")), (11, None)])
def test_a_tier_is_reached_once(ordinal: int, answer: Narrowed | None) -> None:
    assert RuleWeight(tiers=(Tier(at_draw=10, awards=(2, 3)),)).judge(Entry("ann", ordinal)) == answer


def plug_ins(package_file: str | None, prefix: str = "") -> set[str]:
    assert package_file is not None
    names = {path.stem for path in Path(package_file).parent.glob(f"{prefix}*.py")}
    return names - {"__init__", "base", "amounts"}


def test_every_rule_is_registered_and_documented() -> None:
    registered = {
        model.model_fields["rule"].default
        for union in (rules.ChainRule, rules.TreeRule)
        for model in get_args(get_args(union)[0])
    }
    assert registered == plug_ins(rules.__file__, "rule_")
    assert all(f"`{name}`" in GUIDE for name in registered)


def test_every_kind_is_registered_and_documented() -> None:
    assert set(kinds.KINDS) == plug_ins(kinds.__file__)
    assert all(f"`{name}`" in GUIDE for name in kinds.KINDS)
