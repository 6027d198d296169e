"""What lanes serve: each desk turns a batch of requests into answers, in one transaction of one shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from bigmarket.activity.behavior import Behaved, BehaviorRequest, BehaviorTx, behave_batch
from bigmarket.activity.exchange import (
    Exchanged,
    ExchangeRequest,
    ExchangeTx,
    bundles_of,
    exchange_batch,
)
from bigmarket.activity.looking import (
    AccountLook,
    AccountSeen,
    AccountsTx,
    Shelf,
    ShelfLook,
    ShelvesTx,
    look_at_accounts,
    look_at_shelves,
)
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Bundle
from bigmarket.activity.stock import StockKey
from bigmarket.draw import Drawn, DrawRequest, DrawTx, draw_batch
from bigmarket.errors import Trouble
from bigmarket.ids import Ids
from bigmarket.outbox.task import BatchResult

Live = Callable[[], Mapping[int, LiveActivity]]
FetchStock = Callable[[Mapping[StockKey, int]], None]  # brings units from other shards; raises Trouble


def nothing_elsewhere(wanted: Mapping[StockKey, int]) -> None:
    """With one shard there is nowhere to fetch units from, and nobody asks."""
    raise Trouble(f"No other shard has units to give ({len(wanted)} items asked for); nothing was spent.")


class DrawStore(Protocol):
    """What draws need of the store."""

    def drawing(self) -> AbstractContextManager[DrawTx]:
        """One write transaction: committed when the block ends, rolled back when it raises.

        Raises ``Contention`` (nothing was written, another try may succeed), ``StorageFull`` (nothing was written)
        or ``OutcomeUnknown`` (the connection was lost around the commit).
        """
        ...

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        """Those of ``draws`` that exist, by order id; never while a commit is under way."""
        ...


class BehaviorStore(Protocol):
    """What behaviors need of the store."""

    def behaving(self) -> AbstractContextManager[BehaviorTx]:
        """One write transaction; raises as ``DrawStore.drawing``."""
        ...

    def find_behaved(self, answers: Sequence[Behaved]) -> set[str]:
        """The order ids of those of ``answers`` that exist; never while a commit is under way."""
        ...


class ExchangeStore(Protocol):
    """What exchanges need of the store."""

    def exchanging(self) -> AbstractContextManager[ExchangeTx]:
        """One write transaction; raises as ``DrawStore.drawing``."""
        ...

    def find_payments(self, purchases: Sequence[Exchanged]) -> Mapping[str, str]:
        """The out_business_no of each payment that is written, by order id; never while a commit is under way."""
        ...


class LookStore(Protocol):
    """What looks at accounts need of the store."""

    def looking(self) -> AbstractContextManager[AccountsTx]:
        """One read transaction. Raises ``Trouble``, whatever kind."""
        ...


class ShelfStores(Protocol):
    """What looks at shelves need of an installation."""

    def looking_at_shelves(self) -> AbstractContextManager[ShelvesTx]:
        """One read transaction. Raises ``Trouble``, whatever kind."""
        ...


class DrawDesk:
    """Draws (draw.py). It is asked for a user id, an activity id and a request id or None."""

    noun = "draw"
    writes = True

    def __init__(self, store: DrawStore, *, live: Live, fetch_stock: FetchStock = nothing_elsewhere) -> None:
        self._store = store
        self._live = live
        self.fetch_stock = fetch_stock
        self.open = store.drawing

    def request(self, order_id: str, user_id: str, activity_id: int, request_id: str | None) -> DrawRequest:
        """The request, with the order id that it was given."""
        return DrawRequest(order_id, user_id, activity_id, request_id)

    def serve(self, tx: DrawTx, requests: Sequence[DrawRequest], *, now_ms: int) -> BatchResult[Drawn]:
        """Draw for every request."""
        return draw_batch(tx, requests, live=self._live(), now_ms=now_ms)

    def were_made(self, answers: Sequence[Drawn]) -> bool:
        """Whether these draws exist: all or none of a batch does."""
        found = self._store.find_draws(answers)
        return all(drawn.order_id in found for drawn in answers)


class BehaviorDesk:
    """Behaviors (activity/behavior.py).

    It is asked for a user id, a behavior, an activity id or None for all that are open and reward it, and an
    ``out_business_no`` or None for the day; what comes from outside has to be cleaned first (``clean_behavior``).
    """

    noun = "behavior"
    writes = True

    def __init__(self, store: BehaviorStore, *, live: Live, ids: Ids) -> None:
        self._store = store
        self._live = live
        self._ids = ids
        self.fetch_stock = nothing_elsewhere
        self.open = store.behaving

    def request(
        self, order_id: str, user_id: str, behavior: str, activity_id: int | None, out_business_no: str | None
    ) -> BehaviorRequest:
        """The request, with the order id that it was given."""
        return BehaviorRequest(order_id, user_id, behavior, activity_id, out_business_no)

    def serve(self, tx: BehaviorTx, requests: Sequence[BehaviorRequest], *, now_ms: int) -> BatchResult[Behaved]:
        """Take every request's behavior."""
        new_id = partial(self._ids.make, now_ms)
        return behave_batch(tx, requests, live=self._live(), now_ms=now_ms, new_id=new_id)

    def were_made(self, answers: Sequence[Behaved]) -> bool:
        """Whether these behaviors were taken: all or none of a batch were."""
        found = self._store.find_behaved(answers)
        return all(answer.order_id in found for answer in answers)


