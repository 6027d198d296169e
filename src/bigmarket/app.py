"""Builds the World from settings. The only file that names adapters."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.orders import KEY_MAX, SKU_MAX, Bundle, QuotaOrder, recharge
from bigmarket.activity.revision import Revision
from bigmarket.award.kinds import KINDS
from bigmarket.bus.in_process import InProcessBus
from bigmarket.bus.published import PublishedBus
from bigmarket.bus.rabbitmq import ParkedMessage, RabbitConsumer, RabbitParking, RabbitPublisher, queue_depths
from bigmarket.errors import BigmarketError, Contention, Trouble
from bigmarket.ids import Ids
from bigmarket.jobs.backlog import BacklogWatch
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.jobs.redelivery import Redelivery
from bigmarket.jobs.schedule import Job, Schedule
from bigmarket.jobs.work import Work, relay_lease
from bigmarket.lanes import DrawShard, LaneSet, LaneSettings, Settled, set_futures
from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.relay import SCAN_SECONDS, Relay
from bigmarket.outbox.task import GRACE_MS, Task
from bigmarket.settings import Settings
from bigmarket.storage import queries
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.campaigns import Armed, load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.escrow import Escrow
from bigmarket.storage.escrowed import EscrowedStore
from bigmarket.storage.installation import Stores, prepare
from bigmarket.storage.leases import Leases
from bigmarket.storage.mysql import MySqlStore
from bigmarket.storage.routing import Routing, SplitTables
from bigmarket.storage.sqlite import SqliteStore
from bigmarket.text import clean_text

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 0.25
#: For lanes and work to drain. Requests in flight get two seconds before, leases and Live one and a half after: even
#: where no database answers, a process ends within ten seconds.
STOP_SECONDS = 6.0
LIVE_STOP_SECONDS = 0.5
QUEUE_SHARE = 0.35  # of a draw's deadline may pass in the queue; the rest is for its transaction
WORK_SCAN_SECONDS = 0.2  # where nothing comes from memory, so that every task waits for the scan
BACKLOG_SECONDS = 5.0
STOCK_MOVES_SECONDS = 5.0
STOCK_BALANCE_SECONDS = 30.0
RECHARGE_ATTEMPTS_MAX = 4
RETRY_JITTER_SECONDS = 0.05
SEED_BYTES = 32
SEEDS_KEPT = 1024
REVISIONS_KEPT = 64
REDELIVERY_SECONDS = 60.0
BUSY_MESSAGES = 10_000  # in the broker: consumers lag, so a message may be older than redelivery thinks
SQLITE = "sqlite:///"


def now_ms() -> int:
    """The clock: epoch milliseconds."""
    return time.time_ns() // 1_000_000


def new_seed() -> bytes:
    """A seed for a new epoch of the dice."""
    return secrets.token_bytes(SEED_BYTES)


def open_stores(settings: Settings, *, relays: bool = False) -> Stores:
    """The databases that the settings name, with their schema up to date.

    ``relays`` tells whether this process delivers what it writes. Raises ``Trouble`` when one of them cannot be used,
    is laid out in another way, or would not keep what is acknowledged.
    """
    urls = settings.shard_urls
    routing = Routing(len(urls), settings.tables_per_shard)
    grace_ms = GRACE_MS if relays else 0
    opened = {url: _open(url, split=SplitTables(routing), grace_ms=grace_ms) for url in urls}
    config = opened.get(settings.database_url) or _open(settings.database_url, split=SplitTables(), grace_ms=grace_ms)
    stores = Stores(config, tuple(opened.values()), routing)
    try:
        prepare(stores, now_ms=now_ms())
        for store in stores.all():
            _assert_durable(store, only_warn=settings.development)
    except BaseException:
        stores.close()
        raise
    return stores


def _open(url: str, *, split: SplitTables, grace_ms: int) -> Store:
    if not url.startswith(SQLITE):
        return MySqlStore(url, split=split, grace_ms=grace_ms)
    path = Path(url.removeprefix(SQLITE))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Trouble(
            f"The folder {path.parent} cannot be made: {error.strerror}. Set BIGMARKET_HOME to another."
        ) from error
    return SqliteStore(path, split=split, grace_ms=grace_ms)


def _assert_durable(store: Store, *, only_warn: bool) -> None:
    faults = "; ".join(store.durability_faults())
    if faults and only_warn:
        log.warning("a database would not keep what is acknowledged", faults=faults)
    elif faults:
        raise Trouble(f"A database would not keep what is acknowledged: {faults}. Correct that and start again.")


class Live:
    """The activities as they run now, read anew from the store several times a second.

    ``current`` is replaced as a whole, never changed, so readers need no lock. When the store cannot be read the last
    known state stays in force.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._refreshing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self.current: Mapping[int, LiveActivity] = {}
        self.refreshed_at = 0.0
        self.refresh()

    def start(self) -> None:
        """Begin to follow the store."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float) -> bool:
        """Stop following; whether that was done in time, which a database that does not answer prevents."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def refresh(self) -> None:
        """Read the store now."""
        with self._refreshing:
            known: dict[str, Revision] = {
                activity.revision.revision_id: activity.revision
                for activity in self.current.values()
                if activity.revision is not None
            }
            with self._store.reading() as connection:
                self.current = load_live(connection, known)
            self.refreshed_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopping.wait(REFRESH_SECONDS):
            try:
                self.refresh()
            except Trouble as trouble:
                log.warning("configuration not refreshed; the last known stays in force", reason=str(trouble))
            except Exception:
                log.exception("configuration not refreshed; the last known stays in force")


