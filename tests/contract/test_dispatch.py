"""Deliveries that take more than a transaction: written down once, carried out, logged, parked, replayed, dropped."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select, update

from bigmarket.activity.delivery import Facts, deliver_awards
from bigmarket.award.deliveries import (
    ATTEMPTS_MAX,
    BACKOFF_SECONDS,
    WAIT_MAX_MS,
    Answer,
    Attempt,
    AwardDelivery,
    Fulfilled,
    Unfulfilled,
    after,
)
from bigmarket.award.endpoints import Endpoint
from bigmarket.award.message import SEND_AWARD, SendAward, encode
from bigmarket.draw import AwardRecordRow, Outcome
from bigmarket.errors import NotFound, Trouble
from bigmarket.ids import Ids
from bigmarket.jobs import dispatcher as dispatching
from bigmarket.jobs.dispatcher import PLACE_MAX, Dispatcher
from bigmarket.outbox.task import Backlog, Task
from bigmarket.storage import schema as t
from bigmarket.storage.contract import Store
from bigmarket.storage.deliveries import (
    delivery_backlog,
    drop_deliveries,
    find_delivery,
    list_deliveries,
    replay_deliveries,
    settle_deliveries,
)
from bigmarket.storage.doctor import TASK_LAG_LIMIT_MS, examine
from bigmarket.storage.endpoints import add_endpoint, find_endpoint, rotate_secret, set_endpoint_state
from bigmarket.webhooks.address import Allowed
from bigmarket.webhooks.post import Poster
from bigmarket.webhooks.sending import WebhookFulfiller
from receiver import OTHER_SECRET, SECRET, Receiver, Say, receiving
from waiting import eventually

NOW = 1_790_000_000_000
IDS = Ids()
LOOPBACK = Allowed(networks=(ipaddress.ip_network("127.0.0.0/8"),))


def no_seed(activity_id: int, epoch: int) -> bytes:
    raise NotFound(f"activity {activity_id} has no epoch {epoch}")


FACTS = Facts(no_seed, dict)


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> int:
        return self.now


# --- what a draw leaves behind ------------------------------------------------------------------------------------


def won_by(user_id: str, *, config: str = "crm:gold", kind: str = "webhook") -> SendAward:
    return SendAward(user_id, IDS.make(NOW), 1, 1, 102, kind, "金卡 \\ 'gold'", config)


def draw(store: Store, awards: Sequence[SendAward]) -> None:
    records = [
        AwardRecordRow(a.order_id, a.user_id, 1, 9, 102, "gold", 1, None, "create", NOW, "r" * 16, 1, 5, "1/1|all")
        for a in awards
    ]
    tasks = [Task(a.order_id, a.user_id, SEND_AWARD, encode(a)) for a in awards]
    with store.drawing() as tx:
        tx.apply(Outcome(NOW, records=records, tasks=tasks))


def consume(store: Store, awards: Sequence[SendAward], *, now_ms: int = NOW) -> None:
    with store.delivering() as tx:
        deliver_awards(tx, awards, now_ms=now_ms, facts=FACTS)
        tx.finish_tasks([award.order_id for award in awards])


def owed(store: Store, number: int, *, users: int = 5, config: str = "crm:gold") -> list[SendAward]:
    awards = [won_by(f"user{n % users}", config=config) for n in range(number)]
    draw(store, awards)
    consume(store, awards)
    return awards


def states(store: Store) -> list[tuple[str, str, int]]:
    """Record's state, delivery's state and attempts, by order."""
    record, delivery = t.user_award_record.c, t.award_delivery.c
    query = select(record.award_state, delivery.state, delivery.attempts).join_from(
        t.user_award_record, t.award_delivery, record.order_id == delivery.order_id
    )
    with store.reading() as connection:
        return [(*row,) for row in connection.execute(query.order_by(record.order_id))]


def log_of(store: Store, order_id: str) -> list[tuple[int, int | None, str | None]]:
    with store.reading() as connection:
        found = find_delivery(connection, order_id)
    assert found is not None
    return [(line.attempt, line.status, line.reason) for line in found[1]]


@contextmanager
def dispatched(store: Store, fulfillers: dict[str, Any], clock: Any) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(store, fulfillers, now_ms=clock)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        assert dispatcher.stop(timeout_seconds=10)


class Answers:
    """A fulfiller that answers as it is told."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.seen: list[AwardDelivery] = []
        self.lock = threading.Lock()

    def __call__(self, delivery: AwardDelivery, *, now_ms: int) -> Answer:
        assert now_ms >= NOW
        with self.lock:
            self.seen.append(delivery)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def run(store: Store, fulfiller: Any, clock: Clock, *, until_: Any) -> Dispatcher:
    with dispatched(store, {"webhook": fulfiller}, clock) as dispatcher:
        eventually(until_)
    return dispatcher


