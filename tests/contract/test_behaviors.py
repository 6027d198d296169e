"""Behaviors taken by lanes on a real store: once each, whoever sends them how often, and what they earn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import pytest

from behaving import answers, ask, lanes_on, rewarding_campaign, submit
from bigmarket.activity.behavior import Behaved
from bigmarket.errors import BadInput, Contention, Duplicate, NotFound, OutcomeUnknown, Trouble
from bigmarket.storage.contract import Store
from bigmarket.storage.rebates_read import SignIns, rebate_orders, sign_ins, signed_in
from databases import open_store
from support import DAY, NOON, assert_healthy, count, install


@pytest.fixture
def armed(store: Store) -> Store:
    install(store, rewarding_campaign())
    return store


def rows(store: Store) -> tuple[int, int, int]:
    """How many behaviors, rebate orders and tasks there are."""
    tables = ("user_behavior", "user_behavior_rebate_order", "task")
    found = [count(store, f"SELECT COUNT(*) FROM {table}") for table in tables]
    return found[0], found[1], found[2]


def test_a_full_batch_with_duplicates_is_one_transaction_and_each_user_signs_once(armed: Store) -> None:
    users = [f"u{n:03}" for n in range(128)]
    with lanes_on(armed, started=False) as lanes:
        futures = submit(lanes, users) + submit(lanes, users)
        lanes.start()
        got = answers(futures)
        assert lanes.stats()[0].batches == 1
    assert all(isinstance(a, Behaved) and len(a.orders) == 2 for a in got[:128])
    assert all(isinstance(a, Duplicate) for a in got[128:])
    assert rows(armed) == (128, 256, 256)


def test_what_a_behavior_earned_is_written_down_with_it(armed: Store) -> None:
    done = ask(armed, "ann")
    sku, integral = done.orders
    assert (sku.rebate_type, sku.rebate_config, sku.biz_id) == ("sku", "11", "ann_1_sign_sku_20261120")
    assert (integral.rebate_type, integral.rebate_config) == ("integral", "5")
    assert integral.biz_id == "ann_1_sign_integral_20261120"
    with armed.reading() as connection:
        stored = connection.exec_driver_sql("SELECT state, activity_id FROM user_behavior_rebate_order").all()
    assert [tuple(row) for row in stored] == [("create", 1)] * 2


def test_days_in_a_row_earn_more_and_a_missed_day_begins_anew(armed: Store) -> None:
    streaks = [ask(armed, "ann", now_ms=NOON + n * DAY) for n in (0, 1, 2, 4, 5, 6, 7, 8, 9)]
    assert [s.streak for s in streaks] == [1, 2, 3, 1, 2, 3, 4, 5, 6]
    assert [len(s.orders) for s in streaks] == [2, 2, 3, 2, 2, 3, 2, 2, 3]
    assert streaks[2].orders[-1].biz_id == "ann_1_sign_integral3_20261122"


def test_a_numbered_behavior_counts_once_per_number(armed: Store) -> None:
    assert ask(armed, "ann", "openai_pay", no="p-1").orders[0].biz_id == "ann_1_openai_pay_integral_p-1"
    assert ask(armed, "ann", "openai_pay", no="p-2").streak == 1
    with pytest.raises(Duplicate):
        ask(armed, "ann", "openai_pay", no="p-1", now_ms=NOON + DAY)


def test_a_day_to_come_is_nobodys_yet(armed: Store) -> None:
    with pytest.raises(BadInput, match="20261121 is a day to come: today is 20261120 in activity 1"):
        ask(armed, "ann", "sign", no="20261121")
    assert ask(armed, "ann", "sign", no="20261120").streak == 1
    assert ask(armed, "ann", "sign", now_ms=NOON + DAY).streak == 2


def test_a_behavior_that_nothing_rewards_leaves_nothing(armed: Store) -> None:
    with pytest.raises(NotFound):
        ask(armed, "ann", "nap")
    assert rows(armed) == (0, 0, 0)


def test_two_processes_at_once_take_each_behavior_once(armed: Store) -> None:
    users = [f"u{n:03}" for n in range(100)]
    url = getattr(armed, "url", None)
    where = f"sqlite:///{armed.path}" if url is None else url.render_as_string(hide_password=False)  # type: ignore[attr-defined]
    other = open_store(where, split=armed.split)
    try:
        with lanes_on(armed, lanes=2) as here, lanes_on(other, lanes=2) as there:
            futures = [future for _ in range(2) for lanes in (here, there) for future in submit(lanes, users)]
            got = answers(futures)
            again = answers(submit(here, users))
    finally:
        other.close()
    assert sum(isinstance(a, Behaved) for a in got) == 100
    # on a busy machine a race may take longer than it is tried again for, which spends nothing
    assert {type(a) for a in got if not isinstance(a, Behaved)} <= {Duplicate, Contention}
    assert {type(a) for a in again} == {Duplicate}
    assert rows(armed) == (100, 200, 200)


class _Wrapped:
    """A store whose transactions of behaviors can be made to fail in one way."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Poisoned(_Wrapped):
    """Fails, as a broken row would, whenever a certain user is in the batch."""

    @contextmanager
    def behaving(self) -> Iterator[Any]:
        with self._store.behaving() as tx:
            load = tx.load

            def poisoned(keys: Sequence[Any]) -> Any:
                if any(key[0] == "u13" for key in keys):
                    raise ValueError("poison")
                return load(keys)

            tx.load = poisoned  # type: ignore[method-assign]
            yield tx


