"""An award is taken back once, with exactly the compensations that were chosen, whatever happens at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import insert, text, update

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import KIND_CHECKS, World
from bigmarket.award.deliveries import Attempt, AwardDelivery, Fulfilled
from bigmarket.award.void import VoidAsked, Voided
from bigmarket.bus.in_process import InProcessBus
from bigmarket.credit.model import CreditAccountClosed, CreditShort
from bigmarket.draw import Drawn, DrawRequest, draw_batch
from bigmarket.errors import ConfigurationInvalid, Contention, NotFound
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.outbox.task import Task
from bigmarket.storage import escrow, voids
from bigmarket.storage import schema as t
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.deliveries import settle_deliveries
from bigmarket.storage.doctor import examine
from bigmarket.storage.installation import whole
from databases import Databases
from sharded import CAR, CARS, LAYOUTS, POINTS, WAIT, arm, bring, broken, cars, draw, laid_out, users, world_of
from support import DAY, IDS, NOON, assert_healthy, count, facts, give, install

EVERYTHING = {"stock": True, "quota": True, "credits": True}


def draws(store: Store, number: int = 1, *, user: str = "ann", now_ms: int = NOON) -> tuple[list[Drawn], list[Task]]:
    with store.reading() as connection:
        live = load_live(connection, {})
    with store.drawing() as tx:
        requests = [DrawRequest(IDS.make(now_ms), user, 1, None) for _ in range(number)]
        result = draw_batch(tx, requests, live=live, now_ms=now_ms)
    assert all(isinstance(answer, Drawn) for answer in result.answers), result.answers
    return list(result.answers), list(result.tasks)  # type: ignore[arg-type]


def set_up(store: Store, stock: int | None, number: int = 1) -> tuple[list[Drawn], list[Task]]:
    install(store, cars(stock))
    give(store, "ann")
    return draws(store, number)


def void(store: Store, order_id: str, *, now_ms: int = NOON, **chosen: bool) -> Voided:
    asked = VoidAsked(order_id, "a mistake", **chosen)
    return voids.void_award(whole(store), asked, user_id=None, now_ms=now_ms, new_id=IDS.make)


def deliver(store: Store, tasks: list[Task]) -> None:
    InProcessBus(store, CONSUMERS, now_ms=lambda: NOON, facts=facts(store)).deliver(tasks)


def red(store: Store) -> set[str]:
    return {finding.name for finding in examine(store, now_ms=NOON) if not finding.ok}


def left(store: Store, column: str = "total_count_surplus") -> int:
    return count(store, f"SELECT {column} FROM raffle_activity_account WHERE user_id = 'ann'")


# --- what is given back -------------------------------------------------------------------------------------------


def test_a_unit_that_came_back_is_won_again_and_the_draw_made_again(store: Store) -> None:
    (first, second), _ = set_up(store, 1, 2)
    assert [first.award_id, second.award_id] == [CAR, POINTS]
    done = void(store, first.order_id, stock=True, quota=True)
    assert done == Voided(first.order_id, "ann", 1, CAR, True, True, 0, "a mistake", NOON)
    assert (left(store), left(store, "month_count_surplus"), left(store, "day_count_surplus")) == (99, 99, 99)
    assert_healthy(store)
    (again,), _ = draws(store)
    assert again.award_id == CAR
    assert count(store, "SELECT sold FROM award_stock WHERE award_id = 4") == 2
    assert_healthy(store)


def test_nothing_is_given_back_unless_it_is_chosen(store: Store) -> None:
    (car, _), _ = set_up(store, 1, 2)
    assert not any(void(store, car.order_id)[5:7])
    assert left(store) == 98
    (again,), _ = draws(store)
    assert again.award_id == POINTS
    assert_healthy(store)


def test_a_draw_of_another_day_or_month_comes_back_to_the_total_only(store: Store) -> None:
    (early,), _ = set_up(store, 5)
    (late,), _ = draws(store, now_ms=NOON + DAY)
    void(store, early.order_id, quota=True, now_ms=NOON + DAY)
    assert (left(store), left(store, "month_count_surplus"), left(store, "day_count_surplus")) == (99, 99, 99)
    assert_healthy(store, now_ms=NOON + DAY)
    draws(store, now_ms=NOON + 15 * DAY)
    void(store, late.order_id, quota=True, now_ms=NOON + 15 * DAY)
    assert (left(store), left(store, "month_count_surplus"), left(store, "day_count_surplus")) == (99, 99, 99)
    assert_healthy(store, now_ms=NOON + 15 * DAY)


def test_the_credits_that_the_award_gave_are_taken_back(store: Store) -> None:
    _, tasks = set_up(store, 0, 3)
    deliver(store, tasks)
    done = void(store, tasks[0].message_id, **EVERYTHING)
    assert (done.credit_cents, done.stock_returned) == (1, True)
    assert count(store, "SELECT available_cents FROM user_credit_account") == 2
    assert_healthy(store)


def test_an_award_that_is_not_delivered_yet_never_is(store: Store) -> None:
    _, tasks = set_up(store, 0, 3)
    assert void(store, tasks[0].message_id, credits=True).credit_cents == 0
    deliver(store, tasks)  # a broker may still hold the message
    assert count(store, "SELECT COUNT(*) FROM user_credit_order") == 2
    assert_healthy(store)


def test_credits_that_are_spent_refuse_the_whole_void(store: Store) -> None:
    (drawn, *_), tasks = set_up(store, 0, 3)
    deliver(store, tasks)
    with store.writing() as connection:
        spent = {"order_id": IDS.make(NOON), "out_business_no": "x", "amount_cents": -3, "create_time_ms": NOON}
        connection.execute(
            insert(
                t.user_credit_order
                if not store.split.routing.tables > 1
                else store.split.table_of(t.user_credit_order, "ann")
            ).values(user_id="ann", trade_name="adjust", trade_type="reverse", **spent)
        )
        connection.execute(update(t.user_credit_account).values(available_cents=0))
    with pytest.raises(CreditShort, match=r"gave 0\.01 credits.*only 0\.00 left; nothing was voided"):
        void(store, drawn.order_id, **EVERYTHING)
    assert count(store, "SELECT COUNT(*) FROM award_void") == 0
    assert_healthy(store)
    assert void(store, drawn.order_id, stock=True, quota=True).credit_cents == 0
    assert_healthy(store)


def test_a_closed_account_refuses_too(store: Store) -> None:
    (drawn,), tasks = set_up(store, 0)
    deliver(store, tasks)
    with store.writing() as connection:
        connection.execute(update(t.user_credit_account).values(account_status="close"))
    with pytest.raises(CreditAccountClosed):
        void(store, drawn.order_id, credits=True)
    assert_healthy(store)


def test_what_nobody_won_cannot_be_voided(store: Store) -> None:
    (drawn,), _ = set_up(store, 1)
    with pytest.raises(NotFound):
        void(store, IDS.make(NOON))
    with pytest.raises(NotFound, match="of that user"):
        voids.void_award(whole(store), VoidAsked(drawn.order_id, "x"), user_id="bob", now_ms=NOON, new_id=IDS.make)


def test_a_dropped_award_may_be_voided_for_its_unit(store: Store) -> None:
    (drawn,), _ = set_up(store, 0)
    with store.writing() as connection:
        connection.execute(update(t.task).values(state="parked", reason="x"))
    store.drop_tasks(message_id=None, limit=9)
    assert void(store, drawn.order_id, stock=True, quota=True).quota_returned
    assert_healthy(store)


def test_stock_is_armed_to_what_is_configured_and_what_came_back(store: Store) -> None:
    (drawn, *_), _ = set_up(store, 3, 3)
    void(store, drawn.order_id, stock=True)
    install(store, cars(3))
    assert count(store, "SELECT alloc FROM award_stock WHERE award_id = 4") == 4
    install(store, cars(2))
    assert_healthy(store)
    with pytest.raises(ConfigurationInvalid, match="2 units of award_id 4 are gone"):
        install(store, cars(1))
    (none,), _ = draws(store)
    assert none.award_id == POINTS
    for units in (None, 4):
        install(store, cars(units))
        assert_healthy(store)
    assert [drawn.award_id for drawn in draws(store, 3)[0]] == [CAR, CAR, POINTS]
    assert_healthy(store)


LIMITED = """{
      tree_id: stocked, root: rule_user_limit,
      nodes: [{rule: rule_user_limit, at_most: 2}, {rule: rule_stock}, {rule: rule_luck_award, award_id: 1}],
      lines: [{from: rule_user_limit, to: rule_stock, when: ALLOW},
              {from: rule_user_limit, to: rule_luck_award, when: TAKE_OVER},
              {from: rule_stock, to: rule_luck_award, when: ALLOW}]}"""


def test_a_unit_that_came_back_counts_no_more_for_its_users_limit(store: Store) -> None:
    told = yaml.safe_load(CARS.replace("STOCK", "stock: 9,").replace("SKUS_LEFT", "9").replace("TREE", "stocked"))
    told["strategy"]["trees"][0] = yaml.safe_load(LIMITED)
    install(store, parse_campaign(yaml.safe_dump(told, sort_keys=False), kinds=KIND_CHECKS))
    give(store, "ann")
    drawn, _ = draws(store, 3)
    assert [one.award_id for one in drawn] == [CAR, CAR, POINTS]
    void(store, drawn[0].order_id, stock=True)
    void(store, drawn[1].order_id)
    assert count(store, "SELECT won FROM user_award_count WHERE user_id = 'ann'") == 1
    assert_healthy(store)
    assert [one.award_id for one in draws(store, 2)[0]] == [CAR, POINTS]
    assert_healthy(store)
    with store.writing() as connection:
        connection.execute(text("DELETE FROM user_award_count"))  # as another epoch does: counted anew
    assert [one.award_id for one in draws(store, 1)[0]] == [POINTS]
    assert_healthy(store)


def test_voids_are_listed_page_by_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voids, "PAGE", 2)
    drawn, _ = set_up(store, 5, 5)
    made = [void(store, one.order_id, quota=True) for one in drawn]
    assert list(voids.voids(whole(store))) == sorted(made)


# --- once ---------------------------------------------------------------------------------------------------------


def test_a_repeat_tells_what_was_done_the_first_time(store: Store) -> None:
    (drawn,), _ = set_up(store, 1)
    first = void(store, drawn.order_id, quota=True)
    assert void(store, drawn.order_id, now_ms=NOON + 1, **EVERYTHING) == first._replace(repeated=True)
    assert_healthy(store)


def at_once(*runs: Callable[[], Any]) -> list[Any]:
    """What each gives; tried again after a lost race, as World does."""

    def keep_trying(run: Callable[[], Any]) -> Any:
        for _ in range(20):
            try:
                return run()
            except Contention:
                time.sleep(0.01)
        return run()

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(keep_trying, runs))


def test_of_voids_at_once_one_has_effects(store: Store) -> None:
    (drawn, *_), tasks = set_up(store, 0, 3)
    deliver(store, tasks)
    found = at_once(*[lambda: void(store, drawn.order_id, **EVERYTHING)] * 8)
    assert sorted(one.repeated for one in found) == [False] + [True] * 7
    assert count(store, "SELECT returned FROM award_stock WHERE award_id = 1") == 1
    assert left(store) == 98
    assert_healthy(store)


def test_a_void_beside_a_delivery_finds_it_delivered_or_prevents_it(store: Store) -> None:
    drawn, tasks = set_up(store, 0, 24)
    runs: list[Callable[[], Any]] = []
    for one, task in zip(drawn, tasks, strict=True):
        runs += [
            lambda task=task: deliver(store, [task]),
            lambda one=one: void(store, one.order_id, **EVERYTHING),
        ]
    for start in range(0, len(runs), 8):
        at_once(*runs[start : start + 8])
    assert left(store) == 100
    assert count(store, "SELECT COALESCE(SUM(available_cents), 0) FROM user_credit_account") == 0
    assert count(store, "SELECT COUNT(*) FROM task") == 0
    assert_healthy(store)


def test_a_delivery_that_was_under_way_changes_nothing_any_more(store: Store) -> None:
    (drawn,), _ = set_up(store, 1)
    delivery = AwardDelivery(drawn.order_id, "ann", 1, CAR, "physical", "shop", b"{}")
    with store.delivering() as tx:
        tx.add_deliveries([delivery], now_ms=NOON)
    void(store, drawn.order_id, stock=True)
    with store.updating() as connection:
        settle_deliveries(connection, [Attempt(delivery, Fulfilled({"code": "x"}), NOON, 1)], split=store.split)
    assert count(store, "SELECT COUNT(*) FROM award_delivery WHERE state = 'void' AND result IS NULL") == 1
    with store.delivering() as tx:
        tx.add_deliveries([delivery], now_ms=NOON)
    assert count(store, "SELECT COUNT(*) FROM award_delivery WHERE state <> 'void'") == 0
    assert_healthy(store)


# --- teeth --------------------------------------------------------------------------------------------------------


def test_teeth_without_the_key_everything_comes_back_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (drawn, *_), tasks = set_up(store, 0, 3)
    deliver(store, tasks)
    void(store, drawn.order_id, stock=True)
    monkeypatch.setattr(voids, "void_of", lambda *_: None)
    with pytest.raises(Contention):
        void(store, drawn.order_id, stock=True)
    assert_healthy(store)
    monkeypatch.setattr(voids._Voiding, "_note", lambda *_: None)
    void(store, drawn.order_id, stock=True)
    assert red(store) == {"V2"}


def test_teeth_compensations_without_a_void_are_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (drawn, *_), tasks = set_up(store, 0, 3)
    deliver(store, tasks)
    monkeypatch.setattr(voids._Voiding, "_note", lambda *_: None)
    void(store, drawn.order_id, **EVERYTHING)
    assert red(store) == {"D1", "M2", "V1", "V2"}


@pytest.mark.parametrize("skipped", ["_end_delivery", "_return_draw", "_take_credits", "_return_unit"])
def test_teeth_a_void_without_one_of_its_effects_is_seen(
    store: Store, monkeypatch: pytest.MonkeyPatch, skipped: str
) -> None:
    (drawn, *_), tasks = set_up(store, 0, 3)
    deliver(store, tasks)
    monkeypatch.setattr(voids._Voiding, skipped, lambda *_, **__: None)
    void(store, drawn.order_id, **EVERYTHING)
    assert red(store)


# --- several databases --------------------------------------------------------------------------------------------


@pytest.fixture(params=[layout for layout in LAYOUTS if layout != "sqlite-8"])
def world(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[World]:
    with laid_out(request.param, tmp_path, databases) as settings, world_of(settings) as running:
        yield running


def winner_of(world: World, names: list[str]) -> str:
    """The order id of the one car."""
    for name in names:
        draw(world, name)
    orders = []
    for shard in world.stores.shards:
        with shard.reading() as connection:
            orders += connection.execute(text("SELECT order_id FROM user_award_record WHERE award_id = 4")).scalars()
    (order_id,) = orders
    return order_id


def test_a_unit_that_came_back_is_won_by_a_user_of_another_shard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(escrow, "LOOK_AGAIN_SECONDS", 0.2)
    arm(world, cars(1))
    here, there = users(world, 0, 1), users(world, 1, 1)
    bring(world, 0, 1)
    order_id = winner_of(world, [*here, *there])
    assert draw(world, there[0]) == POINTS  # known to be sold out there
    assert world.void(VoidAsked(order_id, "a mistake", stock=True, quota=True)).stock_returned
    assert not broken(world.stores)
    deadline = time.monotonic() + 10
    while (won := draw(world, there[0])) != CAR and time.monotonic() < deadline:
        time.sleep(0.1)
    assert won == CAR
    assert draw(world, here[0]) == POINTS
    assert not broken(world.stores)
    world.arm(1)
    assert not broken(world.stores)
    assert draw(world, there[0]) == POINTS


def test_a_unit_that_came_back_moves_and_is_armed_like_any_other(world: World) -> None:
    arm(world, cars(2))
    names = [*users(world, 0, 1), *users(world, 1, 1)]
    bring(world, 1, 2)
    draw(world, names[1])
    draw(world, names[1])
    with world.stores.shards[1].reading() as connection:
        first, _ = connection.execute(text("SELECT order_id FROM user_award_record WHERE award_id = 4")).scalars()
    world.void(VoidAsked(first, "a mistake", stock=True))
    for stock in (2, 1, None, 2, 3):  # 1: one is won and stays so
        arm(world, cars(stock))
        assert not broken(world.stores), stock
    assert [draw(world, names[0]) for _ in range(3)] == [CAR, CAR, POINTS]
    assert not broken(world.stores)
    with pytest.raises(ConfigurationInvalid):
        arm(world, cars(2))


def test_whoever_draws_meanwhile_is_not_held_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking again runs beside the draws, once at a time."""
    arm(world, cars(0))
    (name,) = users(world, 0, 1)
    looks = []
    looking = threading.Event()

    def look_again() -> None:
        looks.append(1)
        looking.wait(2 * WAIT)

    assert world.escrow is not None
    assert draw(world, name) == POINTS
    monkeypatch.setattr(world.escrow, "_look_again", look_again)
    monkeypatch.setattr(escrow, "LOOK_AGAIN_SECONDS", 0.0)
    try:
        assert [draw(world, name) for _ in range(3)] == [POINTS] * 3, "before WAIT is over, while somebody looks"
        assert len(looks) == 1
    finally:
        looking.set()
