"""Databases for tests: SQLite files, and databases of a MySQL or MariaDB server.

Setting one up takes a quarter of a second, emptying it 5 ms: so a SQLite file is a copy of one that was set up
before, and a MySQL database is emptied and lent to the next test. All are dropped at the end of the session.

``TEST_MYSQL_URL`` names the server (no setting of ours, so without our prefix); the user must be able to make
databases there.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, create_engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from bigmarket.outbox.task import GRACE_MS
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores, prepare
from bigmarket.storage.mysql import MySqlStore, tls_of
from bigmarket.storage.routing import WHOLE, Routing, SplitTables
from bigmarket.storage.sqlite import SqliteStore

MYSQL = make_url(os.environ.get("TEST_MYSQL_URL", "mysql+pymysql://root@127.0.0.1:3306"))
SPLIT = SplitTables(Routing(1, 4))
DRIVERS = ("mysql", "mysql-mysqldb") if importlib.util.find_spec("MySQLdb") else ("mysql",)
SQLITE_BACKENDS = ("sqlite", "sqlite-split")
MYSQL_BACKENDS = (*DRIVERS, "mysql-split")
BACKENDS = (*SQLITE_BACKENDS, *MYSQL_BACKENDS)

#: A test of one engine narrows the fixture ``backend`` down.
on_sqlite = pytest.mark.parametrize("backend", SQLITE_BACKENDS, indirect=True)
on_mysql = pytest.mark.parametrize("backend", MYSQL_BACKENDS, indirect=True)

KEPT = ("alembic_version", "layout")  # when a database is emptied
NOW = 1_790_000_000_000


class Databases:
    """Those of one test session; ``folder`` is for its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unanswered: str | None = None
        self._server = create_engine(
            MYSQL, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=tls_of(MYSQL)
        )
        self._made: set[str] = set()
        self._free: dict[SplitTables, list[str]] = {}
        self._free_sets: dict[int, list[list[str]]] = {}  # by the number of shards

    @contextmanager
    def store(self, backend: str, *, grace_ms: int = GRACE_MS) -> Iterator[Store]:
        """A new, empty store of that kind."""
        with self.url(backend) as url:
            store = open_store(url, split=split_of(backend), grace_ms=grace_ms)
            try:
                yield store
            finally:
                store.close()

    @contextmanager
    def url(self, backend: str) -> Iterator[str]:
        """The URL of a new, empty database of that kind, set up."""
        split = split_of(backend)
        if backend in SQLITE_BACKENDS:
            yield f"sqlite:///{self._copy(split)}"
            return
        name = self._lent(split)
        try:
            yield mysql_url(name, driver="mysqldb" if backend == "mysql-mysqldb" else "pymysql")
        finally:
            self._empty(name)
            self._free.setdefault(split, []).append(name)

    @contextmanager
    def bare(self) -> Iterator[str]:
        """The URL of a MySQL database with nothing in it, which is dropped when the block ends."""
        name = self._create()
        try:
            yield mysql_url(name)
        finally:
            self._drop(name)

    @contextmanager
    def shards(self, number: int) -> Iterator[list[str]]:
        """The URLs of so many MySQL shards and, last, of their configuration's database: set up together, empty."""
        names = self._lent_set(number)
        try:
            yield [mysql_url(name) for name in names]
        finally:
            for name in names:
                self._empty(name)
            self._free_sets.setdefault(number, []).append(names)

    def files(self, number: int, folder: Path, *, tables: int = 1, apart: bool = True) -> list[str]:
        """As ``shards``, of SQLite files in ``folder``; the last is the first shard, too, unless it is ``apart``."""
        templates = self._folder / f"{number}-shards-{tables}-{apart}"
        urls = [f"sqlite:///{templates}/{at}.db" for at in range(number + apart)]
        if not templates.exists():
            templates.mkdir()
            _prepare_set(urls, shards=number, tables=tables)
        copies = [f"sqlite:///{shutil.copy(url.removeprefix('sqlite:///'), folder)}" for url in urls]
        return copies if apart else [*copies, copies[0]]

    def close(self) -> None:
        """Drop them all."""
        for name in list(self._made):
            self._drop(name)

    @contextmanager
    def administering(self) -> Iterator[Connection]:
        """A connection to the server, in autocommit mode. Skips the test when nobody answers there."""
        if self._unanswered is None:
            try:
                with self._server.connect():
                    self._unanswered = ""
            except DBAPIError as error:
                server = MYSQL.render_as_string(hide_password=True)
                self._unanswered = f"no MySQL server for tests at {server}; set TEST_MYSQL_URL ({error.orig})"
        if self._unanswered:
            pytest.skip(self._unanswered)
        with self._server.connect() as connection:
            yield connection

    def _copy(self, split: SplitTables) -> Path:
        template = self._folder / f"template-{split.routing.tables}.db"
        if not template.exists():
            _prepare(f"sqlite:///{template}", split)
        return shutil.copy(template, self._folder / f"{secrets.token_hex(8)}.db")

    def _lent(self, split: SplitTables) -> str:
        if free := self._free.get(split):
            return free.pop()
        name = self._create()
        _prepare(mysql_url(name), split)
        return name

    def _lent_set(self, number: int) -> list[str]:
        if free := self._free_sets.get(number):
            return free.pop()
        names = [self._create() for _ in range(number + 1)]
        _prepare_set([mysql_url(name) for name in names], shards=number)
        return names

    def _create(self) -> str:
        name = f"bigmarket_test_{os.getpid()}_{secrets.token_hex(4)}"
        with self.administering() as connection:
            connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
        self._made.add(name)
        return name

    def _empty(self, name: str) -> None:
        with self.administering() as connection:
            for table in inspect(connection).get_table_names(name):
                if table not in KEPT:
                    connection.execute(text(f"DELETE FROM {name}.{table}"))

    def _drop(self, name: str) -> None:
        with self.administering() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        self._made.remove(name)


def split_of(backend: str) -> SplitTables:
    """How this kind of store splits its order tables."""
    return SPLIT if backend.endswith("-split") else WHOLE


def mysql_url(database: str, *, driver: str = "pymysql") -> str:
    """A database's URL on the server for tests."""
    url: URL = MYSQL.set(database=database, drivername=f"mysql+{driver}")
    return url.render_as_string(hide_password=False)


def open_store(url: str, *, split: SplitTables = WHOLE, grace_ms: int = GRACE_MS) -> Store:
    """The store that the URL names, as it is."""
    if url.startswith("sqlite:"):
        return SqliteStore(Path(url.removeprefix("sqlite:///")), split=split, grace_ms=grace_ms)
    return MySqlStore(url, split=split, grace_ms=grace_ms)


def _prepare_set(urls: list[str], *, shards: int, tables: int = 1) -> None:
    """The configuration is in the last database, which is the first shard when there is no other."""
    split = SplitTables(Routing(shards, tables))
    opened = [open_store(url, split=split) for url in urls]
    config = opened[-1] if len(opened) > shards else opened[0]
    stores = Stores(config, tuple(opened[:shards]), split.routing)
    try:
        prepare(stores, now_ms=NOW)
    finally:
        stores.close()


def _prepare(url: str, split: SplitTables) -> None:
    store = open_store(url, split=split)
    try:
        prepare(Stores(store, (store,), split.routing), now_ms=NOW)
    finally:
        store.close()
