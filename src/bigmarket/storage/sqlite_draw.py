"""The draw's statements on SQLite: set-based, guards in the WHERE clause.

The transaction holds the file's only write lock (BEGIN IMMEDIATE), so what was loaded cannot change under it; the
guards are kept all the same, as they are what the promise rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bigmarket.draw import AccountKey, AwardRecordRow, RaffleOrderRow, Spending
from bigmarket.storage.bulk import Write
from bigmarket.storage.draw_tx import DrawStatements, SqlDrawTx
from bigmarket.storage.sqlite_bulk import in_one

_ACCOUNT = in_one(
    "a.user_id", "a.activity_id", "a.total_count", "a.total_count_surplus", "a.month", "a.month_count",
    "a.month_count_surplus", "a.day", "a.day_count", "a.day_count_surplus",
    "a.open_orders",
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

_LOAD_WINS = f"""
SELECT {in_one("c.user_id", "c.strategy_id", "c.award_id", "c.won", "c.epoch")}
FROM (VALUES {{rows}}) AS v
CROSS JOIN user_award_count AS c
  ON c.user_id = v.column1 AND c.strategy_id = v.column2 AND c.award_id = v.column3"""

_COUNT_WINS = f"""
SELECT {in_one("user_id", "strategy_id", "award_id", "won")} FROM (
  SELECT r.user_id, r.strategy_id, r.award_id, COUNT(*) AS won
  FROM (VALUES {{rows}}) AS v
  CROSS JOIN user_award_record AS r
    ON r.user_id = v.column1 AND r.strategy_id = v.column2 AND r.award_id = v.column3
  LEFT JOIN award_void AS x ON x.order_id = r.order_id AND x.stock_returned = 1
  WHERE x.order_id IS NULL
  GROUP BY r.user_id, r.strategy_id, r.award_id)"""

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

_COUNT_USED_OPEN_ORDERS = """
UPDATE raffle_activity_account AS a SET open_orders = a.open_orders - v.column3
FROM (VALUES {rows}) AS v
WHERE a.user_id = v.column1 AND a.activity_id = v.column2 AND a.open_orders >= v.column3"""

_DROP_WINS = """
DELETE FROM user_award_count WHERE (user_id, strategy_id, award_id, won, epoch) IN (VALUES {rows})"""

_INSERT_WINS = f"INSERT INTO user_award_count (user_id, strategy_id, award_id, won, epoch) {_NEW_ROWS}"

_ADD_WINS = """
UPDATE user_award_count AS c SET won = c.won + v.column4
FROM (VALUES {rows}) AS v
WHERE c.user_id = v.column1 AND c.strategy_id = v.column2 AND c.award_id = v.column3
  AND c.won + v.column4 <= v.column5"""

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


STATEMENTS = DrawStatements(
    load_accounts=_LOAD_ACCOUNTS,
    load_open_orders=_LOAD_OPEN_ORDERS,
    load_settled=_LOAD_SETTLED,
    find_draws=_FIND_DRAWS,
    load_wins=_LOAD_WINS,
    count_wins=_COUNT_WINS,
    load_stock=_LOAD_STOCK,
    insert_orders=_INSERT_ORDERS,
    insert_records=_INSERT_RECORDS,
    insert_tasks=_INSERT_TASKS,
    use_open_orders=_USE_OPEN_ORDERS,
    count_used_open_orders=_COUNT_USED_OPEN_ORDERS,
    drop_wins=_DROP_WINS,
    insert_wins=_INSERT_WINS,
    add_wins=_ADD_WINS,
    take_stock=_TAKE_STOCK,
)


class SqliteDrawTx(SqlDrawTx):
    """``SqlDrawTx`` in SQLite's words."""

    def _spendings(self, spent: Mapping[AccountKey, Spending]) -> Iterator[Write]:
        yield Write(_SPEND, [(*key, spending.draws, *spending.period) for key, spending in spent.items()])
