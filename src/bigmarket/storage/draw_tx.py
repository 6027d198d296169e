"""The draw's transaction on any engine: the order of its statements, which an engine's own file words.

Guards stay in the statements although the accounts are locked: they are what the promise rests on. When one does not
let every row through, nothing is committed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

from bigmarket.activity.quota import Account
from bigmarket.activity.stock import StockKey
from bigmarket.draw import AccountKey, Drawn, DrawRequest, OpenOrder, Outcome, Snapshot, Spending, WinKey, Winning
from bigmarket.outbox.task import Task
from bigmarket.storage.bulk import Bulk, Row, Write
from bigmarket.storage.routing import SplitTables, at, user_first


@dataclass(frozen=True, slots=True)
class DrawStatements:
    """The templates of one engine (bulk.py). Keys and values stand in the order that ``SqlDrawTx`` gives them in."""

    load_accounts: str
    load_open_orders: str
    load_settled: str
    find_draws: str
    load_wins: str
    count_wins: str
    load_stock: str
    insert_orders: str
    insert_records: str
    insert_tasks: str
    use_open_orders: str
    count_used_open_orders: str
    drop_wins: str
    insert_wins: str
    add_wins: str
    take_stock: str


class SqlDrawTx(ABC):
    """``DrawTx`` (draw.py) on an open transaction. ``grace_ms`` is how long new tasks are left to this process."""

    def __init__(self, bulk: Bulk, statements: DrawStatements, *, split: SplitTables, grace_ms: int) -> None:
        self._bulk = bulk
        self._sql = statements
        self._split = split
        self._grace_ms = grace_ms
        self._recounted: dict[WinKey, int] = {}
        self._outdated: dict[WinKey, tuple[int, int]] = {}

    def load(self, requests: Sequence[DrawRequest]) -> Snapshot:
        """Accounts, open raffle orders and earlier outcomes of the batch's users."""
        users = sorted({(r.user_id, r.activity_id) for r in requests})  # everybody locks in this order
        repeats = sorted({(r.user_id, r.request_id) for r in requests if r.request_id is not None})
        found = self._load_accounts(users)
        accounts: dict[AccountKey, Account] = {(row[0], row[1]): Account(*row[2:-1]) for row in found}
        owing = sorted((row[0], row[1]) for row in found if row[-1])  # only an import leaves orders open
        open_orders: dict[AccountKey, list[OpenOrder]] = {}
        settled: dict[tuple[str, str], Drawn] = {}
        for suffix, keys in self._split.parts(owing, user_first):
            owed = self._bulk.select(at(self._sql.load_open_orders, suffix), keys)
            for user_id, activity_id, order_id, day in sorted(owed, key=itemgetter(2)):  # the oldest first
                open_orders.setdefault((user_id, activity_id), []).append(OpenOrder(order_id, day))
        for suffix, requested in self._split.parts(repeats, user_first):
            earlier = self._bulk.select(at(self._sql.load_settled, suffix), requested)
            settled |= {(row[2], row[0]): Drawn(*row[1:]) for row in earlier}
        return Snapshot(accounts, open_orders, settled)

    def load_wins(self, wanted: Mapping[WinKey, int]) -> dict[WinKey, int]:
        """Wins by (user, strategy, award): the counts kept for the epoch wanted, else those of the records."""
        rows = self._bulk.select(self._sql.load_wins, sorted(wanted))
        kept: dict[WinKey, tuple[int, int]] = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        wins = {key: won for key, (won, epoch) in kept.items() if epoch == wanted[key]}
        anew = sorted(wanted.keys() - wins.keys())
        self._outdated = {key: kept[key] for key in anew if key in kept}
        self._recounted = dict.fromkeys(anew, 0)
        for suffix, keys in self._split.parts(anew, user_first):
            found = self._bulk.select(at(self._sql.count_wins, suffix), keys)
            self._recounted |= {(row[0], row[1], row[2]): row[3] for row in found}
        return wins | self._recounted

    def load_stock(self, wanted: Mapping[StockKey, int]) -> dict[StockKey, int | None]:
        """Units left by (strategy, award); None is unlimited."""
        return {(row[0], row[1]): row[2] for row in self._bulk.select(self._sql.load_stock, sorted(wanted))}

    def apply(self, outcome: Outcome) -> None:
        """Idempotency rows first, hot stock rows last."""
        writes = [*self._new_rows(outcome), *self._spendings(outcome.spent), *self._wins_counted(outcome.won)]
        writes.append(Write(self._sql.take_stock, [(*key, units) for key, units in sorted(outcome.taken.items())]))
        self._bulk.finish(writes)

    def find_draws(self, draws: Sequence[Drawn]) -> dict[str, Drawn]:
        """Those of ``draws`` that exist, by order id.

        Whoever draws locks the accounts first and until the end. So once they are locked here, nothing of those draws
        is under way, not even in a transaction whose connection was lost before all its statements had run.
        """
        self._load_accounts(sorted({(drawn.user_id, drawn.activity_id) for drawn in draws}))
        found: dict[str, Drawn] = {}
        for suffix, some in self._split.parts(draws, attrgetter("user_id")):
            rows = self._bulk.select(at(self._sql.find_draws, suffix), [(drawn.order_id,) for drawn in some])
            found |= {row[0]: Drawn(*row) for row in rows}
        return found

    def _load_accounts(self, keys: Sequence[AccountKey]) -> list[list[Any]]:
        """The accounts' rows, locked; those of other activities of the batch may be among them."""
        return self._bulk.select(self._sql.load_accounts, keys)

    def _new_rows(self, outcome: Outcome) -> Iterator[Write]:
        """Orders, records and tasks; and open orders that were used."""
        by_user = attrgetter("user_id")
        for suffix, orders in self._split.parts(outcome.orders, by_user):
            yield Write(at(self._sql.insert_orders, suffix), orders)
        for suffix, reused in self._split.parts(outcome.reused, by_user):
            rows = [(ticket.order_id, ticket.request_id) for ticket in reused]
            yield Write(at(self._sql.use_open_orders, suffix), rows)
        for suffix, records in self._split.parts(outcome.records, by_user):
            yield Write(at(self._sql.insert_records, suffix), records)
        due_ms = outcome.now_ms + self._grace_ms
        yield Write(self._sql.insert_tasks, [task_row(task, due_ms) for task in outcome.tasks])
        used = Counter((ticket.user_id, ticket.activity.activity_id) for ticket in outcome.reused)
        yield Write(self._sql.count_used_open_orders, [(*key, orders) for key, orders in sorted(used.items())])

    @abstractmethod
    def _spendings(self, spent: Mapping[AccountKey, Spending]) -> Iterator[Write]:
        """Take the draws from the accounts that have enough left."""

    def _wins_counted(self, won: Mapping[WinKey, Winning]) -> Iterator[Write]:
        """Add the wins to their counts; those that were made anew take the place of what was kept."""
        yield Write(self._sql.drop_wins, [(*key, *self._outdated[key]) for key in won if key in self._outdated])
        anew = [(*key, self._recounted[key], now.epoch) for key, now in won.items() if key in self._recounted]
        yield Write(self._sql.insert_wins, sorted(anew))
        yield Write(self._sql.add_wins, sorted((*key, now.wins, now.at_most) for key, now in won.items()))


def task_row(task: Task, due_ms: int) -> Row:
    """A new task as ``insert_tasks`` writes it."""
    message_id, user_id, topic, message, attempts = task
    return (message_id, user_id, topic, message.decode(), attempts, "create", due_ms)
