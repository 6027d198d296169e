"""Builds the World from settings. The only file that names adapters."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from bigmarket.activity.delivery import Facts
from bigmarket.activity.model import LiveActivity
from bigmarket.award.claims import (
    DAY_MS,
)
from bigmarket.award.deliveries import Fulfiller
from bigmarket.award.endpoints import Endpoint
from bigmarket.award.kinds import KINDS, OUTSIDE_KINDS
from bigmarket.bus.in_process import InProcessBus
from bigmarket.bus.published import PublishedBus
from bigmarket.bus.rabbitmq import ParkedMessage, RabbitConsumer, RabbitParking, RabbitPublisher, queue_depths
from bigmarket.desks import AccountDesk, BehaviorDesk, DrawDesk, ExchangeDesk, ShelfDesk
from bigmarket.errors import BigmarketError, Trouble
from bigmarket.ids import Ids
from bigmarket.jobs.backlog import BacklogWatch
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.jobs.dispatcher import Dispatcher
from bigmarket.jobs.expiry import Expiry
from bigmarket.jobs.redelivery import Redelivery
from bigmarket.jobs.schedule import Job, Schedule
from bigmarket.jobs.work import Work, relay_lease
from bigmarket.lanes import Desk, LaneSet, LaneSettings, LaneShard, Settled, set_futures
from bigmarket.live import Live
from bigmarket.operations import Operations
from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.relay import SCAN_SECONDS, Relay
from bigmarket.outbox.task import GRACE_MS, Task
from bigmarket.settings import Settings
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.campaigns import Armed
from bigmarket.storage.claims import erase_contacts
from bigmarket.storage.codes import CodeFulfiller
from bigmarket.storage.contract import Store
from bigmarket.storage.endpoints import find_endpoint, set_endpoint_state
from bigmarket.storage.escrow import Escrow
from bigmarket.storage.escrowed import EscrowedStore
from bigmarket.storage.escrowed_skus import EscrowedExchanges, sold_out
from bigmarket.storage.installation import Stores, prepare
from bigmarket.storage.leases import Leases
from bigmarket.storage.mysql import MySqlStore
from bigmarket.storage.routing import Routing, SplitTables
from bigmarket.storage.sqlite import SqliteStore
from bigmarket.storage.switches import turn_switch
from bigmarket.webhooks.address import Allowed
from bigmarket.webhooks.post import Poster
from bigmarket.webhooks.sending import WebhookFulfiller

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: For lanes and work to drain. Requests in flight get two seconds before, leases and Live one and a half after: even
#: where no database answers, a process ends within ten seconds.
STOP_SECONDS = 6.0
LIVE_STOP_SECONDS = 0.5
QUEUE_SHARE = 0.35  # of a draw's deadline may pass in the queue; the rest is for its transaction
WORK_SCAN_SECONDS = 0.2  # where nothing comes from memory, so that every task waits for the scan
BACKLOG_SECONDS = 5.0
EXPIRY_SECONDS = 5.0
STOCK_MOVES_SECONDS = 5.0
STOCK_BALANCE_SECONDS = 30.0
ERASE_SECONDS = 3600.0
ERASED_TOGETHER = 500
ERASES_MAX = 200
SEED_BYTES = 32
WEBHOOK_SECRET_BYTES = 32
REDELIVERY_SECONDS = 60.0
BUSY_MESSAGES = 10_000  # in the broker: consumers lag, so a message may be older than redelivery thinks
SQLITE = "sqlite:///"


def now_ms() -> int:
    """The clock: epoch milliseconds."""
    return time.time_ns() // 1_000_000


def new_webhook_secret() -> str:
    """A secret for an endpoint, as Standard Webhooks writes them."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(WEBHOOK_SECRET_BYTES)).decode()}"


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


