"""Units of stock on the move between the hub and the shards: the statements of each step.

The hub (in the configuration database) holds the total of a prize or sku and what is allotted to shards; a shard
holds what it may give. Every move changes ``alloc`` with a receipt in its shard, ``allotted`` with a transfer in the
hub, and the two have the same id. So both sides are ledgers: ``alloc`` is the sum of the shard's receipts,
``allotted`` the sum of the hub's transfers, and what only one side knows of is on its way.

A unit that a void gives back is one more than the total: it is in ``alloc`` and in ``returned``, without a receipt,
as the hub need not know of it. From then on it moves like any other.

Every function works in its caller's transaction. A step that was done before changes nothing, so any may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Select,
    Table,
    and_,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from bigmarket.activity.stock import SKUS, StockKey
from bigmarket.errors import Trouble
from bigmarket.storage.schema import award_stock, sku_stock, stock_hub, stock_receipt, stock_transfer

LIFTED = 0  # units of a transfer that takes the limit off
_KEYS_PER_QUERY = 400


class NotMoved(Trouble):
    """The units are not where they should be, or have become fewer meanwhile; nothing was spent."""


class HubRow(NamedTuple):
    """What there is of an item (None: unlimited), and what of it was given to shards."""

    total: int | None
    allotted: int


class Standing(NamedTuple):
    """What a shard may give of an item (None: unlimited), what it has given, and what of that voids gave back."""

    alloc: int | None
    sold: int
    returned: int = 0

    @property
    def free(self) -> int:
        """Units that could be given back."""
        return 0 if self.alloc is None else self.alloc - self.sold

    @property
    def gone(self) -> int:
        """Units that were given and did not come back."""
        return self.sold - self.returned

    @property
    def received(self) -> int:
        """What its receipts add up to."""
        return 0 if self.alloc is None else self.alloc - self.returned


class Move(NamedTuple):
    """Units that go to a shard, come back from it (below 0), or ``LIFTED``."""

    transfer_id: str
    shard: int
    key: StockKey
    units: int


# --- the hub ------------------------------------------------------------------------------------------------------


def hub_rows(connection: Connection, keys: Sequence[StockKey], *, lock: bool = False) -> dict[StockKey, HubRow]:
    """The hub's rows of these items."""
    hub = stock_hub.c
    found: dict[StockKey, HubRow] = {}
    for some in _batches(sorted(keys)):
        query = select(stock_hub).where(tuple_(hub.strategy_id, hub.item_id).in_(some))
        query = query.order_by(hub.strategy_id, hub.item_id)
        for row in connection.execute(query.with_for_update() if lock else query):
            found[row.strategy_id, row.item_id] = HubRow(row.total, row.allotted)
    return found


def all_hub_rows(connection: Connection) -> dict[StockKey, HubRow]:
    """Every row of the hub."""
    return {
        (row.strategy_id, row.item_id): HubRow(row.total, row.allotted)
        for row in connection.execute(select(stock_hub))
    }


def send(connection: Connection, move: Move, *, now_ms: int) -> None:
    """Give units of the hub to a shard; they are on their way until the shard receives them."""
    _allot(connection, move)
    connection.execute(insert(stock_transfer).values(_transfer(move, state="sent", now_ms=now_ms)))


def redirect(connection: Connection, back: Move, onward: Move, *, now_ms: int) -> bool:
    """What one shard gave back goes on to another; False when the hub had taken it in before."""
    if not _inserted(connection, insert(stock_transfer).values(_transfer(back, state="applied", now_ms=now_ms))):
        return False
    connection.execute(insert(stock_transfer).values(_transfer(onward, state="sent", now_ms=now_ms)))
    return True


def take_in(connection: Connection, move: Move, *, now_ms: int) -> bool:
    """Write down what a shard did by itself: gave units back, or claims those it had given; False when known."""
    if not _inserted(connection, insert(stock_transfer).values(_transfer(move, state="applied", now_ms=now_ms))):
        return False
    _allot(connection, move)
    return True


