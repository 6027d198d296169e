"""What lanes and the odds see of a shard when stock is spread over several.

A draw that misses a unit in its shard gives no consolation prize yet: its batch is rolled back and drawn without it,
units are fetched from elsewhere, and it is drawn again. The consolation is given only when every unit of the revision
that the draw goes by is sold, counting those that the batch itself takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.revision import Revision
from bigmarket.activity.stock import StockKey, StockShort
from bigmarket.desks import Live
from bigmarket.draw import Drawn, DrawRequest, DrawTx, Outcome, Snapshot, WinKey
from bigmarket.storage.contract import Store
from bigmarket.storage.escrow import FRESH_SECONDS, Escrow


class EscrowedStore:
    """A shard's store as lanes need it; ``live`` tells what every activity runs by."""

    def __init__(self, store: Store, escrow: Escrow, *, live: Live) -> None:
        self._store = store
        self._escrow = escrow
        self._live = live
        self._seen: Mapping[int, LiveActivity] = {}
        self._revisions: Mapping[int, Revision] = {}

    @contextmanager
    def drawing(self) -> Iterator[DrawTx]:
        """One write transaction of draws."""
        with self._store.drawing() as tx:
            yield EscrowedTx(tx, sold_out=self._sold_out)

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        """Those of ``draws`` that exist, by order id; never while a commit is under way."""
        return self._store.find_draws(draws)

    def _sold_out(self, key: StockKey, taken: int) -> bool:
        """Whether the units gone from all shards, with those that are being ``taken``, make up the total.

        By the live revision's total, which needs no database: units once sold stay so, but for those that voids give
        back, which escrow looks for. Only where the hub was lowered and this process does not know yet does the total
        count that was read with the verdict, for a moment.
        """
        total, verdict = self._total_of(key), self._escrow.verdict(key)
        if total is None or verdict is None:
            return False
        gone = verdict.gone + taken
        fresh = time.monotonic() - verdict.at < FRESH_SECONDS
        return gone >= total or (fresh and verdict.total is not None and gone >= verdict.total)

    def _total_of(self, key: StockKey) -> int | None:
        """Units of the award in the live revision; None when it is unlimited or not on the wheel."""
        live = self._live()
        if live is not self._seen:
            revisions = (activity.revision for activity in live.values())
            self._revisions = {r.wheel.strategy_id: r for r in revisions if r is not None}
            self._seen = live
        revision = self._revisions.get(key[0])
        sector = revision.wheel.sectors.get(key[1]) if revision else None
        return sector.stock if sector else None


class EscrowedTx:
    """A draw's transaction in a shard; ``sold_out`` judges an award by the units that the batch takes of it."""

    def __init__(self, tx: DrawTx, *, sold_out: Callable[[StockKey, int], bool]) -> None:
        self._tx = tx
        self._sold_out = sold_out

    def load(self, requests: Sequence[DrawRequest]) -> Snapshot:
        """What the users of ``requests`` have."""
        return self._tx.load(requests)

    def load_stock(self, wanted: Mapping[StockKey, int]) -> dict[StockKey, int | None]:
        """Units left here; an award that should have a row and has none is missed like one of which none is left."""
        return self._tx.load_stock(wanted)

    def load_wins(self, wanted: Mapping[WinKey, int]) -> dict[WinKey, int]:
        """How often each user won the award: of that, a user's own shard knows all."""
        return self._tx.load_wins(wanted)

    def apply(self, outcome: Outcome) -> None:
        """Write it all. Raises ``StockShort`` when a unit was missed that may be left elsewhere."""
        short = {
            key: asked for key, asked in outcome.missed.items() if not self._sold_out(key, outcome.taken.get(key, 0))
        }
        if short:
            raise StockShort(short)
        self._tx.apply(outcome)


class StockOfAll:
    """A draw's transaction that is only asked what could be won: the stock is what all shards have."""

    def __init__(self, tx: DrawTx, *, stock_left: Callable[[int], Mapping[int, int | None]]) -> None:
        self._tx = tx
        self._stock_left = stock_left

    def load(self, requests: Sequence[DrawRequest]) -> Snapshot:
        """What the users of ``requests`` have."""
        return self._tx.load(requests)

    def load_stock(self, wanted: Mapping[StockKey, int]) -> dict[StockKey, int | None]:
        """Units left anywhere."""
        left = {strategy_id: self._stock_left(strategy_id) for strategy_id in {key[0] for key in wanted}}
        return {key: left[key[0]][key[1]] for key in wanted if key[1] in left[key[0]]}

    def load_wins(self, wanted: Mapping[WinKey, int]) -> dict[WinKey, int]:
        """How often each user won the award: of that, a user's own shard knows all."""
        return self._tx.load_wins(wanted)

    def apply(self, outcome: Outcome) -> None:
        """Nothing may be written."""
        raise AssertionError(f"{len(outcome.records)} draws are only asked about")
