"""With a protection of exchanges switched off, the next one must refuse; with all off, doctor must go red."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from bigmarket.activity.exchange import Exchanged
from bigmarket.credit.model import CreditAccount
from bigmarket.errors import Contention, Trouble
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import examine
from databases import on_sqlite
from purchases import PLENTY, PRICE, earn, exchange, placed, shop, trade
from support import NOON, assert_healthy, count, install

Spoil = Callable[[Any], None]  # changes a transaction that has begun


@pytest.fixture
def store(store: Store) -> Store:
    install(store, shop())
    earn(store, "ann", PRICE)
    return store


class Unsafe:
    """A store whose exchanges lack something."""

    def __init__(self, store: Store, *spoil: Spoil) -> None:
        self._store = store
        self._spoil = spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def exchanging(self) -> Iterator[Any]:
        with self._store.exchanging() as tx:
            for spoil in self._spoil:
                spoil(tx)
            yield tx


def believes_there_is_more(tx: Any) -> None:
    """Reads a balance that is out of date, as without a lock."""
    load = tx.load

    def stale(requests: Sequence[Any]) -> Any:
        snapshot = load(requests)
        snapshot.accounts["ann"] = CreditAccount(100 * PRICE)
        return snapshot

    tx.load = stale


def takes_what_is_not_there(tx: Any) -> None:
    """Pays without a guard in the statement."""
    tx._own = replace(tx._own, pay=tx._own.pay.replace("a.available_cents >= v.column2", "1 = 1"))


def checks_nothing(tx: Any) -> None:
    """The database does not look at its CHECKs."""
    tx._bulk._connection.execute("COMMIT")
    tx._bulk._connection.execute("PRAGMA ignore_check_constraints = ON")
    tx._bulk._connection.execute("BEGIN IMMEDIATE")


def forgets(tx: Any) -> None:
    """Does not look for earlier purchases."""
    load = tx.load

    def forgetful(requests: Sequence[Any]) -> Any:
        snapshot = load(requests)
        snapshot.earlier.clear()
        return snapshot

    tx.load = forgetful


def pays_again(tx: Any) -> None:
    """Does not see that a waiting order was paid."""
    load = tx.load

    def blind(requests: Sequence[Any]) -> Any:
        snapshot = load(requests)
        snapshot.waiting = {key: order._replace(paid=False) for key, order in snapshot.waiting.items()}
        return snapshot

    tx.load = blind


def takes_nothing(tx: Any) -> None:
    """Does not pay."""
    tx._pay = lambda _: None


def writes_no_payment(tx: Any) -> None:
    """Neither pays nor says so."""
    tx._pay = tx._insert_trades = lambda *_, **__: None


def delivers_nothing(tx: Any) -> None:
    """Takes the payment only."""
    tx._insert_orders = tx._credit_draws = lambda *_, **__: None
    tx._take_units = lambda *_, **__: None


def takes_no_unit(tx: Any) -> None:
    """Sells without taking from the stock."""
    tx._take_units = lambda *_, **__: None


def red(store: Store) -> list[str]:
    return [finding.name for finding in examine(store, now_ms=NOON) if not finding.ok]


def test_the_statement_refuses_where_the_snapshot_was_wrong(store: Store) -> None:
    answers = exchange(Unsafe(store, believes_there_is_more), ("ann", PLENTY, None), ("ann", PLENTY, None))
    assert [type(answer) for answer in answers] == [Exchanged, Contention]  # together first, then each alone
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 1
    assert_healthy(store)


@on_sqlite
def test_the_database_refuses_where_the_statement_does_not(store: Store) -> None:
    unsafe = Unsafe(store, believes_there_is_more, takes_what_is_not_there)
    answers = exchange(unsafe, *[("ann", PLENTY, None)] * 2)
    assert sum(isinstance(answer, Exchanged) for answer in answers) == 1  # alone there was enough for it
    assert sum(isinstance(answer, Trouble) for answer in answers) == 1
    assert_healthy(store)


@on_sqlite
def test_teeth_a_balance_below_nothing_is_seen(store: Store) -> None:
    unsafe = Unsafe(store, checks_nothing, believes_there_is_more, takes_what_is_not_there)
    answers = exchange(unsafe, *[("ann", PLENTY, None)] * 2)
    assert all(isinstance(answer, Exchanged) for answer in answers)
    assert "C1" in red(store)


def test_a_forgotten_request_is_refused_by_its_number(store: Store) -> None:
    earn(store, "ann", PRICE)
    assert isinstance(exchange(store, ("ann", PLENTY, "r"))[0], Exchanged)
    (again,) = exchange(Unsafe(store, forgets), ("ann", PLENTY, "r"))
    assert isinstance(again, Trouble)
    assert_healthy(store)


def test_teeth_an_order_that_is_paid_twice_is_seen(store: Store) -> None:
    order = placed(store)
    earn(store, "ann", PRICE)
    trade(store, "ann", -PRICE, no=order.out_business_no)
    assert isinstance(exchange(Unsafe(store, pays_again), ("ann", PLENTY, None))[0], Exchanged)
    assert red(store) == ["C2"]


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (takes_nothing, ["C1"]),
        (writes_no_payment, ["C2"]),
        (delivers_nothing, ["C2"]),
        (takes_no_unit, ["S2"]),
    ],
)
def test_teeth_half_an_exchange_is_seen(store: Store, spoil: Spoil, seen: list[str]) -> None:
    assert isinstance(exchange(Unsafe(store, spoil), ("ann", PLENTY, None))[0], Exchanged)
    assert red(store) == seen


def test_the_set_up_makes_sense(store: Store) -> None:
    """The same with nothing switched off."""
    answers = exchange(Unsafe(store), ("ann", PLENTY, None), ("ann", PLENTY, None))
    assert isinstance(answers[0], Exchanged)
    assert_healthy(store)
