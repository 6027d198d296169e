"""The delivery's statements on SQLite: set-based, guards in the WHERE clause."""

from __future__ import annotations

from bigmarket.storage.delivery_tx import DeliveryStatements
from bigmarket.storage.sqlite_bulk import in_one

_FIND_RECORDS = f"""
SELECT {in_one("r.order_id", "r.award_state")} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_award_record AS r ON r.order_id = v.column1"""

_COMPLETE_RECORDS = """
UPDATE user_award_record AS r SET award_state = 'completed'
FROM (VALUES {rows}) AS v
WHERE r.order_id = v.column1 AND r.award_state = 'create'"""

_INSERT_TRADES = """
INSERT INTO user_credit_order
  (order_id, user_id, trade_name, amount_cents, out_business_no, trade_type, create_time_ms)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"""

_FIND_ACCOUNTS = f"""
SELECT {in_one("a.user_id", "a.account_status")} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_credit_account AS a ON a.user_id = v.column1"""

_MOVE_ACCOUNTS = """
INSERT INTO user_credit_account (user_id, total_cents, available_cents)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (user_id) DO UPDATE
SET total_cents = total_cents + excluded.total_cents, available_cents = available_cents + excluded.available_cents
WHERE account_status = 'open'"""

_FINISH_TASKS = "DELETE FROM task WHERE message_id IN (VALUES {rows})"

STATEMENTS = DeliveryStatements(
    find_records=_FIND_RECORDS,
    complete_records=_COMPLETE_RECORDS,
    insert_trades=_INSERT_TRADES,
    find_accounts=_FIND_ACCOUNTS,
    move_accounts=_MOVE_ACCOUNTS,
    finish_tasks=_FINISH_TASKS,
    opened_counts=1,
    moved_counts=1,
)
