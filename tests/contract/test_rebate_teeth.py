"""Doctor sees rebates that went wrong; with every guard off they do go wrong, with any one of them on they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import text

from behaving import ask, give_all, lanes_on, rewarding_campaign, submit
from bigmarket.activity.behavior import Behaved
from bigmarket.errors import Duplicate, Trouble
from bigmarket.outbox.task import GRACE_MS
from bigmarket.storage.contract import Store
from bigmarket.storage.doctor import examine
from bigmarket.storage.migrate import migrate
from databases import Databases, open_store
from support import NOON, count, install

KEYS = {
    "behavior": {
        "sqlite": ["CREATE TABLE bare AS SELECT * FROM user_behavior", "DROP TABLE user_behavior",
                   "ALTER TABLE bare RENAME TO user_behavior"],
        "mysql": ["ALTER TABLE user_behavior DROP PRIMARY KEY"],
    },
    "biz_id": {
        "sqlite": ["CREATE TABLE bare AS SELECT * FROM user_behavior_rebate_order",
                   "DROP TABLE user_behavior_rebate_order",
                   "ALTER TABLE bare RENAME TO user_behavior_rebate_order"],
        "mysql": ["ALTER TABLE user_behavior_rebate_order DROP INDEX uq_user_behavior_rebate_order_biz_id"],
    },
}  # fmt: skip


def broken(store: Store, *, now_ms: int = NOON) -> set[str]:
    return {finding.name for finding in examine(store, now_ms=now_ms, grace_ms=0) if not finding.ok}


DAMAGES = {
    "a rebate without its credit order": ("DELETE FROM user_credit_order{}", {"C1", "M2"}),
    "a rebate without its quota order": ("DELETE FROM raffle_activity_order{}", {"M2", "Q3", "S2"}),
    "a rebate of another amount": ("UPDATE user_behavior_rebate_order{} SET rebate_config = '7'", {"M2"}),
    "a rebate that was given, but waits": ("UPDATE user_behavior_rebate_order{} SET state = 'create'", {"M1", "M2"}),
    "credits that no rebate gave": ("DELETE FROM user_behavior_rebate_order{}", {"M2"}),
    "a rebate of no behavior": ("DELETE FROM user_behavior", {"R1"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_doctor_sees(store: Store, name: str) -> None:
    damage, found = DAMAGES[name]
    install(store, rewarding_campaign())
    ask(store, "ann")
    give_all(store)
    assert not broken(store)
    with store.writing() as connection:
        for statement in {damage.format(suffix) for suffix in store.split.suffixes}:
            connection.execute(text(statement))
    assert broken(store) == found


def test_doctor_sees_a_rebate_whose_task_is_gone(store: Store) -> None:
    install(store, rewarding_campaign())
    ask(store, "ann")
    with store.writing() as connection:
        connection.execute(text("DELETE FROM task"))
    assert broken(store) == {"M1"}
    assert all(finding.ok for finding in examine(store, now_ms=NOON, grace_ms=60_000))  # a broker may have it


@pytest.fixture(params=["sqlite", "mysql"])
def spoilt(request: pytest.FixtureRequest, databases: Databases) -> Iterator[tuple[Store, str]]:
    """A database of its own, that may be spoilt, and its engine."""
    engine: str = request.param
    with databases.url("sqlite") if engine == "sqlite" else databases.bare() as url:
        store = open_store(url)
        migrate(store)
        install(store, rewarding_campaign())
        yield store, engine
        store.close()


class _Blind:
    """A store whose behaviors are taken without a look at what was done before."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def behaving(self) -> Iterator[Any]:
        with self._store.behaving() as tx:
            tx.load = lambda _: {}  # type: ignore[assignment,method-assign]
            yield tx


def drop_key(store: Store, engine: str, key: str) -> None:
    with store.writing() as connection:
        for statement in KEYS[key][engine]:
            connection.execute(text(statement))


def sign_twice(store: Any) -> Sequence[Any]:
    with lanes_on(store) as lanes:
        return [future.result(20) for _ in range(2) for future in submit(lanes, ["ann"])]


@pytest.mark.parametrize("dropped", [(), ("behavior",), ("biz_id",)])
def test_any_one_key_refuses_a_second_sign_in(spoilt: tuple[Store, str], dropped: Sequence[str]) -> None:
    store, engine = spoilt
    for key in dropped:
        drop_key(store, engine, key)
    first, second = sign_twice(_Blind(store))
    assert isinstance(first, Behaved)
    assert isinstance(second, Trouble)
    give_all(store)
    assert not broken(store)


def test_the_look_alone_answers_a_second_sign_in(spoilt: tuple[Store, str]) -> None:
    store, engine = spoilt
    for key in ("biz_id",) if engine == "mysql" else KEYS:  # MySQL is told to look by the key
        drop_key(store, engine, key)
    first, second = sign_twice(store)
    assert isinstance(first, Behaved)
    assert isinstance(second, Duplicate)
    give_all(store)
    assert not broken(store)


def test_teeth_without_the_keys_and_the_look_doctor_sees_a_behavior_twice(spoilt: tuple[Store, str]) -> None:
    store, engine = spoilt
    for key in KEYS:
        drop_key(store, engine, key)
    assert all(isinstance(answer, Behaved) for answer in sign_twice(_Blind(store)))
    assert broken(store) == {"R1"}
    for task in store.due_tasks(NOON + GRACE_MS, limit=10):  # what they give is still given once
        with suppress(Exception):
            give_all(store)
        store.finish_tasks([task.message_id])
    assert count(store, "SELECT COALESCE(SUM(available_cents), 0) FROM user_credit_account") <= 500
