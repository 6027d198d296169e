"""Any interleaving of recharge, draw, repeat, rollover, restock and delivery keeps every promise.

A small model says what each call must answer; after every step the store agrees with the model and doctor is clean.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from bigmarket.activity.campaign import Campaign
from bigmarket.activity.orders import recharge
from bigmarket.bus.in_process import InProcessBus
from bigmarket.draw import Drawn, DrawRequest, draw_batch
from bigmarket.errors import (
    BigmarketError,
    DayQuotaExhausted,
    Duplicate,
    MonthQuotaExhausted,
    QuotaExhausted,
    SkuSoldOut,
)
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from databases import Databases
from support import DAY, HOUR, IDS, NOON, assert_healthy, bundles, facts, install, limited_campaign

SHANGHAI = ZoneInfo("Asia/Shanghai")
USERS = st.sampled_from(["ann", "bob", "mallory"])
REQUEST_IDS = st.none() | st.sampled_from(["r1", "r2", "r3"])
CAMPAIGN = limited_campaign(at_most=2)
COUNTS = {11: (10, 10, 10), 12: (5, 4, 2)}  # sku: total, month, day


@dataclass
class UserModel:
    """A user's quota as anybody would count it: what was credited, and the days of the draws made."""

    credited: list[tuple[int, int, int]] = field(default_factory=list)
    drawn_on: list[str] = field(default_factory=list)
    stamp: str = ""
    outcomes: dict[str, Drawn] = field(default_factory=dict)

    def refusal(self, today: str) -> type[BigmarketError] | None:
        day = max(today, self.stamp)
        total, month, daily = (
            (sum(counts) for counts in zip(*self.credited, strict=True)) if self.credited else (0, 0, 0)
        )
        if len(self.drawn_on) >= total:
            return QuotaExhausted
        if sum(d[:7] == day[:7] for d in self.drawn_on) >= month:
            return MonthQuotaExhausted
        return DayQuotaExhausted if sum(d == day for d in self.drawn_on) >= daily else None

    def draw(self, today: str) -> None:
        self.stamp = max(today, self.stamp)
        self.drawn_on.append(self.stamp)


class Interleaving(RuleBasedStateMachine):
    """A new store, three users, a clock that mostly goes forward."""

    def __init__(self, opening: AbstractContextManager[Store]) -> None:
        super().__init__()
        self.opening = opening
        self.store = opening.__enter__()
        install(self.store, CAMPAIGN)
        self.bus = InProcessBus(self.store, CONSUMERS, now_ms=lambda: self.now, facts=facts(self.store))
        self.now = NOON
        self.users: dict[str, UserModel] = {}
        self.orders: dict[str, tuple[str, int]] = {}
        self.lamps, self.sku_units = 3, {11: 1000, 12: 5}
        self.draws = 0

    @property
    def today(self) -> str:
        return datetime.fromtimestamp(self.now / 1000, tz=UTC).astimezone(SHANGHAI).date().isoformat()

    def user(self, name: str) -> UserModel:
        return self.users.setdefault(name, UserModel())

    @rule(user=USERS, sku=st.sampled_from([11, 12]), number=st.sampled_from(["n1", "n2", "n3", "n4"]))
    def recharge(self, user: str, sku: int, number: str) -> None:
        known = self.orders.get(number)
        left = self.sku_units[sku] - sum(ordered == sku for _, ordered in self.orders.values())
        try:
            bundle_of = bundles(self.store)
            with self.store.recharging(user) as tx, self.store.reading() as connection:
                order = recharge(
                    tx,
                    user_id=user,
                    sku=sku,
                    out_business_no=number,
                    now_ms=self.now,
                    order_id=IDS.make(self.now),
                    live=load_live(connection, {}),
                    bundle_of=bundle_of,
                )
        except Duplicate:
            assert known is not None
            assert known != (user, sku)
        except SkuSoldOut:
            assert known is None
            assert left == 0
        else:
            assert order.repeated is (known == (user, sku))
            if known is None:
                self.orders[number] = (user, sku)
                model = self.user(user)
                model.credited.append(COUNTS[sku])
                model.stamp = max(self.today, model.stamp)

    @rule(batch=st.lists(st.tuples(USERS, REQUEST_IDS), min_size=1, max_size=12))
    def draw(self, batch: list[tuple[str, str | None]]) -> None:
        requests = [DrawRequest(IDS.make(self.now), user, 1, request_id) for user, request_id in batch]
        with self.store.reading() as connection:
            live = load_live(connection, {})
        with self.store.drawing() as tx:
            answers = draw_batch(tx, requests, live=live, now_ms=self.now).answers
        for (user, request_id), answer in zip(batch, answers, strict=True):
            self.check(self.user(user), request_id, answer)

    def check(self, model: UserModel, request_id: str | None, answer: object) -> None:
        if request_id in model.outcomes:
            assert answer == model.outcomes[request_id]
            return
        refusal = model.refusal(self.today)
        if refusal is not None:
            assert type(answer) is refusal
            return
        assert isinstance(answer, Drawn)
        model.draw(self.today)
        self.draws += 1
        if request_id is not None:
            model.outcomes[request_id] = answer

    @rule(hours=st.sampled_from([1, 11, 24, 30, 24 * 12, 24 * 31]))
    def let_time_pass(self, hours: int) -> None:
        if self.now + hours * HOUR < NOON + 35 * DAY:  # the campaign ends in January
            self.now += hours * HOUR

    @rule()
    def set_the_clock_back(self) -> None:
        self.now -= DAY

    @rule(units=st.integers(1, 3))
    def restock(self, units: int) -> None:
        self.lamps += units
        install(self.store, self.with_lamps(self.lamps), now_ms=self.now)

    def with_lamps(self, units: int) -> Campaign:
        awards = tuple(
            award.model_copy(update={"stock": units}) if award.award_id == 3 else award
            for award in CAMPAIGN.strategy.awards
        )
        return CAMPAIGN.model_copy(update={"strategy": CAMPAIGN.strategy.model_copy(update={"awards": awards})})

    @rule()
    def deliver(self) -> None:
        tasks = self.store.due_tasks(self.now + 40 * DAY, limit=256)
        if tasks:
            self.bus.deliver(tasks)

    @invariant()
    def every_promise_holds(self) -> None:
        # Undelivered tasks and a clock set back are the test's doing, so the lag is judged from the first moment.
        assert_healthy(self.store, now_ms=NOON - 40 * DAY)

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        with self.store.reading() as connection:
            drawn = dict(
                connection.execute(text("SELECT user_id, COUNT(*) FROM user_award_record GROUP BY user_id")).all()
            )
            sold = connection.execute(text("SELECT COALESCE(SUM(sold), 0) FROM award_stock")).scalar_one()
        assert drawn == {name: len(model.drawn_on) for name, model in self.users.items() if model.drawn_on}
        assert sold == self.draws

    def teardown(self) -> None:
        self.opening.__exit__(None, None, None)


@pytest.mark.parametrize("backend", ["sqlite", "mysql-split"])
def test_any_interleaving_keeps_every_promise(backend: str, databases: Databases) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Interleaving(databases.store(backend)),
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
