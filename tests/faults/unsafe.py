"""Servers with one protection switched off, for test_teeth.py: ``python unsafe.py NAME``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bigmarket import app
from bigmarket.api.server import serve
from bigmarket.draw import DrawRequest, Outcome, Snapshot
from bigmarket.settings import load_settings
from bigmarket.storage.mysql import MySqlStore
from bigmarket.storage.mysql_bulk import MySqlBulk
from bigmarket.storage.mysql_draw import MySqlDrawTx
from bigmarket.storage.routing import WHOLE, SplitTables
from bigmarket.storage.sqlite import SqliteStore
from bigmarket.storage.sqlite_bulk import SqliteBulk
from bigmarket.storage.sqlite_draw import STATEMENTS, SqliteDrawTx

COMMITTED_TOGETHER = 50


class CommitsLate(SqliteStore):
    """Acknowledges every batch, but commits only after ``COMMITTED_TOGETHER`` of them."""

    def __init__(self, path: Path, *, split: SplitTables = WHOLE, grace_ms: int = 0) -> None:
        super().__init__(path, split=split, grace_ms=grace_ms)
        self._batches = 0

    @contextmanager
    def drawing(self) -> Iterator[SqliteDrawTx]:
        """One batch, inside a transaction that stays open."""
        if not self._writer.in_transaction:
            self._writer.execute("BEGIN IMMEDIATE")
        yield self._draw_tx(self._writer)
        self._batches += 1
        if self._batches % COMMITTED_TOGETHER == 0:
            self._writer.execute("COMMIT")


class Forgetful(SqliteStore):
    """Neither looks request ids up nor writes them down."""

    @contextmanager
    def drawing(self) -> Iterator[SqliteDrawTx]:
        """A real transaction."""
        with self._transaction() as connection:
            yield ForgetfulTx(SqliteBulk(connection), STATEMENTS, split=self.split, grace_ms=0)


class ForgetfulTx(SqliteDrawTx):
    """The transaction of ``Forgetful``."""

    def load(self, requests: Sequence[DrawRequest]) -> Snapshot:
        """Without earlier outcomes."""
        snapshot = super().load(requests)
        snapshot.settled.clear()
        return snapshot

    def apply(self, outcome: Outcome) -> None:
        """Without request ids, which the unique key would refuse the second time."""
        outcome.orders = [order._replace(request_id=None) for order in outcome.orders]
        super().apply(outcome)


class TasksLate(MySqlStore):
    """Means to write the tasks in a transaction of their own, when it finds the time."""

    def _draw_tx(self, bulk: MySqlBulk) -> MySqlDrawTx:
        return TasksLateTx(bulk, split=self.split, grace_ms=0, rolled=self._rolled)


class TasksLateTx(MySqlDrawTx):
    """The transaction of ``TasksLate``."""

    def apply(self, outcome: Outcome) -> None:
        """Without the tasks."""
        outcome.tasks = []
        super().apply(outcome)


UNSAFE = {
    "commits_late": ("SqliteStore", CommitsLate),
    "forgetful": ("SqliteStore", Forgetful),
    "tasks_late": ("MySqlStore", TasksLate),
    "safe": ("MySqlStore", MySqlStore),
}

if __name__ == "__main__":
    setattr(app, *UNSAFE[sys.argv[1]])
    sys.exit(serve(load_settings()))
