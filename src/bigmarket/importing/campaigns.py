"""Pure: the reference's configuration rows -> campaigns, as their files would say it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bigmarket.activity.armory import KindCheck
from bigmarket.activity.campaign import Campaign, parse_campaign
from bigmarket.errors import BadInput, ConfigurationInvalid, Problem
from bigmarket.importing import reference as r
from bigmarket.importing.drafting import Configuration, Draft, Drafting, Gone
from bigmarket.importing.repairs import repair_draft
from bigmarket.importing.staging import StagedRow


@dataclass(frozen=True, slots=True)
class Mapped:
    """An activity as a campaign: ``campaign`` if it can be armed as it is, ``repaired`` if it can after ``repairs``.

    ``used`` counts the rows of each table that went into it; ``stock`` says where its stock comes from.
    """

    activity_id: int
    name: str
    campaign: Campaign | None
    repaired: Campaign | None
    problems: tuple[Problem, ...] = ()
    repairs: tuple[str, ...] = ()
    remaining: tuple[Problem, ...] = ()
    stock: tuple[str, ...] = ()
    used: Mapping[str, frozenset[int]] = field(default_factory=dict)


def read_configuration(rows: Iterable[StagedRow]) -> Configuration:
    """Raises BadInput for a row that cannot be read: a campaign must not silently lack a part."""
    configuration = Configuration()
    for row in rows:
        try:
            configuration.rows[row.table].append(r.read_row(r.CONFIGURATION[row.table], row.values))
        except BadInput as bad:
            raise BadInput(f"A row of {row.table} cannot be read ({bad}): {dict(row.values)}") from bad
    return configuration


def map_campaigns(
    configuration: Configuration, *, time_zone: str, kinds: Mapping[str, KindCheck], gone: Gone
) -> list[Mapped]:
    """Every activity, by id."""
    rebates = _share_rebates(configuration)
    found = {row.activity_id: row for _, row in configuration.of(r.ActivityRow)}
    return [
        _map(Drafting(configuration, found[activity_id], time_zone, gone), rebates.get(activity_id, []), kinds)
        for activity_id in sorted(found)
    ]


def _map(drafting: Drafting, rebates: Sequence[tuple[int, r.RebateRow]], kinds: Mapping[str, KindCheck]) -> Mapped:
    activity = drafting.activity
    draft = drafting.draft(rebates, kinds)
    campaign, problems = _validated(draft, drafting.faults, kinds)
    mapped = Mapped(
        activity.activity_id,
        activity.activity_name,
        campaign,
        None,
        tuple(problems),
        stock=tuple(drafting.stock),
        used={table: frozenset(places) for table, places in drafting.used.items()},
    )
    if campaign is not None:
        return mapped
    repairs = [*(fault.fix for fault in drafting.faults), *repair_draft(draft, kinds)]
    repaired, remaining = _validated(draft, [], kinds)
    return replace(mapped, repaired=repaired, repairs=tuple(repairs), remaining=tuple(remaining))


def _validated(
    draft: Draft, faults: Sequence[Problem], kinds: Mapping[str, KindCheck]
) -> tuple[Campaign | None, list[Problem]]:
    """The campaign, or all its problems, ``faults`` of the rows themselves first."""
    try:
        campaign = parse_campaign(json.dumps(draft, ensure_ascii=False, indent=1), kinds=kinds)
    except ConfigurationInvalid as invalid:
        return None, [*faults, *(replace(problem, line=None) for problem in invalid.problems)]
    return (None, list(faults)) if faults else (campaign, [])


def _share_rebates(configuration: Configuration) -> dict[int, list[tuple[int, r.RebateRow]]]:
    """Rebates by activity. The reference's are for all activities at once; ours belong to one each.

    A rebate of a sku goes to the activity of the sku, one of credits to where the behavior's sku rebate went, else to
    the first open activity.
    """
    owner = {row.sku: row.activity_id for _, row in configuration.of(r.SkuRow)}
    wanted = [(place, row) for place, row in configuration.of(r.RebateRow) if row.state == "open"]
    shared: dict[int, list[tuple[int, r.RebateRow]]] = defaultdict(list)
    homes: dict[str, int] = {}
    for place, row in wanted:
        if row.rebate_type == "sku" and row.rebate_config.isdecimal() and int(row.rebate_config) in owner:
            activity_id = owner[int(row.rebate_config)]
            homes.setdefault(row.behavior_type, activity_id)
            shared[activity_id].append((place, row))
    opened = sorted(row.activity_id for _, row in configuration.of(r.ActivityRow) if row.state == "open")
    for place, row in wanted:
        home = homes.get(row.behavior_type, opened[0] if opened else None)
        if row.rebate_type == "integral" and home is not None:
            shared[home].append((place, row))
    return {activity_id: sorted(rows, key=lambda pair: pair[0]) for activity_id, rows in shared.items()}
