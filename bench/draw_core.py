"""How many durable draws a second the core makes: SQLite (WAL, synchronous=FULL), or MySQL with ``--server URL``.

Lanes against baselines, in turns in the same run: one transaction per draw, and on MySQL also the reference system's
flow statement by statement on 64 connections (naive_draw.py). Closed loop: each of ``--clients`` clients asks again
as soon as it is answered, for a random user. No HTTP; the outbox rows are written, their delivery is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bigmarket.app import now_ms, open_stores
from bigmarket.desks import DrawDesk
from bigmarket.draw import Drawn
from bigmarket.ids import Ids
from bigmarket.lanes import LaneSet, LaneSettings, LaneShard, Settled
from bigmarket.settings import Settings
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.doctor import examine
from campaign import ACTIVITY, prepare, user_names
from databases import cpu_seconds_of, fresh_database
from naive_draw import run_naive

WARM_UP_SECONDS = 0.5
DRAIN_SECONDS = 30.0
LANES = "lanes"
SINGLE = "one transaction per draw"
DATABASE_SERVERS = ("mariadbd", "mysqld")
NAIVE = "reference flow, 64 connections"


@dataclass(frozen=True)
class Run:
    """One measured run."""

    variant: str
    draws_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float  # of this process
    server_us: float  # of the database's
    batch: float


class Clients:
    """``count`` clients in a closed loop; they live in the lane's hand-over, so they cost next to nothing."""

    def __init__(self, users: list[str], *, count: int) -> None:
        self._users = users
        self._count = count
        self._random = random.Random(7)
        self._open = count
        self._measuring = False
        self._stopping = False
        self._finished = threading.Event()
        self.latencies: list[float] = []
        self.lanes: LaneSet[Drawn]

    def run(self, *, seconds: float) -> float:
        """Draw for ``seconds`` after a warm-up; the seconds that were really measured."""
        for _ in range(self._count):
            self._ask(time.perf_counter())
        time.sleep(WARM_UP_SECONDS)
        self._measuring, started = True, time.perf_counter()
        time.sleep(seconds)
        self._measuring, measured = False, time.perf_counter() - started
        self._stopping = True
        assert self._finished.wait(DRAIN_SECONDS), "the lanes did not drain"
        return measured

    def answer(self, settled: Settled) -> None:
        """Note the latencies and ask again."""
        now = time.perf_counter()
        for asked_at, answer in settled:
            assert isinstance(answer, Drawn), answer
            if self._measuring:
                self.latencies.append(now - asked_at)
        if not self._stopping:
            for _ in settled:
                self._ask(now)
            return
        self._open -= len(settled)
        if not self._open:
            self._finished.set()

    def _ask(self, now: float) -> None:
        user = self._users[self._random.randrange(len(self._users))]
        self.lanes.submit(user, ACTIVITY, None, reply=now)


def measure(
    variant: str,
    *,
    server: str | None,
    users: list[str],
    clients: int,
    settings: LaneSettings,
    seconds: float,
    folder: Path,
) -> Run:
    """One run on a fresh database; the promises are examined afterwards."""
    with fresh_database(server, folder=folder) as url:
        stores = open_stores(Settings(database=url), relays=True)
        prepare(stores.config, users)
        with stores.config.reading() as connection:
            live = load_live(connection, {})
        load = Clients(users, count=clients)
        load.lanes = LaneSet(
            [LaneShard(DrawDesk(stores.config, live=lambda: live), lambda _: None)],
            shard_of=stores.routing.shard_of,
            now_ms=now_ms,
            ids=Ids(),
            hand_over=load.answer,
            settings=settings,
        )
        load.lanes.start()
        cpu, server_cpu = time.process_time(), cpu_seconds_of(*DATABASE_SERVERS)
        measured = load.run(seconds=seconds)
        cpu, server_cpu = time.process_time() - cpu, cpu_seconds_of(*DATABASE_SERVERS) - server_cpu
        load.lanes.stop(timeout_seconds=DRAIN_SECONDS)
        broken = [f for f in examine(stores.config, now_ms=now_ms()) if not f.ok]
        assert not broken, broken
        draws = sum(stats.made for stats in load.lanes.stats())
        batches = sum(stats.batches for stats in load.lanes.stats())
        stores.close()
    p50, p95, p99 = quantiles_ms(load.latencies)
    rate = len(load.latencies) / measured
    return Run(variant, rate, p50, p95, p99, cpu / draws * 1e6, server_cpu / draws * 1e6, draws / batches)


