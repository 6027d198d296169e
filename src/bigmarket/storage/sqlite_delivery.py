"""The delivery's statements on SQLite: set-based, guards in the WHERE clause."""

from __future__ import annotations

from bigmarket.storage.delivery_tx import DeliveryStatements
from bigmarket.storage.sqlite_bulk import in_one
from bigmarket.storage.sqlite_draw import STATEMENTS as DRAW

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

_FIND_UNITS = f"""
SELECT {in_one("s.sku", "s.alloc - s.sold")} FROM (VALUES {{rows}}) AS v
CROSS JOIN sku_stock AS s ON s.sku = v.column1"""

_INSERT_QUOTA_ORDERS = """
INSERT INTO raffle_activity_order
  (order_id, user_id, activity_id, sku, total_count, month_count, day_count, pay_cents, state, out_business_no,
   order_time_ms)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"""

# A stamp of an earlier period means that its counter starts anew; a later one stays.
_CREDIT_DRAWS = """
INSERT INTO raffle_activity_account
  (user_id, activity_id, total_count, total_count_surplus, month, month_count, month_count_surplus,
   day, day_count, day_count_surplus)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (user_id, activity_id) DO UPDATE SET
  total_count = total_count + excluded.total_count,
  total_count_surplus = total_count_surplus + excluded.total_count,
  month_count = month_count + excluded.month_count,
  month_count_surplus =
    excluded.month_count + CASE WHEN month < excluded.month THEN month_count ELSE month_count_surplus END,
  month = max(month, excluded.month),
  day_count = day_count + excluded.day_count,
  day_count_surplus = excluded.day_count + CASE WHEN day < excluded.day THEN day_count ELSE day_count_surplus END,
  day = max(day, excluded.day)"""

_TAKE_UNITS = """
UPDATE sku_stock AS s SET sold = s.sold + v.column2
FROM (VALUES {rows}) AS v
WHERE s.sku = v.column1 AND s.sold + v.column2 <= s.alloc"""

_INSERT_DELIVERIES = """
INSERT INTO award_delivery
  (order_id, user_id, activity_id, award_id, award_key, place, message, state, next_at_ms, create_time_ms,
   update_time_ms)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (order_id) DO NOTHING"""

_WAITING = in_one(
    "q.order_id", "q.user_id", "q.activity_id", "q.sku", "q.total_count", "q.month_count", "q.day_count",
    "q.pay_cents", "q.out_business_no", "c.order_id IS NOT NULL",
)  # fmt: skip

_LOCK_UNPAID = f"""
SELECT {in_one("u.user_id", "u.order_id")} FROM (VALUES {{rows}}) AS v
CROSS JOIN unpaid_order AS u ON u.user_id = v.column1"""

# A payment that came by itself has the order's own number.
_FIND_WAITING = f"""
SELECT {_WAITING} FROM (VALUES {{rows}}) AS v
CROSS JOIN raffle_activity_order AS q ON q.order_id = v.column1 AND q.state = 'wait_pay'
LEFT JOIN user_credit_order AS c
  ON c.out_business_no = q.out_business_no AND c.user_id = q.user_id AND c.amount_cents = -q.pay_cents"""

_COMPLETE_ORDERS = """
UPDATE raffle_activity_order AS q SET state = 'completed'
FROM (VALUES {rows}) AS v
WHERE q.order_id = v.column1 AND q.state = 'wait_pay'"""

_FORGET_UNPAID = "DELETE FROM unpaid_order WHERE (user_id, sku) IN (VALUES {rows})"

_FIND_REBATES = f"""
SELECT {in_one("o.order_id", "o.state")} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_behavior_rebate_order AS o ON o.order_id = v.column1"""

_SETTLE_REBATES = """
UPDATE user_behavior_rebate_order AS o SET state = v.column2, reason = v.column3
FROM (VALUES {rows}) AS v
WHERE o.order_id = v.column1 AND o.state = 'create'"""

_FINISH_TASKS = "DELETE FROM task WHERE message_id IN (VALUES {rows})"

STATEMENTS = DeliveryStatements(
    find_records=_FIND_RECORDS,
    complete_records=_COMPLETE_RECORDS,
    insert_trades=_INSERT_TRADES,
    find_accounts=_FIND_ACCOUNTS,
    move_accounts=_MOVE_ACCOUNTS,
    find_units=_FIND_UNITS,
    lock_units=_FIND_UNITS,
    insert_quota_orders=_INSERT_QUOTA_ORDERS,
    credit_draws=_CREDIT_DRAWS,
    take_units=_TAKE_UNITS,
    insert_tasks=DRAW.insert_tasks,
    insert_deliveries=_INSERT_DELIVERIES,
    lock_unpaid=_LOCK_UNPAID,
    find_waiting=_FIND_WAITING,
    complete_orders=_COMPLETE_ORDERS,
    forget_unpaid=_FORGET_UNPAID,
    find_rebates=_FIND_REBATES,
    settle_rebates=_SETTLE_REBATES,
    finish_tasks=_FINISH_TASKS,
    moved_counts=1,
)
