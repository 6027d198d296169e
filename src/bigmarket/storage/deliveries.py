"""Deliveries that take more than a transaction, on any engine: what is due, how attempts ended, what is parked.

Locks are taken in one order: award records first, then deliveries; keys sorted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, Select, Table, bindparam, exists, func, insert, select, update

from bigmarket.award.deliveries import Attempt, AwardDelivery, DeliveryState, Fulfilled, after
from bigmarket.award.records import RecordKey
from bigmarket.outbox.task import REASON_MAX, Backlog
from bigmarket.storage.routing import SplitTables, part_of, user_first
from bigmarket.storage.schema import award_delivery, delivery_attempt, user_award_record
from bigmarket.storage.tasks import body_of

PLACES_MAX = 256
ATTEMPTS_SHOWN_MAX = 1_000

_COLUMNS = tuple(award_delivery.c[name] for name in AwardDelivery._fields)
_DUE = award_delivery.c.state == "due"


def due_deliveries(
    connection: Connection, *, now_ms: int, places: Collection[str] | None, limit: int
) -> list[AwardDelivery]:
    """The first ``limit`` that are due at each of ``places``, or at every place (None); those due longest first."""
    found: list[AwardDelivery] = []
    for place in _due_places(connection) if places is None else sorted(places):
        query = select(*_COLUMNS).where(_DUE, award_delivery.c.place == place, award_delivery.c.next_at_ms <= now_ms)
        rows = connection.execute(query.order_by(award_delivery.c.next_at_ms).limit(limit))
        found += [AwardDelivery(**{**row, "message": body_of(row["message"])}) for row in rows.mappings()]
    return found


def _due_places(connection: Connection) -> list[str]:
    """One look into the index for each place, however many deliveries wait there."""
    places: list[str] = []
    after_it = ""
    for _ in range(PLACES_MAX):
        query = select(func.min(award_delivery.c.place)).where(_DUE, award_delivery.c.place > after_it)
        place = connection.execute(query).scalar()
        if place is None:
            break
        places.append(place)
        after_it = place
    return places


def settle_deliveries(connection: Connection, attempts: Sequence[Attempt], *, split: SplitTables) -> None:
    """Log the attempts, and write down what follows from each for deliveries that are still due."""
    made = {attempt.delivery.order_id: attempt for attempt in attempts}
    assert len(made) == len(attempts), "a delivery is tried by one thread at a time"
    keys = [(attempt.delivery.user_id, order_id) for order_id, attempt in made.items()]
    _lock_records(connection, keys, split)
    query = select(award_delivery.c.order_id, award_delivery.c.attempts, award_delivery.c.state)
    standing = {row.order_id: row for row in connection.execute(_locked(query, award_delivery, sorted(made)))}
    changes: list[dict[str, Any]] = []
    done: list[RecordKey] = []
    for order_id, row in sorted(standing.items()):
        if row.state != "due":
            continue
        # Another process may have tried too, so the count is the row's.
        attempt = made[order_id]._replace(delivery=made[order_id].delivery._replace(attempts=row.attempts))
        changes.append({"key": order_id, **_changed(attempt)})
        if changes[-1]["state"] == "done":
            done.append((attempt.delivery.user_id, order_id))
    if changes:
        columns: dict[str, Any] = {name: bindparam(name) for name in changes[0] if name != "key"}
        connection.execute(
            update(award_delivery).where(award_delivery.c.order_id == bindparam("key")).values(columns), changes
        )
    _move_records(connection, done, split, state="completed")
    _log(connection, [made[order_id] for order_id in sorted(standing)])


def _changed(attempt: Attempt) -> dict[str, Any]:
    then = after(attempt)
    result = attempt.answer.result if isinstance(attempt.answer, Fulfilled) else None
    written = None if result is None else json.dumps(dict(result), ensure_ascii=False)
    return {**then._asdict(), "result": written, "update_time_ms": attempt.time_ms + attempt.duration_ms}


def _log(connection: Connection, attempts: Sequence[Attempt]) -> None:
    log = delivery_attempt.c
    ids = [attempt.delivery.order_id for attempt in attempts]
    query = select(log.order_id, func.max(log.attempt)).where(log.order_id.in_(ids)).group_by(log.order_id)
    last: dict[str, int] = dict(connection.execute(query).tuples().all())
    rows = [
        {
            "order_id": attempt.delivery.order_id,
            "attempt": last.get(attempt.delivery.order_id, 0) + 1,
            "time_ms": attempt.time_ms,
            "status": attempt.answer.status,
            "reason": None if isinstance(attempt.answer, Fulfilled) else attempt.answer.reason[:REASON_MAX],
            "duration_ms": attempt.duration_ms,
        }
        for attempt in attempts
    ]
    if rows:
        connection.execute(insert(delivery_attempt), rows)


def _lock_records(connection: Connection, keys: Sequence[RecordKey], split: SplitTables) -> None:
    for suffix, some in split.parts(keys, user_first):
        part = part_of(user_award_record, suffix)
        ids = sorted(order_id for _, order_id in some)
        connection.execute(_locked(select(part.c.order_id), part, ids)).all()


def _move_records(connection: Connection, keys: Sequence[RecordKey], split: SplitTables, *, state: str) -> None:
    """Move those that are ``create``."""
    for suffix, some in split.parts(keys, user_first):
        part = part_of(user_award_record, suffix)
        ids = sorted(order_id for _, order_id in some)
        owed = (part.c.order_id.in_(ids), part.c.award_state == "create")
        connection.execute(update(part).where(*owed).values(award_state=state))


def _locked(query: Select[Any], table: Table, ids: Sequence[str]) -> Select[Any]:
    """By key, so that nobody waits for rows that are not asked for."""
    by_key = query.where(table.c.order_id.in_(ids)).order_by(table.c.order_id)
    return by_key.with_hint(table, "FORCE INDEX (PRIMARY)", "mysql").with_for_update()


# --- for a person -------------------------------------------------------------------------------------------------


class DeliveryRow(NamedTuple):
    """A delivery as it stands."""

    order_id: str
    user_id: str
    activity_id: int
    award_id: int
    award_key: str
    place: str
    state: DeliveryState
    attempts: int
    next_at_ms: int
    reason: str | None
    result: Mapping[str, str] | None
    create_time_ms: int
    update_time_ms: int


class AttemptRow(NamedTuple):
    """One line of a delivery's log; no ``reason``: it was delivered."""

    attempt: int
    time_ms: int
    status: int | None
    reason: str | None
    duration_ms: int


