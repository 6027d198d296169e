"""Builds the World from settings. The only file that names adapters."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.orders import Bundle, QuotaOrder, recharge
from bigmarket.activity.revision import Revision
from bigmarket.award.kinds import KINDS
from bigmarket.bus.in_process import InProcessBus
from bigmarket.errors import BigmarketError, Trouble
from bigmarket.ids import Ids
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.lanes import DrawShard, LaneSet, LaneSettings, Settled, set_futures
from bigmarket.outbox.relay import Relay
from bigmarket.outbox.task import GRACE_MS
from bigmarket.settings import Settings
from bigmarket.storage import queries
from bigmarket.storage.campaigns import Armed, arm, load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores, prepare
from bigmarket.storage.mysql import MySqlStore
from bigmarket.storage.routing import Routing, SplitTables
from bigmarket.storage.sqlite import SqliteStore

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 0.25
STOP_SECONDS = 8.0
QUEUE_SHARE = 0.35  # of a draw's deadline may pass in the queue; the rest is for its transaction
SEED_BYTES = 32
SEEDS_KEPT = 1024
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

    def stop(self) -> None:
        """Stop following."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(REFRESH_SECONDS + 5)

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
    """Everything that runs: the databases, the live configuration, the lanes and the relays.

    As a context manager it starts on entry and drains on exit.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        hand_over: Callable[[Settled], None] = set_futures,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.settings = settings
        self.now_ms = clock
        self.ids = Ids()
        self.stores = open_stores(settings, relays=settings.work)
        self.live = Live(self.stores.config)
        self.seed_of = lru_cache(maxsize=SEEDS_KEPT)(self._read_seed)  # a seed never changes
        self.relays = tuple(self._relay_of(shard) for shard in self.stores.shards)
        self.lanes = LaneSet(
            [
                DrawShard(shard, relay.offer if settings.work else _leave_to_others)
                for shard, relay in zip(self.stores.shards, self.relays, strict=True)
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
        if self.settings.work:
            for relay in self.relays:
                relay.start()
        self.lanes.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain in order: the lanes answer what is queued, the relays deliver what they hold, connections go back."""
        drained = self.lanes.stop(timeout_seconds=STOP_SECONDS / 2)
        if self.settings.work:
            give_up_at = time.monotonic() + STOP_SECONDS / 2
            for relay in self.relays:
                drained = relay.stop(timeout_seconds=max(0.0, give_up_at - time.monotonic())) and drained
        self.live.stop()
        if drained:
            self.stores.close()
        else:
            log.warning("stopped before everything was drained; the rest is delivered at the next start")

    def arm(self, activity_id: int) -> Armed:
        """Compile an activity's configuration and make it live, here at once and elsewhere within a second."""
        with self.stores.config.writing() as connection:
            armed = arm(connection, activity_id, kinds=KIND_CHECKS, now_ms=self.now_ms(), new_seed=new_seed)
        self.live.refresh()
        return armed

    def recharge(self, user_id: str, *, sku: int, out_business_no: str) -> QuotaOrder:
        """Credit a user with a sku's draws, once per ``out_business_no``."""
        now = self.now_ms()
        with self.stores.of(user_id).recharging(user_id) as tx:
            return recharge(
                tx,
                user_id=user_id,
                sku=sku,
                out_business_no=out_business_no,
                now_ms=now,
                order_id=self.ids.make(now),
                live=self.live.current,
                bundle_of=self._read_bundle,
            )

    def _relay_of(self, shard: Store) -> Relay:
        bus = InProcessBus(shard, CONSUMERS, now_ms=self.now_ms, seed_of=self.seed_of)
        return Relay(shard, deliver=bus.deliver, now_ms=self.now_ms)

    def _read_seed(self, activity_id: int, epoch: int) -> bytes:
        with self.stores.config.reading() as connection:
            return queries.seed_of(connection, activity_id, epoch)

    def _read_bundle(self, sku: int) -> Bundle | None:
        with self.stores.config.reading() as connection:
            return queries.bundle_of(connection, sku)


def _leave_to_others(tasks: Sequence[object]) -> None:
    """Another process's relay finds the tasks in the store."""


KIND_CHECKS = {name: kind.check for name, kind in KINDS.items()}

__all__ = ["KIND_CHECKS", "BigmarketError", "Live", "World", "new_seed", "now_ms", "open_stores"]
