"""Writes and arms the campaigns that can be, one transaction each; a campaign that is here already is left alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert

from bigmarket.activity.armory import warnings_of
from bigmarket.activity.campaign import Campaign
from bigmarket.activity.stock import SKUS, StockKey
from bigmarket.errors import BadInput, ConfigurationInvalid, Duplicate, Problem
from bigmarket.importing import reference as r
from bigmarket.importing.campaigns import Mapped
from bigmarket.importing.drafting import Configuration
from bigmarket.importing.load_stages import STAGES, load_stages
from bigmarket.importing.report import CampaignResult, Report
from bigmarket.importing.terms import ActivityFacts, Options, Target, facts_of
from bigmarket.storage import schema as t
from bigmarket.storage.arming import arm_installation
from bigmarket.storage.campaigns import Armed, load_live, read_campaign, write_campaign
from bigmarket.storage.installation import Stores
from bigmarket.storage.transfers import standings

UNUSED = "no imported activity uses it"
REFUSED = "its activity was refused"
REBATE_CLOSED = "closed: it earns nothing"
STAGE = "its activity is not here"
AWARD_RULE = "a rule of an award (rule_type 2): trees took its place"

_FATES = {"imported": "written", "there already": "there_already"}  # of the rows of a campaign, by its outcome


def load_campaigns(
    mapped: Sequence[Mapped], configuration: Configuration, target: Target, options: Options, report: Report
) -> dict[int, ActivityFacts]:
    """What is known of every activity that is here afterwards, those that were here before included."""
    if target.stores is not None and target.stores.escrowed and not options.arm:
        raise BadInput("With several databases units are counted once a campaign is armed: leave --no-arm out.")
    facts = _activities_here(target)
    used: dict[str, dict[int, str]] = defaultdict(dict)
    for item in mapped:
        here = facts.get(item.activity_id)
        if here is not None:
            facts[item.activity_id] = replace(here, epoch=_epoch_armed(item.activity_id, here, target, options))
            result = CampaignResult(item.activity_id, item.name, "there already")
        else:
            result, found = _load(item, target, options)
            if found is not None:
                facts[item.activity_id] = found
        report.campaigns.append(result)
        for table, places in item.used.items():
            for place in places:
                used[table].setdefault(place, result.outcome)
    used[STAGES] = load_stages(configuration.rows.get(STAGES, []), facts, target, options)
    _tell_rows(configuration, used, report)
    return facts


def _load(item: Mapped, target: Target, options: Options) -> tuple[CampaignResult, ActivityFacts | None]:
    campaign = item.campaign or (item.repaired if options.repair else None)
    if campaign is None:
        return _refused(item, item.problems), None
    if target.stores is None or options.dry_run:
        revision_id, epoch = None, 1 if options.arm else None
    else:
        try:
            revision_id, epoch = _write(target.stores, campaign, target, options)
        except ConfigurationInvalid as invalid:
            return _refused(item, invalid.problems), None
        except Duplicate as taken:
            raise Duplicate(f"Activity {item.activity_id} cannot be imported: {taken}") from taken
    result = CampaignResult(
        item.activity_id,
        campaign.activity.name,
        "imported",
        problems=item.problems,
        repairs=item.repairs,
        stock=item.stock,
        warnings=tuple(warnings_of(campaign)),
        revision_id=revision_id,
    )
    return result, facts_of(campaign, epoch=epoch)


def _refused(item: Mapped, problems: Iterable[Problem]) -> CampaignResult:
    return CampaignResult(
        item.activity_id,
        item.name,
        "refused",
        problems=tuple(problems),
        repairs=item.repairs,
        remaining=item.remaining,
        stock=item.stock,
    )


def _write(stores: Stores, campaign: Campaign, target: Target, options: Options) -> tuple[str | None, int | None]:
    """The campaign and, unless it shall not be, its revision: its id and seed epoch."""
    with stores.config.writing() as connection:
        write_campaign(connection, campaign)
        if not options.arm:
            _provide_stock(connection, campaign)
            return None, None
    armed = _arm(campaign.activity.activity_id, stores, target, options)
    return armed.revision_id, armed.epoch


def _arm(activity_id: int, stores: Stores, target: Target, options: Options) -> Armed:
    return arm_installation(stores, activity_id, kinds=target.kinds, now_ms=options.now_ms, new_seed=target.new_seed)


def _provide_stock(connection: Connection, campaign: Campaign) -> None:
    """Rows in which users' units are counted; arming finds them as it would have made them."""
    strategy_id = campaign.strategy.strategy_id
    prizes = {(strategy_id, award.award_id): award.stock for award in campaign.strategy.awards}
    skus: dict[StockKey, int | None] = {(SKUS, sku.sku): sku.stock for sku in campaign.skus}
    there = standings(connection, [*prizes, *skus])
    rows = [
        {"strategy_id": strategy_id, "award_id": key[1], "alloc": stock, "sold": 0}
        for key, stock in prizes.items()
        if key not in there
    ]
    if rows:
        connection.execute(insert(t.award_stock), rows)
    rows = [{"sku": key[1], "alloc": stock, "sold": 0} for key, stock in skus.items() if key not in there]
    if rows:
        connection.execute(insert(t.sku_stock), rows)


# --- what is here -------------------------------------------------------------------------------------------------


def _activities_here(target: Target) -> dict[int, ActivityFacts]:
    if target.stores is None:
        return {}
    found = {}
    with target.stores.config.reading() as connection:
        for activity_id, live in load_live(connection, {}).items():
            campaign = read_campaign(connection, activity_id)
            assert campaign is not None, "its row is there"
            found[activity_id] = facts_of(campaign, epoch=None if live.revision is None else live.epoch)
    return found


def _epoch_armed(activity_id: int, here: ActivityFacts, target: Target, options: Options) -> int | None:
    """The activity's seed epoch; one that was never armed is armed now, or at least given rows for its stock."""
    if here.epoch is not None or target.stores is None or options.dry_run:
        return here.epoch
    if options.arm:
        return _arm(activity_id, target.stores, target, options).epoch
    with target.stores.config.writing() as connection:
        campaign = read_campaign(connection, activity_id)
        assert campaign is not None, "it was found before"
        _provide_stock(connection, campaign)
    return None


# --- what became of the rows --------------------------------------------------------------------------------------


def _tell_rows(configuration: Configuration, used: Mapping[str, Mapping[int, str]], report: Report) -> None:
    for table, rows in configuration.rows.items():
        count = report.table(table)
        for place, row in enumerate(rows):
            count.read += 1
            outcome = used.get(table, {}).get(place)
            if outcome in _FATES:
                fate = _FATES[outcome]
                setattr(count, fate, getattr(count, fate) + 1)
            else:
                report.skip(table, reason=REFUSED if outcome == "refused" else _reason(row), key=_name_of(row))


def _reason(row: r.Row) -> str:
    match row:
        case r.StageRow():
            return STAGE
        case r.RebateRow(state=state) if state != "open":
            return REBATE_CLOSED
        case r.RuleRow(rule_type=kind) if kind != 1:
            return AWARD_RULE
        case _:
            return UNUSED


_NAMES = ("activity_id", "activity_count_id", "strategy_id", "tree_id", "award_id", "sku")
_MORE_NAMES = ("rule_key", "rule_node_from", "behavior_type", "rebate_type", "rule_model", "channel")


def _name_of(row: r.Row) -> str:
    named = {name: getattr(row, name, None) for name in (*_NAMES, *_MORE_NAMES)}
    return " ".join(f"{name} {value}" for name, value in named.items() if value is not None)
