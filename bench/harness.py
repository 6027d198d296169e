"""Whole systems to measure: databases, queues, `serve` and `work` processes, users; and what all of them spend.

A system that was measured is verified: the server's count of draws must be what the clients were told, every award
must be delivered, doctor must find nothing. Several systems may be up at once, so that variants can take turns.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, select

import load
from backends import cpu_seconds_of, fresh_database, fresh_queues
from bigmarket.activity.campaign import Campaign
from bigmarket.app import now_ms, open_stores
from bigmarket.award.kinds import TASK_KINDS
from bigmarket.ids import first_at
from bigmarket.settings import Settings
from bigmarket.storage.doctor import examine
from bigmarket.storage.installation import Stores
from bigmarket.storage.schema import task, user_award_record
from campaign import bench_campaign, user_names
from generator import LAG_P99_MS_MAX, Ask, Plan, Tally
from load import DRAW, Load
from part import INVALID, Setup
from population import install, populate

START_SECONDS = 120.0
DRAIN_SECONDS = 120.0
WARM_UP_SECONDS = 1.0
USERS = 10_000
DATABASE_SERVERS, BROKERS = ("mariadbd", "mysqld"), ("beam.smp",)

Process = subprocess.Popen[bytes]


class NotValid(Exception):
    """A run that says nothing, or that broke a promise."""


@dataclass(frozen=True)
class Site:
    """What a system runs on."""

    server: str | None = None
    broker: str | None = None
    apart: bool = False
    batch_max: int = 256
    lanes: int = 0  # 0: as many as suit the database
    workers: int = 1
    shards: int = 1
    deadline_seconds: float | None = None  # of a draw; None: as it is by default

    @property
    def title(self) -> str:
        """For people."""
        parts = ["MySQL, flush at commit" if self.server else "SQLite, WAL, FULL"]
        parts += ["RabbitMQ quorum queues"] if self.broker else ["delivery in process"]
        return ", ".join([*parts, "work apart"] if self.apart else parts)

    @property
    def single(self) -> Site:
        """The same with one transaction per draw: the baseline. It may take its time, else it would refuse most."""
        return replace(self, batch_max=1, deadline_seconds=30.0)


def site_of(setup: Setup) -> Site:
    """The services that there are; with a broker, `work` runs apart."""
    return Site(setup.server, setup.broker, apart=setup.broker is not None)


class Cpu(NamedTuple):
    """CPU seconds: of `serve`, of `work`, of the database server and of the broker, where they run here."""

    serve: float
    work: float
    database: float
    broker: float

    def since(self, before: Cpu) -> Cpu:
        """What was used since then."""
        return Cpu(*(now - then for now, then in zip(self, before, strict=True)))


class System:
    """A running system and what its clients were told."""

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        server: Process,
        work: Process | None,
        *,
        campaign: Campaign,
        users: int,
    ) -> None:
        self.settings = settings
        self.stores = stores
        self.server = server
        self.work = work
        self.users = users
        self.port = settings.port
        self._delivered = [award.award_id for award in campaign.awards if award.kind in TASK_KINDS]
        self._began = first_at(now_ms())
        self._told = 0  # good answers to draws
        self._untold_max = 0  # draws whose answers were on their way when a run ended

    def drive(self, *, connections: int, seconds: float, users: int | None = None, ask: Ask = DRAW) -> Load:
        """Load it in a closed loop. Raises when a request failed."""
        among = users or self.users
        found = load.drive(port=self.port, connections=connections, seconds=seconds, users=among, ask=ask)
        if ask is DRAW:
            self._told += found.requests - found.errors
            self._untold_max += 2 * connections + found.errors
        if found.errors:
            raise NotValid(f"{found.errors} of {found.requests} requests failed at {connections} connections")
        return found

    def warm_up(self) -> None:
        """Load it for a second, so that connections are open and code is warm; failures do not matter yet."""
        plan = Plan(self.port, [DRAW], self.users, connections=16, seconds=WARM_UP_SECONDS)
        tally = self.run(plan)
        self.allow_unknown(load.answered(tally) - load.answered(tally, code="0000"))

    def run(self, plan: Plan) -> Tally:
        """Run our generator against it. Raises when it was late itself."""
        return self.take(load.run(self.planned(plan)), plan)

    def planned(self, plan: Plan) -> Plan:
        """The plan with this system's port and users."""
        return replace(plan, port=self.port, users=plan.users or self.users)

    def take(self, tally: Tally, plan: Plan) -> Tally:
        """Count what the generator was told. Raises when it was late itself."""
        self._told += load.answered(tally, name=DRAW.name, code="0000") + tally.drawn_outside
        self._untold_max += tally.broken + tally.unanswered
        lag = tally.lag.quantile_ms(0.99)
        if plan.rate and lag > LAG_P99_MS_MAX:
            raise NotValid(f"the generator itself was late: p99 {lag:.0f} ms behind its schedule")
        return tally

    def allow_unknown(self, draws: int) -> None:
        """So many draws more may have been made than clients were told, as their outcome was called unknown."""
        self._untold_max += draws

    @property
    def cpu(self) -> Cpu:
        """As of now."""
        serve, work = (_cpu_seconds(process.pid) if process else 0.0 for process in (self.server, self.work))
        database = 0.0 if self.settings.database_path else cpu_seconds_of(*DATABASE_SERVERS)
        return Cpu(serve, work, database, cpu_seconds_of(*BROKERS) if self.settings.broker else 0.0)

    @property
    def drawn(self) -> int:
        """Draws that the server made so far."""
        return int(metric(self.port, "bigmarket_draws_total"))

    def undelivered(self, *, lately_seconds: float | None = None) -> int:
        """Awards won here, or lately, that are not delivered, and tasks that are not done."""
        since = self._began if lately_seconds is None else first_at(now_ms() - round(lately_seconds * 1000))
        record = user_award_record.c
        waiting = select(func.count()).where(
            record.order_id >= since, record.award_state == "create", record.award_id.in_(self._delivered)
        )
        left = 0
        for store in self.stores.shards:
            with store.examining() as connection:
                left += connection.execute(waiting).scalar_one()
                left += connection.execute(select(func.count()).select_from(task)).scalar_one()
        return left

    def drain(self) -> float:
        """Seconds until every award is delivered."""
        started = time.monotonic()
        while left := self.undelivered():
            if time.monotonic() - started > DRAIN_SECONDS:
                raise NotValid(f"{left} awards are not delivered")
            time.sleep(0.1)
        return time.monotonic() - started

    def verify(self) -> None:
        """Raise unless everything that was promised is so."""
        self.drain()
        made = self.drawn
        if not 0 <= made - self._told <= self._untold_max:
            told = f"clients were told of {self._told} (+ {self._untold_max} at most)"
            raise NotValid(f"{made} draws were made, {told}")
        broken = [finding for finding in examine(self.stores, now_ms=now_ms()) if not finding.ok]
        if broken:
            raise NotValid(f"doctor: {broken}")


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


