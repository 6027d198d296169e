"""What consumers write: each message has its effects once, together with the key that says they happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from bigmarket.activity.model import LiveActivity
from bigmarket.activity.quota import Bundle, Counts, Period, period_of
from bigmarket.activity.stock import SKUS, StockKey, StockShort
from bigmarket.award.deliveries import AwardDelivery
from bigmarket.award.kinds.base import Outside, SkuUnit
from bigmarket.award.message import SendAward, encode
from bigmarket.award.records import RecordKey, SeedOf, effect_of
from bigmarket.credit.model import CreditTrade
from bigmarket.errors import NotArmed, NotFound, SkuSoldOut

RebateKey = tuple[str, str]  # user_id, order_id


class DrawGrant(NamedTuple):
    """One unit of a sku for a user: a quota order to be, and the draws that it credits in ``period``."""

    order_id: str
    user_id: str
    bundle: Bundle
    period: Period
    out_business_no: str
    pay_cents: int = 0

    @property
    def counts(self) -> Counts:
        """Draws that it credits."""
        return self.bundle.counts


class WaitingOrder(NamedTuple):
    """A quota order in state ``wait_pay``, which holds a unit; ``paid`` when its payment came by itself."""

    order_id: str
    user_id: str
    activity_id: int
    sku: int
    counts: Counts
    pay_cents: int
    out_business_no: str
    paid: bool

    @property
    def bundle(self) -> Bundle:
        """What it credits, at the price of the day it was placed."""
        return Bundle(self.sku, self.activity_id, self.counts, self.pay_cents)


class SettledRebate(NamedTuple):
    """What becomes of a rebate order: ``completed``, or with a reason ``fail``."""

    user_id: str
    order_id: str
    reason: str | None

    @property
    def state(self) -> str:
        """The order's state from now on."""
        return "completed" if self.reason is None else "fail"


