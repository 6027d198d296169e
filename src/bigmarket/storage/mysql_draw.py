"""The draw's statements on MySQL and MariaDB: set-based, guards in the WHERE clause.

Only the accounts are locked when they are read, in key order; under READ COMMITTED every later statement sees what
others have committed by then. Stock is locked early only where it runs out, so that lanes do not race for the last
units again and again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from bigmarket.activity.quota import Period
from bigmarket.activity.stock import StockKey
from bigmarket.draw import AccountKey, AwardRecordRow, RaffleOrderRow, Spending
from bigmarket.storage.bulk import Write
from bigmarket.storage.draw_tx import DrawStatements, SqlDrawTx
from bigmarket.storage.mysql_bulk import BY_KEY, MySqlBulk, in_one
from bigmarket.storage.routing import SplitTables

AHEAD_MAX = 16  # awards whose stock is read before it is known what is rolled
SCARCE = 1_000  # with fewer units left than that, a batch locks the row before it decides

_ACCOUNT = in_one(
    "user_id", "activity_id", "total_count", "total_count_surplus", "month", "month_count", "month_count_surplus",
    "day", "day_count", "day_count_surplus", "open_orders",
)  # fmt: skip
_LOAD_ACCOUNTS = f"""
SELECT {_ACCOUNT} FROM raffle_activity_account {BY_KEY}
WHERE activity_id IN ({{activities}}) AND user_id IN ({{rows}}) FOR UPDATE"""

_LOAD_OPEN_ORDERS = f"""
SELECT {in_one("user_id", "activity_id", "order_id", "order_day")} FROM user_raffle_order
WHERE order_state = 'create' AND (user_id, activity_id) IN ({{rows}})"""

_DRAWN = ("r.order_id", "r.user_id", "r.activity_id", "r.award_id", "r.award_title", "r.award_index")

_LOAD_SETTLED = f"""
SELECT {in_one("o.request_id", *_DRAWN)}
FROM user_raffle_order AS o JOIN user_award_record AS r ON r.order_id = o.order_id
WHERE (o.user_id, o.request_id) IN ({{rows}})"""

_FIND_DRAWS = f"""
SELECT {in_one(*_DRAWN)} FROM user_award_record AS r {BY_KEY} WHERE r.order_id IN ({{rows}})"""

_LOAD_WINS = f"""
SELECT {in_one("user_id", "strategy_id", "award_id", "won", "epoch")} FROM user_award_count {BY_KEY}
WHERE (user_id, strategy_id, award_id) IN ({{rows}})"""

_COUNT_WINS = f"""
SELECT {in_one("user_id", "strategy_id", "award_id", "won")} FROM (
  SELECT r.user_id, r.strategy_id, r.award_id, COUNT(*) AS won
  FROM {{table}} AS v STRAIGHT_JOIN user_award_record AS r
    ON r.user_id = v.c1 AND r.strategy_id = v.c2 AND r.award_id = v.c3
  LEFT JOIN award_void AS x {BY_KEY} ON x.order_id = r.order_id AND x.stock_returned = 1
  WHERE x.order_id IS NULL
  GROUP BY r.user_id, r.strategy_id, r.award_id) AS c"""

_STOCK = in_one("strategy_id", "award_id", "alloc - sold")
_LOAD_STOCK = f"SELECT {_STOCK} FROM award_stock {BY_KEY} WHERE (strategy_id, award_id) IN ({{rows}})"
_LOCK_STOCK = f"{_LOAD_STOCK} FOR UPDATE"

_INSERT_ORDERS = f"INSERT INTO user_raffle_order ({', '.join(RaffleOrderRow._fields)}) VALUES {{rows}}"

_INSERT_RECORDS = f"INSERT INTO user_award_record ({', '.join(AwardRecordRow._fields)}) VALUES {{rows}}"

_INSERT_TASKS = """
INSERT INTO task (message_id, user_id, topic, message, attempts, state, next_at_ms) VALUES {rows}"""

_USE_OPEN_ORDERS = """
UPDATE {table} AS v STRAIGHT_JOIN user_raffle_order AS o ON o.order_id = CONVERT(v.c1 USING ascii)
SET o.order_state = 'used', o.request_id = v.c2
WHERE o.order_state = 'create'"""

_COUNT_USED_OPEN_ORDERS = f"""
UPDATE {{table}} AS v STRAIGHT_JOIN raffle_activity_account AS a {BY_KEY}
  ON a.user_id = v.c1 AND a.activity_id = v.c2