class ExchangeDesk:
    """Exchanges (activity/exchange.py). It is asked for a user id, a sku and a request id or None."""

    noun = "exchange"
    writes = True

    def __init__(self, store: ExchangeStore, *, live: Live, fetch_stock: FetchStock = nothing_elsewhere) -> None:
        self._store = store
        self._live = live
        self._seen: Mapping[int, LiveActivity] = {}
        self._bundles: Mapping[int, Bundle] = {}
        self.fetch_stock = fetch_stock
        self.open = store.exchanging

    def request(self, order_id: str, user_id: str, sku: int, request_id: str | None) -> ExchangeRequest:
        """The request, with the order id that it was given."""
        return ExchangeRequest(order_id, user_id, sku, request_id)

    def serve(self, tx: ExchangeTx, requests: Sequence[ExchangeRequest], *, now_ms: int) -> BatchResult[Exchanged]:
        """Exchange for every request."""
        live = self._live()
        if live is not self._seen:
            self._bundles, self._seen = bundles_of(live), live
        return exchange_batch(tx, requests, live=live, bundles=self._bundles, now_ms=now_ms)

    def were_made(self, answers: Sequence[Exchanged]) -> bool:
        """Whether these were paid: all or none of a batch were."""
        found = self._store.find_payments(answers)
        return all(found.get(made.order_id) == made.out_business_no for made in answers)


class AccountDesk:
    """Looks at accounts (activity/looking.py).

    It is asked for a user id, an activity id and whether the activity has to be armed.
    """

    noun = "account look"
    writes = False

    def __init__(self, store: LookStore, *, live: Live) -> None:
        self._live = live
        self.fetch_stock = nothing_elsewhere
        self.open = store.looking

    def request(self, order_id: str, user_id: str, activity_id: int, of_armed: bool) -> AccountLook:
        """The look, with the order id that it was given."""
        return AccountLook(order_id, user_id, activity_id, of_armed)

    def serve(self, tx: AccountsTx, requests: Sequence[AccountLook], *, now_ms: int) -> BatchResult[AccountSeen]:
        """Look at every account."""
        return look_at_accounts(tx, requests, live=self._live(), now_ms=now_ms)

    def were_made(self, answers: Sequence[AccountSeen]) -> bool:  # noqa: ARG002
        """What was seen was seen, however the transaction ended."""
        return True


class ShelfDesk:
    """Looks at shelves (activity/looking.py), which are nobody's: asked for an empty user id and an activity id."""

    noun = "shelf look"
    writes = False

    def __init__(self, stores: ShelfStores, *, live: Live) -> None:
        self._live = live
        self.fetch_stock = nothing_elsewhere
        self.open = stores.looking_at_shelves

    def request(self, order_id: str, nobody: str, activity_id: int) -> ShelfLook:
        """The look, with the order id that it was given."""
        return ShelfLook(order_id, nobody, activity_id)

    def serve(self, tx: ShelvesTx, requests: Sequence[ShelfLook], *, now_ms: int) -> BatchResult[Shelf]:  # noqa: ARG002
        """Look at every shelf."""
        return look_at_shelves(tx, requests, live=self._live())

    def were_made(self, answers: Sequence[Shelf]) -> bool:  # noqa: ARG002
        """What was seen was seen, however the transaction ended."""
        return True
