"""The delivery's transaction on any engine: the order of its statements, which an engine's own file words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bigmarket.award.records import RecordKey
from bigmarket.credit.model import CreditAccountClosed, CreditTrade
from bigmarket.errors import Contention, NotFound
from bigmarket.storage.bulk import Bulk
from bigmarket.storage.routing import SplitTables, at, user_first


@dataclass(frozen=True, slots=True)
class DeliveryStatements:
    """The templates of one engine (bulk.py). Keys and values stand in the order that ``SqlDeliveryTx`` gives them in.

    ``find_accounts`` locks; ``move_accounts`` counts ``opened_counts`` for an account that it opens, ``moved_counts``
    for one that it moves and neither for one that is not open.
    """

    find_records: str
    complete_records: str
    insert_trades: str
    find_accounts: str
    move_accounts: str
    finish_tasks: str
    opened_counts: int
    moved_counts: int


class SqlDeliveryTx:
    """``DeliveryTx`` (award/records.py) on an open transaction."""

    def __init__(self, bulk: Bulk, statements: DeliveryStatements, *, split: SplitTables) -> None:
        self._bulk = bulk
        self._sql = statements
        self._split = split

    def complete_records(self, records: Sequence[RecordKey]) -> set[str]:
        """Order ids of those whose record was ``create``. Raises NotFound for an order without a record."""
        states: dict[str, str] = {}
        for suffix, some in self._split.parts(records, user_first):
            keys = sorted((order_id,) for _, order_id in some)
            here = dict(self._bulk.select(at(self._sql.find_records, suffix), keys))
            waiting = sorted((order_id,) for order_id, state in here.items() if state == "create")
            if self._bulk.write(at(self._sql.complete_records, suffix), waiting) != len(waiting):
                raise Contention("An award record changed although it was locked; nothing was delivered.")
            states |= here
        if missing := {order_id for _, order_id in records} - states.keys():
            raise NotFound(f"There is no award record {min(missing)}.")
        return {order_id for order_id, state in states.items() if state == "create"}

    def add_credits(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        """Orders first, as they carry the idempotency key; then each account once. Amounts must be above 0."""
        assert all(trade.amount_cents > 0 for trade in trades), "taking points needs a guard against an empty account"
        for suffix, some in self._split.parts(trades, lambda trade: trade.user_id):
            rows = [(*trade, trade.trade_type, now_ms) for trade in some]
            self._bulk.write(at(self._sql.insert_trades, suffix), rows)
        earned: dict[str, int] = {}
        for trade in trades:
            earned[trade.user_id] = earned.get(trade.user_id, 0) + trade.amount_cents
        self._move(earned)

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete the tasks, whatever state they are in."""
        self._bulk.write(self._sql.finish_tasks, [(message_id,) for message_id in sorted(message_ids)])

    def _move(self, earned: dict[str, int]) -> None:
        states = dict(self._bulk.select(self._sql.find_accounts, [(user_id,) for user_id in sorted(earned)]))
        if any(state != "open" for state in states.values()):
            raise CreditAccountClosed("The user's credit account is not open; nothing was credited.")
        accounts = [(user_id, cents, cents) for user_id, cents in sorted(earned.items())]
        expected = len(states) * self._sql.moved_counts + (len(accounts) - len(states)) * self._sql.opened_counts
        if self._bulk.write(self._sql.move_accounts, accounts) != expected:
            raise Contention("Others opened or closed a credit account meanwhile; nothing was credited.")
