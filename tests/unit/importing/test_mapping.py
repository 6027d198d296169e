"""The reference's rows as ours: what is taken as it is, what is told as broken, what a repair makes of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bigmarket.app import KIND_CHECKS
from bigmarket.award.message import decode
from bigmarket.errors import BadInput
from bigmarket.importing import accounts, draws, points
from bigmarket.importing.campaigns import Mapped, map_campaigns, read_configuration
from bigmarket.importing.drafting import Gone
from bigmarket.importing.mapping import UNKNOWN_ACTIVITY, map_user
from bigmarket.importing.reference import Place, TaskRow, moment_of, place_of, read_row
from bigmarket.importing.report import Report
from bigmarket.importing.staging import Staging
from bigmarket.importing.terms import ActivityFacts, Terms, Undelivered, facts_of
from bigmarket.importing.users import UNPLACED, sort_out
from bigmarket.storage import schema as t
from reference_dumps import (
    ACTIVITY,
    SKU,
    STRATEGY,
    Tables,
    account,
    award_task,
    configuration,
    credit_account,
    credit_order,
    quota_order,
    raffle_order,
    record,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW = int(datetime(2026, 10, 1, 8, tzinfo=UTC).timestamp() * 1000)  # 16:00 in Shanghai, hours after the rows
GONE = Gone({(STRATEGY, 102): 7}, {SKU: 3})
CREATED = {"id": 1, "create_time": "2026-10-01 12:00:00", "update_time": "2026-10-01 12:00:00"}


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    made = Staging(tmp_path / "rows.db")
    yield made
    made.close()


def put(staging: Staging, table: str, *rows: dict[str, Any], shard: str = "big_market_01") -> None:
    place = place_of(table)
    assert place is not None
    staging.saw_table(place, shard=shard)
    for row in rows:
        values = {name: None if value is None else str(value) for name, value in {**CREATED, **row}.items()}
        staging.put(place, values, shard=shard)


# --- campaigns ----------------------------------------------------------------------------------------------------


def mapped_of(staging: Staging, tables: Tables) -> Mapped:
    for table, rows in tables.items():
        put(staging, table, *rows, shard="big_market")
    staging.seal()
    read = read_configuration(staging.configuration())
    (mapped,) = map_campaigns(read, time_zone="Asia/Shanghai", kinds=KIND_CHECKS, gone=GONE)
    return mapped


def test_the_references_campaign_cannot_be_armed_and_a_repair_mends_it(staging: Staging) -> None:
    mapped = mapped_of(staging, configuration(up=True))
    assert mapped.campaign is None
    reasons = [problem.reason for problem in mapped.problems]
    assert sum("unknown kind" in reason for reason in reasons) == 3
    assert any("must never run out" in reason for reason in reasons)
    assert any("rule_stock" in reason for reason in reasons)
    assert not mapped.remaining
    assert len(mapped.repairs) == 5
    repaired = mapped.repaired
    assert repaired is not None
    stock = {award.award_id: award.stock for award in repaired.strategy.awards}
    assert stock == {101: None, 102: 7 + 51, 103: 52, 104: 53}
    by_hand = {award.award_id: (award.kind, award.config) for award in repaired.awards}
    assert by_hand[101] == ("user_credit_random", "1,100")
    assert by_hand[103] == ("physical", "gift_card:gpt-4")
    (sku,) = repaired.skus
    assert (sku.stock, str(sku.price)) == (903, "1.68")
    blacklist, weight = repaired.strategy.chain
    assert blacklist.model_dump() == {
        "rule": "rule_blacklist", "award_id": 101, "config": "0.01,1", "users": frozenset({"user001", "user002"})
    }  # fmt: skip
    assert weight.model_dump()["tiers"] == (
        {"at_draw": 10, "awards": (102, 103)}, {"at_draw": 70, "awards": (104,)}
    )  # fmt: skip
    assert [rebate.type for rebate in repaired.rebates] == ["sku", "integral"]
    assert repaired.activity.begin == datetime(2025, 12, 31, 16, tzinfo=UTC)


def test_awards_for_a_model_service_stay_what_they_are(staging: Staging) -> None:
    tables = configuration(up=True)
    for row, key in zip(tables["award"][1:], ["openai_use_count", "openai_model", "openai_use_count"], strict=False):
        row["award_key"] = key
    repaired = mapped_of(staging, tables).repaired
    assert repaired is not None
    assert {award.award_id: (award.kind, award.config) for award in repaired.awards} == {
        101: ("user_credit_random", "1,100"),
        102: ("openai_use_count", "5"),
        103: ("openai_model", "gpt-4"),
        104: ("openai_use_count", "10"),
    }


def test_a_sound_campaign_is_taken_as_it_is(staging: Staging) -> None:
    tables = configuration(up=False)
    tables["award"] = [{**tables["award"][0], "award_id": 101 + n} for n in range(4)]
    for row in tables["strategy_award"]:
        row["rule_models"] = None
    mapped = mapped_of(staging, tables)
    assert mapped.campaign is None, "stock that nothing counts"
    assert mapped.repaired is not None
    assert {award.stock for award in mapped.repaired.strategy.awards} == {None}
    assert all("no tree" in line for line in mapped.repairs)


@pytest.mark.parametrize(
    ("table", "change", "repair"),
    [
        ("strategy_rule", {"rule_value": "10-102"}, "rule_weight is left out"),
        ("strategy", {"rule_models": "rule_weight,rule_unknown"}, "rule_unknown is left out"),
        ("strategy_award", {"award_rate": "0.0000", "award_id": 104, "sort": 4}, "its rate is 0"),
        ("strategy_award", {"sort": 2}, "numbered 1 to 4"),
        ("rule_tree_node_line", {"rule_limit_type": "GT"}, "left out of tree_luck"),
        ("daily_behavior_rebate", {"rebate_type": "integral", "rebate_config": "3"}, "a second one"),
        ("raffle_activity_sku", {"activity_count_id": 5}, "sku 7011 is left out"),
    ],
)
def test_what_a_repair_leaves_out(staging: Staging, table: str, change: dict[str, Any], repair: str) -> None:
    tables = copy.deepcopy(configuration(up=True))
    tables["strategy_rule"][0]["rule_value"] = "10:102,103"
    place = 3 if "award_rate" in change else 0
    tables[table][place].update(change)
    mapped = mapped_of(staging, tables)
    assert mapped.repaired is not None or table == "raffle_activity_sku", mapped.remaining
    assert any(repair in line for line in mapped.repairs), mapped.repairs


def test_what_no_repair_mends_is_told(staging: Staging) -> None:
    tables = configuration(up=True)
    tables["raffle_activity"][0]["end_date_time"] = "2020-01-01 00:00:00"
    mapped = mapped_of(staging, tables)
    assert mapped.repaired is None
    assert [problem.path for problem in mapped.remaining] == ["activity.end"]


def test_a_configuration_row_that_cannot_be_read_ends_the_import(staging: Staging) -> None:
    tables = configuration(up=True)
    tables["strategy_award"][0]["award_rate"] = "often"
    with pytest.raises(BadInput, match="A row of strategy_award"):
        mapped_of(staging, tables)


# --- users --------------------------------------------------------------------------------------------------------


def facts(staging: Staging, epoch: int | None = 4) -> ActivityFacts:
    mapped = mapped_of(staging, configuration(up=True))
    assert mapped.repaired is not None
    return facts_of(mapped.repaired, epoch=epoch)


class MappedUser:
    """The rows of the one user in a staging area, by table, and the report."""

    def __init__(self, staging: Staging, *, repair: bool = False, undelivered: Undelivered = "keep") -> None:
        activity = facts(staging)
        self.report = Report(repair=repair, dry_run=False)
        terms = Terms(SHANGHAI, NOW, {ACTIVITY: activity}, repair, undelivered, staging.collisions())
        ((user_id, rows),) = staging.users()
        user = sort_out(user_id, rows, home_of=staging.home_of, report=self.report)
        self.rows = map_user(user, terms, self.report)

    def of(self, table: Any) -> list[dict[str, Any]]:
        return [row.values for row in self.rows if row.table is table]

    @property
    def faults(self) -> set[Any]:
        return {fault for fault, _ in self.report.faults}

    @property
    def account(self) -> tuple[int, ...]:
        (row,) = self.of(t.raffle_activity_account)
        names = ("total", "month", "day")
        return tuple(row[f"{name}_count{end}"] for name in names for end in ("", "_surplus"))


def test_a_sound_user(staging: Staging) -> None:
    put(staging, "raffle_activity_account", account("ann", 10, 8))
    put(staging, "raffle_activity_order_000", quota_order("ann", "5", 10, "n"))
    put(staging, "user_raffle_order_000", raffle_order("ann", "1"), raffle_order("ann", "2"))
    put(staging, "user_award_record_000", record("ann", "1", 102, "x"), record("ann", "2", 103, "y"))
    month = {"user_id": "ann", "activity_id": ACTIVITY, "month": "2026-10", "month_count": 10}
    put(staging, "raffle_activity_account_month", {**month, "month_count_surplus": 8}, {**month, "month": "2026-09",
        "month_count_surplus": 0})  # fmt: skip
    day = {"user_id": "ann", "activity_id": ACTIVITY, "day": "2026-10-01", "day_count": 10, "day_count_surplus": 8}
    put(staging, "raffle_activity_account_day", day)
    user = MappedUser(staging)
    assert user.account == (10, 8, 10, 8, 10, 8)
    assert not user.faults
    assert user.report.tables["raffle_activity_account_month"].merged == 1
    (order, _) = user.of(t.user_raffle_order)
    assert order["order_day"] == "2026-10-01"
    assert order["order_time_ms"] == int(datetime(2026, 10, 1, 4, tzinfo=UTC).timestamp() * 1000)
    (won, _) = user.of(t.user_award_record)
    assert (won["revision_id"], won["award_index"], won["award_state"]) == ("imported", 2, "create")


def test_counters_of_a_month_and_day_without_rows_are_full(staging: Staging) -> None:
    put(staging, "raffle_activity_account", account("ann", 10, 10))
    put(staging, "raffle_activity_account_day", {"user_id": "ann", "activity_id": ACTIVITY, "day": "2026-09-30",
        "day_count": 10, "day_count_surplus": 0})  # fmt: skip
    assert MappedUser(staging).account == (10, 10, 10, 10, 10, 10)


@pytest.mark.parametrize("repair", [False, True])
def test_what_a_user_has_left_stays_and_an_opening_order_explains_it(staging: Staging, *, repair: bool) -> None:
    put(staging, "raffle_activity_account", account("ann", 100, 90))
    put(staging, "raffle_activity_order_000", quota_order("ann", "5", 30, "n"))
    put(staging, "user_raffle_order_000", raffle_order("ann", "1"))
    put(staging, "user_award_record_000", record("ann", "1", 102, "x"))
    user = MappedUser(staging, repair=repair)
    assert user.faults == {accounts.USED, accounts.UNSOURCED}
    assert user.account[:2] == ((91, 90) if repair else (100, 90))
    orders = user.of(t.raffle_activity_order)
    if repair:
        opening = orders[1]
        assert opening["out_business_no"] == f"import-opening-ann-{ACTIVITY}"
        assert (opening["sku"], opening["total_count"], len(opening["order_id"])) == (0, 61, 26)
        assert user.account[2:] == (100, 99, 100, 99)
    else:
        assert len(orders) == 1


@pytest.mark.parametrize(
    ("left", "repair", "expected"),
    [(-1, False, (10, 0)), (-1, True, (0, 0)), (30, True, (30, 30)), (30, False, None)],
)
def test_impossible_accounts(staging: Staging, left: int, *, repair: bool, expected: tuple[int, int] | None) -> None:
    put(staging, "raffle_activity_account", account("ann", 10, left))
    user = MappedUser(staging, repair=repair)
    if expected is None:
        assert not user.of(t.raffle_activity_account)
        assert ("raffle_activity_account", accounts.ABOVE.title) in user.report.skipped
    else:
        assert user.account[:2] == expected


def test_draws_without_an_account(staging: Staging) -> None:
    put(staging, "user_raffle_order_000", raffle_order("ann", "1"))
    put(staging, "user_award_record_000", record("ann", "1", 102, "x"))
    user = MappedUser(staging, repair=True)
    assert user.account == (1, 0, 1, 0, 1, 0)
    assert user.faults == {accounts.NO_ACCOUNT, accounts.UNSOURCED}


def test_orders_and_records_are_brought_together_by_a_repair(staging: Staging) -> None:
    put(staging, "raffle_activity_account", account("ann", 10, 6))
    put(
        staging, "user_raffle_order_000",
        raffle_order("ann", "1"), raffle_order("ann", "2", "create"), raffle_order("ann", "3", "create"),
        {**raffle_order("ann", "4", "create"), "order_time": "2026-09-01 00:00:00", "create_time": None},
    )  # fmt: skip
    put(staging, "user_award_record_000", record("ann", "2", 102, "x"), record("ann", "9", 102, "x"))
    user = MappedUser(staging, repair=True)
    states = {row["order_id"]: row["order_state"] for row in user.of(t.user_raffle_order)}
    assert states == {"1": "cancel", "2": "used", "3": "create", "4": "cancel", "9": "used"}
    assert {draws.NO_RECORD, draws.NOT_USED, draws.NO_ORDER, draws.LEFT_OPEN} <= user.faults
    assert user.account[:2] == (3 + 7, 7), "three orders count, one draw was given back"


@pytest.mark.parametrize("up", [False, True])
def test_a_pending_message_finds_its_record(staging: Staging, *, up: bool) -> None:
    put(staging, "user_award_record_000", record("ann", "1", 101, "points"), record("ann", "2", 101, "other"))
    put(
        staging, "task",
        award_task("ann", "1", 101, "points", up=up, state="fail"),
        {**award_task("ann", "77", 101, "unknown", up=up, state="create"), "message_id": "x"},
        {**award_task("ann", "2", 101, "other", up=up, state="completed"), "message_id": "y"},
        {**award_task("ann", "2", 101, "other", up=up, state="create"), "message_id": "z", "topic": "send_rebate"},
        {**award_task("ann", "2", 101, "other", up=up, state="create"), "message_id": "q", "message": "{"},
    )  # fmt: skip
    user = MappedUser(staging)
    (task,) = user.of(t.task)
    assert (task["message_id"], task["state"], task["attempts"]) == ("1", "create", 0)
    message = decode(task["message"])
    assert (message.order_id, message.epoch, message.award_key) == ("1", 4, "user_credit_random")
    assert message.award_config == ("7,7" if up else "1,100")
    assert user.report.tables["task"].skipped == 4


@pytest.mark.parametrize(
    ("how", "state", "tasks"), [("keep", "create", 0), ("deliver", "create", 1), ("complete", "completed", 0)]
)
def test_awards_never_delivered(staging: Staging, how: Undelivered, state: str, tasks: int) -> None:
    put(staging, "user_award_record_000", record("ann", "1", 101, "points"), record("ann", "2", 102, "by hand"))
    user = MappedUser(staging, undelivered=how)
    assert [row["award_state"] for row in user.of(t.user_award_record)] == [state, state]
    assert len(user.of(t.task)) == tasks
    assert user.report.faults[draws.UNDELIVERED, how != "keep"].count == 1


def test_rows_of_an_unknown_activity_are_skipped(staging: Staging) -> None:
    put(staging, "raffle_activity_account", {**account("ann", 10, 10), "activity_id": 5})
    user = MappedUser(staging)
    assert not user.rows
    assert ("raffle_activity_account", UNKNOWN_ACTIVITY) in user.report.skipped


@pytest.mark.parametrize("repair", [False, True])
def test_points(staging: Staging, *, repair: bool) -> None:
    put(staging, "user_credit_account", credit_account("ann", "20.00", "12.34"))
    put(staging, "user_credit_order_000", credit_order("ann", "1", "行为返利", "10.00", "a"))
    user = MappedUser(staging, repair=repair)
    (kept,) = user.of(t.user_credit_account)
    assert (kept["total_cents"], kept["available_cents"]) == (2000, 1234)
    trades = [(row["trade_name"], row["amount_cents"]) for row in user.of(t.user_credit_order)]
    assert trades == ([("rebate", 1000), ("opening", 234)] if repair else [("rebate", 1000)])
    assert user.faults == {points.BALANCE}


def test_a_balance_below_nothing_is_written_off_only_by_a_repair(staging: Staging) -> None:
    put(staging, "user_credit_account", credit_account("ann", "1.00", "-4.99"))
    assert not MappedUser(staging).of(t.user_credit_account)


def test_a_debt_becomes_nothing(staging: Staging) -> None:
    put(staging, "user_credit_order_000", credit_order("ann", "1", "兑换抽奖", "-4.99", "a"))
    user = MappedUser(staging, repair=True)
    (kept,) = user.of(t.user_credit_account)
    assert (kept["available_cents"], kept["total_cents"]) == (0, 0)
    assert sum(row["amount_cents"] for row in user.of(t.user_credit_order)) == 0
    assert user.faults == {points.NO_ACCOUNT, points.BALANCE}


def test_a_rebate_order_of_s22_has_its_number_inside_the_biz_id(staging: Staging) -> None:
    row = {
        "user_id": "ann", "order_id": "1", "behavior_type": "sign", "rebate_desc": "x", "rebate_type": "integral",
        "rebate_config": "10", "biz_id": "ann_integral_20261001",
    }  # fmt: skip
    put(staging, "user_behavior_rebate_order_000", row)
    (order,) = MappedUser(staging).of(t.user_behavior_rebate_order)
    assert (order["out_business_no"], order["biz_id"]) == ("20261001", "ann_integral_20261001")


def test_sign_ins_are_taken_out_of_their_rebates_with_the_days_in_a_row(staging: Staging) -> None:
    signed = [("1", "sku", str(SKU), "20260930"), ("2", "integral", "10", "20260930"), ("3", "sku", "77", "20261001")]
    paid = [("4", "integral", "10", "p-1")]
    rows = [
        {
            "user_id": "ann", "order_id": order_id, "behavior_type": behavior, "rebate_type": kind,
            "rebate_config": config, "biz_id": f"ann_{kind}_{number}",
        }
        for behavior, orders in (("sign", signed), ("openai_pay", paid))
        for order_id, kind, config, number in orders
    ]  # fmt: skip
    put(staging, "user_behavior_rebate_order_000", *rows)
    user = MappedUser(staging)
    orders = {row["order_id"]: (row["activity_id"], row["state"]) for row in user.of(t.user_behavior_rebate_order)}
    assert orders == {**dict.fromkeys("123", (ACTIVITY, "completed")), "4": (0, "completed")}
    names = ("activity_id", "behavior_type", "out_business_no", "streak")
    done = [tuple(row[name] for name in names) for row in user.of(t.user_behavior)]
    assert done == [(ACTIVITY, "sign", "20260930", 1), (ACTIVITY, "sign", "20261001", 2)]


# --- where rows count ---------------------------------------------------------------------------------------------


def test_only_rows_where_the_reference_looks_count(staging: Staging) -> None:
    for shard in ("m_01", "m_02"):
        for part in range(4):
            staging.saw_table(Place("user_raffle_order", f"{part:03d}"), shard=shard)
    put(staging, "raffle_activity_account", account("max", 10, 10), shard="m_01")  # max belongs to m_02, part 001
    put(staging, "raffle_activity_account", account("max", 20, 20), shard="m_02")
    put(staging, "user_raffle_order_001", raffle_order("max", "1"), shard="m_02")
    put(staging, "user_raffle_order_003", raffle_order("max", "2"), shard="m_02")
    user = MappedUser(staging)
    assert user.account[0] == 20
    assert [row["order_id"] for row in user.of(t.user_raffle_order)] == ["1"]
    assert {reason for _, reason in user.report.skipped if reason == UNPLACED}
    assert user.report.tables["raffle_activity_account"].skipped == 1


def test_rows_that_are_all_elsewhere_are_taken_for_what_they_are(staging: Staging) -> None:
    """An installation with another number of databases, of which only one was given."""
    put(staging, "raffle_activity_account", account("max", 10, 10), shard="m_01")
    staging.saw_table(Place("task", None), shard="m_02")
    assert MappedUser(staging).account[0] == 10


def test_unreadable_and_repeated_rows_are_skipped(staging: Staging) -> None:
    put(staging, "raffle_activity_account", account("ann", 10, 10), account("ann", 10, 10))
    put(
        staging, "user_raffle_order_000",
        raffle_order("ann", "ü"), raffle_order("ann", "1", "odd"), {**raffle_order("ann", "2"), "order_time": "soon"},
        {**raffle_order("ann", "3"), "activity_id": "x"}, {**raffle_order("ann", "4"), "order_time": None},
    )  # fmt: skip
    user = MappedUser(staging)
    assert not user.of(t.user_raffle_order)
    assert user.report.tables["user_raffle_order"].skipped == 5
    assert user.report.tables["raffle_activity_account"].skipped == 1


@pytest.mark.parametrize(
    ("written", "created", "utc"),
    [
        ("2026-10-01 12:00:00", None, "2026-10-01T04:00:00"),
        ("2026-10-01 12:00:00", "2026-10-01 12:00:01", "2026-10-01T04:00:00"),
        ("2026-10-01 04:00:01", "2026-10-01 12:00:00", "2026-10-01T04:00:01"),  # UTC beside Shanghai
        ("2026-10-01 06:30:00", "2026-10-01 12:00:00", "2026-10-01T04:00:00"),  # half an hour is a zone, too
        ("2026-10-01 12:00:00", "2026-10-03 12:00:00", "2026-10-01T04:00:00"),  # days are not
        ("2026-10-01 12:00:00", "2026-10-01 12:20:00", "2026-10-01T04:00:00"),  # nor are twenty minutes
        ("2026-10-01 12:00:00", "0000-00-00 00:00:00", "2026-10-01T04:00:00"),
        ("2026-10-01 12:00:00.250", None, "2026-10-01T04:00:00.250"),
    ],
)
def test_moments(written: str, created: str | None, utc: str) -> None:
    moment = moment_of(written, created=created, zone=SHANGHAI)
    assert moment.ms == round(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize("written", ["0000-00-00 00:00:00", "", "2026-02-30 00:00:00", "2026-01-01T00:00:00Z"])
def test_what_is_no_moment(written: str) -> None:
    with pytest.raises(BadInput):
        moment_of(written, zone=SHANGHAI)


def test_tables_are_known_by_name() -> None:
    assert place_of("user_award_record_003") == Place("user_award_record", "003")
    assert place_of("task") == Place("task", None)
    assert place_of("task_001") is None
    assert place_of("xxl_job_log") is None
    assert read_row(TaskRow, {"user_id": "1", "topic": "t", "message": "m", "more": "x"}).user_id == "1"
