"""The statements of looks on MySQL and MariaDB: without locks, so they wait for nobody."""

from __future__ import annotations

from bigmarket.storage.look_tx import LookStatements
from bigmarket.storage.mysql_bulk import BY_KEY, in_one

_ACCOUNT = in_one(
    "user_id", "activity_id", "total_count", "total_count_surplus", "month", "month_count", "month_count_surplus",
    "day", "day_count", "day_count_surplus",
)  # fmt: skip
_LOAD_ACCOUNTS = f"""
SELECT {_ACCOUNT} FROM raffle_activity_account {BY_KEY} WHERE (user_id, activity_id) IN ({{rows}})"""

_LOAD_UNITS = f"""
SELECT {in_one("sku", "alloc - sold")} FROM sku_stock {BY_KEY} WHERE sku IN ({{rows}})"""

_LOAD_KEPT = f"""
SELECT {in_one("sku", "activity_count_id", "stock_count")} FROM raffle_activity_sku
WHERE activity_id IN ({{rows}})"""

STATEMENTS = LookStatements(load_accounts=_LOAD_ACCOUNTS, load_units=_LOAD_UNITS, load_kept=_LOAD_KEPT)
