"""Statements over many rows at once: what the hot transactions need of an engine, one statement per table.

A template holds ``{rows}`` where the engine's own file puts its rows (sqlite_bulk.py, mysql_bulk.py). Rows found come
back as one JSON array: decoding that is cheaper than fetching row by row, on both engines (decision 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

ROWS_MAX = 256  # in a statement

Row = Sequence[object]


class Write(NamedTuple):
    """An INSERT, UPDATE or DELETE over ``rows``; on MySQL ``before`` are values in front of them."""

    template: str
    rows: Sequence[Row]
    before: Row = ()


class Bulk(Protocol):
    """Runs templates on one open transaction."""

    def select(self, template: str, keys: Sequence[Row]) -> list[list[Any]]:
        """Rows found for any of ``keys``, in no order; ``template`` selects ``in_one(...)`` of them."""
        ...

    def write(self, template: str, rows: Sequence[Row]) -> int:
        """Run an INSERT, UPDATE or DELETE over ``rows``; how many rows of the table it changed."""
        ...

    def finish(self, writes: Sequence[Write]) -> None:
        """Run them, in order, as the last of the transaction.

        Raises ``GuardMissed`` when one changed fewer rows than it has: at once, or when the transaction is to be
        committed, where they travel with the commit.
        """
        ...


def chunked(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """``rows`` in pieces of at most ``ROWS_MAX``."""
    for start in range(0, len(rows), ROWS_MAX):
        yield rows[start : start + ROWS_MAX]


decode_rows = msgspec.json.Decoder(list[list[Any]]).decode
