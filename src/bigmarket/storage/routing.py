"""Where a user's rows live: which shard, and which of its split tables.

Users are hashed to slots as the reference system does (Java's ``String.hashCode``, its upper half folded into the
lower), so that imported users stay where they are; a slot is one table of one shard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import CheckConstraint, Index, MetaData, Table

from bigmarket.storage.schema import SPLIT

T = TypeVar("T")

SLOTS_MAX = 1024
_KNOWN_USERS = 65_536  # the users last seen are not hashed again
_SPLIT_NAME = re.compile(rf"\b({'|'.join(table.name for table in SPLIT)})\b")


def java_hash(text: str) -> int:
    """Java's ``String.hashCode`` as an unsigned 32-bit number: a polynomial in 31 over UTF-16 code units."""
    units = text.encode("utf-16-le", "surrogatepass")
    value = 0
    for low, high in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    return value


class Routing(NamedTuple):
    """``shards`` databases with ``tables`` order tables each; their product must be a power of two."""

    shards: int = 1
    tables: int = 1

    @property
    def slots(self) -> int:
        """Order tables in all."""
        return self.shards * self.tables

    def shard_of(self, user_id: str) -> int:
        """The user's shard, from 0."""
        return 0 if self.shards == 1 else _slot_of(user_id, self.slots) // self.tables

    def table_of(self, user_id: str) -> int:
        """The user's order table within the shard, from 0."""
        return 0 if self.tables == 1 else _slot_of(user_id, self.slots) % self.tables


@lru_cache(maxsize=_KNOWN_USERS)
def _slot_of(user_id: str, slots: int) -> int:
    value = java_hash(user_id)
    return (slots - 1) & (value ^ value >> 16)


class SplitTables(NamedTuple):
    """The order tables of one shard: ``user_raffle_order``, or ``user_raffle_order_000`` and so on.

    Where they are split, the plain name is a view of all of them, for reading.
    """

    routing: Routing = Routing()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What is appended to a table's name, for each part."""
        return ("",) if self.routing.tables == 1 else tuple(f"_{n:03d}" for n in range(self.routing.tables))

    def suffix_of(self, user_id: str) -> str:
        """What is appended for this user's rows."""
        return self.suffixes[self.routing.table_of(user_id)]

    def table_of(self, table: Table, user_id: str) -> Table:
        """The part of a split ``table`` that holds the user's rows."""
        return part_of(table, self.suffix_of(user_id))

    def parts(self, rows: Sequence[T], user_of: Callable[[T], str]) -> Iterator[tuple[str, Sequence[T]]]:
        """``rows`` by the suffix of the tables that they live in; parts without rows are left out."""
        if self.routing.tables == 1:
            if rows:
                yield "", rows
            return
        found: dict[str, list[T]] = {}
        for row in rows:
            found.setdefault(self.suffix_of(user_of(row)), []).append(row)
        yield from sorted(found.items())


WHOLE = SplitTables()


@lru_cache(maxsize=1024)
def at(statement: str, suffix: str) -> str:
    """The statement with the suffix behind the name of every split table."""
    return _SPLIT_NAME.sub(rf"\g<1>{suffix}", statement) if suffix else statement


@lru_cache(maxsize=SLOTS_MAX)
def part_of(table: Table, suffix: str) -> Table:
    """The part of ``table`` with this suffix; its CHECKs and indexes get names of their own, as engines demand."""
    if not suffix:
        return table
    part = table.to_metadata(MetaData(naming_convention=table.metadata.naming_convention), name=table.name + suffix)
    named: list[Index | CheckConstraint] = [*part.indexes]
    named += [constraint for constraint in part.constraints if isinstance(constraint, CheckConstraint)]
    for item in named:
        item.name = f"{item.name}{suffix}"
    return part


def user_first(row: Sequence[Any]) -> str:
    """The user of a row that begins with it."""
    user: str = row[0]
    return user
