"""What a store offers; every backend passes the same tests (tests/contract).

All errors are those of errors.py: ``Contention`` and ``StorageFull`` (nothing was written), ``OutcomeUnknown`` (the
connection was lost around the commit), other ``Trouble`` (nothing was written).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection

from bigmarket.activity.orders import RechargeTx
from bigmarket.award.records import DeliveryTx
from bigmarket.draw import Drawn, DrawTx
from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.task import Backlog, Task, TaskFailure


class Store(Protocol):
    """One database. A transaction is committed when its block ends and rolled back when it raises."""

    def drawing(self) -> AbstractContextManager[DrawTx]:
        """One write transaction of draws."""
        ...

    def find_draws(self, order_ids: Sequence[str]) -> Mapping[str, Drawn]:
        """The outcomes that exist, by order id; on a fresh connection."""
        ...

    def delivering(self) -> AbstractContextManager[DeliveryTx]:
        """One write transaction of a consumer."""
        ...

    def recharging(self) -> AbstractContextManager[RechargeTx]:
        """One write transaction of a recharge."""
        ...

    def due_tasks(self, now_ms: int, *, created_before_ms: int, limit: int) -> Sequence[Task]:
        """Up to ``limit`` tasks, longest due first: in ``fail`` and due, or in ``create`` since before that."""
        ...

    def fail_task(self, failure: TaskFailure) -> None:
        """Write a failed attempt down, unless the task was delivered or parked meanwhile."""
        ...

    def parked_tasks(self, *, limit: int) -> Sequence[ParkedTask]:
        """The first parked tasks by message id."""
        ...

    def redrive_tasks(self, *, message_id: str | None, now_ms: int) -> int:
        """Make that parked task, or all (None), due now with no attempt counted; how many there were."""
        ...

    def backlog(self) -> Backlog:
        """How many tasks wait, since when, and how many are parked."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """One write transaction for cold paths."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """One read transaction: a consistent view that blocks nobody."""
        ...

    def durability_faults(self) -> list[str]:
        """Settings under which an acknowledged commit could be lost; none when all is well."""
        ...

    def close(self) -> None:
        """Give every connection back; nothing else may be called afterwards."""
        ...
