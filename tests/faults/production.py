"""A production installation that may be hurt: databases, a broker, servers and a worker, all of the tests' own.

Whatever ends is started again a moment later, as a supervisor would.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import count as numbers
from pathlib import Path
from typing import NamedTuple

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import World, broker_depths, now_ms
from bigmarket.errors import Trouble
from bigmarket.ids import first_at
from bigmarket.settings import load_settings
from bigmarket.storage.campaigns import write_campaign
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores
from faults.load import ACTIVITY, Load, Log, ask_again, asks_of
from faults.processes import OurProcess, ServerProcess, WorkProcess, environment, run_cli
from faults.services import DECLARED_SECONDS, MariaDbProcess, RabbitProcess, Service
from faults.verdict import DRAIN_SECONDS, DRAWS_EACH, SKU, assert_delivered, assert_kept, credit, rush
from support import count
from waiting import eventually

BACK_SECONDS = 45.0  # after a fault, until draws are answered and awards delivered again
RECOVERED_SECONDS = 60.0  # so long is waited for that, to be able to tell how long it took
EXIT_SECONDS = 10.0  # after SIGTERM
DEADLINE_SECONDS = 2.0  # a draw's
SLACK_SECONDS = 3.0  # for a machine that runs everything at once: databases, broker, servers and the clients
SUPERVISED_SECONDS = 0.05
PROBE_SECONDS = 0.05
CLIENTS = 16
THINK_SECONDS = 0.04
#: Some 60, 200 and 350 draws later these have run out.
FEW = {2: 100, 3: 30, 4: 3}

DATABASE, SHARD, BROKER, SERVE, SERVE2, WORK = "mariadb", "shard", "rabbitmq", "serve", "serve2", "work"

_numbers = numbers(1)


class Recovery(NamedTuple):
    """How long a fault was felt: from the kill until draws asked for later won, and until their awards arrived.

    ``ready_seconds`` is when MariaDB and RabbitMQ themselves were up again; how fast they start is not ours.
    """

    part: str
    ready_seconds: float
    drawing_seconds: float
    delivering_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.part}: services up after {self.ready_seconds:.1f} s, draws after {self.drawing_seconds:.1f} s, "
            f"awards after {self.delivering_seconds:.1f} s"
        )

    def assert_in_time(self, *, seconds: float = BACK_SECONDS) -> None:
        """Draws and deliveries were back in time."""
        assert self.drawing_seconds < seconds, self
        assert self.delivering_seconds - self.ready_seconds < seconds, self


class Production:
    """Parts by name; ``databases`` hold a shard each, the first one the configuration too.

    Without ``worker`` the servers deliver themselves. ``users`` have ``DRAWS_EACH`` draws each.
    """

    def __init__(
        self,
        home: Path,
        *,
        databases: Sequence[MariaDbProcess],
        broker: RabbitProcess | None = None,
        servers: int = 2,
        worker: bool = True,
        users: int = 200,
        scarce: Mapping[int, int] = FEW,
        **settings: object,
    ) -> None:
        name = f"production{next(_numbers)}"
        home.mkdir(parents=True, exist_ok=True)
        urls = [database.create_database(name) for database in databases]
        self.settings: dict[str, object] = {"database": urls[0], "work": not worker, **settings}
        if len(urls) > 1:
            self.settings["shards"] = ",".join(urls)
        if broker is not None:
            self.settings |= {"broker": broker.url, "broker_prefix": f"{name}."}
        self.home = home
        self.scarce = scarce
        self.users = [f"u{number:05}" for number in range(users)]
        self.broker = broker
        self.servers = [ServerProcess(home, **self.settings) for _ in range(servers)]
        self.worker = WorkProcess(home, **self.settings) if worker else None
        self.services: dict[str, Service] = dict(zip((DATABASE, SHARD), databases, strict=False))
        if broker is not None:
            self.services[BROKER] = broker
        self.programs: dict[str, OurProcess] = {
            f"{SERVE}{number or ''}": server
            for number, server in zip((0, *range(2, servers + 1)), self.servers, strict=True)
        }
        if self.worker is not None:
            self.programs[WORK] = self.worker
        self.parts: dict[str, Service | OurProcess] = {**self.services, **self.programs}
        self.ended: list[str] = []  # programs that ended without having been killed
        self._held_down: set[str] = set()
        self._declared_at = 0.0

    @contextmanager
    def running(self) -> Iterator[Stores]:
        """Set up, run until the block ends, and leave nothing behind but services that run. Yields the stores."""
        with ExitStack() as stack:
            world = World(load_settings(environment(self.home, **self.settings)), draws=False)
            stores = world.stores
            stack.callback(stores.close)
            with stores.config.writing() as connection:
                write_campaign(connection, parse_campaign(rush(self.scarce)))
            world.arm(ACTIVITY)
            if len(stores.shards) == 1:
                credit(stores.config, self.users)  # many at once
            else:
                for user in self.users:
                    world.recharge(user, sku=SKU, out_business_no=f"first-{user}")
            stack.callback(self._revive_services)
            for program in self.programs.values():
                stack.push(program)
                program.start()
            for program in self.programs.values():
                program.wait_ready()
            if self.broker is not None:
                eventually(self._declared, seconds=10)
                self._declared_at = time.monotonic()
            yield stores

    @property
    def ports(self) -> list[int]:
        """Where the servers listen."""
        return [server.port for server in self.servers]

    def load(self, rng: random.Random, *, users: Sequence[str] = (), think_seconds: float = THINK_SECONDS) -> Load:
        """Clients of all servers, for ``users`` (by default all)."""
        asks = asks_of(users or self.users, each=DRAWS_EACH, rng=rng)
        return Load(self.ports, asks, clients=CLIENTS, rng=rng, think_seconds=think_seconds)

    # --- hurting ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        """Start whatever has ended, until the block ends."""
        stopping = asyncio.Event()

        async def watch() -> None:
            while not stopping.is_set():
                for name, part in self.parts.items():
                    if name not in self._held_down and not part.running:
                        self.ended.append(name)
                        part.start()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), SUPERVISED_SECONDS)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            try:
                yield
            finally:
                stopping.set()

    @asynccontextmanager
    async def down(self, *names: str) -> AsyncIterator[float]:
        """kill -9, and start again when the block ends. Yields when the kill was (monotonic)."""
        if BROKER in names:
            await asyncio.sleep(max(0.0, self._declared_at + DECLARED_SECONDS - time.monotonic()))
        self._held_down.update(names)
        try:
            for name in names:
                self.parts[name].kill()
            yield time.monotonic()
        finally:
            for name in names:
                self.parts[name].start()
            self._held_down.difference_update(names)

    async def kill(self, *names: str, down_seconds: float = 0.0) -> float:
        """kill -9, and start again after ``down_seconds``. Returns when the kill was (monotonic)."""
        async with self.down(*names) as killed_at:
            await asyncio.sleep(down_seconds)
        return killed_at

    async def terminate(self, name: str) -> float:
        """SIGTERM, and start again. Returns the seconds it took to end; fails when it did not end with 0 in time."""
        program = self.programs[name]
        self._held_down.add(name)
        since = time.monotonic()
        program.signal(signal.SIGTERM)
        code = await asyncio.to_thread(program.wait, seconds=EXIT_SECONDS)
        seconds = time.monotonic() - since
        assert code == 0, program.log[-4000:]
        program.start()
        self._held_down.discard(name)
        return seconds

    async def recovered(self, part: str, stores: Stores, log: Log, *, since: float) -> Recovery:
        """Wait until draws asked for after ``since`` have won on every server, and one of their awards arrived."""
        since_ms = now_ms() - int((time.monotonic() - since) * 1000)
        ready = asyncio.create_task(self._services_ready(since))
        drawing = await log.good_since(self.ports, since, seconds=RECOVERED_SECONDS)
        while not await asyncio.to_thread(_delivered_since, stores.shards, since_ms):
            assert time.monotonic() < since + RECOVERED_SECONDS, f"nothing is delivered after {part}"
            await asyncio.sleep(PROBE_SECONDS)
        return Recovery(part, await ready, drawing, time.monotonic() - since)

    async def _services_ready(self, since: float) -> float:
        """Wait until every service answers. Returns the seconds since then."""
        for service in self.services.values():
            while not await asyncio.to_thread(service.answers):
                assert time.monotonic() < since + RECOVERED_SECONDS, f"{service.title} does not start"
                await asyncio.sleep(PROBE_SECONDS)
        return time.monotonic() - since

    def queue_depths(self) -> dict[str, int]:
        """Messages ready in each of the broker's queues. Raises ``Trouble``."""
        return broker_depths(load_settings(environment(self.home, **self.settings)))

    def delete_queue(self, topic: str) -> int:
        """Delete a topic's queue, as an operator might. Returns how many messages were ready in it."""
        assert self.broker is not None
        with self.broker.connect() as connection:
            return int(connection.channel().queue_delete(f"{self.settings['broker_prefix']}{topic}"))

    def _declared(self) -> bool:
        """Whether the queues are there: then the broker knows them for ``DECLARED_SECONDS`` before it is killed."""
        try:
            return bool(self.queue_depths())
        except Trouble:
            return False

    def _revive_services(self) -> None:
        for service in self.services.values():
            if service.running:
                service.resume()
            else:
                service.start()
        for service in self.services.values():
            service.wait_ready()

    # --- judging ------------------------------------------------------------------------------------------------

    def assert_recovered(self, stores: Stores, log: Log) -> float:
        """Everything is delivered, and nothing was lost, changed, doubled or oversold.

        Returns the seconds it took to drain.
        """
        since = time.monotonic()
        eventually(lambda: waiting(stores) == 0, seconds=DRAIN_SECONDS, pause_seconds=PROBE_SECONDS)
        drained = time.monotonic() - since
        asyncio.run(ask_again(log, self.servers[-1].port))
        assert_delivered(*stores.shards)
        assert_kept(log, *stores.shards, scarce=self.scarce)
        assert not log.refused
        assert {status for status, _ in log.statuses} <= {200, 503}
        assert self.doctor() == []
        return drained

    def doctor(self) -> list[str]:
        """The promises that ``bigmarket doctor`` finds broken."""
        ran = run_cli(self.home, "doctor", "--json", **self.settings)
        assert ran.returncode in (0, 1), ran.stderr
        findings = json.loads(ran.stdout)["findings"]
        assert findings
        return [f"{finding['name']} {finding['rows']}" for finding in findings if not finding["ok"]]


def waiting(stores: Stores) -> int:
    """Awards that a task shall deliver and has not, and tasks that are left."""
    owed = "SELECT COUNT(*) FROM user_award_record WHERE award_id = 1 AND award_state = 'create'"
    return sum(count(shard, owed) + count(shard, "SELECT COUNT(*) FROM task") for shard in stores.shards)


def _delivered_since(shards: Sequence[Store], since_ms: int) -> bool:
    """Whether the award of a draw made since then has arrived, in every shard."""
    arrived = f"""SELECT COUNT(*) FROM (SELECT 1 FROM user_award_record
                  WHERE order_id > '{first_at(since_ms)}' AND award_state = 'completed' LIMIT 1) found"""
    try:
        return all(count(shard, arrived) for shard in shards)
    except Trouble:
        return False


def latency(log: Log) -> str:
    """How long answers took under load."""
    ordered = sorted(log.seconds)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    told = [f"{name} {ordered[int(share * (len(ordered) - 1))] * 1000:.0f} ms" for name, share in shares.items()]
    return ", ".join(told)


def outcomes(log: Log) -> Counter[str]:
    """What the troubles said was spent."""
    return Counter({outcome: n for (status, outcome), n in log.statuses.items() if status == 503})
