"""What is won is delivered once in effect, or parked with a reason."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text, update

from bigmarket.activity.delivery import DeliveryTx
from bigmarket.award.message import SEND_AWARD, SendAward, encode
from bigmarket.award.records import RecordKey, roll_credit
from bigmarket.bus.in_process import InProcessBus
from bigmarket.credit.model import CreditAccountClosed, CreditTrade
from bigmarket.draw import AwardRecordRow, Outcome
from bigmarket.errors import Contention, NotFound
from bigmarket.ids import Ids
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.outbox.parking import ParkedTask, parked, redrive
from bigmarket.outbox.relay import Relay
from bigmarket.outbox.task import ATTEMPTS_MAX, BACKOFF_MAX_MS, GRACE_MS, Task, failed
from bigmarket.storage import schema as t
from bigmarket.storage.contract import Store
from support import count, facts

SEED = b"0123456789abcdef0123456789abcdef"
NOW = 1_790_000_000_000
IDS = Ids()


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(store: Store) -> Clock:
    with store.writing() as connection:
        connection.execute(
            insert(t.seed_epoch).values(activity_id=1, epoch=1, seed_sha256="0" * 64, seed=SEED, open_time_ms=NOW)
        )
    return Clock()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.outbox.relay.PAUSE_MIN_SECONDS", 0.0)
    monkeypatch.setattr("bigmarket.outbox.relay.PAUSE_MAX_SECONDS", 0.0)


# --- what a draw leaves behind ------------------------------------------------------------------------------------


def task_of(
    user_id: str, *, config: str = "0.01,5", kind: str = "user_credit_random", topic: str = SEND_AWARD, epoch: int = 1
) -> Task:
    order_id = IDS.make(NOW)
    message = SendAward(user_id, order_id, 1, epoch, 101, kind, "points", config)
    return Task(order_id, user_id, topic, encode(message))


def record_of(task: Task) -> AwardRecordRow:
    return AwardRecordRow(
        task.message_id, task.user_id, 1, 9, 101, "points", 1, None, "create", NOW, "r" * 16, 1, 5, "1/1|all"
    )


def commit(store: Store, tasks: Sequence[Task]) -> list[Task]:
    """Write the tasks and their award records, as a draw does."""
    outcome = Outcome(NOW, records=[record_of(task) for task in tasks], tasks=list(tasks))
    with store.drawing() as tx:
        tx.apply(outcome)
    return list(tasks)


def win(store: Store, count: int, *, users: int = 7) -> list[Task]:
    return commit(store, [task_of(f"user{n % users}") for n in range(count)])


def bus_of(store: Any, clock: Clock) -> InProcessBus:
    return InProcessBus(store, CONSUMERS, now_ms=clock, facts=facts(store))


def relay_of(store: Store, clock: Clock, *, bus: InProcessBus | None = None) -> Relay:
    return Relay(store, deliver=(bus or bus_of(store, clock)).deliver, now_ms=clock)


def turns(relay: Relay, *, most: int = 2_000) -> None:
    relay._scan_at = 0.0
    for _ in range(most):
        if not relay._turn():
            return
    raise AssertionError("the relay never came to rest")


# --- the checker --------------------------------------------------------------------------------------------------

BROKEN = {
    "C1 balance is not the sum of orders": """
        SELECT user_id FROM (
            SELECT user_id, available_cents AS cents FROM user_credit_account
            UNION ALL SELECT user_id, -amount_cents FROM user_credit_order) AS moves
        GROUP BY user_id HAVING SUM(cents) <> 0""",
    "C1 earned is not the sum of orders": """
        SELECT user_id FROM (
            SELECT user_id, total_cents AS cents FROM user_credit_account
            UNION ALL SELECT user_id, -amount_cents FROM user_credit_order) AS moves
        GROUP BY user_id HAVING SUM(cents) <> 0""",
    "M2 completed record without its credit": """
        SELECT order_id FROM user_award_record
        WHERE award_state = 'completed' AND order_id NOT IN (SELECT out_business_no FROM user_credit_order)""",
    "M2 credit without a completed record": """
        SELECT order_id FROM user_credit_order
        WHERE out_business_no NOT IN (SELECT order_id FROM user_award_record WHERE award_state = 'completed')""",
    "M1 record that waits for a task that is gone": """
        SELECT order_id FROM user_award_record
        WHERE award_state = 'create' AND order_id NOT IN (SELECT message_id FROM task)""",
    "M2 completed record with its task undone": """
        SELECT message_id FROM task
        WHERE message_id IN (SELECT order_id FROM user_award_record WHERE award_state = 'completed')""",
    "M3 parked without a reason": "SELECT message_id FROM task WHERE state = 'parked' AND reason IS NULL",
}


def broken(store: Store) -> set[str]:
    """The promises that do not hold now."""
    with store.reading() as connection:
        return {name for name, query in BROKEN.items() if connection.execute(text(query)).first() is not None}


def credits_of(store: Store) -> dict[str, int]:
    """Amount of every credit order by its out_business_no."""
    order = t.user_credit_order.c
    with store.reading() as connection:
        return dict(connection.execute(select(order.out_business_no, order.amount_cents)).tuples().all())


def states(store: Store) -> dict[str, int]:
    with store.reading() as connection:
        return dict(connection.execute(text("SELECT state, COUNT(*) FROM task GROUP BY state")).tuples().all())


def assert_delivered(store: Store, tasks: Sequence[Task]) -> None:
    assert broken(store) == set()
    assert states(store) == {}
    assert credits_of(store).keys() == {task.message_id for task in tasks}


# --- the promise --------------------------------------------------------------------------------------------------


def test_every_winner_gets_what_the_dice_say(store: Store, clock: Clock) -> None:
    tasks = win(store, 600)
    bus_of(store, clock).deliver(tasks)
    assert_delivered(store, tasks)
    assert credits_of(store) == {task.message_id: 1 + roll_credit(SEED, task.message_id, 500) for task in tasks}


def test_fixed_amounts_and_several_kinds_in_one_batch(store: Store, clock: Clock) -> None:
    tasks = commit(store, [task_of("ann", kind="user_credit_blacklist", config="2.5"), task_of("ann", config="1,1")])
    bus_of(store, clock).deliver(tasks)
    assert_delivered(store, tasks)
    assert sorted(credits_of(store).values()) == [100, 250]


def test_a_repeated_delivery_changes_nothing(store: Store, clock: Clock) -> None:
    tasks = win(store, 300)
    bus = bus_of(store, clock)
    bus.deliver(tasks)
    before = credits_of(store)
    bus.deliver(tasks)
    bus.deliver([*tasks[:10], *tasks[:10]])
    assert credits_of(store) == before
    assert_delivered(store, tasks)


def test_a_batch_may_hold_a_message_twice(store: Store, clock: Clock) -> None:
    tasks = win(store, 3)
    bus_of(store, clock).deliver([*tasks, *tasks])
    assert_delivered(store, tasks)


def test_the_relay_delivers_what_it_is_offered(store: Store, clock: Clock) -> None:
    relay = relay_of(store, clock)
    relay.start()
    tasks = win(store, 1_000)
    relay.offer(tasks)
    assert relay.stop(timeout_seconds=20)
    assert_delivered(store, tasks)


# --- poison -------------------------------------------------------------------------------------------------------


def bad_json() -> Task:
    return task_of("ann")._replace(message=b"{")


def closed_account(store: Store) -> Task:
    with store.writing() as connection:
        connection.execute(
            insert(t.user_credit_account).values(
                user_id="closed", total_cents=0, available_cents=0, account_status="close"
            )
        )
    return task_of("closed")


POISONS: dict[str, tuple[Callable[[Store], Task], str]] = {
    "a kind that nobody delivers": (lambda _: task_of("ann", kind="physical"), "NotFound: No kind 'physical'"),
    "a config that cannot be read": (lambda _: task_of("ann", config="5,1"), "BadInput: min 5 must not be above"),
    "a topic without consumer": (lambda _: task_of("ann", topic="send_thanks"), "NotFound: No consumer for topic"),
    "a message that is no JSON": (lambda _: bad_json(), "DecodeError"),
    "a seed that is gone": (lambda _: task_of("ann", epoch=2), "NotFound: Activity 1 has no seed epoch 2"),
    "a closed credit account": (closed_account, "CreditAccountClosed"),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_poison_is_parked_with_its_reason_and_its_neighbours_are_delivered(
    store: Store, clock: Clock, name: str
) -> None:
    make, reason = POISONS[name]
    relay = relay_of(store, clock)
    neighbours = [task_of(f"user{n}") for n in range(255)]
    poison = make(store)
    relay.offer(commit(store, [*neighbours[:100], poison, *neighbours[100:]]))
    turns(relay)
    assert states(store) == {"fail": 1}
    for _ in range(ATTEMPTS_MAX):
        clock.now += BACKOFF_MAX_MS
        turns(relay)
    assert states(store) == {"parked": 1}
    assert credits_of(store).keys() == {task.message_id for task in neighbours}
    (found,) = parked(store)
    assert (found.message_id, found.attempts, found.message) == (poison.message_id, ATTEMPTS_MAX, poison.message)
    assert found.reason.startswith(reason)
    assert broken(store) == set()
    assert store.backlog() == (0, None, 1)


def test_a_message_without_a_record_is_parked_rather_than_dropped(store: Store, clock: Clock) -> None:
    task = task_of("ann")
    with store.drawing() as tx:
        tx.apply(Outcome(NOW, tasks=[task]))
    relay = relay_of(store, clock)
    for _ in range(ATTEMPTS_MAX):
        clock.now += BACKOFF_MAX_MS
        turns(relay)
    (found,) = parked(store)
    assert "There is no award record" in found.reason


def test_parked_tasks_are_redriven_one_or_all(store: Store, clock: Clock) -> None:
    tasks = commit(store, [task_of(f"user{n}") for n in range(3)])
    with store.writing() as connection:
        connection.execute(update(t.task).values(state="parked", reason="trial", attempts=ATTEMPTS_MAX))
    with pytest.raises(NotFound):
        redrive(store, message_id="nobody", now_ms=clock())
    assert redrive(store, message_id=tasks[0].message_id, now_ms=clock()) == 1
    with pytest.raises(NotFound):
        redrive(store, message_id=tasks[0].message_id, now_ms=clock())
    relay = relay_of(store, clock)
    turns(relay)
    assert states(store) == {"parked": 2}
    assert credits_of(store).keys() == {tasks[0].message_id}
    assert redrive(store, now_ms=clock()) == 2
    turns(relay)
    assert_delivered(store, tasks)
    assert redrive(store, now_ms=clock()) == 0


def test_a_late_failure_does_not_undo_a_delivery(store: Store, clock: Clock) -> None:
    (task,) = win(store, 1)
    bus_of(store, clock).deliver([task])
    store.fail_task(failed(task, reason="a second relay lost the race", now_ms=clock()))
    assert_delivered(store, [task])


# --- crashes ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@dataclass
class KilledTx:
    """A transaction whose process dies before (or after) one of its steps."""

    tx: DeliveryTx
    before: str = ""
    after: str = ""

    def _step(self, name: str, run: Callable[[], Any]) -> Any:
        if name == self.before:
            raise Killed
        result = run()
        if name == self.after:
            raise Killed
        return result

    def complete_records(self, records: Sequence[RecordKey]) -> set[str]:
        completed: set[str] = self._step("complete_records", lambda: self.tx.complete_records(records))
        return completed

    def add_credits(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        self._step("add_credits", lambda: self.tx.add_credits(trades, now_ms=now_ms))

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        self._step("finish_tasks", lambda: self.tx.finish_tasks(message_ids))


@dataclass
class Wrapped:
    """The store, with its delivery transaction wrapped."""

    store: Store
    wrap: Callable[[DeliveryTx], Any]
    after_commit: bool = False

    def reading(self) -> AbstractContextManager[Connection]:
        return self.store.reading()

    @contextmanager
    def delivering(self) -> Iterator[Any]:
        with self.store.delivering() as tx:
            yield self.wrap(tx)
        if self.after_commit:
            raise Killed


STEPS = ("complete_records", "add_credits", "finish_tasks")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_between_two_steps_leaves_nothing_half_done(store: Store, clock: Clock, step: str, when: str) -> None:
    tasks = win(store, 50)
    dying = bus_of(Wrapped(store, lambda tx: KilledTx(tx, **{when: step})), clock)
    with pytest.raises(Killed):
        dying.deliver(tasks)
    assert states(store) == {"create": 50}
    assert credits_of(store) == {}
    clock.now += GRACE_MS
    turns(relay_of(store, clock))
    assert_delivered(store, tasks)


def test_a_kill_after_the_commit_repeats_the_delivery_without_effect(store: Store, clock: Clock) -> None:
    tasks = win(store, 50)
    with pytest.raises(Killed):
        bus_of(Wrapped(store, lambda tx: tx, after_commit=True), clock).deliver(tasks)
    before = credits_of(store)
    relay = relay_of(store, clock)
    relay.offer(tasks)
    turns(relay)
    assert credits_of(store) == before
    assert_delivered(store, tasks)


def test_what_a_dropped_relay_held_is_found_by_the_next(store: Store, clock: Clock) -> None:
    tasks = win(store, 700)
    dropped = relay_of(store, clock)
    dropped.offer(tasks)
    dropped._turn()
    assert states(store)["create"] > 0
    clock.now += GRACE_MS
    turns(relay_of(store, clock))
    assert_delivered(store, tasks)


def test_a_running_relay_finds_what_another_process_left(store: Store, clock: Clock) -> None:
    relay = relay_of(store, clock)
    turns(relay)
    clock.now += 1
    outcome_ms = clock.now
    tasks = [task_of("ann") for _ in range(300)]
    with store.drawing() as tx:
        tx.apply(Outcome(outcome_ms, records=[record_of(task) for task in tasks], tasks=tasks))
    turns(relay)
    assert states(store) == {"create": 300}
    clock.now += GRACE_MS
    turns(relay)
    assert_delivered(store, tasks)


def test_two_relays_on_one_store_deliver_once_in_effect(store: Store, clock: Clock) -> None:
    tasks = win(store, 2_000)
    relays = [relay_of(store, clock) for _ in range(2)]
    for relay in relays:
        relay.offer(tasks)
        relay.start()
    assert [relay.stop(timeout_seconds=30) for relay in relays] == [True, True]
    assert_delivered(store, tasks)


def test_concurrent_deliveries_of_the_same_tasks_have_one_effect(store: Store, clock: Clock) -> None:
    tasks = win(store, 64)
    bus = bus_of(store, clock)

    def deliver(batch: Sequence[Task]) -> None:
        for _ in range(100):  # a slow machine may not let all of them through in time
            with suppress(Contention):
                return bus.deliver(batch)
        raise AssertionError("never got through")

    threads = [threading.Thread(target=deliver, args=(tasks[n:] + tasks[:n],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_delivered(store, tasks)


def test_contention_is_waited_out_without_counting(store: Store, clock: Clock) -> None:
    tasks = win(store, 300)
    troubles = iter([Contention("locked")] * 5)

    def deliver(batch: Sequence[Task]) -> None:
        for trouble in troubles:
            raise trouble
        assert count(store, "SELECT MAX(attempts) FROM task") == 0
        bus_of(store, clock).deliver(batch)

    relay = Relay(store, deliver=deliver, now_ms=clock)
    relay.offer(tasks)
    turns(relay)
    assert relay.troubles == 5
    assert (relay.failed, relay.parked) == (0, 0)
    assert_delivered(store, tasks)


# --- the outbox's queries -----------------------------------------------------------------------------------------


def open_one_close_another(store: Store) -> list[CreditTrade]:
    """A trade each for an account that is open, one that is not there yet and one that is closed."""
    empty = {"total_cents": 0, "available_cents": 0}
    with store.writing() as connection:
        connection.execute(insert(t.user_credit_account).values(user_id="ann", account_status="open", **empty))
        connection.execute(insert(t.user_credit_account).values(user_id="cid", account_status="close", **empty))
    return [CreditTrade(IDS.make(NOW), user, "award", 100, f"one-{user}") for user in ("ann", "bob", "cid")]


def test_credits_open_accounts_that_are_missing_and_never_go_to_closed_ones(store: Store) -> None:
    trades = open_one_close_another(store)
    with pytest.raises(CreditAccountClosed), store.delivering() as tx:
        tx.add_credits(trades, now_ms=NOW)
    assert count(store, "SELECT COUNT(*) FROM user_credit_order") == 0
    assert count(store, "SELECT SUM(available_cents) FROM user_credit_account") == 0
    with store.delivering() as tx:
        tx.add_credits(trades[:2], now_ms=NOW)
    assert count(store, "SELECT COUNT(*) FROM user_credit_order") == 2
    assert count(store, "SELECT COUNT(*) FROM user_credit_account WHERE available_cents = 100") == 2


def test_teeth_without_a_look_at_closed_accounts_an_order_moves_nothing(store: Store) -> None:
    trades = open_one_close_another(store)
    with store.delivering() as tx:
        tx.closed_accounts = lambda _: set()  # type: ignore[method-assign]
        tx.add_credits(trades, now_ms=NOW)
    assert count(store, "SELECT SUM(amount_cents) FROM user_credit_order") == 300
    assert count(store, "SELECT SUM(available_cents) FROM user_credit_account") == 200


def test_due_tasks_are_those_whose_time_has_come_oldest_first(store: Store, clock: Clock) -> None:
    rows = {
        "1 again": ("fail", NOW, "x"),
        "2 old": ("create", NOW - 9_000, None),
        "3 young": ("create", NOW + 1, None),
        "4 later": ("fail", NOW + 20, "x"),
        "5 stuck": ("parked", NOW - 9_999, "x"),
    }
    with store.writing() as connection:
        for name, (state, next_at_ms, reason) in rows.items():
            values = {"message_id": name, "state": state, "next_at_ms": next_at_ms, "reason": reason}
            connection.execute(insert(t.task).values(user_id="ann", topic="x", message="{}", attempts=0, **values))
    due = store.due_tasks(clock(), limit=9)
    assert [(task.message_id, task.message) for task in due] == [("1 again", b"{}"), ("2 old", b"{}")]
    clock.now += 20
    assert [task.message_id[0] for task in store.due_tasks(clock(), limit=9)] == ["1", "2", "3", "4"]
    assert [task.message_id[0] for task in store.due_tasks(clock(), limit=3)] == ["1", "2", "3"]
    assert store.backlog() == (4, NOW - 9_000, 1)


def test_a_task_that_a_broker_gave_back_is_parked_once_and_keeps_its_reason(store: Store, clock: Clock) -> None:
    (task,) = win(store, 1)
    given_back = ParkedTask(task.message_id, task.user_id, task.topic, task.message, 3, "nobody could")
    store.finish_tasks([task.message_id])  # it left for the broker
    for _ in range(2):
        store.park_task(given_back, now_ms=clock())
    assert list(parked(store)) == [given_back]
    assert store.due_tasks(clock() + GRACE_MS, limit=9) == []
    assert redrive(store, message_id=task.message_id, now_ms=clock()) == 1
    assert store.due_tasks(clock(), limit=9) == [task]


def test_a_dropped_task_ends_its_award_as_failed_and_nothing_else(store: Store, clock: Clock) -> None:
    tasks = win(store, 3)
    with store.writing() as connection:
        connection.execute(update(t.task).values(state="parked", reason="trial"))
    assert store.drop_tasks(message_id="nobody", limit=9) == 0
    assert store.drop_tasks(message_id=tasks[1].message_id, limit=9) == 1
    assert states(store) == {"parked": 2}
    assert store.drop_tasks(message_id=None, limit=1) == 1
    assert [task.message_id for task in parked(store)] == [tasks[2].message_id]
    record = t.user_award_record.c
    with store.reading() as connection:
        found = connection.execute(select(record.award_state).order_by(record.order_id)).scalars().all()
    assert found == ["fail", "fail", "create"]
    redrive(store, now_ms=clock())
    assert store.drop_tasks(message_id=None, limit=9) == 0, "it waits for no person any more"
    turns(relay_of(store, clock))
    assert credits_of(store).keys() == {tasks[2].message_id}


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700])
def test_any_number_of_tasks_is_finished_and_no_other(store: Store, clock: Clock, size: int) -> None:
    tasks, (kept,) = win(store, size), win(store, 1)
    store.finish_tasks([task.message_id for task in tasks])
    assert [task.message_id for task in store.due_tasks(clock() + GRACE_MS, limit=9)] == [kept.message_id]


# --- teeth: with a protection switched off, the checker must go red -----------------------------------------------


@dataclass
class NoRecordGuard(KilledTx):
    """Takes every record for one that was ``create``."""

    def complete_records(self, records: Sequence[RecordKey]) -> set[str]:
        self.tx.complete_records(records)
        return {order_id for _, order_id in records}


@dataclass
class NoKeyEither(NoRecordGuard):
    """And gives every credit a new key, so that the unique constraint does not step in."""

    def add_credits(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        fresh = [trade._replace(order_id=IDS.make(now_ms), out_business_no=IDS.make(now_ms)) for trade in trades]
        self.tx.add_credits(fresh, now_ms=now_ms)


def test_teeth_without_the_record_guard_the_unique_key_still_refuses(store: Store, clock: Clock) -> None:
    tasks = win(store, 5)
    careless = bus_of(Wrapped(store, NoRecordGuard), clock)
    careless.deliver(tasks)
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        careless.deliver(tasks)
    assert_delivered(store, tasks)


def test_teeth_without_the_record_guard_and_the_key_credits_double(store: Store, clock: Clock) -> None:
    tasks = win(store, 5)
    bus_of(store, clock).deliver(tasks)
    bus_of(Wrapped(store, NoKeyEither), clock).deliver(tasks)
    assert "M2 credit without a completed record" in broken(store)
    assert len(credits_of(store)) == 10


def test_teeth_effects_outside_the_transaction_are_lost_by_a_kill(store: Store, clock: Clock) -> None:
    tasks = win(store, 5)
    with store.delivering() as tx:  # the completion commits on its own, then the process dies
        tx.complete_records([(task.user_id, task.message_id) for task in tasks])
    clock.now += GRACE_MS
    turns(relay_of(store, clock))
    assert "M2 completed record without its credit" in broken(store)


def test_teeth_tasks_finished_before_their_effects_are_lost_by_a_kill(store: Store, clock: Clock) -> None:
    tasks = win(store, 5)
    with store.delivering() as tx:
        tx.finish_tasks([task.message_id for task in tasks])
    turns(relay_of(store, clock))
    assert broken(store) == {"M1 record that waits for a task that is gone"}


def test_teeth_a_balance_moved_without_its_order_is_seen(store: Store, clock: Clock) -> None:
    bus_of(store, clock).deliver(win(store, 5))
    with store.writing() as connection:
        connection.execute(update(t.user_credit_account).values(total_cents=t.user_credit_account.c.total_cents + 1))
    assert broken(store) == {"C1 earned is not the sum of orders"}
