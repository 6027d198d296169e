"""What exchange lanes see of a shard when stock is spread over several.

A request that misses a unit in its shard is not refused yet: units are fetched from elsewhere and it is served again.
"Sold out" is said only when every unit of the sku was sold a moment ago: those of unpaid orders may come back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from bigmarket.activity.exchange import Exchanged, ExchangeRequest, ExchangeSnapshot, ExchangeTx, Purchases
from bigmarket.activity.stock import StockKey, StockShort
from bigmarket.storage.contract import Store
from bigmarket.storage.escrow import FRESH_SECONDS, Escrow


class EscrowedExchanges:
    """A shard's store as exchange lanes need it."""

    def __init__(self, store: Store, escrow: Escrow) -> None:
        self._store = store
        self._escrow = escrow

    @contextmanager
    def exchanging(self) -> Iterator[ExchangeTx]:
        """One write transaction of exchanges."""
        with self._store.exchanging() as tx:
            yield EscrowedExchangeTx(tx, self._escrow)

    def find_payments(self, purchases: Sequence[Exchanged]) -> Mapping[str, str]:
        """The out_business_no of each payment that is written, by order id; never while a commit is under way."""
        return self._store.find_payments(purchases)


class EscrowedExchangeTx:
    """An exchange's transaction in a shard."""

    def __init__(self, tx: ExchangeTx, escrow: Escrow) -> None:
        self._tx = tx
        self._escrow = escrow

    def load(self, requests: Sequence[ExchangeRequest]) -> ExchangeSnapshot:
        """What the users of ``requests`` have."""
        return self._tx.load(requests)

    def units_left(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """Units left here."""
        return self._tx.units_left(wanted)

    def apply(self, purchases: Purchases) -> None:
        """Write it all. Raises ``StockShort`` when a unit was missed that may be left elsewhere."""
        short = {
            key: asked
            for key, asked in purchases.missed.items()
            if not sold_out(self._escrow, key, purchases.taken[key[1]])
        }
        if short:
            raise StockShort(short)
        self._tx.apply(purchases)


def sold_out(escrow: Escrow, key: StockKey, taken: int) -> bool:
    """Whether the units of a sku sold in all shards a moment ago, with those being ``taken``, make up the total."""
    verdict = escrow.verdict(key)
    if verdict is None:
        return False
    sold, total, at = verdict
    return total is not None and sold + taken >= total and time.monotonic() - at < FRESH_SECONDS
