"""``serve --workers 2``: one port, one /metrics, a parent that keeps both up and takes them down."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from faults.load import Load, ask_again, asks_of
from faults.processes import ServerProcess, environment, free_port, run_cli
from faults.verdict import DRAWS_EACH, assert_delivered, assert_kept, opened, set_up
from waiting import eventually

pytestmark = pytest.mark.faults

EXIT_SECONDS = 12.0
USERS = 60


def serving(home: Path, **settings: object) -> ServerProcess:
    return ServerProcess(home, workers=2, **settings)


def workers_of(server: ServerProcess) -> list[int]:
    """Process ids of the workers that live now."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def resident(server: ServerProcess) -> dict[str, float]:
    return server.metric("process_resident_memory_bytes")


def lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_draws_are_spread_counted_together_and_kept(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(3)
    users = set_up(home, users=USERS)
    with serving(home) as server:
        eventually(lambda: len(resident(server)) == 2, seconds=20)
        load = Load([server.port], asks_of(users, each=DRAWS_EACH, rng=rng), clients=32, rng=rng)
        asyncio.run(_draw_all(load))
        drawn = len(load.log.won) + load.log.repeats  # an answer to a repeat is counted too
        by_worker: dict[str, float] = {}

        def all_counted() -> bool:
            """A worker knows its own count at once, and those of the others as of a moment ago."""
            by_worker.update(server.metric("bigmarket_draws_total"))
            return sum(by_worker.values()) >= drawn

        eventually(all_counted, seconds=5)
        print(f"two workers on one file: {by_worker}, resident {resident(server)}; {load.log}")
        assert len(by_worker) == 2
        assert min(by_worker.values()) > 0
        asyncio.run(ask_again(load.log, server.port))
        with opened(home) as store:
            assert_delivered(store)
            assert_kept(load.log, store)
        server.signal(signal.SIGTERM)
        assert server.wait(seconds=EXIT_SECONDS) == 0
        assert not server.accepts()


async def _draw_all(load: Load) -> None:
    async with load.running() as log:
        while len(log.won) < USERS * DRAWS_EACH:
            await asyncio.sleep(0.02)


def test_a_killed_worker_is_replaced_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(4)
    users = set_up(home, users=USERS)
    with serving(home) as server:
        eventually(lambda: len(workers_of(server)) == 2, seconds=20)
        load = Load([server.port], asks_of(users, each=DRAWS_EACH, rng=rng), clients=16, rng=rng, think_seconds=0.02)
        asyncio.run(_kill_workers(server, load))
        asyncio.run(ask_again(load.log, server.port))
        eventually(lambda: server.metric("bigmarket_worker_restarts_total") == {'worker="supervisor"': 2}, seconds=10)
        with opened(home) as store:
            assert_delivered(store)
            assert_kept(load.log, store)


async def _kill_workers(server: ServerProcess, load: Load) -> None:
    """Each of the two first workers dies once, the second when the first has been replaced."""
    async with load.running() as log:
        for victim in workers_of(server):
            await log.more_draws(100)
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(eventually, lambda: len(workers_of(server)) == 2, seconds=20)
        await log.more_draws(200)


def test_ctrl_c_ends_the_parent_and_its_workers_with_0(tmp_path: Path) -> None:
    home = tmp_path / "home"
    set_up(home, users=1)
    with serving(home) as server:
        eventually(lambda: len(workers_of(server)) == 2, seconds=20)
        workers = workers_of(server)
        server.signal(signal.SIGINT)
        assert server.wait(seconds=EXIT_SECONDS) == 0
        assert not any(map(lives, workers))


def test_a_signal_while_workers_still_start_ends_with_0_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    set_up(home, users=1)
    server = serving(home)
    server.start()
    try:
        eventually(lambda: bool(workers_of(server)), seconds=20, pause_seconds=0.001)
        server.signal(signal.SIGTERM)
        assert server.wait(seconds=EXIT_SECONDS) == 0
    finally:
        if server.running:
            server.kill()


def test_without_their_parent_workers_drain_and_end(tmp_path: Path) -> None:
    home = tmp_path / "home"
    set_up(home, users=1)
    with serving(home) as server:
        eventually(lambda: len(workers_of(server)) == 2, seconds=20)
        workers = workers_of(server)
        server.kill()
        eventually(lambda: not any(map(lives, workers)), seconds=EXIT_SECONDS)


def test_workers_that_die_again_and_again_end_the_service_in_words(tmp_path: Path) -> None:
    home = tmp_path / "home"
    set_up(home, users=1)
    broken = (
        "from bigmarket.api import supervisor as s\n"
        "s.BACKOFF_MIN_SECONDS = s.BACKOFF_MAX_SECONDS = 0.01\n"
        "s.sys.executable = '/bin/false'\n"
        "from bigmarket.cli import main\n"
        "import sys; sys.argv = ['bigmarket', 'serve', '--workers', '2']; main()\n"
    )
    ended = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", broken],
        env=environment(home, port=free_port()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "ended 5 times soon after its start, the last time with exit code 1" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_wrong_is_said_once_before_any_worker_starts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    set_up(home, users=1)
    with serving(home) as server:
        second = run_cli(home, "serve", "--workers", "2", port=server.port)
        assert second.returncode == 1
        assert second.stderr.count(f"Cannot listen on 127.0.0.1, port {server.port}") == 1
    unreachable = run_cli(
        home,
        "serve",
        "--workers",
        "2",
        port=free_port(),
        database=f"mysql+pymysql://root@127.0.0.1:{free_port()}/none",
    )
    assert unreachable.returncode == 1
    assert unreachable.stderr.count("does not answer") == 1
    assert "worker" not in unreachable.stderr
