"""The delivery's transaction on SQLite: set-based statements, guards in the WHERE clause."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from bigmarket.credit.model import CreditAccountClosed, CreditTrade
from bigmarket.errors import NotFound
from bigmarket.storage.bulk import in_one, select, write

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

_MOVE_ACCOUNTS = """
INSERT INTO user_credit_account (user_id, total_cents, available_cents)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (user_id) DO UPDATE
SET total_cents = total_cents + excluded.total_cents, available_cents = available_cents + excluded.available_cents
WHERE account_status = 'open'"""

_FINISH_TASKS = """
UPDATE task AS t SET state = 'completed'
FROM (VALUES {rows}) AS v
WHERE t.message_id = v.column1 AND t.state <> 'completed'"""

_SEED = "SELECT seed FROM seed_epoch WHERE activity_id = ? AND epoch = ?"


class SqliteDeliveryTx:
    """``DeliveryTx`` (award/records.py) on a connection whose transaction is open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seeds: dict[tuple[int, int], bytes] = {}

    def complete_records(self, order_ids: Sequence[str]) -> set[str]:
        """Those of ``order_ids`` whose record was ``create``. Raises NotFound for an order without a record."""
        states: dict[str, str] = dict(
            select(self._connection, _FIND_RECORDS, [(order_id,) for order_id in order_ids])
        )
        if missing := set(order_ids) - states.keys():
            raise NotFound(f"There is no award record {min(missing)}.")
        waiting = {order_id for order_id, state in states.items() if state == "create"}
        completed = write(self._connection, _COMPLETE_RECORDS, [(order_id,) for order_id in waiting])
        assert completed == len(waiting), "the transaction holds the write lock"
        return waiting

    def add_credits(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        """Orders first, as they carry the idempotency key; then each account once. Amounts must be above 0."""
        assert all(trade.amount_cents > 0 for trade in trades), "taking points needs a guard against an empty account"
        write(self._connection, _INSERT_TRADES, [(*trade, trade.trade_type, now_ms) for trade in trades])
        earned: dict[str, int] = {}
        for trade in trades:
            earned[trade.user_id] = earned.get(trade.user_id, 0) + trade.amount_cents
        accounts = [(user_id, cents, cents) for user_id, cents in sorted(earned.items())]
        if write(self._connection, _MOVE_ACCOUNTS, accounts) != len(accounts):
            raise CreditAccountClosed("The user's credit account is not open; nothing was credited.")

    def seed(self, activity_id: int, *, epoch: int) -> bytes:
        """The seed of the dice; asked once per transaction."""
        key = (activity_id, epoch)
        if key not in self._seeds:
            row = self._connection.execute(_SEED, key).fetchone()
            if row is None:
                raise NotFound(f"Activity {activity_id} has no seed epoch {epoch}.")
            self._seeds[key] = row[0]
        return self._seeds[key]

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Turn the tasks into ``completed`` ones."""
        write(self._connection, _FINISH_TASKS, [(message_id,) for message_id in message_ids])
