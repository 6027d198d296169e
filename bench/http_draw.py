"""How many durable draws a second the whole system makes over HTTP, on the embedded default.

A real server process on a fresh SQLite file (WAL, synchronous=FULL), the relay delivering awards beside it, and the
load generator in another process, all on this machine's cores. The baseline, in turns in the same run, is the
same server with one transaction per draw (BIGMARKET_BATCH_MAX=1). After each run the server's own count of draws must
equal what the clients were told, the outbox must drain and doctor must be clean.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from bigmarket.app import now_ms, open_stores
from bigmarket.settings import Settings
from bigmarket.storage.doctor import examine
from campaign import ACTIVITY, prepare, user_names
from load import drive, generator

START_SECONDS = 20.0
DRAIN_SECONDS = 60.0
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Run:
    """One measured run; memory is resident megabytes of the server at the end."""

    variant: str
    connections: int
    draws_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float
    drain_seconds: float
    memory_mb: float


def measure(variant: str, *, users: int, connections: int, seconds: float, batch_max: int) -> Run:
    """One run on a fresh database; doctor must be clean afterwards."""
    with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as folder:
        settings = Settings(home=Path(folder), port=free_port(), batch_max=batch_max, log_level="error")
        stores = open_stores(settings)
        prepare(stores.config, user_names(users))
        stores.close()
        with serving(settings) as server:
            drive(
                port=settings.port, connections=connections, seconds=WARM_UP_SECONDS, users=users, activity=ACTIVITY
            )
            made, cpu = drawn(settings.port), _cpu_seconds(server.pid)
            load = drive(port=settings.port, connections=connections, seconds=seconds, users=users, activity=ACTIVITY)
            drained = drain(settings.port)
            made, cpu = drawn(settings.port) - made, _cpu_seconds(server.pid) - cpu
            memory = resident_mb(server.pid)
        # Draws whose answers were on their way when the warm-up or the run ended are in one count only.
        assert not load.errors, f"{load.errors} requests failed"
        assert 0 <= made - load.requests <= 2 * connections, (made, load.requests)
        stores = open_stores(settings)
        broken = [finding for finding in examine(stores.config, now_ms=now_ms()) if not finding.ok]
        assert not broken, broken
        with stores.config.reading() as connection:
            left = connection.execute(text("SELECT COUNT(*) FROM task")).scalar_one()
        stores.close()
    assert not left, f"{left} tasks were not delivered"
    rate = load.requests / load.seconds
    cpu_us = cpu / made * 1e6
    return Run(variant, connections, rate, load.p50_ms, load.p95_ms, load.p99_ms, cpu_us, drained, memory)


@contextmanager
def serving(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A real server process; it must end with 0 when it is told to."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BIGMARKET_")} | {
        "BIGMARKET_HOME": str(settings.home),
        "BIGMARKET_PORT": str(settings.port),
        "BIGMARKET_BATCH_MAX": str(settings.batch_max),
        "BIGMARKET_LOG_LEVEL": settings.log_level,
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "bigmarket", "serve"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        _wait_until_ready(settings.port, server)
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(DRAIN_SECONDS)
    assert server.returncode == 0, f"the server ended with {server.returncode}"


def _wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            _get(port, "/readyz")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the server did not start (exit code {server.poll()})")


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body.decode()


def metric(port: int, name: str) -> float:
    """A metric of the server, summed over its labels."""
    lines = _get(port, "/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))


def drawn(port: int) -> int:
    """Draws that the server made so far."""
    return int(metric(port, "bigmarket_draws_total"))


def drain(port: int) -> float:
    """Seconds until the relay has nothing left in memory."""
    started = time.monotonic()
    while metric(port, "bigmarket_relay_waiting"):
        assert time.monotonic() - started < DRAIN_SECONDS, "the outbox does not drain"
        time.sleep(0.05)
    return time.monotonic() - started


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory that a process holds, in megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def report(runs: list[Run]) -> None:
    """A table of medians, and the ratio at the most connections that both variants ran with."""
    table = Table(title=f"HTTP draw, SQLite (WAL, FULL), relay on, load by {generator()} on the same cores; medians")
    table.add_column("variant")
    columns = ("connections", "draws/s", "p50 ms", "p95 ms", "p99 ms", "server CPU us/draw", "drain s", "RSS MB")
    for column in columns:
        table.add_column(column, justify="right")
    medians: dict[tuple[str, int], float] = {}
    for key in dict.fromkeys((run.variant, run.connections) for run in runs):
        own = [run for run in runs if (run.variant, run.connections) == key]
        rates = [run.draws_per_second for run in own]
        medians[key] = statistics.median(rates)
        fields = ("p50_ms", "p95_ms", "p99_ms", "cpu_us", "drain_seconds", "memory_mb")
        rest = [statistics.median(getattr(run, name) for run in own) for name in fields]
        spread = f"{medians[key]:,.0f} ({min(rates):,.0f}..{max(rates):,.0f})"
        table.add_row(key[0], str(key[1]), spread, *(f"{value:,.1f}" for value in rest))
    console = Console(width=130)
    console.print(table)
    for (variant, connections), rate in medians.items():
        baseline = medians.get((BASELINE, connections))
        if variant != BASELINE and baseline:
            console.print(f"{variant} / baseline at {connections} connections = {rate / baseline:.1f} x")


BASELINE = "one transaction per draw"


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--runs", type=int, default=2, help="of each variant")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON instead of a table")
    options = parser.parse_args()
    variants = [(BASELINE, options.connections[0], 1), *(("lanes", count, 256) for count in options.connections)]
    runs = []
    for number in range(options.runs):
        for variant, connections, batch_max in variants:
            print(f"run {number + 1} of {options.runs}: {variant}, {connections} connections", file=sys.stderr)
            runs.append(
                measure(
                    variant,
                    users=options.users,
                    connections=connections,
                    seconds=options.seconds,
                    batch_max=batch_max,
                )
            )
    if options.json:
        print(json.dumps([asdict(run) for run in runs]))
    else:
        report(runs)


if __name__ == "__main__":
    main()
