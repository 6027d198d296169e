"""A campaign as rows of the configuration tables, and back."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, RowMapping, Table, select

from bigmarket.activity.armory import plain_data
from bigmarket.activity.model import Activity, Campaign, Sku
from bigmarket.award.model import Award
from bigmarket.rebate.model import IntegralRebate, Rebate, SkuRebate
from bigmarket.storage import schema as t
from bigmarket.strategy.model import RuleTree, Strategy, StrategyAward, TreeLine
from bigmarket.strategy.rules import ChainRule, TreeRule

_1970 = datetime(1970, 1, 1, tzinfo=UTC)


def rows_of(campaign: Campaign) -> dict[Table, list[dict[str, Any]]]:
    """The rows of every configuration table but the activity's own."""
    activity_id = campaign.activity.activity_id
    return {
        **_sku_rows(campaign),
        **_strategy_rows(campaign.strategy),
        **_tree_rows(campaign.strategy),
        t.award: [
            {
                "activity_id": activity_id,
                "award_id": award.award_id,
                "award_key": award.kind,
                "award_config": award.config,
                "award_desc": award.description,
                "claim_days": award.claim_days,
            }
            for award in campaign.awards
        ],
        t.daily_behavior_rebate: [
            {
                "activity_id": activity_id,
                "position": position,
                "behavior_type": rebate.behavior,
                "rebate_type": rebate.type,
                "rebate_config": rebate.config,
                "rebate_desc": rebate.description,
                "streak_days": rebate.streak_days or 0,
            }
            for position, rebate in enumerate(campaign.rebates)
        ],
    }


def _sku_rows(campaign: Campaign) -> dict[Table, list[dict[str, Any]]]:
    return {
        t.raffle_activity_count: [
            {
                "activity_count_id": sku.sku,
                "total_count": sku.total_count,
                "day_count": sku.day_count,
                "month_count": sku.month_count,
            }
            for sku in campaign.skus
        ],
        t.raffle_activity_sku: [
            {
                "sku": sku.sku,
                "activity_id": campaign.activity.activity_id,
                "activity_count_id": sku.sku,
                "sku_name": sku.name,
                "stock_count": sku.stock,
                "product_cents": int(sku.price * 100),
            }
            for sku in campaign.skus
        ],
    }


def _strategy_rows(strategy: Strategy) -> dict[Table, list[dict[str, Any]]]:
    return {
        t.strategy: [
            {
                "strategy_id": strategy.strategy_id,
                "strategy_desc": strategy.name,
                "rule_models": ",".join(rule.rule for rule in strategy.chain) or None,
            }
        ],
        t.strategy_award: [
            {
                "strategy_id": strategy.strategy_id,
                "award_id": award.award_id,
                "award_title": award.title,
                "award_subtitle": award.subtitle,
                "award_count": award.stock,
                "award_rate": format(award.rate, "f"),
                "rule_models": award.tree,
                "sort": award.sort,
            }
            for award in strategy.awards
        ],
        t.strategy_rule: [
            {"strategy_id": strategy.strategy_id, "rule_model": rule.rule, "rule_value": _settings(rule)}
            for rule in strategy.chain
        ],
    }


def _tree_rows(strategy: Strategy) -> dict[Table, list[dict[str, Any]]]:
    keyed = [({"strategy_id": strategy.strategy_id, "tree_id": tree.tree_id}, tree) for tree in strategy.trees]
    return {
        t.rule_tree: [{**key, "tree_name": tree.name, "tree_node_rule_key": tree.root} for key, tree in keyed],
        t.rule_tree_node: [
            {**key, "rule_key": node.rule, "rule_value": _settings(node)}
            for key, tree in keyed
            for node in tree.nodes
        ],
        t.rule_tree_node_line: [
            {
                **key,
                "rule_node_from": line.source,
                "rule_limit_value": line.when,
                "rule_node_to": line.target,
            }
            for key, tree in keyed
            for line in tree.lines
        ],
    }


def _settings(rule: ChainRule | TreeRule) -> str:
    """A rule's settings as JSON, without its name (which is a column)."""
    data = plain_data(rule.model_dump(exclude={"rule"}, exclude_none=True))
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


# --- back ---------------------------------------------------------------------------------------------------------


def campaign_of(connection: Connection, activity: RowMapping) -> Campaign:
    """The campaign of that row of ``raffle_activity``, its lists in no particular order."""
    activity_id = activity["activity_id"]
    rebates = rows_where(connection, t.daily_behavior_rebate, activity_id=activity_id)
    return Campaign(
        activity=_activity(activity),
        skus=_read_skus(connection, activity_id),
        strategy=_read_strategy(connection, activity["strategy_id"]),
        awards=tuple(_award(award) for award in rows_where(connection, t.award, activity_id=activity_id)),
        rebates=tuple(_rebate(rebate) for rebate in rebates),
    )


