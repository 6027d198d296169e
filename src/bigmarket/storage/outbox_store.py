"""The outbox's part of a store (contract.py), the same on every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

from sqlalchemy import Connection

from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.task import Backlog, Task, TaskFailure
from bigmarket.storage import tasks
from bigmarket.storage.routing import SplitTables


class OutboxStore(ABC):
    """Tasks by way of the transactions that an engine's store offers."""

    split: SplitTables

    @staticmethod
    @abstractmethod
    def in_one(*columns: str) -> str:
        """What a SELECT asks for: all rows of these columns as one JSON array."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """One read transaction with quick queries."""

    @abstractmethod
    def updating(self) -> AbstractContextManager[Connection]:
        """One short write transaction."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[Connection]:
        """One write transaction that may take its time."""

    def due_tasks(self, now_ms: int, *, limit: int) -> Sequence[Task]:
        """Tasks that the relay should deliver now."""
        with self.reading() as connection:
            return tasks.due_tasks(connection, in_one=self.in_one, now_ms=now_ms, limit=limit)

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete tasks that are done."""
        with self.updating() as connection:
            tasks.finish_tasks(connection, message_ids)

    def fail_task(self, failure: TaskFailure) -> None:
        """Write a failed attempt down."""
        with self.updating() as connection:
            tasks.fail_task(connection, failure)

    def park_task(self, parked: ParkedTask, *, now_ms: int) -> None:
        """Put a task that left the outbox into the parking lot."""
        with self.updating() as connection:
            tasks.park_task(connection, parked, now_ms=now_ms)

    def parked_tasks(self, *, limit: int) -> Sequence[ParkedTask]:
        """The first parked tasks by message id."""
        with self.reading() as connection:
            return tasks.parked_tasks(connection, limit=limit)

    def redrive_tasks(self, *, message_id: str | None, now_ms: int) -> int:
        """Make that parked task, or all (None), due now; how many there were."""
        with self.writing() as connection:
            return tasks.redrive_tasks(connection, message_id=message_id, now_ms=now_ms)

    def drop_tasks(self, *, message_id: str | None, limit: int) -> int:
        """Give parked tasks up; how many."""
        with self.writing() as connection:
            return tasks.drop_tasks(connection, message_id=message_id, limit=limit, split=self.split)

    def backlog(self) -> Backlog:
        """How many tasks wait, since when, and how many are parked."""
        with self.reading() as connection:
            return tasks.backlog(connection)
