"""Pure: writes an activity of the reference down as the data of a campaign file, as faithfully as one can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from bigmarket.activity.armory import KindCheck
from bigmarket.errors import Problem
from bigmarket.importing import reference as r

Draft = dict[str, Any]  # a campaign file's data

#: What the reference gives a listed user in place of the award's own config.
BLACKLIST_CONFIG = "0.01,1"
CREDITS_KIND = "user_credit_random"
ENDS_THE_CHAIN = "rule_default"


@dataclass(frozen=True, slots=True)
class Gone:
    """Units that the rows to be imported have taken, by (strategy, award) and by sku."""

    awards: Mapping[tuple[int, int], int]
    skus: Mapping[int, int]


@dataclass(slots=True)
class Configuration:
    """The configuration rows, typed, each with its number in its table."""

    rows: dict[str, list[r.Row]] = field(default_factory=lambda: defaultdict(list))

    def of(self, kind: type[r.R]) -> Iterable[tuple[int, r.R]]:
        """The rows of a kind, numbered from 0."""
        table = next(name for name, known in r.CONFIGURATION.items() if known is kind)
        for place, row in enumerate(self.rows[table]):
            assert isinstance(row, kind), table
            yield place, row


class Drafting:
    """Writes one activity down as a campaign file's data; ``faults`` are those that the data cannot show."""

    def __init__(self, configuration: Configuration, activity: r.ActivityRow, time_zone: str, gone: Gone) -> None:
        self.activity = activity
        self.faults: list[Problem] = []
        self.stock: list[str] = []
        self.used: dict[str, set[int]] = defaultdict(set)
        self._configuration = configuration
        self._time_zone = time_zone
        self._gone = gone

    def draft(self, rebates: Sequence[tuple[int, r.RebateRow]], kinds: Mapping[str, KindCheck]) -> Draft:
        """The whole file."""
        activity = self.activity
        self._rows(r.ActivityRow, "raffle_activity", activity_id=activity.activity_id)
        strategies = self._rows(r.StrategyRow, "strategy", strategy_id=activity.strategy_id)
        sectors = sorted(
            self._rows(r.SectorRow, "strategy_award", strategy_id=activity.strategy_id), key=lambda row: row.sort
        )
        chain = self._chain(strategies[0].rule_models if strategies else None)
        trees = [self._tree(tree_id) for tree_id in sorted({row.rule_models for row in sectors if row.rule_models})]
        awards = self._catalogue({row.award_id for row in sectors}, chain, kinds)
        return {
            "activity": _filled(
                activity_id=activity.activity_id,
                name=activity.activity_name,
                description=_text(activity.activity_desc),
                time_zone=self._time_zone,
                begin=activity.begin_date_time,
                end=activity.end_date_time,
                state=activity.state,
            ),
            "skus": self._skus(),
            "strategy": {
                "strategy_id": activity.strategy_id,
                "name": strategies[0].strategy_desc if strategies else activity.activity_name,
                "chain": chain,
                "awards": [self._sector(row) for row in sectors],
                "trees": [tree for tree in trees if tree is not None],
            },
            "awards": awards,
            "rebates": [self._rebate(place, row) for place, row in rebates],
        }

    def _rows(self, kind: type[r.R], table: str, **where: object) -> list[r.R]:
        """The rows with these values; they count as used."""
        found = []
        for place, row in self._configuration.of(kind):
            if all(getattr(row, name) == value for name, value in where.items()):
                self.used[table].add(place)
                found.append(row)
        return found

    def _skus(self) -> list[Draft]:
        skus = []
        for row in self._rows(r.SkuRow, "raffle_activity_sku", activity_id=self.activity.activity_id):
            counts = self._rows(r.CountRow, "raffle_activity_count", activity_count_id=row.activity_count_id)
            if not counts:
                fix = f"sku {row.sku} is left out: nothing says how many draws it holds"
                path = f"skus[{row.sku}]"
                self.faults.append(Problem(path, f"there is no raffle_activity_count {row.activity_count_id}", fix))
                continue
            gone, left = self._gone.skus.get(row.sku, 0), max(0, row.stock_count_surplus)
            self._count_stock(f"sku {row.sku}", row.stock_count, left, gone)
            skus.append(
                {
                    "sku": row.sku,
                    "stock": gone + left,
                    "price": _decimal(row.product_amount or Decimal(0)),
                    "total_count": counts[0].total_count,
                    "month_count": counts[0].month_count,
                    "day_count": counts[0].day_count,
                }
            )
        return skus

    def _sector(self, row: r.SectorRow) -> Draft:
        gone, left = self._gone.awards.get((row.strategy_id, row.award_id), 0), max(0, row.award_count_surplus)
        self._count_stock(f"award {row.award_id}", row.award_count, left, gone)
        return _filled(
            award_id=row.award_id,
            title=row.award_title,
            subtitle=_text(row.award_subtitle),
            rate=_decimal(row.award_rate),
            stock=gone + left,
            sort=row.sort,
            tree=_text(row.rule_models),
        )

    def _count_stock(self, what: str, count: int, left: int, gone: int) -> None:
        self.stock.append(f"{what}: {gone} imported + {left} left = {gone + left} (the reference: {count} in all)")

    def _catalogue(self, wanted: set[int], chain: Sequence[Draft], kinds: Mapping[str, KindCheck]) -> list[Draft]:
        awards = []
        for award_id in sorted(wanted):
            rows = self._rows(r.AwardRow, "award", award_id=award_id)
            if not rows:
                continue
            row = rows[0]
            awards.append(
                _filled(
                    award_id=award_id,
                    kind=row.award_key,
                    config=row.award_config,
                    description=_text(row.award_desc),
                )
            )
            for rule in chain:
                if (
                    rule["rule"] == "rule_blacklist"
                    and rule["award_id"] == award_id
                    and row.award_key == CREDITS_KIND
                ):
                    check = kinds.get(row.award_key)
                    if check is not None and check(BLACKLIST_CONFIG) is None:
                        rule["config"] = BLACKLIST_CONFIG
        return awards

    # --- rules ----------------------------------------------------------------------------------------------------

    def _chain(self, rule_models: str | None) -> list[Draft]:
        chain = []
        names = [name.strip() for name in (rule_models or "").split(",")]
        for name in [name for name in names if name and name != ENDS_THE_CHAIN]:
            rows = self._rows(
                r.RuleRow, "strategy_rule", strategy_id=self.activity.strategy_id, rule_model=name, rule_type=1
            )
            try:
                chain.append(_CHAIN_RULES[name](rows[0].rule_value))
            except KeyError:
                self._chain_fault(name, "there is no such rule here")
            except IndexError:
                self._chain_fault(name, "is named by the strategy but has no settings in strategy_rule")
            except ValueError:
                self._chain_fault(name, f"cannot be read: `{rows[0].rule_value}`")
        return chain

    def _chain_fault(self, name: str, reason: str) -> None:
        self.faults.append(Problem(f"strategy.chain[{name}]", reason, f"the rule {name} is left out of the chain"))

    def _tree(self, tree_id: str) -> Draft | None:
        trees = self._rows(r.TreeRow, "rule_tree", tree_id=tree_id)
        if not trees:
            return None
        nodes = [
            node for row in self._rows(r.NodeRow, "rule_tree_node", tree_id=tree_id) if (node := self._node(row))
        ]
        lines = self._rows(r.LineRow, "rule_tree_node_line", tree_id=tree_id)
        return _filled(
            tree_id=tree_id,
            name=_text(trees[0].tree_name),
            root=trees[0].tree_node_rule_key,
            nodes=nodes,
            lines=[
                {"from": row.rule_node_from, "when": row.rule_limit_value, "to": row.rule_node_to}
                for row in lines
                if self._compares_by_equality(row)
            ],
        )

    def _node(self, row: r.NodeRow) -> Draft | None:
        value = row.rule_value or ""
        try:
            if row.rule_key == "rule_lock":
                # The first draw of a day is draw 1, so a lock at 0 is one at 1.
                return {"rule": row.rule_key, "unlock_at_draw": max(1, int(value))}
            if row.rule_key == "rule_luck_award":
                award_id, _, config = value.partition(":")
                return _filled(rule=row.rule_key, award_id=int(award_id), config=_text(config))
        except ValueError:
            path = f"strategy.trees[{row.tree_id}].nodes[{row.rule_key}]"
            self.faults.append(
                Problem(path, f"cannot be read: `{value}`", f"{row.rule_key} is left out of {row.tree_id}")
            )
            return None
        return {"rule": row.rule_key}

    def _compares_by_equality(self, row: r.LineRow) -> bool:
        if row.rule_limit_type.upper() == "EQUAL":
            return True
        path = f"strategy.trees[{row.tree_id}].lines[{row.rule_node_from}]"
        reason = f"compares by {row.rule_limit_type}, which a line here cannot"
        self.faults.append(Problem(path, reason, f"the line to {row.rule_node_to} is left out of {row.tree_id}"))
        return False

    def _rebate(self, place: int, row: r.RebateRow) -> Draft:
        self.used["daily_behavior_rebate"].add(place)
        number: int | str = int(row.rebate_config) if row.rebate_config.isdecimal() else row.rebate_config
        key = "sku" if row.rebate_type == "sku" else "credits"
        return _filled(
            behavior=row.behavior_type.lower(),
            type=row.rebate_type,
            description=_text(row.rebate_desc),
            **{key: number},
        )


def _read_blacklist(value: str) -> Draft:
    """``101:user001,user002``."""
    award_id, _, users = value.partition(":")
    listed = sorted({user.strip() for user in users.split(",") if user.strip()})
    return {"rule": "rule_blacklist", "award_id": int(award_id), "users": listed}


def _read_weight(value: str) -> Draft:
    """``4000:102,103 5000:102,103,104``."""
    tiers = []
    for group in value.split():
        at_draw, _, awards = group.partition(":")
        tiers.append({"at_draw": int(at_draw), "awards": [int(award_id) for award_id in awards.split(",")]})
    if not tiers:
        raise ValueError(value)
    return {"rule": "rule_weight", "tiers": tiers}


_CHAIN_RULES = {"rule_blacklist": _read_blacklist, "rule_weight": _read_weight}


def _filled(**values: Any) -> Draft:
    return {name: value for name, value in values.items() if value is not None}


def _text(value: str | None) -> str | None:
    return value.strip() or None if value else None


def _decimal(value: Decimal) -> str:
    return format(value.normalize(), "f")
