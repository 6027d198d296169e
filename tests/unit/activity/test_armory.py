"""Armory finds what does not fit together in a campaign, and names a sound one by its content."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from bigmarket.activity.armory import (
    KindCheck,
    canonical_json,
    compile_revision,
    in_order,
    inspect_campaign,
    read_revision,
    warnings_of,
    window_ms,
)
from bigmarket.activity.model import Campaign
from bigmarket.activity.revision import hash_of

STOCKED = {
    "tree_id": "stocked",
    "root": "rule_stock",
    "nodes": [{"rule": "rule_stock"}, {"rule": "rule_luck_award", "award_id": 1, "config": "2,3"}],
    "lines": [{"from": "rule_stock", "when": "ALLOW", "to": "rule_luck_award"}],
}
SOUND: dict[str, Any] = {
    "activity": {
        "activity_id": 7,
        "name": "春节",
        "time_zone": "Asia/Shanghai",
        "begin": "2026-01-31 10:00:00",
        "end": "2026-02-28 10:00:00.250",
    },
    "skus": [
        {"sku": 71, "stock": 5, "price": "9.90", "total_count": 10, "month_count": 10, "day_count": 10},
        {"sku": 70, "stock": 100, "total_count": 1, "month_count": 1, "day_count": 1},
    ],
    "strategy": {
        "strategy_id": 8,
        "name": "wheel",
        "chain": [{"rule": "rule_blacklist", "award_id": 1, "config": "1,1", "users": ["zoe", "bob", "amy"]}],
        "awards": [
            {"award_id": 2, "title": "cup", "rate": "0.10", "stock": 5, "sort": 2, "tree": "stocked"},
            {"award_id": 1, "title": "credits", "rate": "9E-1", "sort": 1},
        ],
        "trees": [STOCKED],
    },
    "awards": [{"award_id": 2, "kind": "thing"}, {"award_id": 1, "kind": "points", "config": "1,5"}],
    "rebates": [
        {"behavior": "sign", "type": "sku", "sku": 70},
        {"behavior": "sign", "type": "integral", "credits": 3},
    ],
}
KINDS: dict[str, KindCheck] = {
    "points": lambda config: None if "," in config else "must be `min,max`",
    "thing": lambda _: None,
}


def campaign(**changes: Any) -> Campaign:
    """SOUND with some values replaced: ``skus__0__stock=1``; ``__add`` appends to a list."""
    data = json.loads(json.dumps(SOUND))
    for name, value in changes.items():
        *way, last = [int(step) if step.isdigit() else step for step in name.split("__")]
        at = data
        for step in way:
            at = at[step]
        if last == "add":
            at.append(value)
        else:
            at[last] = value
    return Campaign.model_validate_json(json.dumps(data), strict=True)


def test_a_sound_campaign_has_neither_problems_nor_warnings() -> None:
    assert inspect_campaign(campaign(), kinds=KINDS) == []
    assert warnings_of(campaign()) == []


SKU = SOUND["skus"][0]
FAULTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown zone", {"activity__time_zone": "Mars/Olympus"}, "activity.time_zone", "unknown time zone"),
    ("zone that is a path", {"activity__time_zone": "../etc/passwd"}, "activity.time_zone", "unknown time zone"),
    ("end before begin", {"activity__end": "2026-01-31 09:59:59"}, "activity.end", "ends before it begins"),
    ("end at begin", {"activity__end": "2026-01-31T02:00:00Z"}, "activity.end", "ends before it begins"),
    ("sku twice", {"skus__add": SKU}, "skus[2].sku", "sku 71 is defined already, as skus[0]"),
    ("none per month", {"skus__0__month_count": 0}, "skus[0].month_count", "nobody could ever draw"),
    ("none per day", {"skus__1__day_count": 0}, "skus[1].day_count", "nobody could ever draw"),
    ("award twice", {"awards__add": {"award_id": 2, "kind": "thing"}}, "awards[2].award_id", "defined already"),
    ("unknown kind", {"awards__0__kind": "think"}, "awards[0].kind", "unknown kind"),
    ("config not for the kind", {"awards__1__config": "5"}, "awards[1].config", "must be `min,max`"),
    ("listed users' config", {"strategy__chain__0__config": "5"}, "strategy.chain[0].config", "must be `min,max`"),
    ("fallback's config", {"strategy__trees__0__nodes__1__config": "5"}, "strategy.trees[0].nodes[1].config",
     "must be `min,max`"),
    ("sector without award", {"awards": SOUND["awards"][1:]}, "strategy.awards[0].award_id", "not in the catalogue"),
    ("no such sku", {"rebates__0__sku": 99}, "rebates[0].sku", "there is no sku 99"),
    ("rebate twice", {"rebates__add": {"behavior": "sign", "type": "integral", "credits": 5}}, "rebates[2]",
     "earns a rebate of this type already, rebates[1]"),
    ("streak without days", {"rebates__add": {"behavior": "pay", "type": "integral", "credits": 5, "streak_days": 7}},
     "rebates[2].streak_days", "days in a row are not counted for `pay`"),
    ("fault of the strategy", {"strategy__awards__1__sort": 2}, "strategy.awards[1].sort", "place 2 is taken"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "path", "reason"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS]
)
def test_each_fault_is_found_and_nothing_else(changes: dict[str, Any], path: str, reason: str) -> None:
    (problem,) = inspect_campaign(campaign(**changes), kinds=KINDS)
    assert problem.path == path
    assert reason in problem.reason
    assert problem.fix


def test_a_behavior_may_earn_more_on_every_nth_day() -> None:
    streaky = campaign(rebates__add={"behavior": "sign", "type": "integral", "credits": 50, "streak_days": 7})
    assert inspect_campaign(streaky, kinds=KINDS) == []
    assert read_revision(canonical_json(streaky)).rebates == streaky.rebates


def test_no_streak_leaves_a_revision_as_it_was() -> None:
    every_time = {"behavior": "pay", "type": "integral", "credits": 50}
    told = campaign(rebates__add={**every_time, "streak_days": 0})
    assert canonical_json(told) == canonical_json(campaign(rebates__add=every_time))


def test_all_faults_are_listed_at_once() -> None:
    faulty = campaign(activity__time_zone="x", skus__0__day_count=0, strategy__awards__1__sort=2, rebates__0__sku=9)
    assert [problem.path for problem in inspect_campaign(faulty, kinds=KINDS)] == [
        "activity.time_zone",
        "skus[0].day_count",
        "strategy.awards[1].sort",
        "rebates[0].sku",
    ]


def test_kinds_are_not_judged_when_none_are_given() -> None:
    assert inspect_campaign(campaign(awards__0__kind="anything", awards__1__config="")) == []


def test_what_is_probably_not_meant_is_a_warning() -> None:
    odd = campaign(skus=[], rebates=[], awards__add={"award_id": 3, "kind": "thing"}, strategy__awards__0__rate="0.2")
    assert inspect_campaign(odd, kinds=KINDS) == []
    assert [(warning.path, warning.reason) for warning in warnings_of(odd)] == [
        ("strategy.awards", "rates sum to 1.1, not 1"),
        ("awards[2]", "award 3 is not on the wheel"),
        ("skus", "there is no sku, so nobody can get draws"),
    ]


def test_the_canonical_text_is_sorted_exact_and_in_utc() -> None:
    text = canonical_json(campaign())
    data = json.loads(text)
    assert text == json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert (data["activity"]["begin"], data["activity"]["end"]) == (
        "2026-01-31T02:00:00Z",
        "2026-02-28T02:00:00.250Z",
    )
    assert [award["rate"] for award in data["strategy"]["awards"]] == ["0.9", "0.1"]
    assert data["skus"][1]["price"] == "9.9"
    assert data["strategy"]["chain"][0]["users"] == ["amy", "bob", "zoe"]
    assert "description" not in data["activity"]


def test_a_revision_is_named_by_its_content_not_by_how_it_was_written() -> None:
    same = campaign(
        activity__begin="2026-01-31T02:00:00Z",
        skus=SOUND["skus"][::-1],
        awards=SOUND["awards"][::-1],
        strategy__awards=SOUND["strategy"]["awards"][::-1],
        strategy__awards__0__rate="0.900",
        strategy__trees=[STOCKED | {"nodes": STOCKED["nodes"][::-1]}],
    )
    assert in_order(same) == in_order(campaign())
    assert compile_revision(same).revision_id == compile_revision(campaign()).revision_id
    assert compile_revision(campaign(skus__0__stock=6)).revision_id != compile_revision(campaign()).revision_id


def test_a_revision_read_back_from_its_document_is_the_same() -> None:
    revision = compile_revision(campaign())
    again = read_revision(revision.document)
    assert again == revision
    assert again.sha256 == hash_of(revision.document)
    assert again.awards[1].kind == "points"


def test_the_order_of_the_chain_counts() -> None:
    weight = {"rule": "rule_weight", "tiers": [{"at_draw": 2, "awards": [1]}]}
    one, other = [SOUND["strategy"]["chain"][0], weight], [weight, SOUND["strategy"]["chain"][0]]
    assert canonical_json(campaign(strategy__chain=one)) != canonical_json(campaign(strategy__chain=other))


def test_the_window_is_told_in_milliseconds() -> None:
    begin, end = datetime(2026, 1, 31, 2, tzinfo=UTC), datetime(2026, 2, 28, 2, tzinfo=UTC)
    assert window_ms(campaign().activity) == (begin.timestamp() * 1000, end.timestamp() * 1000 + 250)


@pytest.mark.parametrize(
    ("zone", "local", "utc"),
    [
        ("Europe/Berlin", "2026-03-29 02:30:00", "2026-03-29T01:30:00Z"),  # skipped by the clock: an hour later
        ("Europe/Berlin", "2026-10-25 02:30:00", "2026-10-25T00:30:00Z"),  # twice on the clock: the first
        ("UTC", "2026-03-29 02:30", "2026-03-29T02:30:00Z"),
    ],
)
def test_wall_clock_times_around_a_change_of_the_clock(zone: str, local: str, utc: str) -> None:
    moved = campaign(activity__time_zone=zone, activity__begin=local, activity__end="2027-01-01 00:00:00")
    assert json.loads(canonical_json(moved))["activity"]["begin"] == utc
