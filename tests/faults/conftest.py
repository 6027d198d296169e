"""One MariaDB and one RabbitMQ for all tests that hurt production; each test has a database and queues of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.services import MariaDbProcess, RabbitProcess


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDbProcess]:
    """Runs when a test begins; whoever kills it starts it again."""
    MariaDbProcess.require()
    with MariaDbProcess(tmp_path_factory.mktemp("mariadb"), options=("--innodb-print-all-deadlocks=ON",)) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitProcess]:
    """Runs when a test begins; whoever kills it starts it again."""
    RabbitProcess.require()
    with RabbitProcess(tmp_path_factory.mktemp("rabbit")) as server:
        yield server
