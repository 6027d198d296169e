"""The production store: one database of a MySQL or MariaDB server, or of an engine that speaks as they do.

MariaDB 10.6 or newer, MySQL 8.0.16 or newer: older ones ignore CHECK constraints.

READ COMMITTED, InnoDB, every wait bounded. Two pools: a quick one for draws, deliveries and the edge, whose
statements may not take long, and a patient one for campaigns, migrations and the doctor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from bigmarket.activity.behavior import Behaved
from bigmarket.activity.exchange import Exchanged
from bigmarket.activity.stock import GuardMissed
from bigmarket.draw import Drawn
from bigmarket.errors import BigmarketError, Contention, OutcomeUnknown, Overloaded, StorageFull, Trouble
from bigmarket.outbox.task import GRACE_MS
from bigmarket.settings import is_loopback
from bigmarket.storage.delivery_tx import SqlDeliveryTx
from bigmarket.storage.exchange_tx import SqlExchangeTx
from bigmarket.storage.look_tx import SqlLookTx
from bigmarket.storage.mysql_bulk import MySqlBulk, in_one
from bigmarket.storage.mysql_delivery import STATEMENTS as DELIVERY
from bigmarket.storage.mysql_draw import MySqlDrawTx, Rolled
from bigmarket.storage.mysql_exchange import STATEMENTS as EXCHANGE
from bigmarket.storage.mysql_look import STATEMENTS as LOOK
from bigmarket.storage.mysql_rebate import STATEMENTS as REBATE
from bigmarket.storage.mysql_wire import Wire, WiredConnection, wire_of
from bigmarket.storage.outbox_store import OutboxStore
from bigmarket.storage.rebate_tx import SqlBehaviorTx
from bigmarket.storage.recharging import SqlRechargeTx
from bigmarket.storage.routing import WHOLE, SplitTables

LOCK_WAIT_SECONDS = 3
STATEMENT_SECONDS = 4
ANSWER_SECONDS = 6  # the socket gives up after that; the server should have done so before
CONNECT_SECONDS = 2
POOL_WAIT_SECONDS = 0.25
STALE_SECONDS = 0.25  # a lost connection that is told so fast was lost while nobody used it
FRESH_SECONDS = 0.1  # after its last use a connection is not suspected of that
POOL_MAX = 24
PATIENT_MAX = 4
PATIENT_ANSWER_SECONDS = 3600
PATIENT_LOCK_WAIT_SECONDS = 10
MIGRATE_WAIT_SECONDS = 60
RECYCLE_SECONDS = 1800  # below any server's wait_timeout in use
SQL_MODE = "STRICT_ALL_TABLES"  # and so neither ANSI_QUOTES nor NO_BACKSLASH_ESCAPES
_CLIENT_FLAGS = 1 << 1 | 1 << 16  # FOUND_ROWS: a guard counts rows that it let through; MULTI_STATEMENTS
JSON_BYTES_MAX = 64 << 20  # MariaDB would cut an aggregated answer at 1 MiB

_LOCK_WAIT_TIMEOUT, _DEADLOCK, _QUERY_LIMITS = 1205, 1213, (1969, 3024, 1317)
_ROLLED_BACK = (_LOCK_WAIT_TIMEOUT, _DEADLOCK)  # all that a server may answer to a COMMIT that it did not do
_MISSED = {1062: "a unique key", 1690: "the guard of a statement"}
_FULL = (1021, 1114, 3675, 1041)
_LOST = (2002, 2003, 2006, 2013, 2014, 2055, 1053, 1927, 4031, 0)
_TOO_MANY_CONNECTIONS = (1040, 1203, 1226)
_READ_ONLY = (1290, 1792, 1836)
_NO_ENTRY = (1044, 1045, 1698)
_NO_DATABASE = 1049
_TABLE_EXISTS = 1050
_FRESH_UNTIL, _WIRE = "fresh_until", "wire"  # in a hot connection's info; the first by time.monotonic()
_UNKNOWN = "The connection was lost at the commit, so its outcome is not known yet; repeat the request to learn it."


class MySqlStore(OutboxStore):
    """The database that ``url`` names (``mysql+pymysql://`` or ``mysql+mysqldb://``).

    New tasks are left to this process for ``grace_ms``; 0 when it does not relay.
    """

    in_one = staticmethod(in_one)

    def __init__(self, url: str, *, split: SplitTables = WHOLE, grace_ms: int = GRACE_MS) -> None:
        self.url = make_url(url)
        self.split = split
        self._grace_ms = grace_ms
        self._rolled = Rolled()
        self._quick = _engine(self.url, pool=POOL_MAX, answer_seconds=ANSWER_SECONDS)
        self._patient = _engine(self.url, pool=PATIENT_MAX, answer_seconds=PATIENT_ANSWER_SECONDS)
        self._snapshots = self._patient.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def drawing(self) -> Iterator[MySqlDrawTx]:
        """One draw transaction (lanes.py says what may be raised)."""
        with self._transaction() as bulk:
            yield self._draw_tx(bulk)

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        """Those of ``draws`` that exist, by order id; waits for a commit that is under way."""
        with self._transaction() as bulk:
            return self._draw_tx(bulk).find_draws(draws)

    @contextmanager
    def behaving(self) -> Iterator[SqlBehaviorTx]:
        """One transaction of behaviors."""
        with self._transaction() as bulk:
            yield self._behavior_tx(bulk)

    def find_behaved(self, answers: Sequence[Behaved]) -> set[str]:
        """The order ids of those of ``answers`` that exist; waits for a commit that is under way."""
        with self._transaction() as bulk:
            return self._behavior_tx(bulk).find_behaved(answers)

    @contextmanager
    def exchanging(self) -> Iterator[SqlExchangeTx]:
        """One exchange transaction."""
        with self._transaction() as bulk:
            yield self._exchange_tx(bulk)

    def find_payments(self, purchases: Sequence[Exchanged]) -> Mapping[str, str]:
        """The out_business_no of each payment that is written, by order id; waits for a commit that is under way."""
        with self._transaction() as bulk:
            return self._exchange_tx(bulk).find_payments(purchases)

    @contextmanager
    def looking(self) -> Iterator[SqlLookTx]:
        """One transaction that only reads."""
        with self._transaction() as bulk:
            yield SqlLookTx(bulk, LOOK)

    @contextmanager
    def delivering(self) -> Iterator[SqlDeliveryTx]:
        """One delivery transaction."""
        with self._transaction() as bulk:
            yield SqlDeliveryTx(bulk, DELIVERY, split=self.split)

    @contextmanager
    def recharging(self, user_id: str) -> Iterator[SqlRechargeTx]:
        """One recharge transaction."""
        with self._quickly() as connection:
            yield SqlRechargeTx(connection, suffix=self.split.suffix_of(user_id))

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete tasks that are done, by their key: the relay does so after every batch."""
        with self._transaction() as bulk:
            SqlDeliveryTx(bulk, DELIVERY, split=self.split).finish_tasks(message_ids)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction for cold paths; committed when the block ends."""
        with translated(self.url), _committed(self._patient) as connection:
            yield connection

    def updating(self) -> AbstractContextManager[Connection]:
        """One short write transaction for cold paths."""
        return self._quickly()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One read transaction with quick queries; it blocks nobody."""
        with translated(self.url), self._quick.connect() as connection:
            yield connection

    @contextmanager
    def examining(self) -> Iterator[Connection]:
        """One consistent snapshot, without a limit of time; it blocks nobody."""
        with translated(self.url), self._snapshots.connect() as connection:
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A connection that may change the schema; a named lock of the server lets one process at a time through.

        DDL commits by itself on MySQL, so a migration that breaks half-way leaves what it has done so far.
        """
        name = f"bigmarket.{self.url.database}"[:64]
        with translated(self.url), self._patient.connect() as connection:
            if not connection.execute(
                text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": MIGRATE_WAIT_SECONDS}
            ).scalar_one():
                raise Contention(
                    "Another process has been changing the schema for a minute. Try again when it is done."
                )
            connection.commit()
            try:
                yield connection
                connection.commit()
            finally:
                connection.rollback()
                connection.execute(text("DO RELEASE_LOCK(:name)"), {"name": name})
                connection.commit()

    def clock_ms(self) -> int:
        """The server's clock."""
        with self.reading() as connection:
            return int(connection.execute(text("SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)")).scalar_one())

    def durability_faults(self) -> list[str]:
        """Settings of the server under which an acknowledged commit could be lost; none when all is well."""
        with self.reading() as connection:
            found = connection.execute(text("SHOW GLOBAL VARIABLES")).all()
        variables = {name.lower(): str(value).upper() for name, value in found}
        faults = []
        if (flush := variables.get("innodb_flush_log_at_trx_commit", "1")) != "1":
            faults.append(f"innodb_flush_log_at_trx_commit is {flush}, not 1")
        if (double := variables.get("innodb_doublewrite", "ON")) in ("OFF", "0", "DETECT_ONLY"):
            faults.append(f"innodb_doublewrite is {double}, not ON")
        if variables.get("log_bin") in ("ON", "1") and (sync := variables.get("sync_binlog", "1")) != "1":
            faults.append(f"sync_binlog is {sync}, not 1, and the binary log is on")
        return faults

    def close(self) -> None:
        """Give every connection back."""
        self._quick.dispose()
        self._patient.dispose()

    def _draw_tx(self, bulk: MySqlBulk) -> MySqlDrawTx:
        return MySqlDrawTx(bulk, split=self.split, grace_ms=self._grace_ms, rolled=self._rolled)

    def _behavior_tx(self, bulk: MySqlBulk) -> SqlBehaviorTx:
        return SqlBehaviorTx(bulk, REBATE, split=self.split, grace_ms=self._grace_ms)

    def _exchange_tx(self, bulk: MySqlBulk) -> SqlExchangeTx:
        return SqlExchangeTx(bulk, DELIVERY, EXCHANGE, split=self.split)

    @contextmanager
    def _quickly(self) -> Iterator[Connection]:
        """One short write transaction of a cold path."""
        with translated(self.url), _committed(self._quick) as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[MySqlBulk]:
        """A transaction of the hot pool: committed when the block ends, rolled back when it raises.

        The bulk's last statements travel with the COMMIT, which does not run when one of them fails. After a lock
        wait that took too long the transaction would still be open and half done, so whatever is raised rolls it
        back. A connection that is lost meanwhile leaves the outcome unknown; a connection that cannot even be rolled
        back is closed, which makes the server do it.
        """
        with translated(self.url):
            connection = self._begun()
            wire: Wire = connection.info[_WIRE]
            bulk = MySqlBulk(wire)
            try:
                yield bulk
            except BaseException:
                _give_back(connection)
                raise
            try:
                wire.run([*bulk.last, b"COMMIT"])
            except Exception as error:
                if wire.answered < len(bulk.last) and not _is_lost(error):
                    _give_back(connection)
                    raise
                connection.invalidate()
                if _code_of(error) in _ROLLED_BACK:
                    raise
                raise OutcomeUnknown(_UNKNOWN) from error
            connection.info[_FRESH_UNTIL] = time.monotonic() + FRESH_SECONDS
            connection.close()

    def _begun(self) -> PoolProxiedConnection:
        """A connection in a transaction. Those that went stale in the pool are replaced, all of them if need be.

        A stale one is told at once; a server that does not answer is not asked again. One that was in use a moment
        ago is not asked at all: with autocommit off, whatever comes first begins its transaction.
        """
        give_up_at = time.monotonic() + STALE_SECONDS
        while True:
            connection = self._quick.raw_connection()
            if time.monotonic() < connection.info.get(_FRESH_UNTIL, 0.0):
                return connection
            try:
                connection.info[_WIRE].run([b"START TRANSACTION"])
            except BaseException as error:
                connection.invalidate()
                if _code_of(error) not in _LOST or time.monotonic() > give_up_at:
                    raise
            else:
                return connection


@contextmanager
def _committed(engine: Engine) -> Iterator[Connection]:
    """A connection whose transaction is committed when the block ends, unless the block did so or rolled it back."""
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        if transaction.is_active:
            try:
                transaction.commit()
            except Exception as error:
                if _code_of(error) in _ROLLED_BACK:
                    raise
                raise OutcomeUnknown(_UNKNOWN) from error


def _give_back(connection: PoolProxiedConnection) -> None:
    try:
        connection.rollback()
    except Exception:  # noqa: BLE001  the connection is gone, and its transaction with it
        connection.invalidate()
    else:
        connection.close()


def tls_of(url: URL) -> dict[str, bool]:
    """What the driver is told of TLS: none within this machine, unless the URL speaks of it.

    PyMySQL would read the machine's certificates for each connection, 20 to 50 ms of CPU.
    """
    asked = any(name.startswith("ssl") for name in url.query)
    if asked or url.get_driver_name() != "pymysql" or not is_loopback(url.host or ""):
        return {}
    return {"ssl_disabled": True}


def _engine(url: URL, *, pool: int, answer_seconds: int) -> Engine:
    patient = answer_seconds == PATIENT_ANSWER_SECONDS
    engine = create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=pool,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS if not patient else PATIENT_LOCK_WAIT_SECONDS,
        pool_recycle=RECYCLE_SECONDS,
        pool_reset_on_return=None,  # every block ends its transaction itself
        pool_pre_ping=patient,
        hide_parameters=True,  # what is logged of a fault may hold where things are sent to, or a secret
        connect_args={
            "charset": "utf8mb4",
            "client_flag": _CLIENT_FLAGS,
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": answer_seconds,
            "write_timeout": answer_seconds,
            **tls_of(url),
        },
    )

    if engine.driver == "pymysql" and not patient:
        event.listen(engine, "do_connect", lambda _dialect, _record, _args, settings: WiredConnection(**settings))

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT VERSION()")
        (version,) = cursor.fetchone()
        cursor.execute("SET NAMES utf8mb4 COLLATE utf8mb4_bin")
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        lock_wait = PATIENT_LOCK_WAIT_SECONDS if patient else LOCK_WAIT_SECONDS
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {lock_wait}, sql_mode = '{SQL_MODE}'")
        cursor.execute("SELECT @@SESSION.sql_mode")
        (sql_mode,) = cursor.fetchone()
        if sql_mode != SQL_MODE:  # a proxy in between; mysql_literals.py depends on it
            raise Trouble(f"The database keeps sql_mode {sql_mode!r}, but {SQL_MODE} is needed.")
        cursor.execute(f"SET SESSION group_concat_max_len = {JSON_BYTES_MAX}, time_zone = '+00:00'")
        if not patient:
            mariadb = "mariadb" in str(version).lower()
            limit = (
                ("max_statement_time", STATEMENT_SECONDS)
                if mariadb
                else ("max_execution_time", STATEMENT_SECONDS * 1000)
            )
            cursor.execute(f"SET SESSION {limit[0]} = {limit[1]}")
            record.info[_WIRE] = wire_of(connection)
        cursor.close()

    return engine


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn the driver's errors into ours; whatever fails here was rolled back, so nothing was spent."""
    try:
        yield
    except BigmarketError:
        raise
    except sa_exc.TimeoutError as error:
        raise Overloaded("Every connection to the database is in use; nothing was spent. Try again.") from error
    except Exception as error:
        trouble = _trouble_of(error, url)
        if trouble is None:
            raise
        raise trouble from error


