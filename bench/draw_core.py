"""How many durable draws a second the core makes on SQLite (WAL, synchronous=FULL).

Lanes against one transaction per draw, in turns in the same run. Closed loop: each of ``--clients`` clients asks
again as soon as it is answered, for a random user. No HTTP; the outbox rows are written, their delivery is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bigmarket.app import now_ms
from bigmarket.draw import Drawn
from bigmarket.ids import Ids
from bigmarket.lanes import DrawShard, LaneSet, LaneSettings, Settled
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.doctor import examine
from bigmarket.storage.migrate import migrate
from bigmarket.storage.sqlite import SqliteStore
from campaign import ACTIVITY, prepare, user_names

WARM_UP_SECONDS = 0.5
DRAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Run:
    """One measured run."""

    variant: str
    draws_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float
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
        self.lanes: LaneSet

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


def measure(variant: str, *, users: list[str], clients: int, batch_max: int, seconds: float, folder: Path) -> Run:
    """One run on a fresh database; the promises are examined afterwards."""
    store = SqliteStore(folder / f"{variant.replace(' ', '-')}-{time.monotonic_ns()}.db")
    migrate(store)
    prepare(store, users)
    with store.reading() as connection:
        live = load_live(connection, {})
    load = Clients(users, count=clients)
    load.lanes = LaneSet(
        [DrawShard(store, lambda _: None)],
        shard_of=lambda _: 0,
        live=lambda: live,
        now_ms=now_ms,
        ids=Ids(),
        hand_over=load.answer,
        settings=LaneSettings(batch_max=batch_max, queue_max=clients + 1, queue_seconds=DRAIN_SECONDS),
    )
    load.lanes.start()
    cpu = time.process_time()
    measured = load.run(seconds=seconds)
    cpu = time.process_time() - cpu
    load.lanes.stop(timeout_seconds=DRAIN_SECONDS)
    broken = [f for f in examine(store, now_ms=now_ms()) if not f.ok]
    assert not broken, broken
    (stats,) = load.lanes.stats()
    store.close()
    ordered = sorted(load.latencies)
    p50, p95, p99 = (ordered[int(len(ordered) * quantile)] * 1000 for quantile in (0.5, 0.95, 0.99))
    cpu_us, batch = cpu / stats.draws * 1e6, stats.draws / stats.batches
    return Run(variant, len(ordered) / measured, p50, p95, p99, cpu_us, batch)


def report(runs: list[Run], *, clients: int) -> None:
    """A table of medians, and the ratio."""
    table = Table(title=f"Core on SQLite (WAL, FULL), {clients} clients; median of {len(runs) // 2} runs (spread)")
    for name in ("variant", "draws/s", "p50 ms", "p95 ms", "p99 ms", "CPU us/draw", "draws/batch"):
        table.add_column(name, justify="right" if name != "variant" else "left")
    medians = {}
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [run for run in runs if run.variant == variant]
        rates = [run.draws_per_second for run in own]
        medians[variant] = statistics.median(rates)
        spread = f"{medians[variant]:,.0f} ({min(rates):,.0f}..{max(rates):,.0f})"
        rest = [
            statistics.median(getattr(r, f) for r in own) for f in ("p50_ms", "p95_ms", "p99_ms", "cpu_us", "batch")
        ]
        table.add_row(variant, spread, *(f"{value:,.1f}" for value in rest))
    console = Console(width=110)
    console.print(table)
    lanes, baseline = medians["lanes"], medians["one transaction per draw"]
    console.print(
        f"lanes / baseline = {lanes / baseline:.1f} x    ({platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {platform.machine()})"
    )


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=512)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3, help="of each variant")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON instead of a table")
    options = parser.parse_args()
    users = user_names(options.users)
    runs = []
    with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as folder:
        for number in range(options.runs):
            for variant, batch_max in (("one transaction per draw", 1), ("lanes", 256)):
                print(f"run {number + 1} of {options.runs}: {variant}", file=sys.stderr)
                runs.append(
                    measure(
                        variant,
                        users=users,
                        clients=options.clients,
                        batch_max=batch_max,
                        seconds=options.seconds,
                        folder=Path(folder),
                    )
                )
    if options.json:
        print(json.dumps([asdict(run) for run in runs]))
    else:
        report(runs, clients=options.clients)


if __name__ == "__main__":
    main()
