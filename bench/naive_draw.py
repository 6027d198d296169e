"""The baseline: one draw as the reference system makes it, statement by statement, on tables shaped like its own.

About twenty statements in two transactions and a completion mark, each a round trip. ``run_naive`` lets 64 threads
draw on 64 connections, without message and HTTP; reference_server.py serves it over HTTP with its message. Left
out in its favour: its Redis commands. Rules come from memory.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

CONNECTIONS = 64
ACTIVITY, STRATEGY = 100301, 100006
MONTH, DAY = "2026-11", "2026-11-21"
UNITS = 10_000_000  # draws that each user has

_TABLES = (
    """CREATE TABLE raffle_activity (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, activity_id BIGINT NOT NULL, strategy_id BIGINT NOT NULL,
       state VARCHAR(8) NOT NULL, UNIQUE KEY (activity_id), UNIQUE KEY (strategy_id))""",
    """CREATE TABLE strategy_rule (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, strategy_id INT NOT NULL, award_id INT,
       rule_model VARCHAR(16) NOT NULL, rule_value VARCHAR(256) NOT NULL, UNIQUE KEY (strategy_id, rule_model))""",
    """CREATE TABLE strategy_award (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, strategy_id BIGINT NOT NULL, award_id INT NOT NULL,
       rule_models VARCHAR(256), KEY (strategy_id, award_id))""",
    """CREATE TABLE raffle_activity_account (
       id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(128) NOT NULL, activity_id BIGINT NOT NULL,
       total_count INT NOT NULL, total_count_surplus INT NOT NULL, day_count INT NOT NULL,
       day_count_surplus INT NOT NULL, month_count INT NOT NULL, month_count_surplus INT NOT NULL,
       update_time DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
       UNIQUE KEY (user_id, activity_id))""",
    """CREATE TABLE raffle_activity_account_month (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(128) NOT NULL, activity_id BIGINT NOT NULL,
       month VARCHAR(7) NOT NULL, month_count INT NOT NULL, month_count_surplus INT NOT NULL,
       UNIQUE KEY (user_id, activity_id, month))""",
    """CREATE TABLE raffle_activity_account_day (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(128) NOT NULL, activity_id BIGINT NOT NULL,
       day VARCHAR(10) NOT NULL, day_count INT NOT NULL, day_count_surplus INT NOT NULL,
       UNIQUE KEY (user_id, activity_id, day))""",
    """CREATE TABLE user_raffle_order (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(128) NOT NULL, activity_id BIGINT NOT NULL,
       activity_name VARCHAR(64) NOT NULL, strategy_id BIGINT NOT NULL, order_id VARCHAR(12) NOT NULL,
       order_time DATETIME NOT NULL, order_state VARCHAR(16) NOT NULL,
       UNIQUE KEY (order_id), KEY (user_id, activity_id))""",
    """CREATE TABLE user_award_record (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(128) NOT NULL, activity_id BIGINT NOT NULL,
       strategy_id BIGINT NOT NULL, order_id VARCHAR(12) NOT NULL, award_id INT NOT NULL,
       award_title VARCHAR(128) NOT NULL, award_time DATETIME NOT NULL, award_state VARCHAR(16) NOT NULL,
       UNIQUE KEY (order_id), KEY (user_id), KEY (activity_id), KEY (strategy_id))""",
    """CREATE TABLE task (
       id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(128) NOT NULL, topic VARCHAR(32) NOT NULL,
       message_id VARCHAR(11) NOT NULL, message VARCHAR(512) NOT NULL, state VARCHAR(16) NOT NULL,
       update_time DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
       UNIQUE KEY (message_id), KEY (state), KEY (update_time))""",
)

_OF_USER = "WHERE user_id = %s AND activity_id = %s"
_ACCOUNT = f"SELECT total_count, total_count_surplus FROM raffle_activity_account {_OF_USER}"
_OPEN_ORDER = f"SELECT order_id FROM user_raffle_order {_OF_USER} AND order_state = 'create' LIMIT 1"
_MONTH = f"SELECT month_count, month_count_surplus FROM raffle_activity_account_month {_OF_USER} AND month = %s"
_DAY = f"SELECT day_count, day_count_surplus FROM raffle_activity_account_day {_OF_USER} AND day = %s"
_SPEND = f"SET {{0}}_count_surplus = {{0}}_count_surplus - 1 {_OF_USER} AND {{0}}_count_surplus > 0"
_SPEND_OF = {what: f"UPDATE raffle_activity_account {_SPEND.format(what)}" for what in ("total", "month", "day")}
_SPEND_MONTH = f"UPDATE raffle_activity_account_month {_SPEND.format('month')} AND month = %s"
_SPEND_DAY = f"UPDATE raffle_activity_account_day {_SPEND.format('day')} AND day = %s"
_INSERT_ORDER = """
INSERT INTO user_raffle_order
  (user_id, activity_id, activity_name, strategy_id, order_id, order_time, order_state)
