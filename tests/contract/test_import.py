"""An import writes the same into every kind of store, and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bigmarket.app import KIND_CHECKS
from bigmarket.importing.loader import import_staged
from bigmarket.importing.reference import place_of, plain_values
from bigmarket.importing.report import Report
from bigmarket.importing.staging import Staging
from bigmarket.importing.terms import Options, Target
from bigmarket.jobs.expiry import Expiry
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import Stores
from bigmarket.storage.queries import account_of
from bigmarket.storage.routing import part_of
from bigmarket.storage.schema import user_award_record
from bigmarket.storage.stages import stages
from reference_dumps import ACTIVITY, CREATED, SKU, installation, quota_order
from support import SEED, assert_healthy, count, facts

_USERS = {"big_market_01": ("ann",), "big_market_02": ("max",)}
_NOTHING: Mapping[str, list[dict[str, Any]]] = {}
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

    with store.reading() as connection:
        shown = stages(connection)
    assert [(s.channel, s.source, s.activity_id, s.state) for s in shown] == [("c01", "s01", ACTIVITY, "active")] * up
    assert first.table("raffle_activity_stage").written == up

    again = bring_over(store, tmp_path / "2.db", up=up)
    assert sum(rows.written for rows in again.tables.values()) == 0
    assert again.table("user_award_record").there_already == 5
    assert again.table("raffle_activity_stage").there_already == up
    assert not again.added
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 5
    assert_healthy(store, now_ms=NOW)


def test_an_unpaid_order_is_completed_if_it_was_paid_and_expires_if_not(store: Store, tmp_path: Path) -> None:
    older, paid, unpaid = (
        {**quota_order(user, order_id, 5, number), "state": "wait_pay", "pay_amount": "3.00", "order_time": time}
        for user, order_id, number, time in (
            ("ann", "500000000007", "900000000070", "2026-10-01 04:00:00"),
            ("ann", "500000000008", "900000000077", "2026-10-01 05:00:00"),  # a credit order has its number
            ("max", "500000000009", "900000000079", "2026-10-01 04:00:00"),
        )
    )
    extra = {"raffle_activity_order_000": [older, paid], "raffle_activity_order_001": [unpaid]}
    for database in ("1.db", "2.db"):
        bring_over(store, tmp_path / database, up=True, extra=extra)
    left = count(store, f"SELECT alloc - sold FROM sku_stock WHERE sku = {SKU}")
    assert Expiry([store], facts=facts(store), now_ms=lambda: NOW).run() == 1
    with store.reading() as connection:
        orders = connection.execute(text("SELECT order_id, state FROM raffle_activity_order WHERE pay_cents > 0"))
        assert {order_id: state for order_id, state in orders} == {  # noqa: C416
            older["order_id"]: "expired", paid["order_id"]: "completed", unpaid["order_id"]: "expired",
        }  # fmt: skip
        account = account_of(connection, "ann", ACTIVITY)
    assert account is not None
    assert (account.total_count, account.total_left) == (15, 13)
    assert count(store, f"SELECT alloc - sold FROM sku_stock WHERE sku = {SKU}") == left + 1
    assert_healthy(store, now_ms=NOW)


def bring_over(store: Store, path: Path, *, up: bool, extra: Mapping[str, list[dict[str, Any]]] = _NOTHING) -> Report:
    """Import the reference's small installation and ``extra`` rows, repaired."""
    staging = Staging(path)
    for database, tables in installation(up=up).items():
        for table in tables.keys() & extra.keys():
            tables[table] += [row for row in extra[table] if row["user_id"] in _USERS.get(database, "")]
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
