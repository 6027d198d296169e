"""Any text, number or None arrives at the server as it was, and no text ends its literal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bigmarket.errors import Trouble
from bigmarket.storage import mysql
from bigmarket.storage.mysql_bulk import filled
from bigmarket.storage.mysql_literals import literals

SERVER = os.environ.get("TEST_MYSQL_URL", "mysql+pymysql://root@127.0.0.1:3306/")

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
TRICKY = st.text(st.sampled_from("\\\"'`%;-#/*\0\b\f\n\r\t\x1a\x7f\u2028u0{}[](),é你😀"), max_size=20)
VALUES = st.one_of(TEXTS, TRICKY, st.none(), st.integers(-(2**63), 2**63 - 1))


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    engine = mysql._engine(mysql.make_url(SERVER), pool=1, answer_seconds=mysql.ANSWER_SECONDS)
    try:
        connection = engine.raw_connection()
    except Exception as error:  # noqa: BLE001  whatever keeps us from it
        pytest.skip(f"no MySQL or MariaDB answers at {mysql.make_url(SERVER)}: {type(error).__name__}")
    yield connection.cursor()
    connection.close()
    engine.dispose()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.lists(VALUES, min_size=1, max_size=8))
@example(row=['"', "\\", "\\'", "\f\\u0041", "\\u0041", "%b{rows}", "/* */ -- #", "\0", ""])
def test_values_come_back_as_they_were(cursor: Any, row: list[object]) -> None:
    cursor.execute(b"SELECT " + literals([row], between=b""))
    assert list(cursor.fetchone()) == row


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TRICKY, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=5))
@example(rows=[("a],[b", 1), ("],[", 2), ("c", 3)])
@example(rows=[("],[", 1)])
def test_rows_come_back_as_they_were(cursor: Any, rows: list[tuple[str, int]]) -> None:
    cursor.execute(filled("SELECT c1, c2 FROM {table} AS v", rows))
    assert sorted(cursor.fetchall()) == sorted(rows)


def test_a_text_that_would_break_out_is_told_from_the_statement(cursor: Any) -> None:
    evil = '") OR 1=1 -- '
    cursor.execute(filled("SELECT COUNT(*) FROM {table} AS v WHERE (c1, c2) IN (('x', 1))", [(evil, 1)]))
    assert cursor.fetchone() == (0,)


def test_a_server_that_keeps_another_mode_is_refused(monkeypatch: pytest.MonkeyPatch, cursor: Any) -> None:
    cursor.execute("SELECT @@SESSION.sql_mode")
    assert cursor.fetchone() == (mysql.SQL_MODE,)
    monkeypatch.setattr(mysql, "SQL_MODE", "strict_all_tables")  # the server answers in capitals
    engine = mysql._engine(mysql.make_url(SERVER), pool=1, answer_seconds=mysql.ANSWER_SECONDS)
    with pytest.raises(Trouble, match="sql_mode"):
        engine.raw_connection()
    engine.dispose()
