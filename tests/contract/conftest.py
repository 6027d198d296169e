"""Every backend passes the same tests: ``store`` is each of them in turn, new and empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigmarket.storage.contract import Store
from bigmarket.storage.migrate import migrate
from bigmarket.storage.sqlite import SqliteStore


def new_sqlite(folder: Path) -> Store:
    store = SqliteStore(folder / "bigmarket.db")
    migrate(store)
    return store


BACKENDS: dict[str, Callable[[Path], Store]] = {"sqlite": new_sqlite}


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = BACKENDS[request.param](tmp_path)
    yield opened
    opened.close()
