"""Dumps of a small installation of the reference system, with its structure, its usual faults and invented users."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]
Databases = dict[str, Tables]

ACTIVITY, STRATEGY, SKU = 700301, 70006, 7011
CREATED = "2026-10-01 12:00:00"

#: Column types, where the name does not tell that it is a text.
_TYPES = {
    "sort": "int(2)",
    "rule_type": "tinyint(1)",
    "award_rate": "decimal(6,4)",
    **dict.fromkeys(
        ("product_amount", "pay_amount", "total_amount", "available_amount", "trade_amount"), "decimal(10,2)"
    ),
}
_NUMBERED = ("activity_id", "strategy_id", "award_id", "sku", "activity_count_id")

COUNTED = (
    "raffle_activity_order", "user_raffle_order", "user_award_record", "user_behavior_rebate_order",
    "user_credit_order",
)  # fmt: skip


def columns_of(table: str, *, up: bool) -> list[str]:
    """A table's own columns, in S22 or UP."""
    stem = next((name for name in COUNTED if table.startswith(f"{name}_0")), table)
    s22, more = _COLUMNS[stem].split("|")
    return [*s22.split(), *(more.split() if up else ())]


#: Columns of S22, and behind a bar those that only UP has.
_COLUMNS = dict(
    line.split(": ")
    for line in """\
award: award_id award_key award_config award_desc |
daily_behavior_rebate: behavior_type rebate_desc rebate_type rebate_config state |
raffle_activity: activity_id activity_name activity_desc begin_date_time end_date_time strategy_id state |
raffle_activity_count: activity_count_id total_count day_count month_count |
raffle_activity_sku: sku activity_id activity_count_id stock_count stock_count_surplus | product_amount
raffle_activity_stage: channel source activity_id state |
rule_tree: tree_id tree_name tree_desc tree_node_rule_key |
rule_tree_node: tree_id rule_key rule_desc rule_value |
rule_tree_node_line: tree_id rule_node_from rule_node_to rule_limit_type rule_limit_value |
strategy: strategy_id strategy_desc rule_models |
strategy_award: strategy_id award_id award_title award_subtitle award_count award_count_surplus award_rate \
rule_models sort |
strategy_rule: strategy_id award_id rule_type rule_model rule_value rule_desc |
raffle_activity_account: user_id activity_id total_count total_count_surplus day_count day_count_surplus month_count \
month_count_surplus |
raffle_activity_account_month: user_id activity_id month month_count month_count_surplus |
raffle_activity_account_day: user_id activity_id day day_count day_count_surplus |
raffle_activity_order: user_id sku activity_id activity_name strategy_id order_id order_time total_count day_count \
month_count state out_business_no | pay_amount
user_raffle_order: user_id activity_id activity_name strategy_id order_id order_time order_state |
user_award_record: user_id activity_id strategy_id order_id award_id award_title award_time award_state |
user_behavior_rebate_order: user_id order_id behavior_type rebate_desc rebate_type rebate_config biz_id | \
out_business_no
user_credit_account: user_id total_amount available_amount account_status |
user_credit_order: user_id order_id trade_name trade_type trade_amount out_business_no |
task: user_id topic message_id message state |""".splitlines()
)


# --- the installation ---------------------------------------------------------------------------------------------


