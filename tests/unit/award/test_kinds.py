"""The kinds of award: what their configs may say, and what they give."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.award.kinds import KINDS, OUTSIDE_KINDS, TASK_KINDS
from bigmarket.award.kinds.base import Outside, SkuUnit
from bigmarket.award.message import SendAward
from bigmarket.award.records import roll_credit
from bigmarket.credit.model import CreditTrade
from bigmarket.errors import BadInput

RANDOM = TASK_KINDS["user_credit_random"]
FIXED = TASK_KINDS["user_credit_blacklist"]
SEED = b"s" * 32


def won(config: str, *, order_id: str = "01JD0000000000000000000001") -> SendAward:
    return SendAward("ann", order_id, 1, 1, 101, "user_credit_random", "points", config)


def never(faces: int) -> int:
    raise AssertionError(faces)


def test_every_kind_is_registered_under_its_name() -> None:
    assert set(KINDS) == {
        "code",
        "nothing",
        "openai_model",
        "openai_use_count",
        "physical",
        "sku",
        "user_credit_blacklist",
        "user_credit_random",
        "webhook",
    }
    assert all(name == kind.name for name, kind in KINDS.items())
    assert {name for name, kind in KINDS.items() if kind.delivery == "task"} == set(TASK_KINDS)
    assert {name for name, kind in TASK_KINDS.items() if kind.gives in ("webhook", "code")} == set(OUTSIDE_KINDS)


@pytest.mark.parametrize("config", ["1,100", "0.01,1", "5,5", " 1 , 2.5 ", "0.01,0.01", "1,1000000000"])
def test_random_takes_two_amounts(config: str) -> None:
    assert RANDOM.check(config) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("", "config must be `min,max`"),
        ("1", "config must be `min,max`"),
        ("1,2,3", "config must be `min,max`"),
        (",1", "min must be an amount of credits with at most two decimals, not ``"),
        ("1,x", "max must be an amount of credits with at most two decimals, not `x`"),
        ("1.001,2", "min must be an amount of credits with at most two decimals, not `1.001`"),
        ("1e1,20", "min must be an amount"),
        ("-1,20", "min must be an amount"),
        ("١,٢", "min must be an amount"),
        ("NaN,2", "min must be an amount"),
        ("0,1", "min must be at least 0.01"),
        ("0.00,1", "min must be at least 0.01"),
        ("1,1000000000.01", "max must be at most 1000000000"),
        ("5,1", "min 5 must not be above max 1"),
    ],
)
def test_random_says_what_is_wrong(config: str, reason: str) -> None:
    found = RANDOM.check(config)
    assert found is not None
    assert found.startswith(reason)
    with pytest.raises(BadInput):
        RANDOM.effect(won(config), roll=never)


@pytest.mark.parametrize("config", ["1", "0.01", "12.5", " 3 "])
def test_fixed_takes_one_amount(config: str) -> None:
    assert FIXED.check(config) is None


@pytest.mark.parametrize(
    ("config", "reason"), [("", "config must be"), ("1,2", "config must be"), ("0", "config must")]
)
def test_fixed_says_what_is_wrong(config: str, reason: str) -> None:
    found = FIXED.check(config)
    assert found is not None
    assert found.startswith(reason)


def test_fixed_gives_the_amount_without_a_roll() -> None:
    message = won("12.5")
    assert FIXED.effect(message, roll=never) == CreditTrade(message.order_id, "ann", "award", 1250, message.order_id)


def test_random_gives_every_hundredth_alike_and_both_bounds() -> None:
    amounts = Counter(
        RANDOM.effect(won("0.01,0.05"), roll=partial(roll_credit, SEED, f"order{n}")).amount_cents
        for n in range(5_000)
    )
    assert sorted(amounts) == [1, 2, 3, 4, 5]
    expected = 1_000
    assert sum((n - expected) ** 2 / expected for n in amounts.values()) < 40  # chi-square, 4 degrees of freedom


@given(
    low=st.integers(1, 10**6),
    extra=st.integers(0, 10**6),
    order_id=st.text("0123456789ABC", min_size=26, max_size=26),
)
def test_random_stays_within_its_bounds_and_can_be_derived_again(low: int, extra: int, order_id: str) -> None:
    high = low + extra
    message = won(f"{low // 100}.{low % 100:02d},{high // 100}.{high % 100:02d}", order_id=order_id)
    first = RANDOM.effect(message, roll=partial(roll_credit, SEED, order_id))
    assert low <= first.amount_cents <= high
    assert first == RANDOM.effect(message, roll=partial(roll_credit, SEED, order_id))
    assert first.out_business_no == order_id
    assert first.trade_type == "forward"


def test_the_amount_is_rolled_apart_from_the_award() -> None:
    rolls = [
        roll_credit(SEED, "order", 10**9),
        roll_credit(SEED, "other", 10**9),
        roll_credit(b"x" * 32, "order", 10**9),
    ]
    assert len(set(rolls)) == 3


# --- what is delivered afterwards -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "config", "place"),
    [
        ("webhook", "crm", "crm"),
        ("webhook", "crm:gold tier: 30 days", "crm"),
        ("webhook", f"{'a' * 32}:", "a" * 32),
        ("openai_use_count", "5", "openai_use_count"),
        ("openai_model", "gpt-4, dall-e-3", "openai_model"),
        ("code", " coupon-5 ", "coupon-5"),
    ],
)
def test_awards_that_are_delivered_afterwards_name_the_place(kind: str, config: str, place: str) -> None:
    message = won(config)
    assert OUTSIDE_KINDS[kind].check(config) is None
    assert OUTSIDE_KINDS[kind].effect(message, roll=never) == Outside(place)


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        ("webhook", "", "config must begin with the name of an endpoint"),
        ("webhook", ":text", "config must begin with the name of an endpoint"),
        ("webhook", "CRM", "config must begin with the name of an endpoint"),
        ("webhook", "a" * 33, "has 1 to 32 small letters"),
        ("openai_use_count", "", "config must be a whole number from 1 to 999999999"),
        ("openai_use_count", "0", "config must be a whole number"),
        ("openai_use_count", "1.5", "not `1.5`"),
        ("openai_use_count", "٥", "config must be a whole number"),
        ("openai_model", "", "config must be a comma-separated list of model names"),
        ("openai_model", "gpt-4,", "`` is none"),
        ("openai_model", "gpt 4", "`gpt 4` is none"),
        ("code", "", "config must be the name of a pool"),
        ("code", "Coupons", "has 1 to 32 small letters"),
    ],
)
def test_their_faulty_configs_are_told(kind: str, config: str, reason: str) -> None:
    assert reason in (OUTSIDE_KINDS[kind].check(config) or "")


# --- more draws ----------------------------------------------------------------------------------------------------


def test_a_sku_is_named_by_its_number() -> None:
    assert TASK_KINDS["sku"].check(" 9011 ") is None
    assert TASK_KINDS["sku"].effect(won("9011"), roll=never) == SkuUnit(9011)


@pytest.mark.parametrize("config", ["", "0", "-1", "1.5", "x", "٣", "12345678901234567890"])
def test_what_is_no_sku_is_told(config: str) -> None:
    assert "config must be the number of a sku" in (TASK_KINDS["sku"].check(config) or "")
