"""An award whose message was lost after it was confirmed is sent again, once in effect."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from behaving import ask, rewarding_campaign
from bigmarket.activity.revision import Revision
from bigmarket.bus.in_process import InProcessBus
from bigmarket.draw import Drawn, DrawRequest, draw_batch
from bigmarket.errors import NotFound
from bigmarket.ids import Ids
from bigmarket.jobs import redelivery
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.jobs.redelivery import AGE_MS, Redelivery
from bigmarket.outbox.task import Task
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.contract import Store
from support import NOON, assert_healthy, count, facts, give, install, small_campaign

LATER = NOON + AGE_MS + 60_000


@pytest.fixture
def lost(store: Store) -> list[str]:
    """Order ids of sixty draws whose tasks are gone although nothing was delivered."""
    users = ("ann", "bob", "cid", "dan", "eve", "fay")
    install(store, small_campaign())
    give(store, *users)
    with store.reading() as connection:
        live = load_live(connection, {})
    ids = Ids()
    with store.drawing() as tx:
        requests = [DrawRequest(ids.make(NOON), user, 1, None) for user in users for _ in range(10)]
        result = draw_batch(tx, requests, live=live, now_ms=NOON)
    assert all(isinstance(answer, Drawn) for answer in result.answers)
    store.finish_tasks([task.message_id for task in result.tasks])
    return [task.message_id for task in result.tasks]


def look(store: Store, *, now_ms: int = LATER, busy: bool = False) -> int:
    with store.reading() as connection:
        revisions = {a.revision.revision_id: a.revision for a in load_live(connection, {}).values() if a.revision}

    def revision_of(activity_id: int, revision_id: str) -> Revision:
        if revision_id not in revisions:
            raise NotFound(f"{activity_id} {revision_id}")
        return revisions[revision_id]

    job = Redelivery((store,), revision_of=revision_of, busy=lambda: busy, now_ms=lambda: NOON - 1)
    job._now_ms = lambda: now_ms
    return job.run()


def due(store: Store) -> list[Task]:
    return list(store.due_tasks(LATER, limit=100))


def test_lost_messages_are_sent_again_and_deliver_once(store: Store, lost: list[str]) -> None:
    assert look(store) == len(lost) > 0
    assert sorted(task.message_id for task in due(store)) == sorted(lost)
    bus = InProcessBus(store, CONSUMERS, now_ms=lambda: LATER, facts=facts(store))
    again = due(store)
    bus.deliver(again)
    bus.deliver(again)  # the message that was thought lost turns up after all
    assert count(store, "SELECT COUNT(*) FROM user_credit_order") == len(lost)
    assert_healthy(store, now_ms=LATER)
    assert look(store) == 0


def test_rebates_whose_messages_were_lost_are_given_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redelivery, "RECORDS_MAX", 3)
    install(store, rewarding_campaign())
    for user in ("ann", "bob", "cid"):
        ask(store, user)
    store.finish_tasks([task.message_id for task in due(store)])
    assert look(store) == 6
    again = due(store)
    bus = InProcessBus(store, CONSUMERS, now_ms=lambda: LATER, facts=facts(store))
    bus.deliver(again)
    bus.deliver(again)
    assert count(store, "SELECT COUNT(*) FROM user_credit_order") == 3
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 3
    assert look(store) == 0
    assert_healthy(store, now_ms=LATER)


def test_each_page_of_records_is_looked_at(store: Store, lost: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redelivery, "RECORDS_MAX", 2)
    assert look(store) == len(lost)


def test_what_still_has_a_task_may_be_on_its_way_or_is_imported_is_left_alone(store: Store, lost: list[str]) -> None:
    assert look(store, busy=True) == 0
    assert look(store, now_ms=NOON + AGE_MS - 1) == 0
    with store.writing() as connection:
        for suffix in store.split.suffixes:
            connection.execute(text(f"UPDATE user_award_record{suffix} SET revision_id = 'imported'"))
    assert look(store) == 0
    assert lost


def test_a_job_does_not_look_twice_at_the_same_time(store: Store, lost: list[str]) -> None:
    moments = iter([NOON - 1, LATER, LATER])
    job = Redelivery(
        (store,),
        revision_of=lambda *_: pytest.fail("nothing to read"),
        busy=lambda: False,
        now_ms=lambda: next(moments),
    )
    job._since_ms = LATER - AGE_MS
    assert job.run() == 0
    assert lost