def test_poison_fails_alone(armed: Store) -> None:
    users = [f"u{n:02}" for n in range(32)]
    with lanes_on(_Poisoned(armed), started=False) as lanes:
        futures = submit(lanes, users)
        lanes.start()
        got = answers(futures)
    assert [user for user, a in zip(users, got, strict=True) if not isinstance(a, Behaved)] == ["u13"]
    assert isinstance(got[13], Trouble)
    assert rows(armed) == (31, 62, 62)


class _LosesTheCommit(_Wrapped):
    """The connection goes at the commit: ``committed`` says on which side of it, ``found`` whether one can look."""

    def __init__(self, store: Store, *, committed: bool, found: bool = True) -> None:
        super().__init__(store)
        self.committed = committed
        self.found = found

    @contextmanager
    def behaving(self) -> Iterator[Any]:
        try:
            with self._store.behaving() as tx:
                yield tx
                if not self.committed:
                    raise KeyError
        except KeyError:
            pass
        raise OutcomeUnknown("the connection went")

    def find_behaved(self, made: Sequence[Behaved]) -> set[str]:
        if not self.found:
            raise Contention("nobody answers")
        return self._store.find_behaved(made)


def test_a_commit_of_unknown_fate_is_looked_up(armed: Store) -> None:
    users = [f"u{n:02}" for n in range(32)]
    for committed in (False, True):
        with lanes_on(_LosesTheCommit(armed, committed=committed)) as lanes:
            got = answers(submit(lanes, users))
        assert all(isinstance(a, Behaved if committed else Trouble) for a in got)
        assert rows(armed) == ((32, 64, 64) if committed else (0, 0, 0))


def test_a_commit_that_stays_unknown_is_settled_by_the_repeat(armed: Store) -> None:
    with lanes_on(_LosesTheCommit(armed, committed=True, found=False)) as lanes:
        assert all(isinstance(a, OutcomeUnknown) for a in answers(submit(lanes, ["ann"])))
    with pytest.raises(Duplicate):
        ask(armed, "ann")
    assert rows(armed) == (1, 2, 2)


def test_behaviors_without_a_rebate_are_looked_up_too(armed: Store) -> None:
    done = ask(armed, "ann", "visit")
    bare = done._replace(orders=())
    other = bare._replace(order_id="other", done=tuple(row._replace(user_id="bob") for row in bare.done))
    assert armed.find_behaved([done, bare, other]) == {done.order_id}
    assert armed.find_behaved([other]) == set()
    assert_healthy(armed)


def test_the_calendar_of_a_month_and_the_days_in_a_row(armed: Store) -> None:
    for day in ("20261031", "20261101", "20261103", "20261118", "20261119"):
        ask(armed, "ann", no=day)
    ask(armed, "bob")
    ask(armed, "ann", "openai_pay", no="20261105")

    def month_of(user: str, month: str, today: str) -> SignIns:
        with armed.reading() as connection:
            return sign_ins(connection, user, 1, month=month, today=today)

    assert month_of("ann", "2026-11", "2026-11-20") == ((1, 3, 18, 19), 2, False)
    ask(armed, "ann")
    assert month_of("ann", "2026-11", "2026-11-20") == ((1, 3, 18, 19, 20), 3, True)
    assert month_of("ann", "2026-10", "2026-11-20") == ((31,), 3, True)
    assert month_of("ann", "2026-11", "2026-11-22") == ((1, 3, 18, 19, 20), 0, False)
    assert month_of("cid", "2026-11", "2026-11-20") == ((), 0, False)
    with armed.reading() as connection:
        assert signed_in(connection, "bob", [(1, date(2026, 11, 20)), (2, date(2026, 11, 21))])
        assert not signed_in(connection, "bob", [(1, date(2026, 11, 21)), (2, date(2026, 11, 20))])
        assert not signed_in(connection, "bob", [])


def test_rebates_are_listed_newest_first_and_only_the_users_own(armed: Store) -> None:
    for number, user in enumerate(("ann", "ann_1", "an", "ann")):
        ask(armed, user, "openai_pay", no=f"p-{number}", now_ms=NOON + number)
    with armed.reading() as connection:
        found = rebate_orders(connection, armed.split, "ann", limit=9)
        newest = rebate_orders(connection, armed.split, "ann", limit=1)
    assert [(row.out_business_no, row.state) for row in found] == [("p-3", "create"), ("p-0", "create")]
    assert [row.order_id for row in newest] == [found[0].order_id]
