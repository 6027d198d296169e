"""On MariaDB and RabbitMQ: with a protection switched off, doctor must go red; with any one of them on, stay green.

What can only be broken by a race is broken in this process, where a barrier makes sure that the race is run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import count as numbers
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from sqlalchemy import text

from bigmarket.activity.campaign import parse_campaign
from bigmarket.activity.stock import GuardMissed, StockKey
from bigmarket.app import now_ms
from bigmarket.bus.in_process import InProcessBus
from bigmarket.bus.published import PublishedBus
from bigmarket.bus.rabbitmq import RabbitConsumer, RabbitPublisher, link
from bigmarket.draw import AccountKey, BatchResult, Drawn, DrawRequest, Spending, draw_batch
from bigmarket.errors import QuotaExhausted, Trouble
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.outbox.task import Task
from bigmarket.storage.bulk import Write
from bigmarket.storage.campaigns import load_live
from bigmarket.storage.delivery_tx import SqlDeliveryTx
from bigmarket.storage.doctor import TASK_LAG_LIMIT_MS, examine
from bigmarket.storage.draw_tx import SqlDrawTx
from bigmarket.storage.migrate import migrate
from bigmarket.storage.mysql import MySqlStore
from bigmarket.storage.mysql_bulk import MySqlBulk
from bigmarket.storage.mysql_delivery import STATEMENTS as DELIVERY
from bigmarket.storage.mysql_draw import _DAY_LEFT, _MONTH_LEFT, STATEMENTS, MySqlDrawTx, Rolled
from faults.load import Ask, Log, connected
from faults.processes import ServerProcess, run_cli
from faults.services import DECLARED_SECONDS, MariaDbProcess, RabbitProcess
from support import IDS, count, facts, give, install
from waiting import eventually

pytestmark = pytest.mark.faults

RACE_SECONDS = 0.3  # that a racer waits for the other, which a lock may hold up
LATER_MS = 2 * TASK_LAG_LIMIT_MS
UNSAFE = Path(__file__).with_name("unsafe.py")
#: One car, which everybody rolls; whoever comes too late gets points. Sku 11 is one draw, sku 12 twenty.
CAR = """
activity:
  {activity_id: 1, name: car, time_zone: Asia/Shanghai, begin: "2020-01-01 00:00:00", end: "2099-01-01 00:00:00"}
skus:
  - {sku: 11, stock: 1000, total_count: 1, month_count: 1, day_count: 1}
  - {sku: 12, stock: 1000, total_count: 20, month_count: 20, day_count: 20}
strategy:
  strategy_id: 9
  name: car
  awards:
    - {award_id: 1, title: points, rate: "0.000000001", sort: 1}
    - {award_id: 4, title: car, rate: "0.999999999", stock: 1, sort: 2, tree: stocked}
  trees:
    - tree_id: stocked
      root: rule_stock
      nodes: [{rule: rule_stock}, {rule: rule_luck_award, award_id: 1, config: "0.01,0.10"}]
      lines: [{from: rule_stock, to: rule_luck_award, when: ALLOW}]
awards:
  - {award_id: 1, kind: user_credit_random, config: "0.01,5"}
  - {award_id: 4, kind: physical}
