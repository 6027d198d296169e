"""What the benchmark says of a database with little memory, and of a disk that stalls."""

from __future__ import annotations

import os
import time
from itertools import chain, repeat

import pytest

from machine import DiskWatch, advice
from waiting import eventually

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


def test_a_stall_of_the_disk_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sync, stalls = os.fdatasync, chain([1.5], repeat(0.0))

    def stalling(descriptor: int) -> None:
        time.sleep(next(stalls))
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", stalling)
    with DiskWatch() as disk:
        told: list[float] = []
        eventually(lambda: told.append(disk.longest_ms()) or max(told) > 1_500)
        eventually(lambda: 0 < disk.longest_ms() < 1_500)
