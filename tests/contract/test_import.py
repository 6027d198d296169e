"""An import writes the same into every kind of store, and nothing twice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bigmarket.app import KIND_CHECKS
from bigmarket.importing.loader import import_staged
from bigmarket.importing.reference import place_of, plain_values
from bigmarket.importing.report import Report
from bigmarket.importing.staging import Staging
from bigmarket.importing.terms import Options, Target
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores
from bigmarket.storage.routing import part_of
from bigmarket.storage.schema import user_award_record
from reference_dumps import CREATED, installation
from support import SEED, assert_healthy, count

NOW = int(datetime(2026, 11, 20, 4, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize("up", [False, True])
def test_an_installation_is_brought_over_once(store: Store, tmp_path: Path, *, up: bool) -> None:
    first = bring_over(store, tmp_path / "1.db", up=up)
    assert first.users_done == 2
    assert first.table("user_award_record").written == 5
    assert_healthy(store, now_ms=NOW)
    parts = [part_of(user_award_record, suffix).name for suffix in store.split.suffixes]
    there = {part: count(store, f"SELECT COUNT(*) FROM {part}") for part in parts}
    assert sum(there.values()) == count(store, "SELECT COUNT(*) FROM user_award_record") == 5
    assert len([rows for rows in there.values() if rows]) == min(2, len(parts)), "each user's rows in their part"

    again = bring_over(store, tmp_path / "2.db", up=up)
    assert sum(rows.written for rows in again.tables.values()) == 0
    assert again.table("user_award_record").there_already == 5
    assert not again.added
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 5
    assert_healthy(store, now_ms=NOW)


def bring_over(store: Store, path: Path, *, up: bool) -> Report:
    """Import the reference's small installation, repaired."""
    staging = Staging(path)
    for database, tables in installation(up=up).items():
        for table, rows in tables.items():
            place = place_of(table)
            assert place is not None
            staging.saw_table(place, shard=database)
            for row in rows:
                staging.put(place, plain_values({"create_time": CREATED, **row}), shard=database)
    staging.seal()
    report = Report(repair=True, dry_run=False)
    stores = Stores(store, (store,), store.split.routing)
    options = Options("Asia/Shanghai", NOW, repair=True, undelivered="deliver")
    import_staged(staging, Target(stores, KIND_CHECKS, lambda: SEED), options, report=report)
    staging.close()
    return report
