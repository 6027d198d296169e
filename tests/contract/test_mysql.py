"""What only a database server can do to a store: lock rows, run into deadlocks, lose connections, refuse, stall."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.stock import GuardMissed
from bigmarket.bus.in_process import InProcessBus
from bigmarket.desks import DrawDesk
from bigmarket.draw import Answer, AwardRecordRow, Drawn, DrawRequest, Outcome, draw_batch
from bigmarket.errors import (
    BigmarketError,
    Contention,
    Duplicate,
    OutcomeUnknown,
    Overloaded,
    QuotaExhausted,
    Trouble,
)
from bigmarket.ids import Ids
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.lanes import LaneSet, LaneSettings, LaneShard
from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.task import GRACE_MS, Task
from bigmarket.storage import schema as t
from bigmarket.storage import tasks
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.migrate import migrate
from bigmarket.storage.mysql import _WIRE, FRESH_SECONDS, MySqlStore
from bigmarket.storage.mysql_draw import MySqlDrawTx
from bigmarket.storage.mysql_wire import Wire
from databases import MYSQL, Databases, on_mysql
from support import IDS, NOON, assert_healthy, count, facts, give, install, small_campaign
from waiting import eventually

pytestmark = on_mysql

WAIT = 20.0
LISTED = "mallory"  # always gets the first award, which is not limited, so that nobody locks its stock early


@pytest.fixture
def live(store: MySqlStore) -> dict[int, LiveActivity]:
    install(store, small_campaign())
    with store.reading() as connection:
        return load_live(connection, {})


@contextmanager
def another(store: MySqlStore) -> Iterator[MySqlStore]:
    """The same database as another process sees it."""
    other = MySqlStore(store.url.render_as_string(hide_password=False), split=store.split)
    try:
        yield other
    finally:
        other.close()


@pytest.fixture
def other(store: MySqlStore) -> Iterator[MySqlStore]:
    with another(store) as opened:
        yield opened


@contextmanager
def lanes_on(
    store: Any, live: dict[int, LiveActivity], *, lanes: int = 2, batch_max: int = 256
) -> Iterator[LaneSet[Drawn]]:
    started = LaneSet(
        [LaneShard(DrawDesk(store, live=lambda: live), lambda _: None)],
        shard_of=lambda _: 0,
        now_ms=lambda: NOON,
        ids=Ids(),
        settings=LaneSettings(lanes=lanes, batch_max=batch_max, queue_seconds=WAIT),
    )
    started.start()
    yield started
    assert started.stop(timeout_seconds=WAIT)


def submit(lanes: LaneSet[Drawn], asks: Sequence[tuple[str, int, str | None]]) -> list[Future[Answer]]:
    futures: list[Future[Answer]] = [Future() for _ in asks]
    for (user, activity_id, request_id), future in zip(asks, futures, strict=True):
        lanes.submit(user, activity_id, request_id, reply=future)
    return futures


def draw(store: MySqlStore, live: dict[int, LiveActivity], users: Sequence[str]) -> list[Answer]:
    requests = [DrawRequest(IDS.make(NOON), user, 1, None) for user in users]
    with store.drawing() as tx:
        return draw_batch(tx, requests, live=live, now_ms=NOON).answers


def assert_nothing_drawn(store: MySqlStore) -> None:
    for table in ("user_raffle_order", "user_award_record", "task"):
        assert count(store, f"SELECT COUNT(*) FROM {table}") == 0
    assert count(store, "SELECT SUM(total_count - total_count_surplus) FROM raffle_activity_account") == 0
    assert count(store, "SELECT SUM(sold) FROM award_stock") == 0
    assert_healthy(store)


# --- round trips --------------------------------------------------------------------------------------------------


class Counted:
    """A wire that counts what is sent."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.sent: list[bytes] = []

    def run(self, statements: Sequence[bytes]) -> list[Any]:
        self.sent.append(b";".join(statements))
        return self._wire.run(statements)


