"""The wire of the hot transactions says what drivers say, however its answers come; and says so when none comes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigmarket.storage.mysql import _CLIENT_FLAGS
from bigmarket.storage.mysql_literals import literal
from bigmarket.storage.mysql_wire import DriverWire, WiredConnection
from databases import MYSQL, Databases

ANSWER_SECONDS = 1
SERVER_LOST = 2013

#: Numbers of one, of two, of three bytes and more; values short, long and none; several of each.
SAID = [
    b"CREATE TEMPORARY TABLE n (i INT PRIMARY KEY, v TEXT)",
    b"INSERT INTO n (i) VALUES " + b",".join(b"(%d)" % number for number in range(1, 70_001)),
    b"UPDATE n SET v = 'few' WHERE i <= 7",
    b"UPDATE n SET v = 'few' WHERE i <= 7",
    b"UPDATE n SET v = 'some' WHERE i <= 251",
    b"SELECT JSON_ARRAYAGG(JSON_ARRAY(i, v)) FROM n WHERE i <= 3",
    b"SELECT JSON_ARRAYAGG(JSON_ARRAY(i, v)) FROM n WHERE i <= 30000",
    b"SELECT MAX(v) FROM n WHERE i > 70000",
    b"SELECT ''",
    b"DELETE FROM n",
    b"DO 1",
]


@pytest.fixture
def wired(databases: Databases) -> Iterator[WiredConnection]:
    with databases.bare() as url:
        connection = WiredConnection(**where(url), read_timeout=ANSWER_SECONDS)
        yield connection
        if connection.open:
            connection.close()


def where(url: str) -> dict[str, Any]:
    parsed = MYSQL.set(database=url.rpartition("/")[2])
    return {
        "host": parsed.host,
        "port": parsed.port or 3306,
        "user": parsed.username,
        "password": parsed.password or "",
        "database": parsed.database,
        "client_flag": _CLIENT_FLAGS,
        "ssl_disabled": True,
    }


class Drip:
    """A socket whose data comes in small pieces."""

    def __init__(self, source: Any, size: int) -> None:
        self._source = source
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def recv(self, _: int) -> bytes:
        data: bytes = self._source.recv(self._size)
        return data


def as_text(came: list[Any]) -> list[Any]:
    return [one.decode() if isinstance(one, bytes) else one for one in came]


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 1000, 1 << 16])
def test_it_says_what_the_driver_says(databases: Databases, wired: WiredConnection, piece: int) -> None:
    said = [s for s in SAID if piece > 5 or b"30000" not in s]
    with databases.bare() as url:
        driver = pymysql.connect(**where(url))
        wired._sock = Drip(wired._sock, piece)
        assert as_text(wired.run(said)) == as_text(DriverWire(driver).run(said))
        driver.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=300), min_size=1, max_size=4))
def test_any_value_comes_whole(wired: WiredConnection, texts: list[str]) -> None:
    wired.run([b"SET NAMES utf8mb4"])
    assert as_text(wired.run([b"SELECT " + literal(text) for text in texts])) == texts


@pytest.mark.parametrize("wrong", [b"INSERT INTO n VALUES (1, NULL)", b"SELECT nonsense FROM n", b"SELEC"])
def test_an_error_is_raised_and_what_stands_behind_it_does_not_run(wired: WiredConnection, wrong: bytes) -> None:
    wired.run([b"CREATE TEMPORARY TABLE n (i INT PRIMARY KEY, v TEXT)", b"INSERT INTO n VALUES (1, 'before')"])
    with pytest.raises(pymysql.err.MySQLError):
        wired.run([b"UPDATE n SET v = 'ran'", wrong, b"DELETE FROM n"])
    assert wired.run([b"SELECT MAX(v) FROM n"]) == [b"ran"]


def test_an_error_among_the_rows_is_raised(wired: WiredConnection) -> None:
    """The first row of the column is sent before the server knows."""
    with pytest.raises(pymysql.err.MySQLError, match="more than 1 row"):
        wired.run([b"SELECT (SELECT 1 UNION SELECT 2)", b"SELECT 1"])
    assert wired.run([b"SELECT 1"]) == [b"1"]


def lost(call: Any) -> float:
    """Seconds until it was said to be lost."""
    began = monotonic()
    with pytest.raises(pymysql.err.OperationalError) as caught:
        call()
    assert caught.value.args[0] == SERVER_LOST
    return monotonic() - began


def test_a_server_that_does_not_answer_is_not_waited_for(wired: WiredConnection) -> None:
    assert ANSWER_SECONDS * 0.9 < lost(lambda: wired.run([b"SELECT SLEEP(20)"])) < 15
    assert not wired.open, "its answer would be taken for that to the next statement"


def test_nor_by_pymysql_itself(wired: WiredConnection) -> None:
    assert ANSWER_SECONDS * 0.9 < lost(lambda: wired.cursor().execute("SELECT SLEEP(20)")) < 15
    assert not wired.open


def test_a_connection_that_the_server_closes_is_lost(databases: Databases, wired: WiredConnection) -> None:
    (number,) = wired.run([b"SELECT CONNECTION_ID()"])
    with databases.administering() as server:
        server.exec_driver_sql(f"KILL CONNECTION {int(number)}")
    with pytest.raises(pymysql.err.OperationalError):
        wired.run([b"SELECT 1"])
    assert not wired.open


def test_who_is_interrupted_leaves_no_answer_behind(wired: WiredConnection) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        wired.run([b"SELECT SLEEP(0.8)"])
    assert not wired.open


def test_both_ways_of_asking_take_turns(wired: WiredConnection) -> None:
    for number in range(3):
        assert wired.run([b"DO 1", b"SELECT %d" % number]) == [0, b"%d" % number]
        with wired.cursor() as cursor:
            cursor.execute(f"SELECT {number}, 'text'")
            assert cursor.fetchall() == ((number, "text"),)
