"""Campaigns on a real database: what is written is read again exactly, and arming makes it live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, func, insert, select, update

from bigmarket.activity.armory import KindCheck, canonical_json, in_order, inspect_campaign
from bigmarket.activity.campaign import load_campaign
from bigmarket.activity.model import Campaign
from bigmarket.errors import ConfigurationInvalid, Duplicate, NotFound
from bigmarket.storage import schema as t
from bigmarket.storage.campaigns import (
    Armed,
    activity_of_strategy,
    arm,
    live_activities,
    load_live,
    read_campaign,
    write_campaign,
)
from bigmarket.storage.contract import Store
from bigmarket.strategy.dice import seed_hash
from databases import Databases

EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS: dict[str, KindCheck] = dict.fromkeys(("user_credit_random", "code", "physical", "nothing"), lambda _: None)
NOW = 1_770_000_000_000


@pytest.fixture(scope="module", params=["sqlite", "mysql"])
def database(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Store]:
    with databases.store(request.param) as store:
        yield store


@pytest.fixture
def connection(database: Store) -> Iterator[Connection]:
    """A transaction that leaves nothing behind."""
    with database.writing() as connection:
        yield connection
        connection.rollback()


class Seeds:
    """Seeds 1, 2, 3 and so on."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> bytes:
        self.made += 1
        return self.made.to_bytes(32)


def example(name: str = "100301", **changes: Any) -> Campaign:
    """An example file's campaign with some values replaced: ``strategy__awards__1__stock=5``."""
    data = json.loads(canonical_json(load_campaign(EXAMPLES / f"{name}.yaml", kinds=KINDS)))
    for path, value in changes.items():
        *way, last = [int(step) if step.isdigit() else step for step in path.split("__")]
        at = data
        for step in way:
            at = at[step]
        at[last] = value
    return Campaign.model_validate_json(json.dumps(data), strict=True)


def armed(connection: Connection, campaign: Campaign, *, new_seed: Seeds | None = None, now_ms: int = NOW) -> Armed:
    write_campaign(connection, campaign)
    return arm(connection, campaign.activity.activity_id, kinds=KINDS, now_ms=now_ms, new_seed=new_seed or Seeds())


# --- writing and reading ------------------------------------------------------------------------------------------

ids = st.integers(1, 2**53 - 1)
keys = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=128)
maybe_texts = st.none() | texts
counts = st.integers(1, 2**31 - 1)
zones = st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])


