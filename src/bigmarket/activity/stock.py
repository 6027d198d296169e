"""Units of what can run out: prizes and skus. What their guards raise when somebody else was faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

StockKey = tuple[int, int]  # strategy_id, award_id; SKUS, sku

SKUS = 0  # stands for the strategy in the key of a sku


class GuardMissed(Exception):
    """Another process was faster; roll back and decide again on a fresh snapshot."""


class StockShort(Exception):
    """Units are missing here that other shards may have; roll back, serve the others, fetch them, serve these.

    ``missed`` tells who wants a unit of what, by the order ids of their requests, once for each unit.
    """

    def __init__(self, missed: Mapping[StockKey, Sequence[str]]) -> None:
        super().__init__()
        self.wanted = {key: len(asked) for key, asked in missed.items()}
        self.asked_as = {order_id for asked in missed.values() for order_id in asked}