def configuration(*, up: bool) -> Tables:
    """One activity with the faults that the reference's own data has: it cannot be armed as it is."""
    keys = ["user_credit_random", "vip_days", "gift_card", "vip_days"]  # the last three are unknown here
    configs = ["1,100", "5", "gpt-4", "10"]
    titles = ["points", "five uses", "a model", "ten uses"]
    trees = ["tree_luck", "tree_luck", "tree_lock", "tree_luck"]
    tables: Tables = {
        "award": [
            {"award_id": 101 + n, "award_key": keys[n], "award_config": configs[n], "award_desc": titles[n]}
            for n in range(4)
        ] + [{"award_id": 199, "award_key": "gift_card", "award_config": "x", "award_desc": "on no wheel"}],
        "daily_behavior_rebate": [
            _rebate("sign", "sku", str(SKU)), _rebate("sign", "integral", "10"),
            _rebate("openai_pay", "integral", "10", state="close"),
        ],
        "raffle_activity": [
            {
                "activity_id": ACTIVITY, "activity_name": "测试活动", "activity_desc": "it's a \"test\"",
                "begin_date_time": "2026-01-01 00:00:00", "end_date_time": "2099-01-01 00:00:00",
                "strategy_id": STRATEGY, "state": "open",
            }
        ],
        "raffle_activity_count": [
            {"activity_count_id": 71101, "total_count": 10, "day_count": 10, "month_count": 10}
        ],
        "raffle_activity_sku": [
            {
                "sku": SKU, "activity_id": ACTIVITY, "activity_count_id": 71101, "stock_count": 1000,
                "stock_count_surplus": 900, "product_amount": "1.68",
            }
        ],
        "rule_tree": [
            _tree("tree_luck", "rule_stock"), _tree("tree_lock", "rule_lock"), _tree("tree_old", "rule_lock")
        ],
        "rule_tree_node": [
            _node("tree_luck", "rule_stock"), _node("tree_luck", "rule_luck_award", "101:1,100"),
            _node("tree_lock", "rule_lock", "2"), _node("tree_lock", "rule_stock"),
            _node("tree_lock", "rule_luck_award", "101:1,100"),
        ],
        "rule_tree_node_line": [
            _line("tree_luck", "rule_stock", "ALLOW", "rule_luck_award"),
            _line("tree_lock", "rule_lock", "ALLOW", "rule_luck_award"),  # the known fault
            _line("tree_lock", "rule_lock", "TAKE_OVER", "rule_luck_award"),
            _line("tree_lock", "rule_stock", "ALLOW", "rule_luck_award"),
        ],
        "strategy": [
            {
                "strategy_id": STRATEGY, "strategy_desc": "wheel",
                "rule_models": "rule_blacklist,rule_weight" if up else None,
            },
            {"strategy_id": 79999, "strategy_desc": "of no activity", "rule_models": None},
        ],
        "strategy_award": [
            {
                "strategy_id": STRATEGY, "award_id": 101 + n, "award_title": titles[n], "award_subtitle": None,
                "award_count": 100, "award_count_surplus": 50 + n, "award_rate": "0.1000", "rule_models": trees[n],
                "sort": n + 1,
            }
            for n in range(4)
        ],
        "strategy_rule": [
            _rule("rule_weight", "10:102,103 70:104"), _rule("rule_blacklist", "101:user001,user002"),
            {**_rule("rule_lock", "3"), "award_id": 103, "rule_type": 2},
        ],
    }  # fmt: skip
    if up:
        tables["raffle_activity_stage"] = [
            {"channel": "c01", "source": "s01", "activity_id": ACTIVITY, "state": "active"}
        ]
    return tables


def shards(*, up: bool) -> Databases:
    """Two databases of users. ann is sound; max (of the second) has faults, and an account where he does not belong.

    The reference's hash puts ann into table 000 of the first, max into table 001 of the second.
    """
    first: Tables = {
        "raffle_activity_account": [account("ann", 10, 8), account("max", 4, 3)],
        "raffle_activity_account_month": [],
        "raffle_activity_account_day": [],
        "raffle_activity_order_000": [quota_order("ann", "500000000001", 10, "ann_sku_20261001")],
        "user_raffle_order_000": [raffle_order("ann", "600000000001"), raffle_order("ann", "600000000002")],
        "user_award_record_000": [
            record("ann", "600000000001", 101, "points"),
            {**record("ann", "600000000002", 102, "five uses"), "award_state": "completed"},
        ],
        "user_behavior_rebate_order_000": [
            {
                "user_id": "ann", "order_id": "800000000001", "behavior_type": "sign", "rebate_desc": "签到",
                "rebate_type": "sku", "rebate_config": str(SKU), "biz_id": "ann_sku_20261001",
                "out_business_no": "20261001",
            }
        ],
        "task": [
            award_task("ann", "600000000001", 101, "points", up=up, state="fail"),
            award_task("ann", "600000000002", 102, "five uses", up=up, state="completed"),
        ],
    }  # fmt: skip
    second: Tables = {
        "raffle_activity_account": [account("max", 100, 100)],
        "raffle_activity_account_month": [],
        "raffle_activity_account_day": [
            {"user_id": "max", "activity_id": ACTIVITY, "day": "2026-04-05", "day_count": 45, "day_count_surplus": 1}
        ],
        "raffle_activity_order_001": [],
        "user_raffle_order_001": [raffle_order("max", "600000000003"), raffle_order("max", "600000000001")],
        "user_award_record_001": [
            record("max", "600000000003", 103, "a model"), record("max", "600000000009", 101, "points"),
            record("max", "600000000001", 101, "points"),
        ],
        "task": [],
    }  # fmt: skip
    if up:
        first["user_credit_account"] = [credit_account("ann", "15.50", "12.50")]
        first["user_credit_order_000"] = [
            credit_order("ann", "900000000001", "行为返利", "15.50", "ann_integral_20261001"),
            credit_order("ann", "900000000002", "兑换抽奖", "-3.00", "900000000077"),
        ]
        second["user_credit_account"] = [credit_account("max", "77.77", "77.77")]
        second["user_credit_order_001"] = []
    for tables in (first, second):
        for stem in COUNTED:
            if stem == "user_credit_order" and not up:
                continue
            for part in range(4):
                tables.setdefault(f"{stem}_{part:03d}", [])
    return {"big_market_01": first, "big_market_02": second}


