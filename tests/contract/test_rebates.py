"""What behaviors earned is given once, or the order says why not."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import insert, select, update

from behaving import ask, bus_on, give_all, lanes_on, rewarding_campaign, submit
from bigmarket.errors import BadInput, NotArmed, NotFound
from bigmarket.outbox.task import Task
from bigmarket.rebate.message import SEND_REBATE, SendRebate, encode
from bigmarket.storage import schema as t
from bigmarket.storage.contract import Store
from bigmarket.storage.delivery_tx import SqlDeliveryTx
from bigmarket.storage.queries import account_of
from support import NOON, assert_healthy, count, install


@pytest.fixture
def armed(store: Store) -> Store:
    install(store, rewarding_campaign())
    return store


def sign_in(store: Store, *users: str) -> list[Task]:
    """Have the users sign in; the tasks that are left behind."""
    with lanes_on(store) as lanes:
        for future in submit(lanes, users):
            future.result(20)
    return list(store.due_tasks(NOON + 60_000, limit=100_000))


def orders(store: Store) -> Counter[tuple[str, str, str | None]]:
    """How many rebate orders there are by type, state and reason."""
    o = t.user_behavior_rebate_order.c
    with store.reading() as connection:
        return Counter(tuple(row) for row in connection.execute(select(o.rebate_type, o.state, o.reason)))


def draws_of(store: Store, user: str) -> int:
    with store.reading() as connection:
        account = account_of(connection, user, 1)
    return account.total_left if account else 0


def cents_of(store: Store, user: str) -> int:
    return count(store, f"SELECT COALESCE(SUM(available_cents), 0) FROM user_credit_account WHERE user_id = '{user}'")


def test_draws_and_credits_arrive_once_however_often_the_messages_do(armed: Store) -> None:
    tasks = sign_in(armed, "ann", "bob")
    bus = bus_on(armed)
    bus.consume(tasks[:1])
    bus.deliver(tasks)
    bus.deliver(tasks)
    bus.consume([*tasks, *tasks])
    assert [(draws_of(armed, user), cents_of(armed, user)) for user in ("ann", "bob")] == [(10, 500)] * 2
    assert orders(armed) == {("sku", "completed", None): 2, ("integral", "completed", None): 2}
    assert count(armed, "SELECT COUNT(*) FROM task") == 0
    names = "SELECT COUNT(*) FROM user_credit_order WHERE trade_name = 'rebate' AND trade_type = 'forward'"
    assert count(armed, names) == 2
    numbers = """SELECT COUNT(*) FROM raffle_activity_order
                 WHERE out_business_no IN ('ann_1_sign_sku_20261120', 'bob_1_sign_sku_20261120')"""
    assert count(armed, numbers) == 2
    assert_healthy(armed)


def test_what_is_credited_adds_to_what_was_there(armed: Store) -> None:
    for _ in range(2):
        ask(armed, "ann", "openai_pay", no=f"p-{_}")
        give_all(armed)
    assert cents_of(armed, "ann") == 4000
    assert_healthy(armed)


def test_a_sku_that_is_sold_out_fails_with_the_reason_and_the_credits_come_all_the_same(armed: Store) -> None:
    with armed.writing() as connection:
        connection.execute(update(t.sku_stock).where(t.sku_stock.c.sku == 11).values(alloc=3))
    users = [f"u{n}" for n in range(5)]
    sign_in(armed, *users)
    give_all(armed)
    assert orders(armed) == {
        ("sku", "completed", None): 3,
        ("sku", "fail", "Sku 11 is sold out."): 2,
        ("integral", "completed", None): 5,
    }
    assert sorted(draws_of(armed, user) for user in users) == [0, 0, 10, 10, 10]
    assert give_all(armed) == 1, "the message that tells of it"
    assert give_all(armed) == 0
    with armed.writing() as connection:
        connection.execute(update(t.sku_stock).where(t.sku_stock.c.sku == 11).values(alloc=1000))
    assert_healthy(armed)


def test_a_closed_credit_account_fails_alone(armed: Store) -> None:
    with armed.writing() as connection:
        closed = {"user_id": "closed", "total_cents": 0, "available_cents": 0, "account_status": "close"}
        connection.execute(insert(t.user_credit_account).values(closed))
    sign_in(armed, "ann", "closed", "zoe")
    give_all(armed)
    assert orders(armed) == {
        ("sku", "completed", None): 3,
        ("integral", "completed", None): 2,
        ("integral", "fail", "The user's credit account is not open."): 1,
    }
    assert (cents_of(armed, "closed"), draws_of(armed, "closed")) == (0, 10)
    assert_healthy(armed)


def test_a_key_that_is_too_long_for_a_number_is_replaced_by_the_order_id(armed: Store) -> None:
    user = "语" * 128
    done = ask(armed, user, "openai_pay", no="n" * 100)
    give_all(armed)
    assert cents_of(armed, user) == 2000
    assert count(armed, f"SELECT COUNT(*) FROM user_credit_order WHERE out_business_no = '{done.orders[0].order_id}'")
    assert_healthy(armed)


def poison(user: str, **changes: object) -> SendRebate:
    values = {"order_id": "", "activity_id": 1, "rebate_type": "integral", "rebate_config": "5", "biz_id": "b"}
    return SendRebate(user_id=user, **{**values, **changes})  # type: ignore[arg-type]


POISONS: dict[str, tuple[dict[str, object], type[Exception]]] = {
    "an order that there is not": ({"order_id": "0" * 26}, NotFound),
    "an unknown type": ({"rebate_type": "cash"}, BadInput),
    "a config that is no number": ({"rebate_config": "1e9"}, BadInput),
    "a sku that was never armed": ({"rebate_type": "sku", "rebate_config": "99"}, NotArmed),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_message_that_cannot_be_followed_changes_nothing(armed: Store, name: str) -> None:
    changes, error = POISONS[name]
    tasks = sign_in(armed, "ann")
    message = poison("ann", **{"order_id": tasks[0].message_id, **changes})
    with pytest.raises(error):
        bus_on(armed).deliver([Task(tasks[0].message_id, "ann", SEND_REBATE, encode(message)), *tasks[1:]])
    assert orders(armed) == {("sku", "create", None): 1, ("integral", "create", None): 1}
    assert count(armed, "SELECT COUNT(*) FROM task") == 2
    give_all(armed)
    assert_healthy(armed)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["settle_rebates", "add_credits", "add_draws", "finish_tasks"])
def test_a_crash_between_any_two_steps_leaves_nothing_half_done(
    armed: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tasks = sign_in(armed, "ann", "bob")

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SqlDeliveryTx, step, killed)
        bus_on(armed).deliver(tasks)
    assert orders(armed) == {("sku", "create", None): 2, ("integral", "create", None): 2}
    assert (draws_of(armed, "ann"), cents_of(armed, "ann")) == (0, 0)
    give_all(armed)
    assert (draws_of(armed, "ann"), cents_of(armed, "ann")) == (10, 500)
    assert_healthy(armed)


def test_a_rebate_that_is_given_up_says_so(armed: Store) -> None:
    tasks = sign_in(armed, "ann")
    with armed.writing() as connection:
        connection.execute(update(t.task).values(state="parked", reason="trial"))
    assert armed.drop_tasks(message_id=tasks[0].message_id, limit=1) == 1
    assert orders(armed) == {("sku", "fail", "Given up by an operator."): 1, ("integral", "create", None): 1}
    bus_on(armed).consume(tasks[:1])  # its message turns up after all
    assert draws_of(armed, "ann") == 0
