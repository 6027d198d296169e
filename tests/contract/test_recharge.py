"""A recharge takes one unit of a sku and credits its draws, once per ``out_business_no``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, select, text, update

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.orders import QuotaOrder, RechargeTx, recharge
from bigmarket.activity.quota import Account, Counts
from bigmarket.errors import (
    ActivityClosed,
    BadInput,
    BigmarketError,
    Contention,
    Duplicate,
    NotArmed,
    NotFound,
    OutOfWindow,
    Overloaded,
    SkuSoldOut,
)
from bigmarket.ids import Ids
from bigmarket.storage import schema as t
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from support import NOON, bundles, install, small_campaign

SHANGHAI = ZoneInfo("Asia/Shanghai")
BIG, SCARCE = 11, 12  # 1000 units of 10/10/10 draws; 5 units of 5 draws in all, 4 a month, 2 a day
SCARCE_UNITS = 5
TRIES_MAX = 20
IDS = Ids()

Live = Mapping[int, LiveActivity]


@pytest.fixture
def live(store: Store) -> Live:
    install(store, small_campaign())
    with store.reading() as connection:
        return load_live(connection, {})


def at(moment: str) -> int:
    """Epoch milliseconds of a wall-clock time in Shanghai."""
    return int(datetime.fromisoformat(moment).replace(tzinfo=SHANGHAI).timestamp() * 1000)


def give(
    store: Store,
    live: Live,
    user_id: str = "ann",
    *,
    sku: int = BIG,
    no: str = "pay-1",
    now_ms: int = NOON,
    wrap: Callable[[RechargeTx], Any] = lambda tx: tx,
) -> QuotaOrder:
    bundle_of = bundles(store)
    with store.recharging(user_id.strip()) as tx:
        return recharge(
            wrap(tx),
            user_id=user_id,
            sku=sku,
            out_business_no=no,
            now_ms=now_ms,
            order_id=IDS.make(now_ms),
            live=live,
            bundle_of=bundle_of,
        )


def account_of(store: Store, user_id: str = "ann") -> Account | None:
    table = t.raffle_activity_account
    with store.reading() as connection:
        row = connection.execute(select(table).where(table.c.user_id == user_id)).one_or_none()
    return None if row is None else Account(*row[2:-1])


def use(store: Store, draws: int, *, user_id: str = "ann") -> None:
    """Use draws without drawing."""
    c = t.raffle_activity_account.c
    with store.writing() as connection:
        connection.execute(
            update(t.raffle_activity_account)
            .where(c.user_id == user_id)
            .values(
                total_count_surplus=c.total_count_surplus - draws,
                month_count_surplus=c.month_count_surplus - draws,
                day_count_surplus=c.day_count_surplus - draws,
            )
        )


def run_all(jobs: Sequence[Callable[[], QuotaOrder]]) -> tuple[list[QuotaOrder], list[BigmarketError]]:
    """Run the jobs at the same time; what they returned and what they raised.

    As a caller does, a job tries again when every connection was in use, or when it lost a race and was rolled back.
    """
    orders: list[QuotaOrder] = []
    errors: list[BigmarketError] = []
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], QuotaOrder]) -> None:
        barrier.wait()
        for _ in range(TRIES_MAX):
            try:
                orders.append(job())
            except (Overloaded, Contention):
                continue
            except BigmarketError as error:
                errors.append(error)
            return
        raise AssertionError("never had its turn")

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return orders, errors


# --- the checker --------------------------------------------------------------------------------------------------

BROKEN = {
    "Q1 surplus out of bounds": """
        SELECT user_id FROM raffle_activity_account
        WHERE total_count_surplus NOT BETWEEN 0 AND total_count
           OR month_count_surplus NOT BETWEEN 0 AND month_count OR day_count_surplus NOT BETWEEN 0 AND day_count""",
    "Q3 credited draws without a source": """
        SELECT user_id, activity_id FROM (
            SELECT user_id, activity_id, total_count, month_count, day_count FROM raffle_activity_account
            UNION ALL SELECT user_id, activity_id, -total_count, -month_count, -day_count FROM raffle_activity_order
            WHERE state = 'completed') AS moves
        GROUP BY user_id, activity_id
        HAVING SUM(total_count) <> 0 OR SUM(month_count) <> 0 OR SUM(day_count) <> 0""",
    "S1 sold beyond alloc": "SELECT sku FROM sku_stock WHERE sold NOT BETWEEN 0 AND alloc",
    "S2 sold is not the number of orders": """
        SELECT sku FROM sku_stock
        WHERE sold <> (SELECT COUNT(*) FROM raffle_activity_order WHERE raffle_activity_order.sku = sku_stock.sku)""",
}


def broken(store: Store) -> set[str]:
    with store.reading() as connection:
        return {name for name, query in BROKEN.items() if connection.execute(text(query)).first() is not None}


def count(store: Store, query: str) -> int:
    with store.reading() as connection:
        return int(connection.execute(text(query)).scalar_one())


def assert_nothing_happened(store: Store) -> None:
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 0
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_account") == 0
    assert count(store, "SELECT SUM(sold) FROM sku_stock") == 0


# --- what a recharge does -----------------------------------------------------------------------------------------


def test_a_recharge_opens_the_account_and_takes_a_unit(store: Store, live: Live) -> None:
    order = give(store, live, sku=SCARCE)
    assert replace(order, order_id="") == QuotaOrder(
        "", "ann", 1, SCARCE, Counts(5, 4, 2), 0, "completed", "pay-1", NOON
    )
    assert account_of(store) == Account(5, 5, "2026-11", 4, 4, "2026-11-20", 2, 2)
    assert count(store, f"SELECT sold FROM sku_stock WHERE sku = {SCARCE}") == 1
    assert broken(store) == set()


def test_recharges_add_up(store: Store, live: Live) -> None:
    give(store, live, no="a")
    use(store, 3)
    give(store, live, sku=SCARCE, no="b")
    assert account_of(store) == Account(15, 12, "2026-11", 14, 11, "2026-11-20", 12, 9)
    assert broken(store) == set()


def test_a_repeat_returns_the_same_order_and_changes_nothing(store: Store, live: Live) -> None:
    first = give(store, live)
    again = give(store, live, now_ms=NOON + 86_400_000)
    assert again == replace(first, repeated=True)
    assert not first.repeated
    assert account_of(store) == Account(10, 10, "2026-11", 10, 10, "2026-11-20", 10, 10)
    assert count(store, "SELECT SUM(sold) FROM sku_stock") == 1


def test_a_repeat_is_answered_even_when_the_activity_is_over(store: Store, live: Live) -> None:
    first = give(store, live)
    assert give(store, {}) == replace(first, repeated=True)


@pytest.mark.parametrize(("user_id", "sku"), [("bob", BIG), ("ann", SCARCE)])
def test_the_same_number_for_something_else_is_a_duplicate(store: Store, live: Live, user_id: str, sku: int) -> None:
    give(store, live)
    with pytest.raises(Duplicate):
        give(store, live, user_id, sku=sku)
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 1
    assert broken(store) == set()


def test_keys_are_read_in_one_form(store: Store, live: Live) -> None:
    first = give(store, live, " ann ", no="  caf\u0065\u0301 ")
    assert (first.user_id, first.out_business_no) == ("ann", "caf\u00e9")
    assert give(store, live, no="caf\u00e9").repeated


# --- refusals, in the order of the chain --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("user_id", "  "),
        ("user_id", "x" * 129),
        ("user_id", "a\x00b"),
        ("out_business_no", ""),
        ("out_business_no", "x" * 129),
        ("sku", 0),
        ("sku", -1),
        ("sku", 2**63),
    ],
)
def test_bad_input_comes_first(store: Store, live: Live, field: str, value: str | int) -> None:
    values: dict[str, Any] = {"user_id": "ann", "sku": BIG, "out_business_no": "pay-1", field: value}
    bundle_of = bundles(store)
    with store.recharging("ann") as tx, pytest.raises(BadInput, match=field):
        recharge(tx, **values, now_ms=NOON, order_id=IDS.make(NOON), live=live, bundle_of=bundle_of)
    assert_nothing_happened(store)


def test_an_unknown_sku(store: Store, live: Live) -> None:
    with pytest.raises(NotFound, match="sku 99"):
        give(store, live, sku=99)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"state": "create"}, ActivityClosed),
        ({"state": "close", "end_ms": NOON}, ActivityClosed),
        ({"begin_ms": NOON + 1}, OutOfWindow),
        ({"end_ms": NOON, "revision": None}, OutOfWindow),
        ({"revision": None}, NotArmed),
    ],
)
def test_an_activity_that_takes_no_recharges(
    store: Store, live: Live, change: dict[str, Any], error: type[BigmarketError]
) -> None:
    with pytest.raises(error):
        give(store, {1: replace(live[1], **change)})
    assert_nothing_happened(store)


def test_an_unknown_activity(store: Store, live: Live) -> None:
    assert live
    with pytest.raises(NotFound, match="activity 1"):
        give(store, {})


def test_a_sku_whose_stock_was_never_put_up(store: Store, live: Live) -> None:
    with store.writing() as connection:
        connection.execute(delete(t.sku_stock).where(t.sku_stock.c.sku == BIG))
    with pytest.raises(NotArmed, match="armory 1"):
        give(store, live)


def test_a_sold_out_sku_spends_nothing(store: Store, live: Live) -> None:
    for n in range(SCARCE_UNITS):
        give(store, live, f"user{n}", sku=SCARCE, no=f"pay-{n}")
    with pytest.raises(SkuSoldOut):
        give(store, live, sku=SCARCE, no="one more")
    assert account_of(store) is None
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == SCARCE_UNITS
    assert give(store, live, "user0", sku=SCARCE, no="pay-0").repeated
    assert broken(store) == set()


# --- midnight and month end ---------------------------------------------------------------------------------------


def test_a_new_day_restores_the_day_before_it_is_credited(store: Store, live: Live) -> None:
    give(store, live, no="a", now_ms=at("2026-11-20 23:59:59"))
    use(store, 4)
    give(store, live, no="b", now_ms=at("2026-11-21 00:00:00"))
    assert account_of(store) == Account(20, 16, "2026-11", 20, 16, "2026-11-21", 20, 20)
    assert broken(store) == set()


def test_a_new_month_by_the_clock_of_the_activity(store: Store, live: Live) -> None:
    give(store, live, no="a", now_ms=at("2026-11-30 23:59:59"))
    use(store, 4)
    give(store, live, sku=SCARCE, no="b", now_ms=at("2026-12-01 00:00:00"))  # still November in UTC
    assert account_of(store) == Account(15, 11, "2026-12", 14, 14, "2026-12-01", 12, 12)
    assert broken(store) == set()


def test_a_clock_that_goes_back_does_not_bring_yesterday_back(store: Store, live: Live) -> None:
    give(store, live, no="a", now_ms=at("2026-12-01 00:00:00"))
    use(store, 4)
    give(store, live, no="b", now_ms=at("2026-11-30 23:59:59"))
    assert account_of(store) == Account(20, 16, "2026-12", 20, 16, "2026-12-01", 20, 16)


# --- races --------------------------------------------------------------------------------------------------------


def test_twenty_want_the_last_unit(store: Store, live: Live) -> None:
    for n in range(SCARCE_UNITS - 1):
        give(store, live, sku=SCARCE, no=f"before-{n}")
    orders, errors = run_all(
        [lambda n=n: give(store, live, f"user{n}", sku=SCARCE, no=f"pay-{n}") for n in range(20)]  # type: ignore[misc]
    )
    assert len(orders) == 1
    assert [type(error) for error in errors] == [SkuSoldOut] * 19
    assert count(store, f"SELECT sold FROM sku_stock WHERE sku = {SCARCE}") == SCARCE_UNITS
    assert count(store, "SELECT COUNT(*) FROM task WHERE topic = 'activity_sku_stock_zero'") == 1
    assert broken(store) == set()


def test_fifty_repeats_at_once_credit_once(store: Store, live: Live) -> None:
    orders, errors = run_all([lambda: give(store, live)] * 50)
    assert errors == []
    assert len({order.order_id for order in orders}) == 1
    assert sorted(order.repeated for order in orders) == [False] + [True] * 49
    assert account_of(store) == Account(10, 10, "2026-11", 10, 10, "2026-11-20", 10, 10)
    assert count(store, "SELECT SUM(sold) FROM sku_stock") == 1
    assert broken(store) == set()


def test_many_recharges_of_one_user_at_once_all_count(store: Store, live: Live) -> None:
    orders, errors = run_all([lambda n=n: give(store, live, no=f"pay-{n}") for n in range(30)])  # type: ignore[misc]
    assert (len(orders), errors) == (30, [])
    account = account_of(store)
    assert account is not None
    assert account.total_count == 300
    assert broken(store) == set()


class Around:
    """A recharge transaction, with some of its methods replaced."""

    def __init__(self, tx: RechargeTx) -> None:
        self.tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tx, name)


class LateOrder(Around):
    """Does not see the order yet that another process is about to commit."""

    asked = 0

    def find_order(self, out_business_no: str) -> QuotaOrder | None:
        self.asked += 1
        return None if self.asked == 1 else self.tx.find_order(out_business_no)


class LateAccount(Around):
    """Does not see the account yet that another process is about to open."""

    asked = 0

    def load_account(self, user_id: str, *, activity_id: int) -> Account | None:
        self.asked += 1
        return None if self.asked == 1 else self.tx.load_account(user_id, activity_id=activity_id)


class StaleAccount(Around):
    """Always sees the account as it was before another process's recharge."""

    def load_account(self, user_id: str, *, activity_id: int) -> Account | None:
        account = self.tx.load_account(user_id, activity_id=activity_id)
        assert account is not None
        account.total_count -= 1
        account.total_left -= 1
        return account


