"""Migrations make the very schema that the code describes, on every engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, insert, inspect, text
from sqlalchemy.schema import CreateTable

from bigmarket.errors import Contention, Trouble
from bigmarket.storage import schema
from bigmarket.storage.contract import Store
from bigmarket.storage.migrate import HEAD, MIGRATIONS, migrate, revision_of
from bigmarket.storage.routing import SplitTables, part_of
from databases import MYSQL_BACKENDS, Databases, on_mysql, open_store
from support import IDS, NOON


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD


def described(split: SplitTables) -> MetaData:
    """The schema of the code for a database that splits its tables like that."""
    tables = MetaData()
    for table in schema.metadata.sorted_tables:
        for suffix in split.suffixes if table in schema.SPLIT else ("",):
            part_of(table, suffix).to_metadata(tables)
    return tables


def test_a_migrated_database_has_the_schema_of_the_code(store: Store) -> None:
    with store.writing() as connection:
        assert revision_of(connection) == HEAD
        assert compare_metadata(MigrationContext.configure(connection), described(store.split)) == []
        views = {table.name for table in schema.SPLIT} if len(store.split.suffixes) > 1 else set()
        assert set(inspect(connection).get_view_names()) == views


@pytest.fixture
def bare(backend: str, databases: Databases, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    if backend in MYSQL_BACKENDS:
        with databases.bare() as url:
            yield url
    else:
        yield f"sqlite:///{tmp_path / 'bare.db'}"


def test_constraints_are_migrated_too(store: Store, bare: str) -> None:
    """Alembic compares no CHECKs, partial indexes and collations, so the statements themselves are compared."""
    created = open_store(bare)
    with created.migrating() as connection:
        for table in schema.metadata.sorted_tables:
            for suffix in store.split.suffixes if table in schema.SPLIT else ("",):
                part_of(table, suffix).create(connection)
    with store.reading() as ours, created.reading() as theirs:
        made, wanted = statements(ours), statements(theirs)
    created.close()
    assert made == wanted
    assert len(made) >= len(schema.metadata.tables)
    assert "CHECK" in str(CreateTable(schema.award_stock))


def statements(connection: Connection) -> dict[str, list[str]]:
    """The words of the statement that made each table and index."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'view'")
        made = {row.name: row.sql for row in connection.execute(query)}
    else:
        names = inspect(connection).get_table_names()
        made = {name: connection.execute(text(f"SHOW CREATE TABLE {name}")).one()[1] for name in names}
    made.pop("alembic_version", None)
    return {name: sorted(sql.replace(",", " ").replace('"', "").split()) for name, sql in made.items()}


def test_migrating_again_changes_nothing_and_needs_no_lock(store: Store) -> None:
    with store.migrating():
        migrate(store)


def test_several_processes_that_start_at_once_migrate_once(backend: str, bare: str) -> None:
    assert backend
    stores = [open_store(bare) for _ in range(4)]
    start = threading.Barrier(len(stores))
    faults: list[Exception] = []

    def run(store: Store) -> None:
        start.wait()
        try:
            migrate(store)
        except Exception as fault:  # noqa: BLE001  shown below
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with stores[0].reading() as connection:
        assert revision_of(connection) == HEAD
    for store in stores:
        store.close()


def test_rows_of_every_part_survive_a_migration_there_and_back(store: Store) -> None:
    """Of a database with users in it, split or not: the newest migration rebuilds rebate orders part by part."""
    users = [f"user{n}" for n in range(24)]
    earlier = {
        "behavior_type": "sign",
        "rebate_type": "integral",
        "rebate_config": "10",
        "out_business_no": "20240420",
    }
    with store.writing() as connection:
        for user in users:
            table = store.split.table_of(schema.user_behavior_rebate_order, user)
            row = {**earlier, "order_id": IDS.make(NOON), "user_id": user, "biz_id": f"{user}_integral_20240420"}
            connection.execute(insert(table).values(**row, create_time_ms=NOON))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with store.migrating() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    with store.reading() as connection:
        kept = connection.execute(text("SELECT user_id FROM user_behavior_rebate_order")).scalars().all()
        assert sorted(kept) == sorted(users)
    migrate(store)
    with store.reading() as connection:
        rows = connection.execute(text("SELECT user_id, state, activity_id FROM user_behavior_rebate_order")).all()
        assert sorted(rows) == sorted((user, "completed", 0) for user in users)
        assert compare_metadata(MigrationContext.configure(connection), described(store.split)) == []


@on_mysql
def test_who_waits_too_long_for_its_turn_to_migrate_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.storage.mysql.MIGRATE_WAIT_SECONDS", 0)
    with store.migrating(), pytest.raises(Contention, match="changing the schema"), store.migrating():
        pass
    with store.migrating():
        pass


@on_mysql
def test_tables_of_others_are_left_alone_and_named(bare: str) -> None:
    """The reference system's names are ours too; and a first start that was killed half-way leaves such tables."""
    store = open_store(bare)
    with store.writing() as connection:
        connection.execute(text("CREATE TABLE award (id INT PRIMARY KEY)"))
        connection.execute(text("INSERT INTO award VALUES (1)"))
    for _ in range(2):
        with pytest.raises(Trouble, match=r"\(award\); name an empty database"):
            migrate(store)
    with store.reading() as connection:
        assert connection.execute(text("SELECT id FROM award")).scalars().all() == [1]
    store.close()
