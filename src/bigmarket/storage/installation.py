"""All databases of an installation: the configuration's and the shards'; usually one and the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Table, insert, inspect, select, text

from bigmarket.errors import Trouble
from bigmarket.ids import Ids
from bigmarket.storage import queries, schema
from bigmarket.storage.contract import Store
from bigmarket.storage.migrate import migrate
from bigmarket.storage.routing import Routing, SplitTables, part_of

_CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Stores:
    """``config`` holds campaigns; ``shards`` hold the users' rows. ``config`` may be one of the shards."""

    config: Store
    shards: tuple[Store, ...]
    routing: Routing

    def of(self, user_id: str) -> Store:
        """The user's shard."""
        return self.shards[self.routing.shard_of(user_id)]

    def all(self) -> Iterator[Store]:
        """Every database once, the configuration's first."""
        yield self.config
        yield from (shard for shard in self.shards if shard is not self.config)

    def stock_left(self, strategy_id: int) -> dict[int, int | None]:
        """Units of each award left in all shards; None is unlimited."""
        left: dict[int, int | None] = {}
        for shard in self.shards:
            with shard.reading() as connection:
                for award_id, units in queries.stock_left(connection, strategy_id).items():
                    before = left.get(award_id, 0)
                    left[award_id] = None if units is None or before is None else before + units
        return left

    def close(self) -> None:
        """Give every connection back."""
        for store in self.all():
            store.close()


def prepare(stores: Stores, *, now_ms: int) -> None:
    """Bring every database to the newest schema, then check that they belong together.

    Raises ``Trouble`` when a database was set up for another layout: users would be looked for in the wrong place.
    """
    for store in stores.all():
        migrate(store)
    identity = None
    for store in stores.all():
        facts = _settled(store, _facts(stores, store, identity=identity or Ids().make(now_ms)))
        wanted = _facts(stores, store, identity=identity or facts["installation"])
        if differing := [
            f"{fact} is {facts[fact]}, not {value}" for fact, value in wanted.items() if facts[fact] != value
        ]:
            raise Trouble(
                f"A database was set up for another layout ({'; '.join(differing)}). Users are found by the number, "
                "the order and the tables of the shards: set BIGMARKET_DATABASE, BIGMARKET_SHARDS and "
                "BIGMARKET_TABLES_PER_SHARD as they were."
            )
        identity = facts["installation"]


def _facts(stores: Stores, store: Store, *, identity: str) -> dict[str, str]:
    shard = str(stores.shards.index(store)) if store in stores.shards else _CONFIG
    routing = stores.routing
    return {"installation": identity, "shard": shard, "shards": str(routing.shards), "tables": str(routing.tables)}


def _settled(store: Store, wanted: Mapping[str, str]) -> dict[str, str]:
    """The facts that a database holds; a new one is set up by those that are wanted."""
    with store.reading() as connection:
        found = _read(connection)
    if not found:
        with store.migrating() as connection:
            found = _read(connection) or _write(connection, wanted, split=store.split)
    return found


def _read(connection: Connection) -> dict[str, str]:
    return {fact: value for fact, value in connection.execute(select(schema.layout.c.fact, schema.layout.c.value))}  # noqa: C416  rows are no tuples to the type checker


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
    """Put the parts of an empty table in its place, and a view of them all under its name."""
    if table.name not in inspect(connection).get_table_names():  # an earlier attempt came so far
        return
    for suffix in split.suffixes:
        part_of(table, suffix).create(connection, checkfirst=True)
    table.drop(connection)
    columns = ", ".join(column.name for column in table.columns)
    parts = " UNION ALL ".join(f"SELECT {columns} FROM {table.name}{suffix}" for suffix in split.suffixes)
    connection.execute(text(f"CREATE VIEW {table.name} AS {parts}"))