def test_a_lost_race_for_the_number_returns_the_winner(store: Store, live: Live) -> None:
    first = give(store, live)
    assert give(store, live, wrap=LateOrder) == replace(first, repeated=True)
    with pytest.raises(Duplicate):
        give(store, live, "bob", wrap=LateOrder)
    assert count(store, "SELECT SUM(sold) FROM sku_stock") == 1
    assert broken(store) == set()


def test_a_lost_race_to_open_the_account_credits_the_winner_s(store: Store, live: Live) -> None:
    give(store, live, no="a")
    give(store, live, no="b", wrap=LateAccount)
    account = account_of(store)
    assert account is not None
    assert account.total_count == 20
    assert broken(store) == set()


def test_an_account_that_keeps_changing_is_contention_and_spends_nothing(store: Store, live: Live) -> None:
    give(store, live, no="a")
    with pytest.raises(Contention):
        give(store, live, no="b", wrap=StaleAccount)
    assert count(store, "SELECT SUM(sold) FROM sku_stock") == 1
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 1
    assert broken(store) == set()


# --- crashes ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


STEPS = ("find_order", "has_stock_row", "insert_order", "load_account", "insert_account", "take_unit")


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_after_any_step_leaves_nothing_and_a_repeat_credits_once(store: Store, live: Live, step: str) -> None:
    class Dying(Around):
        def __getattr__(self, name: str) -> Any:
            method = getattr(self.tx, name)

            def run(*args: Any, **named: Any) -> Any:
                result = method(*args, **named)
                if name == step:
                    raise Killed
                return result

            return run

    with pytest.raises(Killed):
        give(store, live, wrap=Dying)
    assert_nothing_happened(store)
    assert not give(store, live).repeated
    assert give(store, live).repeated
    assert broken(store) == set()


