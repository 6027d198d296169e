"""What every store promises beside draws, recharges and deliveries: transactions, views, clocks, and any text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from bigmarket.activity.model import LiveActivity
from bigmarket.draw import AwardRecordRow, Drawn, DrawRequest, Outcome, RaffleOrderRow, draw_batch
from bigmarket.errors import Duplicate
from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.task import REASON_MAX, Task, TaskFailure
from bigmarket.storage import schema as t
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from support import IDS, NOON, assert_healthy, count, give, install, small_campaign

#: Each is somebody else: no collation folds case, accents or width, and no quote ends a statement.
STRANGERS = [
    "ann", "Ann", "ANN", "ánn", "änn", "ann1", "ａｎｎ", "ß", "ss", "ı", "i", "Ω", "ω", "🎁", "🎂", "👩👧", "安",
    "o'neil", 'say "hi"', "back\\slash", "\\", "'", '"', "%s", "%b", "{rows}", "{table}", "?", ":user",
    "'); DROP TABLE task; --", "null", "NULL", "0", "x" * 128, "🎁" * 128,
]  # fmt: skip


def armed(store: Store) -> dict[int, LiveActivity]:
    install(store, small_campaign())
    with store.reading() as connection:
        return load_live(connection, {})


def test_every_user_is_a_user_of_its_own_whatever_its_letters(store: Store) -> None:
    live = armed(store)
    for number, user in enumerate(STRANGERS):
        give(store, user, no=str(number))
    requests = [DrawRequest(IDS.make(NOON), user, 1, user[:64]) for user in STRANGERS]
    with store.drawing() as tx:
        answers = draw_batch(tx, requests, live=live, now_ms=NOON).answers
    assert [answer.user_id for answer in answers if isinstance(answer, Drawn)] == STRANGERS
    again = [msgspec.structs.replace(request, order_id=IDS.make(NOON)) for request in requests]
    with store.drawing() as tx:
        assert draw_batch(tx, again, live=live, now_ms=NOON).answers == answers
    found = store.find_draws([answer for answer in answers if isinstance(answer, Drawn)])
    assert sorted(found) == sorted(answer.order_id for answer in answers if isinstance(answer, Drawn))
    assert set(found.values()) == set(answers)
    with store.reading() as connection:
        used = connection.execute(select(t.raffle_activity_account.c.user_id)).scalars().all()
        drawn = connection.execute(select(t.user_raffle_order.c.user_id)).scalars().all()
    assert sorted(used) == sorted(drawn) == sorted(STRANGERS)
    assert_healthy(store)


@pytest.mark.parametrize("size", [1, 2, 256, 300])
def test_any_text_comes_back_as_it_was(store: Store, size: int) -> None:
    odd = "🎁 \\ ' \" % {rows} \u2028 ｆｕｌｌ \ud7ff\ue000 \t\n\r \b\f\x01"
    rows = [(IDS.make(NOON), f"{number}{odd}") for number in range(size)]
    outcome = Outcome(
        NOON,
        orders=[RaffleOrderRow(id_, user, 1, "used", "2026-11-20", NOON, odd) for id_, user in rows],
        records=[
            AwardRecordRow(id_, user, 1, 9, 1, odd * 3, 1, odd, "create", NOON, "r", 1, None, odd)
            for id_, user in rows
        ],
        tasks=[Task(id_, user, "send_award", odd.encode()) for id_, user in rows],
    )
    with store.drawing() as tx:
        tx.apply(outcome)
    drawn = [Drawn(id_, user, 1, 1, odd * 3, 1) for id_, user in rows]
    assert store.find_draws(drawn) == {one.order_id: one for one in drawn}
    due = store.due_tasks(NOON + 10**9, limit=999)
    assert sorted((task.message_id, task.user_id, task.message) for task in due) == sorted(
        (id_, user, odd.encode()) for id_, user in rows
    )
    with store.reading() as connection:
        stored = t.user_award_record.c
        configs = connection.execute(select(stored.award_config, stored.rolled).distinct()).all()
    assert configs == [(odd, None)]


def test_a_request_id_is_one_draw_whichever_activity_it_was_for(store: Store) -> None:
    live = armed(store)
    live |= {2: replace(live[1], activity_id=2)}
    give(store, "ann")
    for activity_id, expected in ((1, Drawn), (2, Duplicate)):
        request = DrawRequest(IDS.make(NOON), "ann", activity_id, "r1")
        with store.drawing() as tx:
            (answer,) = draw_batch(tx, [request], live=live, now_ms=NOON).answers
        assert type(answer) is expected
    both = [DrawRequest(IDS.make(NOON), "ann", activity_id, "r2") for activity_id in (1, 2)]
    with store.drawing() as tx:
        answers = draw_batch(tx, both, live=live, now_ms=NOON).answers
    assert [type(answer) for answer in answers] == [Drawn, Duplicate]
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 2
    assert_healthy(store)


def test_a_block_that_ends_is_committed_and_one_that_raises_is_not(store: Store) -> None:
    stock = {"strategy_id": 1, "alloc": 1}
    with store.writing() as connection:
        connection.execute(insert(t.award_stock).values(award_id=1, **stock))
    with pytest.raises(KeyError), store.writing() as connection:
        connection.execute(insert(t.award_stock).values(award_id=2, **stock))
        raise KeyError
    with store.migrating() as connection:
        connection.execute(insert(t.award_stock).values(award_id=3, **stock))
    with store.reading() as connection:
        assert connection.execute(select(t.award_stock.c.award_id)).scalars().all() == [1, 3]


def test_what_a_fault_says_tells_no_values(store: Store) -> None:
    stock = {"strategy_id": 1, "award_id": 1, "alloc": 815_4711}
    told = []
    for block in (store.writing, store.updating):
        with pytest.raises(IntegrityError) as caught, block() as connection:
            connection.execute(insert(t.award_stock).values([stock, stock]))
        told.append(str(caught.value))
    assert all("award_stock" in words and "8154711" not in words for words in told)


def test_an_examination_sees_one_moment_and_blocks_nobody(store: Store) -> None:
    armed(store)
    give(store, "ann")
    query = text("SELECT COUNT(*) FROM raffle_activity_account")
    with store.examining() as connection:
        assert connection.execute(query).scalar_one() == 1
        give(store, "bob")
        assert connection.execute(query).scalar_one() == 1
    with store.examining() as connection:
        assert connection.execute(query).scalar_one() == 2


def test_the_databases_clock_is_in_epoch_milliseconds(store: Store) -> None:
    before = time.time_ns() // 1_000_000
    assert before - 1 <= store.clock_ms() <= time.time_ns() // 1_000_000 + 1


def test_settings_that_keep_commits_are_no_fault(store: Store) -> None:
    assert store.durability_faults() == []


def test_a_full_shelf_refuses_more_even_without_the_guard(store: Store) -> None:
    armed(store)
    for statement in (
        "UPDATE award_stock SET sold = alloc + 1 WHERE alloc IS NOT NULL",
        "UPDATE sku_stock SET sold = alloc + 1",
        "UPDATE sku_stock SET sold = -1",
    ):
        with pytest.raises(Exception, match="never_oversold"), store.writing() as connection:
            connection.execute(text(statement))
    give(store, "ann")
    with pytest.raises(Exception, match="day_covered"), store.writing() as connection:
        connection.execute(text("UPDATE raffle_activity_account SET day_count_surplus = -1"))
    assert_healthy(store)


def owing(user: str, *, orders: int) -> dict[str, object]:
    """The account of a user with so many raffle orders open."""
    periods = {"month": "2026-11", "day": "2026-11-20"}
    counts = {f"{period}_count": orders for period in ("total", "month", "day")}
    left = {f"{period}_count_surplus": 0 for period in ("total", "month", "day")}
    return {"user_id": user, "activity_id": 1, "open_orders": orders, **periods, **counts, **left}


def test_many_open_orders_of_one_user_are_all_loaded(store: Store) -> None:
    """As JSON they fill more than the megabyte at which some engines cut an aggregated text off."""
    users, each = [f"{n}" + "🎁" * 100 for n in range(8)], 400
    for user in users:
        orders = store.split.table_of(t.user_raffle_order, user)
        rows = [
            {
                "order_id": IDS.make(NOON),
                "user_id": user,
                "activity_id": 1,
                "order_state": "create",
                "order_day": "2026-11-20",
                "order_time_ms": NOON,
            }
            for _ in range(each)
        ]
        with store.writing() as connection:
            connection.execute(insert(orders), rows)
            connection.execute(insert(t.raffle_activity_account), owing(user, orders=each))
    with store.drawing() as tx:
        snapshot = tx.load([DrawRequest("new", user, 1, None) for user in users])
    assert {key: len(orders) for key, orders in snapshot.open_orders.items()} == {(user, 1): each for user in users}
    for orders in snapshot.open_orders.values():
        assert [order.order_id for order in orders] == sorted(order.order_id for order in orders)


def test_a_task_that_several_give_back_at_once_is_parked_once(store: Store) -> None:
    given_back = ParkedTask("m1", "ann", "send_award", b"{}", 3, "x" * REASON_MAX)
    faults = at_once(lambda: store.park_task(given_back, now_ms=NOON), times=8)
    assert faults == []
    assert store.parked_tasks(limit=9) == [given_back]


def test_a_failure_told_late_does_not_bring_a_parked_task_back(store: Store) -> None:
    store.park_task(ParkedTask("m1", "ann", "send_award", b"{}", 3, "stuck"), now_ms=NOON)
    store.fail_task(TaskFailure("m1", "fail", 1, NOON, "late"))
    assert store.backlog() == (0, None, 1)
    assert [parked.reason for parked in store.parked_tasks(limit=9)] == ["stuck"]


def at_once(job: Callable[[], object], *, times: int) -> list[Exception]:
    """Run the job in so many threads that start together; what they raised."""
    start = threading.Barrier(times)
    faults: list[Exception] = []

    def run() -> None:
        start.wait()
        try:
            job()
        except Exception as fault:  # noqa: BLE001  shown by the test
            faults.append(fault)

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults
