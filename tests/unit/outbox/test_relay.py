"""The relay over an outbox of plain rows: batches, isolation, trouble, scan, drain."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bigmarket.errors import Contention, StorageFull, Trouble
from bigmarket.outbox.held import Held
from bigmarket.outbox.relay import ASIDE_MAX, BATCH_MAX, Relay
from bigmarket.outbox.task import (
    ATTEMPTS_MAX,
    BACKOFF_MAX_MS,
    BACKOFF_MIN_MS,
    GRACE_MS,
    Task,
    TaskFailure,
    backoff_ms,
    failed,
    postponed,
)
from waiting import eventually

WAIT = 10.0


@dataclass
class Row:
    task: Task
    next_at_ms: int
    state: str = "create"
    reason: str | None = None


@dataclass
class Outbox:
    """A store's task table and its bus; ``poison`` ids raise, ``troubled`` ids are in trouble."""

    now: int = 1_000_000
    rows: dict[str, Row] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    troubled: set[str] = field(default_factory=set)
    trouble: Trouble | None = None
    scans: int = 0
    failures: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def now_ms(self) -> int:
        return self.now

    def write(self, count: int, *, prefix: str = "m", grace_ms: int = GRACE_MS) -> list[Task]:
        tasks = [Task(f"{prefix}{n:05d}", "ann", "send_award", b"{}") for n in range(count)]
        self.rows |= {task.message_id: Row(task, self.now + grace_ms) for task in tasks}
        return tasks

    def due_tasks(self, now_ms: int, *, limit: int) -> Sequence[Task]:
        self.scans += 1
        due = [row for row in self.rows.values() if row.state in ("create", "fail") and row.next_at_ms <= now_ms]
        return [row.task for row in sorted(due, key=lambda row: row.task.message_id)[:limit]]

    def fail_task(self, failure: TaskFailure) -> None:
        self.failures += 1
        if self.trouble is not None:
            raise self.trouble
        row = self.rows[failure.message_id]
        row.task = row.task._replace(attempts=failure.attempts)
        row.state, row.next_at_ms, row.reason = failure.state, failure.next_at_ms, failure.reason

    def deliver(self, tasks: Sequence[Task]) -> None:
        assert self.gate.wait(WAIT)
        ids = [task.message_id for task in tasks]
        self.batches.append(ids)
        if self.trouble is not None:
            raise self.trouble
        if self.poison & set(ids):
            raise ValueError("no such award")
        if self.troubled & set(ids):
            raise Contention("locked")
        for message_id in ids:
            self.rows[message_id].state = "completed"

    def states(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in self.rows.values():
            found[row.state] = found.get(row.state, 0) + 1
        return found


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.outbox.relay.PAUSE_MIN_SECONDS", 0.0)
    monkeypatch.setattr("bigmarket.outbox.relay.PAUSE_MAX_SECONDS", 0.0)
    monkeypatch.setattr("bigmarket.outbox.relay.LINGER_SECONDS", 0.0)


def relay_of(outbox: Outbox, *, held_max: int = 20_000) -> Relay:
    return Relay(outbox, deliver=outbox.deliver, now_ms=outbox.now_ms, held_max=held_max)


def running(outbox: Outbox) -> Relay:
    """A relay whose scan at start is behind it."""
    relay = relay_of(outbox)
    turns(relay)
    outbox.now += 1
    return relay


def scan_now(relay: Relay) -> None:
    relay._scan_at = 0.0


def turns(relay: Relay, *, most: int = 2_000) -> None:
    """Turn until there is nothing to do."""
    for _ in range(most):
        if not relay._turn():
            return
    raise AssertionError("the relay never came to rest")


def test_offered_tasks_go_out_in_order_and_in_bounded_batches(outbox: Outbox) -> None:
    relay = running(outbox)
    tasks = outbox.write(1_000)
    for start in range(0, 1_000, 100):
        relay.offer(tasks[start : start + 100])
    assert relay.waiting == 1_000
    turns(relay)
    assert [message_id for batch in outbox.batches for message_id in batch] == [task.message_id for task in tasks]
    assert max(map(len, outbox.batches)) == BATCH_MAX
    assert relay.stats()[:4] == (1_000, 0, 0, 0)


def test_one_poison_fails_alone(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.poison = {"m00077"}
    relay.offer(outbox.write(256))
    turns(relay)
    assert outbox.states() == {"completed": 255, "fail": 1}
    row = outbox.rows["m00077"]
    assert row.reason == "ValueError: no such award"
    assert row.task.attempts == 1
    assert outbox.now + BACKOFF_MIN_MS <= row.next_at_ms
    assert len(outbox.batches) <= 2 + 2 * 9  # halving 256 takes 8 levels


def test_a_poison_is_parked_after_its_attempts(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.poison = {"m00001"}
    relay.offer(outbox.write(3))
    for _ in range(ATTEMPTS_MAX):
        turns(relay)
        outbox.now += BACKOFF_MAX_MS
        scan_now(relay)
    turns(relay)
    row = outbox.rows["m00001"]
    assert (row.state, row.task.attempts, row.reason) == ("parked", ATTEMPTS_MAX, "ValueError: no such award")
    assert outbox.states() == {"completed": 2, "parked": 1}
    assert relay.stats()[:3] == (2, ATTEMPTS_MAX - 1, 1)


def test_a_failed_task_is_not_tried_before_it_is_due(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.poison = {"m00000"}
    relay.offer(outbox.write(1))
    turns(relay)
    outbox.poison.clear()
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"fail": 1}
    outbox.now = outbox.rows["m00000"].next_at_ms
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"completed": 1}


@pytest.mark.parametrize("trouble", [Contention("locked"), StorageFull("full"), Trouble("gone")])
def test_trouble_counts_as_no_attempt_and_nothing_is_lost(outbox: Outbox, trouble: Trouble) -> None:
    relay = relay_of(outbox)
    relay._turn()
    outbox.trouble = trouble
    relay.offer(outbox.write(300))
    for _ in range(100):
        relay._turn()
    assert outbox.states() == {"create": 300}
    assert relay.waiting == 300
    assert relay.stats().stalled == 1
    assert relay.troubles == 100
    outbox.trouble = None
    turns(relay)
    assert outbox.states() == {"completed": 300}
    assert {row.task.attempts for row in outbox.rows.values()} == {0}
    assert relay.stats().stalled == 0


def test_an_outage_puts_no_task_off_and_leaves_the_store_in_peace(outbox: Outbox) -> None:
    relay = relay_of(outbox, held_max=500)
    outbox.trouble = Trouble("the broker is gone")
    relay.offer(outbox.write(500))
    relay.offer(outbox.write(3_000, prefix="n"))  # does not fit
    outbox.now += GRACE_MS
    for _ in range(400):
        scan_now(relay)
        relay._turn()
    assert outbox.failures == 0
    assert {len(batch) for batch in outbox.batches[-300:]} == {1}
    assert len({batch[0] for batch in outbox.batches[-300:]}) > ASIDE_MAX, "each task has its turn"
    outbox.batches.clear()
    outbox.trouble = None
    turns(relay)
    assert outbox.states() == {"completed": 3_500}, "without waiting for anything to become due"
    assert len(outbox.batches) < 60


def test_a_short_trouble_puts_off_few_and_briefly(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.trouble = Trouble("gone")
    relay.offer(outbox.write(300))
    for _ in range(9 + ASIDE_MAX // 2):
        relay._turn()
    outbox.trouble = None
    turns(relay)
    assert 0 < outbox.failures <= ASIDE_MAX
    outbox.now += 2 * BACKOFF_MIN_MS
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"completed": 300}


def test_a_task_alone_in_trouble_is_tried_until_it_goes(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.trouble = Trouble("gone")
    relay.offer(outbox.write(1))
    for _ in range(10):
        relay._turn()
    assert relay.waiting == 1
    outbox.trouble = None
    turns(relay)
    assert outbox.states() == {"completed": 1}
    assert outbox.failures == 0


def test_several_troublesome_tasks_do_not_hold_up_the_rest(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.troubled = {f"m{n:05d}" for n in (0, 1, 2, 100, 299)}
    relay.offer(outbox.write(300))
    for _ in range(200):
        relay._turn()
    relay.offer(outbox.write(5, prefix="z"))  # whoever is still aside is proved at fault by these
    turns(relay)
    assert outbox.states() == {"completed": 300, "fail": 5}


def test_who_may_not_scan_does_not_and_does_not_spin(outbox: Outbox) -> None:
    allowed = False
    relay = Relay(outbox, deliver=outbox.deliver, now_ms=outbox.now_ms, may_scan=lambda: allowed, scan_seconds=60.0)
    outbox.write(10, grace_ms=0)
    turns(relay)
    assert outbox.scans == 0
    assert relay._scan_at > time.monotonic() + 0.1, "the thread sleeps until then"
    allowed = True
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"completed": 10}


def test_a_task_that_troubles_the_machinery_does_not_hold_up_the_rest(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.troubled = {"m00000"}
    relay.offer(outbox.write(600))
    turns(relay)
    assert outbox.states() == {"completed": 599, "fail": 1}
    assert outbox.rows["m00000"].task.attempts == 0
    outbox.troubled.clear()
    outbox.now += BACKOFF_MAX_MS
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"completed": 600}


def test_what_an_earlier_process_left_is_found(outbox: Outbox) -> None:
    outbox.write(1_000)
    outbox.now += GRACE_MS
    relay = relay_of(outbox)
    turns(relay)
    assert outbox.states() == {"completed": 1_000}
    assert max(map(len, outbox.batches)) == BATCH_MAX


def test_scans_leave_young_tasks_to_memory(outbox: Outbox) -> None:
    relay = running(outbox)
    outbox.write(5, prefix="elsewhere")
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"create": 5}
    outbox.now += GRACE_MS
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"completed": 5}


def test_what_does_not_fit_is_found_by_the_scan(outbox: Outbox) -> None:
    relay = relay_of(outbox, held_max=500)
    turns(relay)
    outbox.now += 10
    for n in range(10):
        relay.offer(outbox.write(100, prefix=f"b{n}-"))
    assert relay.waiting == 500
    assert relay.overflows == 5
    outbox.now += GRACE_MS
    scan_now(relay)
    turns(relay)
    assert outbox.states() == {"completed": 1_000}


def test_offer_never_waits_for_a_delivery(outbox: Outbox) -> None:
    relay = relay_of(outbox, held_max=2_000)
    relay.start()
    outbox.gate.clear()
    batches = [outbox.write(256, prefix=f"b{n}-") for n in range(20)]
    started = time.monotonic()
    for batch in batches:
        relay.offer(batch)
    assert time.monotonic() - started < WAIT / 2, "while nothing can be delivered"
    assert relay.overflows > 0
    outbox.now += GRACE_MS
    outbox.gate.set()
    eventually(lambda: outbox.states() == {"completed": 20 * 256})
    assert relay.stop(timeout_seconds=WAIT)


def test_stop_delivers_what_memory_holds(outbox: Outbox) -> None:
    relay = relay_of(outbox)
    relay.start()
    outbox.gate.clear()
    relay.offer(outbox.write(3_000))
    threading.Timer(0.05, outbox.gate.set).start()
    assert relay.stop(timeout_seconds=WAIT)
    assert outbox.states() == {"completed": 3_000}


def test_stop_gives_up_in_time_and_the_next_relay_finds_the_rest(outbox: Outbox) -> None:
    first = relay_of(outbox)
    outbox.trouble = StorageFull("full")
    first.start()
    first.offer(outbox.write(300))
    started = time.monotonic()
    assert not first.stop(timeout_seconds=0.1)
    assert time.monotonic() - started < WAIT
    outbox.trouble = None
    outbox.now += GRACE_MS
    second = relay_of(outbox)
    turns(second)
    assert outbox.states() == {"completed": 300}


def test_a_relay_that_never_ran_can_be_stopped(outbox: Outbox) -> None:
    assert relay_of(outbox).stop(timeout_seconds=0.1)


def test_a_fault_in_the_scan_does_not_end_the_service(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Sequence[Task]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(outbox, "due_tasks", broken)
    relay = relay_of(outbox)
    relay.start()
    time.sleep(0.05)
    monkeypatch.undo()
    relay.offer(outbox.write(5))
    eventually(lambda: outbox.states() == {"completed": 5})
    assert relay.stop(timeout_seconds=WAIT)


def test_lag_is_the_age_of_the_oldest_in_memory(outbox: Outbox) -> None:
    relay = relay_of(outbox)
    assert relay.lag_ms == 0
    relay.offer(outbox.write(2))
    outbox.now += 1_500
    relay.offer(outbox.write(2, prefix="n"))
    assert relay.stats().lag_ms == 1_500
    assert relay.stats().waiting == 4


def test_held_is_bounded_and_keeps_order() -> None:
    held = Held(tasks_max=5)
    tasks = [Task(str(n), "ann", "t", b"") for n in range(6)]
    assert held.take(3) == (0, [])
    assert held.put(tasks[:3], now_ms=1)
    assert not held.put(tasks[3:], now_ms=2)
    assert held.put(tasks[3:5], now_ms=3)
    assert held.take(2) == (1, tasks[:2])
    assert held.take(2) == (1, tasks[2:4])
    assert held.oldest_ms == 3
    held.put_back(tasks[2:4], since_ms=1)
    assert held.take(9) == (1, tasks[2:5])
    assert not held
    assert held.take(1) == (0, [])


def test_back_off_grows_is_bounded_and_the_same_every_time() -> None:
    for message_id in ("a", "b", "c"):
        waits = [backoff_ms(attempts, message_id=message_id) for attempts in range(1, 40)]
        assert waits == sorted(waits)
        assert waits[0] >= BACKOFF_MIN_MS
        assert waits[-1] == BACKOFF_MAX_MS
        assert waits == [backoff_ms(attempts, message_id=message_id) for attempts in range(1, 40)]
    assert len({backoff_ms(1, message_id=str(n)) for n in range(100)}) > 50


def test_reasons_fit_their_column() -> None:
    task = Task("m", "ann", "t", b"", attempts=ATTEMPTS_MAX - 1)
    failure = failed(task, reason="x" * 1_000, now_ms=0)
    assert (failure.state, len(failure.reason)) == ("parked", 255)
    assert postponed(task, reason="x", now_ms=0).state == "fail"
