"""What the benchmark says of a database with little memory."""

from __future__ import annotations

from machine import advice

GIB = 1 << 30


def test_a_small_database_is_told_what_to_set() -> None:
    assert advice({"innodb_buffer_pool_size": "134217728", "innodb_log_file_size": str(GIB)}) == [
        f"SET GLOBAL innodb_buffer_pool_size = {2 * GIB};"
    ]
    assert advice({"innodb_buffer_pool_size": str(2 * GIB), "innodb_log_file_size": "100663296"}) == [
        f"SET GLOBAL innodb_log_file_size = {GIB};"
    ]


def test_mysql_has_another_name_for_its_redo_log() -> None:
    mysql = {"innodb_buffer_pool_size": str(2 * GIB), "innodb_log_file_size": "50331648"}
    assert advice({**mysql, "innodb_redo_log_capacity": "104857600"}) == [
        f"SET GLOBAL innodb_redo_log_capacity = {GIB};"
    ]


def test_nothing_is_said_of_a_large_one_or_of_none() -> None:
    assert advice({"innodb_buffer_pool_size": str(4 * GIB), "innodb_log_file_size": str(GIB)}) == []
    assert advice({"database": "did not answer"}) == []
