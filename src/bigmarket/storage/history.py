"""What a user has had: draws, awards, credits and quota orders, newest first, page by page; and all users' draws.

A page goes on from the last row that the reader saw, by time and then by order id, so that no row is shown twice or
left out while new ones come. Each query of one user reads one range of one index, as long as the page, or, narrowed
down to an activity, as long as it takes to fill it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, Table, and_, or_, select

from bigmarket.ids import first_at
from bigmarket.storage import schema as t
from bigmarket.storage.contract import Store
from bigmarket.storage.routing import SplitTables, part_of

PAGE_MAX = 100

_AHEAD_MS = 24 * 3_600_000  # clocks may differ


class Place(NamedTuple):
    """A row's place in time: a page begins after it."""

    time_ms: int
    order_id: str


class Slice(NamedTuple):
    """Which rows: at most ``limit`` after ``after`` (None: from the newest on), of that activity if one is named."""

    after: Place | None
    limit: int
    activity_id: int | None = None


def award_records(connection: Connection, split: SplitTables, user_id: str, part: Slice) -> Sequence[Row[Any]]:
    """A user's awards, with what is stored of their delivery and whether they were voided."""
    record, delivery, void = split.table_of(t.user_award_record, user_id), t.award_delivery, t.award_void
    joined = record.outerjoin(delivery, delivery.c.order_id == record.c.order_id)
    query = select(
        record.c.order_id,
        record.c.award_time_ms.label("time_ms"),
        record.c.activity_id,
        record.c.revision_id,
        record.c.award_id,
        record.c.award_title,
        record.c.award_state,
        delivery.c.state.label("delivery_state"),
        delivery.c.result,
        void.c.order_id.is_not(None).label("voided"),
    ).select_from(joined.outerjoin(void, void.c.order_id == record.c.order_id))
    return connection.execute(_cut(query, record, record.c.award_time_ms, user_id, part)).all()


def draws(connection: Connection, split: SplitTables, user_id: str, part: Slice) -> Sequence[Row[Any]]:
    """A user's draws: the raffle order that was used, and what it won."""
    record = split.table_of(t.user_award_record, user_id)
    order = split.table_of(t.user_raffle_order, user_id)
    query = select(
        record.c.order_id,
        record.c.award_time_ms.label("time_ms"),
        record.c.activity_id,
        record.c.award_id,
        record.c.award_title,
        order.c.order_state,
        order.c.order_time_ms,
    ).select_from(record.join(order, order.c.order_id == record.c.order_id))
    return connection.execute(_cut(query, record, record.c.award_time_ms, user_id, part)).all()


def credit_orders(connection: Connection, split: SplitTables, user_id: str, part: Slice) -> Sequence[Row[Any]]:
    """Every movement of a user's credits."""
    order = split.table_of(t.user_credit_order, user_id)
    query = select(
        order.c.order_id,
        order.c.create_time_ms.label("time_ms"),
        order.c.trade_name,
        order.c.trade_type,
        order.c.amount_cents,
        order.c.out_business_no,
        order.c.reason,
    )
    return connection.execute(_cut(query, order, order.c.create_time_ms, user_id, part)).all()


def quota_orders(connection: Connection, split: SplitTables, user_id: str, part: Slice) -> Sequence[Row[Any]]:
    """Where a user's draws came from."""
    order = split.table_of(t.raffle_activity_order, user_id)
    query = select(
        order.c.order_id,
        order.c.order_time_ms.label("time_ms"),
        order.c.activity_id,
        order.c.sku,
        order.c.total_count,
        order.c.month_count,
        order.c.day_count,
        order.c.pay_cents,
        order.c.state,
        order.c.out_business_no,
    )
    return connection.execute(_cut(query, order, order.c.order_time_ms, user_id, part)).all()


def _cut(query: Select[Any], table: Table, time_ms: Column[int], user_id: str, part: Slice) -> Select[Any]:
    """Only the user's rows of ``table`` that are in ``part``, newest first."""
    (by_time,) = (index for index in table.indexes if index.columns.keys() == ["user_id", time_ms.name])
    # MariaDB would look the user up and walk from the newest row down to the page, however far that is.
    query = query.with_hint(table, f"FORCE INDEX ({by_time.name})", "mysql").where(table.c.user_id == user_id)
    if part.activity_id is not None:
        query = query.where(table.c.activity_id == part.activity_id)
    if part.after is not None:  # a comparison of pairs would not be read by index on every engine
        at = part.after
        query = query.where(time_ms <= at.time_ms, or_(time_ms < at.time_ms, table.c.order_id < at.order_id))
    return query.order_by(time_ms.desc(), table.c.order_id.desc()).limit(part.limit)


# --- all users' raffle orders -------------------------------------------------------------------------------------


def latest_raffle_orders(shards: Iterable[Store], *, after: str | None, limit: int, now_ms: int) -> list[Row[Any]]:
    """The newest raffle orders of all users after the order ``after`` (None: from the newest on).

    Order ids made here tell the time, and are read by primary key from every part of every shard. Those that another
    system made do not; they come last, by their numbers.
    """
    above = first_at(now_ms + _AHEAD_MS)
    found: list[Row[Any]] = []
    for shard in shards:
        with shard.reading() as connection:
            for suffix in shard.split.suffixes:
                found += _of_part(connection, suffix, after, limit, above)
    return sorted(found, key=lambda row: (row.order_id < above, row.order_id), reverse=True)[:limit]


def _of_part(connection: Connection, suffix: str, after: str | None, limit: int, above: str) -> Iterator[Row[Any]]:
    """Up to ``limit`` rows of one part: ids below ``above``, then the others."""
    order, record = part_of(t.user_raffle_order, suffix), part_of(t.user_award_record, suffix)
    query = (
        select(
            order.c.user_id,
            order.c.activity_id,
            order.c.order_id,
            order.c.order_state,
            order.c.order_time_ms,
            record.c.award_time_ms,
        )
        .select_from(order.outerjoin(record, record.c.order_id == order.c.order_id))
        .order_by(order.c.order_id.desc())
    )
    missing = limit
    for chosen in _ranges(order.c.order_id, after, above):
        rows = connection.execute(query.where(chosen).limit(missing)).all()
        yield from rows
        missing -= len(rows)
        if missing == 0:
            return


def _ranges(order_id: ColumnElement[str], after: str | None, above: str) -> list[ColumnElement[bool]]:
    imported = order_id >= above
    if after is not None and after >= above:
        return [and_(imported, order_id < after)]
    return [order_id < (above if after is None else after), imported]
