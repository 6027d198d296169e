"""All databases of an installation: the configuration's and the shards'; usually one and the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Table, insert, inspect, select, text

from bigmarket.activity.looking import ShelvesTx
from bigmarket.activity.stock import SKUS
from bigmarket.errors import Trouble
from bigmarket.ids import Ids
from bigmarket.storage import queries, schema, transfers
from bigmarket.storage.contract import Store
from bigmarket.storage.look_tx import EscrowedShelves
from bigmarket.storage.migrate import migrate
from bigmarket.storage.routing import Routing, SplitTables, part_of

_CONFIG = "config"
_COMPLETE = "complete"  # a fact of the configuration database: every shard was set up


@dataclass(frozen=True, slots=True)
class Stores:
    """``config`` holds campaigns; ``shards`` hold the users' rows. ``config`` may be one of the shards."""

    config: Store
    shards: tuple[Store, ...]
    routing: Routing

    @property
    def escrowed(self) -> bool:
        """Whether stock is kept by a hub and given to shards: always, unless there is one database only."""
        return self.shards != (self.config,)

    def of(self, user_id: str) -> Store:
        """The user's shard."""
        return self.shards[self.routing.shard_of(user_id)]

    def all(self) -> Iterator[Store]:
        """Every database once, the configuration's first."""
        yield self.config
        yield from (shard for shard in self.shards if shard is not self.config)

    def stock_left(self, strategy_id: int) -> dict[int, int | None]:
        """Units of each award left anywhere, those on their way between databases included; None is unlimited."""
        if not self.escrowed:
            with self.config.reading() as connection:
                return queries.stock_left(connection, strategy_id)
        gone: Counter[int] = Counter()
        for shard in self.shards:
            with shard.reading() as connection:
                gone.update(queries.stock_gone(connection, strategy_id))
        with self.config.reading() as connection:
            totals = queries.stock_totals(connection, strategy_id)
        return {award_id: None if total is None else total - gone[award_id] for award_id, total in totals.items()}

    @contextmanager
    def looking_at_shelves(self) -> Iterator[ShelvesTx]:
        """One read transaction of the configuration, which sees stock wherever it is; it blocks nobody."""
        with self.config.looking() as tx:
            yield EscrowedShelves(tx, self._units_left) if self.escrowed else tx

    def _units_left(self, skus: Sequence[int]) -> dict[int, int]:
        """Units of these skus that the hub has in all, less what the shards have sold."""
        keys = [(SKUS, sku) for sku in skus]
        sold: Counter[int] = Counter()
        for shard in self.shards:
            with shard.reading() as connection:
                sold.update({key[1]: row.sold for key, row in transfers.standings(connection, keys).items()})
        with self.config.reading() as connection:
            rows = transfers.hub_rows(connection, keys)
        return {key[1]: row.total - sold[key[1]] for key, row in rows.items() if row.total is not None}

    def close(self) -> None:
        """Give every connection back."""
        for store in self.all():
            store.close()

    def name_of(self, store: Store) -> str:
        """What an operator calls this database."""
        places = [f"shard {number}" for number, shard in enumerate(self.shards) if shard is store]
        if store is self.config:
            places.insert(0, "the configuration database")
        return " and ".join(places)


def whole(store: Store) -> Stores:
    """An installation of one database."""
    return Stores(store, (store,), store.split.routing)


# --- the layout ---------------------------------------------------------------------------------------------------


def prepare(stores: Stores, *, now_ms: int) -> None:
    """Check that the databases belong together, and bring every one to the newest schema.

    New ones are set up, the configuration's first; what a crash left unfinished then is finished now. Raises
    ``Trouble``, before anything is changed, when a database was set up for another layout or installation, or is new
    among old ones: users would be looked for in the wrong place.
    """
    found = [_facts_in(store) for store in stores.all()]
    _refuse_strangers(stores, found)
    for store in stores.all():
        migrate(store)
    identity = next((facts["installation"] for facts in found if facts), Ids().make(now_ms))
    for store in stores.all():
        identity = _set_up(stores, store, identity=identity)
    if _COMPLETE not in found[0]:
        _complete(stores.config)


