"""Whoever takes the last unit of a sku leaves a task that tells of it, once, whichever way the unit was taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from behaving import ask, bus_on, give_all
from bigmarket.activity.exchange import Exchanged
from bigmarket.activity.message import ACTIVITY_SKU_STOCK_ZERO, SkuStockZero, decode
from bigmarket.jobs.expiry import Expiry
from bigmarket.outbox.task import Task
from bigmarket.rebate.model import SkuRebate
from bigmarket.storage import delivery_tx
from bigmarket.storage.bulk import Bulk, Row
from bigmarket.storage.contract import Store
from databases import Databases
from purchases import FEW, FEW_PRICE, FEW_UNITS, MINUTE, PLENTY, PRICE, earn, exchange, placed, shop
from sharded import LAYOUTS, SKU, arm, bring, broken, cars, laid_out, users, world_of
from support import NOON, assert_healthy, facts, give, install, small_campaign

NAMES = [f"u{number}" for number in range(FEW_UNITS)]
SOLD_OUT = {"event": "sku sold out", "log_level": "warning", "activity_id": 1}


def told(store: Store) -> list[Task]:
    """Tasks that tell of a sku that ran out."""
    return [task for task in store.due_tasks(NOON, limit=1_000) if task.topic == ACTIVITY_SKU_STOCK_ZERO]


def buy(store: Store, *names: str) -> None:
    """A unit of ``FEW`` for each, in one transaction."""
    for name in names:
        earn(store, name, FEW_PRICE)
    answers = exchange(store, *((name, FEW, None) for name in names))
    assert all(isinstance(answer, Exchanged) for answer in answers)


def recharge(store: Store, *names: str) -> None:
    give(store, *names, sku=FEW)


def place(store: Store, *names: str) -> None:
    for name in names:
        placed(store, name, sku=FEW, no=f"order-{name}")


@pytest.mark.parametrize("take", [buy, recharge, place])
def test_the_last_unit_is_told_of_by_whoever_takes_it(store: Store, take: Callable[..., None]) -> None:
    install(store, shop())
    take(store, *NAMES[1:])
    assert told(store) == []
    take(store, "last")
    (task,) = told(store)
    message = decode(task.message)
    assert (task.user_id, message.sku, message.activity_id) == ("last", FEW, 1)
    assert task.message_id == message.message_id != message.order_id
    assert (len(task.message_id), task.message_id[:10]) == (26, message.order_id[:10]), "an id of the same moment"
    assert_healthy(store)


def test_a_batch_may_take_all_units_at_once(store: Store) -> None:
    install(store, shop())
    buy(store, *NAMES)
    assert [task.user_id for task in told(store)] == [NAMES[-1]]


def test_a_rebate_may_take_the_last_unit(store: Store) -> None:
    rebate = SkuRebate(behavior="sign", type="sku", sku=FEW)
    install(store, small_campaign().model_copy(update={"rebates": (rebate,)}))
    for number in range(FEW_UNITS + 1):
        ask(store, f"u{number}")
    with structlog.testing.capture_logs() as logs:
        give_all(store)
        (task,) = told(store)
        assert decode(task.message).sku == FEW
        assert [line for line in logs if line["event"] == "sku sold out"] == []
        assert give_all(store) == 1
    assert logs == [{**SOLD_OUT, "sku": FEW}]
    assert_healthy(store)


def test_it_is_told_again_when_the_message_is_repeated_and_nothing_else_happens(store: Store) -> None:
    install(store, shop())
    buy(store, *NAMES)
    tasks, counted = told(store), 0

    def note() -> None:
        nonlocal counted
        counted += 1

    bus = bus_on(store)
    bus._facts = facts(store)._replace(note_sold_out=note)
    with structlog.testing.capture_logs() as logs:
        bus.consume([*tasks, *tasks])
        bus.deliver(tasks)
        bus.deliver(tasks)
    assert logs == [{**SOLD_OUT, "sku": FEW}] * 3
    assert counted == 3
    assert told(store) == []
    assert_healthy(store)


def test_a_unit_that_comes_back_and_is_sold_again_is_told_of_again(store: Store) -> None:
    install(store, shop())
    placed(store, sku=FEW)
    buy(store, *NAMES[1:])
    (first,) = told(store)
    later = NOON + 16 * MINUTE
    assert Expiry([store], facts=facts(store), now_ms=lambda: later).run() == 1
    with structlog.testing.capture_logs() as logs:
        bus_on(store).consume([first])
    assert logs == [], "there is one again"
    earn(store, "bob", FEW_PRICE)
    exchange(store, ("bob", FEW, None))
    assert {task.user_id for task in told(store)} == {first.user_id, "bob"}
    with structlog.testing.capture_logs() as logs:
        bus_on(store).deliver(told(store))
    assert logs == [{**SOLD_OUT, "sku": FEW}]
    assert_healthy(store)


@pytest.mark.parametrize(("sku", "price", "locks"), [(PLENTY, PRICE, 0), (FEW, FEW_PRICE, 1)])
def test_only_the_last_unit_costs_a_statement(
    store: Store, monkeypatch: pytest.MonkeyPatch, sku: int, price: int, locks: int
) -> None:
    monkeypatch.setattr(delivery_tx, "SCARCE", 500)
    install(store, shop())
    asked: list[str] = []

    class Spy:
        """Notes the templates that are run."""

        def __init__(self, bulk: Bulk) -> None:
            self._bulk = bulk

        def select(self, template: str, keys: Sequence[Row]) -> list[list[Any]]:
            asked.append(template)
            return self._bulk.select(template, keys)

        def write(self, template: str, rows: Sequence[Row]) -> int:
            asked.extend([template] if rows else [])
            return self._bulk.write(template, rows)

    made = delivery_tx.SqlDeliveryTx.__init__

    def spied(tx: delivery_tx.SqlDeliveryTx, bulk: Bulk, *rest: object, **named: object) -> None:
        made(tx, Spy(bulk), *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(delivery_tx.SqlDeliveryTx, "__init__", spied)
    earn(store, "ann", price)
    asked.clear()
    exchange(store, ("ann", sku, None))
    assert sum("sku_stock" in template for template in asked) == 2 + locks
    assert not any("INTO task" in template for template in asked)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_with_several_shards_it_is_told_when_no_shard_has_a_unit(
    layout: str, tmp_path: Path, databases: Databases
) -> None:
    with laid_out(layout, tmp_path, databases) as settings, world_of(settings) as world:
        shards = len(world.stores.shards)
        arm(world, cars(1, skus=shards + 1))
        bring(world, shards - 1, 2, key=(0, SKU))
        for shard in range(shards - 1):
            users(world, shard, 1)
        buses = [world._new_bus(shard) for shard in range(shards)]

        def deliver() -> None:
            for bus, shard in zip(buses, world.stores.shards, strict=True):
                bus.deliver(told(shard))

        with structlog.testing.capture_logs() as logs:
            deliver()
            assert [line for line in logs if line["event"] == "sku sold out"] == []
            users(world, 0, 3)  # the first of them was credited before
            with world.stores.looking_at_shelves() as tx:
                assert tx.units_left([SKU]) == {SKU: 0}
            deliver()
        assert {**SOLD_OUT, "sku": SKU} in logs
        assert sum(world.sold_out) == sum(line["event"] == "sku sold out" for line in logs)
        assert not broken(world.stores)


def test_the_message_names_sku_and_activity_as_the_wire_does() -> None:
    assert decode(b'{"sku":9011,"activityId":1,"orderId":"01K"}') == SkuStockZero(9011, 1, "01K")


def test_a_sku_whose_stock_was_raised_since_is_not_told_of(store: Store) -> None:
    install(store, shop())
    buy(store, *NAMES)
    campaign = shop()
    skus = [one.model_copy(update={"stock": FEW_UNITS + 1}) if one.sku == FEW else one for one in campaign.skus]
    install(store, campaign.model_copy(update={"skus": skus}))
    with structlog.testing.capture_logs() as logs:
        bus_on(store).deliver(told(store))
    assert logs == []
