"""SQLite's write-ahead log is copied beside the writers, and never when a commit could begin it anew meanwhile."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest

from bigmarket.errors import Contention
from bigmarket.storage import checkpoints
from bigmarket.storage.sqlite import SqliteStore
from waiting import eventually

WAIT = 20.0
PAGE = 4096

# Apart, as closing the file of shared memory here would drop SQLite's locks. Its header says how many frames
# the log has, and at 96 how many of them are copied (https://sqlite.org/walformat.html).
LOOKS = """
import mmap, struct, sys
with open(sys.argv[1], "rb") as file:
    memory = mmap.mmap(file.fileno(), 136, access=mmap.ACCESS_READ)
for _ in sys.stdin:
    print(*struct.unpack_from("=I", memory, 16), *struct.unpack_from("=I", memory, 96), flush=True)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "ROUND_SECONDS", 0.005)
    monkeypatch.setattr(checkpoints, "AGAIN_SECONDS", 0.001)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "draws.db")
    with opened.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
    yield opened
    opened.close()


def write(store: SqliteStore, rows: int = 1) -> None:
    with store.writing() as connection:
        for _ in range(rows):
            connection.exec_driver_sql("INSERT INTO t (text) VALUES (?)", ("x" * 3000,))


def write_nothing(store: SqliteStore) -> None:
    with store.drawing():
        pass


@contextmanager
def busy(*work: Callable[[], None]) -> Iterator[None]:
    """Each in a thread of its own, again and again."""
    over = threading.Event()

    def repeat(some: Callable[[], None]) -> None:
        while not over.is_set():
            with suppress(Contention):
                some()
            time.sleep(0.002)

    with ThreadPoolExecutor(len(work)) as threads:
        repeating = [threads.submit(repeat, some) for some in work]
        try:
            yield
        finally:
            over.set()
    for some in repeating:
        some.result()


def times_begun_anew(store: SqliteStore) -> int:
    """As the log's own header counts it."""
    return int.from_bytes(store.path.with_name(f"{store.path.name}-wal").read_bytes()[12:16], "big")


@pytest.mark.parametrize("runs", [True, False], ids=["as it is", "switched off"])
def test_the_log_is_begun_anew_again_and_again_while_others_write(store: SqliteStore, runs: bool) -> None:
    if not runs:
        store._checkpointer.stop()
    with busy(lambda: write(store)):
        if runs:
            eventually(lambda: times_begun_anew(store) >= 5)
        else:
            eventually(lambda: store.path.with_name(f"{store.path.name}-wal").stat().st_size > 300 * PAGE)
            assert times_begun_anew(store) == 0


@pytest.mark.parametrize("beside", [True, False], ids=["most of the log", "the rest"])
def test_writers_wait_only_for_the_rest(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, beside: bool) -> None:
    held, released, quiet = threading.Event(), threading.Event(), threading.Event()
    nobody_writes, copy = store._checkpointer._nobody_writes, checkpoints.copy

    @contextmanager
    def noted() -> Iterator[None]:
        with nobody_writes():
            quiet.set()
            yield
            quiet.clear()

    def holding(connection: sqlite3.Connection) -> None:
        if quiet.is_set() is not beside:
            held.set()
            assert released.wait(WAIT)
        copy(connection)

    monkeypatch.setattr(store._checkpointer, "_nobody_writes", noted)
    monkeypatch.setattr(checkpoints, "copy", holding)
    with busy(lambda: None if held.is_set() else write(store)):
        assert held.wait(WAIT)
        late = threading.Thread(target=write, args=(store,))
        late.start()
        late.join(WAIT if beside else 0.3)
        assert late.is_alive() is not beside
        released.set()
        late.join(WAIT)


