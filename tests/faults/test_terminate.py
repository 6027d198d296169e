"""SIGTERM and SIGINT drain: what is in flight is answered, nothing acknowledged is lost, the exit code is 0."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from faults.load import ACTIVITY, Ask, Connection, Load, Reply, ask_again, asks_of, connected
from faults.processes import ServerProcess, run_cli
from faults.verdict import DRAWS_EACH, assert_kept, locked, opened, set_up, stored_draws, undelivered

pytestmark = pytest.mark.faults

EXIT_SECONDS = 10.0
IN_FLIGHT = 150
signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


@signals
def test_a_signal_under_load_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    home, rng = tmp_path / "home", random.Random(1)
    users = set_up(home, users=100)
    server = ServerProcess(home)
    load = Load([server.port], asks_of(users, each=DRAWS_EACH, rng=rng), clients=32, rng=rng)
    with server:
        seconds = asyncio.run(_stop_under_load(server, load, number))
        print(f"{number.name} under load: ended after {seconds:.1f} s; {load.log}")
        asyncio.run(ask_again(load.log, server.port))
    with opened(home) as store:
        assert_kept(load.log, store)
    assert not load.log.harm


async def _stop_under_load(server: ServerProcess, load: Load, number: signal.Signals) -> float:
    """Stop the server while clients draw, then start it again for the rest. Returns the seconds it took to end."""
    async with load.running() as log:
        await asyncio.sleep(0.5)
        stopped = time.monotonic()
        server.signal(number)
        code = await asyncio.to_thread(server.wait, seconds=EXIT_SECONDS)
        seconds = time.monotonic() - stopped
        assert code == 0
        assert not server.accepts()
        assert log.won
        server.start()
        await asyncio.to_thread(server.wait_ready)
        await asyncio.sleep(0.3)
    return seconds


@signals
def test_whatever_is_in_flight_is_answered(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"
    users = set_up(home, users=IN_FLIGHT)
    with ServerProcess(home) as server:
        replies = asyncio.run(_stop_with_requests_in_flight(server, users, home, number))
        assert server.wait(seconds=EXIT_SECONDS) == 0
    assert [reply.status for reply in replies] == [200] * IN_FLIGHT
    with opened(home) as store:
        assert set(stored_draws(store).values()) == {reply.won for reply in replies}
        assert undelivered(store) == 0, "the relay drained too"


async def _stop_with_requests_in_flight(
    server: ServerProcess, users: Sequence[str], home: Path, number: signal.Signals
) -> list[Reply]:
    """The signal arrives while a lock keeps every draw from being answered; then the lock goes."""
    connections = [await Connection.open(server.port) for _ in users]
    with locked(home):
        draws = [asyncio.create_task(c.draw(Ask(u, "r1"))) for u, c in zip(users, connections, strict=True)]
        await asyncio.sleep(0.15)
        assert not any(draw.done() for draw in draws)
        server.signal(number)
        await asyncio.sleep(0.15)
    replies = await asyncio.gather(*draws)
    for connection in connections:
        await connection.close()
    return list(replies)


def test_a_used_port_is_refused_in_words(tmp_path: Path) -> None:
    home = tmp_path / "home"
    users = set_up(home, users=1)
    with ServerProcess(home) as server:
        second = run_cli(home, "serve", port=server.port)
        assert second.returncode == 1
        assert f"Cannot listen on 127.0.0.1, port {server.port}: Address already in use" in second.stderr
        assert "set BIGMARKET_PORT to another port" in second.stderr
        assert "Traceback" not in second.stderr
        assert asyncio.run(_draw_once(server.port, Ask(users[0], "r1"))).won, f"activity {ACTIVITY} is served on"


async def _draw_once(port: int, ask: Ask) -> Reply:
    async with connected(port) as connection:
        return await connection.draw(ask)
