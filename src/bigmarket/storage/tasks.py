"""The outbox's cold paths on any engine: what is due, what failed, what is parked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from bigmarket.award.message import SEND_AWARD
from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.task import Backlog, Task, TaskFailure
from bigmarket.rebate.message import SEND_REBATE
from bigmarket.storage.bulk import decode_rows
from bigmarket.storage.routing import SplitTables
from bigmarket.storage.schema import task, user_award_record, user_behavior_rebate_order

DROPPED = "Given up by an operator."

InOne = Callable[..., str]  # an engine's way to say: all rows of these columns as one JSON array

_OPEN = task.c.state.in_(("create", "fail"))
_PARKED = task.c.state == "parked"


def due_tasks(connection: Connection, *, in_one: InOne, now_ms: int, limit: int) -> list[Task]:
    """Up to ``limit`` tasks that are due, oldest first, read as one row (bulk.py).

    The table holds unfinished tasks only, and message ids sort by time: reading it by its key needs no index.
    """
    query = text(f"""
SELECT {in_one("message_id", "user_id", "topic", "message", "attempts")} FROM (
  SELECT message_id, user_id, topic, message, attempts FROM task
  WHERE state IN ('create', 'fail') AND next_at_ms <= :now_ms ORDER BY message_id LIMIT :limit) AS due""")
    found = connection.execute(query, {"now_ms": now_ms, "limit": limit}).scalar_one()
    rows = sorted(decode_rows(found)) if found else []  # no row at all is NULL on MySQL
    return [Task(m, user, topic, body.encode(), attempts) for m, user, topic, body, attempts in rows]


def write_task(connection: Connection, new: Task, *, due_ms: int) -> None:
    """Write a new task, in the transaction of what caused it."""
    values = {**new._asdict(), "message": new.message.decode(), "state": "create", "next_at_ms": due_ms}
    connection.execute(insert(task).values(values))


def finish_tasks(connection: Connection, message_ids: Sequence[str]) -> None:
    """Delete the tasks."""
    connection.execute(delete(task).where(task.c.message_id.in_(message_ids)))


def fail_task(connection: Connection, failure: TaskFailure) -> None:
    """Write a failed attempt down, unless the task was delivered or parked meanwhile."""
    values = {column: getattr(failure, column) for column in ("state", "attempts", "next_at_ms", "reason")}
    guard = (_OPEN, task.c.attempts <= failure.attempts)
    connection.execute(update(task).where(task.c.message_id == failure.message_id, *guard).values(values))


def park_task(connection: Connection, parked: ParkedTask, *, now_ms: int) -> None:
    """Put a task that left the outbox (a broker had it) into the parking lot; once, however often it is told."""
    connection.execute(delete(task).where(task.c.message_id == parked.message_id))
    values = {**parked._asdict(), "message": parked.message.decode(), "state": "parked", "next_at_ms": now_ms}
    with suppress(IntegrityError), connection.begin_nested():  # another process was told at the same time
        connection.execute(insert(task).values(values))


def reopen_tasks(connection: Connection, tasks: Sequence[Task], *, now_ms: int) -> int:
    """Write tasks anew that were finished, due at once; how many were not there."""
    ids = select(task.c.message_id).where(task.c.message_id.in_([one.message_id for one in tasks]))
    there = set(connection.execute(ids).scalars())
    missing = [one for one in tasks if one.message_id not in there]
    rows = [
        {
            **one._asdict(),
            "message": one.message.decode(),
            "state": "fail",
            "next_at_ms": now_ms,
            "reason": "no message left",
        }
        for one in missing
    ]
    if rows:
        connection.execute(insert(task), rows)
    return len(rows)


def parked_tasks(connection: Connection, *, limit: int) -> list[ParkedTask]:
    """The first parked tasks by message id."""
    columns = (task.c.message_id, task.c.user_id, task.c.topic, task.c.message, task.c.attempts, task.c.reason)
    query = select(*columns).where(_PARKED).order_by(task.c.message_id).limit(limit)
    rows = connection.execute(query)
    return [ParkedTask(m, user, topic, body_of(body), n, reason) for m, user, topic, body, n, reason in rows]


def redrive_tasks(connection: Connection, *, message_id: str | None, now_ms: int) -> int:
    """Make that parked task, or all of them (None), due at once with no attempt counted; how many."""
    change = update(task).where(_PARKED).values(state="fail", attempts=0, next_at_ms=now_ms)
    if message_id is not None:
        change = change.where(task.c.message_id == message_id)
    return connection.execute(change).rowcount


def drop_tasks(connection: Connection, *, message_id: str | None, limit: int, split: SplitTables) -> int:
    """Give that parked task up, or the first ``limit`` of all (None); what it owed is marked ``fail``."""
    query = select(task.c.message_id, task.c.user_id, task.c.topic).where(_PARKED).with_for_update()
    if message_id is not None:
        query = query.where(task.c.message_id == message_id)
    dropped = connection.execute(query.order_by(task.c.message_id).limit(limit)).all()
    for found, user_id, topic in dropped:
        if topic == SEND_AWARD:
            record = split.table_of(user_award_record, user_id)
            owed = (record.c.order_id == found, record.c.award_state == "create")
            connection.execute(update(record).where(*owed).values(award_state="fail"))
        elif topic == SEND_REBATE:
            order = split.table_of(user_behavior_rebate_order, user_id)
            waits = (order.c.order_id == found, order.c.state == "create")
            connection.execute(update(order).where(*waits).values(state="fail", reason=DROPPED))
        connection.execute(delete(task).where(task.c.message_id == found))
    return len(dropped)


def backlog(connection: Connection) -> Backlog:
    """How much waits, since when, and how much is parked."""
    waiting = connection.execute(
        select(func.count(), func.min(task.c.next_at_ms)).select_from(task).where(_OPEN)
    ).one()
    parked = connection.execute(select(func.count()).select_from(task).where(_PARKED)).scalar_one()
    return Backlog(waiting[0], waiting[1], parked)


def body_of(message: str | bytes) -> bytes:
    """A message's JSON as bytes, however the driver gives it."""
    return message if isinstance(message, bytes) else message.encode()
