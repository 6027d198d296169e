"""The delivery's statements on MySQL and MariaDB: set-based; whatever is read is locked."""

from __future__ import annotations

from bigmarket.storage.delivery_tx import DeliveryStatements
from bigmarket.storage.mysql_bulk import BY_KEY, in_one

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

# Joined, as MariaDB does not let a DELETE be told which index to use; so few rows it would rather look through.
_FINISH_TASKS = """
DELETE t FROM {table} AS v STRAIGHT_JOIN task AS t ON t.message_id = CONVERT(v.c1 USING ascii)"""

STATEMENTS = DeliveryStatements(
    find_records=_FIND_RECORDS,
    complete_records=_COMPLETE_RECORDS,
    insert_trades=_INSERT_TRADES,
    find_accounts=_FIND_ACCOUNTS,
    move_accounts=_MOVE_ACCOUNTS,
    finish_tasks=_FINISH_TASKS,
    opened_counts=1,
    moved_counts=2,
)