def _refuse_strangers(stores: Stores, found: Sequence[Mapping[str, str]]) -> None:
    """``found`` are the facts in each database, none in a new one."""
    for store, facts in zip(stores.all(), found, strict=True):
        if facts:
            _compare(stores, store, facts)
    names = [stores.name_of(store) for store in stores.all()]
    marked = {names[at]: facts["installation"] for at, facts in enumerate(found) if facts}
    new = [names[at] for at, facts in enumerate(found) if not facts]
    if len(set(marked.values())) > 1:
        listed = ", ".join(f"{name} of {identity}" for name, identity in marked.items())
        raise Trouble(f"These databases belong to different installations: {listed}. {_AS_THEY_WERE}")
    if marked and not found[0]:
        raise Trouble(f"The configuration database is new, but {', '.join(marked)} is in use. {_AS_THEY_WERE}")
    if new and _COMPLETE in found[0]:
        raise Trouble(
            f"The database of {', '.join(new)} is empty, though it was set up before. {_AS_THEY_WERE} "
            "Was it lost, restore it."
        )


def _set_up(stores: Stores, store: Store, *, identity: str) -> str:
    """Write the layout's facts into a database that has none; the installation that it then belongs to."""
    facts = _facts_in(store)
    if not facts:
        wanted = {"installation": identity, **_layout(stores, store)}
        with store.migrating() as connection:
            facts = _read(connection) or _write(connection, wanted, split=store.split)
    _compare(stores, store, facts)
    return facts["installation"]


def _compare(stores: Stores, store: Store, facts: Mapping[str, str]) -> None:
    wanted = _layout(stores, store)
    if differing := [
        f"{fact} is {facts[fact]}, not {value}" for fact, value in wanted.items() if facts[fact] != value
    ]:
        twice = "" if facts["shard"] == wanted["shard"] else " Or two of the URLs name one database."
        raise Trouble(
            f"The database of {stores.name_of(store)} was set up for another layout ({'; '.join(differing)}). "
            f"Users are found by the number, the order and the tables of the shards. {_AS_THEY_WERE}{twice}"
        )


_AS_THEY_WERE = "Set BIGMARKET_DATABASE, BIGMARKET_SHARDS and BIGMARKET_TABLES_PER_SHARD as they were."


def _layout(stores: Stores, store: Store) -> dict[str, str]:
    shard = str(stores.shards.index(store)) if store in stores.shards else _CONFIG
    return {"shard": shard, "shards": str(stores.routing.shards), "tables": str(stores.routing.tables)}


def _facts_in(store: Store) -> dict[str, str]:
    with store.reading() as connection:
        return _read(connection) if inspect(connection).has_table(schema.layout.name) else {}


def _read(connection: Connection) -> dict[str, str]:
    return {fact: value for fact, value in connection.execute(select(schema.layout.c.fact, schema.layout.c.value))}  # noqa: C416  rows are no tuples to the type checker


def _complete(config: Store) -> None:
    """Write down that every database is set up; from now on none may be new."""
    with config.migrating() as connection:
        if _COMPLETE not in _read(connection):
            connection.execute(insert(schema.layout).values(fact=_COMPLETE, value="yes"))


def _write(connection: Connection, facts: Mapping[str, str], *, split: SplitTables) -> dict[str, str]:
    """Set a database up that has no layout yet. One with users was made before there were layouts: it is whole."""
    inhabited = connection.execute(select(schema.raffle_activity_account.c.user_id).limit(1)).first() is not None
    if inhabited and (facts["shards"], facts["tables"]) != ("1", "1"):
        return {**facts, "shards": "1", "tables": "1"}
    if len(split.suffixes) > 1 and facts["shard"] != _CONFIG:
        for table in schema.SPLIT:
            _split(connection, table, split)
    connection.execute(insert(schema.layout), [{"fact": fact, "value": value} for fact, value in facts.items()])
    return dict(facts)


def _split(connection: Connection, table: Table, split: SplitTables) -> None:
    """Put the parts of an empty table in its place, and a view of them all under its name.

    Some engines commit after each statement, so an earlier attempt may have come to any point of this.
    """
    there = inspect(connection)
    for suffix in split.suffixes:
        part = part_of(table, suffix)
        part.create(connection, checkfirst=True)
        for index in part.indexes:
            index.create(connection, checkfirst=True)
    if table.name in there.get_table_names():
        if connection.execute(select(table).limit(1)).first() is not None:
            raise Trouble(f"The table {table.name} holds rows and cannot be split. {_AS_THEY_WERE}")
        table.drop(connection)
    if table.name not in there.get_view_names():
        columns = ", ".join(column.name for column in table.columns)
        parts = " UNION ALL ".join(f"SELECT {columns} FROM {table.name}{suffix}" for suffix in split.suffixes)
        connection.execute(text(f"CREATE VIEW {table.name} AS {parts}"))
