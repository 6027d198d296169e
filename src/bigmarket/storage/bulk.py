"""Statements over many rows at once, from a few ready-made texts.

A batch of n rows is written as chunks of 256, 128, ... 1 rows, so that a table needs nine texts at most and the
driver's statement cache keeps them prepared. One statement per chunk also means one release of the interpreter lock
per chunk instead of one per row, which is what keeps a busy event loop from slowing the writer down.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

CHUNK_MAX = 256

Row = Sequence[object]


def chunks(rows: Sequence[Row]) -> Iterator[tuple[int, list[object]]]:
    """Cut ``rows`` into power-of-two chunks: the number of rows of each, and their values in one flat list."""
    start, left = 0, len(rows)
    while left:
        size = min(CHUNK_MAX, 1 << (left.bit_length() - 1))
        yield size, [value for row in rows[start : start + size] for value in row]
        start += size
        left -= size


@lru_cache(maxsize=512)
def filled(template: str, rows: int, columns: int) -> str:
    """``template`` with ``{rows}`` replaced by ``(?, ?), (?, ?), ...``: that many rows of that many columns."""
    row = f"({', '.join('?' * columns)})"
    return template.replace("{rows}", ", ".join([row] * rows))


def select(connection: sqlite3.Connection, template: str, keys: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Rows found (or returned) for any of ``keys``; ``template`` joins its table to ``(VALUES {rows}) AS v``."""
    found: list[tuple[Any, ...]] = []
    for size, values in chunks(keys):
        found += connection.execute(filled(template, size, len(keys[0])), values)
    return found


def write(connection: sqlite3.Connection, template: str, rows: Sequence[Row]) -> int:
    """Run an INSERT or UPDATE over ``rows``; how many rows of the table it changed."""
    return sum(
        connection.execute(filled(template, size, len(rows[0])), values).rowcount for size, values in chunks(rows)
    )
