"""Builds the World from settings. The only file that names adapters."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.orders import QuotaOrder, recharge
from bigmarket.activity.revision import Revision
from bigmarket.award.kinds import KINDS
from bigmarket.bus.in_process import InProcessBus
from bigmarket.errors import BigmarketError, Trouble
from bigmarket.ids import Ids
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.lanes import LaneSet, LaneSettings, Settled, set_futures
from bigmarket.outbox.relay import Relay
from bigmarket.settings import Settings
from bigmarket.storage.campaigns import Armed, arm, load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.migrate import migrate
from bigmarket.storage.sqlite import SqliteStore

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 0.25
STOP_SECONDS = 8.0
QUEUE_SHARE = 0.35  # of a draw's deadline may pass in the queue; the rest is for its transaction
SEED_BYTES = 32


def now_ms() -> int:
    """The clock: epoch milliseconds."""
    return time.time_ns() // 1_000_000


def new_seed() -> bytes:
    """A seed for a new epoch of the dice."""
    return secrets.token_bytes(SEED_BYTES)


def open_store(settings: Settings) -> Store:
    """The store that the settings name, with its schema up to date."""
    path = settings.database_path
    _make_home(settings.home)
    store = SqliteStore(path)
    migrate(store)
    if faults := store.durability_faults():
        raise Trouble(f"{path} would not keep what is acknowledged: {'; '.join(faults)}. Put it on a local disk.")
    return store


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Trouble(
            f"The folder {home} cannot be made: {error.strerror}. Set BIGMARKET_HOME to another."
        ) from error


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
    """Everything that runs: the store, the live configuration, the lanes and the relay.

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
        self.store = open_store(settings)
        self.live = Live(self.store)
        self.relay = Relay(
            self.store, deliver=InProcessBus(self.store, CONSUMERS, now_ms=clock).deliver, now_ms=clock
        )
        self.lanes = LaneSet(
            self.store,
            live=lambda: self.live.current,
            now_ms=clock,
            ids=self.ids,
            hand_tasks=self.relay.offer if settings.relay else _leave_to_others,
            hand_over=hand_over,
            settings=LaneSettings(
                lanes=settings.lanes,
                batch_max=settings.batch_max,
                queue_max=settings.queue_max,
                queue_seconds=settings.draw_deadline_seconds * QUEUE_SHARE,
            ),
        )

    def __enter__(self) -> Self:
        self.live.start()
        if self.settings.relay:
            self.relay.start()
        self.lanes.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain in order: the lanes answer what is queued, the relay delivers what it holds, the file is closed."""
        drained = self.lanes.stop(timeout_seconds=STOP_SECONDS / 2)
        if self.settings.relay:
            drained = self.relay.stop(timeout_seconds=STOP_SECONDS / 2) and drained
        self.live.stop()
        if drained:
            self.store.close()
        else:
            log.warning("stopped before everything was drained; the rest is delivered at the next start")

    def arm(self, activity_id: int) -> Armed:
        """Compile an activity's configuration and make it live, here at once and elsewhere within a second."""
        with self.store.writing() as connection:
            armed = arm(connection, activity_id, kinds=KIND_CHECKS, now_ms=self.now_ms(), new_seed=new_seed)
        self.live.refresh()
        return armed

    def recharge(self, user_id: str, *, sku: int, out_business_no: str) -> QuotaOrder:
        """Credit a user with a sku's draws, once per ``out_business_no``."""
        now = self.now_ms()
        with self.store.recharging() as tx:
            return recharge(
                tx,
                user_id=user_id,
                sku=sku,
                out_business_no=out_business_no,
                now_ms=now,
                order_id=self.ids.make(now),
                live=self.live.current,
            )


def _leave_to_others(tasks: Sequence[object]) -> None:
    """Another process's relay finds the tasks in the store."""


KIND_CHECKS = {name: kind.check for name, kind in KINDS.items()}

__all__ = ["KIND_CHECKS", "BigmarketError", "Live", "World", "new_seed", "now_ms", "open_store"]