def python(text: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs ``text``; it reads and is read."""
    command = [sys.executable, "-c", text, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603


class Watch:
    """Looks at the log, from another process, whenever copying starts that keeps nobody from writing."""

    def __init__(self, stores: list[SqliteStore], monkeypatch: pytest.MonkeyPatch) -> None:
        self.safe: list[bool] = []
        self._quiet = threading.local()
        self._one_asks = threading.Lock()
        self._copy = checkpoints.copy
        monkeypatch.setattr(checkpoints, "copy", self._copies)
        for each in (store._checkpointer for store in stores):
            monkeypatch.setattr(each, "_nobody_writes", self._marking(each._nobody_writes))
        shared = stores[0].path.with_name(f"{stores[0].path.name}-shm")
        self._looking = python(LOOKS, str(shared))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._looking.communicate(timeout=WAIT)

    def _marking(self, nobody_writes: Callable[[], AbstractContextManager[None]]) -> Callable[[], Any]:
        @contextmanager
        def marked() -> Iterator[None]:
            with nobody_writes():
                self._quiet.here = True
                try:
                    yield
                finally:
                    self._quiet.here = False

        return marked

    def _copies(self, connection: sqlite3.Connection) -> None:
        if not getattr(self._quiet, "here", False):
            with self._one_asks:
                assert self._looking.stdin
                assert self._looking.stdout
                self._looking.stdin.write("?\n")
                self._looking.stdin.flush()
                frames, copied = map(int, self._looking.stdout.readline().split())
            self.safe.append(copied < frames or copied == 0)  # with none copied it is not begun anew either
        self._copy(connection)


@pytest.mark.parametrize("without", ["", "the lock"])
def test_copying_beside_writers_never_starts_when_all_is_copied(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """Two stores on one file, as two processes would have them."""
    write(store)
    other = SqliteStore(store.path)
    if without:
        monkeypatch.setattr(checkpoints, "locked", lambda _: nullcontext(True))
    with Watch([store, other], monkeypatch) as watch:
        with busy(lambda: write(store), lambda: write(other), lambda: write_nothing(store)):
            if without:
                eventually(lambda: not all(watch.safe))
            else:
                eventually(lambda: len(watch.safe) >= 20)
                assert all(watch.safe)
        other.close()
        store.close()


@pytest.mark.parametrize("asks", [True, False], ids=["as it is", "switched off"])
def test_transactions_that_write_nothing_start_no_copying_beside_writers(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    numbers = count()
    if not asks:
        monkeypatch.setattr(checkpoints, "version", lambda _: next(numbers))
    write(store)
    with Watch([store], monkeypatch) as watch:
        with busy(lambda: write_nothing(store)):
            if asks:
                time.sleep(100 * checkpoints.ROUND_SECONDS)
                assert not watch.safe
            else:
                eventually(lambda: not all(watch.safe))
        store.close()


def test_nothing_is_lost_however_often_it_is_copied(store: SqliteStore) -> None:
    with busy(lambda: write(store, 20), lambda: write(store)):
        eventually(lambda: times_begun_anew(store) >= 10)
    with store.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        rows, most = connection.exec_driver_sql("SELECT COUNT(*), MAX(n) FROM t").one()
    assert rows == most


def test_trouble_is_told_and_does_not_end_it(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_writes = store._checkpointer._nobody_writes
    fails = threading.Event()
    fails.set()

    @contextmanager
    def failing() -> Iterator[None]:
        if fails.is_set():
            raise Contention("another process writes and writes")
        with nobody_writes():
            yield

    monkeypatch.setattr(store._checkpointer, "_nobody_writes", failing)
    told: list[Exception] = []
    monkeypatch.setattr(store._checkpointer, "_tell", told.append)
    with busy(lambda: write(store)):
        eventually(lambda: len(told) > 2)
        fails.clear()
        eventually(lambda: times_begun_anew(store) >= 2)


HOLDS = """
import sys
from pathlib import Path
from bigmarket.storage.checkpoints import locked
with locked(Path(sys.argv[1])) as alone:
    print(alone, flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_once_and_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with python(HOLDS, str(path)) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        with checkpoints.locked(path) as alone:
            assert not alone
        holder.kill()
        holder.wait(WAIT)
        with checkpoints.locked(path) as alone:
            assert alone