"""
_names = numbers(1)


@contextmanager
def new_store(mariadb: MariaDbProcess, *, cars: int = 1) -> Iterator[MySqlStore]:
    """A database with the campaign."""
    store = MySqlStore(mariadb.create_database(f"teeth{next(_names)}"), grace_ms=0)
    try:
        migrate(store)
        install(store, parse_campaign(CAR.replace("stock: 1,", f"stock: {cars},")), now_ms=now_ms())
        yield store
    finally:
        store.close()


def broken(store: MySqlStore, *, later_ms: int = 0) -> list[str]:
    """Names of the promises that doctor finds broken, or would find then."""
    return [finding.name for finding in examine(store, now_ms=now_ms() + later_ms) if not finding.ok]


def execute(store: MySqlStore, sql: str) -> None:
    with store.writing() as connection:
        connection.execute(text(sql))


# --- races for the last unit and the last draw --------------------------------------------------------------------


class RacingTx(MySqlDrawTx):
    """Writes only when the other racer is about to write too, or does not come; some protections are ``off``."""

    def __init__(self, bulk: MySqlBulk, *, off: Collection[str], barrier: Barrier, **how: Any) -> None:
        super().__init__(bulk, **how)
        self._off = off
        self._barrier = barrier
        if "lock" in off:
            self._sql = replace(self._sql, load_accounts=STATEMENTS.load_accounts.replace(" FOR UPDATE", ""))
        if "guard" in off:
            self._sql = replace(self._sql, take_stock=STATEMENTS.take_stock.split("WHERE")[0])

    def load_stock(self, wanted: Any) -> dict[StockKey, int | None]:
        """As read, without a lock, if that is off."""
        return SqlDrawTx.load_stock(self, wanted) if "lock" in self._off else super().load_stock(wanted)

    def apply(self, outcome: Any) -> None:
        """Wait for the other."""
        with suppress(BrokenBarrierError):
            self._barrier.wait(RACE_SECONDS)
        super().apply(outcome)

    def _spendings(self, spent: Any) -> Iterator[Write]:
        if "guard" not in self._off:
            yield from super()._spendings(spent)
            return
        spending: Spending
        key: AccountKey
        for key, spending in spent.items():
            draws, (month, day) = spending.draws, spending.period
            yield Write(_SPEND_UNGUARDED, [key], before=(draws, month, draws, month, day, draws, day))


_SPEND_UNGUARDED = f"""
UPDATE raffle_activity_account
SET total_count_surplus = total_count_surplus - %b,
    month_count_surplus = {_MONTH_LEFT} - %b, month = %b, day_count_surplus = {_DAY_LEFT} - %b, day = %b
WHERE (user_id, activity_id) IN ({{rows}})"""


def race(store: MySqlStore, users: tuple[str, str], *, off: Collection[str]) -> list[Drawn | Exception]:
    """Two draws at once, each on its own connection, as of two processes."""
    barrier = Barrier(2)
    with store.reading() as connection:
        live = load_live(connection, {})

    def draw(user_id: str) -> Drawn | Exception:
        request = DrawRequest(IDS.make(now_ms()), user_id, 1, None)
        try:
            with store._transaction() as bulk:
                how = {"split": store.split, "grace_ms": 0, "rolled": Rolled()}
                tx = RacingTx(bulk, off=off, barrier=barrier, **how)
                (answer,) = draw_batch(tx, [request], live=live, now_ms=now_ms()).answers
        except Exception as fault:  # noqa: BLE001  what a racer that lost is told
            return fault
        return answer

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(draw, users))


LAYERS = [
    frozenset(),
    frozenset({"lock"}),
    frozenset({"guard"}),
    frozenset({"lock", "guard"}),
    frozenset({"lock", "check"}),
    frozenset({"lock", "guard", "check"}),
]
layers = pytest.mark.parametrize("off", LAYERS, ids=lambda off: ", ".join(sorted(off)) or "nothing")


@layers
def test_teeth_the_last_unit_is_sold_twice_only_without_lock_guard_and_check(
    mariadb: MariaDbProcess, off: frozenset[str]
) -> None:
    with new_store(mariadb) as store:
        for user in ("ann", "bob"):
            give(store, user, now_ms=now_ms())
        if "check" in off:
            execute(store, "ALTER TABLE award_stock DROP CONSTRAINT ck_award_stock_never_oversold")
        answers = race(store, ("ann", "bob"), off=off)
        cars = sum(isinstance(answer, Drawn) and answer.award_id == 4 for answer in answers)
        all_off = len(off) == 3
        assert cars == (2 if all_off else 1), answers
        assert broken(store) == (["S1"] if all_off else [])


@layers
def test_teeth_the_last_draw_is_drawn_twice_only_without_lock_guard_and_check(
    mariadb: MariaDbProcess, off: frozenset[str]
) -> None:
    with new_store(mariadb, cars=2) as store:
        give(store, "ann", now_ms=now_ms())
        if "check" in off:
            for what in ("total", "month", "day"):
                name = f"ck_raffle_activity_account_{what}_covered"
                execute(store, f"ALTER TABLE raffle_activity_account DROP CONSTRAINT {name}")
        answers = race(store, ("ann", "ann"), off=off)
        drawn = [answer for answer in answers if isinstance(answer, Drawn)]
        all_off = len(off) == 3
        assert len(drawn) == (2 if all_off else 1), answers
        assert broken(store) == (["Q1"] if all_off else [])
        if "lock" not in off:
            assert [type(answer) for answer in answers if answer not in drawn] == [QuotaExhausted]


# --- the outbox and its consumer ----------------------------------------------------------------------------------


def won_points(store: MySqlStore, user: str, *, draws: int) -> list[Task]:
    """Draws that won points, in one batch; their tasks."""
    execute(store, "UPDATE award_stock SET alloc = 0 WHERE award_id = 4")
    give(store, user, sku=12, now_ms=now_ms())
    requests = [DrawRequest(IDS.make(now_ms()), user, 1, None) for _ in range(draws)]
    with store.reading() as connection:
        live = load_live(connection, {})
    with store.drawing() as tx:
        result: BatchResult = draw_batch(tx, requests, live=live, now_ms=now_ms())
    execute(store, "UPDATE award_stock SET alloc = 1 WHERE award_id = 4")
    assert len(result.tasks) == draws
    return result.tasks


class RepeatsEffects(MySqlStore):
    """Its consumers' transaction takes every record for one that waits."""

    @contextmanager
    def delivering(self) -> Iterator[SqlDeliveryTx]:
        """One delivery transaction."""
        with self._transaction() as bulk:
            yield RepeatsEffectsTx(bulk, DELIVERY, split=self.split)


