"""Any interleaving of credits given and taken, orders placed, exchanges, deliveries and expiry keeps every promise.

A small model says what each call must answer; after every step the store agrees with the model and doctor is clean.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from bigmarket.activity.exchange import Exchanged, ExchangeRequest, bundles_of, exchange_batch
from bigmarket.activity.orders import place
from bigmarket.bus.in_process import InProcessBus
from bigmarket.credit.model import CreditShort, adjustment
from bigmarket.errors import BadInput, BigmarketError, Duplicate, SkuSoldOut
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.jobs.expiry import Expiry
from bigmarket.storage.adjusting import adjust
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from databases import Databases
from purchases import FEW, FEW_PRICE, FEW_UNITS, MINUTE, PLENTY, PRICE, shop
from support import IDS, NOON, assert_healthy, facts, install

USERS = st.sampled_from(["ann", "bob"])
SKUS = st.sampled_from([PLENTY, FEW])
NUMBERS = st.sampled_from(["n1", "n2", "n3"])  # each user's own
PRICES = {PLENTY: PRICE, FEW: FEW_PRICE}
DRAWS = {PLENTY: 10, FEW: 5}
AMOUNTS = st.sampled_from([-FEW_PRICE, -PRICE, -1, 1, PRICE, FEW_PRICE, 600])


@dataclass
class Order:
    """One that was placed."""

    user: str
    sku: int
    expire_at_ms: int
    state: str = "wait_pay"
    paid: bool = False


class Purchases(RuleBasedStateMachine):
    """A new store, two users, a clock that goes forward."""

    def __init__(self, opening: AbstractContextManager[Store]) -> None:
        super().__init__()
        self.opening = opening
        self.store = opening.__enter__()
        install(self.store, shop())
        with self.store.reading() as connection:
            self.live = load_live(connection, {})
        self.bundles = bundles_of(self.live)
        self.now = NOON
        self.bus = InProcessBus(self.store, CONSUMERS, now_ms=lambda: self.now, facts=facts(self.store))
        self.expiry = Expiry([self.store], facts=facts(self.store), now_ms=lambda: self.now)
        self.cents: dict[str, int] = {}
        self.draws: dict[str, int] = {}
        self.bought: dict[tuple[str, str], int] = {}  # what a request id was used for
        self.orders: dict[str, Order] = {}
        self.trades: dict[str, tuple[str, int]] = {}
        self.units = {PLENTY: 1000, FEW: FEW_UNITS}

    def waiting(self, user: str, sku: int) -> Order | None:
        found = [o for o in self.orders.values() if (o.user, o.sku, o.state) == (user, sku, "wait_pay")]
        assert len(found) <= 1
        return found[0] if found else None

    def complete(self, order: Order) -> None:
        order.state = "completed"
        self.draws[order.user] = self.draws.get(order.user, 0) + DRAWS[order.sku]

    # --- credits from outside ---------------------------------------------------------------------------------------

    @rule(user=USERS, cents=AMOUNTS, number=NUMBERS)
    def adjust(self, user: str, cents: int, number: str) -> None:
        number = f"{user}-{number}"
        expected = self.refusal_of_trade(user, cents, number)
        asked = adjustment(
            order_id=IDS.make(self.now),
            user_id=user,
            amount_cents=cents,
            reason="test",
            out_business_no=number,
            now_ms=self.now,
        )
        try:
            with self.store.updating() as connection:
                made = adjust(connection, asked, split=self.store.split)
        except BigmarketError as error:
            assert type(error) is expected  # noqa: PT017  the model knows which
            return
        assert expected is None
        assert made.repeated is (number in self.trades)
        if not made.repeated:
            self.trades[number] = (user, cents)
            self.cents[user] = self.cents.get(user, 0) + cents
            if number in self.orders:
                self.orders[number].paid = True

    def refusal_of_trade(self, user: str, cents: int, number: str) -> type[BigmarketError] | None:
        if number in self.trades:
            return None if self.trades[number] == (user, cents) else Duplicate
        if order := self.orders.get(number):
            if order.state != "wait_pay":
                return Duplicate
            if cents != -PRICES[order.sku]:
                return BadInput
        return CreditShort if self.cents.get(user, 0) + cents < 0 else None

    # --- buying -----------------------------------------------------------------------------------------------------

    @rule(user=USERS, sku=SKUS, number=NUMBERS)
    def place(self, user: str, sku: int, number: str) -> None:
        number = f"{user}-{number}"
        known, waiting = self.orders.get(number), self.waiting(user, sku)
        expire_at_ms = self.now + 15 * MINUTE
        try:
            with self.store.recharging(user) as tx:
                order = place(
                    tx,
                    user_id=user,
                    sku=sku,
                    out_business_no=number,
                    now_ms=self.now,
                    expire_at_ms=expire_at_ms,
                    order_id=IDS.make(self.now),
                    live=self.live,
                    bundle_of=self.bundles.get,
                )
        except Duplicate:
            assert known.sku != sku if known else number in self.trades
        except SkuSoldOut:
            assert known is None
            assert waiting is None
            assert self.units[sku] == 0
        else:
            assert order.repeated is bool(known or waiting)
            if not order.repeated:
                self.units[sku] -= 1
                self.orders[number] = Order(user, sku, expire_at_ms)

    @rule(batch=st.lists(st.tuples(USERS, SKUS, st.none() | NUMBERS), min_size=1, max_size=6))
    def exchange(self, batch: list[tuple[str, int, str | None]]) -> None:
        requests = [ExchangeRequest(IDS.make(self.now), *asked) for asked in batch]
        with self.store.exchanging() as tx:
            answers = exchange_batch(tx, requests, live=self.live, bundles=self.bundles, now_ms=self.now).answers
        for (user, sku, request_id), answer in zip(batch, answers, strict=True):
            self.check(user, sku, request_id, answer)

    def check(self, user: str, sku: int, request_id: str | None, answer: object) -> None:
        earlier = self.bought.get((user, request_id or ""))
        if request_id is not None and earlier is not None:
            assert (
                (isinstance(answer, Exchanged) and answer.repeated) if earlier == sku else type(answer) is Duplicate
            )
            return
        order = self.waiting(user, sku)
        if order is not None and order.paid:
            order = None
        if self.cents.get(user, 0) < PRICES[sku]:
            assert type(answer) is CreditShort
            return
        if order is None and self.units[sku] == 0:
            assert type(answer) is SkuSoldOut
            return
        assert isinstance(answer, Exchanged)
        assert not answer.repeated
        self.cents[user] -= PRICES[sku]
        if order is not None:
            self.complete(order)
        else:
            self.units[sku] -= 1
            self.draws[user] = self.draws.get(user, 0) + DRAWS[sku]
        if request_id is not None:
            self.bought[user, request_id] = sku

    # --- what follows -----------------------------------------------------------------------------------------------

    @rule()
    def deliver(self) -> None:
        tasks = self.store.due_tasks(self.now, limit=256)
        if tasks:
            self.bus.deliver(tasks)
        payers = {task.user_id for task in tasks if b'"amount":-' in task.message}
        for order in self.orders.values():
            if order.state == "wait_pay" and order.paid and order.user in payers:
                self.complete(order)

    @rule(minutes=st.sampled_from([5, 15]))
    def let_time_pass(self, minutes: int) -> None:
        self.now += minutes * MINUTE
        over = [o for o in self.orders.values() if o.state == "wait_pay" and o.expire_at_ms <= self.now]
        self.expiry.run()
        users = {order.user for order in over}
        for order in self.orders.values():
            if order.state == "wait_pay" and order.paid and order.user in users:
                self.complete(order)
        for order in over:
            if order.state == "wait_pay":
                order.state = "expired"
                self.units[order.sku] += 1

    @invariant()
    def every_promise_holds(self) -> None:
        # Undelivered tasks are the test's doing, so the lag is judged from the first moment.
        assert_healthy(self.store, now_ms=NOON)

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        with self.store.reading() as connection:

            def pairs(query: str) -> dict[object, object]:
                return dict(connection.execute(text(query)).all())  # type: ignore[arg-type]

            cents = pairs("SELECT user_id, available_cents FROM user_credit_account")
            draws = pairs("SELECT user_id, total_count FROM raffle_activity_account")
            units = pairs(f"SELECT sku, alloc - sold FROM sku_stock WHERE sku IN ({PLENTY}, {FEW})")
        assert cents == self.cents
        assert draws == self.draws
        assert units == self.units

    def teardown(self) -> None:
        self.opening.__exit__(None, None, None)


@pytest.mark.parametrize("backend", ["sqlite", "mysql-split"])
def test_any_interleaving_of_purchases_keeps_every_promise(backend: str, databases: Databases) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Purchases(databases.store(backend)),
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
