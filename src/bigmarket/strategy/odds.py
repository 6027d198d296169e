"""Exact odds: decimals become integer weights, never floats; a roll becomes an award in O(log n)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate
from math import gcd


@dataclass(frozen=True, slots=True)
class Table:
    """A roll table: ``award_ids[i]`` is rolled by numbers in ``[bounds[i-1], bounds[i])`` of ``total``."""

    award_ids: tuple[int, ...]
    bounds: tuple[int, ...]

    @property
    def total(self) -> int:
        """Number of faces of the die that this table is rolled with."""
        return self.bounds[-1]

    def pick(self, number: int) -> int:
        """The award that ``number`` (``0 <= number < total``) rolls."""
        return self.award_ids[bisect_right(self.bounds, number)]

    def odds(self) -> dict[int, Fraction]:
        """Each award's exact chance of being rolled; the chances sum to 1."""
        starts = (0, *self.bounds[:-1])
        return {
            award_id: Fraction(bound - start, self.total)
            for award_id, start, bound in zip(self.award_ids, starts, self.bounds, strict=True)
        }


def table_of(rates: Mapping[int, Decimal]) -> Table:
    """The table whose odds are ``rates``, renormalised over their sum, in the smallest whole weights."""
    scale = max(0, *(-int(rate.as_tuple().exponent) for rate in rates.values()))
    weights = [int(rate.scaleb(scale)) for rate in rates.values()]
    divisor = gcd(*weights)
    return Table(tuple(rates), tuple(accumulate(weight // divisor for weight in weights)))
