"""Statements over many rows at once on MySQL and MariaDB.

Only SQL that every MySQL-compatible engine speaks: lists of row values, multi-row INSERT, UPDATE joined to a derived
table. The driver fills in the values, so a text is made per number of rows and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

from bigmarket.storage.bulk import Row, chunked, decode_rows

_LIST, _TABLE = "{rows}", "{table}"


class Cursor(Protocol):
    """What is used of a driver's cursor."""

    rowcount: int

    def execute(self, query: str, args: Sequence[object]) -> object:
        """Run a statement."""
        ...

    def fetchone(self) -> Any:
        """The next row."""
        ...


def in_one(*columns: str) -> str:
    """What a SELECT asks for: all rows of these columns (numbers, texts, NULLs) as one JSON array."""
    return f"JSON_ARRAYAGG(JSON_ARRAY({', '.join(columns)}))"


@lru_cache(maxsize=4096)
def _filled(template: str, rows: int, columns: int) -> str:
    """The template's ``{rows}`` as ``(%s, %s), (%s, %s), ...``, or its ``{table}`` as a derived ``c1, c2, ...``."""
    if _TABLE in template:
        first = ", ".join(f"%s AS c{n}" for n in range(1, columns + 1))
        rest = f" UNION ALL SELECT {', '.join(['%s'] * columns)}" * (rows - 1)
        return template.replace(_TABLE, f"(SELECT {first}{rest})")
    row = f"({', '.join(['%s'] * columns)})"
    return template.replace(_LIST, ", ".join([row] * rows))


class MySqlBulk:
    """``Bulk`` on the cursor of a connection whose transaction is open.

    A template holds ``{rows}`` (a list of row values) or ``{table}`` (a derived table); values in front of the rows
    are given as ``before``.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def select(self, template: str, keys: Sequence[Row]) -> list[list[Any]]:
        """Rows found for any of ``keys``."""
        found: list[list[Any]] = []
        for part in chunked(keys):
            self._run(template, part)
            (rows,) = self._cursor.fetchone()
            if rows is not None:  # no row at all
                found += decode_rows(rows)
        return found

    def write(self, template: str, rows: Sequence[Row], *, before: Row = ()) -> int:
        """Run it over ``rows``; how many rows of the table it changed."""
        changed = 0
        for part in chunked(rows):
            self._run(template, part, before)
            changed += self._cursor.rowcount
        return changed

    def _run(self, template: str, rows: Sequence[Row], before: Row = ()) -> None:
        values = [*before, *chain.from_iterable(rows)]
        self._cursor.execute(_filled(template, len(rows), len(rows[0])), values)
