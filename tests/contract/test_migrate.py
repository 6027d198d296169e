"""Migrations make the very schema that the code describes."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.schema import CreateTable

from bigmarket.storage import schema
from bigmarket.storage.contract import Store
from bigmarket.storage.migrate import HEAD, MIGRATIONS, migrate, revision_of
from bigmarket.storage.sqlite import SqliteStore


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD


def test_a_migrated_database_has_the_schema_of_the_code(store: Store) -> None:
    with store.writing() as connection:
        assert revision_of(connection) == HEAD
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_constraints_are_migrated_too(tmp_path: Path) -> None:
    """Alembic does not compare CHECKs and partial indexes, so the statements themselves are compared."""
    migrated = SqliteStore(tmp_path / "migrated.db")
    migrate(migrated)
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    schema.metadata.create_all(engine)
    query = text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'")
    with migrated.reading() as ours, engine.connect() as theirs:
        made = {name: _words(sql) for name, sql in ours.execute(query).all()}
        described = {name: _words(sql) for name, sql in theirs.execute(query).all()}
    assert made == described
    assert len(made) > len(schema.metadata.tables)
    assert "CHECK" in str(CreateTable(schema.award_stock))
    engine.dispose()
    migrated.close()


def _words(sql: str) -> list[str]:
    return sorted(sql.replace(",", " ").replace('"', "").split())


def test_migrating_again_changes_nothing_and_needs_no_lock(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x.db")
    migrate(store)
    with store.writing():
        migrate(store)
    store.close()
