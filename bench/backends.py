"""Fresh databases and queues for benches, and what their servers spend."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amqp import Connection  # type: ignore[import-untyped]
from sqlalchemy import create_engine, make_url, text

from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from bigmarket.bus.rabbitmq.topology import BACKOFF_MS, queues
from bigmarket.jobs.consumers import CONSUMERS


@contextmanager
def fresh_database(server: str | None, *, folder: Path) -> Iterator[str]:
    """The URL of a new empty database: on ``server``, else a file in ``folder``. It is dropped afterwards."""
    name = f"bigmarket_bench_{secrets.token_hex(4)}"
    if server is None:
        yield f"sqlite:///{folder / name}.db"
        return
    engine = create_engine(make_url(server).set(database=None))
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        engine.dispose()


@contextmanager
def fresh_queues(broker: str | None, *, shards: int) -> Iterator[str]:
    """A prefix for queues that nobody uses; all that begin with it, or with a shard's, are deleted afterwards."""
    prefix = f"bench.{secrets.token_hex(4)}."
    try:
        yield prefix
    finally:
        if broker is not None:
            at = endpoint_of(broker)
            prefixes = [prefix] if shards == 1 else [f"{prefix}{index}." for index in range(shards)]
            with Connection(at.address, userid=at.user, password=at.password, virtual_host=at.vhost) as connection:
                channel = connection.channel()
                for each in prefixes:
                    for queue in queues(each, CONSUMERS, backoff_ms=BACKOFF_MS):
                        channel.queue_delete(queue)


def cpu_seconds_of(*names: str) -> float:
    """CPU time so far of this machine's processes with one of these names; 0 when there is none."""
    spent = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has just ended
            continue
        if name in names:
            fields = rest.split()
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent
