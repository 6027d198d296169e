"""Production under load loses its processes one by one, and all at once: nothing is lost, doubled or oversold."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import quantiles

import pytest
from sqlalchemy import text

from bigmarket.app import World, now_ms
from bigmarket.award.message import SEND_AWARD
from bigmarket.jobs import redelivery
from bigmarket.settings import load_settings
from bigmarket.storage.doctor import TASK_LAG_LIMIT_MS, examine
from bigmarket.storage.installation import Stores
from faults.load import Load, Log
from faults.processes import environment
from faults.production import (
    BACK_SECONDS,
    BROKER,
    DATABASE,
    DEADLINE_SECONDS,
    PROBE_SECONDS,
    SERVE,
    SERVE2,
    SHARD,
    SLACK_SECONDS,
    WORK,
    Production,
    Recovery,
    latency,
    outcomes,
    waiting,
)
from faults.services import MariaDbProcess, RabbitProcess
from faults.verdict import DRAIN_SECONDS, undelivered
from support import count
from waiting import eventually

pytestmark = pytest.mark.faults

RUN_SECONDS = 120  # at most, for the load of one test
FROZEN_SECONDS = 1.0
USUAL_SECONDS = 1.0  # for an answer that waits for nobody
STALL_SECONDS = 7.0  # longer than the servers wait for an answer of the database


@pytest.fixture
def production(tmp_path: Path, mariadb: MariaDbProcess, rabbit: RabbitProcess) -> Production:
    """Two servers, a worker, a database, a broker."""
    return Production(tmp_path / "home", databases=[mariadb], broker=rabbit)


def test_a_killed_database_comes_back_without_a_loss(production: Production) -> None:
    load = production.load(random.Random(1))
    with production.running() as stores:
        found = asyncio.run(_kill_each(production, stores, load, [DATABASE, DATABASE], down_seconds=0.5))
        _judge(production, stores, load.log, found)
        assert outcomes(load.log)["none"], "draws were refused while it was down"
        _assert_scarce_is_gone(production, stores)


def test_a_killed_broker_stops_no_draw_and_gets_every_award_once(production: Production) -> None:
    load = production.load(random.Random(2))
    with production.running() as stores:
        grown, recovery = asyncio.run(_kill_broker(production, stores, load))
        _judge(production, stores, load.log, [recovery])
        print(f"  {grown} awards waited while the broker was down")
    assert grown >= 100
    assert not load.log.harm, "nobody who draws hears of the broker"
    assert not load.log.unanswered


async def _kill_broker(production: Production, stores: Stores, load: Load) -> tuple[int, Recovery]:
    """Returns how many awards waited when the broker had been down for a while, and the recovery."""
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), load.running() as log:
        await log.more_draws(200)
        async with production.down(BROKER) as since:
            await log.more_draws(200)
            grown = await asyncio.to_thread(waiting, stores)
        recovery = await production.recovered(BROKER, stores, log, since=since)
        await log.more_draws(100)
    return grown, recovery


def test_a_killed_server_and_a_killed_worker_are_succeeded(production: Production) -> None:
    load = production.load(random.Random(3))
    with production.running() as stores:
        found = asyncio.run(_kill_each(production, stores, load, [SERVE, WORK]))
        _judge(production, stores, load.log, found)
        _assert_scarce_is_gone(production, stores)
    assert load.log.unanswered, "requests were in flight when their server was killed"
    assert not load.log.harm


def test_everything_killed_at_once_comes_back_in_any_order(production: Production) -> None:
    rng = random.Random(4)
    load = production.load(rng)
    with production.running() as stores:
        recovery = asyncio.run(_kill_all(production, stores, load, rng))
        _judge(production, stores, load.log, [recovery], may_end={SERVE, SERVE2, WORK}, back_seconds=2 * BACK_SECONDS)


async def _kill_all(production: Production, stores: Stores, load: Load, rng: random.Random) -> Recovery:
    """Kill all parts within half a second and let each come back when it likes, some before what they need."""
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), load.running() as log:
        await log.more_draws(200)
        names = rng.sample(list(production.parts), k=len(production.parts))

        async def kill(name: str) -> float:
            await asyncio.sleep(rng.uniform(0, 0.5))
            return await production.kill(name, down_seconds=rng.uniform(0, 1.0))

        since = max(await asyncio.gather(*map(kill, names)))
        recovery = await production.recovered(", ".join(names), stores, log, since=since)
        await log.more_draws(200)
    return recovery


def test_a_frozen_database_is_a_503_in_time_and_a_repeat_settles_it(production: Production) -> None:
    load = production.load(random.Random(5))
    with production.running() as stores:
        recovery = asyncio.run(_freeze_database(production, stores, load))
        print(f"\n  what the 503s said was spent: {dict(outcomes(load.log))}")
        _judge(production, stores, load.log, [recovery])
    assert outcomes(load.log)["unknown"], "draws were under way when the database froze"
    assert max(load.log.seconds) < DEADLINE_SECONDS + SLACK_SECONDS
    assert not load.log.unanswered


async def _freeze_database(production: Production, stores: Stores, load: Load) -> Recovery:
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), load.running() as log:
        await log.more_draws(200)
        database = production.services[DATABASE]
        database.pause()
        await asyncio.sleep(STALL_SECONDS)
        since = time.monotonic()
        database.resume()
        recovery = await production.recovered(f"frozen {DATABASE}", stores, log, since=since)
        await log.more_draws(100)
    return recovery


def test_sigterm_drains_servers_and_worker_within_ten_seconds(production: Production) -> None:
    load = production.load(random.Random(6))
    with production.running() as stores:
        seconds = asyncio.run(_terminate_each(production, load))
        print(f"\n  SIGTERM: ended after {seconds}")
        _judge(production, stores, load.log)
    assert not load.log.harm


async def _terminate_each(production: Production, load: Load) -> dict[str, str]:
    seconds = {}
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), load.running() as log:
        for name in (SERVE, WORK, SERVE2):
            await log.more_draws(200)
            seconds[name] = f"{await production.terminate(name):.1f} s"
            await log.good_since(production.ports, time.monotonic(), seconds=BACK_SECONDS)
        await log.more_draws(200)
    return seconds


def test_sigterm_ends_in_time_even_while_database_and_broker_are_frozen(production: Production) -> None:
    load = production.load(random.Random(8))
    with production.running() as stores:
        seconds = asyncio.run(_terminate_frozen(production, stores, load))
        print(f"\n  SIGTERM while nothing answers: ended after {seconds}")
        _judge(production, stores, load.log, may_end={SERVE, SERVE2, WORK})


async def _terminate_frozen(production: Production, stores: Stores, load: Load) -> list[str]:
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), load.running() as log:
        await log.more_draws(100)
        for service in production.services.values():
            service.pause()
        try:
            await asyncio.sleep(FROZEN_SECONDS)  # by then everybody waits for an answer
            seconds = await asyncio.gather(*map(production.terminate, (SERVE, SERVE2, WORK)))
        finally:
            for service in production.services.values():
                service.resume()
        await production.recovered("SIGTERM", stores, log, since=time.monotonic())
    return [f"{second:.1f} s" for second in seconds]


def test_a_deleted_queue_is_declared_again_and_what_was_in_it_is_sent_again(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = production.load(random.Random(7))
    with production.running() as stores:
        gone = asyncio.run(_delete_queue(production, stores, load))
        print(f"\n  {gone} messages went with the queue")
        assert gone > 0
        eventually(lambda: not any(map(undelivered, stores.shards)), seconds=DRAIN_SECONDS)
        later = now_ms() + 2 * TASK_LAG_LIMIT_MS
        assert [finding.name for finding in examine(stores.config, now_ms=later) if not finding.ok] == ["M1"]
        monkeypatch.setattr(redelivery, "AGE_MS", 0)
        world = World(load_settings(environment(production.home, **production.settings)), draws=False)
        (job,) = [job for job in world.work.schedule.jobs if job.name == "redelivery"]
        job.run(0)
        world.stores.close()
        _judge(production, stores, load.log)
    assert not load.log.harm


async def _delete_queue(production: Production, stores: Stores, load: Load) -> int:
    """Delete the queue while a lock keeps its messages from being handled. Returns how many it held."""
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), load.running() as log:
        await log.more_draws(200)
        with stores.config.writing() as locking:
            locking.execute(text("SELECT user_id FROM user_credit_account FOR UPDATE"))
            while not sum(production.queue_depths().values()):
                await asyncio.sleep(PROBE_SECONDS)
            gone = await asyncio.to_thread(production.delete_queue, SEND_AWARD)
        since = time.monotonic()
        print(f"\n  {await production.recovered('deleted queue', stores, log, since=since)}")
    return gone


@pytest.fixture
def second(tmp_path: Path) -> Iterator[MariaDbProcess]:
    MariaDbProcess.require()
    with MariaDbProcess(tmp_path / "second", buffer_pool_mib=32) as server:
        yield server


def test_one_shards_database_down_is_felt_by_its_own_users_only(
    tmp_path: Path, mariadb: MariaDbProcess, rabbit: RabbitProcess, second: MariaDbProcess
) -> None:
    plenty = {2: 5000, 3: 2000, 4: 1000}
    production = Production(
        tmp_path / "home", databases=[mariadb, second], broker=rabbit, servers=1, users=80, scarce=plenty
    )
    with production.running() as stores:
        loads = [
            production.load(
                random.Random(shard), users=[u for u in production.users if stores.routing.shard_of(u) == shard]
            )
            for shard in (0, 1)
        ]
        recovery = asyncio.run(_lose_shard(production, stores, *loads))
        spared, hit = (load.log for load in loads)
        print(f"\n  users of the other shard: {spared}, answers {latency(spared)}\n  users of the lost one: {hit}")
        assert max(hit.seconds) < DEADLINE_SECONDS + SLACK_SECONDS
        _judge(production, stores, Log.of(spared, hit), [recovery])
    assert outcomes(hit)["none"]
    assert not spared.harm
    assert not spared.unanswered
    assert quantiles(spared.seconds, n=20)[-1] < USUAL_SECONDS, "all but one in twenty"
    assert max(spared.seconds) < SLACK_SECONDS


async def _lose_shard(production: Production, stores: Stores, spared: Load, hit: Load) -> Recovery:
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), spared.running() as other, hit.running() as log:
        await log.more_draws(100)
        async with production.down(SHARD) as since:
            await other.more_draws(200)
        recovery = await production.recovered(SHARD, stores, log, since=since)
        await log.more_draws(100)
    return recovery


def _judge(
    production: Production,
    stores: Stores,
    log: Log,
    found: Sequence[Recovery] = (),
    *,
    may_end: Collection[str] = (),
    back_seconds: float = BACK_SECONDS,
) -> None:
    """Say what was measured, and check every promise."""
    drained = production.assert_recovered(stores, log)
    print(f"\n{log}\n  answers {latency(log)}; all delivered {drained:.1f} s after the last draw")
    for recovery in found:
        print(f"  {recovery}")
        recovery.assert_in_time(seconds=back_seconds)
    assert set(production.ended) <= set(may_end), "a program gave up by itself"


def _assert_scarce_is_gone(production: Production, stores: Stores) -> None:
    for award_id, units in production.scarce.items():
        won = sum(
            count(shard, f"SELECT COUNT(*) FROM user_award_record WHERE award_id = {award_id}")
            for shard in stores.shards
        )
        assert won == units, "every scarce prize was to run out"


async def _kill_each(
    production: Production, stores: Stores, load: Load, names: Sequence[str], *, down_seconds: float = 0.0
) -> list[Recovery]:
    """Kill the parts one after the other under load, each once the one before is forgotten."""
    found = []
    async with asyncio.timeout(RUN_SECONDS), production.supervised(), load.running() as log:
        for name in names:
            await log.more_draws(200)
            since = await production.kill(name, down_seconds=down_seconds)
            found.append(await production.recovered(name, stores, log, since=since))
        await log.more_draws(200)
    return found
