"""Odds are exact: what is declared is what is rolled, however many decimals."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from bigmarket.strategy.odds import table_of

rates = st.decimals(min_value="0.000000000001", max_value=1, places=12, allow_nan=False).filter(lambda rate: rate > 0)


def test_rates_become_the_smallest_whole_weights() -> None:
    table = table_of({1: Decimal("0.5"), 2: Decimal("0.25"), 3: Decimal("0.25")})
    assert (table.award_ids, table.bounds, table.total) == ((1, 2, 3), (2, 3, 4), 4)


def test_a_rate_of_four_decimals_is_not_truncated() -> None:
    table = table_of({1: Decimal("0.9982"), 2: Decimal("0.0018")})
    assert table.odds()[2] == Fraction(9, 5000)


def test_every_face_rolls_the_award_whose_share_it_lies_in() -> None:
    table = table_of({7: Decimal("0.2"), 8: Decimal("0.3"), 9: Decimal("0.5")})
    assert [table.pick(number) for number in range(table.total)] == [7, 7, 8, 8, 8, 9, 9, 9, 9, 9]


@given(st.lists(rates, min_size=1, max_size=40))
def test_odds_are_the_declared_rates_over_their_sum(declared: list[Decimal]) -> None:
    odds = table_of(dict(enumerate(declared, 1))).odds()
    total = sum(map(Fraction, declared))
    assert odds == {award_id: Fraction(rate) / total for award_id, rate in enumerate(declared, 1)}
    assert sum(odds.values()) == 1


@given(st.lists(rates, min_size=1, max_size=12), st.data())
def test_the_first_and_last_face_of_a_share_roll_its_award(declared: list[Decimal], data: st.DataObject) -> None:
    table = table_of(dict(enumerate(declared, 1)))
    place = data.draw(st.integers(0, len(declared) - 1))
    start = table.bounds[place - 1] if place else 0
    assert table.pick(start) == table.pick(table.bounds[place] - 1) == place + 1


def test_rates_written_with_exponents_and_trailing_zeros_are_the_same_rates() -> None:
    assert table_of({1: Decimal("1E-9"), 2: Decimal("0.5000")}) == table_of(
        {1: Decimal("0.000000001"), 2: Decimal("0.5")}
    )
    assert table_of({1: Decimal(1)}).bounds == (1,)
