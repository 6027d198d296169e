"""Sends a message again when what it is for waits and nobody holds one: a broker lost it, or its queue is gone.

In process this never happens, as a task goes with its effect. With a broker a task goes when its message is
confirmed; should the broker lose what it confirmed, the award record or the rebate order still waits, and that is how
the loss is seen. Repeats are harmless: a record or an order is completed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection, select

from bigmarket.activity.behavior import RebateOrder, rebate_task
from bigmarket.activity.revision import Revision
from bigmarket.award.kinds import TASK_KINDS
from bigmarket.draw import AwardRecordRow, delivery_task
from bigmarket.errors import NotFound
from bigmarket.ids import first_at
from bigmarket.outbox.task import Task
from bigmarket.storage import tasks
from bigmarket.storage.contract import Store
from bigmarket.storage.routing import part_of
from bigmarket.storage.schema import award_delivery, task, user_award_record, user_behavior_rebate_order

log = structlog.get_logger(__name__)

AGE_MS = 10 * 60 * 1000  # a younger message may be on its way
REACH_MS = 24 * 3600 * 1000  # how far the first run looks back
RECORDS_MAX = 1_000  # read at once

RevisionOf = Callable[[int, str], Revision]


class Redelivery:
    """Looks through the draws and rebates of each shard once, when they are ``AGE_MS`` old, in order of their ids.

    ``busy`` tells whether messages wait in the broker; then nothing is called lost. ``revision_of`` reads a revision
    of an activity and raises NotFound for imported records, which have none.
    """

    def __init__(
        self,
        shards: tuple[Store, ...],
        *,
        revision_of: RevisionOf,
        busy: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._shards = shards
        self._revision_of = revision_of
        self._busy = busy
        self._now_ms = now_ms
        self._since_ms = now_ms() - REACH_MS

    def run(self, _fencing: int = 0) -> int:
        """One look, harmless when another process looks too; how many messages are sent again."""
        until_ms = self._now_ms() - AGE_MS
        if until_ms <= self._since_ms or self._busy():
            return 0
        sent = sum(self._look(shard, until_ms=until_ms) for shard in self._shards)
        self._since_ms = until_ms
        if sent:
            log.warning("awards or rebates had no message left and are sent again", messages=sent)
        return sent

    def _look(self, shard: Store, *, until_ms: int) -> int:
        sent = 0
        last = first_at(until_ms)
        for suffix in shard.split.suffixes:
            for waiting in (self._waiting_awards, self._waiting_rebates):
                after = first_at(self._since_ms)
                while after:
                    with shard.reading() as connection:
                        owed, after = waiting(connection, suffix, after=after, last=last)
                    if owed:
                        with shard.writing() as connection:
                            sent += tasks.reopen_tasks(connection, owed, now_ms=self._now_ms())
        return sent

    def _waiting_awards(
        self, connection: Connection, suffix: str, *, after: str, last: str
    ) -> tuple[list[Task], str]:
        """What is owed for some of the records that wait, and where the next begin; nowhere when these were all."""
        found = _waiting_records(connection, suffix, after=after, last=last)
        return [task for record in found if (task := self._task_of(record)) is not None], _next_after(found)

    def _waiting_rebates(
        self, connection: Connection, suffix: str, *, after: str, last: str
    ) -> tuple[list[Task], str]:
        """As ``_waiting_awards``, of rebate orders."""
        found = _waiting_orders(connection, suffix, after=after, last=last)
        return [rebate_task(order) for order in found], _next_after(found)

    def _task_of(self, record: AwardRecordRow) -> Task | None:
        try:
            revision = self._revision_of(record.activity_id, record.revision_id)
        except NotFound:
            return None
        return delivery_task(record, revision) if revision.awards[record.award_id].kind in TASK_KINDS else None


def _waiting_records(connection: Connection, suffix: str, *, after: str, last: str) -> list[AwardRecordRow]:
    """Award records with ids in ``(after, last)`` that wait and have no task, in order."""
    record = part_of(user_award_record, suffix)
    query = (
        select(*(record.c[name] for name in AwardRecordRow._fields))
        .select_from(
            record.outerjoin(task, task.c.message_id == record.c.order_id).outerjoin(
                award_delivery, award_delivery.c.order_id == record.c.order_id
            )
        )
        .where(record.c.order_id > after, record.c.order_id < last)
        .where(record.c.award_state == "create", task.c.message_id.is_(None), award_delivery.c.order_id.is_(None))
        .order_by(record.c.order_id)
        .limit(RECORDS_MAX)
    )
    return [AwardRecordRow(*row) for row in connection.execute(query)]


def _waiting_orders(connection: Connection, suffix: str, *, after: str, last: str) -> list[RebateOrder]:
    """Rebate orders with ids in ``(after, last)`` that wait and have no task, in order."""
    order = part_of(user_behavior_rebate_order, suffix)
    query = (
        select(*(order.c[name] for name in RebateOrder._fields))
        .select_from(order.outerjoin(task, task.c.message_id == order.c.order_id))
        .where(order.c.order_id > after, order.c.order_id < last)
        .where(order.c.state == "create", task.c.message_id.is_(None))
        .order_by(order.c.order_id)
        .limit(RECORDS_MAX)
    )
    return [RebateOrder(*row) for row in connection.execute(query)]


def _next_after(found: Sequence[AwardRecordRow | RebateOrder]) -> str:
    return found[-1].order_id if len(found) == RECORDS_MAX else ""
