"""The statements of looks on SQLite."""

from __future__ import annotations

from bigmarket.storage.look_tx import LookStatements
from bigmarket.storage.sqlite_bulk import in_one

_ACCOUNT = in_one(
    "a.user_id", "a.activity_id", "a.total_count", "a.total_count_surplus", "a.month", "a.month_count",
    "a.month_count_surplus", "a.day", "a.day_count", "a.day_count_surplus",
)  # fmt: skip
_LOAD_ACCOUNTS = f"""
SELECT {_ACCOUNT}
FROM (VALUES {{rows}}) AS v
CROSS JOIN raffle_activity_account AS a ON a.user_id = v.column1 AND a.activity_id = v.column2"""

_LOAD_UNITS = f"""
SELECT {in_one("s.sku", "s.alloc - s.sold")}
FROM (VALUES {{rows}}) AS v
CROSS JOIN sku_stock AS s ON s.sku = v.column1"""

_LOAD_KEPT = f"""
SELECT {in_one("k.sku", "k.activity_count_id", "k.stock_count")}
FROM (VALUES {{rows}}) AS v
CROSS JOIN raffle_activity_sku AS k ON k.activity_id = v.column1"""

STATEMENTS = LookStatements(load_accounts=_LOAD_ACCOUNTS, load_units=_LOAD_UNITS, load_kept=_LOAD_KEPT)
