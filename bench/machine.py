"""What a figure was measured on: machine, versions, and two gauges that tell a slow day from slow code."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Self

from amqp import Connection  # type: ignore[import-untyped]
from amqp.exceptions import AMQPError  # type: ignore[import-untyped]
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from bigmarket.bus.rabbitmq.endpoint import endpoint_of

ROOT = Path(__file__).parents[1]
LOOPS = 2_000_000
SYNCS = 200
WATCH_SECONDS = 0.05
NO_ANSWER = "did not answer"
_SETTINGS = (
    "innodb_flush_log_at_trx_commit",
    "innodb_buffer_pool_size",
    "innodb_log_file_size",
    "innodb_redo_log_capacity",
    "log_bin",
    "sync_binlog",
)

#: Bytes that a database should have; with less, pages and redo log set the pace (docs/run-in-production.md).
_ENOUGH = {"innodb_buffer_pool_size": 2 << 30, "innodb_redo_log_capacity": 1 << 30, "innodb_log_file_size": 1 << 30}


def facts(*, server: str | None, broker: str | None) -> dict[str, str | float]:
    """Everything that belongs beside a figure."""
    found: dict[str, str | float] = {
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python_loop_ms": round(python_loop_ms(), 1),
        "fdatasync_ms": round(fdatasync_ms(), 3),
        "kernel": platform.release(),
        "Python": f"{platform.python_version()}, built {platform.python_build()[1]}",
        "SQLite": sqlite3.sqlite_version,
        "uvicorn": version("uvicorn"),
        "wrk": _wrk_version(),
        "bigmarket": f"{version('bigmarket')}, revision {_revision()}",
    }
    if server:
        found |= _database(server)
    if broker:
        found["RabbitMQ"] = _broker(broker)
    return found


def advice(found: Mapping[str, str | float]) -> list[str]:
    """Options with which the database of those facts would have enough memory and redo log; none when it has."""
    enough = dict(_ENOUGH)
    if "innodb_redo_log_capacity" in found:  # MySQL: the other name is without effect there
        del enough["innodb_log_file_size"]
    small = (name for name, size in enough.items() if float(found.get(name, size)) < size)
    return [f"--{name.replace('_', '-')}={enough[name] >> 30}G" for name in small]


def python_loop_ms() -> float:
    """A plain loop of two million additions: how fast one core runs Python now. Best of five."""

    def once() -> float:
        started, total = time.perf_counter(), 0
        for number in range(LOOPS):
            total += number
        return time.perf_counter() - started

    return min(once() for _ in range(5)) * 1000


def fdatasync_ms() -> float:
    """Median time of a 4 KiB write with fdatasync, where temporary files are."""
    took = []
    with tempfile.TemporaryFile() as file:
        for number in range(SYNCS):
            os.pwrite(file.fileno(), b"x" * 4096, number * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


class DiskWatch:
    """A thread that writes 4 KiB with fdatasync, 20 times a second: what else waits while the disk stalls."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def longest_ms(self) -> float:
        """The longest one since this was asked last."""
        longest, self._longest = self._longest, 0.0
        return longest * 1000

    def _run(self) -> None:
        with tempfile.TemporaryFile() as file:
            while not self._over.wait(WATCH_SECONDS):
                os.pwrite(file.fileno(), b"x" * 4096, 0)
                started = time.perf_counter()
                os.fdatasync(file.fileno())
                self._longest = max(self._longest, time.perf_counter() - started)


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _wrk_version() -> str:
    if not shutil.which("wrk"):
        return "not installed"
    printed = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S607
    return printed.split("[")[0].removeprefix("wrk ").strip() or "unknown"


def _revision() -> str:
    named = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "bench")  # what this writes into docs does not count
    return f"{named or 'unknown'}{' with changes' if changed else ''}"


def _git(*words: str) -> str:
    try:
        printed = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    except OSError:
        return ""
    return printed.stdout.strip()


def _database(server: str) -> dict[str, str | float]:
    engine = create_engine(make_url(server).set(database=None))
    found: dict[str, str | float] = {}
    try:
        with engine.connect() as connection:
            found["database"] = str(connection.execute(text("SELECT VERSION()")).scalar_one())
            for name in _SETTINGS:
                value = connection.execute(text("SHOW GLOBAL VARIABLES LIKE :name"), {"name": name}).first()
                if value is not None:
                    found[name] = str(value[1])
    except SQLAlchemyError:
        found["database"] = NO_ANSWER
    engine.dispose()
    return found


def _broker(broker: str) -> str:
    at = endpoint_of(broker)
    try:
        with Connection(at.address, userid=at.user, password=at.password, virtual_host=at.vhost) as connection:
            return str(connection.server_properties.get("version", "unknown"))
    except (OSError, AMQPError):
        return NO_ANSWER