SET a.open_orders = a.open_orders - v.c3
WHERE a.open_orders >= v.c3"""

_THE_WINS = f"user_award_count AS c {BY_KEY} ON c.user_id = v.c1 AND c.strategy_id = v.c2 AND c.award_id = v.c3"

_DROP_WINS = f"DELETE c FROM {{table}} AS v STRAIGHT_JOIN {_THE_WINS} AND c.won = v.c4 AND c.epoch = v.c5"

_INSERT_WINS = "INSERT INTO user_award_count (user_id, strategy_id, award_id, won, epoch) VALUES {rows}"

_ADD_WINS = f"""
UPDATE {{table}} AS v STRAIGHT_JOIN {_THE_WINS}
SET c.won = c.won + v.c4
WHERE c.won + v.c4 <= v.c5"""

# The counters come before their stamps: MySQL works through SET from left to right.
_MONTH_LEFT = "IF(month = %b, month_count_surplus, month_count)"
_DAY_LEFT = "IF(day = %b, day_count_surplus, day_count)"
_SPEND = f"""
UPDATE raffle_activity_account {BY_KEY}
SET total_count_surplus = total_count_surplus - %b,
    month_count_surplus = {_MONTH_LEFT} - %b, month = %b,
    day_count_surplus = {_DAY_LEFT} - %b, day = %b
WHERE total_count_surplus >= %b AND {_MONTH_LEFT} >= %b AND {_DAY_LEFT} >= %b
  AND activity_id = %b AND user_id IN ({{rows}})"""

_TAKE_STOCK = """
UPDATE {table} AS v STRAIGHT_JOIN award_stock AS s ON s.strategy_id = v.c1 AND s.award_id = v.c2
SET s.sold = s.sold + v.c3
WHERE s.alloc IS NULL OR s.sold + v.c3 <= s.alloc"""

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


class Rolled:
    """The awards that were rolled of late, by all lanes of a store: mostly the next batch rolls the same."""

    def __init__(self) -> None:
        self.awards: frozenset[StockKey] = frozenset()

    def note(self, wanted: AbstractSet[StockKey]) -> None:
        """A batch rolled these; so many that reading them ahead would cost more than it saves are forgotten."""
        if not wanted <= self.awards:
            known = next((some for some in (self.awards | wanted, wanted) if len(some) <= AHEAD_MAX), ())
            self.awards = frozenset(known)


class MySqlDrawTx(SqlDrawTx):
    """``SqlDrawTx`` in MySQL's words.

    The stock of awards ``rolled`` of late is read along with the accounts, which saves a round trip.
    """

    def __init__(self, bulk: MySqlBulk, *, split: SplitTables, grace_ms: int, rolled: Rolled) -> None:
        super().__init__(bulk, STATEMENTS, split=split, grace_ms=grace_ms)
        self._rows = bulk
        self._rolled = rolled
        self._ahead: dict[StockKey, int | None] = {}

    def load_stock(self, wanted: Mapping[StockKey, int]) -> dict[StockKey, int | None]:
        """Units left by (strategy, award); rows with few left are locked and read again."""
        self._rolled.note(wanted.keys())
        stock = {key: self._ahead[key] for key in wanted if key in self._ahead}
        stock |= super().load_stock({key: units for key, units in wanted.items() if key not in stock})
        scarce = [key for key in sorted(stock) if 0 < (stock[key] or 0) < SCARCE]
        if scarce:
            stock |= {(row[0], row[1]): row[2] for row in self._rows.select(_LOCK_STOCK, scarce)}
        return stock

    def _load_accounts(self, keys: Sequence[AccountKey]) -> list[list[Any]]:
        """By two lists, which cost the server less than one of pairs; they are locked in the order of their keys."""
        activities = ", ".join(map(str, sorted({activity_id for _, activity_id in keys})))
        users = sorted({(user_id,) for user_id, _ in keys})
        load_accounts = self._sql.load_accounts.replace("{activities}", activities)
        accounts, stock = self._rows.select_all(
            [(load_accounts, users), (self._sql.load_stock, sorted(self._rolled.awards))]
        )
        self._ahead = {(row[0], row[1]): row[2] for row in stock}
        return accounts

    def _spendings(self, spent: Mapping[AccountKey, Spending]) -> Iterator[Write]:
        """One statement for all accounts of an activity that lose the same number of draws: mostly one in all."""
        alike: dict[tuple[int, int, Period], list[tuple[str]]] = {}
        for (user_id, activity_id), spending in spent.items():
            alike.setdefault((activity_id, spending.draws, spending.period), []).append((user_id,))
        for (activity_id, draws, (month, day)), users in alike.items():
            counters = (draws, month, draws, month, day, draws, day)
            guards = (draws, month, draws, day, draws)
            yield Write(_SPEND, sorted(users), before=(*counters, *guards, activity_id))
