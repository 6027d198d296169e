"""Every backend passes the same tests: ``store`` is each of them in turn, new and empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bigmarket.storage.contract import Store
from databases import BACKENDS, Databases


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """What kind of store; a test of one engine narrows it down (``on_mysql``)."""
    name: str = request.param
    return name


@pytest.fixture
def store(backend: str, databases: Databases) -> Iterator[Store]:
    with databases.store(backend) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock from other shards is waited for on a slow machine, too; a test of that bound sets it anew."""
    monkeypatch.setattr("bigmarket.storage.errands.ERRAND_SECONDS", 5.0)
    monkeypatch.setattr("bigmarket.lanes.FETCH_SECONDS_MAX", 5.0)
