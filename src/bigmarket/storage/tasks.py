"""The outbox's cold paths on any engine: what is due, what failed, what is parked."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, text, update

from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.task import Backlog, Task, TaskFailure
from bigmarket.storage.schema import task

# Written out, not bound: only then can the planner tell that the partial index ix_task_due applies.
_OPEN = text("state IN ('create', 'fail')")


def due_tasks(connection: Connection, *, now_ms: int, created_before_ms: int, limit: int) -> list[Task]:
    """Up to ``limit`` tasks, longest due first: ``fail`` and due, or ``create`` with a stamp not after that."""
    columns = (task.c.message_id, task.c.user_id, task.c.topic, task.c.message, task.c.attempts)
    due = (task.c.state == "fail") | (task.c.next_at_ms <= created_before_ms)
    query = select(*columns).where(_OPEN, task.c.next_at_ms <= now_ms, due).order_by(task.c.next_at_ms).limit(limit)
    rows = connection.execute(query)
    return [Task(m, user, topic, body_of(body), attempts) for m, user, topic, body, attempts in rows]


def fail_task(connection: Connection, failure: TaskFailure) -> None:
    """Write a failed attempt down, unless the task was delivered or parked meanwhile."""
    values = {column: getattr(failure, column) for column in ("state", "attempts", "next_at_ms", "reason")}
    guard = (task.c.state.in_(("create", "fail")), task.c.attempts <= failure.attempts)
    connection.execute(update(task).where(task.c.message_id == failure.message_id, *guard).values(values))


def parked_tasks(connection: Connection, *, limit: int) -> list[ParkedTask]:
    """The first parked tasks by message id."""
    columns = (task.c.message_id, task.c.user_id, task.c.topic, task.c.message, task.c.attempts, task.c.reason)
    query = select(*columns).where(task.c.state == "parked").order_by(task.c.message_id).limit(limit)
    rows = connection.execute(query)
    return [ParkedTask(m, user, topic, body_of(body), n, reason) for m, user, topic, body, n, reason in rows]


def redrive_tasks(connection: Connection, *, message_id: str | None, now_ms: int) -> int:
    """Make that parked task, or all of them (None), due at once with no attempt counted; how many.

    They become ``fail``, not ``create``: no memory holds them, so the scan need not give them any grace.
    """
    change = update(task).where(task.c.state == "parked").values(state="fail", attempts=0, next_at_ms=now_ms)
    if message_id is not None:
        change = change.where(task.c.message_id == message_id)
    return connection.execute(change).rowcount


def backlog(connection: Connection) -> Backlog:
    """How much waits, since when, and how much is parked."""
    waiting = connection.execute(
        select(func.count(), func.min(task.c.next_at_ms)).select_from(task).where(_OPEN)
    ).one()
    parked = connection.execute(select(func.count()).select_from(task).where(task.c.state == "parked")).scalar_one()
    return Backlog(waiting[0], waiting[1], parked)


def body_of(message: str | bytes) -> bytes:
    """A message's JSON as bytes, however the driver gives it."""
    return message if isinstance(message, bytes) else message.encode()