def installation(*, up: bool) -> Databases:
    """All databases."""
    return {"big_market": configuration(up=up), **shards(up=up)}


def account(user_id: str, count: int, left: int) -> dict[str, Any]:
    """An account whose day and month allow as much as there is in all."""
    return {
        "user_id": user_id, "activity_id": ACTIVITY, "total_count": count, "total_count_surplus": left,
        "day_count": count, "day_count_surplus": left, "month_count": count, "month_count_surplus": left,
    }  # fmt: skip


def quota_order(user_id: str, order_id: str, draws: int, number: str) -> dict[str, Any]:
    """A completed recharge; its time is written in UTC, eight hours behind the database's."""
    return {
        "user_id": user_id, "sku": SKU, "activity_id": ACTIVITY, "activity_name": "测试活动", "strategy_id": STRATEGY,
        "order_id": order_id, "order_time": "2026-10-01 04:00:00", "total_count": draws, "day_count": draws,
        "month_count": draws, "state": "completed", "out_business_no": number, "pay_amount": "0.00",
    }  # fmt: skip


def raffle_order(user_id: str, order_id: str, state: str = "used") -> dict[str, Any]:
    """A raffle order."""
    return {
        "user_id": user_id, "activity_id": ACTIVITY, "activity_name": "测试活动", "strategy_id": STRATEGY,
        "order_id": order_id, "order_time": "2026-10-01 04:00:00", "order_state": state,
    }  # fmt: skip


def record(user_id: str, order_id: str, award_id: int, title: str) -> dict[str, Any]:
    """An award record that was never completed."""
    return {
        "user_id": user_id, "activity_id": ACTIVITY, "strategy_id": STRATEGY, "order_id": order_id,
        "award_id": award_id, "award_title": title, "award_time": "2026-10-01 04:00:01", "award_state": "create",
    }  # fmt: skip


def award_task(user_id: str, order_id: str, award_id: int, title: str, *, up: bool, state: str) -> dict[str, Any]:
    """The message of an award; S22's names no order."""
    data = {"awardId": award_id, "awardTitle": title, "userId": user_id}
    if up:
        data |= {"orderId": order_id, "awardConfig": "7,7"}
    message_id = order_id[-11:]
    message = json.dumps({"data": data, "id": message_id, "timestamp": 1_790_000_000_000}, ensure_ascii=False)
    return {"user_id": user_id, "topic": "send_award", "message_id": message_id, "message": message, "state": state}


def credit_account(user_id: str, total: str, available: str) -> dict[str, Any]:
    """Points."""
    return {"user_id": user_id, "total_amount": total, "available_amount": available, "account_status": "open"}


def credit_order(user_id: str, order_id: str, name: str, amount: str, number: str) -> dict[str, Any]:
    """A movement of points."""
    return {
        "user_id": user_id, "order_id": order_id, "trade_name": name,
        "trade_type": "reverse" if amount.startswith("-") else "forward", "trade_amount": amount,
        "out_business_no": number,
    }  # fmt: skip


def _rebate(behavior: str, kind: str, config: str, state: str = "open") -> dict[str, Any]:
    return {
        "behavior_type": behavior, "rebate_desc": "返利", "rebate_type": kind, "rebate_config": config, "state": state
    }  # fmt: skip


def _tree(tree_id: str, root: str) -> dict[str, Any]:
    return {"tree_id": tree_id, "tree_name": tree_id, "tree_desc": None, "tree_node_rule_key": root}


def _node(tree_id: str, rule: str, value: str | None = None) -> dict[str, Any]:
    return {"tree_id": tree_id, "rule_key": rule, "rule_desc": rule, "rule_value": value}


