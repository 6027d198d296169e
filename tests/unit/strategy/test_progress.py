"""What a user is told of tiers and locks: which comes next, and how many draws are missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bigmarket.strategy.armory import compile_strategy, inspect_strategy
from bigmarket.strategy.locks import draws_missing, lock_count
from bigmarket.strategy.model import Strategy
from bigmarket.strategy.progress import GuaranteedDraw, tier_progress
from bigmarket.strategy.wheel import Wheel

LUCK = {"rule": "rule_luck_award", "award_id": 1}
STOCK = {"rule": "rule_stock"}
LIMIT = {"rule": "rule_user_limit", "at_most": 2}


def lock(at: int) -> dict[str, Any]:
    return {"rule": "rule_lock", "unlock_at_draw": at}


def lines(*ways: str) -> list[dict[str, str]]:
    """``"lock ALLOW stock"`` and so on."""
    split = [way.split() for way in ways]
    return [{"from": f"rule_{a}", "when": when, "to": f"rule_{b}"} for a, when, b in split]


TREES: list[dict[str, Any]] = [
    {"tree_id": "stocked", "root": "rule_stock", "nodes": [STOCK, LUCK], "lines": lines("stock ALLOW luck_award")},
    {
        "tree_id": "locked",
        "root": "rule_lock",
        "nodes": [lock(3), STOCK, LUCK],
        "lines": lines("lock ALLOW stock", "lock TAKE_OVER luck_award", "stock ALLOW luck_award"),
    },
    {
        "tree_id": "limited_then_locked",
        "root": "rule_user_limit",
        "nodes": [LIMIT, lock(5), STOCK, LUCK],
        "lines": lines(
            "user_limit ALLOW lock", "user_limit TAKE_OVER luck_award", "lock ALLOW stock",
            "lock TAKE_OVER luck_award", "stock ALLOW luck_award",
        ),
    },
    {
        "tree_id": "locked_after_the_stock",
        "root": "rule_stock",
        "nodes": [STOCK, lock(7), LUCK],
        "lines": lines("stock ALLOW lock", "lock TAKE_OVER luck_award"),
    },
]  # fmt: skip
TIERS = [{"at_draw": 50, "awards": [3]}, {"at_draw": 10, "awards": [4, 2]}]


def wheel(*, tiers: list[dict[str, Any]]) -> Wheel:
    """Award 1 has no tree; 2 and up have one of ``TREES`` each."""
    awards = [
        {"award_id": n, "title": f"award {n}", "rate": "0.2", "sort": n, "tree": tree}
        for n, tree in enumerate([None, *(tree["tree_id"] for tree in TREES)], 1)
    ]
    strategy = Strategy.model_validate_json(
        json.dumps(
            {
                "strategy_id": 9,
                "name": "wheel",
                "chain": [{"rule": "rule_weight", "tiers": tiers}] if tiers else [],
                "awards": awards,
                "trees": TREES,
            }
        )
    )
    assert inspect_strategy(strategy) == []
    return compile_strategy(strategy)


@pytest.mark.parametrize(("award_id", "lock_at"), [(1, None), (2, None), (3, 3), (4, 5), (5, None)])
def test_the_lock_is_the_one_on_the_way_to_the_stock(award_id: int, lock_at: int | None) -> None:
    assert lock_count(wheel(tiers=[]), award_id) == lock_at


@pytest.mark.parametrize(("drawn_today", "missing"), [(0, 3), (1, 2), (2, 1), (3, 0), (9, 0)])
def test_a_locked_award_says_how_many_draws_it_misses(drawn_today: int, missing: int) -> None:
    assert draws_missing(wheel(tiers=[]), 3, drawn_today=drawn_today) == missing


def test_an_award_without_a_lock_misses_nothing() -> None:
    assert draws_missing(wheel(tiers=[]), 2, drawn_today=0) == 0


@pytest.mark.parametrize(
    ("drawn", "coming", "missing"), [(0, 10, 10), (9, 10, 1), (10, 50, 40), (49, 50, 1), (50, None, 0), (99, None, 0)]
)
def test_the_next_tier_is_the_first_that_was_not_reached(drawn: int, coming: int | None, missing: int) -> None:
    progress = tier_progress(wheel(tiers=TIERS), drawn=drawn)
    assert (progress.coming and progress.coming.draws_needed, progress.draws_missing) == (coming, missing)


def test_tiers_are_listed_by_draw_with_their_awards_as_written() -> None:
    assert tier_progress(wheel(tiers=TIERS), drawn=0).tiers == (
        GuaranteedDraw(10, ((4, "award 4"), (2, "award 2"))),
        GuaranteedDraw(50, ((3, "award 3"),)),
    )


def test_a_wheel_without_tiers_has_none_coming() -> None:
    assert tier_progress(wheel(tiers=[]), drawn=3) == ((), None, 0)
