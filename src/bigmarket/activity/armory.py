"""Checks a whole campaign, finding all its faults at once, and compiles a sound one into a Revision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict
from zoneinfo import available_timezones

from bigmarket.activity.explain import nearest
from bigmarket.activity.model import Activity, Campaign, Sku, zone_of
from bigmarket.activity.quota import Bundle, Counts
from bigmarket.activity.revision import Revision, hash_of
from bigmarket.award.kinds.physical import Physical
from bigmarket.award.kinds.sku import Sku as SkuKind
from bigmarket.award.model import Award
from bigmarket.errors import Problem
from bigmarket.rebate.behavior import CALENDAR
from bigmarket.rebate.model import Rebate, SkuRebate
from bigmarket.strategy import armory as strategy_armory
from bigmarket.strategy.armory import plain, repeats
from bigmarket.strategy.model import RuleTree, Strategy
from bigmarket.strategy.rules import RuleAllowlist, RuleBlacklist, RuleLuckAward

_PHYSICAL, _SKU_PRIZE = Physical(), SkuKind()

#: Judges an award's config for its kind: what is wrong with it, or None.
KindCheck = Callable[[str], str | None]


class Sections(TypedDict, total=False):
    """The sections of a campaign that are at hand; a section with faults of its own is left out."""

    activity: Activity
    skus: tuple[Sku, ...]
    strategy: Strategy
    awards: tuple[Award, ...]
    rebates: tuple[Rebate, ...]


def inspect_campaign(campaign: Campaign, *, kinds: Mapping[str, KindCheck] | None = None) -> list[Problem]:
    """Every fault that a schema cannot see. Empty: it can be compiled. Without ``kinds`` none is unknown."""
    sections = Sections(
        activity=campaign.activity,
        skus=campaign.skus,
        strategy=campaign.strategy,
        awards=campaign.awards,
        rebates=campaign.rebates,
    )
    return inspect_sections(sections, kinds=kinds)


def inspect_sections(sections: Sections, *, kinds: Mapping[str, KindCheck] | None = None) -> list[Problem]:
    """As ``inspect_campaign``, for the sections there are."""
    skus, strategy, awards = sections.get("skus"), sections.get("strategy"), sections.get("awards")
    found: list[Problem] = []
    if "activity" in sections:
        found += _inspect_activity(sections["activity"])
    if skus is not None:
        found += _inspect_skus(skus)
    if strategy is not None:
        found += _under_strategy(strategy_armory.inspect_strategy(strategy))
    if awards is not None:
        found += _inspect_catalogue(awards, kinds=kinds)
    if strategy is not None and awards is not None:
        found += _inspect_delivery(strategy, awards=awards, kinds=kinds or {})
    if skus is not None and awards is not None:
        found += _inspect_sku_prizes(awards, strategy, skus=skus)
    if "rebates" in sections:
        found += _inspect_rebates(sections["rebates"], skus=skus)
    return found


def warnings_of(campaign: Campaign) -> list[Problem]:
    """What is allowed but probably not meant."""
    found = _under_strategy(strategy_armory.warnings_of(campaign.strategy))
    sectors = {award.award_id for award in campaign.strategy.awards}
    found += [
        Problem(f"awards[{i}]", f"award {award.award_id} is not on the wheel", "Remove it, or add a sector for it")
        for i, award in enumerate(campaign.awards)
        if award.award_id not in sectors
    ]
    if not campaign.skus:
        found.append(Problem("skus", "there is no sku, so nobody can get draws", "Add one"))
    return found


def in_order(campaign: Campaign) -> Campaign:
    """The same campaign with every list whose order means nothing in one fixed order."""
    strategy = campaign.strategy
    update = {
        "awards": tuple(sorted(strategy.awards, key=lambda award: (award.sort, award.award_id))),
        "trees": tuple(sorted((_tree_in_order(tree) for tree in strategy.trees), key=lambda tree: tree.tree_id)),
    }
    return campaign.model_copy(
        update={
            "skus": tuple(sorted(campaign.skus, key=lambda sku: sku.sku)),
            "awards": tuple(sorted(campaign.awards, key=lambda award: award.award_id)),
            "strategy": strategy.model_copy(update=update),
        }
    )


def canonical(campaign: Campaign) -> dict[str, Any]:
    """The campaign as plain JSON data: ordered, decimals as exact text, times in UTC, nothing that is None."""
    data: dict[str, Any] = plain_data(in_order(campaign).model_dump(by_alias=True, exclude_none=True))
    return data


def canonical_json(campaign: Campaign) -> str:
    """The one text of this campaign: equal campaigns have equal texts."""
    return json.dumps(canonical(campaign), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def compile_revision(campaign: Campaign) -> Revision:
    """The revision of a campaign without problems."""
    return _revision(in_order(campaign), document=canonical_json(campaign))


def read_revision(document: str) -> Revision:
    """The revision that ``document`` (a stored canonical JSON) was kept from."""
    return _revision(Campaign.model_validate_json(document, strict=True), document=document)


def window_ms(activity: Activity) -> tuple[int, int]:
    """First millisecond in which draws are taken, and the first in which they no longer are (since 1970)."""
    return _epoch_ms(activity.begin), _epoch_ms(activity.end)


def _revision(campaign: Campaign, *, document: str) -> Revision:
    return Revision(
        sha256=hash_of(document),
        document=document,
        wheel=strategy_armory.compile_strategy(campaign.strategy),
        awards={award.award_id: award for award in campaign.awards},
        bundles={sku.sku: _bundle(sku, activity_id=campaign.activity.activity_id) for sku in campaign.skus},
        rebates=campaign.rebates,
    )


def _bundle(sku: Sku, *, activity_id: int) -> Bundle:
    counts = Counts(total=sku.total_count, month=sku.month_count, day=sku.day_count)
    return Bundle(sku.sku, activity_id, counts, int(sku.price * 100))


def _epoch_ms(moment: datetime) -> int:
    assert moment.tzinfo is not None, "armory refuses an unknown time zone"
    return round(moment.timestamp() * 1000)


def _tree_in_order(tree: RuleTree) -> RuleTree:
    return tree.model_copy(
        update={
            "nodes": tuple(sorted(tree.nodes, key=lambda node: node.rule)),
            "lines": tuple(sorted(tree.lines, key=lambda line: (line.source, line.when))),
        }
    )


def plain_data(value: Any) -> Any:
    """A dumped model as JSON data: sets sorted, decimals as exact text, times in UTC."""
    if isinstance(value, dict):
        return {key: plain_data(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, (tuple, list)):
        return [plain_data(item) for item in value]
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return _rfc3339(value)
    return value


def _rfc3339(moment: datetime) -> str:
    precision = "milliseconds" if moment.microsecond else "seconds"
    if moment.tzinfo is None:
        return moment.isoformat(timespec=precision)
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _under_strategy(problems: list[Problem]) -> list[Problem]:
    return [replace(problem, path=f"strategy.{problem.path}") for problem in problems]


# --- the checks ---------------------------------------------------------------------------------------------------


def _inspect_activity(activity: Activity) -> Iterator[Problem]:
    if zone_of(activity.time_zone) is None:
        advice = nearest_zone(activity.time_zone)
        yield Problem("activity.time_zone", "unknown time zone", advice)
    aware = activity.begin.tzinfo is not None, activity.end.tzinfo is not None
    if aware[0] == aware[1] and activity.begin >= activity.end:
        yield Problem("activity.end", "the activity ends before it begins", "Write a moment after `begin`")


def nearest_zone(name: str) -> str:
    """Advice for an unknown time zone."""
    advice = nearest(name, available_timezones())
    return advice if advice.startswith("Did") else "Write an IANA name such as Asia/Shanghai"


def _inspect_skus(skus: Sequence[Sku]) -> Iterator[Problem]:
    for place, first in repeats(sku.sku for sku in skus):
        reason = f"sku {skus[place].sku} is defined already, as skus[{first}]"
        yield Problem(f"skus[{place}].sku", reason, "Give each sku an id of its own")
    for place, sku in enumerate(skus):
        for name in ("month_count", "day_count"):
            if getattr(sku, name) < 1:
                reason = "nobody could ever draw: the sku adds draws, but none that may be used"
                yield Problem(f"skus[{place}].{name}", reason, "Write at least 1; total_count if it shall not matter")


def _inspect_catalogue(awards: Sequence[Award], *, kinds: Mapping[str, KindCheck] | None) -> Iterator[Problem]:
    for place, first in repeats(award.award_id for award in awards):
        reason = f"award {awards[place].award_id} is defined already, as awards[{first}]"
        yield Problem(f"awards[{place}].award_id", reason, "Give each award an id of its own")
    if kinds is None:
        return
    for place, award in enumerate(awards):
        check = kinds.get(award.kind)
        if check is None:
            yield Problem(f"awards[{place}].kind", "unknown kind", nearest(award.kind, kinds))
        elif (reason_or_none := check(award.config)) is not None:
            yield Problem(f"awards[{place}].config", reason_or_none, f"Write what `{award.kind}` takes")
    for place, award in enumerate(awards):
        if award.claim_days is not None and award.kind != _PHYSICAL.name:
            yield Problem(f"awards[{place}].claim_days", f"nobody claims a `{award.kind}`", "Leave it out")


def _inspect_delivery(
    strategy: Strategy, *, awards: Sequence[Award], kinds: Mapping[str, KindCheck]
) -> Iterator[Problem]:
    """Each sector can be delivered, also with the config that a rule puts in place of the award's own."""
    kind_of = {award.award_id: award.kind for award in awards}
    for place, sector in enumerate(strategy.awards):
        if sector.award_id not in kind_of:
            reason = f"award {sector.award_id} is not in the catalogue"
            yield Problem(f"strategy.awards[{place}].award_id", reason, "Say in `awards` how it is delivered")
    for path, rule in _givers(strategy):
        check = kinds.get(kind_of.get(rule.award_id, ""))
        reason_or_none = None if check is None or rule.config is None else check(rule.config)
        if reason_or_none is not None:
            yield Problem(f"{path}.config", reason_or_none, f"Write what `{kind_of[rule.award_id]}` takes")