def mark_applied(connection: Connection, transfer_ids: Sequence[str]) -> None:
    """The shards have received these."""
    for some in _batches(transfer_ids):
        change = update(stock_transfer).where(stock_transfer.c.transfer_id.in_(some))
        connection.execute(change.values(state="applied"))


def moves_sent(connection: Connection) -> list[Move]:
    """Transfers that the hub does not know to be received, oldest first."""
    query = select(stock_transfer).where(stock_transfer.c.state == "sent").order_by(stock_transfer.c.transfer_id)
    return [
        Move(row.transfer_id, row.shard, (row.strategy_id, row.item_id), row.units)
        for row in connection.execute(query)
    ]


def _allot(connection: Connection, move: Move) -> None:
    hub = stock_hub.c
    allotted = hub.allotted + move.units
    covered = and_(allotted >= 0, or_(hub.total.is_(None), allotted <= hub.total))
    change = update(stock_hub).where(_hub_row(move.key), covered).values(allotted=allotted)
    if connection.execute(change).rowcount != 1:
        raise NotMoved(f"The hub cannot allot {move.units} units of {named(move.key)}; nothing was spent.")


def _hub_row(key: StockKey) -> ColumnElement[bool]:
    return and_(stock_hub.c.strategy_id == key[0], stock_hub.c.item_id == key[1])


def _transfer(move: Move, *, state: str, now_ms: int) -> dict[str, Any]:
    transfer_id, shard, (strategy_id, item_id), units = move
    return {
        "transfer_id": transfer_id,
        "shard": shard,
        "strategy_id": strategy_id,
        "item_id": item_id,
        "units": units,
        "state": state,
        "create_time_ms": now_ms,
    }


# --- a shard ------------------------------------------------------------------------------------------------------


def standings(connection: Connection, keys: Sequence[StockKey], *, lock: bool = False) -> dict[StockKey, Standing]:
    """How this shard stands with these items; one without a row is left out."""
    awards = [key for key in sorted(keys) if key[0] != SKUS]
    skus = [item for strategy_id, item in sorted(keys) if strategy_id == SKUS]
    found: dict[StockKey, Standing] = {}
    for some in _batches(awards):
        wanted = tuple_(award_stock.c.strategy_id, award_stock.c.award_id).in_(some)
        found |= _standings(connection, all_award_rows().where(wanted), lock=lock)
    for numbers in _batches(skus):
        found |= _standings(connection, all_sku_rows().where(sku_stock.c.sku.in_(numbers)), lock=lock)
    return found


def all_standings(connection: Connection) -> dict[StockKey, Standing]:
    """How this shard stands with everything."""
    return {**_standings(connection, all_award_rows()), **_standings(connection, all_sku_rows())}


def all_award_rows() -> Select[Any]:
    """Key and standing of every award."""
    stock = award_stock.c
    query = select(stock.strategy_id, stock.award_id, stock.alloc, stock.sold, stock.returned)
    return query.order_by(stock.strategy_id, stock.award_id)


def all_sku_rows() -> Select[Any]:
    """Key and standing of every sku."""
    stock = sku_stock.c
    return select(literal(SKUS), stock.sku, stock.alloc, stock.sold, literal(0)).order_by(stock.sku)


def receive(connection: Connection, move: Move, *, new_id: Callable[[], str]) -> bool:
    """Take in what the hub sent; False when it was received before.

    Raises ``NotMoved`` when the shard has no row for it. Units that come when the limit is off go straight back.
    """
    if not _received(connection, move, settled=True):
        return False
    standing = _locked(connection, move.key)
    if move.units == LIFTED:
        if standing.received:
            _received(connection, move._replace(transfer_id=new_id(), units=-standing.received), settled=False)
        _set_alloc(connection, move.key, None)
    elif standing.alloc is None:
        _received(connection, move._replace(transfer_id=new_id(), units=-move.units), settled=False)
    else:
        _set_alloc(connection, move.key, standing.alloc + move.units)
    return True