class World:
    """Everything that runs: the databases, the live configuration, the lanes, and the work after the draw.

    As a context manager it starts on entry and drains on exit. Without ``draws`` it has no lanes.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        hand_over: Callable[[Settled], None] = set_futures,
        clock: Callable[[], int] = now_ms,
        draws: bool = True,
    ) -> None:
        self.settings = settings
        self.now_ms = clock
        self.ids = Ids()
        self.stores = open_stores(settings, relays=settings.work)
        self.escrow = Escrow(self.stores, ids=self.ids, now_ms=clock) if self.stores.escrowed else None
        self.live = Live(self.stores.config)
        self.seed_of = lru_cache(maxsize=SEEDS_KEPT)(self._read_seed)  # a seed never changes
        self.backlog = BacklogWatch(self.stores.shards, queue_depths=partial(broker_depths, settings), now_ms=clock)
        self.work = self._new_work(scan_seconds=SCAN_SECONDS if draws else WORK_SCAN_SECONDS)
        self.lanes = LaneSet(
            [
                self._draw_shard(index, relay.offer if settings.work else _leave_to_others)
                for index, relay in enumerate(self.work.relays)
                if draws
            ],
            shard_of=self.stores.routing.shard_of,
            live=lambda: self.live.current,
            now_ms=clock,
            ids=self.ids,
            hand_over=hand_over,
            settings=LaneSettings(
                lanes=settings.lanes or (1 if settings.shard_urls[0].startswith(SQLITE) else 2),
                batch_max=settings.batch_max,
                queue_max=settings.queue_max,
                queue_seconds=settings.draw_deadline_seconds * QUEUE_SHARE,
            ),
        )

    def __enter__(self) -> Self:
        self.live.start()
        self._finish_stock_moves()
        if self.settings.work:
            self.work.start()
        self.lanes.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain in order: the lanes answer what is queued, the relays deliver what they hold, connections go back."""
        drained = self.lanes.stop(timeout_seconds=STOP_SECONDS / 2)
        if self.settings.work:
            drained = self.work.stop(timeout_seconds=STOP_SECONDS / 2) and drained
        if self.live.stop(timeout_seconds=LIVE_STOP_SECONDS) and drained:
            self.stores.close()
        else:
            log.warning("stopped before everything was drained; the rest is delivered at the next start")

    def arm(self, activity_id: int) -> Armed:
        """Compile an activity's configuration and make it live, here at once and elsewhere within a second."""
        armed = arm_installation(self.stores, activity_id, kinds=KIND_CHECKS, now_ms=self.now_ms(), new_seed=new_seed)
        self.live.refresh()
        return armed

    def recharge(self, user_id: str, *, sku: int, out_business_no: str) -> QuotaOrder:
        """Credit a user with a sku's draws, once per ``out_business_no``. Tried again after a lost race."""
        user_id = clean_text(user_id, name="user_id", max_length=KEY_MAX)  # before it says where the rows live
        # Read before the transaction: who holds a connection and waits for a second one may wait for ever.
        bundle = self._read_bundle(sku) if 1 <= sku <= SKU_MAX else None
        for _ in range(RECHARGE_ATTEMPTS_MAX - 1):
            with suppress(Contention):
                return self._recharge(user_id, sku, out_business_no, bundle)
            time.sleep(random.uniform(0, RETRY_JITTER_SECONDS))  # noqa: S311  spreads retries, not prizes
        return self._recharge(user_id, sku, out_business_no, bundle)

    def _recharge(self, user_id: str, sku: int, out_business_no: str, bundle: Bundle | None) -> QuotaOrder:
        now = self.now_ms()

        def sell() -> QuotaOrder:
            with self.stores.of(user_id).recharging(user_id) as tx:
                return recharge(
                    tx,
                    user_id=user_id,
                    sku=sku,
                    out_business_no=out_business_no,
                    now_ms=now,
                    order_id=self.ids.make(now),
                    live=self.live.current,
                    bundle_of=lambda _: bundle,
                )

        return self.escrow.selling(self.stores.routing.shard_of(user_id), sku, sell) if self.escrow else sell()

    def _draw_shard(self, index: int, hand_tasks: Callable[[Sequence[Task]], None]) -> DrawShard:
        """A shard as its lanes need it; with several, what it lacks of a prize is fetched from the others."""
        shard = self.stores.shards[index]
        if self.escrow is None:
            return DrawShard(shard, hand_tasks)
        store = EscrowedStore(shard, self.escrow, live=lambda: self.live.current)
        return DrawShard(store, hand_tasks, partial(self.escrow.fetch, index))

    def _finish_stock_moves(self) -> None:
        """Whatever an earlier process left half-way; if a database does not answer yet, the job does it."""
        try:
            if self.escrow is not None:
                self.escrow.sweep()
        except Trouble as trouble:
            log.warning("stock moves not finished", reason=str(trouble))

    def _new_work(self, *, scan_seconds: float) -> Work:
        jobs = self._jobs()
        names = [relay_lease(index) for index in range(len(self.stores.shards))] + [job.lease for job in jobs]
        leases = Leases(self.stores.config, names, holder=self.ids.make(self.now_ms()))
        buses = [InProcessBus(s, CONSUMERS, now_ms=self.now_ms, seed_of=self.seed_of) for s in self.stores.shards]
        outgoing = [
            PublishedBus(shard, RabbitPublisher(self.settings.broker, prefix=prefix, topics=CONSUMERS))
            for shard, prefix in zip(self.stores.shards, broker_prefixes(self.settings), strict=False)
        ]
        delivering: Sequence[InProcessBus | PublishedBus] = outgoing or buses
        relays = [
            Relay(
                shard,
                deliver=bus.deliver,
                now_ms=self.now_ms,
                may_scan=partial(leases.holds, relay_lease(index)),
                scan_seconds=scan_seconds,
            )
            for index, (shard, bus) in enumerate(zip(self.stores.shards, delivering, strict=True))
        ]
        consumers = [
            RabbitConsumer(
                self.settings.broker,
                prefix=prefix,
                topics=CONSUMERS,
                handle=bus.consume,
                park=partial(self._park, shard),
                now_ms=self.now_ms,
                name=f"consumer {index}",
            )
            for index, (shard, bus, prefix) in enumerate(
                zip(self.stores.shards, buses, broker_prefixes(self.settings), strict=False)
            )
        ]
        schedule = Schedule(jobs, fencing_of=leases.fencing, now_ms=self.now_ms)
        return Work(relays, consumers, schedule, leases, outgoing)

    def _jobs(self) -> list[Job]:
        """Everything that runs every so often."""
        jobs = [
            Job("backlog", BACKLOG_SECONDS, "counts what waits and what is parked, for /metrics", self.backlog.look)
        ]
        if (escrow := self.escrow) is not None:
            what = "finishes moves of stock that a crash left half-way"
            jobs.append(Job("stock-moves", STOCK_MOVES_SECONDS, what, lambda _: _done(escrow.sweep())))
            what = "brings stock back from shards that have far more than others"
            jobs.append(Job("stock-balance", STOCK_BALANCE_SECONDS, what, lambda _: _done(escrow.rebalance())))
        if self.settings.broker:
            lost = Redelivery(
                self.stores.shards,
                revision_of=lru_cache(maxsize=REVISIONS_KEPT)(self._read_revision),
                busy=lambda: sum(broker_depths(self.settings).values()) > BUSY_MESSAGES,
                now_ms=self.now_ms,
            )
            what = "sends awards again whose message the broker lost"
            jobs.append(Job("redelivery", REDELIVERY_SECONDS, what, lost.run))
        return jobs

    def _park(self, shard: Store, task: Task, reason: str) -> None:
        shard.park_task(ParkedTask(*task, reason), now_ms=self.now_ms())

    def _read_seed(self, activity_id: int, epoch: int) -> bytes:
        with self.stores.config.reading() as connection:
            return queries.seed_of(connection, activity_id, epoch)

    def _read_revision(self, activity_id: int, revision_id: str) -> Revision:
        with self.stores.config.reading() as connection:
            return queries.revision_of(connection, activity_id, revision_id)

    def _read_bundle(self, sku: int) -> Bundle | None:
        with self.stores.config.reading() as connection:
            return queries.bundle_of(connection, sku)


