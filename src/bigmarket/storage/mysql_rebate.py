"""The behaviors' statements on MySQL and MariaDB: set-based.

Nothing is locked when it is read: the key of ``user_behavior`` refuses what another process wrote meanwhile, and the
batch is decided again.
"""

from __future__ import annotations

from bigmarket.activity.behavior import BehaviorRow, RebateOrder
from bigmarket.storage.mysql_bulk import BY_KEY, in_one
from bigmarket.storage.mysql_draw import STATEMENTS as DRAW
from bigmarket.storage.rebate_tx import BehaviorStatements

_KEY = ("user_id", "activity_id", "behavior_type", "out_business_no")
_DONE = f"FROM user_behavior {BY_KEY} WHERE ({', '.join(_KEY)}) IN ({{rows}})"

# They lock, so that they wait for a commit that is still under way instead of missing it.
_FIND_BEHAVIORS = f"SELECT {in_one(*_KEY)} {_DONE} LOCK IN SHARE MODE"
_FIND_ORDERS = f"""
SELECT {in_one("order_id")} FROM user_behavior_rebate_order {BY_KEY}
WHERE order_id IN ({{rows}}) LOCK IN SHARE MODE"""

STATEMENTS = BehaviorStatements(
    load_behaviors=f"SELECT {in_one(*_KEY, 'streak')} {_DONE}",
    find_behaviors=_FIND_BEHAVIORS,
    find_orders=_FIND_ORDERS,
    insert_behaviors=f"INSERT INTO user_behavior ({', '.join(BehaviorRow._fields)}) VALUES {{rows}}",
    insert_orders=f"INSERT INTO user_behavior_rebate_order ({', '.join(RebateOrder._fields)}) VALUES {{rows}}",
    insert_tasks=DRAW.insert_tasks,
)
