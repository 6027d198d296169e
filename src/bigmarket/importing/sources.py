"""Fills the staging area from dumps or from live databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bigmarket.errors import BadInput
from bigmarket.importing.dump import read_dump
from bigmarket.importing.live import read_database
from bigmarket.importing.reference import place_of
from bigmarket.importing.staging import Staging

Say = Callable[[str], None]


def stage_dumps(staging: Staging, files: Sequence[Path], *, say: Say) -> None:
    """Read the files, in any order: databases count by name. Raises NotFound, or BadInput with file and line."""
    rows = 0
    for file in files:
        for row in read_dump(file, wanted=lambda name: place_of(name) is not None):
            place = place_of(row.table)
            assert place is not None, "only such tables are read"
            if row.values is None:
                staging.saw_table(place, shard=row.database)
                continue
            staging.put(place, row.values, shard=row.database)
            rows += 1
            if rows % 10_000 == 0:
                say(f"{rows:,} rows read, {file.name}")
    _seal(staging, rows, what="these files", by_name=True)


def stage_databases(staging: Staging, urls: Sequence[str], *, say: Say) -> None:
    """Read the databases, those of users in the order in which the reference counts them.

    Raises BadInput for a URL that is none, Trouble when one cannot be read.
    """
    rows = 0
    for url in urls:
        for row in read_database(url):
            if row.values is None:
                staging.saw_table(row.place, shard=row.shard)
                continue
            staging.put(row.place, row.values, shard=row.shard)
            rows += 1
            if rows % 10_000 == 0:
                say(f"{rows:,} rows read, {row.shard}")
    _seal(staging, rows, what="these databases", by_name=False)


def _seal(staging: Staging, rows: int, *, what: str, by_name: bool) -> None:
    if not rows:
        raise BadInput(f"There is no row of the reference system in {what}.")
    staging.seal(by_name=by_name)