@st.composite
def campaigns(draw: st.DrawFn) -> Campaign:
    """Sound campaigns with up to six sectors, every rule, and any text."""
    award_ids = draw(st.lists(ids, min_size=1, max_size=6, unique=True))
    fallback, limited = award_ids[0], award_ids[1:]
    luck = {"rule": "rule_luck_award", "award_id": fallback, "config": draw(maybe_texts)}
    trees = [
        {
            "tree_id": tree_id,
            "name": draw(maybe_texts),
            "root": "rule_lock",
            "nodes": [
                {"rule": "rule_lock", "unlock_at_draw": draw(counts)},
                {"rule": "rule_user_limit", "at_most": draw(counts)},
                {"rule": "rule_stock"},
                luck,
            ],
            "lines": [
                {"from": "rule_lock", "when": "TAKE_OVER", "to": "rule_luck_award"},
                {"from": "rule_lock", "when": "ALLOW", "to": "rule_user_limit"},
                {"from": "rule_user_limit", "when": "TAKE_OVER", "to": "rule_luck_award"},
                {"from": "rule_user_limit", "when": "ALLOW", "to": "rule_stock"},
                {"from": "rule_stock", "when": "ALLOW", "to": "rule_luck_award"},
            ],
        }
        for tree_id in draw(st.lists(keys, min_size=1, max_size=3, unique=True))
    ]
    lists = [
        {"rule": rule, "award_id": fallback, "users": draw(st.lists(texts, max_size=3))}
        for rule in ("rule_blacklist", "rule_allowlist")
    ]
    tiers = draw(st.lists(counts, min_size=1, max_size=3, unique=True))
    weight = {"rule": "rule_weight", "tiers": [{"at_draw": at, "awards": award_ids} for at in tiers]}
    sector = st.builds(
        dict,
        title=texts,
        subtitle=maybe_texts,
        rate=st.decimals(min_value="0.001", max_value=1, places=12).map(str),
        tree=st.sampled_from([tree["tree_id"] for tree in trees]),
    )
    skus = draw(st.lists(ids, max_size=3, unique=True))
    sku = st.builds(
        dict,
        name=maybe_texts,
        stock=st.integers(0, 2**31 - 1),
        price=st.decimals(min_value=0, max_value=99_999_999, places=2).map(str),
        total_count=counts,
        month_count=counts,
        day_count=counts,
    )
    moment = st.datetimes(
        min_value=datetime(1972, 1, 1),  # noqa: DTZ001  a wall-clock time
        max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    ).map(lambda moment: moment.isoformat(sep=" ", timespec="milliseconds"))
    data = {
        "activity": {
            "activity_id": draw(ids),
            "name": draw(texts),
            "description": draw(maybe_texts),
            "time_zone": draw(zones),
            "begin": draw(moment),
            "end": "2200-01-01 00:00:00",
            "state": draw(st.sampled_from(["create", "open", "close"])),
        },
        "skus": [draw(sku) | {"sku": number} for number in skus],
        "strategy": {
            "strategy_id": draw(ids),
            "name": draw(texts),
            "chain": draw(st.permutations([*lists, weight]).flatmap(lambda rules: st.sampled_from([rules, []]))),
            "awards": [
                draw(sector)
                | {"award_id": number, "sort": place}
                | ({"stock": draw(st.integers(0, 2**53 - 1))} if number in limited else {"tree": None})
                for place, number in enumerate(award_ids, 1)
            ],
            "trees": draw(st.permutations(trees)),
        },
        "awards": [
            {"award_id": number, "kind": draw(keys), "config": draw(texts), "description": draw(maybe_texts)}
            for number in draw(st.permutations(award_ids))
        ],
        "rebates": [{"behavior": draw(keys), "type": "sku", "sku": number} for number in skus[:1]]
        + [{"behavior": behavior, "type": "integral", "credits": 5} for behavior in draw(st.sets(keys, max_size=2))]
        + [
            {"behavior": "sign", "type": "integral", "credits": 7, "streak_days": days}
            for days in draw(st.sets(st.integers(2, 366), max_size=2))
        ],
    }
    return Campaign.model_validate_json(json.dumps(data), strict=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(campaign=campaigns())
def test_what_is_written_is_read_again_exactly(database: Store, campaign: Campaign) -> None:
    assert inspect_campaign(campaign) == []
    with database.writing() as connection:
        write_campaign(connection, campaign)
        read = read_campaign(connection, campaign.activity.activity_id)
        connection.rollback()
    assert read == in_order(campaign)
    assert canonical_json(read) == canonical_json(campaign)


def test_an_unknown_activity_is_none(connection: Connection) -> None:
    assert read_campaign(connection, 1) is None
    assert activity_of_strategy(connection, 1) is None


def test_writing_again_replaces_every_row(connection: Connection) -> None:
    write_campaign(connection, example())
    smaller = example("spring_festival", activity__activity_id=100301)
    write_campaign(connection, smaller)
    assert read_campaign(connection, 100301) == in_order(smaller)
    assert activity_of_strategy(connection, 200101) == 100301
    assert activity_of_strategy(connection, 100006) is None
    for table, rows in (
        (t.strategy, 1),
        (t.strategy_award, 5),
        (t.strategy_rule, 2),
        (t.rule_tree, 2),
        (t.raffle_activity_sku, 2),
        (t.raffle_activity_count, 2),
        (t.award, 5),
        (t.daily_behavior_rebate, 2),
    ):
        assert connection.execute(select(func.count()).select_from(table)).scalar_one() == rows, table.name


def test_ids_of_another_activity_are_refused_and_all_named(connection: Connection) -> None:
    write_campaign(connection, example())
    with pytest.raises(Duplicate) as caught:
        write_campaign(connection, example(activity__activity_id=5))
    for named in ("strategy 100006 belongs to activity 100301", "sku 9001 belongs", "sku 9011 belongs"):
        assert named in str(caught.value)
    assert read_campaign(connection, 5) is None


def test_a_sku_whose_id_names_the_counts_of_another_activity_is_refused(connection: Connection) -> None:
    write_campaign(connection, example())
    connection.execute(update(t.raffle_activity_sku).where(t.raffle_activity_sku.c.sku == 9011).values(sku=1234))
    with pytest.raises(Duplicate, match="sku 9011 belongs to activity 100301"):
        write_campaign(connection, example("spring_festival", skus__0__sku=9011, rebates__0__sku=9011))


def test_a_campaign_with_problems_is_not_written(connection: Connection) -> None:
    with pytest.raises(ConfigurationInvalid):
        write_campaign(connection, example(activity__end="2001-01-01T00:00:00Z"))
    assert read_campaign(connection, 100301) is None


# --- arming -------------------------------------------------------------------------------------------------------


def stock_of(connection: Connection) -> dict[int, tuple[int | None, int]]:
    return {row.award_id: (row.alloc, row.sold) for row in connection.execute(select(t.award_stock))}


def test_arming_makes_a_revision_stock_and_a_seed_epoch(connection: Connection) -> None:
    result = armed(connection, example())
    assert (result.changed, result.epoch, result.awards) == (True, 1, 8)
    assert [warning.reason for warning in result.warnings] == [
        "pool `payment-coupon` has 0 codes, but 100 can be won"
    ]
    assert result.seed_sha256 == seed_hash((1).to_bytes(32))
    assert stock_of(connection) == {101: (None, 0)} | dict.fromkeys(range(102, 109), (100, 0))
    assert {row.sku: row.alloc for row in connection.execute(select(t.sku_stock))} == {
        9001: 100,
        9011: 100_000,
        9012: 10_000,
        9013: 10_000,
        9014: 10_000,
    }
    stored = connection.execute(select(t.activity_revision)).one()
    assert (stored.revision_id, stored.document) == (result.revision_id, canonical_json(example()))


def test_arming_again_changes_nothing(connection: Connection) -> None:
    new_seed = Seeds()
    first = armed(connection, example(), new_seed=new_seed)
    again = armed(connection, example(), new_seed=new_seed, now_ms=NOW + 1)
    assert (again.changed, again.epoch, again.seed_sha256) == (False, 1, first.seed_sha256)
    assert again.revision_id == first.revision_id
    assert new_seed.made == 1


def test_another_configuration_opens_another_epoch_and_closes_the_former(connection: Connection) -> None:
    new_seed = Seeds()
    first = armed(connection, example(), new_seed=new_seed)
    second = armed(connection, example(activity__name="x"), new_seed=new_seed, now_ms=NOW + 7)
    assert (second.changed, second.epoch) == (True, 2)
    back = armed(connection, example(), new_seed=new_seed, now_ms=NOW + 9)
    assert (back.changed, back.epoch, back.revision_id) == (True, 3, first.revision_id)
    epochs = connection.execute(select(t.seed_epoch).order_by(t.seed_epoch.c.epoch)).all()
    assert [(row.epoch, row.close_time_ms) for row in epochs] == [(1, NOW + 7), (2, NOW + 9), (3, None)]
    assert [row.seed_sha256 for row in epochs] == [seed_hash(row.seed) for row in epochs]


def test_writing_leaves_what_is_live(connection: Connection) -> None:
    first = armed(connection, example())
    write_campaign(connection, example(activity__name="x"))
    (row,) = live_activities(connection)
    assert (row["revision_id"], row["epoch"], row["activity_name"]) == (first.revision_id, 1, "x")


def test_stock_follows_the_configuration_but_what_is_sold_stays(connection: Connection) -> None:
    armed(connection, example())
    connection.execute(update(t.award_stock).where(t.award_stock.c.award_id == 103).values(sold=40))
    armed(connection, example(strategy__awards__2__stock=40, strategy__awards__3__stock=7))
    assert (stock_of(connection)[103], stock_of(connection)[104]) == ((40, 40), (7, 0))


def test_stock_below_what_is_won_is_refused_for_awards_and_skus_at_once(connection: Connection) -> None:
    armed(connection, example())
    connection.execute(update(t.award_stock).where(t.award_stock.c.award_id == 103).values(sold=40))
    connection.execute(update(t.sku_stock).where(t.sku_stock.c.sku == 9011).values(sold=3))
    less = example(strategy__awards__2__stock=39, skus__1__stock=2)
    with pytest.raises(ConfigurationInvalid) as caught:
        armed(connection, less)
    assert [problem.path for problem in caught.value.problems] == ["strategy.awards[2].stock", "skus[1].stock"]
    assert "40 units of award_id 103 are gone" in caught.value.problems[0].reason
    assert stock_of(connection)[103] == (100, 40)


def test_an_unknown_activity_or_kind_cannot_be_armed(connection: Connection) -> None:
    with pytest.raises(NotFound, match="no activity 5"):
        arm(connection, 5, kinds=KINDS, now_ms=NOW, new_seed=Seeds())
    write_campaign(connection, example())
    with pytest.raises(ConfigurationInvalid, match="unknown kind"):
        arm(connection, 100301, kinds={}, now_ms=NOW, new_seed=Seeds())
    assert live_activities(connection)[0]["revision_id"] is None


# --- what runs live -----------------------------------------------------------------------------------------------


def test_live_activities_carry_revision_seed_and_zone(connection: Connection) -> None:
    result = armed(connection, example())
    write_campaign(connection, example("spring_festival"))
    live = load_live(connection, {})
    assert set(live) == {100301, 200101}
    one, other = live[100301], live[200101]
    assert one.revision is not None
    assert (one.revision.revision_id, one.epoch, one.seed) == (result.revision_id, 1, (1).to_bytes(32))
    assert (one.begin_ms, one.state, one.zone.key) == (1_709_950_510_000, "open", "Asia/Shanghai")
    assert (other.revision, other.epoch, other.seed) == (None, 0, b"")


def test_known_revisions_are_used_again_without_reading_them(connection: Connection) -> None:
    armed(connection, example())
    revision = load_live(connection, {})[100301].revision
    assert revision is not None
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(connection, "before_cursor_execute", note)
    again = load_live(connection, {revision.revision_id: revision})[100301].revision
    event.remove(connection, "before_cursor_execute", note)
    assert again is revision
    assert len(statements) == 1


def test_closing_an_activity_shows_without_arming(connection: Connection) -> None:
    armed(connection, example())
    connection.execute(update(t.raffle_activity).values(state="close"))
    assert load_live(connection, {})[100301].state == "close"


def test_the_schema_refuses_a_stock_below_what_is_sold(connection: Connection) -> None:
    row = {"strategy_id": 1, "award_id": 1, "alloc": 1, "sold": 2}
    with pytest.raises(Exception, match="never_oversold"):
        connection.execute(insert(t.award_stock).values(row))
