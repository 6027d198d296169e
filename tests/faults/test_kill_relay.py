"""kill -9 in the middle of delivery: every credit is given exactly once."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from faults.load import Load, asks_of
from faults.processes import ServerProcess
from faults.verdict import DRAWS_EACH, Wreck, assert_delivered, assert_kept, opened, set_up, undelivered
from waiting import eventually

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("BIGMARKET_FAULT_KILLS", "4"))
USERS = 40 + 16 * KILLS
DELIVERED_MAX = 600  # between two kills


def test_kills_during_delivery_credit_everybody_exactly_once(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(5)
    users = set_up(home, users=USERS)
    load = Load([], asks_of(users, each=DRAWS_EACH, rng=rng), clients=32, rng=rng)
    with ServerProcess(home, work=False) as drawing:
        asyncio.run(_draw_all(load, drawing.port))
    with opened(home) as store:
        tasks = undelivered(store)
    assert tasks > KILLS * DELIVERED_MAX

    wrecks = []
    server = ServerProcess(home)
    left = [tasks]
    for number in range(KILLS):
        server.start()
        _wait_until_delivered(home, more=rng.randint(1, DELIVERED_MAX), left=left[-1])
        server.kill()
        left.append(_undelivered(home))
        wrecks.append(Wreck(home, load.log.won, number=number))
    print(f"kills during delivery: undelivered after each {left}")
    assert left[-1] > 0, "the last kill was to come before the end"
    with server, opened(home) as store:
        assert_delivered(store)
        assert_kept(load.log, store)
    for wreck in wrecks:
        wreck.assert_sound()


async def _draw_all(load: Load, port: int) -> None:
    """Draw until every user has drawn everything."""
    load.ports = [port]
    async with load.running() as log:
        while len(log.won) < USERS * DRAWS_EACH:
            await asyncio.sleep(0.02)


def _undelivered(home: Path) -> int:
    """As in verdict.py, but read-only: closing this connection must not tidy up what a kill left."""
    with closing(sqlite3.connect(f"file:{home}/bigmarket.db?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT COUNT(*) FROM task WHERE state IN ('create', 'fail')").fetchone()
        return int(row[0])


def _wait_until_delivered(home: Path, *, more: int, left: int) -> None:
    eventually(lambda: _undelivered(home) <= left - more, seconds=30, pause_seconds=0.001)