def packets(store: MySqlStore, live: dict[int, LiveActivity], users: Sequence[str]) -> list[bytes]:
    """What a transaction of so many draws sends."""
    with store.drawing() as tx:
        bulk: Any = tx._bulk
        bulk._wire = wire = Counted(bulk._wire)
        answers = draw_batch(tx, [DrawRequest(IDS.make(NOON), u, 1, None) for u in users], live=live, now_ms=NOON)
    assert {type(answer) for answer in answers.answers} == {Drawn}
    return [*wire.sent, b";".join([*bulk.last, b"COMMIT"])]


def test_what_was_rolled_before_is_read_along_with_the_accounts(
    store: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    users = [f"u{n:03}" for n in range(300)]  # of more than one chunk
    give(store, *users)
    first, again = packets(store, live, users), packets(store, live, users)
    assert len(again) == len(first) - 1
    accounts, *_, writes = again
    assert accounts.count(b"FROM raffle_activity_account") == 2
    assert accounts.count(b"FROM award_stock") == 1
    assert writes.count(b"INSERT INTO user_award_record") >= 2
    assert_healthy(store)


# --- several processes on one database ----------------------------------------------------------------------------


def test_two_processes_neither_oversell_nor_leak(
    store: MySqlStore, other: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    users = [f"u{n:02}" for n in range(40)]
    give(store, *users)
    rng = random.Random(7)
    asks: list[tuple[str, int, str | None]] = [(user, 1, f"r{n}") for user in users for n in range(12)]
    with lanes_on(store, live, batch_max=8) as here, lanes_on(other, live, batch_max=8) as there:
        futures = [future for lanes in (here, there) for future in submit(lanes, rng.sample(asks, len(asks)))]
        answers = [future.result(WAIT) for future in futures]
        assert {type(answer) for answer in answers} <= {Drawn, QuotaExhausted, Contention}
        settled = [future.result(WAIT) for lanes in (here, there) for future in submit(lanes, asks)]
    assert {type(answer) for answer in settled} == {Drawn, QuotaExhausted}
    drawn = {answer for answer in [*answers, *settled] if isinstance(answer, Drawn)}
    assert len(drawn) == count(store, "SELECT COUNT(*) FROM user_award_record") == 10 * len(users)
    assert count(store, "SELECT MAX(total_count_surplus) FROM raffle_activity_account") == 0
    assert count(store, "SELECT sold FROM award_stock WHERE award_id = 4") == 1
    assert count(store, "SELECT sold FROM award_stock WHERE award_id = 3") == 3
    assert count(store, "SELECT sold FROM award_stock WHERE award_id = 2") == 30
    assert_healthy(store)


def test_a_request_sent_to_two_processes_at_once_has_one_outcome(
    store: MySqlStore, other: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    users = [f"u{n:02}" for n in range(10)]
    give(store, *users)
    asks: list[tuple[str, int, str | None]] = [(user, 1, f"r{n}") for user in users for n in range(5)]
    with lanes_on(store, live, batch_max=4) as here, lanes_on(other, live, batch_max=4) as there:
        pairs = list(zip(submit(here, asks), submit(there, asks), strict=True))
        outcomes = [(one.result(WAIT), another_.result(WAIT)) for one, another_ in pairs]
    for one, two in outcomes:
        assert isinstance(one, Drawn)
        assert one == two
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == len(asks)
    assert_healthy(store)


def test_a_request_id_sent_for_two_activities_at_once_is_one_draw(
    store: MySqlStore, other: MySqlStore, live: dict[int, LiveActivity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two accounts, so no row lock keeps them apart: the unique key does, and the loser looks again."""
    monkeypatch.setattr("bigmarket.lanes.RETRY_SECONDS_MAX", 600.0)
    live |= {2: replace(live[1], activity_id=2)}
    give(store, "ann")
    with store.writing() as connection:
        connection.execute(
            text("""INSERT INTO raffle_activity_account
                    SELECT user_id, 2, total_count, total_count_surplus, month, month_count, month_count_surplus,
                           day, day_count, day_count_surplus, open_orders FROM raffle_activity_account""")
        )
    with lanes_on(store, live) as here, lanes_on(other, live) as there:
        for n in range(5):
            one, two = submit(here, [("ann", 1, f"r{n}")]), submit(there, [("ann", 2, f"r{n}")])
            assert {type(future.result(WAIT)) for future in [*one, *two]} == {Drawn, Duplicate}
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 5
    assert count(store, "SELECT SUM(total_count - total_count_surplus) FROM raffle_activity_account") == 5


def test_a_task_parked_by_two_processes_at_once_is_parked_once(store: MySqlStore, other: MySqlStore) -> None:
    given_back = ParkedTask("m1", "ann", "send_award", b"{}", 3, "nobody could")
    with ThreadPoolExecutor(1) as pool:
        with store.writing() as connection:
            tasks.park_task(connection, given_back, now_ms=NOON)
            second = pool.submit(other.park_task, given_back, now_ms=NOON)
            until_blocked(store)
        second.result(WAIT)
    assert store.parked_tasks(limit=9) == [given_back]


# --- locks --------------------------------------------------------------------------------------------------------


@contextmanager
def holding(store: MySqlStore, sql: str) -> Iterator[None]:
    """Somebody else's transaction that has locked what ``sql`` reads or changes; it is rolled back."""
    with store.writing() as connection:
        connection.execute(text(sql))
        yield
        connection.rollback()


def until_blocked(store: MySqlStore, *, transactions: int = 1) -> None:
    """Wait until so many transactions wait for a lock of this database.

    Of its table ``innodb_trx`` InnoDB shows a copy, which grows old while several look at it.
    """
    ours = text("SELECT id FROM information_schema.processlist WHERE db = :db")

    def blocked() -> int:
        with store.reading() as connection:
            threads = set(connection.execute(ours, {"db": store.url.database}).scalars())
            (status,) = connection.execute(text("SHOW ENGINE INNODB STATUS")).columns("Status").scalars()
        waiting = [told for told in status.split("---TRANSACTION") if "LOCK WAIT" in told]
        found = [re.search(r"thread id (\d+)", told) for told in waiting]
        return sum(match is not None and int(match[1]) in threads for match in found)

    eventually(lambda: blocked() >= transactions, pause_seconds=0.02)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores opened from now on wait a second for a lock, the least that InnoDB knows."""
    monkeypatch.setattr("bigmarket.storage.mysql.LOCK_WAIT_SECONDS", 1)


@pytest.mark.usefixtures("impatient")
def test_a_lock_wait_that_ends_late_in_a_transaction_keeps_no_half_of_it(
    store: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    """Orders, records and tasks are written by then; InnoDB itself takes back the last statement only."""
    give(store, LISTED)
    with another(store) as waiting:
        with holding(store, "SELECT * FROM award_stock FOR UPDATE"), pytest.raises(Contention):
            draw(waiting, live, [LISTED])
        assert_nothing_drawn(store)
        assert isinstance(draw(waiting, live, [LISTED])[0], Drawn)
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 1
    assert_healthy(store)


@pytest.mark.usefixtures("impatient")
def test_a_lane_tells_contention_after_a_lock_wait_and_draws_when_the_lock_is_gone(
    store: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    give(store, "ann")
    with another(store) as waiting, lanes_on(waiting, live) as lanes:
        with holding(store, "SELECT * FROM raffle_activity_account FOR UPDATE"):
            (refused,) = submit(lanes, [("ann", 1, "r1")])
            answer = refused.result(WAIT)
        assert isinstance(answer, Contention)
        assert answer.outcome == "none"
        assert_nothing_drawn(store)
        with holding(store, "SELECT * FROM raffle_activity_account FOR UPDATE"):
            (delayed,) = submit(lanes, [("ann", 1, "r1")])
            until_blocked(store)
            assert not delayed.done()
        assert isinstance(delayed.result(WAIT), Drawn)
    assert_healthy(store)


def test_the_victim_of_a_deadlock_is_rolled_back_whole_and_tried_again(
    store: MySqlStore, other: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    """The draw holds the account and wants the stock; the other holds the stock, and wants the account."""
    give(store, LISTED)
    give(store, "bob")
    with lanes_on(other, live) as lanes, store.writing() as connection:
        connection.execute(text("SELECT * FROM award_stock FOR UPDATE"))
        connection.execute(insert(t.lease), [_lease(n) for n in range(500)])  # InnoDB's victim is who changed less
        (drawn,) = submit(lanes, [(LISTED, 1, "r1")])
        until_blocked(store)
        connection.execute(text("SELECT * FROM raffle_activity_account FOR UPDATE"))
        connection.rollback()
        assert isinstance(drawn.result(WAIT), Drawn)
        assert sum(stats.retries for stats in lanes.stats()) >= 1
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 1
    assert_healthy(store)


def _lease(n: int) -> dict[str, object]:
    return {"job": f"job{n}", "holder": "x", "fencing": 1, "until_ms": 1}


def test_a_recharge_that_loses_a_deadlock_is_contention_and_spends_nothing(
    store: MySqlStore, other: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    assert live
    give(store, "ann", no="first")
    with ThreadPoolExecutor(1) as pool, store.writing() as connection:
        connection.execute(text("SELECT * FROM raffle_activity_account FOR UPDATE"))
        connection.execute(insert(t.lease), [_lease(n) for n in range(500)])
        recharge = pool.submit(give, other, "ann", no="second")  # it locks a scarce sku first
        until_blocked(store)
        connection.execute(text("SELECT * FROM sku_stock FOR UPDATE"))
        connection.rollback()
        with pytest.raises(Contention):
            recharge.result(WAIT)
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_order") == 1
    assert count(store, "SELECT SUM(sold) FROM sku_stock") == 1
    assert_healthy(store)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("users", [3, 12, 200])
def test_nobody_waits_for_rows_of_others_however_small_a_table_is(
    store: MySqlStore, live: dict[int, LiveActivity], users: int
) -> None:
    """On a small table the server likes to read it all, and a locking read waits for every locked row on its way."""
    names = ["u000", LISTED, *(f"u{n:03}" for n in range(2, users))]
    give(store, *names)
    first = [answer for answer in draw(store, live, names) if isinstance(answer, Drawn)]
    wins = store.due_tasks(NOON + GRACE_MS, limit=999)
    assert len(first) == users
    assert wins
    with store.writing() as connection:
        for name in ("raffle_activity_account", "award_stock", "task"):
            connection.execute(text(f"ANALYZE TABLE {name}")).all()
    mine, theirs = names[1:-1], [names[0], names[-1]]
    with (
        another(store) as process,
        holding(
            store, f"SELECT * FROM raffle_activity_account WHERE user_id IN ('{theirs[0]}', '{theirs[1]}') FOR UPDATE"
        ),
    ):
        assert all(isinstance(answer, Drawn) for answer in draw(process, live, mine))
    under_way = [task_and_record(name) for name in theirs]
    with another(store) as process, store.drawing() as tx:
        outcome = Outcome(NOON)
        outcome.tasks += [task for task, _ in under_way]
        outcome.records += [record for _, record in under_way]
        tx.apply(outcome)
        assert len(process.find_draws(first[1:-1])) == users - 2
        InProcessBus(process, CONSUMERS, now_ms=lambda: NOON, facts=facts(store)).deliver(wins)
    assert count(process, "SELECT COUNT(*) FROM user_credit_order") == len(wins)


def task_and_record(user: str) -> tuple[Task, AwardRecordRow]:
    order_id = IDS.make(NOON)
    record = AwardRecordRow(order_id, user, 1, 9, 1, "x", 1, None, "create", NOON, "r", 1, None, "1/1|all")
    return Task(order_id, user, "send_award", b"{}"), record


# --- lost connections ---------------------------------------------------------------------------------------------


def connections_of(store: MySqlStore) -> list[int]:
    with store.writing() as connection:
        query = "SELECT id FROM information_schema.processlist WHERE db = :db AND id <> CONNECTION_ID()"
        return list(connection.execute(text(query), {"db": store.url.database}).scalars())


def kill_all(databases: Databases, store: MySqlStore) -> None:
    """What a restart of the server does to the connections; they have not been used for a moment when it returns."""
    with databases.administering() as server:
        query = "SELECT id FROM information_schema.processlist WHERE db = :db"
        for number in server.execute(text(query), {"db": store.url.database}).scalars().all():
            server.execute(text(f"KILL CONNECTION {number}"))
    time.sleep(FRESH_SECONDS)


def number_of(tx: Any) -> int:
    """The server's number of the transaction's connection."""
    return number_on(tx._bulk._wire)


def number_on(wire: Wire) -> int:
    """The server's number of the connection."""
    (number,) = wire.run([b"SELECT CONNECTION_ID()"])
    return int(number)


@pytest.mark.parametrize("step", ["load", "load_stock"])
def test_a_connection_killed_before_a_step_is_trouble_that_spent_nothing(
    store: MySqlStore, databases: Databases, live: dict[int, LiveActivity], step: str
) -> None:
    give(store, "ann")
    with pytest.raises(Trouble) as caught, store.drawing() as tx:
        run = getattr(tx, step)

        def killed_first(argument: Any) -> Any:
            with databases.administering() as server:
                server.execute(text(f"KILL CONNECTION {number_of(tx)}"))
            return run(argument)

        setattr(tx, step, killed_first)
        draw_batch(tx, [DrawRequest(IDS.make(NOON), "ann", 1, "r1")], live=live, now_ms=NOON)
    assert (type(caught.value), caught.value.outcome) == (Trouble, "none")
    assert "nothing was spent" in str(caught.value)
    assert_nothing_drawn(store)
    assert isinstance(draw(store, live, ["ann"])[0], Drawn)


def test_every_stale_connection_of_the_pool_is_replaced_before_it_is_used(
    store: MySqlStore, databases: Databases, live: dict[int, LiveActivity]
) -> None:
    give(store, "ann")
    with many_open(store, 6):
        pass
    assert len(connections_of(store)) >= 6
    kill_all(databases, store)
    assert isinstance(draw(store, live, ["ann"])[0], Drawn)
    kill_all(databases, store)
    with many_open(store, 6):
        pass
    assert_healthy(store)


def test_a_connection_that_dies_right_after_its_use_spends_nothing(
    store: MySqlStore, databases: Databases, live: dict[int, LiveActivity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked before; see the test above for one that was idle."""
    monkeypatch.setattr("bigmarket.storage.mysql.FRESH_SECONDS", 60.0)
    give(store, "ann")
    assert isinstance(draw(store, live, ["ann"])[0], Drawn)
    kill_all(databases, store)
    with pytest.raises(Trouble, match="nothing was spent"):
        draw(store, live, ["ann"])
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 1
    assert_healthy(store)


@contextmanager
def many_open(store: MySqlStore, transactions: int) -> Iterator[None]:
    """So many transactions at the same time."""
    if transactions:
        with store.delivering(), many_open(store, transactions - 1):
            yield
    else:
        yield


def test_cold_paths_recover_from_a_restart_after_one_error_at_most(
    store: MySqlStore, databases: Databases, live: dict[int, LiveActivity]
) -> None:
    assert live
    give(store, "ann", no="1")
    uses: list[Callable[[], object]] = [
        lambda: give(store, "ann", no="2"),
        store.backlog,
        lambda: count(store, "SELECT 1"),
        store.clock_ms,
    ]
    for use in uses:
        with many_open(store, 4):
            pass
        kill_all(databases, store)
        with suppress(Trouble):
            use()
        use()
    kill_all(databases, store)
    with store.writing() as connection:  # the patient pool asks before it lends
        connection.execute(text("SELECT 1"))
    with store.examining() as connection:
        connection.execute(text("SELECT 1"))


class LosesTheCommit:
    """The wire of a connection that is lost at its commit: ``after`` or before the server did it."""

    def __init__(self, wire: Wire, lose: Callable[[int], None], *, after: bool) -> None:
        self._wire = wire
        self._lose = lose
        self._after = after

    @property
    def answered(self) -> int:
        return self._wire.answered

    def run(self, statements: Sequence[bytes]) -> list[Any]:
        if statements[-1] == b"COMMIT":
            if self._after:
                self._wire.run(statements)
            self._lose(number_on(self._wire))
        return self._wire.run(statements)


@pytest.mark.parametrize("after", [True, False], ids=["committed", "not committed"])
def test_a_connection_lost_at_the_commit_is_settled_by_looking(
    store: MySqlStore,
    databases: Databases,
    live: dict[int, LiveActivity],
    monkeypatch: pytest.MonkeyPatch,
    after: bool,
) -> None:
    users = [f"u{n}" for n in range(8)]
    give(store, *users)
    lose = losing(databases, store, monkeypatch, after=after)
    with pytest.raises(OutcomeUnknown) as caught, store.drawing() as tx:
        draw_batch(tx, [DrawRequest(IDS.make(NOON), users[0], 1, "r0")], live=live, now_ms=NOON)
    assert caught.value.outcome == "unknown"
    with lanes_on(store, live, lanes=1) as lanes:
        lose()
        answers = [future.result(WAIT) for future in submit(lanes, [(user, 1, "r1") for user in users])]
        assert {(type(answer), getattr(answer, "outcome", "")) for answer in answers[:1]} == (
            {(Drawn, "")} if after else {(Trouble, "none")}
        )
        again = [future.result(WAIT) for future in submit(lanes, [(user, 1, "r1") for user in users])]
    assert all(isinstance(answer, Drawn) for answer in again)
    if after:
        assert again == answers
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == len(users) + after
    assert_healthy(store)


def losing(
    databases: Databases, store: MySqlStore, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> Callable[[], None]:
    """Now, and again whenever the result is called, the next transaction loses its connection at the commit."""
    begun = store._begun
    left = [1]

    def lose(number: int) -> None:
        with databases.administering() as server:
            server.execute(text(f"KILL CONNECTION {number}"))

    def begun_to_lose() -> Any:
        connection = begun()
        if left:
            left.clear()
            connection.info[_WIRE] = LosesTheCommit(connection.info[_WIRE], lose, after=after)
        return connection

    monkeypatch.setattr(store, "_begun", begun_to_lose)
    return lambda: left.append(1)


def test_a_cold_commit_that_was_lost_is_no_promise_that_nothing_was_written(
    store: MySqlStore, databases: Databases, live: dict[int, LiveActivity]
) -> None:
    assert live
    with pytest.raises(OutcomeUnknown), store.writing() as connection:
        connection.execute(update(t.raffle_activity).values(state="close"))
        number = connection.execute(text("SELECT CONNECTION_ID()")).scalar_one()
        with databases.administering() as server:
            server.execute(text(f"KILL CONNECTION {number}"))


@pytest.mark.parametrize("committed", [True, False])
def test_whoever_looks_for_draws_waits_for_the_commit_under_way(
    store: MySqlStore, other: MySqlStore, live: dict[int, LiveActivity], committed: bool
) -> None:
    give(store, "ann")
    with ThreadPoolExecutor(1) as pool:
        try:
            with store.drawing() as tx:
                (drawn,) = draw_batch(
                    tx, [DrawRequest(IDS.make(NOON), "ann", 1, None)], live=live, now_ms=NOON
                ).answers
                assert isinstance(drawn, Drawn)
                looking = pool.submit(other.find_draws, [drawn])
                until_blocked(store)
                assert not looking.done()
                if not committed:
                    raise KeyError
        except KeyError:
            pass
        assert looking.result(WAIT) == ({drawn.order_id: drawn} if committed else {})


@pytest.mark.parametrize("locks", [True, False], ids=["as it is", "switched off"])
def test_whoever_looks_waits_for_statements_of_a_lost_connection(
    store: MySqlStore, live: dict[int, LiveActivity], monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    """The answers come too late, as a statement before the COMMIT waits for a lock; the server goes on with both."""
    give(store, LISTED)
    monkeypatch.setattr("bigmarket.storage.mysql.ANSWER_SECONDS", 1)
    with ThreadPoolExecutor(1) as pool, store.writing() as connection, another(store) as hasty:
        connection.execute(text("SELECT * FROM award_stock FOR UPDATE"))
        with pytest.raises(OutcomeUnknown), hasty.drawing() as tx:
            (drawn,) = draw_batch(tx, [DrawRequest(IDS.make(NOON), LISTED, 1, None)], live=live, now_ms=NOON).answers
        assert isinstance(drawn, Drawn)
        if not locks:
            monkeypatch.setattr(MySqlDrawTx, "_load_accounts", lambda *_: [])
        looking = pool.submit(store.find_draws, [drawn])
        with suppress(TimeoutError):
            looking.result(0.5)
        connection.rollback()
        assert looking.result(WAIT) == ({drawn.order_id: drawn} if locks else {})
    eventually(lambda: count(store, "SELECT COUNT(*) FROM user_award_record") == 1)
    assert_healthy(store)


def want_more(tx: Any) -> None:
    """Let the guard of the account ask for more draws than it has."""
    guarded = [
        statement.replace(b"total_count_surplus >= 1 ", b"total_count_surplus >= 1000 ")
        for statement in tx._bulk.last
    ]
    assert guarded != tx._bulk.last
    tx._bulk.last = guarded


def test_a_guard_that_misses_ends_the_packet_before_its_commit(
    store: MySqlStore, live: dict[int, LiveActivity]
) -> None:
    give(store, "ann")
    with pytest.raises(GuardMissed), store.drawing() as tx:
        draw_batch(tx, [DrawRequest(IDS.make(NOON), "ann", 1, None)], live=live, now_ms=NOON)
        want_more(tx)
    assert count(store, "SELECT COUNT(*) FROM user_raffle_order") == 0
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 0
    assert count(store, "SELECT SUM(sold) FROM award_stock") == 0


def test_teeth_without_the_guard_behind_it_a_statement_that_did_nothing_is_committed(
    store: MySqlStore, live: dict[int, LiveActivity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmarket.storage.mysql_bulk._GUARD", b"DO %d")
    give(store, "ann")
    with store.drawing() as tx:
        draw_batch(tx, [DrawRequest(IDS.make(NOON), "ann", 1, None)], live=live, now_ms=NOON)
        want_more(tx)
    assert count(store, "SELECT COUNT(*) FROM user_award_record") == 1
    with pytest.raises(AssertionError):
        assert_healthy(store)


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_pool_in_use_is_overload_within_its_wait(store: MySqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.storage.mysql.POOL_MAX", 2)
    with another(store) as small, many_open(small, 2):
        started = monotonic()
        with pytest.raises(Overloaded), small.drawing():
            pass
        assert 0.2 < monotonic() - started < 10.0, "not the 30 that pools are used to"
        with pytest.raises(Overloaded), small.reading():
            pass
    with another(store) as small:
        for _ in range(5):  # whatever went wrong inside, every connection comes back
            with pytest.raises(KeyError), many_open(small, 2):
                raise KeyError
            with pytest.raises(KeyError), small.reading(), small.recharging("ann"):
                raise KeyError


def test_a_server_that_takes_no_more_connections_is_an_overload(store: MySqlStore, databases: Databases) -> None:
    name = f"limited{random.randrange(1 << 32):x}"
    with databases.administering() as server:
        server.execute(text(f"CREATE USER {name} IDENTIFIED BY 'a-password' WITH MAX_USER_CONNECTIONS 1"))
        server.execute(text(f"GRANT ALL ON {store.url.database}.* TO {name}"))
    limited = MySqlStore(store.url.set(username=name, password="a-password").render_as_string(hide_password=False))  # noqa: S106
    try:
        with limited.drawing(), pytest.raises(Overloaded, match="no more connections"), limited.drawing():
            pass
    finally:
        limited.close()
        with databases.administering() as server:
            server.execute(text(f"DROP USER {name}"))


def test_a_statement_that_takes_too_long_is_ended(store: MySqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.storage.mysql.STATEMENT_SECONDS", 0.2)
    with another(store) as hasty:
        started = monotonic()
        with pytest.raises(Contention), hasty.reading() as connection:
            connection.execute(text("SELECT SLEEP(10)"))
        assert monotonic() - started < 5
        with hasty.examining() as connection:  # whoever examines has patience
            connection.execute(text("SELECT SLEEP(0.4)"))


def test_a_server_that_does_not_answer_is_given_up(store: MySqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.storage.mysql.CONNECT_SECONDS", 1)
    monkeypatch.setattr("bigmarket.storage.mysql.ANSWER_SECONDS", 1)  # which is what PyMySQL waits for a greeting
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = store.url.set(port=silent.getsockname()[1], password="SECRET")  # noqa: S106
        waiting = MySqlStore(url.render_as_string(hide_password=False))
        started = monotonic()
        with pytest.raises(Trouble, match="does not answer") as caught, waiting.drawing():
            pass
        assert monotonic() - started < 5
        assert "SECRET" not in str(caught.value)
        waiting.close()


# --- refusals in words --------------------------------------------------------------------------------------------


def refusing(url: str) -> str:
    store = MySqlStore(url)
    uses: list[Callable[[], Any]] = [store.drawing, store.reading, store.writing]
    said = set()
    for use in uses:
        with pytest.raises(Trouble) as caught, use():
            pass
        assert caught.value.outcome == "none"
        said.add(str(caught.value))
    with pytest.raises(Trouble):
        migrate(store)
    store.close()
    (words,) = said
    assert "SECRET" not in words
    return words


def test_what_is_wrong_with_a_database_is_said_without_its_password(store: MySqlStore, databases: Databases) -> None:
    with databases.administering():
        pass
    server = f"{MYSQL.host}:{MYSQL.port or 3306}"
    good = store.url
    wrong = good.set(username="nobody-of-ours", password="SECRET")  # noqa: S106
    assert f"{server} refuses the user nobody-of-ours" in refusing(wrong.render_as_string(hide_password=False))
    missing = refusing(good.set(database="bigmarket_test_missing").render_as_string(hide_password=False))
    assert "There is no database bigmarket_test_missing" in missing
    assert "CREATE DATABASE `bigmarket_test_missing` CHARACTER SET utf8mb4" in missing
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    closed = good.set(port=port, password="SECRET").render_as_string(hide_password=False)  # noqa: S106
    assert f"127.0.0.1:{port} does not answer" in refusing(closed)


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"innodb_flush_log_at_trx_commit": "2"}, "innodb_flush_log_at_trx_commit is 2, not 1"),
        ({"innodb_flush_log_at_trx_commit": "0"}, "innodb_flush_log_at_trx_commit is 0, not 1"),
        ({"innodb_doublewrite": "OFF"}, "innodb_doublewrite is OFF, not ON"),
        ({"log_bin": "ON", "sync_binlog": "0"}, "sync_binlog is 0, not 1, and the binary log is on"),
        ({"log_bin": "OFF", "sync_binlog": "0"}, None),
        ({"innodb_doublewrite": "DETECT_AND_RECOVER"}, None),
        ({}, None),
    ],
)
def test_settings_of_the_server_that_lose_commits_are_found(
    store: MySqlStore, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fault: str | None
) -> None:
    with store.reading() as connection:
        found = dict(connection.execute(text("SHOW GLOBAL VARIABLES")).tuples().all())

    class Answers:
        def execute(self, _: object) -> Answers:
            return self

        def all(self) -> list[tuple[str, str]]:
            return list((found | variables).items())

    @contextmanager
    def reading() -> Iterator[Answers]:
        yield Answers()

    monkeypatch.setattr(store, "reading", reading)
    assert store.durability_faults() == ([fault] if fault else [])


def test_an_examination_leaves_the_connection_as_it_was(store: MySqlStore) -> None:
    query = text("SHOW SESSION VARIABLES LIKE 'tx_isolation'")
    with store.examining() as connection:
        assert connection.execute(query).one()[1] == "REPEATABLE-READ"
    for _ in range(8):
        with store.writing() as connection:
            assert connection.execute(query).one()[1] == "READ-COMMITTED"


def test_errors_of_the_caller_pass_through_as_they_are(store: MySqlStore) -> None:
    for fault in (KeyError("mine"), BigmarketError("mine")):
        for opening in (store.drawing, store.delivering, store.reading, store.writing, store.examining):
            with pytest.raises(type(fault)) as caught, opening():
                raise fault
            assert caught.value is fault