def _inspect_sku_prizes(
    awards: Sequence[Award], strategy: Strategy | None, *, skus: Sequence[Sku]
) -> Iterator[Problem]:
    """Each sku that can be won exists."""
    known = {str(sku.sku) for sku in skus}
    prizes = {award.award_id for award in awards if award.kind == _SKU_PRIZE.name}
    configs = [(f"awards[{i}].config", award.config) for i, award in enumerate(awards) if award.award_id in prizes]
    for path, rule in _givers(strategy) if strategy else ():
        if rule.config is not None and rule.award_id in prizes:
            configs.append((f"{path}.config", rule.config))
    for path, config in configs:
        if _SKU_PRIZE.check(config) is None and config.strip() not in known:
            yield Problem(path, f"there is no sku {config.strip()}", "Name a sku of `skus`")


def _givers(strategy: Strategy) -> Iterator[tuple[str, RuleAllowlist | RuleBlacklist | RuleLuckAward]]:
    for i, rule in enumerate(strategy.chain):
        if isinstance(rule, (RuleAllowlist, RuleBlacklist)):
            yield f"strategy.chain[{i}]", rule
    for i, tree in enumerate(strategy.trees):
        for j, node in enumerate(tree.nodes):
            if isinstance(node, RuleLuckAward):
                yield f"strategy.trees[{i}].nodes[{j}]", node


def _inspect_rebates(rebates: Sequence[Rebate], *, skus: Sequence[Sku] | None) -> Iterator[Problem]:
    # these name a rebate order beside the behavior's number: a second one would be taken for a repeat
    for place, first in repeats((rebate.behavior, rebate.type, rebate.streak_days) for rebate in rebates):
        reason = f"`{rebates[place].behavior}` earns a rebate of this type already, rebates[{first}]"
        yield Problem(f"rebates[{place}]", reason, "Keep one rebate per behavior, type and streak_days")
    for place, rebate in enumerate(rebates):
        if rebate.streak_days and rebate.behavior not in CALENDAR:
            reason = f"days in a row are not counted for `{rebate.behavior}`"
            fix = f"Leave it out; days are counted for {', '.join(f'`{name}`' for name in sorted(CALENDAR))}"
            yield Problem(f"rebates[{place}].streak_days", reason, fix)
    if skus is None:
        return
    known = {sku.sku for sku in skus}
    for place, rebate in enumerate(rebates):
        if isinstance(rebate, SkuRebate) and rebate.sku not in known:
            yield Problem(f"rebates[{place}].sku", f"there is no sku {rebate.sku}", "Name a sku of `skus`")
