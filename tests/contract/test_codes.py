"""Each code is won once, by one winner, whatever happens between its reservation and its delivery."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import text, update

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import KIND_CHECKS
from bigmarket.award.deliveries import ATTEMPTS_MAX, BACKOFF_SECONDS, Attempt, Fulfilled, Unfulfilled
from bigmarket.award.void import VoidAsked
from bigmarket.bus.in_process import InProcessBus
from bigmarket.draw import DrawRequest, draw_batch
from bigmarket.errors import BadInput, Contention
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.jobs.dispatcher import Dispatcher
from bigmarket.storage import codes as codes_module
from bigmarket.storage import schema as t
from bigmarket.storage import voids
from bigmarket.storage.campaigns import Armed, load_live
from bigmarket.storage.codes import CodeFulfiller, Pool, Uploaded, pools, reserve_code, upload_codes
from bigmarket.storage.contract import Store
from bigmarket.storage.deliveries import due_deliveries, settle_deliveries
from bigmarket.storage.doctor import examine
from bigmarket.storage.installation import whole
from databases import Databases, open_store, split_of
from sharded import CARS
from support import IDS, NOON, assert_healthy, count, facts, give, install


def set_up(store: Store, *, stock: int = 50) -> Armed:
    """The car is a code of the pool `cars`."""
    told = CARS.replace("STOCK", f"stock: {stock},").replace("SKUS_LEFT", "9").replace("TREE", "stocked")
    campaign = told.replace("{award_id: 4, kind: physical}", "{award_id: 4, kind: code, config: cars}")
    armed = install(store, parse_campaign(campaign, kinds=KIND_CHECKS))
    give(store, "ann")
    return armed


def upload(store: Store, *codes: str, now_ms: int = NOON) -> Uploaded:
    return upload_codes(whole(store), "cars", codes, now_ms=now_ms)


def win(store: Store, number: int) -> list[str]:
    """Order ids of so many codes that were won, whose deliveries are written down."""
    with store.reading() as connection:
        live = load_live(connection, {})
    with store.drawing() as tx:
        requests = [DrawRequest(IDS.make(NOON), "ann", 1, None) for _ in range(number)]
        tasks = draw_batch(tx, requests, live=live, now_ms=NOON).tasks
    InProcessBus(store, CONSUMERS, now_ms=lambda: NOON, facts=facts(store)).deliver(tasks)
    return [task.message_id for task in tasks]


@contextmanager
def dispatching(store: Store, now_ms: Callable[[], int] = lambda: NOON) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(store, {"code": CodeFulfiller(store)}, now_ms=now_ms)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        assert dispatcher.stop(timeout_seconds=10)


def wait_for(store: Store, state: str, number: int) -> None:
    deadline = time.monotonic() + 15
    while (found := count(store, f"SELECT COUNT(*) FROM award_delivery WHERE state = '{state}'")) != number:
        assert time.monotonic() < deadline, (found, number)
        time.sleep(0.02)


def reserve(store: Store, order_id: str) -> str | None:
    with store.updating() as connection:
        return reserve_code(connection, pool="cars", order_id=order_id, now_ms=NOON)


def red(store: Store) -> set[str]:
    return {finding.name for finding in examine(store, now_ms=NOON) if not finding.ok}


# --- winning ------------------------------------------------------------------------------------------------------


def test_each_winner_gets_a_code_of_their_own(store: Store) -> None:
    set_up(store)
    upload(store, "a", "b", "c", "d")
    orders = win(store, 3)
    with dispatching(store):
        wait_for(store, "done", 3)
    with store.reading() as connection:
        given = connection.execute(text("SELECT order_id, result FROM award_delivery")).tuples().all()
        taken = connection.execute(text("SELECT order_id, code FROM redemption_code WHERE order_id IS NOT NULL"))
        assert sorted((order, f'{{"code": "{code}"}}') for order, code in taken) == sorted(given)
    assert sorted(order for order, _ in given) == sorted(orders)
    assert count(store, "SELECT COUNT(*) FROM user_award_record WHERE award_state = 'completed'") == 3
    assert pools(whole(store)) == [Pool("cars", 1, 3)]
    assert_healthy(store)


def test_an_order_keeps_the_code_that_was_reserved_for_it(store: Store) -> None:
    """As after a crash between the reservation and the delivery."""
    set_up(store)
    upload(store, "b", "a")
    win(store, 1)
    with store.reading() as connection:
        (delivery,) = due_deliveries(connection, now_ms=NOON, places=None, limit=9)
    fulfil = CodeFulfiller(store)
    assert fulfil(delivery, now_ms=NOON) == fulfil(delivery, now_ms=NOON) == Fulfilled({"code": "a"})
    assert_healthy(store)
    with dispatching(store):
        wait_for(store, "done", 1)
    assert count(store, "SELECT COUNT(*) FROM redemption_code WHERE order_id IS NOT NULL") == 1
    assert_healthy(store)


def test_an_empty_pool_keeps_winners_waiting_until_it_is_filled(store: Store) -> None:
    set_up(store)
    now = NOON
    win(store, 3)
    with dispatching(store, lambda: now):
        for _ in range(ATTEMPTS_MAX):
            deadline = time.monotonic() + 15
            tried = count(store, "SELECT COUNT(*) FROM delivery_attempt") // 3 + 1
            while count(store, "SELECT COUNT(*) FROM delivery_attempt") < 3 * tried and time.monotonic() < deadline:
                time.sleep(0.02)
            now += BACKOFF_SECONDS[-1] * 2_000
        wait_for(store, "parked", 3)
        assert count(store, "SELECT COUNT(*) FROM award_delivery WHERE reason LIKE 'The pool cars has no code%'") == 3
        assert pools(whole(store)) == [Pool("cars", 0, 0, waiting=3)]
        upload(store, "a", "b", now_ms=now)
        wait_for(store, "done", 2)
        wait_for(store, "due", 1)
        upload(store, "a", "b", "c", now_ms=now)
        wait_for(store, "done", 3)
    assert_healthy(store, now_ms=now)


@pytest.fixture
def two_stores(backend: str, databases: Databases) -> Iterator[tuple[Store, Store]]:
    """As two processes have them."""
    with databases.url(backend) as url:
        opened = [open_store(url, split=split_of(backend)) for _ in range(2)]
        try:
            yield opened[0], opened[1]
        finally:
            for one in opened:
                one.close()


def test_the_last_codes_are_given_once_when_two_processes_want_them(two_stores: tuple[Store, Store]) -> None:
    upload(two_stores[0], *(f"c{number}" for number in range(7)))
    orders = [IDS.make(NOON) for _ in range(10)]

    def take(number: int) -> str | None:
        for _ in range(200):
            try:
                return reserve(two_stores[number % 2], orders[number % 10])
            except Contention:
                time.sleep(0.005)
        raise AssertionError("contention without end")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(take, range(20)))  # each order twice, once by each process at most
    by_order = {order: {found[n], found[n + 10]} for n, order in enumerate(orders)}
    given = [code for codes in by_order.values() for code in codes if code is not None]
    assert sorted(given) == [f"c{number}" for number in range(7)]
    assert all(len(codes - {None}) <= 1 for codes in by_order.values())


def test_a_code_of_a_voided_award_is_never_given_again(store: Store) -> None:
    set_up(store)
    upload(store, "a", "b")
    seen, unseen = win(store, 2)
    with store.reading() as connection:
        deliveries = {one.order_id: one for one in due_deliveries(connection, now_ms=NOON, places=None, limit=9)}
    answers = {order: CodeFulfiller(store)(deliveries[order], now_ms=NOON) for order in (seen, unseen)}
    with store.updating() as connection:
        settle_deliveries(connection, [Attempt(deliveries[seen], answers[seen], NOON, 1)], split=store.split)
    for order in (seen, unseen):
        asked = VoidAsked(order, "a mistake", stock=True)
        voids.void_award(whole(store), asked, user_id=None, now_ms=NOON, new_id=IDS.make)
    with store.updating() as connection:
        settle_deliveries(connection, [Attempt(deliveries[unseen], answers[unseen], NOON, 1)], split=store.split)
    assert count(store, "SELECT COUNT(*) FROM award_delivery WHERE state = 'void'") == 2
    assert CodeFulfiller(store)(deliveries[seen]._replace(order_id=IDS.make(NOON)), now_ms=NOON) == Unfulfilled(
        "The pool cars has no code left; upload more."
    )
    assert_healthy(store)


# --- filling a pool -----------------------------------------------------------------------------------------------


def test_an_upload_counts_what_is_new_there_or_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "BATCH", 3)
    assert upload(store, "a", " b \n", "", "a", "c", "d", "b") == Uploaded(4, 0, 2, (4, 7))
    assert upload(store, "e", "a", "b", "c", "d", "A", now_ms=NOON + 1) == Uploaded(2, 4)
    assert reserve(store, IDS.make(NOON)) == "A"
    assert upload(store, "A", "e", now_ms=NOON + 2) == Uploaded(0, 2)
    assert pools(whole(store)) == [Pool("cars", 5, 1)]


def test_a_line_that_is_no_code_is_told_by_its_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "BATCH", 2)
    with pytest.raises(BadInput, match="Line 3: the code must have at most 128"):
        upload(store, "a", "b", "c" * 129)
    assert upload(store, "a", "b", "c", now_ms=NOON + 1) == Uploaded(1, 2)


def test_the_same_codes_uploaded_at_once_are_there_once(two_stores: tuple[Store, Store]) -> None:
    codes = [f"c{number:04}" for number in range(1_200)]

    def run(number: int) -> Uploaded:
        for _ in range(20):
            with suppress(Contention):  # on a slow machine; whoever is told so repeats it
                return upload(
                    two_stores[number % 2], *(codes if number < 2 else reversed(codes)), now_ms=NOON + number
                )
        raise AssertionError("never done")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(4)))
    assert sum(one.added for one in found) <= 1_200
    assert count(two_stores[0], "SELECT COUNT(*) FROM redemption_code") == 1_200
    assert all(one.added + one.there == 1_200 and not one.duplicates for one in found)


def test_armory_warns_of_a_pool_with_too_few_codes(store: Store) -> None:
    upload(store, "a", "b")
    told = [warning.reason for warning in set_up(store, stock=3).warnings if warning.path == "awards[1].config"]
    assert told == ["pool `cars` has 2 codes, but 3 can be won"]
    assert not [warning for warning in set_up(store, stock=2).warnings if "pool" in warning.reason]


# --- teeth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NULL", f"'{'Z' * 26}'"])
def test_teeth_a_code_that_is_not_its_winners_is_seen(store: Store, value: str) -> None:
    set_up(store)
    upload(store, "a")
    win(store, 1)
    with dispatching(store):
        wait_for(store, "done", 1)
    with store.writing() as connection:
        connection.execute(text(f"UPDATE redemption_code SET order_id = {value}"))
    assert red(store) == {"M6"}


def test_teeth_without_the_guard_two_winners_have_one_code(store: Store) -> None:
    """What the order's place beside the code prevents: whoever takes it for free gives it away twice."""
    set_up(store)
    upload(store, "a")
    win(store, 2)
    with store.reading() as connection:
        first, second = due_deliveries(connection, now_ms=NOON, places=None, limit=9)
    answers = [CodeFulfiller(store)(first, now_ms=NOON)]
    with store.writing() as connection:
        connection.execute(update(t.redemption_code).values(order_id=None))
    answers.append(CodeFulfiller(store)(second, now_ms=NOON))
    assert answers == [Fulfilled({"code": "a"})] * 2
    attempts = [Attempt(one, answer, NOON, 1) for one, answer in zip((first, second), answers, strict=True)]
    with store.updating() as connection:
        settle_deliveries(connection, attempts, split=store.split)
    assert red(store) == {"M6"}
