"""The draw's transaction on SQLite: set-based statements, guards in the WHERE clause.

The transaction holds the file's only write lock (BEGIN IMMEDIATE), so what was loaded cannot change under it; the
guards are kept all the same, as they are what the promise rests on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from operator import itemgetter

from bigmarket.activity.quota import Account
from bigmarket.draw import (
    AccountKey,
    AwardRecordRow,
    Drawn,
    DrawRequest,
    GuardMissed,
    OpenOrder,
    Outcome,
    RaffleOrderRow,
    Snapshot,
    StockKey,
)
from bigmarket.outbox.task import Task
from bigmarket.storage.bulk import Row, in_one, select, write

_ACCOUNT = in_one(
    "a.user_id", "a.activity_id", "a.total_count", "a.total_count_surplus", "a.month", "a.month_count",
    "a.month_count_surplus", "a.day", "a.day_count", "a.day_count_surplus",
)  # fmt: skip
_LOAD_ACCOUNTS = f"""
SELECT {_ACCOUNT}
FROM (VALUES {{rows}}) AS v
CROSS JOIN raffle_activity_account AS a ON a.user_id = v.column1 AND a.activity_id = v.column2"""

_LOAD_OPEN_ORDERS = f"""
SELECT {in_one("o.user_id", "o.activity_id", "o.order_id", "o.order_day")}
FROM (VALUES {{rows}}) AS v
CROSS JOIN user_raffle_order AS o
  ON o.user_id = v.column1 AND o.activity_id = v.column2 AND o.order_state = 'create'"""

_DRAWN = ("r.order_id", "r.user_id", "r.activity_id", "r.award_id", "r.award_title", "r.award_index")

_LOAD_SETTLED = f"""
SELECT {in_one("o.request_id", *_DRAWN)}
FROM (VALUES {{rows}}) AS v
CROSS JOIN user_raffle_order AS o ON o.user_id = v.column1 AND o.request_id = v.column2
CROSS JOIN user_award_record AS r ON r.order_id = o.order_id"""

_FIND_DRAWS = f"""
SELECT {in_one(*_DRAWN)} FROM (VALUES {{rows}}) AS v
CROSS JOIN user_award_record AS r ON r.order_id = v.column1"""

_LOAD_STOCK = f"""
SELECT {in_one("s.strategy_id", "s.award_id", "s.alloc - s.sold")}
FROM (VALUES {{rows}}) AS v
CROSS JOIN award_stock AS s ON s.strategy_id = v.column1 AND s.award_id = v.column2"""

_NEW_ROWS = "SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"

_INSERT_ORDERS = f"INSERT INTO user_raffle_order ({', '.join(RaffleOrderRow._fields)}) {_NEW_ROWS}"

_INSERT_RECORDS = f"INSERT INTO user_award_record ({', '.join(AwardRecordRow._fields)}) {_NEW_ROWS}"

_INSERT_TASKS = f"""
INSERT INTO task (message_id, user_id, topic, message, attempts, state, next_at_ms) {_NEW_ROWS}"""

_USE_OPEN_ORDERS = """
UPDATE user_raffle_order AS o SET order_state = 'used', request_id = v.column2
FROM (VALUES {rows}) AS v
WHERE o.order_id = v.column1 AND o.order_state = 'create'"""

# v: user, activity, draws, month, day. A stamp of another period means that its counter starts anew.
_MONTH_LEFT = "CASE WHEN a.month = v.column4 THEN a.month_count_surplus ELSE a.month_count END"
_DAY_LEFT = "CASE WHEN a.day = v.column5 THEN a.day_count_surplus ELSE a.day_count END"
_SPEND = f"""
UPDATE raffle_activity_account AS a
SET total_count_surplus = a.total_count_surplus - v.column3,
    month = v.column4, month_count_surplus = {_MONTH_LEFT} - v.column3,
    day = v.column5, day_count_surplus = {_DAY_LEFT} - v.column3
FROM (VALUES {{rows}}) AS v
WHERE a.user_id = v.column1 AND a.activity_id = v.column2
  AND a.total_count_surplus >= v.column3 AND {_MONTH_LEFT} >= v.column3 AND {_DAY_LEFT} >= v.column3"""

_TAKE_STOCK = """
UPDATE award_stock AS s SET sold = s.sold + v.column3
FROM (VALUES {rows}) AS v
WHERE s.strategy_id = v.column1 AND s.award_id = v.column2
  AND (s.alloc IS NULL OR s.sold + v.column3 <= s.alloc)"""


class SqliteDrawTx:
    """``DrawTx`` (draw.py) on a connection whose transaction is open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def load(self, requests: Sequence[DrawRequest]) -> Snapshot:
        """Accounts, open raffle orders and earlier outcomes of the batch's users."""
        users = list({(r.user_id, r.activity_id) for r in requests})
        repeats = list({(r.user_id, r.request_id) for r in requests if r.request_id is not None})
        accounts: dict[AccountKey, Account] = {
            (row[0], row[1]): Account(*row[2:]) for row in select(self._connection, _LOAD_ACCOUNTS, users)
        }
        open_orders: dict[AccountKey, list[OpenOrder]] = {}
        owed = select(self._connection, _LOAD_OPEN_ORDERS, users)
        for user_id, activity_id, order_id, day in sorted(owed, key=itemgetter(2)):  # the oldest first
            open_orders.setdefault((user_id, activity_id), []).append(OpenOrder(order_id, day))
        settled = {(row[2], row[0]): Drawn(*row[1:]) for row in select(self._connection, _LOAD_SETTLED, repeats)}
        return Snapshot(accounts, open_orders, settled)

    def load_stock(self, keys: Collection[StockKey]) -> dict[StockKey, int | None]:
        """Units left by (strategy, award); None is unlimited."""
        return {(row[0], row[1]): row[2] for row in select(self._connection, _LOAD_STOCK, list(keys))}

    def apply(self, outcome: Outcome) -> None:
        """Idempotency rows first, hot stock rows last."""
        write(self._connection, _INSERT_ORDERS, outcome.orders)
        self._guarded(_USE_OPEN_ORDERS, [(t.order_id, t.request_id) for t in outcome.reused])
        write(self._connection, _INSERT_RECORDS, outcome.records)
        write(self._connection, _INSERT_TASKS, [_task_row(task, outcome.now_ms) for task in outcome.tasks])
        self._guarded(_SPEND, [(*key, spent.draws, *spent.period) for key, spent in outcome.spent.items()])
        self._guarded(_TAKE_STOCK, [(*key, units) for key, units in outcome.taken.items()])

    def _guarded(self, template: str, rows: Sequence[Row]) -> None:
        if write(self._connection, template, rows) != len(rows):
            raise GuardMissed(template.split()[1])


def _task_row(task: Task, now_ms: int) -> Row:
    message_id, user_id, topic, message, attempts = task
    return (message_id, user_id, topic, message.decode(), attempts, "create", now_ms)


def find_draws(connection: sqlite3.Connection, order_ids: Sequence[str]) -> dict[str, Drawn]:
    """The outcomes that exist, by order id."""
    rows = select(connection, _FIND_DRAWS, [(order_id,) for order_id in order_ids])
    return {row[0]: Drawn(*row) for row in rows}
