"""Another process keeps the database locked: an error that says what is known, in time, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from faults.load import Ask, Reply, connected
from faults.processes import ServerProcess
from faults.verdict import assert_delivered, locked, opened, set_up, stored_draws

pytestmark = pytest.mark.faults

USERS = 40
DEADLINE_SECONDS = 2.0
LOCKED_SECONDS = 4.0


def test_a_held_lock_is_a_503_in_time_that_spent_nothing_and_passes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    users = set_up(home, users=USERS)
    with ServerProcess(home, draw_deadline_seconds=DEADLINE_SECONDS) as server:
        late = asyncio.run(_draw_while_locked(server.port, users, home))
        for reply, seconds in late:
            assert reply.status == 503
            assert reply.headers["bigmarket-outcome"] == "none"
            assert "retry-after" in reply.headers
            assert "nothing was spent" in reply.info
            assert seconds < DEADLINE_SECONDS
        repeated = asyncio.run(_draws(server.port, [Ask(user, "r1") for user in users]))
        again = asyncio.run(_draws(server.port, [Ask(user, "r1") for user in users]))
        fresh = asyncio.run(_draws(server.port, [Ask(user, "r2") for user in users]))
        assert [reply.won for reply, _ in repeated] == [reply.won for reply, _ in again]
        assert all(reply.won for reply, _ in [*repeated, *fresh])
        with opened(home) as store:
            assert_delivered(store)
            assert len(stored_draws(store)) == 2 * USERS, "one effect each"


async def _draw_while_locked(port: int, users: Sequence[str], home: Path) -> list[tuple[Reply, float]]:
    """Half of the draws find the lock just taken, half have it in front of them for long."""
    half = USERS // 2
    with locked(home):
        since = time.monotonic()
        first = asyncio.create_task(_draws(port, [Ask(user, "r1") for user in users[:half]]))
        await asyncio.sleep(1.0)
        replies = [*await _draws(port, [Ask(user, "r1") for user in users[half:]]), *await first]
        await asyncio.sleep(since + LOCKED_SECONDS - time.monotonic())
        async with connected(port) as connection:
            assert (await connection.request("GET", "/healthz")).status == 200
    return replies


async def _draws(port: int, asks: Sequence[Ask]) -> list[tuple[Reply, float]]:
    """Every draw on a connection of its own, all at once; the replies and how long they took."""

    async def timed(ask: Ask) -> tuple[Reply, float]:
        started = time.monotonic()
        async with connected(port) as connection:
            return await connection.draw(ask), time.monotonic() - started

    return list(await asyncio.gather(*map(timed, asks)))