def rows_where(connection: Connection, table: Table, **where: object) -> Sequence[RowMapping]:
    """The rows whose columns have these values, by primary key."""
    query = select(table).where(*(table.c[name] == value for name, value in where.items()))
    return connection.execute(query.order_by(*table.primary_key)).mappings().all()


def _activity(row: RowMapping) -> Activity:
    return Activity(
        activity_id=row["activity_id"],
        name=row["activity_name"],
        description=row["activity_desc"],
        time_zone=row["time_zone"],
        begin=_moment(row["begin_ms"]),
        end=_moment(row["end_ms"]),
        state=row["state"],
    )


def _moment(since_1970_ms: int) -> datetime:
    return _1970 + timedelta(milliseconds=since_1970_ms)


def _read_skus(connection: Connection, activity_id: int) -> tuple[Sku, ...]:
    sku, count = t.raffle_activity_sku, t.raffle_activity_count
    query = (
        select(sku, count)
        .join_from(sku, count, count.c.activity_count_id == sku.c.activity_count_id)
        .where(sku.c.activity_id == activity_id)
    )
    return tuple(
        Sku(
            sku=row[sku.c.sku],
            name=row[sku.c.sku_name],
            stock=row[sku.c.stock_count],
            price=Decimal(row[sku.c.product_cents]).scaleb(-2),
            total_count=row[count.c.total_count],
            month_count=row[count.c.month_count],
            day_count=row[count.c.day_count],
        )
        for row in connection.execute(query).mappings()
    )


def _read_strategy(connection: Connection, strategy_id: int) -> Strategy:
    (row,) = rows_where(connection, t.strategy, strategy_id=strategy_id)
    rules = {rule["rule_model"]: rule for rule in rows_where(connection, t.strategy_rule, strategy_id=strategy_id)}
    names = row["rule_models"].split(",") if row["rule_models"] else []
    return Strategy(
        strategy_id=strategy_id,
        name=row["strategy_desc"],
        chain=tuple(_chain_rule(name, settings=rules[name]["rule_value"]) for name in names),
        awards=tuple(_sector(award) for award in rows_where(connection, t.strategy_award, strategy_id=strategy_id)),
        trees=_read_trees(connection, strategy_id),
    )


def _read_trees(connection: Connection, strategy_id: int) -> tuple[RuleTree, ...]:
    nodes, lines = defaultdict(list), defaultdict(list)
    for row in rows_where(connection, t.rule_tree_node, strategy_id=strategy_id):
        nodes[row["tree_id"]].append(_tree_rule(row["rule_key"], settings=row["rule_value"]))
    for row in rows_where(connection, t.rule_tree_node_line, strategy_id=strategy_id):
        line = {"from": row["rule_node_from"], "when": row["rule_limit_value"], "to": row["rule_node_to"]}
        lines[row["tree_id"]].append(TreeLine.model_validate(line))
    return tuple(
        RuleTree(
            tree_id=row["tree_id"],
            name=row["tree_name"],
            root=row["tree_node_rule_key"],
            nodes=tuple(nodes[row["tree_id"]]),
            lines=tuple(lines[row["tree_id"]]),
        )
        for row in rows_where(connection, t.rule_tree, strategy_id=strategy_id)
    )


def _sector(row: RowMapping) -> StrategyAward:
    return StrategyAward(
        award_id=row["award_id"],
        title=row["award_title"],
        subtitle=row["award_subtitle"],
        rate=Decimal(row["award_rate"]),
        stock=row["award_count"],
        sort=row["sort"],
        tree=row["rule_models"],
    )


_CHAIN_RULE: TypeAdapter[ChainRule] = TypeAdapter(ChainRule)
_TREE_RULE: TypeAdapter[TreeRule] = TypeAdapter(TreeRule)


def _chain_rule(name: str, *, settings: str) -> ChainRule:
    return _CHAIN_RULE.validate_python({"rule": name, **json.loads(settings)})


def _tree_rule(name: str, *, settings: str) -> TreeRule:
    return _TREE_RULE.validate_python({"rule": name, **json.loads(settings)})


def _award(row: RowMapping) -> Award:
    return Award(
        award_id=row["award_id"],
        kind=row["award_key"],
        config=row["award_config"],
        description=row["award_desc"],
        claim_days=row["claim_days"],
    )


def _rebate(row: RowMapping) -> Rebate:
    number = int(row["rebate_config"])
    common = {"behavior": row["behavior_type"], "description": row["rebate_desc"], "streak_days": row["streak_days"]}
    if row["rebate_type"] == "sku":
        return SkuRebate(type="sku", sku=number, **common)
    return IntegralRebate(type="integral", credits=number, **common)
