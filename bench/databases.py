"""Fresh databases for benches: a SQLite file in a folder, or a new database on a MySQL or MariaDB server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text


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


def server_cpu_seconds(server: str | None) -> float:
    """CPU time of the MariaDB or MySQL server of this machine so far; 0 for SQLite, or when it runs elsewhere."""
    if server is None:
        return 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has just ended
            continue
        if name in ("mariadbd", "mysqld"):
            fields = rest.split()
            return (int(fields[11]) + int(fields[12])) / 100
    return 0.0
