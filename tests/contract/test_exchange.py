"""Exchanges on every engine: the payment, the order and the draws come together, once, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text

from bigmarket.activity.exchange import Exchanged
from bigmarket.credit.model import CreditAccountClosed, CreditShort
from bigmarket.errors import BigmarketError, Contention, Duplicate, OutcomeUnknown, SkuSoldOut, Trouble
from bigmarket.storage.adjusting import set_status
from bigmarket.storage.contract import Store
from bigmarket.storage.queries import account_of, credit_account_of
from databases import Databases, open_store, split_of
from purchases import FEW, FEW_PRICE, FEW_UNITS, PLENTY, PRICE, WAIT, earn, exchange, lanes_on, placed, shop, submit
from support import assert_healthy, count, give, install


@pytest.fixture
def store(store: Store) -> Store:
    install(store, shop())
    return store


def bought(answers: list[Exchanged | BigmarketError]) -> list[Exchanged]:
    return [answer for answer in answers if isinstance(answer, Exchanged) and not answer.repeated]


def balance(store: Store, user_id: str = "ann") -> int:
    with store.reading() as connection:
        found = credit_account_of(connection, user_id)
    return found.available_cents if found else 0


def draws(store: Store, user_id: str = "ann") -> int:
    with store.reading() as connection:
        found = account_of(connection, user_id, 1)
    return found.total_left if found else 0


def test_a_unit_is_paid_and_its_draws_are_there(store: Store) -> None:
    earn(store, "ann", 1_000)
    (answer,) = exchange(store, ("ann", PLENTY, "r1"))
    assert isinstance(answer, Exchanged)
    assert (answer.sku, answer.activity_id, answer.pay_cents, answer.repeated) == (PLENTY, 1, PRICE, False)
    assert (balance(store), draws(store)) == (1_000 - PRICE, answer.counts.total)
    with store.reading() as connection:
        trade = connection.execute(text("SELECT * FROM user_credit_order WHERE trade_name = 'exchange'")).one()
        order = connection.execute(text("SELECT * FROM raffle_activity_order")).one()
    assert (trade.order_id, trade.out_business_no, trade.trade_type, trade.amount_cents) == (
        answer.order_id, "exchange_3_ann_r1", "reverse", -PRICE,
    )  # fmt: skip
    assert (order.order_id, order.out_business_no, order.state, order.pay_cents) == (
        answer.order_id, "exchange_3_ann_r1", "completed", PRICE,
    )  # fmt: skip
    assert_healthy(store)


def test_fifty_at_once_with_credit_for_ten_get_exactly_ten(store: Store) -> None:
    earn(store, "ann", 10 * PRICE + PRICE - 1)
    answers = exchange(store, *[("ann", PLENTY, None)] * 50)
    assert len(bought(answers)) == 10
    assert {type(answer) for answer in answers if not isinstance(answer, Exchanged)} == {CreditShort}
    assert (balance(store), draws(store)) == (PRICE - 1, 100)
    assert_healthy(store)


@contextmanager
def two_processes(backend: str, databases: Databases) -> Iterator[tuple[Store, Store]]:
    """Two stores on one database, which share nothing but that."""
    with databases.url(backend) as url:
        stores = open_store(url, split=split_of(backend)), open_store(url, split=split_of(backend))
        install(stores[0], shop())
        yield stores
        for store in stores:
            store.close()


def race(stores: tuple[Store, Store], asked: list[tuple[str, int, str | None]]) -> list[Exchanged | BigmarketError]:
    """Half of the requests each, at the same time; what was in the way is asked again."""
    lanes = [lanes_on(store) for store in stores]
    for one in lanes:
        one.start()
    answers: list[Exchanged | BigmarketError] = []
    waiting = list(asked)
    for _ in range(20):
        futures = [submit(lanes[number], waiting[number::2]) for number in (0, 1)]
        given = [
            (one, future.result(WAIT)) for n in (0, 1) for one, future in zip(waiting[n::2], futures[n], strict=True)
        ]
        answers += [answer for _, answer in given if not isinstance(answer, Contention)]
        waiting = [one for one, answer in given if isinstance(answer, Contention)]
        if not waiting:
            break
    assert all(one.stop(timeout_seconds=WAIT) for one in lanes)
    assert not waiting
    return answers


def test_two_processes_spend_no_credit_twice(backend: str, databases: Databases) -> None:
    with two_processes(backend, databases) as stores:
        earn(stores[0], "ann", 10 * PRICE)
        answers = race(stores, [("ann", PLENTY, None)] * 50)
        assert len(bought(answers)) == 10
        assert (balance(stores[0]), draws(stores[0])) == (0, 100)
        assert_healthy(stores[0])


def test_two_hundred_duplicates_buy_once(backend: str, databases: Databases) -> None:
    with two_processes(backend, databases) as stores:
        earn(stores[0], "ann", 1_000)
        answers = race(stores, [("ann", PLENTY, "the same")] * 200)
        assert len(bought(answers)) == 1
        assert len({answer.order_id for answer in answers if isinstance(answer, Exchanged)}) == 1
        assert len(answers) == 200
        assert balance(stores[0]) == 1_000 - PRICE
        assert_healthy(stores[0])


def test_the_last_units_are_sold_once(backend: str, databases: Databases) -> None:
    users = [f"u{n}" for n in range(20)]
    with two_processes(backend, databases) as stores:
        for user in users:
            earn(stores[0], user, 1_000)
        answers = race(stores, [(user, FEW, None) for user in users])
        assert len(bought(answers)) == FEW_UNITS
        assert {type(answer) for answer in answers if not isinstance(answer, Exchanged)} == {SkuSoldOut}
        assert sum(balance(stores[0], user) for user in users) == 1_000 * len(users) - FEW_UNITS * FEW_PRICE
        assert count(stores[0], "SELECT COUNT(*) FROM task WHERE topic = 'activity_sku_stock_zero'") == 1
        assert_healthy(stores[0])


def test_many_users_share_a_transaction(store: Store) -> None:
    users = [f"u{n:03}" for n in range(100)]
    give(store, *users[:50])
    for user in users:
        earn(store, user, 500)
    answers = exchange(store, *[(user, sku, None) for user in users for sku in (PLENTY, PLENTY, FEW)])
    assert len([answer for answer in bought(answers) if answer.sku == PLENTY]) == 200
    assert_healthy(store)


def test_a_request_id_belongs_to_one_exchange(store: Store) -> None:
    earn(store, "ann", 1_000)
    first, again, other = exchange(store, ("ann", PLENTY, "r"), ("ann", PLENTY, "r"), ("ann", FEW, "r"))
    assert isinstance(first, Exchanged)
    assert again == first._replace(repeated=True)
    assert isinstance(other, Duplicate)
    later = exchange(store, ("ann", PLENTY, "r"), ("ann", FEW, "r"), ("bob", PLENTY, "r"))
    assert later[0] == first._replace(repeated=True)
    assert isinstance(later[1], Duplicate)
    assert isinstance(later[2], CreditShort)
    assert balance(store) == 1_000 - PRICE
    assert_healthy(store)


def test_long_names_have_numbers_too(store: Store) -> None:
    user, request = "\u4eba" * 128, "r" * 64
    earn(store, user, 1_000)
    first, again = exchange(store, (user, PLENTY, request), (user, PLENTY, request))
    assert isinstance(first, Exchanged)
    assert isinstance(again, Exchanged)
    assert exchange(store, (user, PLENTY, request)) == [first._replace(repeated=True)]
    assert_healthy(store)


def test_a_closed_account_pays_nothing(store: Store) -> None:
    earn(store, "ann", 1_000)
    with store.updating() as connection:
        set_status(connection, "ann", status="close")
    assert [type(answer) for answer in exchange(store, ("ann", PLENTY, None))] == [CreditAccountClosed]
    with store.updating() as connection:
        set_status(connection, "ann", status="open")
    assert len(bought(exchange(store, ("ann", PLENTY, None)))) == 1
    assert_healthy(store)


def test_a_waiting_order_is_paid_by_the_next_exchange(store: Store) -> None:
    order = placed(store)
    earn(store, "ann", 1_000)
    first, second = exchange(store, ("ann", PLENTY, "r1"), ("ann", PLENTY, "r2"))
    assert isinstance(first, Exchanged)
    assert isinstance(second, Exchanged)
    assert first.order_id == order.order_id != second.order_id
    assert exchange(store, ("ann", PLENTY, "r1")) == [first._replace(repeated=True)]
    assert count(store, "SELECT COUNT(*) FROM unpaid_order") == 0
    assert count(store, f"SELECT sold FROM sku_stock WHERE sku = {PLENTY}") == 2
    assert (balance(store), draws(store)) == (1_000 - 2 * PRICE, 20)
    assert_healthy(store)


def test_the_last_unit_may_be_ones_own_waiting_order(store: Store) -> None:
    for number in range(FEW_UNITS):
        placed(store, f"u{number}", sku=FEW, no=f"order-{number}")
    for user in ("u0", "ann"):
        earn(store, user, 1_000)
    mine, none_left = exchange(store, ("u0", FEW, None), ("ann", FEW, None))
    assert isinstance(mine, Exchanged)
    assert isinstance(none_left, SkuSoldOut)
    assert_healthy(store)


class _Dies(BaseException):
    """The process ends here."""


class _Killed:
    """A store whose exchange transaction ends after ``steps`` statements that write."""

    def __init__(self, store: Any, steps: int) -> None:
        self._store = store
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def exchanging(self) -> Iterator[Any]:
        with self._store.exchanging() as tx:
            bulk, left = tx._bulk, [self._steps]

            class Counted:
                select = staticmethod(bulk.select)

                @staticmethod
                def write(template: str, rows: Any) -> int:
                    if rows and left[0] == 0:
                        raise _Dies
                    left[0] -= bool(rows)
                    return int(bulk.write(template, rows))

            tx._bulk = Counted
            yield tx
            raise _Dies  # before the commit, at the latest


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("steps", range(6))
def test_a_crash_anywhere_leaves_nothing(store: Store, steps: int, waiting: bool) -> None:
    earn(store, "ann", 1_000)
    if waiting:
        placed(store)
    desk_lanes = lanes_on(_Killed(store, steps))
    desk = desk_lanes.lanes[0]._desk
    with pytest.raises(_Dies), desk.open() as tx:
        desk.serve(
            tx,
            [desk.request("01ARZ3NDEKTSV4RRFFQ69G5FAV", "ann", PLENTY, "r1")],
            now_ms=desk_lanes.lanes[0]._now_ms(),
        )
    assert (balance(store), draws(store)) == (1_000, 0)
    assert count(store, "SELECT COUNT(*) FROM user_credit_order WHERE trade_name = 'exchange'") == 0
    assert_healthy(store)
    assert len(bought(exchange(store, ("ann", PLENTY, "r1")))) == 1
    assert_healthy(store)


class _LosesTheAnswer:
    """A store whose commit is done, or not, and that does not say which."""

    def __init__(self, store: Any, *, done: bool) -> None:
        self._store = store
        self._done = done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def exchanging(self) -> Iterator[Any]:
        if self._done:
            with self._store.exchanging() as tx:
                yield tx
        else:
            with pytest.raises(_Dies), self._store.exchanging() as tx:
                yield tx
                raise _Dies
        raise OutcomeUnknown("the connection was lost")


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("done", [True, False])
def test_a_commit_of_unknown_fate_is_looked_up(store: Store, done: bool, waiting: bool) -> None:
    earn(store, "ann", 1_000)
    if waiting:
        placed(store)
    (answer,) = exchange(_LosesTheAnswer(store, done=done), ("ann", PLENTY, "r1"))
    assert isinstance(answer, Exchanged if done else Trouble)
    assert balance(store) == 1_000 - (PRICE if done else 0)
    (again,) = exchange(store, ("ann", PLENTY, "r1"))
    assert isinstance(again, Exchanged)
    assert again.repeated == done
    assert balance(store) == 1_000 - PRICE
    assert_healthy(store)


def test_exchanges_and_credits_of_one_user_at_once(backend: str, databases: Databases) -> None:
    """Points come in while others go out; the balance is what the orders say."""
    with two_processes(backend, databases) as stores:
        earn(stores[0], "ann", PRICE)

        def earn_more() -> None:
            for _ in range(20):
                for _ in range(20):
                    try:
                        earn(stores[1], "ann", PRICE)
                    except Contention:
                        continue
                    break

        thread = threading.Thread(target=earn_more)
        thread.start()
        lanes = lanes_on(stores[0])
        lanes.start()
        made = 0
        while thread.is_alive():
            made += len(bought([f.result(WAIT) for f in submit(lanes, [("ann", PLENTY, None)] * 3)]))
        thread.join()
        made += len(bought([f.result(WAIT) for f in submit(lanes, [("ann", PLENTY, None)] * 30)]))
        assert lanes.stop(timeout_seconds=WAIT)
        assert made == 21
        assert balance(stores[0]) == 0
        assert_healthy(stores[0])
