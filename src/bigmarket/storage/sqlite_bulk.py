"""Statements over many rows at once on SQLite, from a few ready-made texts.

A batch is one statement per table whatever its size: it is padded with rows of NULLs to the next of a few sizes, so
that a table needs few texts and the driver's statement cache keeps them all prepared. sqlite3 gives the interpreter
lock away with every step of a statement and must win it back from a busy event loop each time; one statement per
table and one row (a JSON array) per answer, not one step per row, is what lets a lane keep its pace beside the loop.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from bigmarket.activity.stock import GuardMissed
from bigmarket.storage.bulk import ROWS_MAX, Row, Write, chunked, decode_rows

#: Rows of a statement; padding adds a third at most, half only to a batch of five.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, ROWS_MAX)


def _padded(rows: Sequence[Row]) -> Iterator[tuple[int, list[object]]]:
    """Cut ``rows`` into statements: the size of each, and its values in one flat list, padded with NULLs."""
    for part in chunked(rows):
        size = SIZES[bisect_left(SIZES, len(part))]
        values = list(chain.from_iterable(part))
        values += [None] * (size * len(part[0]) - len(values))
        yield size, values


@lru_cache(maxsize=512)
def _filled(template: str, rows: int, columns: int) -> str:
    """``template`` with ``{rows}`` replaced by ``(?, ?), (?, ?), ...``: that many rows of that many columns."""
    row = f"({', '.join('?' * columns)})"
    return template.replace("{rows}", ", ".join([row] * rows))


def in_one(*columns: str) -> str:
    """What a SELECT asks for: all rows of these columns (numbers, texts, NULLs) as one JSON array."""
    return f"json_group_array(json_array({', '.join(columns)}))"


class SqliteBulk:
    """``Bulk`` on a connection whose transaction is open.

    A template joins its table to ``(VALUES {rows}) AS v``; one that writes must leave out rows whose first column is
    NULL.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def select(self, template: str, keys: Sequence[Row]) -> list[list[Any]]:
        """Rows found for any of ``keys``."""
        found: list[list[Any]] = []
        for size, values in _padded(keys):
            (rows,) = self._connection.execute(_filled(template, size, len(keys[0])), values).fetchone()
            found += decode_rows(rows)
        return found

    def write(self, template: str, rows: Sequence[Row]) -> int:
        """Run it over ``rows``; how many rows of the table it changed."""
        width = len(rows[0]) if rows else 0
        return sum(
            self._connection.execute(_filled(template, size, width), values).rowcount
            for size, values in _padded(rows)
        )

    def finish(self, writes: Sequence[Write]) -> None:
        """Run them, in order. Raises ``GuardMissed`` when one changed fewer rows than it has."""
        for write in writes:
            if self.write(write.template, write.rows) != len(write.rows):
                raise GuardMissed(" ".join(write.template.split()[:3]))
