"""S3 over all databases: units of stock are in the hub, in shards or on their way, and nowhere twice.

The shards are read before the hub, each in one view. Both sides are ledgers (transfers.py), so the books are compared
entry by entry: what a shard received, the hub sent before; what the hub took in, the shard had given.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from bigmarket.activity.stock import SKUS, StockKey
from bigmarket.storage import schema, transfers
from bigmarket.storage.installation import Stores
from bigmarket.storage.replays import Configuration
from bigmarket.storage.transfers import HubRow, Standing, named

LOOKS_MAX = 4  # moves under way while the databases are read one after the other look wrong once, not for ever
PAUSE_SECONDS = 0.1

BadRow = dict[str, Any]


class Book(NamedTuple):
    """One side: the units of every move by its id and item, and those that the other side need not know of."""

    entries: Mapping[str, tuple[StockKey, int]]
    pending: frozenset[str]

    def sums(self) -> dict[StockKey, int]:
        """Units of each item in all."""
        sums: dict[StockKey, int] = defaultdict(int)
        for key, units in self.entries.values():
            sums[key] += units
        return sums


def stock_astray(stores: Stores, configuration: Configuration) -> list[BadRow]:
    """Every difference between what there is and what the books say."""
    rows: list[BadRow] = []
    for look in range(LOOKS_MAX):
        if look:
            time.sleep(PAUSE_SECONDS)
        rows = list(_look(stores, configuration))
        if not rows:
            break
    return rows


def _look(stores: Stores, configuration: Configuration) -> Iterator[BadRow]:
    shards = []
    for shard in stores.shards:
        with shard.examining() as connection:
            shards.append((transfers.all_standings(connection), _receipts(connection)))
    with stores.config.examining() as connection:
        hub = transfers.all_hub_rows(connection)
        books = _transfers(connection, shards=len(shards))
        totals = dict(live_totals(connection, configuration))
    yield from _hub_faults(hub, books, totals)
    for number, (standings, receipts) in enumerate(shards):
        for fault in _shard_faults(standings, receipts, hub, totals):
            yield {"shard": number, **fault}
        for fault in _unmatched(receipts, books[number]):
            yield {"shard": number, **fault}


def _hub_faults(
    hub: Mapping[StockKey, HubRow], books: list[Book], totals: Mapping[StockKey, int | None]
) -> Iterator[BadRow]:
    sums: dict[StockKey, int] = defaultdict(int)
    for book in books:
        for key, units in book.sums().items():
            sums[key] += units
    for key, row in hub.items():
        if row.allotted != sums[key]:
            yield _fault(key, "hub allotted other than its transfers", row.allotted, sums[key])
        if row.total is not None and row.allotted > row.total:
            yield _fault(key, "hub allotted more than the total", row.allotted, row.total)
    for key, total in totals.items():
        if key not in hub or hub[key].total != total:
            there = hub[key].total if key in hub else "no row"
            yield _fault(key, "hub has another total than the live revision", there, total)


def _shard_faults(
    standings: Mapping[StockKey, Standing],
    receipts: Book,
    hub: Mapping[StockKey, HubRow],
    totals: Mapping[StockKey, int | None],
) -> Iterator[BadRow]:
    sums = receipts.sums()
    for key, standing in standings.items():
        received = sums.get(key, 0)
        if standing.received != received:
            yield _fault(key, "alloc other than its receipts and what voids gave back", standing.alloc, received)
        if standing.alloc is None and key in hub and hub[key].total is not None:
            yield _fault(key, "unlimited here, but not in the hub", None, hub[key].total)
    for key, received in sums.items():
        if received and key not in standings:
            yield _fault(key, "receipts without a stock row", None, received)
    for key in totals:
        if key not in standings:
            yield _fault(key, "no stock row for an award of the live revision", None, None)


def _unmatched(receipts: Book, sent: Book) -> Iterator[BadRow]:
    """Moves that one side has, the other has not, and that are not on their way."""
    for move, (key, units) in receipts.entries.items():
        there = sent.entries.get(move)
        if there is None and move not in receipts.pending:
            yield _fault(key, f"move {move} is unknown to the hub", units, None)
        elif there is not None and there != (key, units):
            yield _fault(key, f"move {move} differs in the hub", units, there[1])
    for move, (key, units) in sent.entries.items():
        if move not in receipts.entries and move not in sent.pending:
            yield _fault(key, f"move {move} is unknown to the shard", None, units)


def _fault(key: StockKey, fault: str, found: object, expected: object) -> BadRow:
    return {"stock": named(key), "fault": fault, "found": found, "expected": expected}


def _receipts(connection: Connection) -> Book:
    r = schema.stock_receipt.c
    rows = connection.execute(select(r.transfer_id, r.strategy_id, r.item_id, r.units, r.settled)).all()
    pending = frozenset(row.transfer_id for row in rows if not row.settled)
    return Book({row.transfer_id: ((row.strategy_id, row.item_id), row.units) for row in rows}, pending)


def _transfers(connection: Connection, *, shards: int) -> list[Book]:
    """By shard."""
    t = schema.stock_transfer.c
    query = select(t.transfer_id, t.shard, t.strategy_id, t.item_id, t.units, t.state)
    entries: list[dict[str, tuple[StockKey, int]]] = [{} for _ in range(shards)]
    pending: set[str] = set()
    for row in connection.execute(query):
        entries[row.shard][row.transfer_id] = ((row.strategy_id, row.item_id), row.units)
        if row.state == "sent":
            pending.add(row.transfer_id)
    return [Book(of_shard, frozenset(pending)) for of_shard in entries]


def live_totals(connection: Connection, configuration: Configuration) -> Iterator[tuple[StockKey, int | None]]:
    """Units of every award of every live revision."""
    a = schema.raffle_activity.c
    armed = connection.execute(select(a.activity_id, a.revision_id).where(a.revision_id.is_not(None))).all()
    for activity_id, revision_id in armed:
        revision = configuration.revision(activity_id, revision_id)
        if revision is None:  # D6 tells, as soon as anybody has drawn by it
            continue
        wheel = revision.wheel
        assert wheel.strategy_id != SKUS, "it would be taken for skus"
        for award_id, sector in wheel.sectors.items():
            yield (wheel.strategy_id, award_id), sector.stock