def _trouble_of(error: Exception, url: URL) -> Exception | None:
    code = _code_of(error)
    if code in _MISSED and not isinstance(error, sa_exc.DBAPIError):  # on the hot path: somebody was faster
        return GuardMissed(_MISSED[code])
    for codes, kind, words in _TROUBLES:
        if code in codes:
            server = f"{url.host}:{url.port or 3306}"
            return kind(words.format(server=server, user=url.username, database=url.database))
    return None


_TROUBLES: tuple[tuple[tuple[int, ...], type[Trouble], str], ...] = (
    (
        (_LOCK_WAIT_TIMEOUT, _DEADLOCK, *_QUERY_LIMITS),
        Contention,
        "Others kept the database locked; nothing was spent. Try again.",
    ),
    (_FULL, StorageFull, "The database's disk is full; nothing was spent. Free some space, then try again."),
    (
        _TOO_MANY_CONNECTIONS,
        Overloaded,
        "The database at {server} takes no more connections; nothing was spent. Try again.",
    ),
    (_NO_ENTRY, Trouble, "The database at {server} refuses the user {user}, or its password."),
    (
        (_NO_DATABASE,),
        Trouble,
        "There is no database {database} at {server}. Make it: CREATE DATABASE `{database}` CHARACTER SET utf8mb4",
    ),
    (
        (_TABLE_EXISTS,),
        Trouble,
        "A change of the schema of {database} at {server} was broken off half-way. Go back to the backup.",
    ),
    (_READ_ONLY, Trouble, "The database at {server} takes no writes now; nothing was spent."),
    (_LOST, Trouble, "The database at {server} does not answer; nothing was spent."),
)


def _is_lost(error: Exception) -> bool:
    """Whether it is no answer of the server's, so that nobody knows what the server did."""
    code = _code_of(error)
    return code is None or code in _LOST


def _code_of(error: BaseException) -> int | None:
    """The number of a driver's error; None when it is none of a driver's; 0 when the connection was closed before."""
    cause = getattr(error, "orig", None) or error
    if not any(
        kind.__name__ == "MySQLError" or kind.__module__.startswith("MySQLdb") for kind in type(cause).__mro__
    ):
        return 2013 if isinstance(cause, OSError) else None
    number = cause.args[0] if cause.args else 0
    return number if isinstance(number, int) else 0
