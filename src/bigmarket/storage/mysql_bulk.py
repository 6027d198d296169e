"""Statements over many rows at once on MySQL and MariaDB.

Only SQL that every MySQL-compatible engine speaks: lists of row values, multi-row INSERT, UPDATE joined to a derived
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bigmarket.storage.bulk import Row, Write, chunked, decode_rows
from bigmarket.storage.mysql_literals import literal, literals
from bigmarket.storage.mysql_wire import Wire

_LIST, _TABLE = b"{rows}", b"{table}"
_UNION = b" UNION ALL SELECT "
_KEYS = b") IN ({rows})"  # row values, looked up by a key of several columns

#: Out of range, an error which ends the packet of statements, unless the one before changed so many rows.
_GUARD = b"SET @guard = 9223372036854775807 + (ROW_COUNT() <> %d)"

#: Behind the table of a statement that locks. A small table would be read as a whole, and a locking read waits for
#: every locked row that it comes across, whether it is asked for or not.
BY_KEY = "FORCE INDEX (PRIMARY)"


def in_one(*columns: str) -> str:
    """What a SELECT asks for: all rows of these columns (numbers, texts, NULLs) as one JSON array."""
    return f"JSON_ARRAYAGG(JSON_ARRAY({', '.join(columns)}))"


def filled(template: str, rows: Sequence[Row], before: Row = ()) -> bytes:
    """The template with its rows: ``{rows}`` as ``(1, "a"), (2, "b")``, ``{table}`` as a derived ``c1, c2, ...``.

    ``before`` are the values of ``%b`` in the template.
    """
    text = template.encode()
    if before:
        text %= tuple(map(literal, before))
    if _TABLE in text:
        first = b", ".join(b"%b AS c%d" % (literal(value), n) for n, value in enumerate(rows[0], start=1))
        rest = _UNION + literals(rows[1:], between=_UNION) if len(rows) > 1 else b""
        return text.replace(_TABLE, b"(SELECT " + first + rest + b")")
    if len(rows) == 1 and _KEYS in text:
        rows = [*rows, *rows]  # MariaDB finds the key of an UPDATE in a list of two, but not in a list of one
    return text.replace(_LIST, b"(" + literals(rows, between=b"),(") + b")")


class MySqlBulk:
    """``Bulk`` on the wire of a connection whose transaction is open."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.last: list[bytes] = []  # what runs with the commit

    def select(self, template: str, keys: Sequence[Row]) -> list[list[Any]]:
        """Rows found for any of ``keys``."""
        (found,) = self.select_all([(template, keys)])
        return found

    def select_all(self, asked: Sequence[tuple[str, Sequence[Row]]]) -> list[list[list[Any]]]:
        """What each template finds for its keys, all asked for in one packet."""
        assert not self.last, "the transaction was finished"
        found: list[list[list[Any]]] = [[] for _ in asked]
        parts = [(place, part) for place, (_, keys) in enumerate(asked) for part in chunked(keys)]
        if not parts:
            return found
        came = self._wire.run([filled(asked[place][0], part) for place, part in parts])
        for (place, _), rows in zip(parts, came, strict=True):
            if rows is not None:  # no row at all
                found[place] += decode_rows(rows)
        return found

    def write(self, template: str, rows: Sequence[Row]) -> int:
        """Run it over ``rows``; how many rows of the table it changed."""
        assert not self.last, "the transaction was finished"
        statements = [filled(template, part) for part in chunked(rows)]
        return sum(self._wire.run(statements)) if statements else 0

    def finish(self, writes: Sequence[Write]) -> None:
        """Have them run with the commit, in one packet; a guard behind each stops it when too few rows were changed.

        An INSERT needs none: it writes every row, or fails.
        """
        for write in writes:
            inserts = write.template.lstrip().startswith("INSERT")
            for part in chunked(write.rows):
                self.last.append(filled(write.template, part, write.before))
                if not inserts:
                    self.last.append(_GUARD % len(part))
