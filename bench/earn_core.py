"""What a sign-in and an exchange cost beside a draw: CPU of this process and of the database, delivery included.

The whole path of a server without HTTP: lanes, relay, consumers, in process, on SQLite or on MySQL with
``--server URL``. Each kind in turn, ``--runs`` times over: ``--users`` users ask once, ``--clients`` at a time; a run
ends when everything is delivered. A sign-in of the demo campaign earns draws and credits; four in five of its draws
win credits. An exchange buys a unit of a sku for credits that everybody has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, text

from backends import fresh_database
from bigmarket.app import World, now_ms
from bigmarket.errors import BigmarketError, Trouble
from bigmarket.lanes import Settled
from bigmarket.settings import Settings
from bigmarket.storage.doctor import examine
from campaign import ACTIVITY, SKU, user_names
from population import prepare

DRAIN_SECONDS = 120.0
DRAW, SIGN_IN, EXCHANGE = "draw", "sign-in", "exchange"


@dataclass(frozen=True)
class Cost:
    """What one request of a kind cost in one run, until all it leads to was done."""

    kind: str
    cpu_us: float  # of this process
    server_us: float  # of the database's
    per_second: float

    @property
    def total_us(self) -> float:
        """CPU in all."""
        return self.cpu_us + self.server_us


class Clients:
    """Has each user ask once, ``count`` of them at a time; they live in the lanes' hand-over."""

    def __init__(self, *, count: int) -> None:
        self._count = count
        self._users: Iterator[str] = iter(())
        self._submit: Callable[[str], None] = _nobody
        self._waiting = 0
        self._lock = threading.Lock()
        self._done = threading.Event()

    def run(self, users: list[str], submit: Callable[[str], None]) -> None:
        """Ask for every user; returns when all are answered."""
        self._done.clear()
        self._users, self._submit, self._waiting = iter(users), submit, len(users)
        for _ in range(self._count):
            self._ask()
        assert self._done.wait(DRAIN_SECONDS), "not everybody was answered"

    def answer(self, settled: Settled) -> None:
        """Take answers, and ask for as many more; who met trouble on a busy machine asks again."""
        done = 0
        for user, answer in settled:
            if isinstance(answer, Trouble):
                self._submit(user)
                continue
            assert not isinstance(answer, BigmarketError), answer
            done += 1
            self._ask()
        with self._lock:
            self._waiting -= done
            if not self._waiting:
                self._done.set()

    def _ask(self) -> None:
        with self._lock:
            user = next(self._users, None)
        if user is not None:
            self._submit(user)


def kinds_of(world: World) -> dict[str, Callable[[str], None]]:
    """How a user asks for each kind."""
    return {
        DRAW: lambda user: world.lanes.submit(user, ACTIVITY, None, reply=user),
        SIGN_IN: lambda user: world.rebates.submit(user, "sign", ACTIVITY, None, reply=user),
        EXCHANGE: lambda user: world.exchanges.submit(user, SKU, None, reply=user),
    }


def measure(*, server: str | None, users: list[str], clients: int, folder: Path) -> list[Cost]:
    """One run of each kind on a fresh database; the promises are examined afterwards."""
    with fresh_database(server, folder=folder) as url, server_of(server) as server_cpu:
        asking = Clients(count=clients)
        settings = Settings(home=folder, database=url, queue_max=clients + 1, draw_deadline_seconds=30)
        with World(settings, hand_over=asking.answer) as world:
            prepare(world.stores.config, users)
            world.live.refresh()
            costs = []
            for kind, submit in kinds_of(world).items():
                asking.run(users[:clients], submit) if kind == DRAW else None  # warm
                before, server_before, started = time.process_time(), server_cpu(), time.perf_counter()
                asking.run(users, submit)
                drain(world)
                seconds = time.perf_counter() - started
                spent, spent_there = time.process_time() - before, server_cpu() - server_before
                each = 1e6 / len(users)
                costs.append(Cost(kind, spent * each, spent_there * each, len(users) / seconds))
            broken = [finding for finding in examine(world.stores, now_ms=now_ms()) if not finding.ok]
            assert not broken, broken
    return costs


def drain(world: World) -> None:
    """Wait until everything is delivered."""
    give_up_at = time.monotonic() + DRAIN_SECONDS
    while any(relay.waiting for relay in world.work.relays) or world.stores.config.backlog().waiting:
        assert time.monotonic() < give_up_at, "not everything was delivered"
        time.sleep(0.02)


@contextmanager
def server_of(url: str | None) -> Iterator[Callable[[], float]]:
    """Tells the CPU seconds that the database server has spent so far: of that server only, and on this machine."""
    if url is None:
        yield lambda: 0.0
        return
    engine = create_engine(url)
    with engine.connect() as connection:
        pid = int(Path(connection.execute(text("SELECT @@pid_file")).scalar_one()).read_text())
    engine.dispose()
    yield lambda: _cpu_seconds(pid)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(costs: list[Cost], *, title: str) -> None:
    """A table of medians, and each kind beside the draw."""
    kinds = list(dict.fromkeys(cost.kind for cost in costs))
    table = Table(title=f"{title}; median of {len(costs) // len(kinds)} runs")
    for name in ("kind", "per second", "CPU us", "server CPU us", "in all", "beside a draw"):
        table.add_column(name, justify="right" if name != "kind" else "left")
    medians = {kind: _median([cost for cost in costs if cost.kind == kind]) for kind in kinds}
    for kind, cost in medians.items():
        shown = (cost.per_second, cost.cpu_us, cost.server_us, cost.total_us)
        times = f"{cost.total_us / medians[DRAW].total_us:.2f} x"
        table.add_row(kind, *(f"{value:,.0f}" for value in shown), times)
    console = Console(width=100)
    console.print(table)
    console.print(f"{platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")


def _median(costs: list[Cost]) -> Cost:
    fields = ("cpu_us", "server_us", "per_second")
    return Cost(costs[0].kind, *(statistics.median(getattr(cost, name) for cost in costs) for name in fields))


def _nobody(user: str) -> Any:
    raise AssertionError(user)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--server", help="a MySQL or MariaDB server, mysql+pymysql://user:password@host/; else SQLite"
    )
    parser.add_argument("--clients", type=int, default=512)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3, help="of each kind")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON instead of a table")
    options = parser.parse_args()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as folder:
        for number in range(options.runs):
            print(f"run {number + 1} of {options.runs}", file=sys.stderr)
            costs += measure(
                server=options.server,
                users=user_names(options.users),
                clients=options.clients,
                folder=Path(folder),
            )
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs]))
    else:
        where = "MySQL (flush at commit)" if options.server else "SQLite (WAL, FULL)"
        report(costs, title=f"Earning and buying on {where}, {options.users:,} users, {options.clients} at a time")


if __name__ == "__main__":
    main()
