"""The behaviors' statements on SQLite: set-based; the transaction holds the file's only write lock."""

from __future__ import annotations

from bigmarket.activity.behavior import BehaviorRow, RebateOrder
from bigmarket.storage.rebate_tx import BehaviorStatements
from bigmarket.storage.sqlite_bulk import in_one
from bigmarket.storage.sqlite_draw import STATEMENTS as DRAW

_KEY = ("b.user_id", "b.activity_id", "b.behavior_type", "b.out_business_no")
_DONE = """
FROM (VALUES {rows}) AS v
CROSS JOIN user_behavior AS b ON b.user_id = v.column1 AND b.activity_id = v.column2
  AND b.behavior_type = v.column3 AND b.out_business_no = v.column4"""

_FIND_ORDERS = f"""
SELECT {in_one("o.order_id")} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_behavior_rebate_order AS o ON o.order_id = v.column1"""

_NEW_ROWS = "SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"

STATEMENTS = BehaviorStatements(
    load_behaviors=f"SELECT {in_one(*_KEY, 'b.streak')} {_DONE}",
    find_behaviors=f"SELECT {in_one(*_KEY)} {_DONE}",
    find_orders=_FIND_ORDERS,
    insert_behaviors=f"INSERT INTO user_behavior ({', '.join(BehaviorRow._fields)}) {_NEW_ROWS}",
    insert_orders=f"INSERT INTO user_behavior_rebate_order ({', '.join(RebateOrder._fields)}) {_NEW_ROWS}",
    insert_tasks=DRAW.insert_tasks,
)
