"""Reads the same rows from live MySQL or MariaDB databases, each in one read-only transaction, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnClause,
    Connection,
    Engine,
    Select,
    column,
    create_engine,
    inspect,
    literal_column,
    select,
    table,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from bigmarket.errors import BadInput, Trouble
from bigmarket.importing.reference import Place, Values, place_of, plain_values

ROWS_PER_PAGE = 5_000
CONNECT_SECONDS = 10
READ_SECONDS = 120
_DRIVERS = ("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql")


class LiveRow(NamedTuple):
    """One row; ``values`` is None for the mere existence of the table."""

    place: Place
    shard: str
    values: Values | None


def read_database(url: str) -> Iterator[LiveRow]:
    """The rows of the reference's tables that the database at ``url`` has, as they all were at one moment.

    Raises BadInput for a URL that is none, Trouble when the database cannot be read.
    """
    engine, shard = _engine(url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            for name in sorted(inspect(connection).get_table_names()):
                place = place_of(name)
                if place is not None:
                    yield LiveRow(place, shard, None)
                    for values in _rows(connection, name):
                        yield LiveRow(place, shard, values)
    except (SQLAlchemyError, UnicodeDecodeError) as error:
        cause = getattr(error, "orig", None) or error
        raise Trouble(f"{engine.url.render_as_string(hide_password=True)} cannot be read: {cause}") from error
    finally:
        engine.dispose()


def _engine(url: str) -> tuple[Engine, str]:
    parsed = _parsed(url)
    engine = create_engine(
        parsed,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",  # the transaction is begun by hand, as a read-only one
        connect_args={"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS},
    )
    return engine, f"{parsed.database}@{parsed.host}:{parsed.port or 3306}"


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in _DRIVERS or not parsed.database or not parsed.host:
        raise BadInput("A database is named by a URL such as mysql://user:password@host:3306/big_market_01.")
    query = {"charset": "utf8mb4", **parsed.query}
    return parsed.set(drivername="mysql+pymysql", query=query)


def _rows(connection: Connection, name: str) -> Iterator[Values]:
    """By the key that every table of the reference has."""
    key: ColumnClause[int] = column("id")
    first: Select[Any] = select(literal_column("*")).select_from(table(name, key)).order_by(key).limit(ROWS_PER_PAGE)
    last = None
    while True:
        page = connection.execute(first if last is None else first.where(key > last)).mappings().all()
        for row in page:
            yield plain_values(dict(row))
        if len(page) < ROWS_PER_PAGE:
            return
        last = page[-1]["id"]
