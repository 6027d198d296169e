"""Rebates where users are spread over several databases: a sku is sold out only when it is so everywhere."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bigmarket.activity.behavior import Behaved
from bigmarket.app import World
from bigmarket.rebate.model import SkuRebate
from databases import Databases
from sharded import LAYOUTS, SKU, SKU_STOCK, arm, bring, broken, cars, free_units, laid_out
from support import NOON

WAIT = 20.0


def sign_in_all(world: World, names: list[str]) -> list[Any]:
    """Each of them signs in, all at once; their answers in order."""
    futures: list[Future[Any]] = [Future() for _ in names]
    for name, future in zip(names, futures, strict=True):
        world.rebates.submit(name, "sign", None, None, reply=future)
    return [future.result(WAIT) for future in futures]


def states(world: World) -> Counter[str]:
    """Rebate orders by state, over all shards, once none waits."""
    give_up_at = time.monotonic() + WAIT
    while True:
        found: Counter[str] = Counter()
        for shard in world.stores.shards:
            with shard.reading() as connection:
                found.update(connection.execute(text("SELECT state FROM user_behavior_rebate_order")).scalars())
        if not found["create"] or time.monotonic() > give_up_at:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("units", [0, 10])
def test_units_come_from_wherever_they_are_and_then_the_rest_is_told(
    layout: str, units: int, tmp_path: Path, databases: Databases
) -> None:
    names = [f"u{n}" for n in range(40)]
    with (
        laid_out(layout, tmp_path, databases) as settings,
        World(settings.model_copy(update={"work": True}), clock=lambda: NOON) as world,
    ):
        rebate = SkuRebate(behavior="sign", type="sku", sku=SKU)
        arm(world, cars(1, skus=10 + units).model_copy(update={"rebates": (rebate,)}))
        bring(world, len(world.stores.shards) - 1, 4, SKU_STOCK)
        assert all(isinstance(answer, Behaved) for answer in sign_in_all(world, names[:30]))
        assert states(world) == {"completed": 10 + units, "fail": 20 - units}
        hub, free = free_units(world.stores, SKU_STOCK)
        assert (hub, sum(free)) == (0, 0)
        assert all(isinstance(answer, Behaved) for answer in sign_in_all(world, names[30:]))
        assert states(world) == {"completed": 10 + units, "fail": 30 - units}
        assert not broken(world.stores)
