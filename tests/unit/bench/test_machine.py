"""What the benchmark says of a database with little memory."""

from __future__ import annotations

from machine import advice

GIB = 1 << 30


def test_a_small_database_is_told_what_to_set() -> None:
    assert advice({"innodb_buffer_pool_size": "134217728", "innodb_log_file_size": str(GIB)}) == [
        "--innodb-buffer-pool-size=2G"
    ]
    assert advice({"innodb_buffer_pool_size": str(2 * GIB), "innodb_log_file_size": "100663296"}) == [
        "--innodb-log-file-size=1G"
    ]


def test_mysql_has_another_name_for_its_redo_log() -> None:
    mysql = {"innodb_buffer_pool_size": str(2 * GIB), "innodb_log_file_size": "50331648"}
    assert advice({**mysql, "innodb_redo_log_capacity": "104857600"}) == ["--innodb-redo-log-capacity=1G"]


def test_nothing_is_said_of_a_large_one_or_of_none() -> None:
    assert advice({"innodb_buffer_pool_size": str(4 * GIB), "innodb_log_file_size": str(GIB)}) == []
    assert advice({"database": "did not answer"}) == []
