"""What several tests need: a small campaign, compiled, and clocks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import select, text

from bigmarket.activity.armory import compile_revision, window_ms
from bigmarket.activity.campaign import Campaign, load_campaign, parse_campaign
from bigmarket.activity.delivery import Facts
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.orders import recharge
from bigmarket.activity.quota import Bundle
from bigmarket.app import KIND_CHECKS
from bigmarket.award.records import SeedOf
from bigmarket.ids import Ids
from bigmarket.storage import queries
from bigmarket.storage.campaigns import Armed, arm, load_live, write_campaign
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import examine
from bigmarket.storage.schema import raffle_activity_sku

EXAMPLES = Path(__file__).parents[1] / "examples"
SEED = b"0123456789abcdef0123456789abcdef"
NOON = int(datetime(2026, 11, 20, 4, 0, tzinfo=UTC).timestamp() * 1000)  # 12:00 in Shanghai
IDS = Ids()
HOUR = 3_600_000
DAY = 24 * HOUR

#: A wheel with everything: tiers on draws 3 and 5, a listed user, a lock, scarce prizes.
SMALL = """
activity:
  {activity_id: 1, name: small, time_zone: Asia/Shanghai, begin: "2026-01-01 00:00:00", end: "2027-01-01 00:00:00"}
skus:
  - {sku: 11, stock: 1000, total_count: 10, month_count: 10, day_count: 10}
  - {sku: 12, stock: 5, total_count: 5, month_count: 4, day_count: 2}
strategy:
  strategy_id: 9
  name: small
  chain:
    - {rule: rule_blacklist, award_id: 1, config: "0.5", users: [mallory]}
    - {rule: rule_weight, tiers: [{at_draw: 3, awards: [2, 3]}, {at_draw: 5, awards: [4]}]}
  awards:
    - {award_id: 1, title: points, rate: "0.4", sort: 1}
    - {award_id: 2, title: mug, rate: "0.3", stock: 30, sort: 2, tree: stocked}
    - {award_id: 3, title: lamp, rate: "0.2", stock: 3, sort: 3, tree: stocked}
    - {award_id: 4, title: car, rate: "0.1", stock: 1, sort: 4, tree: locked}
  trees:
    - tree_id: stocked
      root: rule_stock
      nodes: [{rule: rule_stock}, {rule: rule_luck_award, award_id: 1, config: "0.01"}]
      lines: [{from: rule_stock, to: rule_luck_award, when: ALLOW}]
    - tree_id: locked
      root: rule_lock
      nodes: [{rule: rule_lock, unlock_at_draw: 2}, {rule: rule_stock}, {rule: rule_luck_award, award_id: 1}]
      lines:
        - {from: rule_lock, to: rule_stock, when: ALLOW}
        - {from: rule_lock, to: rule_luck_award, when: TAKE_OVER}
        - {from: rule_stock, to: rule_luck_award, when: ALLOW}
awards:
  - {award_id: 1, kind: user_credit_blacklist, config: "1"}
  - {award_id: 2, kind: physical}
  - {award_id: 3, kind: physical}
  - {award_id: 4, kind: physical}
"""


def small_campaign() -> Campaign:
    """The campaign of ``SMALL``."""
    return parse_campaign(SMALL, kinds=KIND_CHECKS)


def limited_campaign(told: str = SMALL, *, at_most: int) -> Campaign:
    """The campaign of ``told``, like ``SMALL``, where a user may win so many mugs and as many lamps."""
    limit = f"{{rule: rule_user_limit, at_most: {at_most}}}, "
    within = "{from: rule_user_limit, to: rule_stock, when: ALLOW}, "
    beyond = "{from: rule_user_limit, to: rule_luck_award, when: TAKE_OVER}, "
    told = told.replace("root: rule_stock", "root: rule_user_limit")
    told = told.replace("nodes: [{rule: rule_stock}", f"nodes: [{limit}{{rule: rule_stock}}")
    return parse_campaign(told.replace("lines: [", f"lines: [{within}{beyond}"), kinds=KIND_CHECKS)


def live_of(campaign: Campaign, *, epoch: int = 1, seed: bytes = SEED) -> LiveActivity:
    """A campaign as lanes see it once it is armed."""
    begin_ms, end_ms = window_ms(campaign.activity)
    return LiveActivity(
        activity_id=campaign.activity.activity_id,
        name=campaign.activity.name,
        strategy_id=campaign.strategy.strategy_id,
        state=campaign.activity.state,
        begin_ms=begin_ms,
        end_ms=end_ms,
        zone=ZoneInfo(campaign.activity.time_zone),
        revision=compile_revision(campaign),
        epoch=epoch,
        epoch_open_ms=0,
        seed=seed,
    )


def install(
    store: Store, campaign: Campaign, *, now_ms: int = NOON, new_seed: Callable[[], bytes] = lambda: SEED
) -> Armed:
    """Write a campaign and make it live."""
    with store.writing() as connection:
        write_campaign(connection, campaign)
        return arm(connection, campaign.activity.activity_id, kinds=KIND_CHECKS, now_ms=now_ms, new_seed=new_seed)


def give(store: Store, *user_ids: str, sku: int = 11, no: str = "", now_ms: int = NOON) -> None:
    """Credit each of the users with a unit of ``sku``, once per ``no`` (by default once)."""
    with store.reading() as connection:
        live = load_live(connection, {})
    bundle_of = bundles(store)
    for _, alike in store.split.parts(user_ids, str):  # whose rows are in the same tables
        with store.recharging(alike[0]) as tx:
            for user_id in alike:
                recharge(
                    tx,
                    user_id=user_id,
                    sku=sku,
                    out_business_no=no or f"gift-{user_id}-{sku}",
                    now_ms=now_ms,
                    order_id=IDS.make(now_ms),
                    live=live,
                    bundle_of=bundle_of,
                )


def bundles(store: Store) -> Callable[[int], Bundle | None]:
    """What the skus in ``store`` credit now."""
    with store.reading() as connection:
        skus = connection.execute(select(raffle_activity_sku.c.sku)).scalars().all()
        return {sku: queries.bundle_of(connection, sku) for sku in skus}.get


def facts(store: Store) -> Facts:
    """What consumers on ``store`` know."""
    with store.reading() as connection:
        live = load_live(connection, {})
    return Facts(seeds(store), lambda: live)


def seeds(store: Store) -> SeedOf:
    """The seeds in ``store``."""

    def seed_of(activity_id: int, epoch: int) -> bytes:
        with store.reading() as connection:
            return queries.seed_of(connection, activity_id, epoch)

    return seed_of


def count(store: Store, sql: str) -> int:
    """The single number that ``sql`` selects."""
    with store.reading() as connection:
        return int(connection.execute(text(sql)).scalar_one())


def assert_healthy(store: Store, *, now_ms: int = NOON) -> None:
    """Every promise that ``doctor`` examines holds."""
    broken = [finding for finding in examine(store, now_ms=now_ms) if not finding.ok]
    assert not broken, broken


__all__ = [
    "DAY", "EXAMPLES", "HOUR", "IDS", "NOON", "SEED", "SMALL", "assert_healthy", "bundles", "count", "give",
    "install", "limited_campaign", "live_of", "load_campaign", "seeds", "small_campaign",
]  # fmt: skip
