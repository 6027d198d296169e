"""More draws as a prize: a unit of the sku is credited once, or the prize waits with a reason that a person sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import KIND_CHECKS, World
from bigmarket.award.void import VoidAsked
from bigmarket.bus.in_process import InProcessBus
from bigmarket.draw import DrawRequest, draw_batch
from bigmarket.errors import ConfigurationInvalid, SkuSoldOut
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.outbox.relay import Relay
from bigmarket.outbox.task import ATTEMPTS_MAX, BACKOFF_MAX_MS, Task
from bigmarket.storage import voids
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.installation import whole
from databases import Databases
from sharded import CARS, arm, broken, draw, laid_out, users, world_of
from support import IDS, NOON, assert_healthy, count, facts, give, install

BUNDLES = CARS.replace("{award_id: 4, kind: physical}", '{award_id: 4, kind: sku, config: "12"}').replace(
    "skus:\n", "skus:\n  - {sku: 12, stock: WON, total_count: 3, month_count: 2, day_count: 1}\n"
)


def campaign(units: int) -> str:
    """The car is so many units of sku 12."""
    filled = {"STOCK": "stock: 50,", "SKUS_LEFT": "1000", "TREE": "stocked", "WON": str(units)}
    told = BUNDLES
    for name, value in filled.items():
        told = told.replace(name, value)
    return told


def win(store: Store, number: int) -> list[Task]:
    with store.reading() as connection:
        live = load_live(connection, {})
    with store.drawing() as tx:
        requests = [DrawRequest(IDS.make(NOON), "ann", 1, None) for _ in range(number)]
        return list(draw_batch(tx, requests, live=live, now_ms=NOON).tasks)


def set_up(store: Store, units: int, number: int) -> list[Task]:
    install(store, parse_campaign(campaign(units), kinds=KIND_CHECKS))
    give(store, "ann")
    return win(store, number)


def bus_of(store: Store) -> InProcessBus:
    return InProcessBus(store, CONSUMERS, now_ms=lambda: NOON, facts=facts(store))


def account(store: Store) -> tuple[int, int, int]:
    columns = ("total_count", "month_count", "day_count")
    numbers = [count(store, f"SELECT {c} FROM raffle_activity_account WHERE user_id = 'ann'") for c in columns]
    return numbers[0], numbers[1], numbers[2]


def test_each_prize_credits_the_draws_of_one_unit_once(store: Store) -> None:
    tasks = set_up(store, 9, 4)
    bus_of(store).deliver(tasks)
    bus_of(store).deliver(tasks)
    assert account(store) == (100 + 12, 100 + 8, 100 + 4)
    assert count(store, "SELECT sold FROM sku_stock WHERE sku = 12") == 4
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order WHERE sku = 12 AND pay_cents = 0") == 4
    assert_healthy(store)


def test_a_prize_without_a_unit_is_parked_with_the_reason_and_redriven_when_there_is_one(store: Store) -> None:
    tasks = set_up(store, 2, 5)
    with pytest.raises(SkuSoldOut):
        bus_of(store).deliver(tasks)
    now = NOON
    relay = Relay(store, deliver=bus_of(store).deliver, now_ms=lambda: now)
    relay.offer(tasks)
    with structlog.testing.capture_logs() as logs:
        for _ in range(ATTEMPTS_MAX + 1):
            relay._scan_at = 0.0
            while relay._turn():
                pass
            now += BACKOFF_MAX_MS
    sold_out = [line for line in logs if line["event"] == "sku sold out"]
    parked = store.parked_tasks(limit=9)
    assert len(parked) == 3
    assert all("Sku 12 is sold out, but a unit of it was won" in task.reason for task in parked)
    assert account(store)[0] == 100 + 6
    assert sold_out == [{"event": "sku sold out", "log_level": "warning", "sku": 12, "activity_id": 1}]
    install(store, parse_campaign(campaign(5), kinds=KIND_CHECKS))
    assert store.redrive_tasks(message_id=None, now_ms=now) == 3
    for _ in range(2):  # the second time for the message that the last unit is gone again
        relay._scan_at = 0.0
        while relay._turn():
            pass
    assert account(store)[0] == 100 + 15
    assert_healthy(store, now_ms=now)


def test_a_void_leaves_the_draws_where_they_are(store: Store) -> None:
    (task,) = set_up(store, 9, 1)
    bus_of(store).deliver([task])
    asked = VoidAsked(task.message_id, "a mistake", stock=True, quota=True, credits=True)
    voids.void_award(whole(store), asked, user_id=None, now_ms=NOON, new_id=IDS.make)
    assert account(store)[0] == 103
    assert_healthy(store)


def test_armory_wants_the_sku_to_exist() -> None:
    wrong = campaign(1).replace('config: "12"', 'config: "13"')
    with pytest.raises(ConfigurationInvalid, match=r"awards\[1\]\.config.*there is no sku 13"):
        parse_campaign(wrong, kinds=KIND_CHECKS)
    with pytest.raises(ConfigurationInvalid, match="config must be the number of a sku, not `x`"):
        parse_campaign(wrong.replace('"13"', "x"), kinds=KIND_CHECKS)
    fallback = campaign(1).replace('kind: user_credit_blacklist, config: "1"', 'kind: sku, config: "11"')
    with pytest.raises(ConfigurationInvalid, match=r"nodes\[1\]\.config.*there is no sku 14"):
        parse_campaign(fallback.replace('config: "0.01"', 'config: "14"'), kinds=KIND_CHECKS)


@pytest.fixture(params=["sqlite-2", "mysql-2"])
def world(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[World]:
    with laid_out(request.param, tmp_path, databases) as settings, world_of(settings) as running:
        yield running


def test_with_several_shards_units_are_fetched_before_a_prize_is_parked(world: World) -> None:
    arm(world, parse_campaign(campaign(3), kinds=KIND_CHECKS))
    here, there = users(world, 0, 1), users(world, 1, 1)
    assert world.escrow is not None
    world.escrow.fetch(0, {(0, 12): 3})
    for name in here + there * 3:
        draw(world, name)
    tasks = [shard.due_tasks(NOON * 2, limit=9) for shard in world.stores.shards]
    buses = [world._new_bus(index) for index in (0, 1)]
    buses[1].deliver(tasks[1][:2])
    buses[0].deliver(tasks[0])
    with pytest.raises(SkuSoldOut):
        buses[1].deliver(tasks[1][2:])
    assert not broken(world.stores)
