"""Installations of several databases for tests: a World over them, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count as numbers
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from bigmarket.activity.campaign import Campaign, parse_campaign
from bigmarket.activity.stock import StockKey
from bigmarket.app import KIND_CHECKS, World
from bigmarket.draw import Answer
from bigmarket.settings import Settings, load_settings
from bigmarket.storage import transfers
from bigmarket.storage.campaigns import write_campaign
from bigmarket.storage.doctor import Finding, examine
from bigmarket.storage.installation import Stores
from databases import Databases
from support import NOON

WAIT = 20.0
POINTS, CAR, SKU = 1, 4, 11
CAR_STOCK: StockKey = (9, CAR)
SKU_STOCK: StockKey = (transfers.SKUS, SKU)

#: Nearly every roll is the car, and whoever misses it gets points.
CARS = """
activity:
  {activity_id: 1, name: cars, time_zone: Asia/Shanghai, begin: "2026-01-01 00:00:00", end: "2027-01-01 00:00:00"}
skus:
  - {sku: 11, stock: SKUS_LEFT, total_count: 100, month_count: 100, day_count: 100}
strategy:
  strategy_id: 9
  name: cars
  awards:
    - {award_id: 1, title: points, rate: "0.000001", sort: 1}
    - {award_id: 4, title: car, rate: "0.999999", STOCK sort: 4, tree: TREE}
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
    - tree_id: one_each
      root: rule_user_limit
      nodes: [{rule: rule_user_limit, at_most: 1}, {rule: rule_stock}, {rule: rule_luck_award, award_id: 1}]
      lines:
        - {from: rule_user_limit, to: rule_stock, when: ALLOW}
        - {from: rule_user_limit, to: rule_luck_award, when: TAKE_OVER}
        - {from: rule_stock, to: rule_luck_award, when: ALLOW}
awards:
  - {award_id: 1, kind: user_credit_blacklist, config: "1"}
  - {award_id: 4, kind: physical}
"""

LAYOUTS = ("sqlite-2", "sqlite-8", "sqlite-2x4", "mysql-2")


def cars(stock: int | None, *, skus: int = 1_000, tree: str = "stocked") -> Campaign:
    """A campaign with so many cars (None: unlimited)."""
    limit = "" if stock is None else f"stock: {stock},"
    told = CARS.replace("STOCK", limit).replace("SKUS_LEFT", str(skus)).replace("TREE", tree)
    return parse_campaign(told, kinds=KIND_CHECKS)


@contextmanager
def laid_out(layout: str, folder: Path, databases: Databases) -> Iterator[Settings]:
    """The settings of an empty installation. On ``2x4`` the first shard is the configuration database too."""
    if layout.startswith("mysql"):
        with databases.shards(2) as (*shards, config):
            yield settings_of(folder, config, shards)
    elif layout == "sqlite-2x4":
        *shards, config = databases.files(2, folder, tables=4, apart=False)
        yield settings_of(folder, config, shards, tables=4)
    else:
        *shards, config = databases.files(8 if layout == "sqlite-8" else 2, folder)
        yield settings_of(folder, config, shards)


def settings_of(folder: Path, config: str, shards: list[str], *, tables: int = 1) -> Settings:
    """The settings of these databases."""
    return load_settings(
        {
            "BIGMARKET_HOME": str(folder),
            "BIGMARKET_DATABASE": config,
            "BIGMARKET_SHARDS": ",".join(shards),
            "BIGMARKET_TABLES_PER_SHARD": str(tables),
            "BIGMARKET_WORK": "false",
            "BIGMARKET_DRAW_DEADLINE_SECONDS": "20",  # hundreds are queued at once, on any machine
        }
    )


@contextmanager
def world_of(settings: Settings) -> Iterator[World]:
    """A World that draws; nothing is delivered."""
    with World(settings, clock=lambda: NOON) as world:
        yield world


def arm(world: World, campaign: Campaign) -> None:
    """Write the campaign and make it live."""
    with world.stores.config.writing() as connection:
        write_campaign(connection, campaign)
    world.arm(1)


def users(world: World, shard: int, number: int) -> list[str]:
    """So many users of a shard, each credited with a hundred draws."""
    shard_of = world.stores.routing.shard_of
    names = (f"u{n}" for n in numbers())
    found = [name for name, _ in zip((n for n in names if shard_of(n) == shard), range(number), strict=False)]
    for name in found:
        world.recharge(name, sku=SKU, out_business_no=f"gift-{name}")
    return found


def draw(world: World, user: str) -> int:
    """One draw; the award."""
    return world.lanes.ask(user, 1, None, timeout_seconds=WAIT).award_id


def draw_all(world: World, names: list[str]) -> list[Answer]:
    """A draw of each, all at once; their answers in order."""
    futures: list[Future[Answer]] = [Future() for _ in names]
    for name, future in zip(names, futures, strict=True):
        world.lanes.submit(name, 1, None, reply=future)
    return [future.result(WAIT) for future in futures]


def bring(world: World, shard: int, units: int, key: StockKey = CAR_STOCK) -> None:
    """Put units into a shard."""
    assert world.escrow is not None
    world.escrow.fetch(shard, {key: units})


def free_units(stores: Stores, key: StockKey = CAR_STOCK) -> tuple[int, list[int]]:
    """What the hub has not allotted, and what is free in each shard."""
    with stores.config.reading() as connection:
        total, allotted = transfers.hub_rows(connection, [key])[key]
    frees = []
    for shard in stores.shards:
        with shard.reading() as connection:
            frees.append(transfers.standings(connection, [key])[key].free)
    return (total or 0) - allotted, frees


def won(stores: Stores, award_id: int = CAR) -> int:
    """How often an award was won, over all shards."""
    total = 0
    for shard in stores.shards:
        with shard.reading() as connection:
            query = text("SELECT COUNT(*) FROM user_award_record WHERE award_id = :award")
            total += connection.execute(query, {"award": award_id}).scalar_one()
    return total


def broken(stores: Stores) -> list[Finding]:
    """The promises that doctor finds broken."""
    return [finding for finding in examine(stores, now_ms=NOON, grace_ms=0) if not finding.ok]


class Crash(BaseException):
    """The process ends here."""


class Fragile:
    """Stands before a store of a process that ends at its ``last`` transaction, before it or right after it."""

    def __init__(self, store: Any, steps: Steps) -> None:
        self._store = store
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def updating(self) -> Iterator[Connection]:
        self._steps.begin()
        with self._store.updating() as connection:
            yield connection
        self._steps.end()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        self._steps.begin()
        with self._store.writing() as connection:
            yield connection
        self._steps.end()


class Steps:
    """Counts transactions; ``ends_at`` is the half step at which the process ends (None: never)."""

    def __init__(self, ends_at: int | None) -> None:
        self.ends_at = ends_at
        self.taken = 0

    def begin(self) -> None:
        self._half_step()

    def end(self) -> None:
        self._half_step()

    def _half_step(self) -> None:
        if self.ends_at is not None and self.taken >= self.ends_at:
            raise Crash
        self.taken += 1


def fragile(stores: Stores, ends_at: int | None) -> Stores:
    """The stores of a process that ends at its half step of this number (None: never)."""
    steps = Steps(ends_at)
    shards: tuple[Any, ...] = tuple(Fragile(shard, steps) for shard in stores.shards)
    config: Any = Fragile(stores.config, steps)
    if stores.config in stores.shards:
        config = shards[stores.shards.index(stores.config)]
    return Stores(config, shards, stores.routing)