class DeliveryTx(Protocol):
    """One write transaction of a user shard, as consumers need it."""

    def complete_records(self, records: Sequence[RecordKey]) -> set[str]:
        """Turn ``create`` records into ``completed`` ones; the order ids of those that were ``create``.

        Only these may have effects, which is what makes a repeated message harmless. Raises NotFound for an order
        without a record.
        """
        ...

    def add_deliveries(self, deliveries: Sequence[AwardDelivery], *, now_ms: int) -> None:
        """Write deliveries down, due at once, for records that are ``create``; one that is there already stays.

        Raises NotFound for an order without a record.
        """
        ...

    def add_credits(self, trades: Sequence[CreditTrade], *, now_ms: int) -> None:
        """Write the orders and move the accounts, opening those that are missing.

        Raises CreditAccountClosed when an account is not open.
        """
        ...

    def units_left(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """Units left here of each sku, of which so many may be taken; a sku that was never armed is left out."""
        ...

    def add_draws(self, grants: Sequence[DrawGrant], *, now_ms: int) -> None:
        """Write completed quota orders, credit the accounts, opening those that are missing, and take the units.

        Whoever takes the last one that ``units_left`` told of leaves a task that says so (message.py).
        Raises Contention when units that ``units_left`` told of are gone.
        """
        ...

    def waiting_orders(self, users: Collection[str]) -> list[WaitingOrder]:
        """Orders of these users that wait for their payment; they stay as they are until the transaction ends."""
        ...

    def complete_orders(self, grants: Sequence[DrawGrant]) -> None:
        """Turn waiting orders into completed ones and credit their draws; their units were taken before.

        Raises Contention when one waits no more.
        """
        ...

    def waiting_rebates(self, rebates: Sequence[RebateKey]) -> set[str]:
        """Order ids of those in state ``create``; they stay as they are until the transaction ends.

        Raises NotFound for an order that there is not.
        """
        ...

    def settle_rebates(self, settled: Sequence[SettledRebate]) -> None:
        """Let orders wait no more. Raises Contention when one did not."""
        ...

    def closed_accounts(self, users: Collection[str]) -> set[str]:
        """Users whose credit account is not open; the accounts stay as they are until the transaction ends."""
        ...

    def finish_tasks(self, message_ids: Sequence[str]) -> None:
        """Delete the tasks, whatever state they are in."""
        ...


class Facts(NamedTuple):
    """What consumers know beside a message: seeds of the dice, and the activities as they run.

    ``sold_out`` judges an item of which none is left in the shard, by the units that are being taken of it there:
    whether no other shard has any. If it may have, raise ``StockShort``. ``note_sold_out`` counts for the metrics.
    """

    seed_of: SeedOf
    live: Callable[[], Mapping[int, LiveActivity]]
    sold_out: Callable[[StockKey, int], bool] = lambda _key, _taken: True  # with one shard there is no other
    note_sold_out: Callable[[], None] = lambda: None

    def bundle_of(self, activity_id: int, sku: int) -> Bundle:
        """What a sku of an armed activity credits. Raises NotFound."""
        activity = self.live().get(activity_id)
        bundle = activity.revision.bundles.get(sku) if activity and activity.revision else None
        if bundle is None:
            raise NotFound(f"Activity {activity_id} has no sku {sku} in its live revision.")
        return bundle

    def period_of(self, activity_id: int, now_ms: int) -> Period:
        """The activity's month and day. Raises NotFound."""
        activity = self.live().get(activity_id)
        if activity is None:
            raise NotFound(f"There is no activity {activity_id}.")
        return period_of(now_ms, zone=activity.zone)


def deliver_awards(tx: DeliveryTx, messages: Sequence[SendAward], *, now_ms: int, facts: Facts) -> None:
    """Complete the records of ``messages`` and give the winners what they won; repeats change nothing.

    What takes more than this transaction is written down; its records are completed when it is delivered.

    Raises NotFound (no such record, kind, seed or sku), BadInput (a config that the kind cannot read), NotArmed or
    SkuSoldOut (a prize that is owed cannot be given), StockShort (units are missing here that other shards may have)
    or CreditAccountClosed; then the caller rolls back.
    """
    owed = {message.order_id: message for message in messages}
    effects = {order_id: effect_of(message, facts.seed_of) for order_id, message in owed.items()}
    outside = [_outside(owed[o], effect.place) for o, effect in effects.items() if isinstance(effect, Outside)]
    at_once = [order_id for order_id, effect in effects.items() if not isinstance(effect, Outside)]
    completed = tx.complete_records(sorted((owed[order_id].user_id, order_id) for order_id in at_once))
    trades = [effect for o, effect in effects.items() if o in completed and isinstance(effect, CreditTrade)]
    if trades:
        tx.add_credits(trades, now_ms=now_ms)
    if outside:
        tx.add_deliveries(outside, now_ms=now_ms)
    units = {o: effect.sku for o, effect in effects.items() if o in completed and isinstance(effect, SkuUnit)}
    if units:
        _refuse_missing_units(tx, units, facts)
        tx.add_draws([_grant(owed[o], sku, facts, now_ms) for o, sku in units.items()], now_ms=now_ms)


def _refuse_missing_units(tx: DeliveryTx, units: Mapping[str, int], facts: Facts) -> None:
    """``units`` are skus by the order ids that won them."""
    wanted = Counter(units.values())
    left = tx.units_left(wanted)
    short = [sku for sku in sorted(wanted) if left.get(sku, 0) < wanted[sku]]
    for sku in short:
        if sku not in left:
            raise NotArmed(f"Sku {sku} has no stock yet; arm its activity.")
        if facts.sold_out((SKUS, sku), left[sku]):
            raise SkuSoldOut(f"Sku {sku} is sold out, but a unit of it was won; raise its stock, then redrive this.")
    if short:
        missed = {sku: [o for o, won in units.items() if won == sku][left[sku] :] for sku in short}
        raise StockShort({(SKUS, sku): asked for sku, asked in missed.items()})


def _grant(won: SendAward, sku: int, facts: Facts, now_ms: int) -> DrawGrant:
    bundle, period = facts.bundle_of(won.activity_id, sku), facts.period_of(won.activity_id, now_ms)
    return DrawGrant(won.order_id, won.user_id, bundle, period, won.order_id)


def _outside(won: SendAward, place: str) -> AwardDelivery:
    return AwardDelivery(won.order_id, won.user_id, won.activity_id, won.award_id, won.award_key, place, encode(won))


def complete_paid_orders(tx: DeliveryTx, users: Collection[str], *, now_ms: int, facts: Facts) -> int:
    """Complete every order of these users whose payment came while it waited; how many. Raises NotFound."""
    paid = [order for order in tx.waiting_orders(users) if order.paid]
    tx.complete_orders(
        [
            DrawGrant(
                order.order_id,
                order.user_id,
                order.bundle,
                facts.period_of(order.activity_id, now_ms),
                order.out_business_no,
                order.pay_cents,
            )
            for order in paid
        ]
    )
    return len(paid)
