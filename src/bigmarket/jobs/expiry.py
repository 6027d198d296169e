"""Ends unpaid orders when their time is over, and completes those whose payment came but was never followed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from bigmarket.activity.delivery import Facts, complete_paid_orders
from bigmarket.errors import BigmarketError
from bigmarket.storage import unpaid
from bigmarket.storage.contract import Store

log = structlog.get_logger(__name__)

ORDERS_MAX = 100  # in a transaction
ROUNDS_MAX = 100  # in a run, of each shard


class Expiry:
    """Looks through the orders of each shard that have waited too long."""

    def __init__(self, shards: Sequence[Store], *, facts: Facts, now_ms: Callable[[], int]) -> None:
        self._shards = shards
        self._facts = facts
        self._now_ms = now_ms

    def run(self, _fencing: int = 0) -> int:
        """One look, harmless when another process looks too; how many orders expired.

        Raises the first error when the other shards are done.
        """
        expired = 0
        troubles: list[BigmarketError] = []
        for shard in self._shards:
            try:
                expired += self._look(shard)
            except BigmarketError as trouble:
                troubles.append(trouble)
        if expired:
            log.info("unpaid orders expired", orders=expired)
        if troubles:
            raise troubles[0]
        return expired

    def _look(self, shard: Store) -> int:
        expired = 0
        for _ in range(ROUNDS_MAX):
            now_ms = self._now_ms()
            with shard.reading() as connection:
                orders = unpaid.overdue(connection, now_ms=now_ms, limit=ORDERS_MAX)
            if not orders:
                break
            users = {order.user_id for order in orders}
            with shard.delivering() as tx:
                done = complete_paid_orders(tx, users, now_ms=now_ms, facts=self._facts)
            with shard.updating() as connection:
                ended = unpaid.expire(connection, orders, split=shard.split)
            expired += ended
            if not done and not ended:  # somebody else was faster
                break
        return expired
