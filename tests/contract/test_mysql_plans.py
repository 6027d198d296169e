"""Every hot statement finds its rows by a key, however many it is asked for: a scan would lock whoever else draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import insert, text

from bigmarket.activity.exchange import Exchanged, ExchangeRequest, exchange_batch
from bigmarket.activity.quota import Bundle, Counts
from bigmarket.credit.model import CreditTrade
from bigmarket.draw import Drawn, DrawRequest, Outcome, Winning, draw_batch
from bigmarket.storage import schema as t
from bigmarket.storage.bulk import Write, chunked
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.draw_tx import SqlDrawTx
from bigmarket.storage.exchange_tx import SqlExchangeTx
from bigmarket.storage.mysql_bulk import filled
from bigmarket.storage.mysql_wire import DriverWire
from databases import Databases
from support import IDS, NOON, count, install, small_campaign

ORDERS_EACH = 3
SKU = 11
KEYED = {"const", "eq_ref", "ref", "range"}
LOCKING = ("UPDATE", "DELETE", "FOR UPDATE", "LOCK IN SHARE MODE")

Plan = tuple[str, dict[str, Any]]  # a statement, and one step of how the server runs it


def user(number: int) -> str:
    return f"user-{number:05}"


def fill(store: Store, *, users: int) -> None:
    """Users with a past: used orders, one that is open, records, tasks, credits."""
    rows: dict[str, list[dict[str, object]]] = {}
    for number in range(users):
        name = user(number)
        rows.setdefault("raffle_activity_account", []).append(
            {"user_id": name, "activity_id": 1, "month": "2026-11", "day": "2026-11-20"}
            | {"open_orders": int(number % 4 == 0)}
            | {f"{period}_count{left}": 50 for period in ("total", "month", "day") for left in ("", "_surplus")}
        )
        for order in range(ORDERS_EACH):
            order_id = IDS.make(NOON - 10**9)
            state = "create" if order == 0 and number % 4 == 0 else "used"
            rows.setdefault("user_raffle_order", []).append(
                {
                    "order_id": order_id,
                    "user_id": name,
                    "activity_id": 1,
                    "order_state": state,
                    "order_day": "2026-11-19",
                    "order_time_ms": NOON,
                    "request_id": f"old-{order}" if state == "used" else None,
                }
            )
            if state == "create":
                continue
            rows.setdefault("user_award_record", []).append(
                {"order_id": order_id, "user_id": name, "activity_id": 1, "strategy_id": 9, "award_id": 1}
                | {"award_title": "points", "award_index": 1, "award_state": "create", "award_time_ms": NOON}
                | {"revision_id": "r", "epoch": 1, "trace": "1/1|all"}
            )
            rows.setdefault("task", []).append(
                {"message_id": order_id, "user_id": name, "topic": "send_award", "message": "{}", "state": "create"}
                | {"attempts": 0, "next_at_ms": NOON}
            )
            rows.setdefault("user_credit_order", []).append(
                {"order_id": order_id, "user_id": name, "trade_name": "x", "trade_type": "forward", "amount_cents": 1}
                | {"out_business_no": order_id, "create_time_ms": NOON}
            )
        for order in ("old", "waiting")[: 2 if number % 4 == 0 else 1]:
            _bought(rows, name, order)
        rows.setdefault("user_credit_account", []).append({"user_id": name, "total_cents": 3, "available_cents": 3})
    rows["award_stock"] = [{"strategy_id": 5, "award_id": number, "alloc": 5000} for number in range(users // 2)]
    with store.writing() as connection:
        for name, values in rows.items():
            connection.execute(insert(t.metadata.tables[name]), values)
    with store.writing() as connection:
        for name in rows:
            connection.execute(text(f"ANALYZE TABLE {name}")).all()


def _bought(rows: dict[str, list[dict[str, object]]], name: str, what: str) -> None:
    """An ``old`` purchase, or an order that is ``waiting``."""
    order_id = IDS.make(NOON - 10**9)
    number = f"exchange_{len(name)}_{name}_{what}"
    rows.setdefault("raffle_activity_order", []).append(
        {"order_id": order_id, "user_id": name, "activity_id": 1, "sku": SKU, "pay_cents": 1, "order_time_ms": NOON}
        | {"total_count": 1, "month_count": 1, "day_count": 1, "out_business_no": number}
        | {"state": "completed" if what == "old" else "wait_pay"}
    )
    if what == "old":
        rows["user_credit_order"].append(
            {"order_id": order_id, "user_id": name, "trade_name": "exchange", "trade_type": "reverse"}
            | {"amount_cents": -1, "out_business_no": number, "create_time_ms": NOON}
        )
    else:
        rows.setdefault("unpaid_order", []).append(
            {"user_id": name, "sku": SKU, "order_id": order_id, "out_business_no": number, "expire_at_ms": NOON}
        )


@pytest.fixture(scope="module")
def large(databases: Databases) -> Iterator[Store]:
    with databases.store("mysql") as store:
        install(store, small_campaign())
        fill(store, users=4_000)
        yield store


@pytest.fixture(scope="module", params=[5, 30, 300])
def small(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Store]:
    with databases.store("mysql") as store:
        install(store, small_campaign())
        fill(store, users=request.param)
        yield store


class Noted:
    """A wire that notes the plan of every statement, but for INSERTs, before it runs it."""

    def __init__(self, wire: Any, plans: list[Plan]) -> None:
        self._wire = wire
        self._cursor = (wire._connection if isinstance(wire, DriverWire) else wire).cursor()
        self._plans = plans

    def run(self, statements: Sequence[bytes]) -> list[Any]:
        for query in statements:
            if not query.lstrip().startswith(b"INSERT"):
                self._cursor.execute(b"EXPLAIN " + query)
                columns = [column[0] for column in self._cursor.description]
                statement = " ".join(query.decode().split())
                self._plans += [(statement, dict(zip(columns, row, strict=True))) for row in self._cursor.fetchall()]
        return self._wire.run(statements)


@contextmanager
def noted(tx: Any) -> Iterator[list[Plan]]:
    """The plans of what runs inside the block, one statement after the other."""
    plans: list[Plan] = []
    tx._bulk._wire = Noted(tx._bulk._wire, plans)
    all_of = tx._bulk.select_all

    def one_by_one(writes: Sequence[Write]) -> None:
        for write in writes:
            for part in chunked(write.rows):
                assert tx._bulk._wire.run([filled(write.template, part, write.before)]) == [len(part)]

    def each(asked: Sequence[tuple[str, Sequence[Any]]]) -> list[list[list[Any]]]:
        return [[row for part in chunked(keys) for row in all_of([(template, part)])[0]] for template, keys in asked]

    tx._bulk.finish = one_by_one
    tx._bulk.select_all = each
    yield plans


def scans(plans: Sequence[Plan]) -> list[Plan]:
    """Steps that look for rows without a key. A list that the statement itself brings (table v) is none."""
    found = []
    for statement, step in plans:
        brought = step["table"] is None or str(step["table"]).startswith("<")
        if not brought and step["type"] not in KEYED:
            found.append((f"{statement[:80]}...{statement[-30:]}", step))
    return found


def locking(plans: Sequence[Plan]) -> list[Plan]:
    return [plan for plan in plans if plan[0].startswith(LOCKING) or plan[0].endswith(LOCKING)]


def draw(store: Store, *, users: int, first: int = 0) -> list[Plan]:
    """The plans of a batch, of which every fourth user has an open order, and each repeats an old request too."""
    names = [user(number) for number in range(first, first + users)]
    with store.reading() as connection:
        live = load_live(connection, {})
    with pytest.raises(KeyError), store.drawing() as tx:
        with noted(tx) as plans:
            fresh = [DrawRequest(IDS.make(NOON), name, 1, "new") for name in names]
            repeats = [DrawRequest(IDS.make(NOON), name, 1, "old-1") for name in names]
            answers = draw_batch(tx, [*fresh, *repeats], live=live, now_ms=NOON).answers
            drawn = [answer for answer in answers if isinstance(answer, Drawn)]
            assert len(drawn) == 2 * users
            assert isinstance(tx, SqlDrawTx)
            assert len(tx.find_draws(drawn)) == 2 * users
        raise KeyError  # nothing is kept
    assert {statement.split()[0] for statement, _ in plans} == {"SELECT", "UPDATE"}
    assert len({statement for statement, _ in plans}) >= 6 + (first % 4 == 0), "one more where an order is open"
    return plans


def deliver(store: Store, *, tasks: int) -> list[Plan]:
    """The plans of a delivery, a third of it to users without a credit account."""
    due = store.due_tasks(NOON, limit=tasks)
    keys = [(task.user_id, task.message_id) for task in due]
    trades = [
        CreditTrade(IDS.make(NOON), name if number % 3 else f"new-{name}", "x", 1, f"no-{order_id}")
        for number, (name, order_id) in enumerate(keys)
    ]
    with pytest.raises(KeyError), store.delivering() as tx:
        with noted(tx) as plans:
            assert len(tx.complete_records(keys)) == len(due)
            tx.add_credits(trades, now_ms=NOON)
            tx.finish_tasks([task.message_id for task in due])
        raise KeyError
    assert {statement.split()[0] for statement, _ in plans} == {"SELECT", "UPDATE", "DELETE"}
    return plans


def buy(store: Store, *, users: int) -> list[Plan]:
    """The plans of exchanges, each with a repeat of an old one; every fourth user has an order that waits."""
    names = [user(number) for number in range(users)]
    with store.reading() as connection:
        live = load_live(connection, {})
    bundles = {SKU: Bundle(SKU, 1, Counts(1, 1, 1), 1)}
    with pytest.raises(KeyError), store.exchanging() as tx:
        with noted(tx) as plans:
            asked = [ExchangeRequest(IDS.make(NOON), name, SKU, what) for name in names for what in ("new", "old")]
            answers = exchange_batch(tx, asked, live=live, bundles=bundles, now_ms=NOON).answers
            made = [answer for answer in answers if isinstance(answer, Exchanged)]
            assert [one.repeated for one in made] == [False, True] * users
            assert isinstance(tx, SqlExchangeTx)
            assert len(tx.find_payments(made)) == 2 * users
        raise KeyError
    assert {statement.split()[0] for statement, _ in plans} == {"SELECT", "UPDATE", "DELETE"}
    return plans


def count_wins(store: Store, *, users: int) -> list[Plan]:
    """The plans of wins that are counted anew, then believed, then counted anew for another epoch."""
    keys = [(user(number), 9, award_id) for number in range(users) for award_id in (2, 3)]  # which nobody won yet
    with pytest.raises(KeyError), store.drawing() as tx:
        with noted(tx) as plans:
            for epoch, won_before in ((1, 0), (1, 1), (2, 0)):
                assert set(tx.load_wins(dict.fromkeys(keys, epoch)).values()) == {won_before}
                tx.apply(Outcome(NOON, won={key: Winning(1, 100, epoch) for key in keys}))
        raise KeyError
    assert {statement.split()[0] for statement, _ in plans} == {"SELECT", "UPDATE", "DELETE"}
    return plans


def look(store: Store, *, users: int) -> list[Plan]:
    """The plans of looks at accounts and at the units of a sku."""
    keys = [(user(number), 1) for number in range(users)]
    with store.looking() as tx, noted(tx) as plans:
        assert len(tx.accounts_of(keys)) == users
        assert set(tx.units_left([SKU, 99])) == {SKU}
    return plans


SIZES = [1, 2, 3, 64, 256]


@pytest.mark.parametrize("size", SIZES)
def test_a_draw_finds_everything_by_keys(large: Store, size: int) -> None:
    assert scans([*draw(large, users=size), *draw(large, users=size, first=1)]) == []


@pytest.mark.parametrize("size", SIZES)
def test_an_exchange_finds_everything_by_keys(large: Store, size: int) -> None:
    assert scans(buy(large, users=size)) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_delivery_finds_everything_by_keys(large: Store, size: int) -> None:
    assert scans(deliver(large, tasks=size)) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_look_finds_everything_by_keys_and_locks_nothing(large: Store, size: int) -> None:
    plans = look(large, users=size)
    assert (scans(plans), locking(plans)) == ([], [])


@pytest.mark.parametrize("size", SIZES)
def test_wins_are_counted_by_keys(large: Store, size: int) -> None:
    assert scans(count_wins(large, users=size)) == []


@pytest.mark.parametrize("size", [1, 2, 4, 25, 256])
def test_what_locks_goes_by_keys_on_small_tables_too(small: Store, size: int) -> None:
    """The server would rather read a small table as a whole, and so wait for whatever others have locked there."""
    users = min(size, count(small, "SELECT COUNT(*) FROM raffle_activity_account"))
    plans = [
        *locking(draw(small, users=users)),
        *locking(deliver(small, tasks=size)),
        *locking(count_wins(small, users=users)),
        *locking(buy(small, users=users)),
    ]
    assert len({statement for statement, _ in plans}) >= 6
    assert scans(plans) == []
