"""Whether the server stays flat: a million draws over HTTP, memory, descriptors and backlog sampled on the way.

Prints a table of samples, and the growth of memory from the first tenth of the run to the last.
"""

from __future__ import annotations

import argparse
import json
import os
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
from bigmarket.settings import Settings
from bigmarket.storage.doctor import examine
from campaign import ACTIVITY, prepare, user_names
from http_draw import drain, drawn, free_port, metric, resident_mb, serving
from load import drive

SAMPLES = 20
ROUND_SECONDS = 10.0


@dataclass(frozen=True)
class Sample:
    """The server at one moment."""

    draws: int
    seconds: float
    memory_mb: float
    descriptors: int
    backlog: int


def soak(*, draws: int, users: int, connections: int) -> list[Sample]:
    """Draw until ``draws`` are made; doctor must be clean afterwards."""
    with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as folder:
        settings = Settings(home=Path(folder), port=free_port(), log_level="error")
        stores = open_stores(settings)
        prepare(stores.config, user_names(users))
        with serving(settings) as server:
            samples = _loaded(settings.port, server.pid, draws=draws, users=users, connections=connections)
            print(f"\rthe outbox drained in {drain(stores.config):.1f} s           ", file=sys.stderr)
        broken = [finding for finding in examine(stores.config, now_ms=now_ms()) if not finding.ok]
        stores.close()
        assert not broken, broken
    return samples


def _loaded(port: int, pid: int, *, draws: int, users: int, connections: int) -> list[Sample]:
    stopping = threading.Event()

    def load() -> None:
        while not stopping.is_set():
            drive(port=port, connections=connections, seconds=ROUND_SECONDS, users=users, activity=ACTIVITY)

    client = threading.Thread(target=load)
    started = time.monotonic()
    client.start()
    samples: list[Sample] = []
    try:
        while not samples or samples[-1].draws < draws:
            time.sleep(1)
            made = drawn(port)
            print(f"\r{made:,} draws of {draws:,}", end="", file=sys.stderr)
            if made >= len(samples) * draws / SAMPLES:
                open_files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  only their number matters
                backlog = int(metric(port, "bigmarket_relay_waiting"))
                samples.append(Sample(made, time.monotonic() - started, resident_mb(pid), open_files, backlog))
    finally:
        stopping.set()
        client.join()
    return samples


def report(samples: list[Sample]) -> None:
    """The samples, with a bar for memory."""
    table = Table(title="Soak over HTTP, SQLite (WAL, FULL), relay on")
    for name in ("draws", "seconds", "draws/s", "RSS MB", "descriptors", "relay backlog"):
        table.add_column(name, justify="right")
    table.add_column("memory")
    most = max(sample.memory_mb for sample in samples)
    before = Sample(0, 0.0, 0.0, 0, 0)
    for sample in samples:
        rate = (sample.draws - before.draws) / (sample.seconds - before.seconds)
        bar = "#" * round(sample.memory_mb / most * 30)
        numbers = (f"{sample.draws:,}", f"{sample.seconds:,.0f}", f"{rate:,.0f}", f"{sample.memory_mb:,.1f}")
        table.add_row(*numbers, str(sample.descriptors), str(sample.backlog), bar)
        before = sample
    console = Console(width=120)
    console.print(table)
    tenth = max(1, len(samples) // 10)
    first = statistics.mean(sample.memory_mb for sample in samples[tenth : 2 * tenth])
    last = statistics.mean(sample.memory_mb for sample in samples[-tenth:])
    console.print(f"memory, second tenth -> last tenth: {first:,.1f} -> {last:,.1f} MB ({(last / first - 1):+.1%})")


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="print the samples as JSON instead of a table")
    options = parser.parse_args()
    samples = soak(draws=options.draws, users=options.users, connections=options.connections)
    if options.json:
        print(json.dumps([asdict(sample) for sample in samples]))
    else:
        report(samples)


if __name__ == "__main__":
    main()