def _line(tree_id: str, source: str, when: str, target: str) -> dict[str, Any]:
    return {
        "tree_id": tree_id, "rule_node_from": source, "rule_node_to": target, "rule_limit_type": "EQUAL",
        "rule_limit_value": when,
    }  # fmt: skip


def _rule(model: str, value: str) -> dict[str, Any]:
    return {
        "strategy_id": STRATEGY, "award_id": None, "rule_type": 1, "rule_model": model, "rule_value": value,
        "rule_desc": model,
    }  # fmt: skip


# --- as text ------------------------------------------------------------------------------------------------------


def sequel_ace(database: str, tables: Mapping[str, Rows], *, up: bool) -> str:
    """As Sequel Ace exports: the columns are named, a row per line."""
    text = [f"# 数据库: {database}", "/*!40101 SET NAMES utf8 */;", "SET NAMES utf8mb4;"]
    text += [f"CREATE database if NOT EXISTS `{database}` default character set utf8mb4;", f"use `{database}`;"]
    for table, rows in tables.items():
        text += [f"# 转储表 {table}\n# ----------", f"DROP TABLE IF EXISTS `{table}`;", _definition(table, up=up)]
        if rows:
            names = ", ".join(f"`{name}`" for name in _all_columns(table, up=up))
            lines = ",\n".join(f"\t({values})" for values in _values(table, rows, up=up))
            text += [f"LOCK TABLES `{table}` WRITE;\n/*!40000 ALTER TABLE `{table}` DISABLE KEYS */;"]
            text += [f"INSERT INTO `{table}` ({names})\nVALUES\n{lines};", "UNLOCK TABLES;"]
    return "\n\n".join(text) + "\n"


def mysqldump(tables: Mapping[str, Rows], *, up: bool) -> str:
    """As mysqldump writes: no database and no columns are named, all rows on one line."""
    text = ["-- MySQL dump 10.13\n--", "/*!50503 SET NAMES utf8mb4 */;"]
    for table, rows in tables.items():
        text += [f"DROP TABLE IF EXISTS `{table}`;", _definition(table, up=up)]
        if rows:
            listed = ",".join(f"({values})" for values in _values(table, rows, up=up))
            text += [f"INSERT INTO `{table}` VALUES {listed};"]
    text += ["DELIMITER ;;\nCREATE TRIGGER `t` BEFORE INSERT ON `award` FOR EACH ROW BEGIN SET @x = 1; END ;;"]
    text += ["DELIMITER ;\n-- Dump completed"]
    return "\n".join(text) + "\n"


def statements(tables: Mapping[str, Rows], *, up: bool) -> Iterable[str]:
    """What sets such a database up."""
    for table, rows in tables.items():
        yield _definition(table, up=up).rstrip(";")
        for values in _values(table, rows, up=up):
            yield f"INSERT INTO `{table}` VALUES ({values})"


def literal(value: object) -> str:
    """A value as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    for raw, escaped in (("\\", "\\\\"), ("'", "\\'"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        text = text.replace(raw, escaped)
    return f"'{text}'"


def _all_columns(table: str, *, up: bool) -> Sequence[str]:
    return ["id", *columns_of(table, up=up), "create_time", "update_time"]


def _values(table: str, rows: Rows, *, up: bool) -> Iterable[str]:
    for number, row in enumerate(rows, start=1):
        full = {"id": number, "create_time": CREATED, "update_time": CREATED, **row}
        yield ",".join(literal(full[name]) for name in _all_columns(table, up=up))


def _definition(table: str, *, up: bool) -> str:
    lines = ["  `id` bigint(11) unsigned NOT NULL AUTO_INCREMENT COMMENT '自增ID'"]
    for name in columns_of(table, up=up):
        numbered = name in _NUMBERED or name.endswith(("_surplus", "_count"))
        kind = _TYPES.get(name) or (
            "bigint(12)" if numbered else "datetime" if name.endswith("_time") else "varchar(512)"
        )
        lines.append(f"  `{name}` {kind} DEFAULT NULL COMMENT 'a, b; (c)'")
    lines += [f"  `{name}` datetime NOT NULL DEFAULT CURRENT_TIMESTAMP" for name in ("create_time", "update_time")]
    lines += ["  PRIMARY KEY (`id`)"]
    return f"CREATE TABLE `{table}` (\n" + ",\n".join(lines) + "\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;"
