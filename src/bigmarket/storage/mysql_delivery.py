"""The delivery's statements on MySQL and MariaDB: set-based; whatever is read is locked."""

from __future__ import annotations

from bigmarket.storage.delivery_tx import DeliveryStatements
from bigmarket.storage.mysql_bulk import BY_KEY, in_one
from bigmarket.storage.mysql_draw import STATEMENTS as DRAW

_FIND_RECORDS = f"""
SELECT {in_one("order_id", "award_state")} FROM user_award_record {BY_KEY}
WHERE order_id IN ({{rows}}) FOR UPDATE"""

_COMPLETE_RECORDS = f"""
UPDATE user_award_record {BY_KEY} SET award_state = 'completed'
WHERE order_id IN ({{rows}}) AND award_state = 'create'"""

_INSERT_TRADES = """
INSERT INTO user_credit_order
  (order_id, user_id, trade_name, amount_cents, out_business_no, trade_type, create_time_ms)
VALUES {rows}"""

_FIND_ACCOUNTS = f"""
SELECT {in_one("user_id", "account_status")} FROM user_credit_account {BY_KEY}
WHERE user_id IN ({{rows}}) FOR UPDATE"""

# An account that is not open stays as it is, which counts 1 (the driver asks for rows found), not 2.
_MOVE_ACCOUNTS = """
INSERT INTO user_credit_account (user_id, total_cents, available_cents) VALUES {rows}
ON DUPLICATE KEY UPDATE
  total_cents = total_cents + IF(account_status = 'open', VALUES(total_cents), 0),
  available_cents = available_cents + IF(account_status = 'open', VALUES(available_cents), 0)"""

_FIND_UNITS = f"""
SELECT {in_one("sku", "alloc - sold")} FROM sku_stock {BY_KEY} WHERE sku IN ({{rows}})"""
_LOCK_UNITS = f"{_FIND_UNITS} FOR UPDATE"

_INSERT_QUOTA_ORDERS = """
INSERT INTO raffle_activity_order
  (order_id, user_id, activity_id, sku, total_count, month_count, day_count, pay_cents, state, out_business_no,
   order_time_ms)
VALUES {rows}"""

# A stamp of an earlier period means that its counter starts anew; a later one stays. Surpluses come before their
# counts, counts before their stamps: MySQL works through the list from left to right.
_CREDIT_DRAWS = """
INSERT INTO raffle_activity_account
  (user_id, activity_id, total_count, total_count_surplus, month, month_count, month_count_surplus,
   day, day_count, day_count_surplus)
VALUES {rows}
ON DUPLICATE KEY UPDATE
  total_count_surplus = total_count_surplus + VALUES(total_count),
  total_count = total_count + VALUES(total_count),
  month_count_surplus = VALUES(month_count) + IF(month < VALUES(month), month_count, month_count_surplus),
  month_count = month_count + VALUES(month_count),
  month = GREATEST(month, VALUES(month)),
  day_count_surplus = VALUES(day_count) + IF(day < VALUES(day), day_count, day_count_surplus),
  day_count = day_count + VALUES(day_count),
  day = GREATEST(day, VALUES(day))"""

_TAKE_UNITS = """
UPDATE {table} AS v STRAIGHT_JOIN sku_stock AS s ON s.sku = v.c1
SET s.sold = s.sold + v.c2
WHERE s.sold + v.c2 <= s.alloc"""

# The key stays as it is, which changes nothing; IGNORE would hide other faults too.
_INSERT_DELIVERIES = """
INSERT INTO award_delivery
  (order_id, user_id, activity_id, award_id, award_key, place, message, state, next_at_ms, create_time_ms,
   update_time_ms)
VALUES {rows}
ON DUPLICATE KEY UPDATE order_id = VALUES(order_id)"""

_WAITING = in_one(
    "q.order_id", "q.user_id", "q.activity_id", "q.sku", "q.total_count", "q.month_count", "q.day_count",
    "q.pay_cents", "q.out_business_no", "c.order_id IS NOT NULL",
)  # fmt: skip

_LOCK_UNPAID = f"""
SELECT {in_one("user_id", "order_id")} FROM unpaid_order {BY_KEY} WHERE user_id IN ({{rows}}) FOR UPDATE"""

# A payment that came by itself has the order's own number. Whoever writes one locks the row above first.
_FIND_WAITING = f"""
SELECT {_WAITING} FROM raffle_activity_order AS q
LEFT JOIN user_credit_order AS c
  ON c.out_business_no = q.out_business_no AND c.user_id = q.user_id AND c.amount_cents = -q.pay_cents
WHERE q.order_id IN ({{rows}}) AND q.state = 'wait_pay'"""

_COMPLETE_ORDERS = f"""
UPDATE raffle_activity_order {BY_KEY} SET state = 'completed'
WHERE order_id IN ({{rows}}) AND state = 'wait_pay'"""

_FORGET_UNPAID = """
DELETE u FROM {table} AS v STRAIGHT_JOIN unpaid_order AS u ON u.user_id = v.c1 AND u.sku = v.c2"""

_FIND_REBATES = f"""
SELECT {in_one("order_id", "state")} FROM user_behavior_rebate_order {BY_KEY}
WHERE order_id IN ({{rows}}) FOR UPDATE"""

_SETTLE_REBATES = """
UPDATE {table} AS v STRAIGHT_JOIN user_behavior_rebate_order AS o ON o.order_id = CONVERT(v.c1 USING ascii)
SET o.state = v.c2, o.reason = v.c3
WHERE o.state = 'create'"""

# Joined, as MariaDB does not let a DELETE be told which index to use; so few rows it would rather look through.
_FINISH_TASKS = """
DELETE t FROM {table} AS v STRAIGHT_JOIN task AS t ON t.message_id = CONVERT(v.c1 USING ascii)"""

STATEMENTS = DeliveryStatements(
    find_records=_FIND_RECORDS,
    complete_records=_COMPLETE_RECORDS,
    insert_trades=_INSERT_TRADES,
    find_accounts=_FIND_ACCOUNTS,
    move_accounts=_MOVE_ACCOUNTS,
    find_units=_FIND_UNITS,
    lock_units=_LOCK_UNITS,
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
    moved_counts=2,
)
