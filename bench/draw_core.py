"""How many durable draws a second the core makes, on SQLite (WAL, synchronous=FULL) and on MySQL.

Lanes against baselines, in turns in the same run: one transaction per draw, and on MySQL also the reference system's
flow statement by statement on 64 connections (naive_draw.py). Closed loop: each of 512 clients asks again as soon as
it is answered, for a random user. No HTTP; the outbox rows are written, their delivery is left out.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from backends import cpu_seconds_of, fresh_database
from bigmarket.app import now_ms, open_stores
from bigmarket.desks import DrawDesk
from bigmarket.draw import Drawn
from bigmarket.ids import Ids
from bigmarket.lanes import LaneSet, LaneSettings, LaneShard, Settled
from bigmarket.settings import Settings
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.doctor import examine
from campaign import ACTIVITY, user_names
from charts import Bar, bars
from harness import turns
from naive_draw import run_naive
from part import Charts, Part, Sample, Setup, Table, groups, run_alone
from population import prepare

WARM_UP_SECONDS = 0.5
DRAIN_SECONDS = 30.0
QUEUE_SECONDS = 3600.0  # nobody is refused: the baseline may take its time
LANES = "lanes"
SINGLE = "one transaction per draw"
DATABASE_SERVERS = ("mariadbd", "mysqld")
NAIVE = "the reference's flow"
SHORT = {LANES: LANES, SINGLE: "single", NAIVE: "reference"}
SQLITE, MYSQL = "SQLite", "MariaDB"
CLIENTS, USERS = 512, 10_000
RUNS, SECONDS = 3, 3.0


@dataclass(frozen=True)
class Run:
    """One measured run."""

    variant: str
    per_second: float
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


def measure_all(setup: Setup) -> Iterator[Sample]:
    """Every variant in turns, on each store that there is."""
    with tempfile.TemporaryDirectory(prefix="bigmarket-bench-") as name:
        folder = Path(name)
        if setup.embedded:
            yield from turns(setup.runs(RUNS), _variants(SQLITE, None, setup, folder=folder))
        if setup.server:
            yield from turns(setup.runs(RUNS), _variants(MYSQL, setup.server, setup, folder=folder))


def _variants(where: str, server: str | None, setup: Setup, *, folder: Path) -> list[Callable[[], Sample]]:
    users, seconds, lanes = user_names(setup.users_given or USERS), setup.seconds(SECONDS), 2 if server else 1
    clients = setup.connections[0] if setup.connections else CLIENTS

    def ours(variant: str, batch_max: int) -> Sample:
        settings = LaneSettings(lanes, batch_max, queue_max=clients + 1, queue_seconds=QUEUE_SECONDS)
        run = measure(
            variant, server=server, users=users, clients=clients, settings=settings, seconds=seconds, folder=folder
        )
        return {"where": where, **asdict(run), **({} if server else {"server_us": 0.0})}

    def naive() -> Sample:
        assert server is not None
        return {"where": where, **asdict(measure_naive(server=server, users=users, seconds=seconds, folder=folder))}

    found = [partial(ours, SINGLE, 1), partial(ours, LANES, 256)]
    return [*found, naive] if server else [*found]


def tables(samples: Sequence[Sample]) -> list[Table]:
    """One for each store."""
    found = []
    for (where,), on in groups(samples, "where").items():
        by = groups(on.samples, "variant")
        rows = []
        for (variant,), group in by.items():
            beside = by.get((LANES,)) if variant != LANES else None
            times = f"{beside['per_second'] / group['per_second']:.1f} x" if beside else ""
            cpu = group.texts("cpu_us", "server_us", "batch")
            latency = group.texts("p50_ms", "p95_ms", "p99_ms")
            rows.append([variant, group.spread("per_second"), *latency, *cpu, times])
        header = ("variant", "draws/s", "p50 ms", "p95 ms", "p99 ms", "Python us", "database us", "draws/batch")
        found.append(Table(f"The core, {CLIENTS} clients: {where}", (*header, "lanes are"), rows))
    return found


def charts(samples: Sequence[Sample]) -> Charts:
    """Lanes beside their baselines."""
    by = groups(samples, "where", "variant")
    found = []
    for (where, variant), group in by.items():
        own = by.get((where, LANES))
        note = "" if variant == LANES or own is None else f"lanes: {own['per_second'] / group['per_second']:.1f} x"
        found.append(Bar(f"{where}: {SHORT[variant]}", group["per_second"], note, ours=variant == LANES))
    return {"core.svg": bars("The core, no HTTP", f"durable draws a second, {CLIENTS} clients", found)}


PART = Part(
    "core",
    "The core",
    "Durable draws without HTTP and without delivery, 512 clients in a closed loop, beside one transaction per draw "
    "and, on MariaDB, the reference's flow statement by statement on 64 connections.",
    100,
    measure_all,
    tables,
    charts,
    embedded=True,
)

if __name__ == "__main__":
    run_alone(PART, __doc__)
