"""The exchange's statements on SQLite: set-based, guards in the WHERE clause."""

from __future__ import annotations

from bigmarket.storage.exchange_tx import ExchangeStatements
from bigmarket.storage.sqlite_bulk import in_one

_LOAD_CREDIT_ACCOUNTS = f"""
SELECT {in_one("a.user_id", "a.available_cents", "a.account_status")} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_credit_account AS a ON a.user_id = v.column1"""

_PURCHASE = in_one(
    "c.out_business_no", "q.order_id", "q.user_id", "q.activity_id", "q.sku", "q.total_count", "q.month_count",
    "q.day_count", "q.pay_cents",
)  # fmt: skip
_LOAD_PURCHASES = f"""
SELECT {_PURCHASE} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_credit_order AS c ON c.out_business_no = v.column1
LEFT JOIN raffle_activity_order AS q ON q.order_id = c.order_id"""

_FIND_PAYMENTS = f"""
SELECT {in_one("c.order_id", "c.out_business_no")} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_credit_order AS c ON c.order_id = v.column1"""

_PAY = """
UPDATE user_credit_account AS a SET available_cents = a.available_cents - v.column2
FROM (VALUES {rows}) AS v
WHERE a.user_id = v.column1 AND a.available_cents >= v.column2 AND a.account_status = 'open'"""

STATEMENTS = ExchangeStatements(
    load_credit_accounts=_LOAD_CREDIT_ACCOUNTS,
    load_purchases=_LOAD_PURCHASES,
    find_payments=_FIND_PAYMENTS,
    pay=_PAY,
)