class World(Operations):
    """Everything that runs: the databases, the live configuration, the lanes, and the work after the draw.

    As a context manager it starts on entry and drains on exit. Without ``draws`` it has no lanes. ``lanes`` draw,
    ``rebates`` take behaviors, ``exchanges`` sell draws for credits; ``accounts`` and ``shelves`` are only looked at.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        hand_over: Callable[[Settled], None] = set_futures,
        clock: Callable[[], int] = now_ms,
        draws: bool = True,
    ) -> None:
        self._relays = settings.work or bool(settings.broker)  # what was drawn here
        stores, ids = open_stores(settings, relays=self._relays), Ids()
        super().__init__(
            stores,
            escrow=Escrow(stores, ids=ids, now_ms=clock) if stores.escrowed else None,
            live=Live(stores.config, switches=settings.switches),
            ids=ids,
            now_ms=clock,
            order_minutes=settings.order_minutes,
        )
        self.settings = settings
        self.backlog = BacklogWatch(self.stores.shards, queue_depths=partial(broker_depths, settings), now_ms=clock)
        self.poster = poster_of(settings)
        self.fulfillers = self._new_fulfillers()
        self.sold_out = [0] * len(stores.shards)  # how often it was told of a sku; a shard's bus is its only writer
        self.work = self._new_work(scan_seconds=SCAN_SECONDS if draws else WORK_SCAN_SECONDS)
        shards = range(len(self.stores.shards)) if draws else ()
        self.lanes = self._lanes_for([self._draw_desk(index) for index in shards], hand_over)
        self.rebates = self._lanes_for([self._behavior_desk(index) for index in shards], hand_over)
        self.exchanges = self._lanes_for([self._exchange_desk(index) for index in shards], hand_over)
        self.accounts = self._lanes_for([self._account_desk(index) for index in shards], hand_over)
        self.shelves = self._lanes_for([self._shelf_desk()] if draws else [], hand_over)
        self.lane_sets: Sequence[LaneSet[Any]] = (
            self.lanes,
            self.rebates,
            self.exchanges,
            self.accounts,
            self.shelves,
        )

    def __enter__(self) -> Self:
        self.live.start()
        self._finish_stock_moves()
        if self._relays:
            self.work.start(relays_only=not self.settings.work)
        for lanes in self.lane_sets:
            lanes.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain in order: the lanes answer what is queued, the relays deliver what they hold, connections go back."""
        drained = self._stop_lanes(timeout_seconds=STOP_SECONDS / 2)
        if self._relays:
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

    def turn(self, key: str, value: str) -> None:
        """Turn a switch, here at once and elsewhere within a second. Raises BadInput, naming what is known."""
        turn_switch(self.stores.config, key, value, now_ms=self.now_ms())
        self.live.refresh()

    def _lanes_for(self, desks: Sequence[Desk[T]], hand_over: Callable[[Settled], None]) -> LaneSet[T]:
        """Lanes of one kind, with a desk in each shard; without desks there are none."""
        settings = self.settings
        return LaneSet(
            [
                LaneShard(desk, relay.offer if self._relays else _leave_to_others)
                for desk, relay in zip(desks, self.work.relays, strict=False)
            ],
            shard_of=self.stores.routing.shard_of,
            now_ms=self.now_ms,
            ids=self.ids,
            hand_over=hand_over,
            settings=LaneSettings(
                lanes=settings.lanes or (1 if settings.shard_urls[0].startswith(SQLITE) else 2),
                batch_max=settings.batch_max,
                queue_max=settings.queue_max,
                queue_seconds=settings.draw_deadline_seconds * QUEUE_SHARE,
            ),
        )

    def _stop_lanes(self, *, timeout_seconds: float) -> bool:
        """Answer what is queued in lanes of every kind; whether that was done in time."""
        give_up_at = time.monotonic() + timeout_seconds
        in_time = [lanes.stop(timeout_seconds=max(0.0, give_up_at - time.monotonic())) for lanes in self.lane_sets]
        return all(in_time)

    def _live_now(self) -> Mapping[int, LiveActivity]:
        return self.live.current

    def _draw_desk(self, index: int) -> DrawDesk:
        """A shard's draws; with several shards, what it lacks of a prize is fetched from the others."""
        shard, live = self.stores.shards[index], self._live_now
        if self.escrow is None:
            return DrawDesk(shard, live=live)
        store = EscrowedStore(shard, self.escrow, live=live)
        return DrawDesk(store, live=live, fetch_stock=partial(self.escrow.fetch, index))

    def _behavior_desk(self, index: int) -> BehaviorDesk:
        """A shard's behaviors."""
        return BehaviorDesk(self.stores.shards[index], live=self._live_now, ids=self.ids)

    def _exchange_desk(self, index: int) -> ExchangeDesk:
        """A shard's exchanges; with several shards, units that it lacks are fetched from the others."""
        shard, live = self.stores.shards[index], self._live_now
        if self.escrow is None:
            return ExchangeDesk(shard, live=live)
        store = EscrowedExchanges(shard, self.escrow)
        return ExchangeDesk(store, live=live, fetch_stock=partial(self.escrow.fetch, index))

    def _account_desk(self, index: int) -> AccountDesk:
        """Looks at a shard's accounts."""
        return AccountDesk(self.stores.shards[index], live=self._live_now)

    def _shelf_desk(self) -> ShelfDesk:
        """Looks at what is sold; one desk sees the stock of all shards."""
        return ShelfDesk(self.stores, live=self._live_now)

    def _finish_stock_moves(self) -> None:
        """Whatever an earlier process left half-way; if a database does not answer yet, the job does it."""
        try:
            if self.escrow is not None:
                self.escrow.sweep()
        except Trouble as trouble:
            log.warning("stock moves not finished", reason=str(trouble))

    def _new_bus(self, index: int) -> InProcessBus:
        """A shard's consumers; with several shards, what they lack of a sku is fetched from the others."""
        shard = self.stores.shards[index]
        facts = Facts(self.seed_of, self._live_now, note_sold_out=partial(self._note_sold_out, index))
        if (escrow := self.escrow) is None:
            return InProcessBus(shard, CONSUMERS, now_ms=self.now_ms, facts=facts)
        return InProcessBus(
            shard,
            CONSUMERS,
            now_ms=self.now_ms,
            facts=facts._replace(sold_out=partial(sold_out, escrow)),
            fetch_stock=partial(escrow.fetch, index),
        )

    def _note_sold_out(self, index: int) -> None:
        self.sold_out[index] += 1

    def _new_work(self, *, scan_seconds: float) -> Work:
        jobs = self._jobs()
        names = [relay_lease(index) for index in range(len(self.stores.shards))] + [job.lease for job in jobs]
        leases = Leases(self.stores.config, names, holder=self.ids.make(self.now_ms()))
        buses = [self._new_bus(index) for index in range(len(self.stores.shards))]
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
        dispatchers = [
            Dispatcher(
                shard,
                self.fulfillers,
                now_ms=self.now_ms,
                may_dispatch=partial(leases.holds, relay_lease(index)),
            )
            for index, shard in enumerate(self.stores.shards)
        ]
        schedule = Schedule(jobs, fencing_of=leases.fencing, now_ms=self.now_ms)
        return Work(relays, consumers, dispatchers, schedule, leases, outgoing)

    def _new_fulfillers(self) -> dict[str, Fulfiller]:
        """Who carries out the deliveries of each kind that takes more than a transaction."""
        webhooks = WebhookFulfiller(self.poster, find=self._find_endpoint, close=self._close_endpoint)
        codes = CodeFulfiller(self.stores.config)
        return {name: webhooks if kind.gives == "webhook" else codes for name, kind in OUTSIDE_KINDS.items()}

    def _find_endpoint(self, name: str) -> Endpoint | None:
        with self.stores.config.reading() as connection:
            return find_endpoint(connection, name)

    def _close_endpoint(self, name: str) -> None:
        with self.stores.config.updating() as connection:
            set_endpoint_state(connection, name, "close")

    def _jobs(self) -> list[Job]:
        """Everything that runs every so often."""
        jobs = [
            Job("backlog", BACKLOG_SECONDS, "counts what waits and what is parked, for /metrics", self.backlog.look)
        ]
        expiry = Expiry(self.stores.shards, facts=Facts(self.seed_of, self._live_now), now_ms=self.now_ms)
        what = "ends unpaid orders when their time is over"
        jobs.append(Job("unpaid-orders", EXPIRY_SECONDS, what, expiry.run))
        what = "erases where things were sent to, some time after they were shipped"
        jobs.append(Job("contacts", ERASE_SECONDS, what, self._erase_contacts))
        if (escrow := self.escrow) is not None:
            what = "finishes moves of stock that a crash left half-way"
            jobs.append(Job("stock-moves", STOCK_MOVES_SECONDS, what, lambda _: _done(escrow.sweep())))
            what = "brings stock back from shards that have far more than others"
            jobs.append(Job("stock-balance", STOCK_BALANCE_SECONDS, what, lambda _: _done(escrow.rebalance())))
        if self.settings.broker:
            lost = Redelivery(
                self.stores.shards,
                revision_of=self.revision_of,
                busy=lambda: sum(broker_depths(self.settings).values()) > BUSY_MESSAGES,
                now_ms=self.now_ms,
            )
            what = "sends awards and rebates again whose message the broker lost"
            jobs.append(Job("redelivery", REDELIVERY_SECONDS, what, lost.run))
        return jobs

    def _erase_contacts(self, _: int) -> None:
        before_ms = self.now_ms() - self.settings.contact_days * DAY_MS
        for shard in self.stores.shards:
            for _round in range(ERASES_MAX):
                with shard.updating() as connection:
                    if erase_contacts(connection, before_ms=before_ms, limit=ERASED_TOGETHER) < ERASED_TOGETHER:
                        break

    def _park(self, shard: Store, task: Task, reason: str) -> None:
        shard.park_task(ParkedTask(*task, reason), now_ms=self.now_ms())


def poster_of(settings: Settings) -> Poster:
    """What webhooks are called by."""
    return Poster(allowed=Allowed(settings.webhook_hosts, settings.webhook_networks))


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
