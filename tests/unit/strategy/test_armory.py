"""Armory finds each fault of a strategy, all of them at once, and compiles what has none."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.strategy.armory import compile_strategy, inspect_strategy, warnings_of
from bigmarket.strategy.model import Strategy
from bigmarket.strategy.wheel import ALL_AWARDS

LUCK = {"rule": "rule_luck_award", "award_id": 1}
LOCK = {"rule": "rule_lock", "unlock_at_draw": 2}
STOCK = {"rule": "rule_stock"}
LIMIT = {"rule": "rule_user_limit", "at_most": 2}


def line(source: str, when: str, target: str) -> dict[str, str]:
    return {"from": f"rule_{source}", "when": when, "to": f"rule_{target}"}


SOLD_OUT = line("stock", "ALLOW", "luck_award")
UNLOCKED = line("lock", "ALLOW", "stock")
LOCKED = line("lock", "TAKE_OVER", "luck_award")
WITHIN = line("user_limit", "ALLOW", "stock")
BEYOND = line("user_limit", "TAKE_OVER", "luck_award")

#: Award 1 is unlimited and the fallback, 2 is limited, 3 limited and locked.
SOUND: dict[str, Any] = {
    "strategy_id": 9,
    "name": "wheel",
    "chain": [
        {"rule": "rule_blacklist", "award_id": 1, "users": ["mallory"]},
        {"rule": "rule_weight", "tiers": [{"at_draw": 10, "awards": [2, 3]}, {"at_draw": 50, "awards": [3]}]},
    ],
    "awards": [
        {"award_id": 1, "title": "credits", "rate": "0.5", "sort": 1},
        {"award_id": 2, "title": "cup", "rate": "0.3", "stock": 5, "sort": 2, "tree": "stocked"},
        {"award_id": 3, "title": "car", "rate": "0.2", "stock": 1, "sort": 3, "tree": "locked"},
    ],
    "trees": [
        {"tree_id": "stocked", "root": "rule_stock", "nodes": [STOCK, LUCK], "lines": [SOLD_OUT]},
        {
            "tree_id": "locked",
            "root": "rule_lock",
            "nodes": [LOCK, STOCK, LUCK],
            "lines": [UNLOCKED, LOCKED, SOLD_OUT],
        },
    ],
}

#: Award 2 of SOUND with a limit per user.
LIMITED: dict[str, Any] = {
    "trees__0__root": "rule_user_limit",
    "trees__0__nodes": [LIMIT, STOCK, LUCK],
    "trees__0__lines": [WITHIN, BEYOND, SOLD_OUT],
}


def strategy(**changes: Any) -> Strategy:
    """SOUND with some values replaced: ``awards__1__rate="0.1"``; ``__add`` appends to a list."""
    data = json.loads(json.dumps(SOUND))
    for name, value in changes.items():
        *way, last = [int(step) if step.isdigit() else step for step in name.split("__")]
        at: Any = data
        for step in way:
            at = at[step]
        if last == "add":
            at.append(value)
        else:
            at[last] = value
    return Strategy.model_validate_json(json.dumps(data), strict=True)


def test_a_sound_strategy_has_neither_problems_nor_warnings() -> None:
    assert inspect_strategy(strategy()) == []
    assert warnings_of(strategy()) == []


def test_a_limit_per_user_is_sound_before_and_behind_a_lock() -> None:
    assert inspect_strategy(strategy(**LIMITED)) == []
    for root, way in (("rule_lock", [line("lock", "ALLOW", "user_limit"), WITHIN]),
                      ("rule_user_limit", [line("user_limit", "ALLOW", "lock"), UNLOCKED])):  # fmt: skip
        changes = {
            "trees__1__root": root,
            "trees__1__nodes": [LOCK, LIMIT, STOCK, LUCK],
            "trees__1__lines": [*way, LOCKED, BEYOND, SOLD_OUT],
        }
        assert inspect_strategy(strategy(**changes)) == []


def test_a_wheel_knows_which_awards_have_a_limit() -> None:
    assert compile_strategy(strategy()).limits == {}
    assert compile_strategy(strategy(**LIMITED)).limits == {2: 2}


EXTRA = {"award_id": 4, "title": "pen", "rate": "0.1", "sort": 4}
FAULTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("award twice", {"awards__add": EXTRA | {"award_id": 1}}, "awards[3].award_id", "on the wheel already"),
    ("sort twice", {"awards__2__sort": 2}, "awards[2].sort", "place 2 is taken"),
    ("rates apart", {"awards__0__rate": "0.0000000001"}, "awards[0].rate", "more than 10^9 times rarer"),
    ("unknown tree", {"awards__0__tree": "oak"}, "awards[0].tree", "there is no tree `oak`"),
    ("stock without a tree", {"awards__0__tree": None, "awards__add": EXTRA | {"stock": 0}}, "awards[3].tree",
     "limited prize without a fallback"),
    ("rule twice in the chain", {"chain__add": {"rule": "rule_blacklist", "award_id": 1, "users": []}},
     "chain[2].rule", "in the chain already"),
    ("blacklist award off the wheel", {"chain__0__award_id": 8}, "chain[0].award_id", "award 8 is not on the wheel"),
    ("blacklist award limited", {"chain__0__award_id": 2}, "chain[0].award_id", "must never run out"),
    ("tier twice", {"chain__1__tiers__1__at_draw": 10}, "chain[1].tiers[1].at_draw", "draw 10 has a tier already"),
    ("award twice in a tier", {"chain__1__tiers__0__awards": [2, 3, 2]}, "chain[1].tiers[0].awards[2]",
     "in the tier already"),
    ("tier award off the wheel", {"chain__1__tiers__0__awards": [2, 77]}, "chain[1].tiers[0].awards[1]",
     "award 77 is not on the wheel"),
    ("tree twice", {"trees__add": SOUND["trees"][0]}, "trees[2].tree_id", "defined already"),
    ("node twice", {"trees__0__nodes": [STOCK, LUCK, STOCK]}, "trees[0].nodes[2].rule",
     "a node of this tree already"),
    ("line twice", {"trees__0__lines": [SOLD_OUT, SOLD_OUT]}, "trees[0].lines[1]", "leads on from there already"),
    ("root is no node", {"trees__0__root": "rule_lock"}, "trees[0].root", "is not a node"),
    ("line from nowhere", {"trees__0__lines__add": UNLOCKED}, "trees[0].lines[1].from", "is not a node"),
    ("line to nowhere", {"trees__1__lines": [LOCKED, line("lock", "ALLOW", "magic")],
     "trees__1__nodes": [LOCK, LUCK]}, "trees[1].lines[1].to", "is not a node"),
    ("cycle", {"awards__2__stock": None, "trees__1__lines__2__to": "rule_lock"}, "trees[1].lines",
     "leads in a circle: rule_"),
    ("unreachable node", {"trees__1__lines__0__to": "rule_luck_award"}, "trees[1].nodes[1]",
     "no line from the root leads to rule_stock"),
    ("no way through rule_stock", {"trees__1__lines__0__to": "rule_luck_award", "trees__1__nodes": [LOCK, LUCK],
     "trees__1__lines": [LOCKED, line("lock", "ALLOW", "luck_award")]}, "trees[1].nodes",
     "no way leads through rule_stock"),
    ("unlocked but no unit taken", {"trees__1__lines": [LOCKED], "trees__1__nodes": [LOCK, LUCK]}, "trees[1].lines",
     "would be won without taking a unit"),
    ("sold out without a fallback", {"trees__1__lines": [UNLOCKED, LOCKED]}, "trees[1].lines",
     "limited prize without a fallback (award 3)"),
    ("locked prize won", {"trees__1__lines": [UNLOCKED, SOLD_OUT]}, "trees[1].lines", "a locked prize would be won"),
    ("locked prize won by way of the stock",
     {"trees__1__lines": [UNLOCKED, SOLD_OUT, line("lock", "TAKE_OVER", "stock")]}, "trees[1].lines",
     "a locked prize would be won"),
    ("fallback off the wheel", {"trees__0__nodes": [STOCK, LUCK | {"award_id": 8}]}, "trees[0].nodes[1].award_id",
     "award 8 is not on the wheel"),
    ("fallback limited", {"trees__0__nodes": [STOCK, LUCK | {"award_id": 2}]}, "trees[0].nodes[1].award_id",
     "must never run out"),
    ("line on from the fallback",
     {"awards__1__stock": None, "trees__0__root": "rule_luck_award",
      "trees__0__lines": [line("luck_award", "ALLOW", "stock")]},
     "trees[0].lines", "the fallback is given already"),
    ("line on from a taken unit",
     {"trees__0__lines": [SOLD_OUT, line("stock", "TAKE_OVER", "luck_award")]}, "trees[0].lines",
     "a unit is taken already"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "path", "reason"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS]
)
def test_each_fault_is_found_and_nothing_else(changes: dict[str, Any], path: str, reason: str) -> None:
    problems = inspect_strategy(strategy(**changes))
    assert any(problem.path == path and reason in problem.reason for problem in problems), problems
    assert len(problems) == 1, problems
    assert problems[0].fix


def test_all_faults_are_listed_at_once() -> None:
    faulty = strategy(
        awards__2__sort=2, chain__0__award_id=8, trees__0__root="rule_lock", trees__1__lines=[UNLOCKED, SOLD_OUT]
    )
    assert {problem.path for problem in inspect_strategy(faulty)} == {
        "awards[2].sort",
        "chain[0].award_id",
        "trees[0].root",
        "trees[1].lines",
    }


def test_rates_exactly_ten_to_the_ninth_apart_are_allowed() -> None:
    assert inspect_strategy(strategy(awards__0__rate="0.0000000003")) == []


def test_a_message_names_a_few_of_many_limited_awards() -> None:
    many = [{"award_id": i, "title": "t", "rate": "0.01", "sort": i, "stock": 1, "tree": "t"} for i in range(2, 22)]
    tree = {"tree_id": "t", "root": "rule_stock", "nodes": [STOCK]}
    faulty = strategy(chain=[], awards=[SOUND["awards"][0], *many], trees=[tree])
    (problem,) = inspect_strategy(faulty)
    assert "(award 2, 3, 4, 5, 6 and others)" in problem.reason


def test_odds_that_do_not_sum_to_one_are_reported_with_their_exact_sum() -> None:
    (warning,) = warnings_of(strategy(awards__0__rate="0.500000000001"))
    assert warning.reason == "rates sum to 1.000000000001, not 1"


def test_a_tree_nobody_uses_and_a_gap_in_the_places_are_warnings() -> None:
    odd = strategy(awards__0__sort=7, trees__add={"tree_id": "spare", "root": "rule_luck_award", "nodes": [LUCK]})
    assert inspect_strategy(odd) == []
    assert [warning.path for warning in warnings_of(odd)] == ["awards", "trees[2]"]


def test_a_compiled_wheel_has_a_table_of_all_awards_and_one_per_tier() -> None:
    wheel = compile_strategy(strategy())
    assert set(wheel.tables) == {ALL_AWARDS, "tier:10", "tier:50"}
    assert wheel.tables[ALL_AWARDS].odds() == {1: Fraction(1, 2), 2: Fraction(3, 10), 3: Fraction(1, 5)}
    assert wheel.tables["tier:10"].odds() == {2: Fraction(3, 5), 3: Fraction(2, 5)}
    assert wheel.tables["tier:50"].odds() == {3: Fraction(1)}


def test_compiled_trees_lead_where_the_lines_say() -> None:
    root = compile_strategy(strategy()).roots["locked"]
    assert root.rule.rule == "rule_lock"
    assert {verdict: node.rule.rule for verdict, node in root.ways.items()} == {
        "ALLOW": "rule_stock",
        "TAKE_OVER": "rule_luck_award",
    }
    assert {verdict: node.rule.rule for verdict, node in root.ways["ALLOW"].ways.items()} == {
        "ALLOW": "rule_luck_award"
    }


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=30))
def test_compiled_odds_are_the_declared_fractions(weights: list[int]) -> None:
    awards = [
        {"award_id": i, "title": "t", "rate": format(Decimal(weight).scaleb(-12), "f"), "sort": i}
        for i, weight in enumerate(weights, 1)
    ]
    wheel = compile_strategy(strategy(chain=[], trees=[], awards=awards))
    assert wheel.tables[ALL_AWARDS].odds() == {
        i: Fraction(weight, sum(weights)) for i, weight in enumerate(weights, 1)
    }


def test_ten_thousand_awards_compile_in_well_under_a_second() -> None:
    many = [{"award_id": i, "title": "t", "rate": "0.0001", "sort": i} for i in range(1, 10_001)]
    big = strategy(chain=[], trees=[], awards=many)
    begun = time.thread_time()
    assert inspect_strategy(big) == []
    assert compile_strategy(big).tables[ALL_AWARDS].total == 10_000
    assert time.thread_time() - begun < 0.5