VALUES (%s, %s, 'bench', %s, %s, NOW(), 'create')"""
_RULE = "SELECT rule_value FROM strategy_rule WHERE strategy_id = %s AND rule_model = %s"
_ACTIVITY = "SELECT activity_id FROM raffle_activity WHERE strategy_id = %s"
_TREE = "SELECT rule_models FROM strategy_award WHERE strategy_id = %s AND award_id = %s"
_INSERT_RECORD = """
INSERT INTO user_award_record
  (user_id, activity_id, strategy_id, order_id, award_id, award_title, award_time, award_state)
VALUES (%s, %s, %s, %s, %s, 'bench', NOW(), 'create')"""
_INSERT_TASK = """
INSERT INTO task (user_id, topic, message_id, message, state) VALUES (%s, 'send_award', %s, %s, 'create')"""
_USE_ORDER = "UPDATE user_raffle_order SET order_state = 'used' WHERE order_id = %s AND order_state = 'create'"
_FINISH_TASK = "UPDATE task SET state = 'completed' WHERE message_id = %s"


def run_naive(url: str, *, users: Sequence[str], seconds: float, warm_up: float) -> tuple[list[float], float, int]:
    """Latencies (s) of the draws of the measured time, that time (s), and how many draws were made in all."""
    create_tables(url, users)
    clients = [_Client(url, users, seed=number) for number in range(CONNECTIONS)]
    for client in clients:
        client.start()
    time.sleep(warm_up)
    started = time.perf_counter()
    time.sleep(seconds)
    ended = time.perf_counter()
    for client in clients:
        client.stopping = True
    for client in clients:
        client.join()
    assert not [client.fault for client in clients if client.fault], [client.fault for client in clients]
    made = [draw for client in clients for draw in client.draws]
    return [took for at, took in made if started <= at < ended], ended - started, len(made)


def _connect(url: str) -> Any:
    """A driver's connection of its own."""
    pooled = create_engine(url, poolclass=NullPool, isolation_level="READ COMMITTED").raw_connection()
    pooled.detach()
    return pooled.dbapi_connection


def create_tables(url: str, users: Sequence[str]) -> None:
    """Its tables, and users with draws."""
    connection = _connect(url)
    cursor = connection.cursor()
    for table in _TABLES:
        cursor.execute(f"{table} ENGINE = InnoDB DEFAULT CHARSET = utf8mb4")
    for statement, rows in _rows(users):
        marks = ", ".join(["%s"] * len(rows[0]))
        cursor.executemany(f"INSERT INTO {statement} VALUES ({marks})", rows)
    connection.commit()
    connection.close()


