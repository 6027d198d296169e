"""Exchanges and orders where users are spread over several databases: units follow the buyers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from bigmarket.activity.campaign import parse_campaign
from bigmarket.activity.delivery import Facts
from bigmarket.activity.exchange import Exchanged
from bigmarket.app import KIND_CHECKS, World
from bigmarket.credit.model import CreditShort
from bigmarket.errors import BigmarketError, Contention, SkuSoldOut
from bigmarket.jobs.expiry import Expiry
from databases import Databases
from purchases import MINUTE
from sharded import CARS, LAYOUTS, SKU, WAIT, arm, broken, laid_out, world_of
from support import NOON

PRICE = 100


@pytest.fixture(params=LAYOUTS)
def world(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[World]:
    with laid_out(request.param, tmp_path, databases) as settings, world_of(settings) as running:
        yield running


def sell(world: World, units: int) -> None:
    """So many units of the sku, for 1.00 each."""
    told = CARS.replace("STOCK", "stock: 5,").replace("stock: SKUS_LEFT", f"stock: {units}, price: 1")
    arm(world, parse_campaign(told.replace("TREE", "stocked"), kinds=KIND_CHECKS))


def buyers(world: World, each: int, *, cents: int = PRICE) -> list[str]:
    """So many users of each shard, with credits."""
    found: list[str] = []
    for shard in range(len(world.stores.shards)):
        names = (name for name in map("u{}".format, range(10_000)) if world.stores.routing.shard_of(name) == shard)
        found += [name for name, _ in zip(names, range(each), strict=False)]
    for name in found:
        world.adjust_credits(name, amount_cents=cents, reason="test", out_business_no=f"start-{name}")
    return found


def exchange(world: World, users: list[str]) -> list[Exchanged | BigmarketError]:
    """One for each, all at once; what is still on its way is asked for again."""
    answers: dict[int, Exchanged | BigmarketError] = {}
    for _ in range(20):
        waiting = [n for n in range(len(users)) if n not in answers or isinstance(answers[n], Contention)]
        futures: dict[int, Future[Exchanged | BigmarketError]] = {n: Future() for n in waiting}
        for number, future in futures.items():
            world.exchanges.submit(users[number], SKU, f"r{number}", reply=future)
        answers |= {number: future.result(WAIT) for number, future in futures.items()}
        if not waiting:
            break
    return [answers[number] for number in range(len(users))]


def test_units_are_sold_wherever_the_buyers_are(world: World) -> None:
    users = buyers(world, 10)
    sell(world, len(users) - 3)
    answers = exchange(world, users)
    assert sum(isinstance(answer, Exchanged) for answer in answers) == len(users) - 3
    assert {type(answer) for answer in answers if not isinstance(answer, Exchanged)} == {SkuSoldOut}
    assert not broken(world.stores)


def test_fifty_exchanges_of_one_user_with_credit_for_ten(world: World) -> None:
    (user, *_) = buyers(world, 1, cents=10 * PRICE)
    sell(world, 100)
    answers = exchange(world, [user] * 50)
    assert sum(isinstance(answer, Exchanged) for answer in answers) == 10
    assert {type(answer) for answer in answers if not isinstance(answer, Exchanged)} == {CreditShort}
    assert not broken(world.stores)


def test_a_unit_that_came_back_is_sold_in_another_shard(world: World) -> None:
    sell(world, 1)
    first, *_, last = buyers(world, 1)
    order = world.place_order(first, sku=SKU, out_business_no="order-1")
    with pytest.raises(SkuSoldOut):
        world.place_order(last, sku=SKU, out_business_no="order-2")
    assert isinstance(exchange(world, [last])[0], SkuSoldOut)
    known = Facts(world.seed_of, lambda: world.live.current)
    assert Expiry(world.stores.shards, facts=known, now_ms=lambda: NOON + 16 * MINUTE).run() == 1
    assert world.place_order(first, sku=SKU, out_business_no="order-1").state == "expired"
    assert order.state == "wait_pay"
    for _ in range(20):  # a verdict of a moment ago may hide the unit
        (answer,) = exchange(world, [last])
        if isinstance(answer, Exchanged):
            break
        time.sleep(0.1)
    assert isinstance(answer, Exchanged)
    assert not broken(world.stores)


def test_orders_placed_at_once_sell_no_unit_twice(world: World) -> None:
    sell(world, 5)
    users = buyers(world, 6)

    def place(user: str) -> str:
        for _ in range(20):
            try:
                return world.place_order(user, sku=SKU, out_business_no=f"order-{user}").state
            except SkuSoldOut:
                return "sold out"
            except Contention:
                continue
        return "contention"

    with ThreadPoolExecutor(6) as pool:
        states = list(pool.map(place, users))
    assert states.count("wait_pay") == 5
    assert states.count("sold out") == len(users) - 5
    assert not broken(world.stores)
