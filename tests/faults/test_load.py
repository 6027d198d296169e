"""What counts as harm among the troubles that clients were told of."""

from __future__ import annotations

from collections import Counter

import pytest

from faults.load import STALLED_SHARE, Log

STALLED = "0006 访问熔断拦截: The draw waited too long for its turn; nothing was spent."
DRAINING = "0006 访问熔断拦截: Too many draws are waiting; nothing was spent. Try again in a moment."
ANSWERS = 1000


@pytest.mark.parametrize(
    ("told", "number", "harm"),
    [
        (STALLED, int(ANSWERS * STALLED_SHARE), False),
        (STALLED, int(ANSWERS * STALLED_SHARE) + 1, True),
        (DRAINING, 1, True),
    ],
)
def test_only_a_few_lost_turns_are_no_harm(told: str, number: int, harm: bool) -> None:
    troubles = Counter({told: number})
    assert Log(troubles=troubles, seconds=[0.0] * ANSWERS).harm == (troubles if harm else Counter())