# --- teeth: with a protection switched off, the checker must go red -----------------------------------------------


class NoStockGuard(Around):
    """Gives units without taking them."""

    def take_unit(self, order: QuotaOrder) -> bool:
        self.tx.take_unit(order)
        return True


class NoOrderKey(Around):
    """Does not notice that the number was used: every recharge is written under a number of its own."""

    def find_order(self, out_business_no: str) -> QuotaOrder | None:  # noqa: ARG002
        return None

    def insert_order(self, order: QuotaOrder) -> bool:
        return self.tx.insert_order(replace(order, out_business_no=order.order_id))


class NoAccountGuard(StaleAccount):
    """Writes an account that is out of date over the new one."""

    def update_account(self, account: Account, *, before: Account, user_id: str, activity_id: int) -> bool:
        now = self.tx.load_account(user_id, activity_id=activity_id)
        assert now is not None
        assert now != before
        return self.tx.update_account(account, before=now, user_id=user_id, activity_id=activity_id)


def test_teeth_without_the_stock_guard_more_is_ordered_than_sold(store: Store, live: Live) -> None:
    for n in range(SCARCE_UNITS + 1):
        give(store, live, f"user{n}", sku=SCARCE, no=f"pay-{n}", wrap=NoStockGuard)
    assert broken(store) == {"S2 sold is not the number of orders"}


def test_teeth_a_statement_without_guard_meets_the_constraint(store: Store, live: Live) -> None:
    for n in range(SCARCE_UNITS):
        give(store, live, f"user{n}", sku=SCARCE, no=f"pay-{n}")
    with pytest.raises(Exception, match=r"(?i)never_oversold|check"), store.writing() as connection:
        connection.execute(update(t.sku_stock).values(sold=t.sku_stock.c.sold + 1))
    assert broken(store) == set()


def test_teeth_without_the_order_key_a_repeat_credits_again(store: Store, live: Live) -> None:
    give(store, live, wrap=NoOrderKey)
    give(store, live, wrap=NoOrderKey)
    account = account_of(store)
    assert account is not None
    assert account.total_count == 20  # what test_a_repeat_returns_the_same_order forbids


def test_teeth_without_the_account_guard_an_update_is_lost(store: Store, live: Live) -> None:
    give(store, live, no="a")
    give(store, live, no="b", wrap=NoAccountGuard)
    assert broken(store) == {"Q3 credited draws without a source"}
