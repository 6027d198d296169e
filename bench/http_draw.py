"""How many durable draws a second the whole system makes over HTTP: on SQLite, or on MySQL and RabbitMQ.

A real server process on a fresh database, awards being delivered beside the draws, and the load generator in another
process, all on this machine's cores. With ``--server`` the database is MySQL or MariaDB, with ``--broker`` every
award travels through RabbitMQ (quorum queues, confirms); ``--apart`` moves relay, consumers and jobs from ``serve``
into a ``work`` process. The baseline, in turns in the same run, is the same with one transaction per draw
(BIGMARKET_BATCH_MAX=1). After each run the server's own count of draws must equal what the clients were told, every
award must be delivered and doctor must be clean.
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from bigmarket.app import now_ms, open_stores
from bigmarket.award.kinds import TASK_KINDS
from bigmarket.settings import Settings
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import examine
from bigmarket.storage.schema import task, user_award_record
from campaign import ACTIVITY, bench_campaign, prepare, user_names
from databases import cpu_seconds_of, fresh_database, fresh_queues
from load import drive, generator

START_SECONDS = 20.0
DRAIN_SECONDS = 60.0
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Run:
    """One measured run. CPU is microseconds a draw; draining is from the last answer to the last award delivered."""

    variant: str
    connections: int
    draws_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float
    work_us: float
    database_us: float
    broker_us: float
    drain_seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Site:
    """What the system runs on."""

    server: str | None
    broker: str | None
    apart: bool

    @property
    def title(self) -> str:
        """For the table."""
        parts = ["MySQL, flush at commit" if self.server else "SQLite, WAL, FULL"]
        parts += ["RabbitMQ quorum queues"] if self.broker else ["delivery in process"]
        return ", ".join([*parts, "work apart"] if self.apart else parts)


def measure(variant: str, site: Site, *, users: int, connections: int, seconds: float, batch_max: int) -> Run:
    """One run on a fresh database; doctor must be clean afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bigmarket-bench-")))
        settings = Settings(
            home=folder,
            database=stack.enter_context(fresh_database(site.server, folder=folder)),
            broker=site.broker or "",
            broker_prefix=stack.enter_context(fresh_queues(site.broker)),
            port=free_port(),
            batch_max=batch_max,
            work=not site.apart,
            log_level="error",
        )
        stores = open_stores(settings)
        stack.callback(stores.close)
        prepare(stores.config, user_names(users))
        work = stack.enter_context(working(settings)) if site.apart else None
        server = stack.enter_context(serving(settings))
        drive(port=settings.port, connections=connections, seconds=WARM_UP_SECONDS, users=users, activity=ACTIVITY)
        made, cpu = drawn(settings.port), Cpu.now(server, work)
        load = drive(port=settings.port, connections=connections, seconds=seconds, users=users, activity=ACTIVITY)
        drained = drain(stores.config)
        made, cpu = drawn(settings.port) - made, Cpu.now(server, work).since(cpu)
        memory = resident_mb(server.pid)
        # Draws whose answers were on their way when the warm-up or the run ended are in one count only.
        assert not load.errors, f"{load.errors} requests failed"
        assert 0 <= made - load.requests <= 2 * connections, (made, load.requests)
        broken = [finding for finding in examine(stores.config, now_ms=now_ms()) if not finding.ok]
        assert not broken, broken
    rate = load.requests / load.seconds
    serve_us, work_us, database_us, broker_us = (spent / made * 1e6 for spent in cpu)
    return Run(
        variant,
        connections,
        rate,
        load.p50_ms,
        load.p95_ms,
        load.p99_ms,
        serve_us,
        work_us,
        database_us,
        broker_us,
        drained,
        memory,
    )


class Cpu(NamedTuple):
    """CPU seconds so far: of `serve`, of `work`, of the database server and of the broker, where they run here."""

    serve: float
    work: float
    database: float
    broker: float

    @classmethod
    def now(cls, server: Process, work: Process | None) -> Cpu:
        """As of now."""
        named = cpu_seconds_of("mariadbd", "mysqld"), cpu_seconds_of("beam.smp")
        return cls(_cpu_seconds(server.pid), _cpu_seconds(work.pid) if work else 0.0, *named)

    def since(self, before: Cpu) -> Cpu:
        """What was used since then."""
        return Cpu(*(now - then for now, then in zip(self, before, strict=True)))