# --- written down -------------------------------------------------------------------------------------------------


def test_a_delivery_is_written_down_once_and_its_record_waits(store: Store) -> None:
    awards = owed(store, 300)
    consume(store, awards[:200], now_ms=NOW + 5)
    consume(store, awards[150:], now_ms=NOW + 9)
    assert states(store) == [("create", "due", 0)] * 300
    with store.reading() as connection:
        rows = list_deliveries(connection, states=("due",), place=None, limit=1_000)
        assert connection.execute(select(t.task.c.message_id)).all() == []
        message = connection.execute(
            select(t.award_delivery.c.message).where(t.award_delivery.c.order_id == awards[7].order_id)
        ).scalar_one()
    assert {row.create_time_ms for row in rows} == {NOW}
    assert {row.place for row in rows} == {"crm"}
    assert message.encode() == encode(awards[7])


def test_one_that_was_delivered_is_not_due_again_when_its_message_is_repeated(store: Store) -> None:
    (award,) = owed(store, 1)
    answers = Answers(Fulfilled(status=200))
    run(store, answers, Clock(), until_=lambda: states(store) == [("completed", "done", 1)])
    consume(store, [award])
    assert states(store) == [("completed", "done", 1)]


def test_an_award_that_was_taken_back_before_is_not_delivered(store: Store) -> None:
    award = won_by("ann")
    draw(store, [award])
    with store.writing() as connection:
        part = store.split.table_of(t.user_award_record, "ann")
        connection.execute(part.update().values(award_state="fail"))
    consume(store, [award])
    assert states(store) == []


def test_without_a_record_nothing_is_written(store: Store) -> None:
    with pytest.raises(NotFound, match="no award record"), store.delivering() as tx:
        deliver_awards(tx, [won_by("ann")], now_ms=NOW, facts=FACTS)


def test_credits_and_deliveries_share_a_batch(store: Store) -> None:
    credit = won_by("ann", kind="user_credit_blacklist", config="1")
    hook = won_by("bob")
    draw(store, [credit, hook])
    with store.delivering() as tx:
        deliver_awards(tx, [hook, credit], now_ms=NOW, facts=FACTS)
    with store.reading() as connection:
        query = select(t.user_award_record.c.user_id, t.user_award_record.c.award_state)
        assert dict(connection.execute(query).tuples().all()) == {"ann": "completed", "bob": "create"}


# --- carried out --------------------------------------------------------------------------------------------------


def test_every_delivery_is_carried_out_and_its_record_completed(store: Store) -> None:
    awards = owed(store, 60)
    answers = Answers(Fulfilled({"code": "A-1"}, 200))
    dispatcher = run(store, answers, Clock(), until_=lambda: not waiting(store))
    assert states(store) == [("completed", "done", 1)] * 60
    assert sorted(seen.order_id for seen in answers.seen) == sorted(award.order_id for award in awards)
    assert log_of(store, awards[0].order_id) == [(1, 200, None)]
    assert dispatcher.stats() == (60, 0, 0, 0, 0)
    with store.reading() as connection:
        found = find_delivery(connection, awards[3].order_id)
    assert found is not None
    assert found[0].result == {"code": "A-1"}


