"""The rows of ``runtime_switch`` in the configuration database."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from bigmarket.storage.contract import Store
from bigmarket.storage.schema import runtime_switch
from bigmarket.switches import DEFAULT, check_switch


def read_switches(connection: Connection) -> dict[str, str]:
    """What operators said, by switch."""
    rows = connection.execute(select(runtime_switch.c.switch_key, runtime_switch.c.value))
    return dict(rows.tuples().all())


def turn_switch(store: Store, key: str, value: str, *, now_ms: int) -> None:
    """Keep an operator's word; ``default`` takes it back. Raises BadInput, naming what is known, and Trouble."""
    check_switch(key, value)
    kept = None if value == DEFAULT else value
    try:
        _replace(store, key, kept, now_ms=now_ms)
    except IntegrityError:  # another process wrote the row for the first time
        _replace(store, key, kept, now_ms=now_ms)


def _replace(store: Store, key: str, value: str | None, *, now_ms: int) -> None:
    with store.writing() as connection:
        connection.execute(delete(runtime_switch).where(runtime_switch.c.switch_key == key))
        if value is not None:
            connection.execute(insert(runtime_switch).values(switch_key=key, value=value, update_time_ms=now_ms))
