"""The draw on a real store: what ``draw_batch`` may and may not do to the rows."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import insert, text

from bigmarket.activity.campaign import parse_campaign
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.stock import GuardMissed, StockKey
from bigmarket.app import KIND_CHECKS
from bigmarket.draw import Answer, Drawn, DrawRequest, Outcome, draw_batch
from bigmarket.errors import Contention, QuotaExhausted
from bigmarket.storage import schema as t
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import TASK_LAG_LIMIT_MS, examine
from bigmarket.storage.draw_tx import SqlDrawTx
from bigmarket.storage.mysql_draw import MySqlDrawTx
from bigmarket.storage.sqlite import Turnstile
from databases import on_sqlite
from support import DAY, IDS, NOON, SMALL, assert_healthy, count, give, install, small_campaign


def armed(store: Store) -> dict[int, LiveActivity]:
    install(store, small_campaign())
    with store.reading() as connection:
        return load_live(connection, {})


def draw(
    store: Store,
    live: dict[int, LiveActivity],
    users: Sequence[str | tuple[str, str]],
    *,
    now_ms: int = NOON,
) -> list[Answer]:
    """One batch: users, or (user, request id) pairs."""
    pairs = [user if isinstance(user, tuple) else (user, None) for user in users]
    requests = [DrawRequest(IDS.make(now_ms), user, 1, request_id) for user, request_id in pairs]
    with store.drawing() as tx:
        return draw_batch(tx, requests, live=live, now_ms=now_ms).answers


def test_a_draw_writes_all_its_rows_or_none(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    (drawn,) = draw(store, live, ["ann"])
    assert isinstance(drawn, Drawn)
    for table in ("user_raffle_order", "user_award_record"):
        assert count(store, f"SELECT COUNT(*) FROM {table}") == 1
    assert count(store, "SELECT total_count_surplus FROM raffle_activity_account") == 9
    assert count(store, "SELECT SUM(sold) FROM award_stock") == 1
    assert_healthy(store)


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    with pytest.raises(RuntimeError, match="pulled the plug"), store.drawing() as tx:
        draw_batch(tx, [DrawRequest(IDS.make(NOON), "ann", 1, "r1")], live=live, now_ms=NOON)
        raise RuntimeError("pulled the plug")
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == 0
    assert count(store, "SELECT total_count_surplus FROM raffle_activity_account") == 10
    assert_healthy(store)


def test_a_request_id_gives_its_outcome_for_ever(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    first = draw(store, live, [("ann", "r1"), ("ann", "r1")])
    again = draw(store, live, [("ann", "r1")], now_ms=NOON + DAY)
    assert first[0] == first[1] == again[0]
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 1
    assert_healthy(store)


def test_two_users_may_use_the_same_request_id(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    give(store, "bob")
    ann, bob = draw(store, live, [("ann", "r1"), ("bob", "r1")])
    assert isinstance(ann, Drawn)
    assert isinstance(bob, Drawn)
    assert ann.order_id != bob.order_id


def leave_open(store: Store, user: str) -> None:
    """A raffle order that took its quota and is still owed its draw, as imports leave one."""
    with store.writing() as connection:
        connection.execute(
            insert(store.split.table_of(t.user_raffle_order, user)).values(
                order_id="OPEN",
                user_id=user,
                activity_id=1,
                order_state="create",
                order_day="2026-11-20",
                order_time_ms=NOON,
            )
        )
        connection.execute(
            text("""UPDATE raffle_activity_account SET open_orders = 1, total_count_surplus = total_count_surplus - 1,
                    month_count_surplus = month_count_surplus - 1, day_count_surplus = day_count_surplus - 1""")
        )


def test_an_open_order_is_drawn_once(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    leave_open(store, "ann")
    answers = draw(store, live, [("ann", "r1"), "ann"])
    assert [isinstance(a, Drawn) and a.order_id == "OPEN" for a in answers] == [True, False]
    assert draw(store, live, [("ann", "r1")])[0] == answers[0]
    assert_healthy(store)


def test_a_batch_of_two_activities_spends_what_each_user_asked_for(store: Store) -> None:
    other = SMALL.replace("{activity_id: 1,", "{activity_id: 2,").replace("strategy_id: 9", "strategy_id: 10")
    install(store, parse_campaign(re.sub(r"sku: (\d+)", r"sku: 9\1", other), kinds=KIND_CHECKS))
    live = armed(store)
    for sku in (11, 911):
        give(store, "ann", "bob", sku=sku)
    asked = [("ann", 1), ("bob", 2), ("bob", 2)]
    with store.drawing() as tx:
        requests = [DrawRequest(IDS.make(NOON), user, activity_id, None) for user, activity_id in asked]
        answers = draw_batch(tx, requests, live=live, now_ms=NOON).answers
    assert [(a.user_id, a.activity_id) for a in answers if isinstance(a, Drawn)] == asked
    used = "SELECT total_count - total_count_surplus FROM raffle_activity_account"
    spent = [
        count(store, f"{used} WHERE user_id = '{u}' AND activity_id = {a}")
        for u, a in itertools.product(("ann", "bob"), (1, 2))
    ]
    assert spent == [1, 0, 0, 2]
    assert_healthy(store)


def test_the_scarce_prize_is_never_oversold_and_then_gives_its_fallback(store: Store) -> None:
    live = armed(store)
    users = [f"u{n:03}" for n in range(100)]
    give(store, *users)
    for _ in range(5):
        draw(store, live, users)
    assert count(store, "SELECT sold FROM award_stock WHERE award_id = 4") == 1
    assert count(store, "SELECT sold FROM award_stock WHERE award_id = 3") == 3
    assert count(store, "SELECT SUM(sold) FROM award_stock") == 500
    assert_healthy(store)


def test_batches_of_every_size_are_written_whole(store: Store) -> None:
    live = armed(store)
    for size in (1, 2, 3, 7, 64, 255, 256, 300):
        users = [f"s{size}-{n}" for n in range(size)]
        give(store, *users)
        assert all(isinstance(answer, Drawn) for answer in draw(store, live, users))
    assert_healthy(store)


def test_many_threads_draw_without_losing_or_doubling(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    answers: list[Answer] = []

    def work(thread: int) -> None:
        for n in range(5):
            answers.extend(draw(store, live, [("ann", f"r{(thread + n) % 8}")]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 40
    assert len({a.order_id for a in answers if isinstance(a, Drawn)}) == 8
    assert_healthy(store)


def test_quota_is_exact_across_batches(store: Store) -> None:
    live = armed(store)
    give(store, "ann", sku=12)  # 5 in all, 4 a month, 2 a day
    got = [type(a) for day in range(3) for a in draw(store, live, ["ann"] * 3, now_ms=NOON + day * DAY)]
    assert got.count(Drawn) == 4
    assert isinstance(draw(store, live, ["ann"], now_ms=NOON + 11 * DAY)[0], Drawn)
    assert isinstance(draw(store, live, ["ann"], now_ms=NOON + 12 * DAY)[0], QuotaExhausted)
    assert_healthy(store)


class _Around:
    """A draw transaction, with some of its methods replaced."""

    def __init__(self, tx: Any) -> None:
        self.tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tx, name)


class _Untrue(_Around):
    """Sees stock that is not there, as a stale snapshot would."""

    def load_stock(self, wanted: Mapping[StockKey, int]) -> dict[StockKey, int | None]:
        return dict.fromkeys(wanted, 1_000_000)


def _stale_batch(store: Store, live: dict[int, LiveActivity], around: type[_Around]) -> None:
    users = [f"u{n:03}" for n in range(60)]
    give(store, *users)
    for turn in range(4):
        requests = [DrawRequest(IDS.make(NOON), user, 1, f"{turn}") for user in users]
        with store.drawing() as tx:
            draw_batch(around(tx), requests, live=live, now_ms=NOON)


def test_a_stale_snapshot_is_refused_by_the_guard(store: Store) -> None:
    live = armed(store)
    with pytest.raises(GuardMissed):
        _stale_batch(store, live, _Untrue)
    assert_healthy(store)


CHECKS_OFF = {
    "sqlite": "PRAGMA ignore_check_constraints = ON",
    "mysql": "SET SESSION check_constraint_checks = OFF",
}


def engine_of(tx: Any) -> str:
    return "mysql" if isinstance(tx, MySqlDrawTx) else "sqlite"


def run_in(tx: Any, sql: str) -> None:
    """Run a statement in the open transaction of either engine."""
    if engine_of(tx) == "mysql":
        tx._bulk._wire.run([sql.encode()])
    else:
        tx._bulk._connection.execute(sql)


class _Toothless(_Untrue):
    """The same, with the stock guard switched off: statement and constraint."""

    def apply(self, outcome: Outcome) -> None:
        taken, outcome.taken = outcome.taken, {}
        self.tx.apply(outcome)
        run_in(self.tx, CHECKS_OFF[engine_of(self.tx)])
        for (strategy_id, award_id), units in taken.items():
            where = f"strategy_id = {strategy_id} AND award_id = {award_id}"
            run_in(self.tx, f"UPDATE award_stock SET sold = sold + {units} WHERE {where}")


def test_teeth_without_the_stock_guard_doctor_sees_the_oversold_prize(store: Store) -> None:
    live = armed(store)
    _stale_batch(store, live, _Toothless)
    assert {f.name for f in examine(store, now_ms=NOON) if not f.ok} == {"S1"}


class _Forgetful(_Around):
    """Writes everything but what the account spent."""

    def apply(self, outcome: Outcome) -> None:
        outcome.spent = {}
        self.tx.apply(outcome)


def test_teeth_without_the_account_update_doctor_sees_the_leak(store: Store) -> None:
    live = armed(store)
    _stale_batch(store, live, _Forgetful)
    assert {f.name for f in examine(store, now_ms=NOON) if not f.ok} == {"Q2"}


def test_teeth_without_the_count_of_open_orders_doctor_sees_it(store: Store) -> None:
    live = armed(store)
    give(store, "ann")
    leave_open(store, "ann")
    with store.drawing() as tx:
        assert isinstance(tx, SqlDrawTx)
        new_rows, uncounted = tx._new_rows, tx._sql.count_used_open_orders
        tx._new_rows = lambda outcome: iter(  # type: ignore[method-assign]
            [write for write in new_rows(outcome) if write.template != uncounted]
        )
        draw_batch(tx, [DrawRequest(IDS.make(NOON), "ann", 1, None)], live=live, now_ms=NOON)
    assert {f.name for f in examine(store, now_ms=NOON) if not f.ok} == {"Q4"}


class _Taskless(_Around):
    """Leaves the outbox out of the draw's transaction."""

    def apply(self, outcome: Outcome) -> None:
        outcome.tasks = []
        self.tx.apply(outcome)


def test_teeth_without_the_outbox_in_the_transaction_doctor_misses_the_tasks(store: Store) -> None:
    live = armed(store)
    _stale_batch(store, live, _Taskless)
    late = NOON + TASK_LAG_LIMIT_MS  # until then a broker may have them
    assert {f.name for f in examine(store, now_ms=late) if not f.ok} == {"M1"}


@on_sqlite
def test_a_lock_that_others_hold_is_contention_and_spends_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = armed(store)
    give(store, "ann")
    with store.writing(), pytest.raises(Contention):
        store._writer.execute("PRAGMA busy_timeout = 50")  # type: ignore[attr-defined]
        monkeypatch.setattr(store, "_turnstile", Turnstile())  # let the database itself refuse
        draw(store, live, ["ann"])
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == 0