def waiting(store: Store) -> int:
    with store.reading() as connection:
        return delivery_backlog(connection).waiting


def test_a_failure_waits_longer_each_time_and_is_parked_at_last(store: Store) -> None:
    (award,) = owed(store, 1)
    clock = Clock()
    answers = Answers(Unfulfilled("503 busy" * 60, 503))
    with dispatched(store, {"webhook": answers}, clock):
        for number in range(1, ATTEMPTS_MAX + 1):
            eventually(lambda number=number: states(store)[0][2] == number)
            if number < ATTEMPTS_MAX:
                with store.reading() as connection:
                    found = find_delivery(connection, award.order_id)
                assert found is not None
                wait = found[0].next_at_ms - clock.now
                least = BACKOFF_SECONDS[number - 1] * 1_000
                assert least <= wait <= least * 1.25 + 1_000
                clock.now = found[0].next_at_ms
    assert states(store) == [("create", "parked", ATTEMPTS_MAX)]
    assert [status for _, status, _ in log_of(store, award.order_id)] == [503] * ATTEMPTS_MAX
    with store.reading() as connection:
        assert delivery_backlog(connection) == Backlog(0, None, 1)
        (row,) = list_deliveries(connection, states=("parked",), place=None, limit=9)
    assert row.reason == ("503 busy" * 60)[:255]


def test_what_is_hopeless_is_parked_at_once(store: Store) -> None:
    owed(store, 1)
    run(
        store, Answers(Unfulfilled("gone", 410, hopeless=True)), Clock(),
        until_=lambda: states(store) == [("create", "parked", 1)],
    )  # fmt: skip


def test_trouble_of_our_own_counts_as_no_attempt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "PLACE_PAUSE_SECONDS", 0.05)
    (award,) = owed(store, 1)
    answers = Answers(Trouble("the database is away"), Trouble("still"), Fulfilled())
    dispatcher = run(store, answers, Clock(), until_=lambda: states(store) == [("completed", "done", 1)])
    assert log_of(store, award.order_id) == [(1, None, None)]
    assert dispatcher.stats().troubles == 2


def test_a_delivery_that_got_no_thread_is_begun_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    owed(store, 3)
    begin, refused = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if thread.name == "delivery" and len(refused) < 2:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    dispatcher = run(
        store, Answers(Fulfilled()), Clock(), until_=lambda: states(store) == [("completed", "done", 1)] * 3
    )
    assert (len(refused), dispatcher.stats().troubles) == (2, 2)


def test_a_fault_of_ours_counts_and_is_told(store: Store) -> None:
    (award,) = owed(store, 1)
    run(store, Answers(ZeroDivisionError("oh")), Clock(), until_=lambda: states(store) == [("create", "due", 1)])
    assert log_of(store, award.order_id) == [(1, None, "ZeroDivisionError: oh")]


def test_a_kind_that_nobody_here_knows_is_left_alone(store: Store) -> None:
    owed(store, 1)
    with dispatched(store, {}, Clock()):
        threading.Event().wait(0.6)
    assert states(store) == [("create", "due", 0)]


def test_attempts_are_written_down_when_the_database_is_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    owed(store, 5)
    failing = [True]

    def settle(*args: Any, **more: Any) -> None:
        if failing[0]:
            raise Trouble("away")
        settle_deliveries(*args, **more)

    monkeypatch.setattr(dispatching, "settle_deliveries", settle)
    answers = Answers(Fulfilled())
    with dispatched(store, {"webhook": answers}, Clock()) as dispatcher:
        eventually(lambda: dispatcher.stats().troubles > 1)
        assert waiting(store) == 5
        failing[0] = False
        eventually(lambda: not waiting(store))
    assert len(answers.seen) == 5, "none was tried twice"


