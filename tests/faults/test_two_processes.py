"""Two servers and recharges from a third process on one file: no loss, no double."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from faults.load import Load, ask_again, asks_of
from faults.processes import ServerProcess, run_cli
from faults.verdict import DRAWS_EACH, SKU, assert_delivered, assert_kept, credit, opened, set_up
from support import count

pytestmark = pytest.mark.faults

USERS = 240
RECHARGES = 2  # by the command line
RECHARGED = 40  # from this process


def test_two_servers_and_recharges_share_one_file(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(2)
    users = set_up(home, users=USERS)
    with ServerProcess(home) as one, ServerProcess(home) as two:
        asks = asks_of(users, each=DRAWS_EACH, rng=rng)
        load = Load([one.port, two.port], asks, clients=32, rng=rng, think_seconds=0.03)
        asyncio.run(_draw_and_recharge(load, users, home, killed=two))
        print(f"two servers: {load.log}")
        asyncio.run(ask_again(load.log, one.port))
        asyncio.run(ask_again(load.log, two.port))
        with opened(home) as store:
            assert_delivered(store)
            assert_kept(load.log, store, each=2 * DRAWS_EACH)
            credited = (USERS + RECHARGED + RECHARGES) * DRAWS_EACH
            assert count(store, "SELECT SUM(total_count) FROM raffle_activity_account") == credited
            drawn = len(load.log.won)
            assert count(store, "SELECT SUM(total_count_surplus) FROM raffle_activity_account") == credited - drawn
    assert not load.log.refused


async def _draw_and_recharge(load: Load, users: Sequence[str], home: Path, *, killed: ServerProcess) -> None:
    """Clients of both servers send the same ids; one server is killed on the way."""
    async with load.running():
        await _recharge_by_commands(users[-RECHARGES:], home)
        killed.kill()
        for user in users[:RECHARGED]:
            await asyncio.to_thread(_recharge_here, user, home)
        killed.start()
        await asyncio.to_thread(killed.wait_ready)
        await asyncio.sleep(1.0)


async def _recharge_by_commands(users: Sequence[str], home: Path) -> None:
    """Each recharge by two commands at the same time."""
    twice = [user for user in users for _ in range(2)]
    await asyncio.gather(*(asyncio.to_thread(_recharge_by_command, user, home) for user in twice))


def _recharge_by_command(user: str, home: Path) -> None:
    ran = run_cli(home, "recharge", "--user", user, "--sku", str(SKU), "--out-business-no", f"second-{user}")
    assert ran.returncode == 0, ran.stderr


def _recharge_here(user: str, home: Path) -> None:
    with opened(home) as store:
        credit(store, [user], no="second")
        credit(store, [user], no="second")