_SHOWN = tuple(award_delivery.c[name] for name in DeliveryRow._fields)


def list_deliveries(
    connection: Connection, *, states: Collection[DeliveryState], place: str | None, limit: int
) -> list[DeliveryRow]:
    """The newest ``limit`` in one of ``states``."""
    query = select(*_SHOWN).where(award_delivery.c.state.in_(states))
    if place is not None:
        query = query.where(award_delivery.c.place == place)
    return [
        _row(row)
        for row in connection.execute(query.order_by(award_delivery.c.order_id.desc()).limit(limit)).mappings()
    ]


def find_delivery(connection: Connection, order_id: str) -> tuple[DeliveryRow, Sequence[AttemptRow]] | None:
    """A delivery and its log; None when there is none."""
    row = connection.execute(select(*_SHOWN).where(award_delivery.c.order_id == order_id)).mappings().one_or_none()
    if row is None:
        return None
    columns = (delivery_attempt.c[name] for name in AttemptRow._fields)
    query = select(*columns).where(delivery_attempt.c.order_id == order_id)
    log = connection.execute(query.order_by(delivery_attempt.c.attempt).limit(ATTEMPTS_SHOWN_MAX))
    return _row(row), [AttemptRow(*line) for line in log]


def _row(row: RowMapping) -> DeliveryRow:
    return DeliveryRow(**{**row, "result": None if row["result"] is None else json.loads(row["result"])})


def replay_deliveries(
    connection: Connection, *, order_id: str | None, place: str | None, kinds: Collection[str], now_ms: int
) -> int:
    """Make that delivery due now, be it parked, done or waiting for its next attempt; how many.

    Without ``order_id`` all that are parked or waiting, at ``place`` if given. Only those of ``kinds``: a thing that
    was handed over cannot be delivered again.
    """
    states = ("parked",) if order_id is None else ("parked", "done")
    waiting = _DUE & (award_delivery.c.next_at_ms > now_ms)
    change = update(award_delivery).where(award_delivery.c.state.in_(states) | waiting)
    change = change.where(award_delivery.c.award_key.in_(kinds))
    if order_id is not None:
        change = change.where(award_delivery.c.order_id == order_id)
    if place is not None:
        change = change.where(award_delivery.c.place == place)
    values = {"state": "due", "attempts": 0, "next_at_ms": now_ms, "reason": None, "update_time_ms": now_ms}
    return connection.execute(change.values(values)).rowcount


def drop_deliveries(
    connection: Connection, *, order_id: str | None, place: str | None, limit: int, now_ms: int, split: SplitTables
) -> int:
    """Give that parked delivery up, or the first ``limit`` (None); how many. Awards that they owed end as ``fail``.

    One that had been delivered before it was replayed is ``done`` again.
    """
    columns = (award_delivery.c.user_id, award_delivery.c.order_id)
    query = select(*columns).where(award_delivery.c.state == "parked")
    if order_id is not None:
        query = query.where(award_delivery.c.order_id == order_id)
    if place is not None:
        query = query.where(award_delivery.c.place == place)
    keys: list[RecordKey] = [
        (user, order) for user, order in connection.execute(query.order_by(award_delivery.c.order_id).limit(limit))
    ]
    if not keys:
        return 0
    _lock_records(connection, keys, split)
    ids = [order for _, order in keys]
    dropped = (award_delivery.c.order_id.in_(ids), award_delivery.c.state == "parked")
    delivered = exists().where(
        delivery_attempt.c.order_id == award_delivery.c.order_id, delivery_attempt.c.reason.is_(None)
    )
    again = update(award_delivery).where(*dropped, delivered).values(state="done", update_time_ms=now_ms)
    count = connection.execute(again).rowcount
    rest = connection.execute(select(*columns).where(*dropped).with_for_update()).all()
    _move_records(connection, [(user, order) for user, order in rest], split, state="fail")
    void = update(award_delivery).where(*dropped).values(state="void", update_time_ms=now_ms)
    return count + connection.execute(void).rowcount


def parked_at(connection: Connection, place: str) -> int:
    """How many are parked there."""
    parked = (award_delivery.c.state == "parked", award_delivery.c.place == place)
    return connection.execute(select(func.count()).select_from(award_delivery).where(*parked)).scalar_one()


def delivery_backlog(connection: Connection) -> Backlog:
    """How many wait, since when the first is due, and how many are parked."""
    waiting = connection.execute(
        select(func.count(), func.min(award_delivery.c.next_at_ms)).select_from(award_delivery).where(_DUE)
    ).one()
    parked = select(func.count()).select_from(award_delivery).where(award_delivery.c.state == "parked")
    return Backlog(waiting[0], waiting[1], connection.execute(parked).scalar_one())