Process = subprocess.Popen[bytes]


@contextmanager
def serving(settings: Settings) -> Iterator[Process]:
    """A real server process; it must end with 0 when it is told to."""
    with _running(settings, "serve") as server:
        _wait_until_ready(settings.port, server)
        yield server


@contextmanager
def working(settings: Settings) -> Iterator[Process]:
    """A real `work` process beside the server."""
    own = settings.model_copy(update={"port": free_port()})
    with _running(own, "work") as worker:
        _wait_until_ready(own.port, worker)
        yield worker


@contextmanager
def _running(settings: Settings, command: str) -> Iterator[Process]:
    names = ("home", "database", "broker", "broker_prefix", "port", "batch_max", "work", "log_level")
    ours = {f"BIGMARKET_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BIGMARKET_")} | ours
    process = subprocess.Popen(
        [sys.executable, "-m", "bigmarket", command], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DRAIN_SECONDS)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"


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


def drain(store: Store) -> float:
    """Seconds until every award is delivered."""
    delivered = [award.award_id for award in bench_campaign().awards if award.kind in TASK_KINDS]
    waiting = select(func.count()).where(
        user_award_record.c.award_state == "create", user_award_record.c.award_id.in_(delivered)
    )
    started = time.monotonic()
    while True:
        with store.examining() as connection:
            left = connection.execute(waiting).scalar_one()
            left += connection.execute(select(func.count()).select_from(task)).scalar_one()
        if not left:
            return time.monotonic() - started
        assert time.monotonic() - started < DRAIN_SECONDS, f"{left} awards are not delivered"
        time.sleep(0.1)


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


def report(runs: list[Run], site: Site) -> None:
    """A table of medians, and the ratio at the most connections that both variants ran with."""
    table = Table(title=f"HTTP draw: {site.title}; load by {generator()} on the same cores; medians")
    table.add_column("variant")
    columns = ("conns", "draws/s", "p50 ms", "p95 ms", "p99 ms", "serve us", "work us", "DB us", "MQ us", "drain s")
    for column in (*columns, "MB"):
        table.add_column(column, justify="right")
    medians: dict[tuple[str, int], float] = {}
    for key in dict.fromkeys((run.variant, run.connections) for run in runs):
        own = [run for run in runs if (run.variant, run.connections) == key]
        rates = [run.draws_per_second for run in own]
        medians[key] = statistics.median(rates)
        fields = ("p50_ms", "p95_ms", "p99_ms", "cpu_us", "work_us", "database_us", "broker_us", "drain_seconds")
        rest = [statistics.median(getattr(run, name) for run in own) for name in (*fields, "memory_mb")]
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
    parser.add_argument(
        "--server", help="a MySQL or MariaDB server, mysql+pymysql://user:password@host/; else SQLite"
    )
    parser.add_argument("--broker", help="a RabbitMQ broker, amqp://user:password@host/; else delivery in process")
    parser.add_argument("--apart", action="store_true", help="relay, consume and run jobs in a process of their own")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--runs", type=int, default=2, help="of each variant")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON instead of a table")
    options = parser.parse_args()
    site = Site(options.server, options.broker, options.apart)
    variants = [(BASELINE, options.connections[0], 1), *(("lanes", count, 256) for count in options.connections)]
    runs = []
    for number in range(options.runs):
        for variant, connections, batch_max in variants:
            print(f"run {number + 1} of {options.runs}: {variant}, {connections} connections", file=sys.stderr)
            runs.append(
                measure(
                    variant,
                    site,
                    users=options.users,
                    connections=connections,
                    seconds=options.seconds,
                    batch_max=batch_max,
                )
            )
    if options.json:
        print(json.dumps([asdict(run) for run in runs]))
    else:
        report(runs, site)


if __name__ == "__main__":
    main()
