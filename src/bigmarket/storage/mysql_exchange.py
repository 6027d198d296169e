"""The exchange's statements on MySQL and MariaDB: set-based, guards in the WHERE clause.

The credit accounts are locked when they are read, in key order; whoever pays for an order by another way locks that
row first too.
"""

from __future__ import annotations

from bigmarket.storage.exchange_tx import ExchangeStatements
from bigmarket.storage.mysql_bulk import BY_KEY, in_one

_LOAD_CREDIT_ACCOUNTS = f"""
SELECT {in_one("user_id", "available_cents", "account_status")} FROM user_credit_account {BY_KEY}
WHERE user_id IN ({{rows}}) FOR UPDATE"""

_PURCHASE = in_one(
    "c.out_business_no", "q.order_id", "q.user_id", "q.activity_id", "q.sku", "q.total_count", "q.month_count",
    "q.day_count", "q.pay_cents",
)  # fmt: skip
_LOAD_PURCHASES = f"""
SELECT {_PURCHASE} FROM user_credit_order AS c
LEFT JOIN raffle_activity_order AS q ON q.order_id = c.order_id
WHERE c.out_business_no IN ({{rows}})"""

# It locks, so that it waits for a commit that is still under way instead of missing it.
_FIND_PAYMENTS = f"""
SELECT {in_one("order_id", "out_business_no")} FROM user_credit_order {BY_KEY}
WHERE order_id IN ({{rows}}) LOCK IN SHARE MODE"""

_PAY = """
UPDATE {table} AS v STRAIGHT_JOIN user_credit_account AS a ON a.user_id = v.c1
SET a.available_cents = a.available_cents - v.c2
WHERE a.available_cents >= v.c2 AND a.account_status = 'open'"""

STATEMENTS = ExchangeStatements(
    load_credit_accounts=_LOAD_CREDIT_ACCOUNTS,
    load_purchases=_LOAD_PURCHASES,
    find_payments=_FIND_PAYMENTS,
    pay=_PAY,
)
