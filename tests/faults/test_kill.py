"""kill -9 under load: what was acknowledged stays, and a repeat of the rest has one effect."""

from __future__ import annotations

import asyncio
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest

from faults.load import Ask, Load, Log, ask_again, asks_of, first_answer
from faults.processes import ServerProcess
from faults.verdict import DRAWS_EACH, SCARCE, Wreck, assert_delivered, assert_kept, opened, set_up
from support import count

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("BIGMARKET_FAULT_KILLS", "5"))
USERS = 120 + 60 * KILLS
CLIENTS = 32
THINK_SECONDS = 0.004
DRAWS_MIN = 3_000  # as many as the scarce prizes last, and more
BACK_SECONDS = 60.0  # a server of Python starts in one, but not where all tests run on a slow machine


def test_kills_under_load_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(20261120)
    users = set_up(home, users=USERS)
    server = ServerProcess(home)
    asks = asks_of(users[1:], each=DRAWS_EACH + 3, rng=rng)
    load = Load([server.port], asks, clients=CLIENTS, rng=rng, think_seconds=THINK_SECONDS)
    with server:
        wrecks, back = asyncio.run(_storm(server, load, home, probe=users[0], rng=rng))
        print(f"kills under load: {load.log}; back after {[f'{s:.1f}' for s in back]} s")
        with opened(home) as store:
            assert_delivered(store)
        asyncio.run(ask_again(load.log, server.port))
    with opened(home) as store:
        assert_kept(load.log, store)
        sold = count(store, "SELECT COUNT(*) FROM award_stock WHERE sold = alloc")
    assert sold == len(SCARCE), "every scarce prize was to run out"
    assert load.log.unanswered > KILLS, "the kills hit requests in flight"
    assert load.log.repeats > len(load.log.won), "every draw was asked for again"
    drawn = [0, *(len(wreck.acknowledged) for wreck in wrecks), len(load.log.won)]
    assert all(before < after for before, after in pairwise(drawn)), "draws between all kills"
    for wreck in wrecks:
        wreck.assert_sound()


async def _storm(
    server: ServerProcess, load: Load, home: Path, *, probe: str, rng: random.Random
) -> tuple[list[Wreck], list[float]]:
    """Kill at random moments, every third time while the server is still starting again."""
    wrecks: list[Wreck] = []
    back: list[float] = []
    async with load.running() as log:
        for number in range(KILLS):
            await log.more_draws(rng.randint(50, 1000))
            await asyncio.sleep(rng.uniform(0, 0.05))
            wrecks.append(_kill(server, home, log, number=number))
            if number % 3 == 2:
                await asyncio.sleep(rng.uniform(0.2, 2.0))
                server.kill()
                server.start()
            ask = Ask(probe, f"probe{number % DRAWS_EACH}")
            back.append(await first_answer(server.port, ask, log, seconds=BACK_SECONDS))
        await log.more_draws(max(500, DRAWS_MIN - len(log.won)))
    return wrecks, back


def _kill(server: ServerProcess, home: Path, log: Log, *, number: int) -> Wreck:
    """Kill, keep a copy of what is left, start again."""
    acknowledged = dict(log.won)
    server.kill()
    wreck = Wreck(home, acknowledged, number=number)
    server.start()
    return wreck
