"""Statements over many rows at once, from a few ready-made texts.

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

import msgspec

#: Rows of a statement; padding adds a third at most, half only to a batch of five.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

Row = Sequence[object]


def chunks(rows: Sequence[Row]) -> Iterator[tuple[int, list[object]]]:
    """Cut ``rows`` into statements: the size of each, and its values in one flat list, padded with NULLs."""
    most = SIZES[-1]
    for start in range(0, len(rows), most):
        part = rows[start : start + most]
        size = SIZES[bisect_left(SIZES, len(part))]
        values = list(chain.from_iterable(part))
        values += [None] * (size * len(part[0]) - len(values))
        yield size, values


@lru_cache(maxsize=512)
def filled(template: str, rows: int, columns: int) -> str:
    """``template`` with ``{rows}`` replaced by ``(?, ?), (?, ?), ...``: that many rows of that many columns."""
    row = f"({', '.join('?' * columns)})"
    return template.replace("{rows}", ", ".join([row] * rows))


def in_one(*columns: str) -> str:
    """What a SELECT for ``select`` asks for: all rows of these columns (numbers, texts, NULLs) as one value."""
    return f"json_group_array(json_array({', '.join(columns)}))"


def select(connection: sqlite3.Connection, template: str, keys: Sequence[Row]) -> list[list[Any]]:
    """Rows found for any of ``keys``, in no order.

    ``template`` selects ``in_one(...)`` from its table joined to ``(VALUES {rows}) AS v``.
    """
    found: list[list[Any]] = []
    for size, values in chunks(keys):
        (rows,) = connection.execute(filled(template, size, len(keys[0])), values).fetchone()
        found += _decode(rows)
    return found


_decode = msgspec.json.Decoder(list[list[Any]]).decode


def write(connection: sqlite3.Connection, template: str, rows: Sequence[Row]) -> int:
    """Run an INSERT or UPDATE over ``rows``; how many rows of the table it changed.

    ``template`` reads ``(VALUES {rows})`` and must leave out rows whose first column is NULL.
    """
    return sum(
        connection.execute(filled(template, size, len(rows[0])), values).rowcount for size, values in chunks(rows)
    )
