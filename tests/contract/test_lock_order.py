"""Transactions that lock the same rows do so in one order: they may wait for each other, but never in a circle.

A circle is no fault of data: the database breaks it and one side is tried again. But it costs a whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sqlalchemy import update

from behaving import ask, bus_on, rewarding_campaign
from bigmarket.activity.delivery import DrawGrant
from bigmarket.activity.exchange import ExchangeRequest
from bigmarket.award.void import VoidAsked
from bigmarket.bus.in_process import InProcessBus
from bigmarket.draw import DrawRequest, draw_batch
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.storage import schema as t
from bigmarket.storage import voids
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.exchange_tx import SqlExchangeTx
from bigmarket.storage.installation import whole
from purchases import earn
from sharded import cars
from support import IDS, NOON, assert_healthy, count, facts, give, install

A_MOMENT = 0.3  # in which the other transaction comes to where it has to wait


@contextmanager
def an_exchange_meets(store: Store, other: Callable[[], object], *, sku: int) -> Iterator[SqlExchangeTx]:
    """An exchange of ann's that has locked her credits, and ``other``, which waits for them; both end well."""
    with ThreadPoolExecutor(1) as pool:
        with store.exchanging() as tx:
            tx.load([ExchangeRequest(IDS.make(NOON), "ann", sku, None)])
            waiting = pool.submit(other)
            time.sleep(A_MOMENT)
            assert not waiting.done()
            assert isinstance(tx, SqlExchangeTx)
            yield tx
        waiting.result(20)
    assert_healthy(store)


def test_rebates_lock_credits_before_skus_as_exchanges_do(store: Store) -> None:
    install(store, rewarding_campaign())
    with store.writing() as connection:  # so few that they are locked before anything is decided
        connection.execute(update(t.sku_stock).where(t.sku_stock.c.sku == 11).values(alloc=3))
    earn(store, "ann", 500)
    ask(store, "ann")
    tasks = store.due_tasks(NOON + 60_000, limit=10)
    with an_exchange_meets(store, lambda: bus_on(store).deliver(tasks), sku=11) as tx:
        assert tx.units_left({11: 1}) == {11: 3}


def test_recharges_lock_few_skus_before_draws_as_exchanges_do(store: Store) -> None:
    install(store, cars(0))
    give(store, "ann")
    with store.reading() as connection:
        live = load_live(connection, {})
    assert live[1].revision is not None
    (bundle,) = live[1].revision.bundles.values()
    with store.writing() as connection:
        connection.execute(update(t.sku_stock).values(alloc=t.sku_stock.c.sold + 3))
    with ThreadPoolExecutor(1) as pool:
        with store.exchanging() as tx:
            assert isinstance(tx, SqlExchangeTx)
            assert tx.units_left({bundle.sku: 1}) == {bundle.sku: 3}
            waiting = pool.submit(give, store, "ann", no="another")
            time.sleep(A_MOMENT)
            assert not waiting.done()
            bought = DrawGrant(IDS.make(NOON), "ann", bundle, facts(store).period_of(1, NOON), "bought")
            tx.add_draws([bought], now_ms=NOON)
        waiting.result(20)
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 3


def test_voids_lock_credits_before_draws_as_exchanges_do(store: Store) -> None:
    install(store, cars(0))
    give(store, "ann")
    with store.reading() as connection:
        live = load_live(connection, {})
    with store.drawing() as drawing:
        result = draw_batch(drawing, [DrawRequest(IDS.make(NOON), "ann", 1, None)], live=live, now_ms=NOON)
    InProcessBus(store, CONSUMERS, now_ms=lambda: NOON, facts=facts(store)).deliver(result.tasks)
    asked = VoidAsked(result.tasks[0].message_id, "a mistake", quota=True, credits=True)
    assert live[1].revision is not None
    (bundle,) = live[1].revision.bundles.values()

    def void() -> object:
        return voids.void_award(whole(store), asked, user_id=None, now_ms=NOON, new_id=IDS.make)

    with an_exchange_meets(store, void, sku=bundle.sku) as tx:
        bought = DrawGrant(IDS.make(NOON), "ann", bundle, facts(store).period_of(1, NOON), "bought")
        tx.add_draws([bought], now_ms=NOON)