def broker_prefixes(settings: Settings) -> list[str]:
    """What the queues of each shard begin with; none without a broker.

    Every shard has its own queues, so that one whose database is down keeps no message of another's waiting.
    """
    prefix, shards = settings.broker_prefix, len(settings.shard_urls)
    if not settings.broker:
        return []
    return [prefix] if shards == 1 else [f"{prefix}{index}." for index in range(shards)]


def broker_parkings(settings: Settings) -> list[BrokerParking]:
    """The broker's parking queues, by shard; none without a broker."""
    return [RabbitParking(settings.broker, prefix=prefix, topics=CONSUMERS) for prefix in broker_prefixes(settings)]


def broker_depths(settings: Settings) -> dict[str, int]:
    """Messages ready in each of the broker's queues. Raises ``Trouble``."""
    prefixes = broker_prefixes(settings)
    return {
        f"{prefix}{queue}": depth
        for prefix in prefixes
        for queue, depth in queue_depths(settings.broker, prefix, CONSUMERS).items()
    }


def _done(moves: int) -> None:
    if moves:
        log.info("stock moved between shards", moves=moves)


def _leave_to_others(tasks: Sequence[object]) -> None:
    """Another process's relay finds the tasks in the store."""


BrokerParking = RabbitParking
DeadLetter = ParkedMessage
KIND_CHECKS = {name: kind.check for name, kind in KINDS.items()}

__all__ = ["KIND_CHECKS", "BigmarketError", "Live", "World", "new_seed", "now_ms", "open_stores"]
