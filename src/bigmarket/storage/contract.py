"""What one database offers; every backend passes the same tests (tests/contract).

All errors are those of errors.py: ``Contention`` and ``StorageFull`` (nothing was written), ``OutcomeUnknown`` (the
connection was lost around the commit), other ``Trouble`` (nothing was written).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection

from bigmarket.activity.behavior import Behaved, BehaviorTx
from bigmarket.activity.delivery import DeliveryTx
from bigmarket.activity.exchange import Exchanged, ExchangeTx
from bigmarket.activity.looking import LookTx
from bigmarket.activity.orders import RechargeTx
from bigmarket.draw import Drawn, DrawTx
from bigmarket.outbox.parking import ParkedTask
from bigmarket.outbox.task import Backlog, Task, TaskFailure
from bigmarket.storage.routing import SplitTables


class Store(Protocol):
    """One database. A transaction is committed when its block ends and rolled back when it raises."""

    @property
    def split(self) -> SplitTables:
        """How its order tables are split."""
        ...

    def drawing(self) -> AbstractContextManager[DrawTx]:
        """One write transaction of draws."""
        ...

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        """Those of ``draws`` that exist, by order id; never while a commit is under way."""
        ...

    def behaving(self) -> AbstractContextManager[BehaviorTx]:
        """One write transaction of behaviors."""
        ...

    def find_behaved(self, answers: Sequence[Behaved]) -> set[str]:
        """The order ids of those of ``answers`` that exist; never while a commit is under way."""
        ...

    def exchanging(self) -> AbstractContextManager[ExchangeTx]:
        """One write transaction of exchanges."""
        ...

    def find_payments(self, purchases: Sequence[Exchanged]) -> Mapping[str, str]:
        """The out_business_no of each payment that is written, by order id; never while a commit is under way."""
        ...

    def looking(self) -> AbstractContextManager[LookTx]:
        """One read transaction of looks; it blocks nobody and waits for nobody."""
        ...

    def delivering(self) -> AbstractContextManager[DeliveryTx]:
        """One write transaction of a consumer."""
        ...

    def recharging(self, user_id: str) -> AbstractContextManager[RechargeTx]:
        """One write transaction of a recharge of this user."""
        ...

    def due_tasks(self, now_ms: int, *, limit: int) -> Sequence[Task]:
        """Up to ``limit`` tasks that are due, oldest first."""
        ...

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete tasks that are done."""
        ...

    def fail_task(self, failure: TaskFailure) -> None:
        """Write a failed attempt down, unless the task was delivered or parked meanwhile."""
        ...

    def park_task(self, parked: ParkedTask, *, now_ms: int) -> None:
        """Put a task that left the outbox into the parking lot; once, however often it is told."""
        ...

    def parked_tasks(self, *, limit: int) -> Sequence[ParkedTask]:
        """The first parked tasks by message id."""
        ...

    def redrive_tasks(self, *, message_id: str | None, now_ms: int) -> int:
        """Make that parked task, or all (None), due now with no attempt counted; how many there were."""
        ...

    def drop_tasks(self, *, message_id: str | None, limit: int) -> int:
        """Give that parked task up, or the first ``limit`` (None); how many. Awards they owed end as ``fail``."""
        ...

    def backlog(self) -> Backlog:
        """How many tasks wait, since when, and how many are parked."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """One write transaction for cold paths, which may take its time."""
        ...

    def updating(self) -> AbstractContextManager[Connection]:
        """One short write transaction; a database that does not answer is given up within seconds."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """One read transaction with quick queries; it blocks nobody."""
        ...

    def examining(self) -> AbstractContextManager[Connection]:
        """One read transaction for queries that may take minutes: a consistent view that blocks nobody."""
        ...

    def migrating(self) -> AbstractContextManager[Connection]:
        """A connection that may change the schema; other processes wait for their turn."""
        ...

    def clock_ms(self) -> int:
        """The database's clock in epoch milliseconds: what processes on several machines agree on."""
        ...

    def durability_faults(self) -> list[str]:
        """Settings under which an acknowledged commit could be lost; none when all is well."""
        ...

    def close(self) -> None:
        """Give every connection back; nothing else may be called afterwards."""
        ...