class RepeatsEffectsTx(SqlDeliveryTx):
    """The transaction of ``RepeatsEffects``."""

    def complete_records(self, records: Sequence[tuple[str, str]]) -> set[str]:
        """All of them."""
        super().complete_records(records)
        return {order_id for _, order_id in records}


@pytest.mark.parametrize("off", [set(), {"state"}, {"state", "keys"}], ids=["nothing", "state", "state, keys"])
def test_teeth_a_repeated_message_credits_twice_only_without_state_and_keys(
    mariadb: MariaDbProcess, off: set[str]
) -> None:
    with new_store(mariadb) as store:
        tasks = won_points(store, "ann", draws=5)
        if "keys" in off:
            keys = "DROP PRIMARY KEY, DROP INDEX uq_user_credit_order_out_business_no"
            execute(store, f"ALTER TABLE user_credit_order {keys}")
        consuming = RepeatsEffects(store.url.render_as_string()) if "state" in off else store
        bus = InProcessBus(consuming, CONSUMERS, now_ms=now_ms, facts=facts(store))
        bus.deliver(tasks)
        assert broken(store) == []
        with pytest.raises(GuardMissed) if off == {"state"} else nullcontext():
            bus.consume(tasks)
        if consuming is not store:
            consuming.close()
        credited = count(store, "SELECT COUNT(*) FROM user_credit_order")
        assert credited == (2 * len(tasks) if "keys" in off else len(tasks))
        assert broken(store) == (["M2"] if "keys" in off else [])