@contextmanager
def running(
    site: Site, *, campaign: Campaign | None = None, users: int = USERS, draws_before: int = 0
) -> Iterator[System]:
    """A system with users who have draws; warmed up, and verified when the block ends well."""
    campaign = campaign or bench_campaign()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bigmarket-bench-")))
        urls = [stack.enter_context(fresh_database(site.server, folder=folder)) for _ in range(site.shards)]
        settings = Settings(
            home=folder,
            database=urls[0],
            shards=tuple(urls) if site.shards > 1 else (),
            broker=site.broker or "",
            broker_prefix=stack.enter_context(fresh_queues(site.broker, shards=site.shards)),
            port=free_port(),
            batch_max=site.batch_max,
            lanes=site.lanes,
            workers=site.workers,
            work=not site.apart,
            log_level="error",
        )
        if site.deadline_seconds is not None:
            settings = settings.model_copy(update={"draw_deadline_seconds": site.deadline_seconds})
        stores = open_stores(settings)
        stack.callback(stores.close)
        install(stores, campaign)
        populate(stores, user_names(users), draws_before=draws_before, say=_say)
        work = stack.enter_context(working(settings)) if site.apart else None
        server = stack.enter_context(serving(settings))
        system = System(settings, stores, server, work, campaign=campaign, users=users)
        system.warm_up()
        yield system
        system.verify()


