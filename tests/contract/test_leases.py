"""Leases on every backend: one holder at a time, by the database's clock, with numbers that only grow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Connection, select, update

from bigmarket.errors import Trouble
from bigmarket.storage.contract import Store
from bigmarket.storage.leases import MARGIN_MS, TTL_MS, LeaseLost, Leases, acquire, guard, release
from bigmarket.storage.schema import lease

A, B = "01AAAAAAAAAAAAAAAAAAAAAAAA", "01BBBBBBBBBBBBBBBBBBBBBBBB"
NAMES = ("relay:0", "job:sweep")


def run_out(store: Store) -> None:
    """As when every holder has been silent for too long."""
    with store.writing() as connection:
        connection.execute(update(lease).values(until_ms=store.clock_ms() - 1))


def test_the_first_takes_all_and_the_second_nothing(store: Store) -> None:
    assert acquire(store, NAMES, holder=A) == {"relay:0": 1, "job:sweep": 1}
    assert acquire(store, NAMES, holder=B) == {}
    assert acquire(store, (*NAMES, "relay:1"), holder=B) == {"relay:1": 1}


def test_renewing_keeps_the_number_and_moves_the_end(store: Store) -> None:
    acquire(store, NAMES, holder=A, ttl_ms=10)
    before = store.clock_ms()
    assert acquire(store, NAMES, holder=A) == {"relay:0": 1, "job:sweep": 1}
    with store.reading() as connection:
        ends = connection.execute(select(lease.c.until_ms)).scalars().all()
    assert all(before + TTL_MS <= end <= store.clock_ms() + TTL_MS for end in ends)


def test_what_ran_out_is_taken_over_under_a_new_number(store: Store) -> None:
    acquire(store, NAMES, holder=A)
    run_out(store)
    assert acquire(store, NAMES, holder=B) == {"relay:0": 2, "job:sweep": 2}
    assert acquire(store, NAMES, holder=A) == {}
    run_out(store)
    assert acquire(store, NAMES, holder=A) == {"relay:0": 3, "job:sweep": 3}


def test_what_ran_out_and_nobody_took_is_renewed_under_the_old_number(store: Store) -> None:
    acquire(store, NAMES, holder=A)
    run_out(store)
    assert acquire(store, NAMES, holder=A) == {"relay:0": 1, "job:sweep": 1}


def test_who_lets_go_is_succeeded_at_once(store: Store) -> None:
    acquire(store, NAMES, holder=A)
    release(store, NAMES, holder=B)
    assert acquire(store, NAMES, holder=B) == {}, "nobody lets go for another"
    release(store, ["relay:0"], holder=A)
    assert acquire(store, NAMES, holder=B) == {"relay:0": 2}


def test_a_guard_lets_only_the_present_number_write(store: Store) -> None:
    acquire(store, NAMES, holder=A)
    with store.writing() as connection:
        guard(connection, "relay:0", 1)
    run_out(store)
    with store.writing() as connection:
        guard(connection, "relay:0", 1)  # nobody took over
    acquire(store, NAMES, holder=B)
    with pytest.raises(LeaseLost), store.writing() as connection:
        guard(connection, "relay:0", 1)
    with pytest.raises(LeaseLost), store.writing() as connection:
        guard(connection, "no such lease", 1)


def test_nobody_takes_over_while_a_guarded_transaction_is_open(store: Store) -> None:
    acquire(store, NAMES, holder=A)
    run_out(store)
    taken: list[dict[str, int]] = []
    thread = threading.Thread(target=lambda: taken.append(acquire(store, NAMES, holder=B)))
    with store.writing() as connection:
        guard(connection, "relay:0", 1)
        thread.start()
        thread.join(0.3)
        assert not taken
    thread.join(10)
    assert taken == [{"relay:0": 2, "job:sweep": 2}]


def test_of_many_that_ask_at_once_one_gets_each_lease(store: Store) -> None:
    holders = [f"01{n:024}" for n in range(8)]
    barrier = threading.Barrier(len(holders))
    found: dict[str, dict[str, int]] = {}

    def ask(holder: str) -> None:
        leases = Leases(store, NAMES, holder=holder)
        barrier.wait()
        leases.renew()
        found[holder] = dict(leases.held())

    threads = [threading.Thread(target=ask, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == len(holders)
    assert sorted(name for held in found.values() for name in held) == sorted(NAMES)


# --- the thread that keeps them -----------------------------------------------------------------------------------


@dataclass
class Clock:
    """A monotonic clock that a test turns."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shaky:
    """A store that does not answer while ``down``."""

    store: Store
    down: bool = False
    while_asked: list[Callable[[], None]] = field(default_factory=list)

    def clock_ms(self) -> int:
        for happening in self.while_asked:
            happening()
        if self.down:
            raise Trouble("gone")
        return self.store.clock_ms()

    @contextmanager
    def updating(self) -> Iterator[Connection]:
        if self.down:
            raise Trouble("gone")
        with self.store.updating() as connection:
            yield connection


def test_a_holder_gives_up_before_the_database_does(store: Store) -> None:
    clock, shaky = Clock(), Shaky(store)
    leases = Leases(shaky, NAMES, holder=A, clock=clock)
    leases.renew()
    assert leases.holds("relay:0")
    assert leases.fencing("job:sweep") == 1
    shaky.down = True
    clock.now += (TTL_MS - MARGIN_MS) / 1000 - 0.01
    with pytest.raises(Trouble):
        leases.renew()
    assert leases.holds("relay:0")
    clock.now += 0.02
    assert not leases.holds("relay:0")
    assert leases.fencing("relay:0") is None
    shaky.down = False
    leases.renew()
    assert leases.fencing("relay:0") == 1


def test_time_that_asking_takes_is_not_counted_as_held(store: Store) -> None:
    clock, shaky = Clock(), Shaky(store)

    def slowly() -> None:
        clock.now += TTL_MS / 1000

    shaky.while_asked.append(slowly)
    leases = Leases(shaky, NAMES, holder=A, clock=clock)
    leases.renew()
    assert not leases.holds("relay:0")


def test_a_lease_that_another_took_is_lost_with_the_next_renewal(store: Store) -> None:
    mine, others = Leases(store, NAMES, holder=A), Leases(store, NAMES, holder=B)
    mine.renew()
    others.renew()
    assert (mine.holds("relay:0"), others.holds("relay:0")) == (True, False)
    run_out(store)
    others.renew()
    mine.renew()
    assert (mine.holds("relay:0"), others.holds("relay:0")) == (False, True)
    assert others.fencing("relay:0") == 2


def test_stopping_lets_go(store: Store) -> None:
    mine, others = Leases(store, NAMES, holder=A, renew_seconds=60), Leases(store, NAMES, holder=B)
    mine.start()
    deadline = threading.Event()
    for _ in range(500):
        if mine.holds("relay:0"):
            break
        deadline.wait(0.01)
    others.renew()
    assert not others.holds("relay:0")
    mine.stop()
    assert not mine.holds("relay:0")
    others.renew()
    assert others.fencing("relay:0") == 2


def test_stopping_without_a_database_is_quiet(store: Store) -> None:
    shaky = Shaky(store)
    leases = Leases(shaky, NAMES, holder=A)
    leases.renew()
    shaky.down = True
    leases.stop()
    assert not leases.held()