def test_a_slow_place_does_not_hold_the_others_up(store: Store) -> None:
    owed(store, 40, config="slow")
    owed(store, 30, config="quick")
    release = threading.Event()
    busy = [0, 0]
    lock = threading.Lock()

    def fulfil(delivery: AwardDelivery, *, now_ms: int) -> Answer:
        if delivery.place == "slow":
            with lock:
                busy[0] += 1
                busy[1] = max(busy)
            release.wait(10)
            with lock:
                busy[0] -= 1
        return Fulfilled(status=now_ms and 200)

    def left(place: str) -> int:
        with store.reading() as connection:
            return len(list_deliveries(connection, states=("due",), place=place, limit=100))

    with dispatched(store, {"webhook": fulfil}, Clock()) as dispatcher:
        eventually(lambda: left("quick") == 0)
        assert left("slow") == 40
        assert dispatcher.stats().in_flight == PLACE_MAX
        release.set()
        eventually(lambda: left("slow") == 0)
    assert busy[1] == PLACE_MAX


def test_stopping_writes_down_what_is_under_way_and_begins_nothing_more(store: Store) -> None:
    owed(store, 20)
    began = threading.Event()
    release = threading.Event()

    def fulfil(delivery: AwardDelivery, *, now_ms: int) -> Answer:
        began.set()
        release.wait(10)
        return Fulfilled(status=200 if delivery and now_ms else 0)

    dispatcher = Dispatcher(store, {"webhook": fulfil}, now_ms=Clock())
    dispatcher.start()
    assert began.wait(5)
    assert not dispatcher.stop(timeout_seconds=0.1)
    second = Dispatcher(store, {"webhook": fulfil}, now_ms=Clock())
    second.start()
    threading.Timer(0.2, release.set).start()
    eventually(lambda: states(store).count(("completed", "done", 1)) >= PLACE_MAX)
    assert second.stop(timeout_seconds=5)


def test_two_processes_that_both_try_log_both_and_complete_once(store: Store) -> None:
    (award,) = owed(store, 1)
    delivery = AwardDelivery(award.order_id, award.user_id, 1, 102, "webhook", "crm", encode(award), 0, NOW)
    good = Attempt(delivery, Fulfilled(status=200), NOW, 5)
    bad = Attempt(delivery, Unfulfilled("no answer in time"), NOW, 9)
    for attempt in (good, bad):
        with store.updating() as connection:
            settle_deliveries(connection, [attempt], split=store.split)
    assert states(store) == [("completed", "done", 1)]
    assert log_of(store, award.order_id) == [(1, 200, None), (2, None, "no answer in time")]


# --- by hand ------------------------------------------------------------------------------------------------------


def park(store: Store, number: int, *, config: str = "crm") -> list[str]:
    awards = owed(store, number, config=config)
    with dispatched(store, {"webhook": Answers(Unfulfilled("gone", 410, hopeless=True))}, Clock()):
        eventually(lambda: not waiting(store))
    return [award.order_id for award in awards]


def replay(store: Store, order_id: str | None = None, *, place: str | None = None) -> int:
    with store.writing() as connection:
        return replay_deliveries(connection, order_id=order_id, place=place, kinds=("webhook",), now_ms=NOW + 9)


def drop(store: Store, order_id: str | None = None, *, place: str | None = None) -> int:
    with store.writing() as connection:
        return drop_deliveries(
            connection, order_id=order_id, place=place, limit=100, now_ms=NOW + 9, split=store.split
        )


def test_parked_ones_are_replayed_one_by_one_by_place_or_all_at_once(store: Store) -> None:
    here, there = park(store, 3), park(store, 2, config="erp")
    assert replay(store, "01JD0000000000000000000009") == 0
    assert replay(store, here[1]) == 1
    assert replay(store, here[1]) == 0
    assert replay(store, place="erp") == 2
    assert replay(store) == 2
    answers = Answers(Fulfilled(status=204))
    run(store, answers, Clock(NOW + 10), until_=lambda: not waiting(store))
    assert states(store) == [("completed", "done", 1)] * 5
    assert log_of(store, there[0]) == [(1, 410, "gone"), (2, 204, None)]


