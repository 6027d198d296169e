"""The behaviors' transaction on any engine: the order of its statements, which an engine's own file words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from bigmarket.activity.behavior import Behaved, BehaviorKey, BehaviorOutcome
from bigmarket.storage.bulk import Bulk
from bigmarket.storage.draw_tx import task_row
from bigmarket.storage.routing import SplitTables, at


@dataclass(frozen=True, slots=True)
class BehaviorStatements:
    """The templates of one engine (bulk.py); keys and values are in the order of ``SqlBehaviorTx``."""

    load_behaviors: str
    find_behaviors: str
    find_orders: str
    insert_behaviors: str
    insert_orders: str
    insert_tasks: str


class SqlBehaviorTx:
    """``BehaviorTx`` (activity/behavior.py) on an open transaction.

    ``grace_ms`` is how long new tasks are left to this process.
    """

    def __init__(self, bulk: Bulk, statements: BehaviorStatements, *, split: SplitTables, grace_ms: int) -> None:
        self._bulk = bulk
        self._sql = statements
        self._split = split
        self._grace_ms = grace_ms

    def load(self, keys: Sequence[BehaviorKey]) -> dict[BehaviorKey, int]:
        """Those of ``keys`` that were done, with their streak."""
        found = self._bulk.select(self._sql.load_behaviors, keys)
        return {(row[0], row[1], row[2], row[3]): row[4] for row in found}

    def apply(self, outcome: BehaviorOutcome) -> None:
        """The behaviors first: their key is what makes a repeat harmless."""
        self._bulk.write(self._sql.insert_behaviors, sorted(outcome.behaviors))
        for suffix, orders in self._split.parts(outcome.orders, attrgetter("user_id")):
            self._bulk.write(at(self._sql.insert_orders, suffix), orders)
        due_ms = outcome.now_ms + self._grace_ms
        self._bulk.write(self._sql.insert_tasks, [task_row(task, due_ms) for task in outcome.tasks])

    def find_behaved(self, answers: Sequence[Behaved]) -> set[str]:
        """The order ids of those of ``answers`` that exist: by their rebate orders, or where they earned none, by
        the behaviors themselves."""
        orders = [order for answer in answers for order in answer.orders]
        there: set[object] = set()
        for suffix, some in self._split.parts(orders, attrgetter("user_id")):
            there |= {
                row[0] for row in self._bulk.select(at(self._sql.find_orders, suffix), [(o.order_id,) for o in some])
            }
        keys = sorted({row[:4] for answer in answers if not answer.orders for row in answer.done})
        if keys:
            there |= {tuple(row) for row in self._bulk.select(self._sql.find_behaviors, keys)}
        return {
            answer.order_id
            for answer in answers
            if there.issuperset([order.order_id for order in answer.orders] or [row[:4] for row in answer.done])
        }
