"""Orders that are placed now and paid later, and credits that somebody outside moves, on every engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from bigmarket.activity.exchange import Exchanged
from bigmarket.bus.in_process import InProcessBus
from bigmarket.credit.message import CREDIT_ADJUST_SUCCESS
from bigmarket.credit.model import CreditAccountClosed, CreditShort
from bigmarket.errors import (
    ActivityClosed,
    BadInput,
    BigmarketError,
    Contention,
    Duplicate,
    NotFound,
    SkuSoldOut,
    Trouble,
)
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.jobs.expiry import Expiry
from bigmarket.storage.adjusting import set_status
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import examine
from bigmarket.storage.queries import account_of, credit_account_of
from databases import Databases, open_store, split_of
from purchases import (
    FEW,
    FEW_UNITS,
    GIFT,
    MINUTE,
    PLENTY,
    PRICE,
    earn,
    exchange,
    placed,
    shop,
    trade,
)
from support import NOON, assert_healthy, count, facts, install

T = TypeVar("T")
LATER = NOON + 15 * MINUTE
ROUNDS = 12


@pytest.fixture
def store(store: Store) -> Store:
    install(store, shop())
    return store


def balance(store: Store, user_id: str = "ann") -> int:
    with store.reading() as connection:
        found = credit_account_of(connection, user_id)
    return found.available_cents if found else 0


def draws(store: Store, user_id: str = "ann") -> int:
    with store.reading() as connection:
        found = account_of(connection, user_id, 1)
    return found.total_left if found else 0


def sold(store: Store, sku: int = PLENTY) -> int:
    return count(store, f"SELECT sold FROM sku_stock WHERE sku = {sku}")


def states(store: Store) -> list[str]:
    with store.reading() as connection:
        rows = connection.execute(text("SELECT state FROM raffle_activity_order ORDER BY state"))
        return list(rows.scalars())


def relayed(store: Store) -> None:
    """Deliver every task."""
    bus = InProcessBus(store, CONSUMERS, now_ms=lambda: NOON, facts=facts(store))
    while tasks := store.due_tasks(NOON, limit=50):
        bus.deliver(tasks)


def expired(store: Store, *, now_ms: int = LATER) -> int:
    return Expiry([store], facts=facts(store), now_ms=lambda: now_ms).run()


# --- placing and expiry -------------------------------------------------------------------------------------------


def test_a_placed_order_holds_a_unit_and_gives_nothing_yet(store: Store) -> None:
    order = placed(store)
    assert (order.state, order.pay_cents, order.repeated) == ("wait_pay", PRICE, False)
    assert (sold(store), draws(store)) == (1, 0)
    assert placed(store).order_id == order.order_id
    other = placed(store, no="order-2")
    assert (other.order_id, other.repeated, other.out_business_no) == (order.order_id, True, "order-1")
    assert sold(store) == 1
    assert placed(store, sku=FEW, no="order-3").order_id != order.order_id
    with pytest.raises(Duplicate):
        placed(store, "bob" if store.split.suffix_of("bob") == store.split.suffix_of("ann") else "ann", sku=FEW)
    assert_healthy(store)


def test_what_cannot_be_bought_cannot_be_ordered(store: Store) -> None:
    for number in range(FEW_UNITS):
        placed(store, f"u{number}", sku=FEW, no=f"few-{number}")
    for sku, refusal in ((FEW, SkuSoldOut), (GIFT, BadInput), (99, NotFound), (0, BadInput)):
        with pytest.raises(refusal):
            placed(store, sku=sku)
    trade(store, "ann", 500, no="used")
    with pytest.raises(Duplicate):
        placed(store, no="used")
    install(store, shop().model_copy(update={"activity": shop().activity.model_copy(update={"state": "close"})}))
    with pytest.raises(ActivityClosed):
        placed(store)
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == FEW_UNITS
    assert_healthy(store)


def test_an_unpaid_order_expires_and_its_unit_comes_back(store: Store) -> None:
    placed(store)
    placed(store, "bob", no="order-2", minutes=60)
    assert expired(store, now_ms=LATER - 1) == 0
    assert expired(store) == 1
    assert (sold(store), states(store)) == (1, ["expired", "wait_pay"])
    assert placed(store).state == "expired"  # the number is used up
    assert placed(store, no="order-3").state == "wait_pay"
    earn(store, "ann", PRICE)
    assert isinstance(exchange(store, ("ann", PLENTY, None))[0], Exchanged)
    assert_healthy(store)


def test_many_orders_expire_in_one_run(store: Store) -> None:
    for number in range(230):
        placed(store, f"u{number}", no=f"order-{number}")
    assert expired(store) == 230
    assert sold(store) == 0
    assert_healthy(store)


def test_a_shard_that_is_down_keeps_no_other_from_expiring(store: Store) -> None:
    class Down:
        def reading(self) -> Any:
            raise Trouble("the database does not answer")

    placed(store)
    down: Any = Down()
    with pytest.raises(Trouble):
        Expiry([down, store], facts=facts(store), now_ms=lambda: LATER).run()
    assert states(store) == ["expired"]


# --- paying by a trade from outside -------------------------------------------------------------------------------


def test_a_trade_with_the_orders_number_pays_it(store: Store) -> None:
    order = placed(store)
    earn(store, "ann", 500)
    with pytest.raises(BadInput, match=r"waits for 1\.00"):
        trade(store, "ann", -PRICE - 1, no=order.out_business_no)
    with pytest.raises(BadInput):
        trade(store, "ann", PRICE, no=order.out_business_no)
    trade(store, "ann", -PRICE, no=order.out_business_no)
    assert (balance(store), draws(store)) == (500 - PRICE, 0)
    assert_healthy(store)
    relayed(store)
    assert (balance(store), draws(store), sold(store)) == (500 - PRICE, 10, 1)
    trade(store, "ann", -PRICE, no=order.out_business_no)
    relayed(store)
    assert (balance(store), draws(store)) == (500 - PRICE, 10)
    assert placed(store).state == "completed"
    assert_healthy(store)


def test_a_number_is_one_orders_only(store: Store) -> None:
    order = placed(store)
    other = next(name for name in map(str, range(99)) if store.split.suffix_of(name) == store.split.suffix_of("ann"))
    for user in ("ann", other):
        earn(store, user, 500)
    with pytest.raises(Duplicate, match="another user's"):
        trade(store, other, -PRICE, no=order.out_business_no)
    assert expired(store) == 1
    for cents in (PRICE, -PRICE):
        with pytest.raises(Duplicate, match="expired"):
            trade(store, "ann", cents, no=order.out_business_no)
    assert (balance(store), balance(store, other)) == (500, 500)
    assert_healthy(store)


def test_an_order_whose_payment_was_never_followed_up_is_completed_not_expired(store: Store) -> None:
    order = placed(store)
    earn(store, "ann", 500)
    trade(store, "ann", -PRICE, no=order.out_business_no)
    store.finish_tasks([task.message_id for task in store.due_tasks(NOON, limit=9)])  # lost
    assert [finding.name for finding in examine(store, now_ms=LATER) if not finding.ok] == ["C2"]
    assert expired(store) == 0
    assert (states(store), draws(store), sold(store)) == (["completed"], 10, 1)
    assert_healthy(store)


def test_an_exchange_does_not_pay_what_was_paid(store: Store) -> None:
    order = placed(store)
    earn(store, "ann", 500)
    trade(store, "ann", -PRICE, no=order.out_business_no)
    (fresh,) = exchange(store, ("ann", PLENTY, None))
    assert isinstance(fresh, Exchanged)
    assert fresh.order_id != order.order_id
    relayed(store)
    assert (balance(store), draws(store), sold(store)) == (500 - 2 * PRICE, 20, 2)
    assert_healthy(store)


@contextmanager
def two_processes(backend: str, databases: Databases) -> Iterator[tuple[Store, Store]]:
    with databases.url(backend) as url:
        stores = open_store(url, split=split_of(backend)), open_store(url, split=split_of(backend))
        install(stores[0], shop())
        yield stores
        for store in stores:
            store.close()


def at_once(*works: Callable[[], T]) -> list[T | BigmarketError]:
    """What each comes to, when all begin at the same moment; a lost race is tried again."""
    start = threading.Barrier(len(works))
    done: dict[int, T | BigmarketError] = {}

    def run(number: int, work: Callable[[], T]) -> None:
        start.wait()
        for _ in range(20):
            try:
                done[number] = work()
            except Contention:
                continue
            except BigmarketError as error:
                done[number] = error
            return

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[number] for number in range(len(works))]


def test_an_order_paid_in_two_ways_at_once_is_paid_once(backend: str, databases: Databases) -> None:
    with two_processes(backend, databases) as (one, two):
        for number in range(ROUNDS):
            user = f"u{number}"
            order = placed(one, user, no=f"order-{number}")
            earn(one, user, PRICE)  # enough for one payment

            def pay_outside(user: str = user, no: str = order.out_business_no) -> Any:
                return trade(one, user, -PRICE, no=no)

            def pay_inside(user: str = user) -> Any:
                return exchange(two, (user, PLENTY, None))[0]

            answers = at_once(pay_outside, pay_inside)
            assert sum(isinstance(answer, BigmarketError) for answer in answers) == 1, answers
            relayed(one)
            assert (balance(one, user), draws(one, user)) == (0, 10)
        assert sold(one) == ROUNDS
        assert_healthy(one)


def test_expiry_and_payment_at_once(backend: str, databases: Databases) -> None:
    """Whoever comes first: the user has paid and has the draws, or has neither."""
    with two_processes(backend, databases) as (one, two):
        for number in range(ROUNDS):
            user = f"u{number}"
            order = placed(one, user, no=f"order-{number}")
            earn(one, user, PRICE)

            def pay(user: str = user, no: str = order.out_business_no, outside: int = number % 2) -> Any:
                return trade(two, user, -PRICE, no=no) if outside else exchange(two, (user, PLENTY, None))[0]

            paid, _ = at_once(pay, lambda: expired(one))
            relayed(one)
            if number % 2 == 0:  # where the order is gone the exchange buys a fresh unit
                assert isinstance(paid, Exchanged)
            refused = isinstance(paid, BigmarketError)
            assert (balance(one, user), draws(one, user)) == ((PRICE, 0) if refused else (0, 10))
        assert_healthy(one, now_ms=LATER)


@pytest.mark.parametrize("first", ["expiry", "exchange", "trade"])
def test_whoever_comes_first_is_waited_for(backend: str, databases: Databases, first: str) -> None:
    with two_processes(backend, databases) as (one, two):
        order = placed(one)
        earn(one, "ann", PRICE)
        held, go = threading.Event(), threading.Event()

        class Held:
            """Holds its first transaction open until it is told to go on."""

            def __getattr__(self, name: str) -> Any:
                return getattr(two, name)

            @contextmanager
            def exchanging(self) -> Iterator[Any]:
                with two.exchanging() as tx:
                    yield tx
                    hold()

            @contextmanager
            def updating(self) -> Iterator[Any]:
                with two.updating() as connection:
                    yield connection
                    hold()

        def hold() -> None:
            held.set()
            assert go.wait(20)

        slow: Any = Held()
        works: dict[str, Callable[[Any], Any]] = {
            "expiry": expired,
            "exchange": lambda store: exchange(store, ("ann", PLENTY, None)),
            "trade": lambda store: trade(store, "ann", -PRICE, no=order.out_business_no),
        }
        others = [name for name in works if name != first] if first != "trade" else ["expiry"]
        ahead = threading.Thread(target=works[first], args=(slow,))
        ahead.start()
        assert held.wait(20)
        behind = [threading.Thread(target=lambda name=name: at_once(lambda: works[name](one))) for name in others]
        for thread in behind:
            thread.start()
        behind[0].join(0.2)
        go.set()
        for thread in (ahead, *behind):
            thread.join()
        relayed(one)
        assert (balance(one), draws(one)) == (0, 10)
        assert_healthy(one, now_ms=LATER)


# --- credits from outside -----------------------------------------------------------------------------------------


def test_credits_are_given_and_taken_once(store: Store) -> None:
    first = trade(store, "ann", 500, no="a", reason="sorry for the wait")
    again = trade(store, "ann", 500, no="a", reason="sorry for the wait")
    assert (again.order_id, again.repeated, first.repeated) == (first.order_id, True, False)
    trade(store, "ann", -200, no="b")
    assert balance(store) == 300
    for cents, reason in ((501, "sorry for the wait"), (500, "another")):
        with pytest.raises(Duplicate):
            trade(store, "ann", cents, no="a", reason=reason)
    with pytest.raises(CreditShort, match=r"3\.01 .* 3\.00 are left"):
        trade(store, "ann", -301, no="c")
    with pytest.raises(CreditShort):
        trade(store, "nobody", -1, no="d")
    with store.reading() as connection:
        rows = connection.execute(text("SELECT trade_name, trade_type, amount_cents, reason FROM user_credit_order"))
        assert sorted(tuple(row) for row in rows) == [
            ("adjust", "forward", 500, "sorry for the wait"),
            ("adjust", "reverse", -200, "test"),
        ]
    tasks = store.due_tasks(NOON, limit=9)
    assert {task.topic for task in tasks} == {CREDIT_ADJUST_SUCCESS}
    assert tasks[1].message == (
        b'{"userId":"ann","orderId":"%s","amount":-2.00,"outBusinessNo":"b"}' % tasks[1].message_id.encode()
    )
    relayed(store)
    assert_healthy(store)


@pytest.mark.parametrize("bad", [{"cents": 0}, {"cents": 10**12 + 1}, {"reason": " "}, {"no": ""}, {"no": "x" * 129}])
def test_what_cannot_be_read_moves_nothing(store: Store, bad: dict[str, Any]) -> None:
    asked = {"cents": 100, "no": "a", "reason": "test", **bad}
    with pytest.raises(BadInput):
        trade(store, "ann", asked["cents"], no=asked["no"], reason=asked["reason"])
    assert balance(store) == 0


def test_a_closed_account_neither_gains_nor_loses(store: Store) -> None:
    with pytest.raises(NotFound), store.updating() as connection:
        set_status(connection, "ann", status="close")
    trade(store, "ann", 500, no="a")
    with store.updating() as connection:
        set_status(connection, "ann", status="close")
    for cents in (100, -100):
        with pytest.raises(CreditAccountClosed):
            trade(store, "ann", cents, no=f"b{cents}")
    assert trade(store, "ann", 500, no="a").repeated
    assert balance(store) == 500
    with store.updating() as connection:
        set_status(connection, "ann", status="open")
    trade(store, "ann", -100, no="c")
    assert_healthy(store)


def test_no_more_is_taken_at_once_than_there_is(backend: str, databases: Databases) -> None:
    with two_processes(backend, databases) as stores:
        earn(stores[0], "ann", 500)
        takings = [lambda n=n: trade(stores[n % 2], "ann", -100, no=f"t{n}") for n in range(12)]
        answers = at_once(*takings)
        assert sum(isinstance(answer, CreditShort) for answer in answers) == 7
        assert balance(stores[0]) == 0
        assert_healthy(stores[0])


def test_two_hundred_repeats_move_credits_once(backend: str, databases: Databases) -> None:
    with two_processes(backend, databases) as stores:
        repeats = [lambda n=n: [trade(stores[n % 2], "ann", 100, no="one") for _ in range(20)] for n in range(10)]
        answers = at_once(*repeats)
        assert not [answer for answer in answers if isinstance(answer, BigmarketError)]
        assert balance(stores[0]) == 100
        assert_healthy(stores[0])