def give_back(connection: Connection, *, shard: int, key: StockKey, units: int, transfer_id: str) -> Move | None:
    """Let go of up to ``units`` that are free here; None when none is. The hub has to take them in."""
    standing = _locked(connection, key)
    units = min(units, standing.free)
    if units <= 0 or standing.alloc is None:
        return None
    move = Move(transfer_id, shard, key, -units)
    _received(connection, move, settled=False)
    _set_alloc(connection, key, standing.alloc - units)
    return move


def limit(connection: Connection, *, shard: int, key: StockKey, transfer_id: str) -> None:
    """From now on give no more than was given so far, unless units are sent; the hub has to take note of those."""
    standing = _locked(connection, key)
    if standing.alloc is None:
        if standing.gone:
            _received(connection, Move(transfer_id, shard, key, standing.gone), settled=False)
        _set_alloc(connection, key, standing.sold)


def provide_rows(connection: Connection, limited: Mapping[StockKey, bool]) -> None:
    """A row for every item that has none: empty when it is limited, else without a limit."""
    there = standings(connection, list(limited))
    for key in sorted(limited):
        if key not in there:
            table, columns = _columns(key)
            values = {**columns, "alloc": 0 if limited[key] else None, "sold": 0}
            _inserted(connection, insert(table).values(values))


def unsettled(connection: Connection, *, shard: int) -> list[Move]:
    """What this shard did by itself and does not know to be taken in by the hub, oldest first."""
    receipt = stock_receipt.c
    query = select(stock_receipt).where(receipt.settled == 0).order_by(receipt.transfer_id)
    return [
        Move(row.transfer_id, shard, (row.strategy_id, row.item_id), row.units) for row in connection.execute(query)
    ]


def mark_settled(connection: Connection, transfer_ids: Sequence[str]) -> None:
    """The hub has taken these in."""
    for some in _batches(transfer_ids):
        change = update(stock_receipt).where(stock_receipt.c.transfer_id.in_(some))
        connection.execute(change.values(settled=1))


def named(key: StockKey) -> str:
    """The item in words."""
    return f"sku {key[1]}" if key[0] == SKUS else f"award {key[1]} of strategy {key[0]}"


def _standings(connection: Connection, query: Select[Any], *, lock: bool = False) -> dict[StockKey, Standing]:
    rows = connection.execute(query.with_for_update() if lock else query)
    return {(strategy_id, item_id): Standing(*standing) for strategy_id, item_id, *standing in rows}


def _locked(connection: Connection, key: StockKey) -> Standing:
    found = standings(connection, [key], lock=True).get(key)
    if found is None:
        raise NotMoved(
            f"There is no stock row for {named(key)} in this shard, so nothing was spent; arm its activity again."
        )
    return found


def _set_alloc(connection: Connection, key: StockKey, alloc: int | None) -> None:
    """The row is locked; the guard is kept all the same, as it is what the promise rests on."""
    table, columns = _columns(key)
    this = [table.c[name] == value for name, value in columns.items()]
    covered = [] if alloc is None else [table.c.sold <= alloc]
    if connection.execute(update(table).where(*this, *covered).values(alloc=alloc)).rowcount != 1:
        raise NotMoved(f"The units of {named(key)} were won meanwhile; nothing was spent.")


def _columns(key: StockKey) -> tuple[Table, dict[str, int]]:
    """Where the item's row is."""
    strategy_id, item_id = key
    if strategy_id == SKUS:
        return sku_stock, {"sku": item_id}
    return award_stock, {"strategy_id": strategy_id, "award_id": item_id}


def _received(connection: Connection, move: Move, *, settled: bool) -> bool:
    """Write the receipt; False when it is there."""
    transfer_id, _, (strategy_id, item_id), units = move
    values = {
        "transfer_id": transfer_id,
        "strategy_id": strategy_id,
        "item_id": item_id,
        "units": units,
        "settled": int(settled),
    }
    return _inserted(connection, insert(stock_receipt).values(values))


def _inserted(connection: Connection, statement: Insert) -> bool:
    """Run it; False when a unique key refuses, with the transaction as it was before."""
    try:
        with connection.begin_nested():
            connection.execute(statement)
    except IntegrityError:
        return False
    return True


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _KEYS_PER_QUERY):
        yield items[start : start + _KEYS_PER_QUERY]
