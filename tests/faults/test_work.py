"""``serve --no-work`` beside ``work``: awards arrive all the same, and of two works one does each job."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from faults.load import Load, ask_again, asks_of
from faults.processes import ServerProcess, WorkProcess
from faults.verdict import DRAWS_EACH, assert_delivered, assert_kept, opened, set_up, undelivered
from waiting import eventually

pytestmark = pytest.mark.faults

EXIT_SECONDS = 10.0
TAKE_OVER_SECONDS = 12.0  # a lease runs out after six
USERS = 40


def drawing(home: Path) -> ServerProcess:
    return ServerProcess(home, command=("-m", "bigmarket", "serve", "--no-work"))


def leases(work: WorkProcess) -> set[str]:
    return {label.removeprefix('name="').removesuffix('"') for label in work.metric("bigmarket_lease")}


def draw_all(users: Sequence[str], port: int, rng: random.Random) -> Load:
    load = Load([port], asks_of(users, each=DRAWS_EACH, rng=rng), clients=16, rng=rng)

    async def run() -> None:
        async with load.running() as log:
            while len(log.won) < len(users) * DRAWS_EACH:
                await asyncio.sleep(0.02)

    asyncio.run(run())
    asyncio.run(ask_again(load.log, port))
    return load


def test_a_work_beside_the_server_delivers(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(6)
    users = set_up(home, users=USERS)
    with drawing(home) as server, WorkProcess(home) as work:
        load = draw_all(users, server.port, rng)
        with opened(home) as store:
            assert_delivered(store)
            assert_kept(load.log, store)
        assert server.metric("bigmarket_relay_delivered_total") == {"": 0.0}
        assert work.metric("bigmarket_relay_delivered_total")[""] > 0
        assert work.get("/readyz") == '{"ready":true,"reasons":[]}'
        for process in (work, server):
            process.signal(signal.SIGTERM)
            assert process.wait(seconds=EXIT_SECONDS) == 0


def test_without_a_work_awards_wait(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(7)
    users = set_up(home, users=2)
    with drawing(home) as server:
        draw_all(users, server.port, rng)
        with opened(home) as store:
            assert undelivered(store) > 0
    with WorkProcess(home), opened(home) as store:
        assert_delivered(store)


def test_of_two_works_one_scans_and_the_other_takes_over(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(8)
    users = set_up(home, users=USERS)
    everything = {"relay:0", "job:backlog", "job:contacts", "job:unpaid-orders"}
    with drawing(home) as server, WorkProcess(home) as first:
        eventually(lambda: leases(first) == everything, seconds=10)
        with WorkProcess(home) as second:
            load = draw_all(users, server.port, rng)
            with opened(home) as store:
                eventually(lambda: undelivered(store) == 0, seconds=20)
            assert leases(first) == everything
            assert leases(second) == set()
            assert second.metric("bigmarket_relay_delivered_total") == {"": 0.0}
            first.kill()
            eventually(lambda: leases(second) == everything, seconds=TAKE_OVER_SECONDS)
            first.start()
            first.wait_ready()
            second.signal(signal.SIGTERM)
            assert second.wait(seconds=EXIT_SECONDS) == 0
            eventually(lambda: leases(first) == everything, seconds=4)  # let go of, not run out
        with opened(home) as store:
            assert_delivered(store)
            assert_kept(load.log, store)