def test_what_waits_for_its_next_attempt_is_made_due_now_by_a_replay(store: Store) -> None:
    first, second = owed(store, 2)
    clock = Clock()
    failing = Answers(Unfulfilled("500 Internal Server Error", 500))
    run(store, failing, clock, until_=lambda: [attempts for _, _, attempts in states(store)] == [1, 1])
    assert replay(store, first.order_id) == 1
    assert replay(store, first.order_id) == 0, "it is due already"
    assert replay(store) == 1
    answers = Answers(Fulfilled(status=200))
    run(store, answers, Clock(NOW + 10), until_=lambda: not waiting(store))
    assert states(store) == [("completed", "done", 1)] * 2
    assert log_of(store, second.order_id) == [(1, 500, "500 Internal Server Error"), (2, 200, None)]


def test_a_replay_of_what_was_delivered_uses_the_same_id_and_may_fail(store: Store) -> None:
    (award,) = owed(store, 1)
    run(store, Answers(Fulfilled(status=200)), Clock(), until_=lambda: not waiting(store))
    assert replay(store, award.order_id) == 1
    assert states(store) == [("completed", "due", 0)]
    failing = Answers(Unfulfilled("gone", 410, hopeless=True))
    run(store, failing, Clock(NOW + 10), until_=lambda: not waiting(store))
    assert states(store) == [("completed", "parked", 1)]
    assert drop(store, award.order_id) == 1
    assert states(store) == [("completed", "done", 1)], "it had been delivered"


def test_things_handed_over_are_not_replayed(store: Store) -> None:
    (order_id,) = park(store, 1)
    with store.writing() as connection:
        assert replay_deliveries(connection, order_id=order_id, place=None, kinds=("code",), now_ms=NOW) == 0


def test_what_is_dropped_ends_as_fail(store: Store) -> None:
    ids = park(store, 3)
    assert drop(store, ids[0]) == 1
    assert drop(store, place="erp") == 0
    assert drop(store) == 2
    assert drop(store) == 0
    assert states(store) == [("fail", "void", 1)] * 3


# --- doctor -------------------------------------------------------------------------------------------------------


def broken(store: Store, *, now_ms: int = NOW) -> set[str]:
    """Promises about messages that do not hold."""
    return {f.name for f in examine(store, now_ms=now_ms, grace_ms=0) if not f.ok and f.name[0] == "M"}


def test_doctor_sees_deliveries_that_are_not_as_their_records(store: Store) -> None:
    done, failed, parked, late = owed(store, 4, users=4)
    assert broken(store) == set()
    assert broken(store, now_ms=NOW + TASK_LAG_LIMIT_MS + 1) == {"M4"}
    tamper(store, done, state="done")
    assert broken(store) == {"M5"}
    tamper(store, done, state="due")
    tamper(store, failed, state="void")
    assert broken(store) == {"M5"}
    tamper(store, failed, state="due")
    tamper(store, parked, state="parked", reason="")
    assert broken(store) == {"M3"}
    tamper(store, parked, state="parked", reason="gone")
    assert broken(store) == set()
    assert broken(store, now_ms=NOW + TASK_LAG_LIMIT_MS + 1) == {"M4"}
    tamper(store, late, user_id="somebody")
    assert "M5" in broken(store)


def tamper(store: Store, award: SendAward, **values: str) -> None:
    with store.writing() as connection:
        connection.execute(
            update(t.award_delivery).where(t.award_delivery.c.order_id == award.order_id).values(values)
        )


# --- webhooks -----------------------------------------------------------------------------------------------------