def measure(
    system: System, *, connections: int, seconds: float, users: int | None = None, ask: Ask = DRAW
) -> dict[str, Any]:
    """One closed-loop run, delivery of what was won included. CPU is microseconds a request."""
    before = system.cpu
    found = system.drive(connections=connections, seconds=seconds, users=users, ask=ask)
    backlog = system.undelivered()
    drained = system.drain()
    spent = system.cpu.since(before)
    each = 1e6 / found.requests
    return {
        "connections": connections,
        "per_second": found.per_second,
        "p50_ms": found.p50_ms,
        "p95_ms": found.p95_ms,
        "p99_ms": found.p99_ms,
        "max_ms": found.max_ms,
        **{f"{name}_us": seconds_spent * each for name, seconds_spent in spent._asdict().items()},
        "generator_us": found.cpu_seconds * each,
        "backlog": backlog,
        "drain_seconds": drained,
        "memory_mb": resident_mb(system.server.pid),
    }


def turns(runs: int, variants: Sequence[Callable[[], dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Each variant in turn, ``runs`` times over, the order reversed every other time; runs not valid are told."""
    for number in range(runs):
        for variant in variants if number % 2 == 0 else reversed(variants):
            yield attempt(variant)


def attempt(variant: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Its sample, or why it is not valid."""
    try:
        return variant()
    except (NotValid, AssertionError) as fault:
        return {INVALID: str(fault)}


# --- processes ----------------------------------------------------------------------------------------------------


@contextmanager
def serving(settings: Settings) -> Iterator[Process]:
    """A real server process; it must end with 0 when it is told to."""
    with process([sys.executable, "-m", "bigmarket", "serve"], environment_of(settings)) as server:
        wait_until_ready(settings.port, server)
        yield server


@contextmanager
def working(settings: Settings) -> Iterator[Process]:
    """A real `work` process beside the server."""
    own = settings.model_copy(update={"port": free_port()})
    with process([sys.executable, "-m", "bigmarket", "work"], environment_of(own)) as worker:
        wait_until_ready(own.port, worker)
        yield worker


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that say what was set."""
    given = {name: getattr(settings, name) for name in (*settings.model_fields_set, "port")}
    return {
        f"BIGMARKET_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in given.items()
        if value != ()
    }


@contextmanager
def process(command: Sequence[str], environment: dict[str, str]) -> Iterator[Process]:
    """A process of a group of its own, so that Ctrl-C is heard here first; it must end with 0 on SIGTERM."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BIGMARKET_")}
    started = subprocess.Popen(command, env=inherited | environment, stdout=subprocess.DEVNULL, process_group=0)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    if started.returncode != 0:
        raise NotValid(f"{' '.join(command[-2:])} ended with {started.returncode}")


def wait_until_ready(port: int, server: Process, *, path: str = "/readyz") -> None:
    """Return when it answers. Raises SystemExit when it ended, or does not answer for long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            get(port, path)
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise NotValid(f"a server did not start (exit code {server.poll()})")


def get(port: int, path: str) -> str:
    """What it answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        body: bytes = answer.read()
    return body.decode()


def metric(port: int, name: str) -> float:
    """A metric of the server, summed over its labels."""
    lines = get(port, "/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))


def family(pid: int) -> list[int]:
    """A process and those that it started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def _cpu_seconds(pid: int) -> float:
    ticks = 0
    for each in family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory that a process and those that it started hold, in megabytes."""
    pages = 0
    for each in family(pid):
        try:
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int:
    """Files and sockets that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  only their number matters


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
