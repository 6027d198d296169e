"""Exchange credits for draws: the order, its payment and its delivery are one transaction.

A lane gives ``exchange_batch`` all the requests that queued up. ``decide`` goes through them in order over one
snapshot and sees no database and no clock; ``tx.apply`` writes all that follows, guards in the statements. So a crash
leaves nothing or everything, and nothing is ever delivered that was not paid.

An order may also be placed first and paid later (orders.py); the next exchange of that user and sku pays it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple, Protocol

from bigmarket.activity.admission import open_activity
from bigmarket.activity.delivery import DrawGrant, WaitingOrder
from bigmarket.activity.model import LiveActivity
from bigmarket.activity.orders import for_sale
from bigmarket.activity.quota import Bundle, Counts, period_of
from bigmarket.activity.stock import SKUS, StockKey
from bigmarket.credit.model import (
    EXCHANGE,
    CreditAccount,
    CreditAccountClosed,
    CreditShort,
    CreditTrade,
    in_credits,
)
from bigmarket.errors import BigmarketError, Duplicate, NotArmed, SkuSoldOut
from bigmarket.outbox.task import BatchResult
from bigmarket.text import KEY_MAX


class ExchangeRequest(NamedTuple):
    """Somebody wants a unit of a sku. ``order_id`` is made first, so that its fate can be looked up."""

    order_id: str
    user_id: str
    sku: int
    request_id: str | None

    @property
    def out_business_no(self) -> str:
        """The number of the payment: the same for the same request id of a user, a fresh one without."""
        if self.request_id is None:
            return f"{EXCHANGE}{self.order_id}"
        number = f"{EXCHANGE}{len(self.user_id)}_{self.user_id}_{self.request_id}"
        return number if len(number) <= KEY_MAX else f"{EXCHANGE}{sha256(number.encode()).hexdigest()}"


class Exchanged(NamedTuple):
    """What was bought: the answer to a request, for ever; ``repeated`` when it was given before.

    The payment and the quota order have the same ``order_id``; ``out_business_no`` is the payment's.
    """

    order_id: str
    user_id: str
    activity_id: int
    sku: int
    counts: Counts
    pay_cents: int
    out_business_no: str
    repeated: bool = False


@dataclass(slots=True)
class ExchangeSnapshot:
    """What the batch's users have, as loaded; ``decide`` works on it in place.

    ``earlier`` is by out_business_no: what a request bought before, None where a number was used for something else.
    """

    accounts: dict[str, CreditAccount]
    waiting: dict[tuple[str, int], WaitingOrder]  # by (user_id, sku)
    earlier: dict[str, Exchanged | None]


@dataclass(slots=True)
class Purchases:
    """All that a batch changes: units ``bought``, waiting orders that were ``paid``, and their payments."""

    now_ms: int
    bought: list[DrawGrant] = field(default_factory=list)
    paid: list[DrawGrant] = field(default_factory=list)
    payments: list[CreditTrade] = field(default_factory=list)
    taken: Counter[int] = field(default_factory=Counter)  # units by sku
    missed: dict[StockKey, list[str]] = field(default_factory=dict)  # who wanted a unit and got none, by order id


class ExchangeTx(Protocol):
    """One write transaction of a user shard, as an exchange needs it."""

    def load(self, requests: Sequence[ExchangeRequest]) -> ExchangeSnapshot:
        """What the users of ``requests`` have; their credit accounts are locked until the transaction ends."""
        ...

    def units_left(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """Units left here of each sku, of which so many may be taken; a sku that was never armed is left out."""
        ...

    def apply(self, purchases: Purchases) -> None:
        """Write it all, with a task for each sku whose last unit was taken (message.py).

        Raises ``GuardMissed`` or ``Contention`` when a guard in a statement refuses.
        Raises ``StockShort`` when units were missed here that may be left in other shards.
        """
        ...


def exchange_batch(
    tx: ExchangeTx,
    requests: Sequence[ExchangeRequest],
    *,
    live: Mapping[int, LiveActivity],
    bundles: Mapping[int, Bundle],
    now_ms: int,
) -> BatchResult[Exchanged]:
    """Exchange for every request inside ``tx``; the caller commits before it lets an answer out."""
    snapshot = tx.load(requests)
    units = tx.units_left(Counter(request.sku for request in requests))
    answers, purchases = decide(requests, snapshot, units, live=live, bundles=bundles, now_ms=now_ms)
    if purchases.payments or purchases.missed:
        tx.apply(purchases)
    return BatchResult(answers, [])


def decide(
    requests: Sequence[ExchangeRequest],
    snapshot: ExchangeSnapshot,
    units: Mapping[int, int],
    *,
    live: Mapping[int, LiveActivity],
    bundles: Mapping[int, Bundle],
    now_ms: int,
) -> tuple[list[Exchanged | BigmarketError], Purchases]:
    """An answer to each request, in order, and all that follows from them.

    Refusals, in this order: Duplicate (the request id was used for another sku), NotFound, BadInput (not for sale),
    CreditShort, CreditAccountClosed, what keeps an activity from being entered, NotArmed, SkuSoldOut.
    """
    purchases = Purchases(now_ms)
    answers: list[Exchanged | BigmarketError] = []
    for request in requests:
        try:
            answers.append(
                _repeat(request, snapshot)
                or _buy(request, snapshot, purchases, units=units, live=live, bundles=bundles)
            )
        except BigmarketError as error:
            answers.append(error.with_traceback(None))  # a traceback would keep the whole batch alive
    return answers, purchases


def bundles_of(live: Mapping[int, LiveActivity]) -> dict[int, Bundle]:
    """Every sku of every armed activity."""
    revisions = (activity.revision for activity in live.values())
    return {sku: bundle for revision in revisions if revision for sku, bundle in revision.bundles.items()}


def _repeat(request: ExchangeRequest, snapshot: ExchangeSnapshot) -> Exchanged | None:
    """What the same request id came to before, in the store or in this batch."""
    if request.request_id is None or (number := request.out_business_no) not in snapshot.earlier:
        return None
    earlier = snapshot.earlier[number]
    if earlier is None or (earlier.user_id, earlier.sku) != (request.user_id, request.sku):
        raise Duplicate("This request id was used for something else; use a new one for each exchange.")
    return earlier._replace(repeated=True)


def _buy(
    request: ExchangeRequest,
    snapshot: ExchangeSnapshot,
    purchases: Purchases,
    *,
    units: Mapping[int, int],
    live: Mapping[int, LiveActivity],
    bundles: Mapping[int, Bundle],
) -> Exchanged:
    """Pay the user's waiting order of that sku, else buy a fresh unit."""
    key = (request.user_id, request.sku)
    waiting = snapshot.waiting.get(key)
    if waiting is not None and waiting.paid:
        waiting = None
    bundle = waiting.bundle if waiting else for_sale(request.sku, bundles.get(request.sku))
    account = _charged(snapshot.accounts.get(request.user_id), bundle.price_cents)
    activity, _ = open_activity(bundle.activity_id, live=live, now_ms=purchases.now_ms)
    if waiting is None:
        _take_unit(request, units, bundle.activity_id, purchases)
    grant = DrawGrant(
        waiting.order_id if waiting else request.order_id,
        request.user_id,
        bundle,
        period_of(purchases.now_ms, zone=activity.zone),
        waiting.out_business_no if waiting else request.out_business_no,
        bundle.price_cents,
    )
    number = request.out_business_no
    trade = CreditTrade(grant.order_id, request.user_id, "exchange", -bundle.price_cents, number)
    (purchases.paid if waiting else purchases.bought).append(grant)
    purchases.payments.append(trade)
    snapshot.accounts[request.user_id] = account
    if waiting:
        del snapshot.waiting[key]
    made = Exchanged(
        grant.order_id,
        request.user_id,
        bundle.activity_id,
        request.sku,
        bundle.counts,
        bundle.price_cents,
        number,
    )
    snapshot.earlier[number] = made
    return made


def _charged(account: CreditAccount | None, price_cents: int) -> CreditAccount:
    """The account after the payment."""
    available = account.available_cents if account else 0
    if account is None or available < price_cents:
        raise CreditShort(f"This costs {in_credits(price_cents)} credits; {in_credits(available)} are left.")
    if account.account_status != "open":
        raise CreditAccountClosed("The user's credit account is not open; nothing was spent.")
    return account._replace(available_cents=available - price_cents)


def _take_unit(request: ExchangeRequest, units: Mapping[int, int], activity_id: int, purchases: Purchases) -> None:
    sku = request.sku
    if sku not in units:
        raise NotArmed(f"Sku {sku} has no stock yet; run: bigmarket armory {activity_id}")
    if purchases.taken[sku] >= units[sku]:
        purchases.missed.setdefault((SKUS, sku), []).append(request.order_id)
        raise SkuSoldOut(f"Sku {sku} is sold out.")
    purchases.taken[sku] += 1
