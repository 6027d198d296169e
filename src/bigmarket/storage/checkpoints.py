"""Keeps SQLite's write-ahead log short while draws go on.

SQLite itself would copy a long log into the file within the COMMIT that made it long, and every draw would wait for
that. Here a thread copies most of it beside the writers, then the rest, which takes a few milliseconds, while nobody
writes: all being copied, the next writer begins the log anew.

Up to version 3.51.2, SQLite may corrupt a file when a commit begins the log anew while another connection starts to
copy it (https://sqlite.org/wal.html#walresetbug). That needs a log of which all is copied already. So copying starts
here only while nobody can write, or when something was certainly committed since all else was copied: no other
process copies, as only who holds the lock of a file beside the database does.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import structlog

from bigmarket.errors import Trouble

if sys.platform != "win32":
    import fcntl

log = structlog.get_logger(__name__)

ROUND_SECONDS = 0.25  # at 10,000 draws a second the log grows to 60 MB meanwhile
AGAIN_SECONDS = 0.005  # what came during a large copy is copied, too, before writers have to wait
LOG_SECONDS = 10.0  # trouble that goes on is told once in this time
STOP_SECONDS = 5.0


class Checkpointer:
    """The thread of one store. ``nobody_writes`` keeps writers of all processes out, or raises ``Trouble``."""

    def __init__(
        self,
        path: Path,
        *,
        connect: Callable[[], sqlite3.Connection],
        nobody_writes: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._lock_path = path.with_name(f"{path.name}-checkpointer")
        self._connect = connect
        self._nobody_writes = nobody_writes
        self._written = threading.Event()
        self._stopping = threading.Event()
        self._log_again_at = 0.0
        self._thread = threading.Thread(target=self._run, name="checkpointer", daemon=True)
        self._thread.start()

    def committed(self) -> None:
        """This process wrote, so it sees to the log unless another does."""
        if not self._written.is_set():
            self._written.set()

    def stop(self) -> None:
        """End the thread; what is in the log stays there."""
        self._stopping.set()
        self._written.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while True:
            self._written.wait()
            if self._stopping.wait(ROUND_SECONDS):
                return
            try:
                with locked(self._lock_path) as alone:
                    if alone:
                        self._keep_short()
            except (sqlite3.Error, OSError, Trouble) as trouble:
                self._tell(trouble)

    def _keep_short(self) -> None:
        """Round after round, until this process wrote nothing during one."""
        with closing(self._connect()) as connection:
            self._copy_the_rest(connection)
            while self._written.is_set():
                self._written.clear()
                for pause in (ROUND_SECONDS, AGAIN_SECONDS):
                    copied_at = version(connection)
                    if self._stopping.wait(pause):
                        return
                    if version(connection) != copied_at:
                        copy(connection)
                self._copy_the_rest(connection)

    def _copy_the_rest(self, connection: sqlite3.Connection) -> None:
        with self._nobody_writes():
            copy(connection)

    def _tell(self, trouble: Exception) -> None:
        if time.monotonic() >= self._log_again_at:
            log.warning("the write-ahead log was not copied; it grows until it can be", reason=str(trouble))
            self._log_again_at = time.monotonic() + LOG_SECONDS


def copy(connection: sqlite3.Connection) -> None:
    """Copy what is committed and what no reader needs in the log; waits for nobody."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def version(connection: sqlite3.Connection) -> int:
    """Another number whenever others have committed something, or copied here, since it was asked for last."""
    found: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return found


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether nobody else has locked the file at ``path``, which is made if need be; then it is locked inside."""
    if sys.platform == "win32":  # has no such locks: SQLite is left to shorten the log itself
        yield False
        return
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True  # and unlocked where the file is closed
