"""Rows on their way: a temporary SQLite file that gives each user's rows together, however large the source is.

A source comes table by table; what is imported goes user by user. The file is deleted at the end.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from bigmarket.importing.reference import CONFIGURATION, Place, Values
from bigmarket.storage.routing import Routing

ROWS_PER_WRITE = 5_000
CACHE_KIB = 65_536

#: The columns that name a row, by which two users' rows could collide once they live in one table.
_NUMBERS = {
    "raffle_activity_order": ("order_id", "out_business_no"),
    "user_raffle_order": ("order_id", None),
    "user_award_record": ("order_id", None),
    "user_behavior_rebate_order": ("order_id", "biz_id"),
    "user_credit_order": ("order_id", "out_business_no"),
}
#: An award record has the number of its raffle order.
_NUMBERED_LIKE = {"user_award_record": "user_raffle_order"}

_SCHEMA = """
    CREATE TABLE staged (user_id TEXT, name TEXT, shard TEXT, part TEXT, number TEXT, business TEXT, body BLOB)
"""
_decode = msgspec.json.Decoder(dict[str, str | None]).decode


class StagedRow(NamedTuple):
    """A row of the reference: its table, where it was found, and what it says."""

    table: str
    shard: str
    part: str | None
    values: Values


class Collision(NamedTuple):
    """A number that several users' rows have: the ``rank``-th of them (from 2) must get another."""

    table: str
    number: str
    user_id: str


class Staging:
    """Filled with ``put``, then sealed, then read as often as wanted."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(_SCHEMA)
        self._shards: list[str] = []  # in the order in which the reference counts them, once sealed
        self._parts: set[str] = set()
        self._waiting: list[tuple[object, ...]] = []

    def saw_table(self, place: Place, *, shard: str) -> None:
        """There is such a table, be it empty: how many databases and parts there are tells where users belong."""
        if place.table not in CONFIGURATION and shard not in self._shards:
            self._shards.append(shard)
        if place.part is not None:
            self._parts.add(place.part)

    def put(self, place: Place, values: Values, *, shard: str) -> None:
        """Keep a row."""
        self.saw_table(place, shard=shard)
        user_id = None if place.table in CONFIGURATION else values.get("user_id") or ""
        number, business = _NUMBERS.get(place.table, (None, None))
        self._waiting.append(
            (
                user_id,
                place.table,
                shard,
                place.part,
                values.get(number) if number else None,
                values.get(business) if business else None,
                msgspec.json.encode(values),
            )
        )
        if len(self._waiting) >= ROWS_PER_WRITE:
            self._flush()

    def seal(self, *, by_name: bool = True) -> None:
        """All rows are there. The databases of users count in the order of their names, or in which they came."""
        self._flush()
        if by_name:
            self._shards.sort()
        self._connection.execute("CREATE INDEX by_user ON staged (user_id)")

    def configuration(self) -> Iterator[StagedRow]:
        """The rows that belong to no user, in the order they came."""
        found = self._connection.execute(
            "SELECT name, shard, part, body FROM staged WHERE user_id IS NULL ORDER BY rowid"
        )
        for name, shard, part, body in found:
            yield StagedRow(name, shard, part, _decode(body))

    def users(self) -> Iterator[tuple[str, list[StagedRow]]]:
        """Every user with their rows, in the order of user ids."""
        found = self._connection.cursor().execute(
            "SELECT user_id, name, shard, part, body FROM staged WHERE user_id IS NOT NULL ORDER BY user_id, rowid"
        )
        for user_id, rows in groupby(found, key=itemgetter(0)):
            yield user_id, [StagedRow(name, shard, part, _decode(body)) for _, name, shard, part, body in rows]

    def count_users(self) -> int:
        """How many users there are."""
        query = "SELECT COUNT(DISTINCT user_id) FROM staged WHERE user_id IS NOT NULL"
        return int(self._connection.execute(query).fetchone()[0])

    def home_of(self, user_id: str, shards: Iterable[str], parts: Iterable[str]) -> tuple[str, str | None]:
        """Of the databases and parts that hold rows of the user, those in which the reference looks for them.

        It looks where its hash leads. If that is none of them, or the source is not whole, the first ones are taken.
        """
        ranked, pieces = sorted(shards, key=self._shards.index), sorted(parts)
        all_parts = sorted(self._parts) or ["000"]
        routing = Routing(len(self._shards), len(all_parts))
        if routing.slots & (routing.slots - 1):  # the reference's hash needs a power of two
            return ranked[0], pieces[0] if pieces else None
        shard, part = self._shards[routing.shard_of(user_id)], all_parts[routing.table_of(user_id)]
        return (
            shard if shard in ranked else ranked[0],
            part if part in pieces else pieces[0] if pieces else None,
        )

    def collisions(self) -> dict[Collision, int]:
        """Numbers that more than one user has: the reference made 12 random digits, unique within a table only.

        The value is the user's rank among those that share the number, from 2; the first keeps it.
        """
        found: dict[Collision, int] = {}
        for column in ("number", "business"):
            rows = self._connection.execute(
                f"""SELECT family, {column}, user_id FROM
                      (SELECT DISTINCT {_FAMILY} AS family, {column}, user_id FROM staged WHERE {column} IS NOT NULL)
                    WHERE (family, {column}) IN (
                      SELECT {_FAMILY}, {column} FROM staged WHERE {column} IS NOT NULL
                      GROUP BY 1, 2 HAVING COUNT(DISTINCT user_id) > 1)
                    ORDER BY 1, 2, 3"""  # noqa: S608  names of columns
            )
            for _, group in groupby(rows.fetchall(), key=itemgetter(0, 1)):
                for rank, (family, number, user_id) in enumerate(group, start=1):
                    if rank > 1:
                        found[Collision(family, number, user_id)] = rank
        return found

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def _flush(self) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?)", self._waiting)
        self._connection.execute("COMMIT")
        self._waiting.clear()


def family_of(table: str) -> str:
    """The table whose numbers this one's are."""
    return _NUMBERED_LIKE.get(table, table)


_FAMILY = "CASE name WHEN 'user_award_record' THEN 'user_raffle_order' ELSE name END"


@contextmanager
def staging() -> Iterator[Staging]:
    """An empty one; its file lies in the folder for temporary files (``TMPDIR``) and is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="bigmarket-import-") as folder:
        made = Staging(Path(folder) / "rows.db")
        try:
            yield made
        finally:
            made.close()
