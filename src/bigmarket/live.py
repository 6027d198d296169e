"""What runs now: activities and switches, read anew from the configuration database several times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.revision import Revision
from bigmarket.errors import Trouble
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.switches import read_switches
from bigmarket.switches import Switches

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 0.25


class Live:
    """The activities as they run now and the switches as they stand, read anew from the store several times a second.

    ``current`` and ``switches`` are replaced as a whole, never changed, so readers need no lock. When the store
    cannot be read the last known state stays in force. ``switches`` is given as it is until operators say other.
    """

    def __init__(self, store: Store, *, switches: Switches) -> None:
        self._store = store
        self._switches = switches
        self._stopping = threading.Event()
        self._refreshing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self.current: Mapping[int, LiveActivity] = {}
        self.switches = switches
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
                self.switches = self._switches.turned(read_switches(connection))
            self.refreshed_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopping.wait(REFRESH_SECONDS):
            try:
                self.refresh()
            except Trouble as trouble:
                log.warning("configuration not refreshed; the last known stays in force", reason=str(trouble))
            except Exception:
                log.exception("configuration not refreshed; the last known stays in force")