@pytest.mark.parametrize("name", ["tasks_late", "safe"])
def test_teeth_tasks_written_after_the_commit_are_missed_after_a_kill(
    mariadb: MariaDbProcess, tmp_path: Path, name: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with new_store(mariadb) as store:
        execute(store, "UPDATE award_stock SET alloc = 0 WHERE award_id = 4")
        give(store, "ann", sku=12, now_ms=now_ms())
        database = store.url.render_as_string()
        with ServerProcess(home, command=[str(UNSAFE), name], work=False, database=database) as server:
            log = asyncio.run(_drawn(server.port, [Ask("ann", f"r{number}") for number in range(20)]))
            server.kill()
        assert len(log.won) == 20
        assert not log.troubles
        assert "M1" not in broken(store), "a message may be on its way for a while"
        assert ("M1" in broken(store, later_ms=LATER_MS)) == (name == "tasks_late")
        assert count(store, "SELECT COUNT(*) FROM task") == (0 if name == "tasks_late" else 20)


async def _drawn(port: int, asks: Sequence[Ask]) -> Log:
    log = Log()
    async with connected(port) as connection:
        for ask in asks:
            log.note(ask, await connection.draw(ask))
    return log


# --- the broker ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirms", [False, True], ids=["unconfirmed", "confirmed"])
def test_teeth_an_unconfirmed_message_is_missed_after_the_broker_is_killed(
    mariadb: MariaDbProcess, rabbit: RabbitProcess, monkeypatch: pytest.MonkeyPatch, *, confirms: bool
) -> None:
    monkeypatch.setattr(link, "CONFIRM_SECONDS", 0.5)
    prefix = f"teeth{next(_names)}."
    with new_store(mariadb) as store:
        publisher = RabbitPublisher(rabbit.url, prefix=prefix, topics=CONSUMERS, confirms=confirms)
        outgoing = PublishedBus(store, publisher)
        first, second = won_points(store, "ann", draws=5), won_points(store, "bob", draws=7)
        outgoing.deliver(first)
        with _consuming(store, rabbit, prefix=prefix):
            eventually(lambda: _completed(store) == len(first), seconds=10)
        time.sleep(DECLARED_SECONDS)
        taken = _publish_and_kill(rabbit, lambda: outgoing.deliver(second))
        assert taken is not confirms
        if confirms:
            eventually(lambda: _published(outgoing, second), seconds=15)
        with _consuming(store, rabbit, prefix=prefix):
            expected = len(first) + (len(second) if confirms else 0)
            eventually(lambda: _completed(store) == expected, seconds=15)
        outgoing.close()
        assert count(store, "SELECT COUNT(*) FROM task") == 0
        assert broken(store, later_ms=LATER_MS) == ([] if confirms else ["M1"])


def _publish_and_kill(rabbit: RabbitProcess, publish: Callable[[], None]) -> bool:
    """Publish to a broker that is frozen, and kill it. Returns whether the publisher took its messages for sent."""
    rabbit.pause()
    try:
        publish()
    except Trouble:
        taken = False
    else:
        taken = True
    finally:
        rabbit.kill()
        rabbit.start()
        rabbit.wait_ready()
    return taken


def _published(outgoing: PublishedBus, tasks: Sequence[Task]) -> bool:
    try:
        outgoing.deliver(tasks)
    except Trouble:
        return False
    return True


@contextmanager
def _consuming(store: MySqlStore, rabbit: RabbitProcess, *, prefix: str) -> Iterator[None]:
    def park(task: Task, reason: str) -> None:
        raise AssertionError((task, reason))

    bus = InProcessBus(store, CONSUMERS, now_ms=now_ms, facts=facts(store))
    consumer = RabbitConsumer(
        rabbit.url, prefix=prefix, topics=CONSUMERS, handle=bus.consume, park=park, now_ms=now_ms
    )
    consumer.start()
    try:
        yield
    finally:
        assert consumer.stop(timeout_seconds=10)


def _completed(store: MySqlStore) -> int:
    return count(store, "SELECT COUNT(*) FROM user_award_record WHERE award_state = 'completed'")


# --- the settings of the server -----------------------------------------------------------------------------------


def test_teeth_a_database_that_does_not_flush_at_commit_is_refused(tmp_path: Path) -> None:
    MariaDbProcess.require()
    home = tmp_path / "home"
    home.mkdir()
    with MariaDbProcess(tmp_path / "careless", flush_at_commit=2) as careless:
        database = careless.create_database("careless")
        refused = run_cli(home, "serve", database=database)
        assert refused.returncode == 1
        assert "innodb_flush_log_at_trx_commit is 2, not 1" in refused.stderr
        assert "Traceback" not in refused.stderr
        with ServerProcess(home, database=database, development=True) as server:
            assert "innodb_flush_log_at_trx_commit is 2" in server.log
            found = run_cli(home, "doctor", database=database, development=True)
        assert found.returncode == 1
        assert "P1" in found.stdout