def _rows(users: Sequence[str]) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    """Tables with columns, and what to insert."""
    yield "raffle_activity (activity_id, strategy_id, state)", [(ACTIVITY, STRATEGY, "open")]
    rules = (("rule_blacklist", "101:user001,user002"), ("rule_weight", "10:102,103 70:106,107"))
    yield "strategy_rule (strategy_id, rule_model, rule_value)", [(STRATEGY, *rule) for rule in rules]
    trees = [(STRATEGY, award_id, "tree_lock_1") for award_id in range(101, 109)]
    yield "strategy_award (strategy_id, award_id, rule_models)", [*trees]
    counts = ", ".join(f"{what}_count, {what}_count_surplus" for what in ("total", "day", "month"))
    accounts = [(user, ACTIVITY, *[UNITS] * 6) for user in users]
    yield f"raffle_activity_account (user_id, activity_id, {counts})", [*accounts]
    for what, period in (("month", MONTH), ("day", DAY)):
        columns = f"(user_id, activity_id, {what}, {what}_count, {what}_count_surplus)"
        yield f"raffle_activity_account_{what} {columns}", [(u, ACTIVITY, period, UNITS, UNITS) for u in users]


class ReferenceFlow:
    """The reference's draw on one connection; ``publish`` sends its message and returns when it is confirmed."""

    def __init__(self, url: str, *, publish: Callable[[str], None] = lambda _: None, seed: int | None = None) -> None:
        self._connection = _connect(url)
        self._cursor = self._connection.cursor()
        self._publish = publish
        self._random = random.Random(seed)

    def draw(self, user: str) -> int:
        """The award's id. The message goes out when the win is committed, then its task is marked as done."""
        order_id = f"{self._random.randrange(10**12):012}"
        self._take_part(user, order_id)
        award_id = self._judge(user)
        message_id, message = self._save(user, order_id, award_id)
        self._publish(message)
        self._run(_FINISH_TASK, message_id)
        self._connection.commit()
        return award_id

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def _take_part(self, user: str, order_id: str) -> None:
        run, key = self._run, (user, ACTIVITY)
        run(_OPEN_ORDER, *key)
        run(_ACCOUNT, *key)
        run(_MONTH, *key, MONTH)
        run(_DAY, *key, DAY)
        run(_SPEND_OF["total"], *key)
        run(_SPEND_MONTH, *key, MONTH)
        run(_SPEND_OF["month"], *key)
        run(_SPEND_DAY, *key, DAY)
        run(_SPEND_OF["day"], *key)
        run(_INSERT_ORDER, *key, STRATEGY, order_id)
        self._connection.commit()

    def _judge(self, user: str) -> int:
        run, key = self._run, (user, ACTIVITY)
        run(_RULE, STRATEGY, "rule_blacklist")
        run(_RULE, STRATEGY, "rule_weight")
        run(_ACTIVITY, STRATEGY)
        run(_ACCOUNT, *key)
        award_id = self._random.randrange(101, 109)
        run(_TREE, STRATEGY, award_id)
        run(_DAY, *key, DAY)
        self._connection.commit()
        return award_id

    def _save(self, user: str, order_id: str, award_id: int) -> tuple[str, str]:
        message_id = f"{self._random.randrange(10**11):011}"
        message = f'{{"data":{{"userId":"{user}","orderId":"{order_id}","awardId":{award_id}}},"id":"{message_id}"}}'
        self._run(_INSERT_RECORD, user, ACTIVITY, STRATEGY, order_id, award_id)
        self._run(_INSERT_TASK, user, message_id, message)
        self._run(_USE_ORDER, order_id)
        self._connection.commit()
        return message_id, message

    def _run(self, statement: str, *values: object) -> None:
        self._cursor.execute(statement, values)
        self._cursor.fetchall()


class _Client(threading.Thread):
    """One connection that draws in a closed loop."""

    def __init__(self, url: str, users: Sequence[str], *, seed: int) -> None:
        super().__init__(daemon=True)
        self._flow = ReferenceFlow(url, seed=seed)
        self._users = users
        self._random = random.Random(seed)
        self.stopping = False
        self.draws: list[tuple[float, float]] = []
        self.fault: Exception | None = None

    def run(self) -> None:
        """Draw until told to stop."""
        try:
            while not self.stopping:
                asked_at = time.perf_counter()
                self._flow.draw(self._random.choice(self._users))
                self.draws.append((asked_at, time.perf_counter() - asked_at))
        except Exception as fault:  # noqa: BLE001  told at the end
            self.fault = fault
        self._flow.close()
