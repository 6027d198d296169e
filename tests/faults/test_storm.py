"""Kills of everything, in random order, under load: short in CI, long with ``make faults``.

``BIGMARKET_FAULT_DRAWS`` and ``BIGMARKET_FAULT_ROUNDS`` make it longer: a round kills each kind of process once.
``BIGMARKET_FAULT_SEED`` runs the same faults again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from bigmarket.storage.installation import Stores
from faults.load import Load, Log
from faults.production import (
    BROKER,
    DATABASE,
    SERVE,
    SERVE2,
    WORK,
    Production,
    Recovery,
    latency,
    outcomes,
)
from faults.services import MariaDbProcess, RabbitProcess
from faults.verdict import DRAWS_EACH, lost, total, unasked

pytestmark = pytest.mark.faults

DRAWS = int(os.environ.get("BIGMARKET_FAULT_DRAWS", "2000"))
ROUNDS = int(os.environ.get("BIGMARKET_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("BIGMARKET_FAULT_SEED", "20261121"))
LONG = DRAWS >= 20_000  # then at full speed; else slowly enough to leave the machine to the processes
DOWN_SECONDS_MAX = 2.0  # what is killed starts again within that
STEADY_SECONDS = 15.0  # after the last fault the throughput is what it was
SPARE = 10_000  # draws credited beyond those, for the time that a slow machine takes to come back


class Hit(NamedTuple):
    """A fault and what came of it."""

    at_draw: int
    down_seconds: float
    recovery: Recovery


class Storm(NamedTuple):
    """All faults; draws a second before the first of them, and after the last."""

    hits: list[Hit]
    before: float
    after: float


def test_kills_of_everything_in_random_order_lose_nothing(
    tmp_path: Path, mariadb: MariaDbProcess, rabbit: RabbitProcess
) -> None:
    rng = random.Random(SEED)
    faults = [name for number in range(ROUNDS) for name in ((SERVE, SERVE2)[number % 2], WORK, DATABASE, BROKER)]
    rng.shuffle(faults)
    print(f"\n{DRAWS:,} draws, {len(faults)} faults, seed {SEED}")
    scarce = {2: DRAWS // 5, 3: DRAWS // 20, 4: max(1, DRAWS // 1000)}
    users = (DRAWS + SPARE) // DRAWS_EACH
    production = Production(tmp_path / "home", databases=[mariadb], broker=rabbit, users=users, scarce=scarce)
    load = production.load(rng, think_seconds=0.0 if LONG else 0.02)
    with production.running() as stores:
        storm = asyncio.run(_strike(production, stores, load, faults, rng))
        _print_table(storm, load.log)
        drained = production.assert_recovered(stores, load.log)
        _print_totals(production, stores, load.log, drained=drained)
        for award_id, units in scarce.items():
            assert (
                total(stores.shards, f"SELECT COUNT(*) FROM user_award_record WHERE award_id = {award_id}") == units
            )
    for hit in storm.hits:
        hit.recovery.assert_in_time()
    assert set(production.ended) <= {SERVE, SERVE2, WORK}


async def _strike(production: Production, stores: Stores, load: Load, faults: list[str], rng: random.Random) -> Storm:
    """Kill one after the other, spread over all draws."""
    hits = []
    started = time.monotonic()
    before = 0.0
    async with production.supervised(), load.running() as log:
        for number, name in enumerate(faults, start=1):
            await _drawn(log, int(DRAWS * (number - rng.random() / 2) / (len(faults) + 1)))
            at_draw = len(log.won)
            before = before or at_draw / (time.monotonic() - started)
            down_seconds = rng.uniform(0, DOWN_SECONDS_MAX) if name in production.services else 0.0
            since = await production.kill(name, down_seconds=down_seconds)
            recovery = await production.recovered(name, stores, log, since=since)
            hits.append(Hit(at_draw, down_seconds, recovery))
        if LONG:
            await asyncio.sleep(max(0.0, since + STEADY_SECONDS - time.monotonic()))
        at_draw, since = len(log.won), time.monotonic()
        await _drawn(log, max(DRAWS, at_draw + 100))
        after = (len(log.won) - at_draw) / (time.monotonic() - since)
    return Storm(hits, before, after)


async def _drawn(log: Log, draws: int) -> None:
    await log.more_draws(max(0, draws - len(log.won)), seconds=60 + draws / 100)


def _print_table(storm: Storm, log: Log) -> None:
    titles = ("at draw", "killed", "kept down", "it is up", "draws", "awards")
    print("    {:>8}  {:<9} {:>9}  {:>8}  {:>7}  {:>7}   after".format(*titles))
    for number, (at_draw, down_seconds, recovery) in enumerate(storm.hits, start=1):
        print(
            f"{number:>3} {at_draw:>8,}  {recovery.part:<9} {down_seconds:>7.1f} s  {recovery.ready_seconds:>6.1f} s"
            f"  {recovery.drawing_seconds:>5.1f} s  {recovery.delivering_seconds:>5.1f} s"
        )
    print(f"{storm.before:,.0f} draws/s before the first, {storm.after:,.0f} after the last; answers {latency(log)}")


def _print_totals(production: Production, stores: Stores, log: Log, *, drained: float) -> None:
    shards = stores.shards
    won = {
        award_id: total(shards, f"SELECT COUNT(*) FROM user_award_record WHERE award_id = {award_id}")
        for award_id in production.scarce
    }
    figures = {
        "draws acknowledged": len(log.won),
        "repeats": log.repeats,
        "connections lost with a request on them": log.unanswered,
        "503, nothing spent": outcomes(log)["none"],
        "503, outcome unknown": outcomes(log)["unknown"],
        "lost": len(lost(log.won, *shards)),
        "changed": len(log.changed),
        "nobody asked for": len(unasked(log.won, *shards)),
        "double": total(shards, "SELECT COUNT(*) FROM user_award_record") - len(log.won),
        "oversold": sum(max(0, won[award_id] - units) for award_id, units in production.scarce.items()),
    }
    for what, figure in figures.items():
        print(f"{figure:>9,} {what}")
    print(f"all delivered {drained:.1f} s after the last draw; doctor: every promise holds")
