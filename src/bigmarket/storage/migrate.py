"""Brings a database to the newest schema (alembic), in one transaction."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


class Writing(Protocol):
    """A store that can run one write transaction."""

    def writing(self) -> AbstractContextManager[Connection]:
        """Committed when the block ends, rolled back when it raises."""
        ...


def migrate(store: Writing) -> None:
    """Apply the migrations that the database lacks; does nothing when it is up to date.

    The write transaction keeps other processes out, so several may start at once.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    with store.writing() as connection:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