@contextmanager
def crm(store: Store, receiver: Receiver, clock: Clock) -> Iterator[Dispatcher]:
    with store.writing() as connection:
        if find_endpoint(connection, "crm") is None:
            add_endpoint(connection, Endpoint("crm", receiver.url, SECRET, None, None, "open", NOW))

    def find(name: str) -> Endpoint | None:
        with store.reading() as connection:
            return find_endpoint(connection, name)

    def close(name: str) -> None:
        with store.updating() as connection:
            set_endpoint_state(connection, name, "close")

    fulfiller = WebhookFulfiller(Poster(allowed=LOOPBACK), find=find, close=close)
    with dispatched(store, {"webhook": fulfiller}, clock) as dispatcher:
        yield dispatcher


def real_clock() -> Clock:
    from bigmarket.app import now_ms  # noqa: PLC0415

    return Clock(now_ms())


def test_a_receiver_gets_each_award_once_signed(store: Store) -> None:
    awards = owed(store, 20)
    with receiving() as receiver, crm(store, receiver, real_clock()):
        eventually(lambda: not waiting(store))
    assert sorted(receiver.ids) == sorted(award.order_id for award in awards)
    assert all(call.genuine for call in receiver.calls)
    call = next(call for call in receiver.calls if call.webhook_id == awards[3].order_id)
    assert call.body == {
        "type": "award.won",
        "timestamp": "2026-09-21T14:13:20.000Z",
        "data": {
            "userId": "user3",
            "orderId": awards[3].order_id,
            "activityId": 1,
            "awardId": 102,
            "awardKey": "webhook",
            "awardTitle": "金卡 \\ 'gold'",
            "awardConfig": "crm:gold",
        },
    }
    assert call.headers["content-type"] == "application/json"
    assert receiver.most_at_once <= PLACE_MAX


def test_a_repeat_is_the_same_call_again(store: Store) -> None:
    owed(store, 1)
    clock = real_clock()
    with receiving(lambda _, before: Say(200 if before else 500)) as receiver, crm(store, receiver, clock):
        eventually(lambda: states(store) == [("create", "due", 1)])
        clock.now += 60_000
        eventually(lambda: states(store) == [("completed", "done", 2)])
    first, second = receiver.calls
    assert (first.webhook_id, first.raw) == (second.webhook_id, second.raw)
    assert first.genuine
    assert second.genuine


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (Say(500, body=b"<h1>Oops</h1>\n"), "500 Internal Server Error: <h1>Oops</h1>"),
        (Say(302, {"Location": "http://169.254.169.254/"}), "302 Found: redirects are not followed"),
        (Say(404, body=b""), "404 Not Found"),
        (Say(599, body=b""), "599"),
    ],
)
def test_other_answers_are_failures(store: Store, say: Say, reason: str) -> None:
    (award,) = owed(store, 1)
    with receiving(lambda *_: say) as receiver, crm(store, receiver, real_clock()):
        eventually(lambda: states(store) == [("create", "due", 1)])
    ((number, status, told),) = log_of(store, award.order_id)
    assert (number, status) == (1, say.status)
    assert told is not None
    assert told.startswith(reason)


def test_gone_closes_the_endpoint_and_others_wait(store: Store) -> None:
    (award,) = owed(store, 1)
    clock = real_clock()
    with receiving(lambda *_: Say(410)) as receiver, crm(store, receiver, clock):
        eventually(lambda: states(store) == [("create", "parked", 1)])
        (later,) = owed(store, 1)
        eventually(lambda: states(store)[1:] == [("create", "due", 1)])
        assert log_of(store, later.order_id) == [(1, None, "endpoint crm is closed")]
        assert log_of(store, award.order_id) == [(1, 410, "410 Gone: {}")]
        assert len(receiver.calls) == 1
        with store.writing() as connection:
            set_endpoint_state(connection, "crm", "open")
        receiver.answering = lambda *_: Say(200)
        clock.now += 60_000
        eventually(lambda: states(store)[1:] == [("completed", "done", 2)])


