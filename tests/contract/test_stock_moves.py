"""Stock moves in any order, ended by a crash at any step: no unit is lost, none is there twice, none is oversold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import count as numbers
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text, update

from bigmarket.activity.stock import StockKey
from bigmarket.app import World
from bigmarket.errors import Contention
from bigmarket.ids import Ids
from bigmarket.storage import escrow as escrow_module
from bigmarket.storage import ledger, transfers
from bigmarket.storage.escrow import Escrow
from bigmarket.storage.installation import Stores
from bigmarket.storage.replays import Configuration
from bigmarket.storage.schema import stock_hub
from bigmarket.storage.transfers import LIFTED, Move
from databases import Databases
from sharded import Crash, fragile, free_units, laid_out, world_of
from support import NOON

SHARDS = 2
STRATEGIES = numbers(1_000)
IDS = Ids()

shards = st.integers(0, SHARDS - 1)
units = st.integers(1, 12)
steps = st.one_of(
    st.tuples(st.just("fetch"), shards, units),
    st.tuples(st.sampled_from(["sell", "return"]), shards, units),
    st.tuples(st.just("recall"), st.just(0), units),
    st.tuples(st.just("total"), st.just(0), st.integers(0, 40)),
    st.tuples(st.sampled_from(["sweep", "rebalance", "lift"]), st.just(0), st.just(0)),
)
ends = st.none() | st.integers(0, 12)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("moves")
    with laid_out("sqlite-2", folder, databases) as chosen, world_of(chosen) as running:
        yield running


class Item:
    """One prize, and a plain count of what was sold of it."""

    def __init__(self, stores: Stores, total: int) -> None:
        self.stores = stores
        self.key: StockKey = (next(STRATEGIES), 1)
        self.sold = self.returned = 0
        with stores.config.writing() as connection:
            connection.execute(insert(stock_hub).values(strategy_id=self.key[0], item_id=1, total=total))
        for shard in stores.shards:
            with shard.writing() as connection:
                transfers.provide_rows(connection, {self.key: True})

    def total(self) -> int | None:
        with self.stores.config.reading() as connection:
            return transfers.hub_rows(connection, [self.key])[self.key].total

    def step(self, stores: Stores, name: str, shard: int, number: int) -> None:
        """One step of a process that may end in it (``stores`` are fragile)."""
        escrow = Escrow(stores, ids=IDS, now_ms=lambda: NOON)
        match name:
            case "fetch":
                escrow.fetch(shard, {self.key: number})
            case "sell":
                self._sell(shard, number)
            case "return":
                self._return(shard)
            case "recall":
                escrow.recall(self.key, number)
            case "total":
                self._set_total(stores, escrow, number)
            case "lift":
                self._lift(stores, escrow)
            case "sweep":
                escrow.sweep()
            case "rebalance":
                escrow.rebalance()

    def _sell(self, shard: int, number: int) -> None:
        """What draws do; they are tested elsewhere, and never end half-way."""
        statement = """UPDATE award_stock SET sold = sold + :units WHERE strategy_id = :strategy
                       AND (alloc IS NULL OR sold + :units <= alloc)"""
        with self.stores.shards[shard].writing() as connection:
            found = connection.execute(text(statement), {"units": number, "strategy": self.key[0]}).rowcount
        self.sold += number * found

    def _return(self, shard: int) -> None:
        """What a void does: a unit that was sold in the shard can be sold again."""
        statement = """UPDATE award_stock SET alloc = alloc + 1, returned = returned + 1
                       WHERE strategy_id = :strategy AND returned < sold"""
        with self.stores.shards[shard].writing() as connection:
            self.returned += connection.execute(text(statement), {"strategy": self.key[0]}).rowcount

    def _set_total(self, stores: Stores, escrow: Escrow, total: int) -> None:
        """What arming does for a limited prize."""
        escrow.sweep()
        for number, shard in enumerate(stores.shards):
            with shard.writing() as connection:
                transfers.limit(connection, shard=number, key=self.key, transfer_id=IDS.make(NOON))
        escrow.sweep()
        with stores.config.reading() as connection:
            allotted = transfers.hub_rows(connection, [self.key])[self.key].allotted
        escrow.recall(self.key, max(0, allotted - total))
        hub = stock_hub.c
        with stores.config.writing() as connection:
            covered = (hub.strategy_id == self.key[0], hub.allotted <= total)
            connection.execute(update(stock_hub).where(*covered).values(total=total))

    def _lift(self, stores: Stores, escrow: Escrow) -> None:
        """What arming does for an unlimited one."""
        with stores.config.writing() as connection:
            connection.execute(update(stock_hub).where(stock_hub.c.strategy_id == self.key[0]).values(total=None))
            for shard in range(SHARDS):
                transfers.send(connection, Move(IDS.make(NOON), shard, self.key, LIFTED), now_ms=NOON)
        escrow.sweep()

    def check(self) -> None:
        """The books hold, whatever is on its way, and no more is sold than there is."""
        assert not ledger.stock_astray(self.stores, Configuration(self.stores.config))
        assert self._sold_by_shards() == self.sold
        total = self.total()
        assert total is None or self.sold - self.returned <= total

    def _sold_by_shards(self) -> int:
        sold = 0
        for shard in self.stores.shards:
            with shard.reading() as connection:
                sold += transfers.standings(connection, [self.key])[self.key].sold
        return sold


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    total=3, plan=[((step, 0, 3), None) for step in ("fetch", "sell", "return", "lift", "return", "sell", "total")]
)
@given(total=st.integers(0, 30), plan=st.lists(st.tuples(steps, ends), max_size=14))
def test_any_order_of_moves_and_crashes_keeps_the_books(
    world: World, monkeypatch: pytest.MonkeyPatch, total: int, plan: list[tuple[tuple[str, int, int], Any]]
) -> None:
    monkeypatch.setattr(escrow_module, "PAUSES_SECONDS", (0.0, 0.0, 0.0, 0.0))
    item = Item(world.stores, total)
    for (name, shard, number), ends_at in plan:
        with suppress(Crash, Contention):
            item.step(fragile(world.stores, ends_at), name, shard, number)
        item.check()
    Escrow(world.stores, ids=IDS, now_ms=lambda: NOON).sweep()
    item.check()
    left = item.total()
    if left is not None:
        unallotted, frees = free_units(world.stores, item.key)
        gone = item.sold - item.returned
        assert unallotted + sum(frees) + gone == left, "every unit is won or can still be had"