def quantiles_ms(latencies: list[float]) -> tuple[float, float, float]:
    """p50, p95 and p99 of latencies in seconds."""
    ordered = sorted(latencies)
    p50, p95, p99 = (ordered[int(len(ordered) * quantile)] * 1000 for quantile in (0.5, 0.95, 0.99))
    return p50, p95, p99


def measure_naive(*, server: str, users: list[str], seconds: float, folder: Path) -> Run:
    """The reference's flow, statement by statement."""
    with fresh_database(server, folder=folder) as url:
        cpu, server_cpu = time.process_time(), cpu_seconds_of(*DATABASE_SERVERS)
        latencies, measured, draws = run_naive(url, users=users, seconds=seconds, warm_up=WARM_UP_SECONDS)
        cpu, server_cpu = time.process_time() - cpu, cpu_seconds_of(*DATABASE_SERVERS) - server_cpu
    p50, p95, p99 = quantiles_ms(latencies)
    rate = len(latencies) / measured
    return Run(NAIVE, rate, p50, p95, p99, cpu / draws * 1e6, server_cpu / draws * 1e6, 1)


def report(runs: list[Run], *, title: str) -> None:
    """A table of medians, and the ratios."""
    variants = list(dict.fromkeys(run.variant for run in runs))
    table = Table(title=f"{title}; median of {len(runs) // len(variants)} runs (spread)")
    names = ("variant", "draws/s", "p50 ms", "p95 ms", "p99 ms", "CPU us/draw", "server CPU us", "draws/batch")
    for name in names:
        table.add_column(name, justify="right" if name != "variant" else "left")
    medians = {}
    for variant in variants:
        own = [run for run in runs if run.variant == variant]
        rates = [run.draws_per_second for run in own]
        medians[variant] = statistics.median(rates)
        spread = f"{medians[variant]:,.0f} ({min(rates):,.0f}..{max(rates):,.0f})"
        fields = ("p50_ms", "p95_ms", "p99_ms", "cpu_us", "server_us", "batch")
        rest = [statistics.median(getattr(run, field) for run in own) for field in fields]
        table.add_row(variant, spread, *(f"{value:,.1f}" for value in rest))
    console = Console(width=128)
    console.print(table)
    for variant in variants:
        if variant != LANES:
            console.print(f"{LANES} / {variant} = {medians[LANES] / medians[variant]:.1f} x")
    console.print(f"{platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--server", help="a MySQL or MariaDB server, mysql+pymysql://user:password@host/; else SQLite"
    )
    parser.add_argument("--lanes", type=int, help="writer threads (SQLite 1, MySQL 2)")
    parser.add_argument("--clients", type=int, default=512)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3, help="of each variant")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON instead of a table")
    options = parser.parse_args()
    users = user_names(options.users)
    lanes = options.lanes or (2 if options.server else 1)
    variants = [(SINGLE, 1), (LANES, 256)] + ([(NAIVE, 0)] if options.server else [])
    runs = []
    with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as name:
        folder = Path(name)
        for number in range(options.runs):
            for variant, batch_max in variants:
                print(f"run {number + 1} of {options.runs}: {variant}", file=sys.stderr)
                if variant == NAIVE:
                    runs.append(
                        measure_naive(server=options.server, users=users, seconds=options.seconds, folder=folder)
                    )
                    continue
                settings = LaneSettings(lanes, batch_max, queue_max=options.clients + 1, queue_seconds=DRAIN_SECONDS)
                runs.append(
                    measure(
                        variant,
                        server=options.server,
                        users=users,
                        clients=options.clients,
                        settings=settings,
                        seconds=options.seconds,
                        folder=folder,
                    )
                )
    if options.json:
        print(json.dumps([asdict(run) for run in runs]))
    else:
        where = "MySQL (flush at commit)" if options.server else "SQLite (WAL, FULL)"
        report(runs, title=f"Core on {where}, {options.clients} clients, {lanes} lanes")


if __name__ == "__main__":
    main()