def test_an_endpoint_that_does_not_exist_is_waited_for(store: Store) -> None:
    (award,) = owed(store, 1, config="erp")
    with receiving() as receiver, crm(store, receiver, real_clock()):
        eventually(lambda: states(store) == [("create", "due", 1)])
    assert log_of(store, award.order_id) == [(1, None, "there is no endpoint erp")]


def test_during_a_rotation_both_secrets_sign(store: Store) -> None:
    owed(store, 1)
    clock = real_clock()
    with receiving() as receiver:
        receiver.secrets = (OTHER_SECRET,)
        with crm(store, receiver, clock):
            eventually(lambda: not waiting(store))
            assert not receiver.calls[-1].genuine
            with store.writing() as connection:
                rotate_secret(connection, "crm", secret=OTHER_SECRET, previous_until_ms=clock.now + 60_000)
            for secrets in ((SECRET,), (OTHER_SECRET,)):
                receiver.secrets = secrets
                owed(store, 1)
                eventually(lambda: not waiting(store))
                assert receiver.calls[-1].genuine
            clock.now += 60_000
            receiver.secrets = (SECRET,)
            owed(store, 1)
            eventually(lambda: not waiting(store))
            assert not receiver.calls[-1].genuine, "the old one is no longer valid"


def test_retry_after_is_honoured_within_bounds() -> None:
    delivery = AwardDelivery("01JD0000000000000000000001", "ann", 1, 102, "webhook", "crm", b"{}")
    for asked, least in ((3_600_000, 3_600_000), (10 * WAIT_MAX_MS, WAIT_MAX_MS), (1, BACKOFF_SECONDS[0] * 1_000)):
        then = after(Attempt(delivery, Unfulfilled("busy", 429, wait_ms=asked), NOW, 0))
        assert least <= then.next_at_ms - NOW <= least * 1.25


def test_a_url_that_may_no_longer_be_called_is_told(store: Store) -> None:
    owed(store, 1)
    with receiving() as receiver, crm(store, receiver, real_clock()):
        eventually(lambda: not waiting(store))
        with store.writing() as connection:
            connection.execute(t.webhook_endpoint.update().values(url="http://crm.example/"))
        (later,) = owed(store, 1)
        eventually(lambda: bool(log_of(store, later.order_id)))
    ((_, _, reason),) = log_of(store, later.order_id)
    assert reason is not None
    assert "BIGMARKET_WEBHOOK_ALLOW" in reason
    assert len(receiver.calls) == 1


# --- teeth --------------------------------------------------------------------------------------------------------


class ForgetfulTx:
    """Does not look whether the record still waits, nor whether the delivery is written down."""

    def __init__(self, tx: Any) -> None:
        self.tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tx, name)

    def add_deliveries(self, deliveries: Sequence[AwardDelivery], *, now_ms: int) -> None:
        ids = [(one.order_id,) for one in deliveries]
        self.tx._bulk.write("DELETE FROM award_delivery WHERE order_id IN ({rows})", ids) if _mysql(
            self.tx
        ) else self.tx._bulk.write("DELETE FROM award_delivery WHERE order_id IN (VALUES {rows})", ids)
        self.tx.add_deliveries(deliveries, now_ms=now_ms)


def _mysql(tx: Any) -> bool:
    return "mysql" in type(tx._bulk).__module__


def test_without_the_idempotent_insert_a_repeated_message_is_delivered_again(store: Store) -> None:
    (award,) = owed(store, 1)
    with receiving(lambda *_: Say(500)) as receiver, crm(store, receiver, real_clock()):
        receiver.wait_for(1)
        eventually(lambda: states(store) == [("create", "due", 1)])
        consume(store, [award])
        threading.Event().wait(0.6)
        assert len(receiver.calls) == 1, "what is written down stays as it is"
        with store.delivering() as tx:
            deliver_awards(ForgetfulTx(tx), [award], now_ms=NOW, facts=FACTS)  # type: ignore[arg-type]
        receiver.wait_for(2)
