"""The embedded store: one SQLite file, no service. WAL, synchronous=FULL, one writer at a time.

Writers of this process queue in order of arrival (``Turnstile``); writers of other processes are waited for by
SQLite's busy handler, for a bounded time. Every transaction that may write begins IMMEDIATE, so it can never fail
half-way for want of the write lock. A ``Checkpointer`` keeps the write-ahead log short.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from bigmarket.activity.behavior import Behaved
from bigmarket.activity.exchange import Exchanged
from bigmarket.draw import Drawn
from bigmarket.errors import BigmarketError, Contention, OutcomeUnknown, StorageFull, Trouble
from bigmarket.outbox.task import GRACE_MS
from bigmarket.storage.checkpoints import Checkpointer
from bigmarket.storage.delivery_tx import SqlDeliveryTx
from bigmarket.storage.exchange_tx import SqlExchangeTx
from bigmarket.storage.look_tx import SqlLookTx
from bigmarket.storage.outbox_store import OutboxStore
from bigmarket.storage.rebate_tx import SqlBehaviorTx
from bigmarket.storage.recharging import SqlRechargeTx
from bigmarket.storage.routing import WHOLE, SplitTables
from bigmarket.storage.sqlite_bulk import SqliteBulk, in_one
from bigmarket.storage.sqlite_delivery import STATEMENTS as DELIVERY
from bigmarket.storage.sqlite_draw import STATEMENTS as DRAW
from bigmarket.storage.sqlite_draw import SqliteDrawTx
from bigmarket.storage.sqlite_exchange import STATEMENTS as EXCHANGE
from bigmarket.storage.sqlite_look import STATEMENTS as LOOK
from bigmarket.storage.sqlite_rebate import STATEMENTS as REBATE

# A draw waits for the write lock for less than its caller waits for the draw, so that the answer can be "nothing was
# spent"; whoever applies a campaign or recharges has more patience.
DRAW_TURN_SECONDS = 0.6  # behind writers of this process
DRAW_BUSY_SECONDS = 0.6  # behind writers of others
BUSY_WAIT_SECONDS = 3.0
LOG_PAGES_MAX = 64_000  # of the write-ahead log (256 MB): so long, a commit shortens it itself
CACHE_KIB = 65_536
READERS_MAX = 8
FULL = 2  # as PRAGMA synchronous reports it

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}",
    f"PRAGMA cache_size = -{CACHE_KIB}",
    "PRAGMA temp_store = MEMORY",
)


class Turnstile:
    """A lock that lets waiters through in order of arrival; a plain lock would let a busy lane starve the rest."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    @contextmanager
    def passed(self, *, wait_seconds: float) -> Iterator[None]:
        """Inside, nobody else is. Raises ``Contention`` when the turn does not come in time."""
        self._enter(wait_seconds)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, wait_seconds: float) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        if gate.acquire(timeout=wait_seconds):
            return
        with self._mutex:
            if gate in self._waiting:
                self._waiting.remove(gate)
                raise Contention(
                    "Other writers of this process kept the database busy; nothing was spent. Try again."
                )

    def _leave(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


class SqliteStore(OutboxStore):
    """One SQLite file at ``path``; the folder must exist.

    New tasks are left to this process for ``grace_ms``; 0 when it does not relay.
    """

    in_one = staticmethod(in_one)

    def __init__(self, path: Path, *, split: SplitTables = WHOLE, grace_ms: int = GRACE_MS) -> None:
        self.path = path
        self.split = split
        self._grace_ms = grace_ms
        self._turnstile = Turnstile()
        with translated():
            self._writer = connect(path, wait_seconds=DRAW_BUSY_SECONDS)
        self._cold_writer = _engine(path, begin="BEGIN IMMEDIATE", pool_size=1)
        self._reader = _engine(path, begin="BEGIN", pool_size=READERS_MAX)
        self._checkpointer = Checkpointer(path, connect=lambda: connect(path), nobody_writes=self._nobody_writes)

    @contextmanager
    def drawing(self) -> Iterator[SqliteDrawTx]:
        """One draw transaction (lanes.py says what may be raised)."""
        with self._transaction() as connection:
            yield self._draw_tx(connection)

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        """Those of ``draws`` that exist, by order id; on a connection of its own."""
        with translated():
            connection = connect(self.path)
            try:
                return self._draw_tx(connection).find_draws(draws)
            finally:
                connection.close()

    @contextmanager
    def behaving(self) -> Iterator[SqlBehaviorTx]:
        """One transaction of behaviors, on the same writer as the draws."""
        with self._transaction() as connection:
            yield self._behavior_tx(connection)

    def find_behaved(self, answers: Sequence[Behaved]) -> set[str]:
        """The order ids of those of ``answers`` that exist; on a connection of its own."""
        with translated():
            connection = connect(self.path)
            try:
                return self._behavior_tx(connection).find_behaved(answers)
            finally:
                connection.close()

    @contextmanager
    def exchanging(self) -> Iterator[SqlExchangeTx]:
        """One exchange transaction, on the same writer as the draws."""
        with self._transaction() as connection:
            yield self._exchange_tx(connection)

    def find_payments(self, purchases: Sequence[Exchanged]) -> Mapping[str, str]:
        """The out_business_no of each payment that is written, by order id; on a connection of its own."""
        with translated():
            connection = connect(self.path)
            try:
                return self._exchange_tx(connection).find_payments(purchases)
            finally:
                connection.close()

    @contextmanager
    def looking(self) -> Iterator[SqlLookTx]:
        """One read transaction of looks, beside the writer: it takes no turn and no write lock."""
        with translated(), closing(self._reader.raw_connection()) as pooled:
            connection = pooled.driver_connection
            assert isinstance(connection, sqlite3.Connection)
            connection.execute("BEGIN")
            try:
                yield SqlLookTx(SqliteBulk(connection), LOOK)
            finally:
                _roll_back(connection)

    @contextmanager
    def delivering(self) -> Iterator[SqlDeliveryTx]:
        """One delivery transaction, on the same writer as the draws."""
        with self._transaction() as connection:
            yield SqlDeliveryTx(SqliteBulk(connection), DELIVERY, split=self.split)

    @contextmanager
    def recharging(self, user_id: str) -> Iterator[SqlRechargeTx]:
        """One recharge transaction."""
        with self.writing() as connection:
            yield SqlRechargeTx(connection, suffix=self.split.suffix_of(user_id))

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction for cold paths, as a SQLAlchemy connection; committed when the block ends."""
        with self._turnstile.passed(wait_seconds=BUSY_WAIT_SECONDS), translated():
            with self._cold_writer.begin() as connection:
                yield connection
            self._checkpointer.committed()

    def updating(self) -> AbstractContextManager[Connection]:
        """Writes have the same patience here."""
        return self.writing()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One read transaction: a consistent view that blocks nobody."""
        with translated(), self._reader.connect() as connection:
            yield connection

    def examining(self) -> AbstractContextManager[Connection]:
        """Reads have no time limit here, and every one is consistent."""
        return self.reading()

    def migrating(self) -> AbstractContextManager[Connection]:
        """A write transaction keeps other processes out, so several may start at once."""
        return self.writing()

    def clock_ms(self) -> int:
        """This machine's clock: nobody else can have the file open."""
        return time.time_ns() // 1_000_000

    def durability_faults(self) -> list[str]:
        """Settings under which an acknowledged draw could be lost; none when all is well."""
        with self._turnstile.passed(wait_seconds=BUSY_WAIT_SECONDS), translated():
            journal = self._writer.execute("PRAGMA journal_mode").fetchone()[0]
            synchronous = self._writer.execute("PRAGMA synchronous").fetchone()[0]
        faults = [] if journal == "wal" else [f"journal_mode is {journal}, not wal"]
        return faults if synchronous >= FULL else [*faults, f"synchronous is {synchronous}, not FULL"]

    def close(self) -> None:
        """Give every connection back; the last one folds the write-ahead log into the file."""
        self._checkpointer.stop()
        self._cold_writer.dispose()
        self._reader.dispose()
        self._writer.close()

    def _draw_tx(self, connection: sqlite3.Connection) -> SqliteDrawTx:
        return SqliteDrawTx(SqliteBulk(connection), DRAW, split=self.split, grace_ms=self._grace_ms)

    def _behavior_tx(self, connection: sqlite3.Connection) -> SqlBehaviorTx:
        return SqlBehaviorTx(SqliteBulk(connection), REBATE, split=self.split, grace_ms=self._grace_ms)

    def _exchange_tx(self, connection: sqlite3.Connection) -> SqlExchangeTx:
        return SqlExchangeTx(SqliteBulk(connection), DELIVERY, EXCHANGE, split=self.split)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """BEGIN IMMEDIATE ... COMMIT on the hot writer; always rolled back when the block raises."""
        connection = self._writer
        with self._turnstile.passed(wait_seconds=DRAW_TURN_SECONDS), translated():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                _roll_back(connection)
                raise
            try:
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                if not connection.in_transaction and _code_of(error) != sqlite3.SQLITE_FULL:
                    raise OutcomeUnknown("The commit failed half-way; its outcome is being looked up.") from error
                _roll_back(connection)
                raise
            self._checkpointer.committed()

    @contextmanager
    def _nobody_writes(self) -> Iterator[None]:
        """Inside, no process can write."""
        with self._turnstile.passed(wait_seconds=BUSY_WAIT_SECONDS), translated():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                _roll_back(self._writer)


def connect(path: Path, *, wait_seconds: float = BUSY_WAIT_SECONDS) -> sqlite3.Connection:
    """A connection with this store's settings, in autocommit mode until BEGIN.

    It waits ``wait_seconds`` at most for a lock that another process holds.
    """
    connection = sqlite3.connect(
        path, timeout=wait_seconds, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    for pragma in _PRAGMAS:
        connection.execute(pragma).fetchall()
    return connection


def _engine(path: Path, *, begin: str, pool_size: int) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: connect(path),
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=BUSY_WAIT_SECONDS,
        hide_parameters=True,  # what is logged of a fault may hold where things are sent to, or a secret
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite may have rolled back by itself
        connection.execute("ROLLBACK")


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's own errors into ours; whatever fails here was rolled back, so nothing was spent."""
    try:
        yield
    except BigmarketError:
        raise
    except Exception as error:
        cause = getattr(error, "orig", error)
        trouble = _trouble_of(cause) if isinstance(cause, sqlite3.Error) else None
        if trouble is None:
            raise
        raise trouble from error


def _trouble_of(error: sqlite3.Error) -> Trouble | None:
    code = _code_of(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Contention("Another process kept the database locked; nothing was spent. Try again.")
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(
            "The disk or the database file is full; nothing was spent. Free some space, then try again."
        )
    if code in _FILE_FAULTS:
        return Trouble(f"The database file cannot be used ({error}); nothing was spent.")
    return None


_FILE_FAULTS = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CORRUPT,
)


def _code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
