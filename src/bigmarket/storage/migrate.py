"""Brings a database to the newest schema (alembic), in one transaction."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, inspect, text

from bigmarket.errors import Trouble
from bigmarket.storage.schema import metadata

MIGRATIONS = Path(__file__).parent / "migrations"

#: The newest revision; alembic is loaded only when a database is at another.
HEAD = "0004"


class Migrated(Protocol):
    """A store that can be brought up to date."""

    def reading(self) -> AbstractContextManager[Connection]:
        """One consistent view."""
        ...

    def migrating(self) -> AbstractContextManager[Connection]:
        """A connection that may change the schema; other processes wait for their turn."""
        ...


def migrate(store: Migrated) -> None:
    """Apply the migrations that the database lacks; only reads when there are none.

    Several processes may start at once: one migrates, the others wait and then find nothing to do. Raises ``Trouble``
    when there are tables already that it did not make.
    """
    with store.reading() as connection:
        if revision_of(connection) == HEAD:
            return
    from alembic import command  # noqa: PLC0415  a third of a second, saved on every other start
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with store.migrating() as connection:
        if revision_of(connection) is None:
            _assert_empty(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)


def _assert_empty(connection: Connection) -> None:
    """The reference system's tables have our names; taking them for ours would ruin them."""
    if found := sorted(set(inspect(connection).get_table_names()) & metadata.tables.keys()):
        raise Trouble(
            f"The database holds tables that were not made by a finished set-up of ours ({', '.join(found)}); "
            "name an empty database. If the first start was broken off, drop this one and make it again."
        )


def revision_of(connection: Connection) -> str | None:
    """The revision that the database is at; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return revision
