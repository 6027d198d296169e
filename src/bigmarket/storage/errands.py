"""Errands to other databases, which must not hold up those who wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from bigmarket.errors import Trouble

ERRAND_SECONDS = 0.8  # a lane waits no longer, whatever database is frozen


class Errands:
    """One errand at a time; nobody waits longer for it than ``ERRAND_SECONDS``, though it may go on."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._stuck = False

    def run(self, errand: Callable[[], None]) -> None:
        """Do it in a thread of its own. Raises what it raises, or ``Trouble`` when it takes too long."""
        if (self._stuck and self._busy.locked()) or not self._busy.acquire(timeout=ERRAND_SECONDS):
            raise Trouble(_LATE)
        self._stuck = False
        done: Future[None] = Future()
        threading.Thread(target=self._do, args=(errand, done), name="stock errand", daemon=True).start()
        try:
            done.result(ERRAND_SECONDS)
        except TimeoutError:
            self._stuck = not done.done()
            raise Trouble(_LATE) from None

    def _do(self, errand: Callable[[], None], done: Future[None]) -> None:
        fault: BaseException | None = None
        try:
            errand()
        except BaseException as error:  # noqa: BLE001  whoever waits is told
            fault = error
        self._busy.release()
        if fault is None:
            done.set_result(None)
        else:
            done.set_exception(fault)


_LATE = "Units of a prize could not be brought from another database in time; nothing was spent. Try again."
